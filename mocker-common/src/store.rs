//! The store: a valid OCI image layout, and each layer unpacked once.
//!
//! ```text
//! image/            oci-layout, index.json, blobs/sha256/…          skopeo and umoci read it
//! layers/sha256/H/  a layer's files, named by its diff_id, whiteouts in overlayfs form, shared by images
//! layers/sha256/H.json  what its tar left open: directories it did not name, links into lower layers
//! fixups/sha256/H/  by chain id, only where needed: a thin top layer that settles what H.json left open
//! containers/ID/    upper/, work/, rootfs/
//! partial/H         the part of a blob that was received before a pull broke off; the next one goes on from there
//! tmp/              what is being made; complete things are renamed out of it
//! locks/            one a digest, `index`, `contents`; never removed
//! ```
//!
//! A blob, a layer, the index appear complete, by rename, or not at all. Source: image-spec, image-layout.md.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::digest::{DiffId, Digest};
use crate::document::ContainerId;
use crate::error::{Error, failed};
use crate::lock::Lock;
use crate::reference::Reference;
use crate::state::{Directories, Process, ensure_dir, ensure_private_dir, write_atomically};

/// The annotation that names an image in index.json (image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that keeps the digest of the multi-platform index an image was picked from.
pub const INDEX_DIGEST: &str = "dev.mocker.index.digest";
/// The annotation that keeps when an image was stored, RFC 3339.
pub const STORED_AT: &str = "dev.mocker.stored";

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
    pub fn open() -> Self {
        Store::at(&Directories::from_env().root)
    }

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

    fn index(&self) -> PathBuf {
        self.root.join("image/index.json")
    }

    /// Makes the directories, for a tool that writes. Layers hold setuid programs of foreign systems: their parent is
    /// closed to other users.
    pub fn ensure(&self) -> Result<(), Error> {
        ensure_dir(&self.root)?;
        ensure_dir(&self.root.join("image/blobs/sha256"))?;
        for private in ["layers/sha256", "fixups/sha256", "containers", "partial", "tmp", "locks"] {
            ensure_private_dir(&self.root.join(private))?;
        }
        let layout = self.root.join("image/oci-layout");
        if !layout.exists() {
            write_atomically(&layout, 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !self.index().exists() {
            let _lock = self.lock("index")?;
            if !self.index().exists() {
                write_atomically(&self.index(), 0o644, &index_bytes(Vec::new()))?;
            }
        }
        Ok(())
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

    /// While this is held nothing that is in the store is removed. Whoever adds blobs and layers holds it until the image
    /// that needs them is listed; before that, nothing but this lock tells them from leftovers.
    pub fn hold_contents(&self) -> Result<Lock, Error> {
        ensure_private_dir(&self.root.join("locks"))?;
        Lock::shared(&self.root.join("locks/contents"))
    }

    /// The right to remove what no image lists: waits until nobody is adding anything.
    pub fn lock_contents(&self) -> Result<Lock, Error> {
        self.lock("contents")
    }

    /// A fresh directory for something that is being made, removed when dropped. Its name carries its owner, so that
    /// [`Store::sweep`] finds what a killed process left.
    pub fn temporary(&self) -> Result<Temporary, Error> {
        let owner = Process::this()?;
        let parent = self.root.join("tmp");
        for number in 0u32.. {
            let path = parent.join(format!("{}.{}.{number}", owner.pid, owner.start));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Temporary { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("make directory", path.display())(error)),
            }
        }
        Err(Error::new("cannot find a free name for a temporary directory"))
    }

    /// Removes temporary directories whose owner is gone. Returns how many.
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut removed = 0;
        for entry in fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.split('.').map(str::parse::<u64>);
            let (Some(Ok(pid)), Some(Ok(start))) = (parts.next(), parts.next()) else { continue };
            if !(Process { pid: pid as i32, start }).is_alive() {
                fs::remove_dir_all(entry.path()).map_err(failed("remove", entry.path().display()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// The images, as index.json lists them. An absent store is an empty one.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        let path = self.index();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", path.display())(error)),
        };
        let index: Value = serde_json::from_slice(&text).map_err(|error| {
            Error::new(format!("cannot read {}: {error}", path.display())).hint("mocker-images verify")
        })?;
        let descriptors = index["manifests"].as_array().cloned().unwrap_or_default();
        descriptors.into_iter().filter_map(|descriptor| Entry::read(descriptor).transpose()).collect()
    }

    /// The image of this reference: by name and tag, or by digest where the reference has one.
    pub fn find(&self, reference: &Reference) -> Result<Option<Entry>, Error> {
        let name = reference.name();
        let wanted = |entry: &Entry| match &reference.digest {
            Some(digest) => {
                let of_this_name = entry.reference.strip_prefix(&name).is_some_and(|rest| rest.starts_with([':', '@']));
                let index = entry.descriptor["annotations"][INDEX_DIGEST].as_str();
                of_this_name && (entry.manifest == *digest || index == Some(digest.to_string().as_str()))
            }
            None => entry.reference == reference.to_string(),
        };
        Ok(self.entries()?.into_iter().find(wanted))
    }

    /// Lists an image under its reference, in place of what had that name before. `descriptor` is the manifest's.
    /// Everything it needs must be in the store already: this is the moment at which `get` can return it.
    pub fn list_image(&self, reference: &Reference, mut descriptor: Value) -> Result<(), Error> {
        let name = reference.to_string();
        descriptor["annotations"][REF_NAME] = name.clone().into();
        self.change_index(|descriptors| {
            descriptors.retain(|other| other["annotations"][REF_NAME] != name.as_str());
            descriptors.push(descriptor);
            true
        })
        .map(drop)
    }

    /// Takes an image's name from the index. Returns whether it was there.
    pub fn unlist_image(&self, name: &str) -> Result<bool, Error> {
        self.change_index(|descriptors| {
            let before = descriptors.len();
            descriptors.retain(|other| other["annotations"][REF_NAME] != name);
            descriptors.len() != before
        })
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<bool, Error> {
        let _lock = self.lock("index")?;
        let mut descriptors: Vec<Value> = self.entries()?.into_iter().map(|entry| entry.descriptor).collect();
        let changed = change(&mut descriptors);
        if changed {
            write_atomically(&self.index(), 0o644, &index_bytes(descriptors))?;
        }
        Ok(changed)
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

impl Entry {
    /// None for a descriptor without a name: another tool's, left alone.
    fn read(descriptor: Value) -> Result<Option<Entry>, Error> {
        let Some(reference) = descriptor["annotations"][REF_NAME].as_str().map(str::to_string) else { return Ok(None) };
        let manifest = descriptor["digest"].as_str().unwrap_or("").parse()?;
        Ok(Some(Entry { reference, manifest, descriptor }))
    }
}

fn index_bytes(descriptors: Vec<Value>) -> Vec<u8> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": descriptors,
    });
    index.to_string().into_bytes()
}

/// A directory in `tmp/`, removed when dropped.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap_or_default(); // what stays is swept later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(byte: &str) -> Value {
        json!({ "digest": format!("sha256:{}", byte.repeat(32)), "size": 2 })
    }

    #[test]
    fn an_image_is_found_by_tag_and_by_digest_and_replaced_by_its_successor() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        let reference: Reference = "nginx:1".parse().unwrap();
        assert_eq!(store.find(&reference).unwrap(), None);
        store.ensure().unwrap();
        store.list_image(&reference, descriptor("00")).unwrap();
        store.list_image(&"nginx:2".parse().unwrap(), descriptor("11")).unwrap();
        store.list_image(&reference, descriptor("22")).unwrap();
        assert_eq!(store.entries().unwrap().len(), 2);
        assert_eq!(store.find(&reference).unwrap().unwrap().manifest.hex(), "22".repeat(32));
        let pinned = format!("nginx@sha256:{}", "11".repeat(32));
        assert_eq!(store.find(&pinned.parse().unwrap()).unwrap().unwrap().reference, "docker.io/library/nginx:2");
        let other = format!("nginx-x@sha256:{}", "11".repeat(32));
        assert_eq!(store.find(&other.parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn sweeping_leaves_what_a_living_process_is_making() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        store.ensure().unwrap();
        let alive = store.temporary().unwrap();
        fs::create_dir(scratch.path().join("tmp/999999999.1.0")).unwrap();
        assert_eq!(store.sweep().unwrap(), 1);
        assert!(alive.path().is_dir());
    }
}
