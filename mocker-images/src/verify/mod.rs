//! `verify`: is everything there, and is it what its digest says?

mod archive;
mod expected;
mod layer;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::store::{Entry, Store};
use serde_json::Value;

use crate::get;

/// Checks images, all of them where none is named. Prints those that are sound; what is damaged is named on stderr.
pub fn verify(store: &Store, references: &[Reference]) -> Result<(), Error> {
    let entries = match references.is_empty() {
        true => store.entries()?,
        false => references.iter().map(|reference| get::find(store, reference)).collect::<Result<_, _>>()?,
    };
    if entries.is_empty() {
        return Ok(()); // a store that is not there is sound
    }
    let _lock = store.hold_contents()?; // what is being removed meanwhile is not damaged
    let mut check = Check { store, known: HashMap::new() };
    let mut failures = Vec::new();
    for entry in entries {
        let damages = check.image(&entry);
        if damages.is_empty() {
            println!("{} ok", entry.reference);
        }
        failures.extend(damages.into_iter().map(|damage| format!("{}: {damage}", entry.reference)));
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error {
            also: failures,
            hint: "mocker-images rm REF, then mocker-pull REF".into(),
            ..Error::new("the store is damaged")
        }),
    }
}

/// A check of several images; what they share is checked once.
struct Check<'a> {
    store: &'a Store,
    known: HashMap<String, Vec<String>>,
}

impl Check<'_> {
    /// Everything that is wrong with an image: first the blobs, then what was made of them.
    fn image(&mut self, entry: &Entry) -> Vec<String> {
        let mut damages = self.blob("manifest", &entry.manifest, entry.descriptor["size"].as_u64());
        let Ok(manifest) = self.store.read_json(&entry.manifest) else { return damages };
        damages.extend(self.descriptor("config", &manifest["config"]));
        let image = match Image::read(self.store, entry.clone()) {
            Ok(image) => image,
            Err(error) => {
                damages.push(error.what);
                return damages;
            }
        };
        let sent = manifest["layers"].as_array().cloned().unwrap_or_default();
        for (sent, diff_id) in sent.iter().zip(&image.layers) {
            damages.extend(self.layer(sent, diff_id));
        }
        damages
    }

    fn descriptor(&mut self, what: &str, descriptor: &Value) -> Vec<String> {
        match descriptor["digest"].as_str().unwrap_or("").parse() {
            Ok(digest) => self.blob(what, &digest, descriptor["size"].as_u64()),
            Err(error) => vec![format!("{what}: {}", error.what)],
        }
    }

    fn blob(&mut self, what: &str, digest: &Digest, size: Option<u64>) -> Vec<String> {
        let path = self.store.blob(digest);
        let damages = self.known.entry(digest.to_string()).or_insert_with(|| {
            let outcome = check_blob(&path, digest, size);
            outcome.err().map(|error| format!("{what}: {}", error.what)).into_iter().collect()
        });
        damages.clone()
    }

    /// A layer: its blob, then its directory. A damaged blob is nothing to compare a directory with.
    fn layer(&mut self, sent: &Value, diff_id: &DiffId) -> Vec<String> {
        let directory = self.store.layer(diff_id);
        let damages = self.descriptor("layer", sent);
        if !directory.is_dir() {
            let missing = format!("layer: {} is not there", directory.display());
            return damages.into_iter().chain([missing]).collect();
        }
        let digest = sent["digest"].as_str().unwrap_or("").parse::<Digest>();
        let (true, Ok(digest)) = (damages.is_empty(), digest) else { return damages };
        let blob = self.store.blob(&digest);
        let damages = self.known.entry(format!("directory of {diff_id}")).or_insert_with(|| {
            layer::compare(&blob, &directory, diff_id).unwrap_or_else(|error| vec![format!("layer: {}", error.what)])
        });
        damages.clone()
    }
}

fn check_blob(path: &Path, digest: &Digest, size: Option<u64>) -> Result<(), Error> {
    let file = File::open(path).map_err(failed("read", path.display()))?;
    let mut hashed = archive::Hashed::new(file);
    let length = hashed.drain().map_err(failed("read", path.display()))?;
    if size.is_some_and(|size| size != length) {
        return Err(Error::new(format!("{} has {length} bytes, not {}", path.display(), size.unwrap_or(0))));
    }
    match hashed.digest() {
        found if found == *digest => Ok(()),
        found => Err(Error::new(format!("{} holds {found}", path.display()))),
    }
}
