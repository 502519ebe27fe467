//! `verify`: is everything there, and is it what its digest says?

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mocker_common::digest::Digest;
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::store::{Entry, Store};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::get;

/// Checks images, all of them where none is named. What is damaged is named on stderr, each thing once.
pub fn verify(store: &Store, references: &[Reference]) -> Result<(), Error> {
    let entries = match references.is_empty() {
        true => store.entries()?,
        false => references.iter().map(|reference| get::find(store, reference)).collect::<Result<_, _>>()?,
    };
    let mut failures = Vec::new();
    for entry in entries {
        let damages = damages_of(store, &entry);
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

/// Everything that is wrong with an image.
fn damages_of(store: &Store, entry: &Entry) -> Vec<String> {
    let mut damages = Vec::new();
    let mut check = |what: &str, outcome: Result<(), Error>| {
        if let Err(error) = outcome {
            damages.push(format!("{what}: {}", error.what));
        }
    };
    check("manifest", check_blob(store, &entry.manifest, entry.descriptor["size"].as_u64()));
    if let Ok(manifest) = store.read_json(&entry.manifest) {
        check("config", check_descriptor(store, &manifest["config"]));
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            check("layer", check_descriptor(store, layer));
        }
        let readable = Image::read(store, entry.clone()).and_then(|image| image.lower(store).map(drop));
        check("image", readable);
    }
    damages
}

fn check_descriptor(store: &Store, descriptor: &Value) -> Result<(), Error> {
    let digest = descriptor["digest"].as_str().unwrap_or("").parse()?;
    check_blob(store, &digest, descriptor["size"].as_u64())
}

fn check_blob(store: &Store, digest: &Digest, size: Option<u64>) -> Result<(), Error> {
    let path = store.blob(digest);
    let (found, length) = hash(&path)?;
    if size.is_some_and(|size| size != length) {
        return Err(Error::new(format!("{} has {length} bytes, not {}", path.display(), size.unwrap_or(0))));
    }
    match found == *digest {
        true => Ok(()),
        false => Err(Error::new(format!("{} holds {found}", path.display()))),
    }
}

fn hash(path: &Path) -> Result<(Digest, u64), Error> {
    let mut file = File::open(path).map_err(failed("read", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        match file.read(&mut buffer).map_err(failed("read", path.display()))? {
            0 => return Ok((Digest::from_bytes(&hasher.finalize()), length)),
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}
