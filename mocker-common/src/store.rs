//! The store: a valid OCI image layout, and each layer unpacked once.
//!
//! ```text
//! image/            oci-layout, index.json, blobs/sha256/…          skopeo and umoci read it
//! layers/sha256/H/  a layer's files, named by its diff_id, whiteouts in overlayfs form, shared by images
//! layers/sha256/H.json  what its tar left open: directories it did not name, links into lower layers
//! fixups/sha256/H/  by chain id, only where needed: a thin top layer that settles what H.json left open
//! containers/ID/    upper/, work/, rootfs/
//! partial/H         the part of a blob that was received before a pull broke off; the next one goes on from there
//! tmp/              what is being made; complete things are renamed out of it, what is freed is renamed into it
//! locks/            one a digest, `index`, `contents`; never removed
//! index.copy        a second index.json: the images' names stand nowhere else
//! pushed.json       where images were pushed, for mocker-push: a registry may lend a blob to another repository
//! version           the number of this layout
//! ```
//!
//! A blob, a layer, the index appear complete, by rename, or not at all. Source: image-spec, image-layout.md.
//!
//! Who removes and who adds: only what nothing needs is removed, under the lock `contents`, and that is needed which an
//! image lists, a container stands on, or a living [`Claim`] names. So a pull of an hour keeps what it relies on without
//! holding any lock, and nobody waits for it.

mod claim;
mod index;
mod temporary;
mod version;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::digest::{DiffId, Digest};
use crate::document::ContainerId;
use crate::error::{Error, failed};
use crate::lock::Lock;
use crate::state::{Directories, ensure_dir, ensure_private_dir, write_atomically};

pub use self::claim::Claim;
pub use self::temporary::Temporary;

/// The annotation that names an image in index.json (image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that keeps the digest of the multi-platform index an image was picked from.
pub const INDEX_DIGEST: &str = "dev.mocker.index.digest";
/// The annotation that keeps when an image was stored, RFC 3339.
pub const STORED_AT: &str = "dev.mocker.stored";

/// What the file oci-layout holds (image-spec, image-layout.md, oci-layout file).
pub const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Paths and locks of a store. Opening makes nothing: a reader of an empty store leaves no trace.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image as index.json lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `docker.io/library/nginx:latest`
    pub reference: String,
    /// of the manifest of this platform
    pub manifest: Digest,
    /// the whole descriptor
    pub descriptor: Value,
}

impl Store {
    /// The user's store. Fails if a newer mocker has made it.
    pub fn open() -> Result<Self, Error> {
        let store = Store::at(&Directories::from_env().root);
        version::check(store.root())?;
        Ok(store)
    }

    /// The store in this directory, whatever its version.
    pub fn at(root: &Path) -> Self {
        Store { root: root.to_path_buf() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("image/blobs/sha256").join(digest.hex())
    }

    /// What has come in so far of a blob that is being fetched, or was when a pull broke off. Whoever holds the digest's
    /// lock may go on with it.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    pub fn layer(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("layers/sha256").join(diff_id.0.hex())
    }

    /// What the layer's tar left open, beside its directory.
    pub fn layer_notes(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("layers/sha256").join(format!("{}.json", diff_id.0.hex()))
    }

    pub fn fixup(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("fixups/sha256").join(chain_id.hex())
    }

    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("image/index.json")
    }

    pub fn layout(&self) -> PathBuf {
        self.root.join("image/oci-layout")
    }

    /// Makes the directories, for a tool that writes. Layers hold setuid programs of foreign systems: their parent is
    /// closed to other users.
    pub fn ensure(&self) -> Result<(), Error> {
        version::check(&self.root)?;
        ensure_dir(&self.root)?;
        ensure_dir(&self.root.join("image/blobs/sha256"))?;
        for private in ["layers/sha256", "fixups/sha256", "containers", "partial", "tmp", "locks"] {
            ensure_private_dir(&self.root.join(private))?;
        }
        version::mark(&self.root)?;
        if !self.layout().exists() {
            write_atomically(&self.layout(), 0o644, LAYOUT)?;
        }
        self.ensure_index()
    }

    /// The exclusive lock of this name: a digest's hex, or `index`. Look again for the thing once it is won.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        ensure_private_dir(&self.root.join("locks"))?;
        Lock::exclusive(&self.root.join("locks").join(name))
    }

    /// The same lock if it is free, None if somebody else holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, Error> {
        ensure_private_dir(&self.root.join("locks"))?;
        Lock::try_exclusive(&self.root.join("locks").join(name))
    }

    /// While this is held nothing that is in the store is removed, and whoever removes waits: hold it for moments. What
    /// takes longer makes a [`Claim`].
    pub fn hold_contents(&self) -> Result<Lock, Error> {
        ensure_private_dir(&self.root.join("locks"))?;
        Lock::shared(&self.root.join("locks/contents"))
    }

    /// The right to remove or replace what nothing needs: waits until nobody holds the contents, but not for ever. None
    /// if somebody still does.
    pub fn lock_contents(&self) -> Result<Option<Lock>, Error> {
        const PATIENCE: Duration = Duration::from_secs(5);
        ensure_private_dir(&self.root.join("locks"))?;
        Lock::exclusive_within(&self.root.join("locks/contents"), PATIENCE)
    }

    /// Reads a blob of JSON: a manifest or a config.
    pub fn read_json(&self, digest: &Digest) -> Result<Value, Error> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).map_err(failed("read", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(format!("cannot read {}: {error}", path.display())).hint("mocker-images verify")
        })
    }
}
