//! The images that are saved, and their parts, checked as they are read.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::image::Image;
use mocker_common::step::Explained;
use mocker_common::store::{Entry, Store};
use mocker_common::unpack::compression::{self, Compression};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::TOOL;

/// What `save` was asked for. An image with two names is one image.
pub struct Selection<'a> {
    pub store: &'a Store,
    pub images: Vec<Saved>,
}

pub struct Saved {
    /// as index.json lists them: `docker.io/library/nginx:latest`
    pub names: Vec<String>,
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Layer>,
    /// the manifest's descriptor, without annotations: those speak of the store
    pub descriptor: Value,
}

/// A small blob, read whole.
pub struct Blob {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

pub struct Layer {
    pub digest: Digest,
    pub size: u64,
    pub diff_id: DiffId,
}

impl<'a> Selection<'a> {
    /// Reads manifests and configs and looks at the layers. What is missing, cut or wrong ends it here, before anything
    /// is written.
    pub fn read(store: &'a Store, entries: Vec<Entry>) -> Result<Self, Error> {
        let mut images: Vec<Saved> = Vec::new();
        for entry in entries {
            let name = entry.reference.clone();
            match images.iter_mut().find(|image| image.manifest.digest == entry.manifest) {
                Some(known) if known.names.contains(&name) => {}
                Some(known) => known.names.push(name),
                None => images.push(Saved::read(store, entry).map_err(|error| explained(&name, error))?),
            }
        }
        Ok(Selection { store, images })
    }

    /// Every layer once, in the order of the images, bottom first.
    pub fn layers(&self) -> Vec<&Layer> {
        let mut layers: Vec<&Layer> = Vec::new();
        for layer in self.images.iter().flat_map(|image| &image.layers) {
            if !layers.iter().any(|known| known.digest == layer.digest) {
                layers.push(layer);
            }
        }
        layers
    }

    /// Manifests and configs, each once.
    pub fn small_blobs(&self) -> Vec<&Blob> {
        let mut blobs: Vec<&Blob> = self.images.iter().flat_map(|image| [&image.manifest, &image.config]).collect();
        blobs.sort_by_key(|blob| &blob.digest);
        blobs.dedup_by_key(|blob| &blob.digest);
        blobs
    }

    /// Docker's older versions know gzip only.
    pub fn warn_of_zstd(&self) -> Result<(), Error> {
        for layer in self.layers() {
            let path = self.store.blob(&layer.digest);
            let mut blob = open(&path)?;
            let first = blob.fill_buf().map_err(failed("read", path.display()))?;
            if compression::of(first) == Compression::Zstd {
                eprintln!(
                    "{TOOL}: note: layers are compressed with zstd, which docker before 23 cannot load; -o docker-archive:FILE stores them uncompressed"
                );
                return Ok(());
            }
        }
        Ok(())
    }

    /// Copies a layer's blob. Fails where it is not what its digest says; then what was written is worth nothing.
    pub fn copy(&self, layer: &Layer, out: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let path = self.store.blob(&layer.digest);
        let mut blob = Hashed { inner: open(&path)?.take(layer.size), hasher: Sha256::new() };
        each_chunk(&mut blob, &path, out)?;
        self.check(layer, "its blob", &layer.digest, blob.hasher)
    }

    /// Reads a layer through and returns how large it is uncompressed. Its blob has its digest then.
    pub fn measure(&self, layer: &Layer) -> Result<u64, Error> {
        let path = self.store.blob(&layer.digest);
        let mut blob = Hashed { inner: open(&path)?, hasher: Sha256::new() };
        let mut length = 0;
        let outcome = uncompressed(&mut blob, &path).and_then(|mut tar| {
            each_chunk(&mut tar, &path, |bytes| {
                length += bytes.len() as u64;
                Ok(())
            })
        });
        each_chunk(&mut blob, &path, |_| Ok(()))?; // a wrong digest explains why it does not read
        self.check(layer, "its blob", &layer.digest, blob.hasher)?;
        outcome.map(|()| length)
    }

    /// Copies a layer uncompressed; its diff_id is checked.
    pub fn copy_uncompressed(&self, layer: &Layer, out: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let path = self.store.blob(&layer.digest);
        let mut blob = open(&path)?;
        let mut tar = Hashed { inner: uncompressed(&mut blob, &path)?, hasher: Sha256::new() };
        each_chunk(&mut tar, &path, out)?;
        self.check(layer, "what it holds", &layer.diff_id.0, tar.hasher)
    }

