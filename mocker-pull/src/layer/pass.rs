//! One layer in one pass: from the socket to files, with both digests, through memory that does not grow.
//!
//! ```text
//! download ──chunks──► A: blob file, sha256 of the blob, decompress ──buffers──► B: sha256 of the tar, unpack
//!  (async)  bounded      (a thread)                          ▲        bounded      (a thread)   │
//!                                                            └────────── empty buffers ─────────┘
//! ```
//!
//! Both channels are bounded: a slow disk slows the socket, and nothing piles up. What is written lies aside and is
//! renamed only when both digests are right; to check them before anything is used would take a second pass.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::Bytes;
use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::store::Temporary;
use mocker_common::unpack::compression;
use mocker_common::unpack::limits::Expansion;
use mocker_common::unpack::{self, Limits};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Work;
use super::blob::{self, Blob, Checked};
use crate::manifest::Layer;
use crate::progress::Bar;
use crate::source::Source;

/// Chunks of the network on their way to thread A.
const CHUNKS: usize = 8;
/// Buffers of uncompressed tar on their way to thread B.
const BUFFERS: usize = 8;
const BUFFER: usize = 256 << 10;

/// What of a layer is missing in the store.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub blob: bool,
    pub files: bool,
}

/// The one pass. Leaves the blob at [`Pass::blob`], `files` and `notes` in `place`, as far as they are wanted, both
/// digests checked.
pub struct Pass<'a> {
    pub work: &'a Work,
    pub source: &'a Source,
    pub layer: &'a Layer,
    pub place: Arc<Temporary>,
    pub wanted: Wanted,
}

