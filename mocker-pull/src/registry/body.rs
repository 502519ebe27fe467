//! A blob of the store as the body of a request: read, hashed and sent in one pass.
//!
//! A damaged file must not leave the machine, so the last piece is held back until the digest of all is known to be
//! right: a registry then never has the whole of a wrong blob, and the error is about this disk, not about that registry.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::{Error, failed};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::manifest::Descriptor;

/// How much is read at once, and how many such pieces may wait for the network.
const PIECE: usize = 128 << 10;
const WAITING: usize = 4;

/// A blob of the store. Its file is open: it can be read to its end whatever becomes of its name.
#[derive(Debug)]
pub struct Source {
    pub blob: Descriptor,
    /// for the narrative
    pub path: PathBuf,
    file: File,
    /// the bytes handed to the network so far
    position: AtomicU64,
    /// how far it was hashed, so that the next part need not begin anew
    hashed: Mutex<Option<(u64, Sha256)>>,
    fault: Mutex<Option<Error>>,
}

impl Source {
    /// Opens the file of a blob. One that has not the size of its descriptor is refused here already.
    pub fn open(blob: &Descriptor, path: PathBuf) -> Result<Source, Error> {
        let file = File::open(&path).map_err(failed("read", path.display()))?;
        let length = file.metadata().map_err(failed("read", path.display()))?.len();
        let source = Source {
            blob: blob.clone(),
            path,
            file,
            position: AtomicU64::new(0),
            hashed: Mutex::default(),
            fault: Mutex::default(),
        };
        if length != blob.size {
            return Err(source.damaged(format!("it has {length} bytes, its manifest says {}", blob.size)));
        }
        if length == 0 && Digest::from_bytes(&sha256(b"")) != blob.digest {
            return Err(source.damaged("it is empty".into()));
        }
        Ok(source)
    }

    /// How many of its bytes the network has taken.
    pub fn position(&self) -> u64 {
        self.position.load(Relaxed)
    }

    /// What was wrong with the file itself, if that is why a request with it has failed.
    pub fn fault(&self) -> Option<Error> {
        locked(&self.fault).take()
    }

    fn damaged(&self, how: String) -> Error {
        Error::new(format!("cannot send blob {}: it is damaged in the store", self.blob.digest.short()))
            .said(how)
            .said(self.path.display().to_string())
            .why("a registry keeps what it is given under its digest; what does not match would be of use to nobody")
            .likely("the disk has lost a part of it, or something else has written there")
            .hint("mocker-images verify")
    }
}

/// Some of a blob's bytes, on their way into a request.
#[derive(Clone, Debug)]
pub struct Part {
    pub source: Arc<Source>,
    /// the first byte
    pub from: u64,
    /// the one behind the last
    pub to: u64,
}

impl Part {
    pub fn length(&self) -> u64 {
        self.to - self.from
    }

    /// Whether the network has taken all of it.
    pub fn is_sent(&self) -> bool {
        self.source.position() >= self.to
    }

    /// Begins to read on a thread of its own, which ends with the body.
    pub fn body(&self) -> reqwest::Body {
        let (sender, pieces) = mpsc::channel(WAITING);
        self.source.position.store(self.from, Relaxed);
        let part = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = part.read(&sender) {
                *locked(&part.source.fault) = Some(error);
                // The body must end in an error: one that merely stops short could look complete.
                sender.blocking_send(Err(io::Error::other("the blob is damaged"))).unwrap_or_default();
            }
        });
        reqwest::Body::wrap(Pieces { pieces, source: self.source.clone(), left: self.length() })
    }

    /// Reads, hashes and hands over. A receiver that is gone (the request has ended) is no error.
    fn read(&self, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Error> {
        let source = &self.source;
        let known = locked(&source.hashed).take().filter(|(at, _)| *at <= self.from);
        let (mut at, mut hash) = known.unwrap_or_default();
        while at < self.to {
            let end = if at < self.from { self.from } else { self.to };
            let mut piece = vec![0; PIECE.min((end - at) as usize)];
            source.file.read_exact_at(&mut piece, at).map_err(failed("read", source.path.display()))?;
            hash.update(&piece);
            at += piece.len() as u64;
            if at == source.blob.size {
                let digest = Digest::from_bytes(&hash.clone().finalize());
                if digest != source.blob.digest {
                    return Err(source.damaged(format!("its digest is {digest}")));
                }
            }
            if at > self.from && sender.blocking_send(Ok(piece.into())).is_err() {
                return Ok(());
            }
        }
        *locked(&source.hashed) = Some((at, hash));
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // plain data, good after a panic too
}

/// What comes from the reading thread. Its exact length becomes the request's Content-Length.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    source: Arc<Source>,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.poll_recv(context).map(|received| {
            let piece = received?;
            if let Ok(piece) = &piece {
                self.left = self.left.saturating_sub(piece.len() as u64);
                self.source.position.fetch_add(piece.len() as u64, Relaxed);
            }
            Some(piece.map(Frame::data))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