    fn check(&self, layer: &Layer, what: &'static str, expected: &Digest, hasher: Sha256) -> Result<(), Error> {
        let found = Digest::from_bytes(&hasher.finalize());
        explain::tell(
            &Checked { what, expected },
            "what has rotted on this disk must not become another machine's image; hashed as it is read it is found",
        );
        if found == *expected {
            return Ok(());
        }
        let owner = self.images.iter().find(|image| image.layers.iter().any(|other| other.digest == layer.digest));
        let name = owner.and_then(|image| image.names.first()).map_or("the image", |name| name);
        Err(explained(name, damaged("layer", &layer.digest, &format!("{what} has the digest {found}"))))
    }
}

impl Saved {
    fn read(store: &Store, entry: Entry) -> Result<Self, Error> {
        let manifest = Blob::read(store, "manifest", &entry.manifest)?;
        let json: Value = serde_json::from_slice(&manifest.bytes)
            .map_err(|cause| damaged("manifest", &manifest.digest, &cause.to_string()))?;
        let mut descriptor = json!({
            "mediaType": entry.descriptor["mediaType"],
            "digest": manifest.digest.to_string(),
            "size": manifest.bytes.len(),
        });
        if entry.descriptor["platform"].is_object() {
            descriptor["platform"] = entry.descriptor["platform"].clone();
        }
        let names = vec![entry.reference.clone()];
        let image = Image::read(store, entry)?;
        let config = Blob::read(store, "config", &image.config_digest)?;
        let sent = json["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let layers = sent.iter().zip(image.layers).map(|(sent, diff_id)| Layer::look_at(store, sent, diff_id));
        Ok(Saved { names, manifest, config, layers: layers.collect::<Result<_, _>>()?, descriptor })
    }
}

impl Blob {
    fn read(store: &Store, what: &str, digest: &Digest) -> Result<Self, Error> {
        let path = store.blob(digest);
        let bytes = std::fs::read(&path).map_err(failed("read", path.display()))?;
        match Digest::from_bytes(&Sha256::digest(&bytes)) {
            found if found == *digest => Ok(Blob { digest: digest.clone(), bytes }),
            found => Err(damaged(what, digest, &format!("it has the digest {found}"))),
        }
    }
}

impl Layer {
    fn look_at(store: &Store, sent: &Value, diff_id: DiffId) -> Result<Self, Error> {
        let digest: Digest = sent["digest"].as_str().unwrap_or_default().parse()?;
        let path = store.blob(&digest);
        let there = std::fs::metadata(&path).map_err(failed("read", path.display()))?.len();
        let size = sent["size"].as_u64().unwrap_or(there);
        match there == size {
            true => Ok(Layer { digest, size, diff_id }),
            false => Err(damaged("layer", &digest, &format!("it has {there} bytes, not {size}"))),
        }
    }
}

/// A digest compared with what was promised, as a step of the narrative.
struct Checked<'a> {
    what: &'static str,
    expected: &'a Digest,
}

impl fmt::Display for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256({}) == {}", self.what, self.expected.hex())
    }
}

impl Explained for Checked<'_> {
    fn aim(&self) -> String {
        format!("check {}", self.what)
    }
    fn source(&self) -> &'static str {
        "image-spec, descriptor.md, Digests"
    }
    fn by_hand(&self) -> String {
        "sha256sum $MOCKER_ROOT/image/blobs/sha256/…".into()
    }
}

fn damaged(what: &str, digest: &Digest, cause: &str) -> Error {
    Error::new(format!("{what} {} is damaged: {cause}", digest.short()))
        .why("what is exported goes to other machines, and damage with it")
}

fn explained(name: &str, error: Error) -> Error {
    let error = error.while_doing(format_args!("cannot save {name}"));
    let name = name.strip_suffix(":latest").unwrap_or(name);
    error.hint(format!("mocker-images verify {name}; mocker-pull {name} gets it again"))
}

/// Passes on what it reads and knows its digest.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

const BUFFER: usize = 256 << 10;

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    Ok(BufReader::with_capacity(BUFFER, File::open(path).map_err(failed("read", path.display()))?))
}

fn uncompressed<'r>(blob: &'r mut (impl Read + 'r), path: &Path) -> Result<Box<dyn Read + 'r>, Error> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    let first = blob.fill_buf().map_err(failed("read", path.display()))?;
    compression::reader(compression::of(first), blob).map_err(failed("read", path.display()))
}

fn each_chunk(
    reader: &mut impl Read,
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", path.display())(error)),
        }
    }
}