impl Pass<'_> {
    pub async fn run(&self, bar: &Bar<'_>) -> Result<(), Error> {
        let (layer, place, wanted) = (self.layer, &self.place, self.wanted);
        let (chunks, incoming) = mpsc::channel(CHUNKS);
        let (full, filled) = sync_channel(BUFFERS);
        let (empty, emptied) = channel();
        let hopeless = Arc::new(AtomicBool::new(false));

        let expansion = Expansion::of(&self.work.limits);
        let ended = Ended(Arc::default());
        let (blob, kept) = self.open(incoming, &ended)?;
        let reading = spawn_blocking({
            let (path, layer, wrong, hopeless) =
                (self.blob(), layer.clone(), self.source.wrong_digest(), hopeless.clone());
            let buffers = Buffers { full, emptied, expansion: expansion.clone() };
            move || read_blob(blob, &path, &layer, wrong, buffers, &hopeless)
        });
        let writing = spawn_blocking({
            let (diff_id, place, name) = (layer.diff_id.clone(), place.clone(), layer.blob.digest.short().to_string());
            let limits = self.work.limits.clone();
            move || {
                let mut tar =
                    Tar { filled, empty, buffer: Vec::new(), at: 0, end: 0, hash: Sha256::new(), over: false };
                let written = write_files(&mut tar, &diff_id, place.path(), wanted.files, (&limits, &expansion));
                let written = written.map_err(|error| error.while_doing(format_args!("layer {name}")));
                // A failed system call ends the pass; a bad archive does not, since a wrong digest may explain it.
                hopeless.store(written.as_ref().is_err_and(|error| error.errno != 0), Relaxed);
                written
            }
        });
        bar.state(if wanted.blob { "" } else { "unpacking" });
        bar.advance(kept as usize);
        let (downloaded, may_go_on) = match wanted.blob {
            true => self.download(kept, chunks, bar).await?,
            false => (Ok(()), false),
        };
        bar.state("unpacking");

        // A broken download ends the threads' work early: what they say then is only its consequence. In the same way a
        // damaged blob is why an archive does not read.
        let (read, written) = (joined(reading.await), joined(writing.await));
        // What came before a connection broke is worth keeping; what has a wrong digest is not.
        let is_worth_keeping = downloaded.is_err() && may_go_on;
        let outcome = downloaded.and(read).and(written);
        if outcome.is_err() && wanted.blob && !is_worth_keeping {
            fs::remove_file(self.blob()).unwrap_or_default(); // a name that is not there is as good
        }
        outcome
    }

    /// Where the blob is while it comes in.
    pub fn blob(&self) -> PathBuf {
        match self.source.is_remote() {
            true => self.work.store.partial(&self.layer.blob.digest),
            false => self.place.path().join("blob"),
        }
    }

    /// The blob that is to be read, and how much of it is here already.
    fn open(&self, incoming: mpsc::Receiver<Bytes>, ended: &Ended) -> Result<(Blob, u64), Error> {
        let digest = &self.layer.blob.digest;
        if !self.wanted.blob {
            let path = self.work.store.blob(digest);
            let file = File::open(&path).map_err(failed("open", path.display()))?;
            return Ok((Blob::new(blob::Source::File(file, ended.0.clone()), None), 0));
        }
        let path = self.blob();
        let open = || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let mut kept = file.metadata()?.len();
            if kept > self.layer.blob.size {
                file.set_len(0)?;
                kept = 0;
            }
            io::Result::Ok((file, kept))
        };
        let (file, kept) = open().map_err(failed("make", path.display()))?;
        Ok((Blob::new(blob::Source::Stream { incoming, kept }, Some(file)), kept))
    }

    /// Hands the blob's bytes to thread A as they come. Also says whether, after a failure, what came may be gone on with.
    async fn download(
        &self,
        kept: u64,
        chunks: mpsc::Sender<Bytes>,
        bar: &Bar<'_>,
    ) -> Result<(Result<(), Error>, bool), Error> {
        const WHY: &str =
            "a layer is asked for by its digest, not by a name: what comes back is right or is thrown away";
        let mut stream = self.source.blob(&self.layer.blob, kept, WHY)?;
        let outcome = loop {
            match stream.next().await {
                Ok(Some(chunk)) => {
                    bar.advance(chunk.len());
                    if chunks.send(chunk).await.is_err() {
                        break Ok(()); // thread A has failed and will say why
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        Ok((outcome, stream.may_go_on()))
    }
}

pub fn joined<T>(outcome: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    outcome.unwrap_or_else(|cause| Err(Error::new(format!("cannot go on: a thread of this program ended: {cause}"))))
}

/// Thread A: keeps the blob, hashes it, and hands on what it holds, uncompressed.
fn read_blob(
    mut blob: Blob,
    path: &Path,
    layer: &Layer,
    wrong: fn(&Digest, &Digest) -> Error,
    buffers: Buffers,
    hopeless: &AtomicBool,
) -> Result<(), Error> {
    let on_disk = |cause: &io::Error| cause.raw_os_error().is_some();
    let decoded = decompress(&mut blob, buffers);
    if let Err(cause) = decoded {
        if on_disk(&cause) {
            return Err(failed("write", path.display())(cause));
        }
        if hopeless.load(Relaxed) {
            return Ok(()); // thread B says why
        }
        // Whatever is wrong inside, a wrong digest explains it better: look at the rest.
        blob.drain().map_err(failed("write", path.display()))?;
        blob.check(layer, wrong)?;
        let stopped = cause.kind() == io::ErrorKind::BrokenPipe;
        return if stopped { Ok(()) } else { Err(undecodable(layer, &cause)) };
    }
    blob.drain().map_err(failed("write", path.display()))?;
    blob.check(layer, wrong)
}

fn undecodable(layer: &Layer, cause: &io::Error) -> Error {
    Error::new(format!("cannot unpack layer {}: {cause}", layer.blob.digest.short()))
        .said("its digest is right: it was pushed like this")
        .why("a layer is a tar, plain or compressed with gzip or zstd (image-spec, layer.md)")
        .likely("a broken tool has made the image")
}

/// Fills buffers with uncompressed tar until the blob has no more.
fn decompress(blob: &mut Blob, buffers: Buffers) -> io::Result<()> {
    let compression = compression::of(blob.first()?);
    let mut tar = compression::bounded(compression, blob, &buffers.expansion)?;
    let mut fresh = BUFFERS + 2;
    loop {
        let mut buffer = match buffers.emptied.try_recv() {
            Ok(used) => used,
            Err(_) if fresh > 0 => {
                fresh -= 1;
                vec![0; BUFFER]
            }
            Err(_) => buffers.emptied.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?,
        };
        let mut end = 0;
        while end < buffer.len() {
            match tar.read(&mut buffer[end..]) {
                Ok(0) => break,
                Ok(count) => end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
        // An empty buffer is the end; a channel that closes without one means that this thread has failed.
        buffers.full.send((buffer, end)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        if end == 0 {
            return Ok(());
        }
    }
}

/// Thread A's ends of the channels to and from thread B.
struct Buffers {
    full: SyncSender<(Vec<u8>, usize)>,
    emptied: Receiver<Vec<u8>>,
    expansion: Expansion,
}

/// Tells the threads of a pass when nobody waits for them any more.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Thread B: makes files of the tar, and notes of what it left open.
fn write_files(
    tar: &mut Tar,
    diff_id: &DiffId,
    place: &Path,
    wanted: bool,
    (limits, expansion): (&Limits, &Expansion),
) -> Result<(), Error> {
    if !wanted {
        io::copy(tar, &mut io::sink()).map_err(failed("read", "the layer"))?;
        return tar.check(diff_id);
    }
    let files = place.join("files");
    fs::create_dir(&files).map_err(failed("make directory", files.display()))?;
    let notes = unpack::unpack_blob(&mut *tar, &files, limits, expansion)?;
    tar.check(diff_id)?;
    if notes.devices_left_out > 0 {
        let count = notes.devices_left_out;
        eprintln!("{count} device nodes of the layer are left out: only the machine's root may make them");
    }
    let path = place.join("notes");
    let written = File::create_new(&path).and_then(|file| Ok(serde_json::to_writer(file, &notes)?));
    written.map_err(failed("write", path.display()))
}

/// The uncompressed tar as thread B reads it, hashed buffer by buffer.
struct Tar {
    filled: Receiver<(Vec<u8>, usize)>,
    empty: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    hash: Sha256,
    over: bool,
}

impl Tar {
    /// The digest covers the whole stream, what follows the archive's end mark too.
    fn check(&mut self, diff_id: &DiffId) -> Result<(), Error> {
        let received = DiffId(Digest::from_bytes(&self.hash.finalize_reset()));
        explain::tell(
            &Checked { what: "uncompressed tar", digest: &diff_id.0 },
            "the image's config names its layers by what they hold; the name of the store's directory must be true",
        );
        match received == *diff_id {
            true => Ok(()),
            false => Err(Error::new(format!("cannot use a layer: its diff_id is not {}", diff_id.0.short()))
                .said(format!("expected {diff_id}"))
                .said(format!("unpacked {received}"))
                .why("layers are shared by their diff_id: under a false one every image with it would get these files")
                .likely("a broken tool has made the image, or it is hostile")),
        }
    }
}

impl Read for Tar {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end && !self.over {
            let used = std::mem::take(&mut self.buffer);
            if !used.is_empty() {
                self.empty.send(used).unwrap_or_default(); // thread A may have all it needs
            }
            let next = self.filled.recv().map_err(|_| io::Error::other("the rest of the layer did not come"))?;
            ((self.buffer, self.end), self.at) = (next, 0);
            self.hash.update(&self.buffer[..self.end]);
            self.over = self.end == 0;
        }
        let count = out.len().min(self.end - self.at);
        out[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
