//! A blob as it is read: kept, hashed, and handed on to be decompressed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Buf, Bytes};
use mocker_common::digest::Digest;
use mocker_common::error::Error;
use mocker_common::explain;
use mocker_common::step::Explained;
use mocker_common::unpack::compression::MAGIC;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::manifest::Layer;

pub enum Source {
    /// a blob that comes in; its first `kept` bytes are in the copy already
    Stream { incoming: mpsc::Receiver<Bytes>, kept: u64 },
    /// a blob that is here, and whether the pull has ended meanwhile: a stream would end with it, a file does not
    File(File, Arc<AtomicBool>),
}

/// The blob as thread A reads it: each chunk is kept and hashed when it comes, whoever consumes it.
pub struct Blob {
    source: Source,
    /// where it is kept; what an earlier attempt has left is read from there first
    copy: Option<File>,
    hash: Sha256,
    count: u64,
    chunk: Bytes,
}

impl Blob {
    pub fn new(source: Source, copy: Option<File>) -> Self {
        Blob { source, copy, hash: Sha256::new(), count: 0, chunk: Bytes::new() }
    }

    /// The first bytes, enough to tell the compression by; they stay to be read.
    pub fn first(&mut self) -> io::Result<&[u8]> {
        while self.chunk.len() < MAGIC {
            let begun = std::mem::take(&mut self.chunk);
            if self.fill_buf()?.is_empty() {
                self.chunk = begun;
                break;
            }
            if !begun.is_empty() {
                self.chunk = [&begun[..], &self.chunk[..]].concat().into();
            }
        }
        Ok(&self.chunk)
    }

    /// Reads what the decoder has left.
    pub fn drain(&mut self) -> io::Result<()> {
        while !self.fill_buf()?.is_empty() {
            self.chunk.clear();
        }
        Ok(())
    }

    /// Of all that was read.
    pub fn digest(self) -> Digest {
        Digest::from_bytes(&self.hash.finalize())
    }

    /// Ends the reading. `wrong` makes the error of a digest that is not the layer's.
    pub fn check(self, layer: &Layer, wrong: fn(&Digest, &Digest) -> Error) -> Result<(), Error> {
        if self.count < layer.blob.size {
            let size = layer.blob.size;
            return Err(Error::new(format!("cannot use the blob: it ended after {} of {size} bytes", self.count)));
        }
        let received = Digest::from_bytes(&self.hash.finalize());
        explain::tell(
            &Checked { what: "blob", digest: &layer.blob.digest },
            "the manifest names the blob by its digest: nobody on the way can have put another in its place",
        );
        match received == layer.blob.digest {
            true => Ok(()),
            false => Err(wrong(&layer.blob.digest, &received)),
        }
    }
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Blob {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            self.chunk = match (&mut self.source, &mut self.copy) {
                (Source::Stream { kept, .. }, Some(copy)) if *kept > 0 => {
                    let chunk = read_chunk(copy, *kept)?;
                    *kept -= chunk.len() as u64;
                    chunk
                }
                (Source::Stream { incoming, .. }, copy) => {
                    let chunk = incoming.blocking_recv().unwrap_or_default();
                    if let Some(copy) = copy {
                        copy.write_all(&chunk)?;
                    }
                    chunk
                }
                (Source::File(_, ended), _) if ended.load(Relaxed) => Bytes::new(),
                (Source::File(file, _), _) => read_chunk(file, u64::MAX)?,
            };
            self.hash.update(&self.chunk);
            self.count += self.chunk.len() as u64;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        self.chunk.advance(count);
    }
}

fn read_chunk(file: &mut File, limit: u64) -> io::Result<Bytes> {
    const CHUNK: usize = 256 << 10;
    let mut buffer = vec![0; CHUNK.min(usize::try_from(limit).unwrap_or(CHUNK))];
    let count = file.read(&mut buffer)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

/// A digest compared with what was promised, as a step of the narrative.
pub struct Checked<'a> {
    pub what: &'static str,
    pub digest: &'a Digest,
}

impl fmt::Display for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256({}) == {}", self.what, self.digest.hex())
    }
}

impl Explained for Checked<'_> {
    fn aim(&self) -> String {
        format!("check the {}", self.what)
    }
    fn source(&self) -> &'static str {
        "image-spec, descriptor.md, Digests"
    }
    fn by_hand(&self) -> String {
        match self.what {
            "blob" => "sha256sum blob".into(),
            _ => "gunzip --stdout blob | sha256sum".into(),
        }
    }
}
