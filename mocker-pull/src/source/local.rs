//! Documents and blobs that lie on this machine already: in the files of a layout, or in slices of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::{Error, failed};
use tokio::task::spawn_blocking;

use crate::registry::Document;

/// How much is read at once.
const CHUNK: usize = 1 << 20;
/// The largest manifest that is read, as from a registry.
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// A place with blobs.
pub struct Local {
    /// as it is called in errors: `oci:/srv/box`
    pub name: String,
    pub blobs: Blobs,
}

pub enum Blobs {
    /// of a layout: the directory that holds `blobs/`
    Directory(PathBuf),
    /// of an archive
    Slices(HashMap<Digest, Slice>),
}

/// Bytes that are to be read: a part of a file, or made by us.
#[derive(Clone)]
pub enum Slice {
    Of { file: Arc<File>, at: u64, end: u64 },
    Made(Bytes),
}

impl Local {
    /// A blob's bytes, not yet checked.
    pub fn open(&self, digest: &Digest) -> Result<Slice, Error> {
        let absent = || {
            Error::new(format!("cannot find blob {} in {}", digest.short(), self.name))
                .why("an image is a list of digests; each part must be there under its own")
                .likely("only a part of the image was copied there")
                .hint("write it again: skopeo copy, docker save, mocker-images save")
        };
        match &self.blobs {
            Blobs::Slices(slices) => slices.get(digest).cloned().ok_or_else(absent),
            Blobs::Directory(directory) => {
                let path = directory.join("blobs/sha256").join(digest.hex());
                let file = File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => absent(),
                    _ => failed("open", path.display())(error),
                })?;
                Slice::whole(file).map_err(failed("read", path.display()))
            }
        }
    }

    /// A small blob whole, checked.
    pub fn small(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let bytes = self
            .open(digest)?
            .small(limit)
            .map_err(|cause| Error::new(format!("cannot read blob {} of {}: {cause}", digest.short(), self.name)))?;
        match Digest::from_bytes(&sha256(&bytes)) {
            received if received == *digest => Ok(bytes),
            received => Err(wrong_digest(digest, &received)),
        }
    }

    /// A manifest or an index, checked.
    pub fn document(&self, digest: &Digest, media_type: Option<&str>) -> Result<Document, Error> {
        let bytes = self.small(digest, MANIFEST_LIMIT)?;
        let json = serde_json::from_slice(&bytes).map_err(|cause| {
            Error::new(format!("cannot read manifest {} of {}: {cause}", digest.short(), self.name))
        })?;
        Ok(Document { digest: digest.clone(), bytes, content_type: media_type.map(str::to_string), json })
    }
}

impl Slice {
    pub fn whole(file: File) -> io::Result<Slice> {
        let end = file.metadata()?.len();
        Ok(Slice::Of { file: file.into(), at: 0, end })
    }

    /// in bytes
    pub fn size(&self) -> u64 {
        match self {
            Slice::Of { at, end, .. } => end - at,
            Slice::Made(bytes) => bytes.len() as u64,
        }
    }

    /// All of it, if it is not too much for memory.
    pub fn small(self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size() > limit {
            return Err(io::Error::other(format!("it has {} bytes, more than the {limit} that are read", self.size())));
        }
        let mut bytes = Vec::new();
        let mut reader = self;
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn reading(self) -> Reading {
        Reading { rest: Some(self) }
    }
}

impl Read for Slice {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Slice::Of { file, at, end } => {
                let wanted = (*end - *at).min(out.len() as u64) as usize;
                let count = file.read_at(&mut out[..wanted], *at)?;
                *at += count as u64;
                Ok(count)
            }
            Slice::Made(bytes) => {
                let count = bytes.len().min(out.len());
                out[..count].copy_from_slice(&bytes.split_to(count));
                Ok(count)
            }
        }
    }
}

/// A slice being read, off the thread that waits for the network.
pub struct Reading {
    rest: Option<Slice>,
}

impl Reading {
    /// The next bytes; None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(mut slice) = self.rest.take() else { return Ok(None) };
        let read = spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK.min(slice.size() as usize)];
            let count = slice.read(&mut chunk)?;
            chunk.truncate(count);
            io::Result::Ok((chunk, slice))
        });
        let read = read.await.unwrap_or_else(|cause| Err(io::Error::other(cause)));
        let (chunk, rest) = read.map_err(failed("read", "the archive"))?;
        self.rest = Some(rest);
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}

/// The bytes are not those that were written.
pub fn wrong_digest(expected: &Digest, received: &Digest) -> Error {
    Error::new(format!("cannot use blob {}: its digest is wrong", expected.short()))
        .said(format!("expected {expected}"))
        .said(format!("received {received}"))
        .why("a digest is the only proof that these are the bytes that were pushed")
        .likely("the file was damaged on its way here, or somebody has changed it")
        .hint("copy or save the image again")
}
