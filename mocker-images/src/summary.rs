//! What a listing tells of an image. A thousand of them are read before the table is drawn, so each manifest, config and
//! note is read once, however many names and images share it, and no layer is walked.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::store::Store;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::contents;

/// An image without its name.
pub struct Summary {
    pub config_digest: Digest,
    pub created: Option<String>,
    pub labels: serde_json::Map<String, serde_json::Value>,
    /// bottom first
    pub layers: Vec<DiffId>,
    /// of the files in all layers, in bytes
    pub size_bytes: u64,
    /// of the layers as they are sent, in bytes
    pub compressed_bytes: u64,
}

/// What is read of a manifest; the rest is skipped.
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
}

/// What is read of a config. Docker writes null where OCI leaves a key out.
#[derive(Deserialize)]
struct Config {
    created: Option<String>,
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
struct Execution {
    #[serde(rename = "Labels")]
    labels: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// What is read of the notes that mocker-pull leaves beside a layer.
#[derive(Deserialize)]
struct Notes {
    bytes: u64,
}

/// Reads images, and keeps what it has read.
pub struct Reader<'a> {
    store: &'a Store,
    images: HashMap<Digest, Result<Rc<Summary>, Error>>,
    sizes: HashMap<DiffId, u64>,
}

impl Reader<'_> {
    pub fn new(store: &Store) -> Reader<'_> {
        Reader { store, images: HashMap::new(), sizes: HashMap::new() }
    }

    /// The image of a manifest. Fails if it is damaged as far as a listing can tell: `verify` looks closer.
    pub fn image(&mut self, manifest: &Digest) -> Result<Rc<Summary>, Error> {
        if let Some(known) = self.images.get(manifest) {
            return known.clone();
        }
        let image = self.read(manifest).map(Rc::new);
        self.images.insert(manifest.clone(), image.clone());
        image
    }

    fn read(&mut self, manifest: &Digest) -> Result<Summary, Error> {
        let manifest: Manifest = self.parse(&self.store.blob(manifest))?;
        let config_digest: Digest = manifest.config.digest.parse()?;
        let config: Config = self.parse(&self.store.blob(&config_digest))?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if manifest.layers.len() != diff_ids.len() {
            let (listed, unpacked) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::new(format!("its manifest lists {listed} layers, its config {unpacked}")));
        }
        let layers: Vec<DiffId> = diff_ids.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let mut size_bytes = 0u64;
        for layer in &layers {
            size_bytes = size_bytes.saturating_add(self.layer_bytes(layer)?);
        }
        let compressed_bytes = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        let labels = config.config.unwrap_or_default().labels.unwrap_or_default();
        Ok(Summary { config_digest, created: config.created, labels, layers, size_bytes, compressed_bytes })
    }

    fn parse<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Error> {
        let bytes = fs::read(path).map_err(failed("read", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))
    }

    /// The sizes of a layer's files, as its notes have them; counted where there are none.
    pub fn layer_bytes(&mut self, layer: &DiffId) -> Result<u64, Error> {
        if let Some(known) = self.sizes.get(layer) {
            return Ok(*known);
        }
        let directory = self.store.layer(layer);
        let bytes = match self.parse::<Notes>(&self.store.layer_notes(layer)) {
            Ok(notes) => notes.bytes,
            Err(_) if directory.is_dir() => contents::file_bytes(&directory),
            Err(_) => return Err(Error::new(format!("its layer {} is not there", directory.display()))),
        };
        self.sizes.insert(layer.clone(), bytes);
        Ok(bytes)
    }
}
