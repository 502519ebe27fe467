//! The files at the top of the image layout, and what lies in it without being needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mocker_common::digest::Digest;
use mocker_common::image::Image;
use mocker_common::store::{Entry, REF_NAME, Store};
use serde_json::Value;

use super::archive;
use super::finding::{Damage, Finding, Findings, What, unreadable};

/// The file that says that this is an image layout.
pub fn layout(store: &Store, findings: &mut Findings) {
    let path = store.layout();
    let version = fs::read(&path).map(|bytes| {
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        json["imageLayoutVersion"].as_str().map(str::to_string)
    });
    let damage = match version {
        Ok(Some(version)) if version == "1.0.0" => return,
        Ok(Some(version)) => format!("says version {version}, not 1.0.0"),
        Ok(None) => "does not say imageLayoutVersion".into(),
        Err(error) => unreadable(error),
    };
    findings.add(Finding { what: What::Layout, digest: None, path, images: Vec::new(), damage: damage.into() });
}

/// The index as a whole, and descriptors that name nothing.
pub fn index(store: &Store, findings: &mut Findings) {
    let mut add = |images: Vec<String>, damage: Damage| {
        findings.add(Finding { what: What::Index, digest: None, path: store.index(), images, damage });
    };
    let name = |descriptor: &Value| descriptor["annotations"][REF_NAME].as_str().map(str::to_string);
    if !store.index().exists() {
        let lost = store.copied_descriptors().unwrap_or_default();
        return add(lost.iter().filter_map(name).collect(), "is not there".into());
    }
    match store.descriptors() {
        Err(error) => {
            let lost = store.copied_descriptors().unwrap_or_default();
            let own = format!("cannot read {}", store.index().display());
            add(lost.iter().filter_map(name).collect(), error.what.replacen(&own, "does not read", 1).into());
        }
        Ok(descriptors) => {
            for descriptor in descriptors {
                if let Err(error) = Entry::read(descriptor.clone()) {
                    add(name(&descriptor).into_iter().collect(), error.what.into());
                }
            }
        }
    }
}

/// What the index says of an image, against the image itself.
pub fn entry(store: &Store, image: &Image, manifest: &Value, findings: &mut Findings) {
    let descriptor = &image.entry.descriptor;
    let mut damage = Damage::default();
    let size = fs::metadata(store.blob(&image.entry.manifest)).map(|metadata| metadata.len()).unwrap_or(0);
    if descriptor["size"].as_u64() != Some(size) {
        damage.add(format!("says that the manifest has {} bytes, not {size}", descriptor["size"]));
    }
    let (said, own) = (&descriptor["mediaType"], &manifest["mediaType"]);
    if !own.is_null() && !said.is_null() && said != own {
        damage.add(format!("says that the manifest is {said}, not {own}"));
    }
    for (key, own) in [("os", &image.config.os), ("architecture", &image.config.architecture)] {
        let said = &descriptor["platform"][key];
        if !said.is_null() && !own.is_empty() && said != own.as_str() {
            damage.add(format!("says that its {key} is {said}, not \"{own}\""));
        }
    }
    let images = vec![image.entry.reference.clone()];
    findings.add(Finding { what: What::Index, digest: None, path: store.index(), images, damage });
}

/// Blobs that no image of ours needs. Those that hold what they are named by are leftovers, or another tool's; a later
/// pull would take the others for good.
pub fn strays(store: &Store, needed: &BTreeSet<PathBuf>, findings: &mut Findings) {
    let known: BTreeSet<PathBuf> = findings.list().iter().map(|finding| finding.path.clone()).collect();
    for entry in fs::read_dir(store.root().join("image/blobs/sha256")).into_iter().flatten().flatten() {
        let path = entry.path();
        if needed.contains(&path) || known.contains(&path) {
            continue;
        }
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy()).parse::<Digest>();
        let damage = match &digest {
            Err(_) => Some("is named by no digest".into()),
            Ok(digest) => match archive::open(&path).and_then(|mut blob| blob.drain().map(|()| blob.digest())) {
                Ok(found) if found == *digest => None,
                Ok(found) => Some(format!("holds {found}")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None, // somebody has just freed it
                Err(error) => Some(unreadable(error)),
            },
        };
        if let Some(damage) = damage {
            let digest = digest.ok().map(|digest| digest.to_string());
            findings.add(Finding { what: What::Stray, digest, path, images: Vec::new(), damage: damage.into() });
        }
    }
}
