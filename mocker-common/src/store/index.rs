//! index.json: which images there are, by name (image-spec, image-layout.md and image-index.md).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Entry, INDEX_DIGEST, REF_NAME, Store};
use crate::error::{Error, failed};
use crate::reference::Reference;
use crate::state::{ensure_private_dir, write_atomically};

impl Store {
    /// The images, as index.json lists them. An absent store is an empty one.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        self.descriptors()?.into_iter().filter_map(|descriptor| Entry::read(descriptor).transpose()).collect()
    }

    /// All that index.json lists: what another tool has put there without a name, too.
    pub fn descriptors(&self) -> Result<Vec<Value>, Error> {
        read(&self.index())
    }

    /// The same from the copy, for when index.json is damaged.
    pub fn copied_descriptors(&self) -> Result<Vec<Value>, Error> {
        read(&self.index_copy())
    }

    fn index_copy(&self) -> PathBuf {
        self.root.join("index.copy")
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
    pub fn list_image(&self, reference: &Reference, mut descriptor: Value) -> Result<Entry, Error> {
        let name = reference.to_string();
        descriptor["annotations"][REF_NAME] = name.clone().into();
        let entry = Entry::read(descriptor.clone())?.ok_or_else(|| Error::new(format!("cannot list {name}")))?;
        self.change_index(|descriptors| {
            descriptors.retain(|other| !has_name(other, &name));
            descriptors.push(descriptor);
            true
        })?;
        Ok(entry)
    }

    /// Takes images' names from the index: all of them, or none if one is not there. Returns that one.
    pub fn unlist_images(&self, names: &[String]) -> Result<Option<String>, Error> {
        let mut absent = None;
        self.change_index(|descriptors| {
            let is_absent = |name: &&String| !descriptors.iter().any(|other| has_name(other, name));
            absent = names.iter().find(is_absent).cloned();
            descriptors.retain(|other| absent.is_some() || !names.iter().any(|name| has_name(other, name)));
            absent.is_none()
        })?;
        Ok(absent)
    }

    /// Changes the index under its lock. `change` says whether it did; then the whole is written anew.
    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<(), Error> {
        let _lock = self.lock("index")?;
        let mut descriptors = self.descriptors()?;
        match change(&mut descriptors) {
            true => self.write_index(descriptors),
            false => Ok(()),
        }
    }

    /// Replaces a damaged index. `mend` makes the descriptors, under the index's lock.
    pub fn mend_index(&self, mend: impl FnOnce() -> Result<Vec<Value>, Error>) -> Result<(), Error> {
        let _lock = self.lock("index")?;
        self.write_index(mend()?)
    }

    /// Makes an empty index where there is none.
    pub(super) fn ensure_index(&self) -> Result<(), Error> {
        if self.index().exists() {
            return Ok(());
        }
        let _lock = self.lock("index")?;
        match self.index().exists() {
            true => Ok(()),
            // The copy is there where the index was lost; then the names in it count.
            false => self.write_index(self.copied_descriptors().unwrap_or_default()),
        }
    }

    fn write_index(&self, descriptors: Vec<Value>) -> Result<(), Error> {
        let bytes = index_bytes(descriptors);
        write_atomically(&self.index(), 0o644, &bytes)?;
        // Not forced to disk: the index is, and one of the two is enough.
        let (copy, fresh) = (self.index_copy(), self.root.join(format!("tmp/index.{}", std::process::id())));
        ensure_private_dir(&self.root.join("tmp"))?;
        fs::write(&fresh, &bytes).and_then(|()| fs::rename(&fresh, &copy)).map_err(failed("write", copy.display()))
    }
}

impl Entry {
    /// None for a descriptor without a name: another tool's, left alone.
    pub fn read(descriptor: Value) -> Result<Option<Entry>, Error> {
        let Some(reference) = descriptor["annotations"][REF_NAME].as_str().map(str::to_string) else { return Ok(None) };
        let manifest = descriptor["digest"].as_str().unwrap_or("").parse()?;
        Ok(Some(Entry { reference, manifest, descriptor }))
    }
}

fn has_name(descriptor: &Value, name: &str) -> bool {
    descriptor["annotations"][REF_NAME] == name
}

fn read(path: &Path) -> Result<Vec<Value>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", path.display())(error)),
    };
    let unreadable =
        |cause: String| Error::new(format!("cannot read {}: {cause}", path.display())).hint("mocker-images verify");
    let index: Value = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    match index["manifests"].as_array() {
        Some(descriptors) => Ok(descriptors.clone()),
        None => Err(unreadable("it lists no manifests".into())),
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
    fn names_go_together_and_what_others_have_listed_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        store.ensure().unwrap();
        store.mend_index(|| Ok(vec![descriptor("33")])).unwrap();
        for name in ["a:1", "b:1"] {
            store.list_image(&name.parse().unwrap(), descriptor("00")).unwrap();
        }
        let names = |names: &[&str]| names.iter().map(|name| format!("docker.io/library/{name}")).collect::<Vec<_>>();
        assert_eq!(store.unlist_images(&names(&["a:1", "c:1"])).unwrap(), Some("docker.io/library/c:1".into()));
        assert_eq!(store.entries().unwrap().len(), 2, "half of it was done");
        assert_eq!(store.unlist_images(&names(&["a:1", "b:1"])).unwrap(), None);
        assert_eq!(store.descriptors().unwrap(), [descriptor("33")]);
        assert_eq!(store.copied_descriptors().unwrap(), [descriptor("33")]);
    }
}
