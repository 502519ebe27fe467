//! Which repository of a registry has which blob, as far as this machine knows: such a blob is mounted, not sent.
//!
//! Each image of the store was pulled from its name; where images were pushed to stands in `pushed.json` of the store. That
//! file is only a memory: without it, or where it is wrong, a blob is sent once more than need be.

use std::collections::HashMap;
use std::path::PathBuf;

use mocker_common::digest::Digest;
use mocker_common::reference::Reference;
use mocker_common::state::write_atomically;
use mocker_common::store::Store;
use serde_json::{Value, json};

use crate::manifest::Manifest;

/// How many pushes are remembered.
const MEMORY: usize = 200;

pub struct Lenders {
    store: Store,
    /// registry and blob; the repositories, the one we learned of last at the end
    known: HashMap<(String, Digest), Vec<String>>,
}

impl Lenders {
    /// What the store tells. An image that another tool has named, or that is damaged, just lends nothing.
    pub fn of_store(store: &Store) -> Lenders {
        let mut lenders = Lenders { store: store.clone(), known: HashMap::new() };
        let listed = store.entries().unwrap_or_default().into_iter().map(|entry| (entry.reference, entry.manifest));
        for (name, digest) in listed.chain(lenders.read_memory()) {
            let Ok(reference) = name.parse::<Reference>() else { continue };
            let Ok(json) = store.read_json(&digest) else { continue };
            let Ok(manifest) = Manifest::read(&json) else { continue };
            lenders.add(&reference, &manifest);
        }
        lenders
    }

    /// This name has the image's blobs, now and the next time we are started.
    pub fn remember(&mut self, reference: &Reference, digest: &Digest, manifest: &Manifest) {
        self.add(reference, manifest);
        let mut pushed = self.read_memory();
        pushed.retain(|(name, manifest)| *name != reference.name() && self.store.blob(manifest).exists());
        pushed.push((reference.name(), digest.clone()));
        let recent = &pushed[pushed.len().saturating_sub(MEMORY)..];
        let lines: Vec<Value> =
            recent.iter().map(|(name, digest)| json!({ "name": name, "digest": digest.to_string() })).collect();
        // A store that one may only read is pushed from, too.
        write_atomically(&self.memory(), 0o644, json!(lines).to_string().as_bytes()).unwrap_or_default();
    }

    /// A repository that could lend a blob to this one; of several the one we learned of last.
    pub fn find(&self, to: &Reference, blob: &Digest) -> Option<String> {
        let lenders = self.known.get(&(to.registry.clone(), blob.clone()))?;
        lenders.iter().rfind(|lender| **lender != to.repository).cloned()
    }

    fn add(&mut self, reference: &Reference, manifest: &Manifest) {
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let key = (reference.registry.clone(), blob.digest.clone());
            self.known.entry(key).or_default().push(reference.repository.clone());
        }
    }

    fn memory(&self) -> PathBuf {
        self.store.root().join("pushed.json")
    }

    fn read_memory(&self) -> Vec<(String, Digest)> {
        let text = std::fs::read(self.memory()).unwrap_or_default();
        let lines: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
        let read = |line: &Value| Some((line["name"].as_str()?.into(), line["digest"].as_str()?.parse().ok()?));
        lines.iter().filter_map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_image_was_pushed_is_remembered_as_long_as_it_is_here() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        store.ensure().unwrap();
        let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
        let document = json!({
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("aa"), "size": 1 },
            "layers": [],
        });
        let (own, blob): (Digest, Digest) = (digest("bb").parse().unwrap(), digest("aa").parse().unwrap());
        std::fs::write(store.blob(&own), document.to_string()).unwrap();
        let [one, two, far]: [Reference; 3] = ["r.io/one", "r.io/two", "far.io/one"].map(|name| name.parse().unwrap());

        let mut lenders = Lenders::of_store(&store);
        assert_eq!(lenders.find(&two, &blob), None);
        lenders.remember(&one, &own, &Manifest::read(&document).unwrap());
        for lenders in [lenders, Lenders::of_store(&store)] {
            assert_eq!(lenders.find(&two, &blob), Some("one".into()));
            assert_eq!(lenders.find(&one, &blob), None, "it cannot lend to itself");
            assert_eq!(lenders.find(&far, &blob), None, "registries do not lend to each other");
        }
        std::fs::write(scratch.path().join("pushed.json"), "[{}, nonsense").unwrap();
        assert_eq!(Lenders::of_store(&store).find(&two, &blob), None);
    }
}
