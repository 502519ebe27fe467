//! `commit`: what a container has written becomes a layer, and with it a new image.
//!
//! The layer is what overlayfs keeps in the container's upper directory, nothing else: the image below is not read. It
//! is packed, hashed, compressed and unpacked again in one pass, so what lies in the store is what a pull of the image
//! would bring. The image is listed last, when all of it is there.

mod below;
mod change;
mod container;
mod derive;
mod layer;
mod left_behind;
mod walk;

use std::time::SystemTime;

use clap::Args;
use mocker_common::clock::rfc3339;
use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use mocker_common::publish;
use mocker_common::reference::Reference;
use mocker_common::store::{STORED_AT, Store};
use mocker_common::unpack::fixup;

use crate::TOOL;
use change::Change;
use container::Container;
use derive::Base;

#[derive(Args, Debug)]
pub struct CommitArgs {
    /// The container: one that runs, or one of mocker-images mount
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// The new image's name
    #[arg(value_name = "REF")]
    reference: Reference,
    /// What was changed, for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it: Ada Lovelace <ada@example.org>
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// Change how the image runs, by a Dockerfile's instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME, WORKDIR; may be given several times
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<Change>,
}

pub const HELP: &str = "\
Prints the new image's name with the digest of its manifest. How it runs is the base image's,
changed by --change; what the container was started with (a command, -e, -u) is not taken over.
A container that has written nothing makes an image without a new layer.

Examples:
  mocker-images commit lab debian:curl -m 'curl added' -c 'CMD [\"curl\", \"--version\"]'
  mocker-images commit lab web -c 'ENV PORT=8080 HOME=/srv' -c 'EXPOSE 8080' -c 'USER www-data'
  mocker-cgroup freeze lab; mocker-images commit lab snapshot; mocker-cgroup thaw lab";

/// Makes an image of a container. Prints its reference with its digest.
pub fn commit(store: &Store, args: &CommitArgs) -> Result<(), Error> {
    let new = &args.reference;
    if new.digest.is_some() {
        return Err(Error::new(format!(
            "cannot call an image {new}: a digest is not given, it follows from the content"
        ))
        .hint("give a name and a tag, such as nginx:mine"));
    }
    let container = Container::find(store, &args.id)?;
    let _lock = store.hold_contents()?; // until the index names it, nothing else keeps the new layer
    let base = Base::read(store, &container)?;
    container.warn_if_it_runs();

    let place = store.temporary()?;
    let layer = layer::pack(&container, place.path())?;
    let about = derive::About {
        created: rfc3339(SystemTime::now()),
        created_by: container.command(),
        author: args.author.clone(),
        comment: args.message.clone(),
    };
    let image = base.derive(layer.as_ref(), &args.change, &about)?;
    image.stage(place.path())?;

    publish::to_disk(place.path())?;
    if let Some(layer) = &layer {
        layer.publish(store, place.path())?;
    }
    image.publish(store, place.path())?;
    fixup::build(store, &image.layers)?;
    for directory in ["image/blobs/sha256", "layers/sha256", "fixups/sha256"] {
        publish::to_disk_by_name(&store.root().join(directory))?;
    }
    let mut descriptor = image.descriptor();
    descriptor["annotations"][STORED_AT] = about.created.into();
    store.list_image(new, descriptor)?;

    match &layer {
        Some(layer) => eprintln!("{TOOL}: {new} is {} and a layer of {}", container.image(), layer.summary()),
        None => eprintln!(
            "{TOOL}: {new} is {}: the container has written nothing, so no layer was added",
            container.image()
        ),
    }
    println!("{new}@{}", image.manifest.0);
    Ok(())
}
