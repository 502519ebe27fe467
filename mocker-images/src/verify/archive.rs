//! A layer's archive as a stream: unpacked from its blob, both digests taken as it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use mocker_common::digest::Digest;
use mocker_common::unpack::compression::{self, MAGIC};
use sha2::{Digest as _, Sha256};

const BUFFER: usize = 256 << 10;

/// Passes on what it reads and knows its length and digest at the end.
pub struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R) -> Self {
        Hashed { inner, hasher: Sha256::new(), length: 0 }
    }

    /// Reads to the end: what follows a tar's end marker counts for its digest too.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while self.read(&mut buffer)? > 0 {}
        Ok(())
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn digest(self) -> Digest {
        Digest::from_bytes(&self.hasher.finalize())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

/// Opens a blob to be hashed as it is read.
pub fn open(blob: &Path) -> io::Result<Hashed<File>> {
    Ok(Hashed::new(File::open(blob)?))
}

/// What a blob holds, uncompressed.
pub fn uncompressed<'a>(blob: &'a mut Hashed<File>) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(BUFFER, blob);
    let first = reader.fill_buf()?;
    let compression = compression::of(&first[..first.len().min(MAGIC)]);
    compression::reader(compression, reader)
}
