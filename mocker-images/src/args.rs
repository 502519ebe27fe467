//! The command line. Help comes from here alone.

use clap::{Parser, Subcommand};
use mocker_common::document::ContainerId;
use mocker_common::error::{Error, USAGE};
use mocker_common::reference::Reference;
use mocker_common::stage::{ExplainArgs, StageArgs};

use crate::diff::{self, DiffArgs};
use crate::disk::{self, DfArgs};
use crate::history::{self, HistoryArgs};
use crate::inspect::{self, InspectArgs};
use crate::list::ListFlags;
use crate::tree::{self, TreeArgs};

/// Lists the stored images; with a command, does one thing with them
#[derive(Parser, Debug)]
#[command(name = "mocker-images", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub list: ListFlags,
    #[command(flatten)]
    pub explain: ExplainArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  mocker-images                                                  what is there
  { mocker-images get nginx || mocker-pull nginx; } | mocker-exec   run it, pulling it if need be
  mocker-images get debian | mocker-images mount > bundle/config.json && runc run -b bundle lab
  mocker-images --json | jq -r '.[] | select(.size_bytes > 1e9) | .reference'

Exit status: 0 done, 1 failed or not there, 2 a command line that makes no sense.
Images are kept in $MOCKER_ROOT, else /var/lib/mocker for root, else $XDG_DATA_HOME/mocker.";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// List the images: name, version, size, digest, age
    ///
    /// The size is docker's: that of all files in the image's layers, also of those that a higher layer hides. A layer that
    /// several images share is counted for each of them but stored once: `df` tells what the disk holds. The digest is that
    /// of the image's manifest, its first twelve digits; `get` takes all of them after an @. The age is counted from when the
    /// image was built. On a narrow terminal long names are cut, then digest and age left out.
    #[command(visible_alias = "ls", after_help = FIELDS)]
    List {
        /// Only images of this name, or whose name fits this pattern: nginx, nginx:1.*, quay.io/*/*
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Print the document that runs an image, an OCI runtime configuration; exit 1 if the image is not there
    Get {
        #[arg(value_name = "REF")]
        reference: Reference,
    },
    /// Print what an image is made of, as JSON: its manifest, its config, its layers
    #[command(after_help = inspect::HELP)]
    Inspect(InspectArgs),
    /// Print what made an image, newest step first: layer, age, command, size, comment
    #[command(after_help = history::HELP)]
    History(HistoryArgs),
    /// Draw which layers images share, with the sizes of their files
    #[command(after_help = tree::HELP)]
    Tree(TreeArgs),
    /// Print what the store occupies on the disk, shared layers once, and what prune would free
    ///
    /// Sizes are blocks on the disk, as du counts them. Layers are unpacked images, archives the same as they were sent,
    /// fix-ups thin layers on top of some images. Layers that only a container left behind holds are freed by prune too,
    /// but not foretold.
    #[command(after_help = disk::HELP)]
    Df(DfArgs),
    /// Print which files differ between two images: A added in B, C changed, D deleted
    ///
    /// Compared are kind, mode, owner, size, content, link target, device number and extended attributes of every path, as a
    /// container would see it. Times and hard links are not compared. Of what an added or deleted directory holds, each
    /// path is named. A path with control characters or bytes that are not UTF-8 is printed as a shell reads it: $'/caf\xe9'.
    #[command(after_help = diff::FIELDS)]
    Diff(DiffArgs),
    /// Give an image another name as well
    Tag {
        #[arg(value_name = "REF")]
        source: Reference,
        #[arg(value_name = "NEW")]
        new: Reference,
    },
    /// Write images to an archive or an image layout, for docker, podman, skopeo, umoci or another machine's mocker-pull
    #[command(after_help = crate::save::HELP)]
    Save(crate::save::SaveArgs),
    /// Make an image of a container: what it has written becomes a layer on top of its image's own
    #[command(after_help = crate::commit::HELP)]
    Commit(crate::commit::CommitArgs),
    /// Remove images, and what of them no other image and no container needs
    Rm {
        #[arg(value_name = "REF", required = true)]
        references: Vec<Reference>,
    },
    /// Remove what is left over: half-made things whose maker is gone, blobs and layers that nothing needs, lost mounts
    Prune,
    /// Check images against their digests, and each unpacked layer against its archive; exit 1 if anything is damaged
    ///
    /// Every blob is hashed again. Each layer's archive is read again and compared with its directory: names, kinds, modes,
    /// owners, times, link targets, contents, which names are one file, extended attributes; nothing else may be there. The
    /// notes beside it and the fix-up above it are made once more and compared, and the index is held against its images.
    #[command(after_help = FINDINGS)]
    Verify {
        /// [default: all, and what lies there without being needed]
        #[arg(value_name = "REF")]
        references: Vec<Reference>,
        #[command(flatten)]
        options: crate::verify::Options,
    },
    /// Mount the image of the document on standard input, so that any OCI runtime can run it
    ///
    /// A stage: reads a document, mounts its layers with a writable directory on top at containers/ID/rootfs of the store,
    /// and writes the document with root.path set to that place. `mocker-images delete ID` is added to its poststop hooks.
    #[command(after_help = MOUNT)]
    Mount {
        #[command(flatten)]
        stage: StageArgs,
    },
    /// Unmount what `mount` has mounted and remove what was written there; succeeds if there is nothing
    #[command(visible_alias = "unmount")]
    Delete {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<ContainerId>,
    },
}

