//! The archive that `docker save` writes: manifest.json, configs and layers, without digests of their own.
//!
//! A manifest is made here, of what the archive says: its layers are as a rule not compressed, so a layer's digest is its
//! diff_id, and nothing has to be read twice. The config, and with it docker's image id, stays as it is.
//! Source: moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::HashMap;
use std::io::{self, Read};

use mocker_common::digest::{Digest, sha256};
use mocker_common::error::Error;
use mocker_common::image::Config;
use mocker_common::unpack::compression::{self, Compression, MAGIC};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::archive::Archive;
use super::layout::Listed;
use super::local::{Blobs, Local, MANIFEST_LIMIT, Slice};
use super::origin::Place;
use crate::manifest::{Descriptor, OCI_CONFIG, OCI_MANIFEST};

const CONFIG_LIMIT: u64 = 8 << 20;

/// An image, as manifest.json has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Opens an archive; None if it has no manifest.json.
pub fn of_archive(archive: &Archive, place: &Place) -> Result<Option<(Local, Vec<Listed>)>, Error> {
    let Some(manifest) = archive.open("manifest.json") else { return Ok(None) };
    let broken = |cause: String| Error::new(format!("cannot read manifest.json of {place}: {cause}"));
    let manifest = manifest.small(MANIFEST_LIMIT).map_err(|cause| broken(cause.to_string()))?;
    let saved: Vec<Saved> = serde_json::from_slice(&manifest).map_err(|cause| broken(cause.to_string()))?;

    let (mut slices, mut images) = (HashMap::new(), Vec::new());
    for image in saved {
        let descriptor = describe(archive, &image, &mut slices)
            .map_err(|cause| Error::new(format!("cannot use an image of {place}: {cause}")))?;
        let tags = image.repo_tags.unwrap_or_default();
        let own = place.own_name().and_then(|name| name.parse().ok());
        if tags.is_empty() {
            images.push(Listed { descriptor: descriptor.clone(), name: own, labels: Vec::new() });
        }
        for tag in tags {
            let name = Some(tag.parse().map_err(|error: Error| error.while_doing(place))?);
            images.push(Listed { descriptor: descriptor.clone(), name, labels: vec![tag] });
        }
    }
    Ok(Some((Local { name: place.to_string(), blobs: Blobs::Slices(slices) }, images)))
}

/// Makes an image's manifest. Afterwards `slices` has all its parts by their digests.
fn describe(archive: &Archive, image: &Saved, slices: &mut HashMap<Digest, Slice>) -> io::Result<Descriptor> {
    let open = |path: &str| {
        archive.open(path).ok_or_else(|| io::Error::other(format!("{path:?} is named in it, but not there")))
    };
    let bytes = open(&image.config)?.small(CONFIG_LIMIT)?;
    let config: Config = serde_json::from_slice(&bytes)?;
    if config.rootfs.diff_ids.len() != image.layers.len() {
        let (layers, diff_ids) = (image.layers.len(), config.rootfs.diff_ids.len());
        return Err(io::Error::other(format!("it lists {layers} layers, its config {diff_ids}")));
    }
    let mut layers = Vec::new();
    for (path, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        let slice = open(path)?;
        let (media_type, digest) = identify(&slice, diff_id)?;
        layers.push(json!({ "mediaType": media_type, "digest": digest.to_string(), "size": slice.size() }));
        slices.insert(digest, slice);
    }
    let config = put(bytes, slices);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": config.digest.to_string(), "size": config.size },
        "layers": Value::Array(layers),
    });
    Ok(Descriptor { media_type: OCI_MANIFEST.into(), ..put(manifest.to_string().into_bytes(), slices) })
}

/// A layer's media type and digest.
fn identify(slice: &Slice, diff_id: &str) -> io::Result<(&'static str, Digest)> {
    let mut first = Vec::new();
    slice.clone().take(MAGIC as u64).read_to_end(&mut first)?;
    let media_type = match compression::of(&first) {
        Compression::None => {
            let digest = diff_id.parse().map_err(|error: Error| io::Error::other(error.what))?;
            return Ok(("application/vnd.oci.image.layer.v1.tar", digest));
        }
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::Foreign(name) => return Err(io::Error::other(format!("a layer is compressed with {name}"))),
    };
    let mut hash = Sha256::new();
    let mut reader = io::BufReader::with_capacity(256 << 10, slice.clone());
    io::copy(&mut reader, &mut Hashing(&mut hash))?;
    Ok((media_type, Digest::from_bytes(&hash.finalize())))
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(bytes: Vec<u8>, slices: &mut HashMap<Digest, Slice>) -> Descriptor {
    let digest = Digest::from_bytes(&sha256(&bytes));
    let size = bytes.len() as u64;
    slices.insert(digest.clone(), Slice::Made(bytes.into()));
    Descriptor { digest, size, media_type: String::new() }
}
