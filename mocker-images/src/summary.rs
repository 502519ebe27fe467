//! What a listing tells of an image. A thousand of them are read before the table is drawn, so each manifest, config and
//! note is read once, however many names and images share it, no layer is walked, and every processor reads a part.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::store::{Entry, Store};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

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

/// What is read of a manifest; the rest is skipped, and text is borrowed from what was read.
#[derive(Deserialize)]
struct Manifest<'a> {
    #[serde(borrow)]
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

#[derive(Deserialize)]
struct Descriptor<'a> {
    #[serde(borrow)]
    digest: Cow<'a, str>,
    #[serde(default)]
    size: u64,
}

/// What is read of a config. Docker writes null where OCI leaves a key out.
#[derive(Deserialize)]
struct Config<'a> {
    created: Option<String>,
    config: Option<Execution>,
    #[serde(borrow)]
    rootfs: RootFs<'a>,
}

#[derive(Default, Deserialize)]
struct Execution {
    #[serde(rename = "Labels")]
    labels: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RootFs<'a> {
    #[serde(borrow)]
    diff_ids: Option<Vec<Cow<'a, str>>>,
}

/// What is read of the notes that mocker-pull leaves beside a layer.
#[derive(Deserialize)]
struct Notes {
    bytes: u64,
}

/// Reads images, and keeps what it has read.
pub struct Reader<'a> {
    store: &'a Store,
    blobs: Directory,
    layers: Directory,
    images: HashMap<Digest, Result<Arc<Summary>, Error>>,
    sizes: HashMap<DiffId, u64>,
}

impl Reader<'_> {
    pub fn new(store: &Store) -> Reader<'_> {
        let root = store.root();
        let (blobs, layers) = (root.join("image/blobs/sha256"), root.join("layers/sha256"));
        Reader {
            store,
            blobs: Directory::open(&blobs),
            layers: Directory::open(&layers),
            images: HashMap::new(),
            sizes: HashMap::new(),
        }
    }

    /// Reads many images at once, so that [`Reader::image`] finds them read.
    pub fn read_ahead(&mut self, entries: &[Entry]) {
        const WORTH_A_THREAD: usize = 64;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8);
        let share = entries.len().div_ceil(processors).max(WORTH_A_THREAD);
        if share >= entries.len() {
            return;
        }
        let store = self.store;
        std::thread::scope(|scope| {
            let read = |part: &[Entry]| {
                let mut reader = Reader::new(store);
                reader.images.reserve(part.len());
                for Entry { manifest, .. } in part {
                    drop(reader.image(manifest)); // kept, also if it failed
                }
                (reader.images, reader.sizes)
            };
            let parts: Vec<_> = entries.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
            for (images, sizes) in parts.into_iter().filter_map(|part| part.join().ok()) {
                self.images.extend(images);
                self.sizes.extend(sizes);
            }
        });
    }

    /// The image of a manifest. Fails if it is damaged as far as a listing can tell: `verify` looks closer.
    pub fn image(&mut self, manifest: &Digest) -> Result<Arc<Summary>, Error> {
        if let Some(known) = self.images.get(manifest) {
            return known.clone();
        }
        let image = self.read(manifest).map(Arc::new);
        self.images.insert(manifest.clone(), image.clone());
        image
    }

    fn read(&mut self, manifest: &Digest) -> Result<Summary, Error> {
        let store = self.store;
        let bytes = self.blobs.read(manifest.hex(), || store.blob(manifest))?;
        let manifest: Manifest = parse(bytes, || store.blob(manifest))?;
        let config_digest: Digest = manifest.config.digest.parse()?;
        let compressed_bytes = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        let listed = manifest.layers.len();

        let bytes = self.blobs.read(config_digest.hex(), || store.blob(&config_digest))?;
        let config: Config = parse(bytes, || store.blob(&config_digest))?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        let layers: Vec<DiffId> = diff_ids.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let (created, labels) = (config.created, config.config.unwrap_or_default().labels.unwrap_or_default());
        if listed != layers.len() {
            return Err(Error::new(format!("its manifest lists {listed} layers, its config {}", layers.len())));
        }

        let mut size_bytes = 0u64;
        for layer in &layers {
            size_bytes = size_bytes.saturating_add(self.layer_bytes(layer)?);
        }
        Ok(Summary { config_digest, created, labels, layers, size_bytes, compressed_bytes })
    }

    /// The sizes of a layer's files, as its notes have them; counted where there are none.
    pub fn layer_bytes(&mut self, layer: &DiffId) -> Result<u64, Error> {
        if let Some(known) = self.sizes.get(layer) {
            return Ok(*known);
        }
        let store = self.store;
        let path = || store.layer_notes(layer);
        let notes = self.layers.read(&format!("{}.json", layer.0.hex()), path).and_then(|text| parse(text, path));
        let bytes = match notes {
            Ok(Notes { bytes }) => bytes,
            Err(_) if store.layer(layer).is_dir() => contents::file_bytes(&store.layer(layer)),
            Err(_) => return Err(Error::new(format!("its layer {} is not there", store.layer(layer).display()))),
        };
        self.sizes.insert(layer.clone(), bytes);
        Ok(bytes)
    }
}

/// A directory whose files are opened by their last name: of thousands, each path would be looked up from the root.
struct Directory(Result<OwnedFd, Errno>, Vec<u8>);

impl Directory {
    fn open(path: &Path) -> Directory {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Directory(rustix::fs::open(path, flags, Mode::empty()), Vec::with_capacity(64 << 10))
    }

    /// Reads a whole file. `path` is for the error.
    fn read(&mut self, name: &str, path: impl FnOnce() -> PathBuf) -> Result<&[u8], Error> {
        let Directory(directory, buffer) = self;
        buffer.clear();
        let mut read = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory.as_ref().map_err(|errno| *errno)?, name, flags, Mode::empty())?;
            loop {
                buffer.reserve(16 << 10);
                let room = buffer.capacity() - buffer.len();
                // A file gives all that is asked for but at its end (read(2)).
                if rustix::io::read(&file, rustix::buffer::spare_capacity(buffer))? < room {
                    return Ok(());
                }
            }
        };
        read().map_err(|errno: Errno| failed("read", path().display())(errno.into()))?;
        Ok(buffer)
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], path: impl FnOnce() -> PathBuf) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|error| Error::new(format!("cannot read {}: {error}", path().display())))
}
