//! A layer's archive as a stream: unpacked from its blob, hashed as it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use mocker_common::digest::Digest;
use mocker_common::error::{Error, failed};
use sha2::{Digest as _, Sha256};

/// Passes on what it reads and knows its digest at the end.
pub struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R) -> Self {
        Hashed { inner, hasher: Sha256::new() }
    }

    /// Reads to the end: what follows a tar's end marker counts for its digest too. Returns how much that was.
    pub fn drain(&mut self) -> io::Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(length),
                count => length += count as u64,
            }
        }
    }

    pub fn digest(self) -> Digest {
        Digest::from_bytes(&self.hasher.finalize())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Opens a layer's blob and undoes its compression, told by its first bytes: the media type may be wrong.
pub fn open(blob: &Path) -> Result<Box<dyn Read>, Error> {
    let refused = || failed("read", blob.display());
    let mut file = BufReader::with_capacity(256 << 10, File::open(blob).map_err(refused())?);
    let start = file.fill_buf().map_err(refused())?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)), // many members: pigz, estargz
        // A zstd frame, or a skippable one before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::Decoder::with_buffer(file).map_err(refused())?)
        }
        _ => Box::new(file),
    })
}