const FIELDS: &str = "\
Fields of --json (an array; schema: list.schema.json beside this tool's source):
  reference         docker.io/library/nginx:latest
  name              as a person types it: nginx
  tag               latest; null where the image was stored by digest alone
  digest            of the manifest
  config_digest     of the config; null if the image is damaged
  created           when it was built, RFC 3339; null where the image does not say
  stored_at         when it was stored here, RFC 3339, UTC; null where unknown
  size_bytes        of the files in all layers, holes included
  compressed_bytes  of the layers as they are sent
  layers            diff_ids, bottom first
  damaged           null, or what is wrong: then sizes are 0 and layers is empty
A template has these too, and docker's: ID (of the config), Repository, Tag, Digest, CreatedAt, CreatedSince, Size.";

const FINDINGS: &str = "\
Examples:
  mocker-images verify                                  check everything that is stored
  mocker-images verify --json | mocker-pull --repair    and fetch or unpack again what is damaged, nothing else

Findings of --json (an array, empty if all is sound; schema: verify.schema.json beside this tool's source):
  what      layout, index, manifest, config, blob (a layer as sent), layer (unpacked), notes, fixup, stray
  digest    of the blob; the diff_id of a layer and its notes; the chain id of a fixup; null for layout and index
  path      where it is, or should be
  images    the references of the images that need it
  damage    what is wrong, a text for each place; of many the first few
  repair    what that takes: fetch (from the registry), unpack (from the blob), rebuild (from the layers), relist (from
            the copy of the index and the manifests), write, prune (mocker-images prune)

Exit status: 0 all is sound, 1 something is damaged.";

const MOUNT: &str = "\
Example:
  mkdir bundle
  mocker-images get debian | mocker-images mount --id lab > bundle/config.json
  runc run --bundle bundle lab
  mocker-images delete lab";

impl Args {
    /// Refuses what only a list can do in front of a command that makes none.
    pub fn check(&self) -> Result<(), Error> {
        match &self.command {
            None | Some(Command::List { .. }) => Ok(()),
            Some(_) if self.list == ListFlags::default() => Ok(()),
            Some(_) => Err(Error::new("cannot tell what the flags in front of the command mean for it")
                .hint("mocker-images COMMAND --flag")
                .status(USAGE)),
        }
    }
}

impl Default for Command {
    fn default() -> Self {
        Command::List { name: None, flags: ListFlags::default() }
    }
}
