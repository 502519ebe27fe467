//! One layer in one pass: from the socket to files, with both digests, through memory that does not grow.
//!
//! ```text
//! download ──chunks──► A: blob file, sha256 of the blob, decompress ──buffers──► B: sha256 of the tar, unpack
//!  (async)  bounded      (a thread)                          ▲        bounded      (a thread)   │
//!                                                            └────────── empty buffers ─────────┘
//! ```
//!
//! Both channels are bounded: a slow disk slows the socket, and nothing piles up. What is written lies in `tmp/` and is
//! renamed only when both digests are right; to check them before anything is used would take a second pass.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::lock::Lock;
use mocker_common::publish;
use mocker_common::step::Explained;
use mocker_common::store::{Store, Temporary};
use mocker_common::unpack::compression::{self, MAGIC};
use mocker_common::unpack::{self, Limits};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::spawn_blocking;

use crate::manifest::Layer;
use crate::progress::{Bar, Progress};
use crate::registry::Repository;
use crate::registry::download::wrong_digest;

/// Chunks of the network on their way to thread A.
const CHUNKS: usize = 8;
/// Buffers of uncompressed tar on their way to thread B.
const BUFFERS: usize = 8;
const BUFFER: usize = 256 << 10;

/// What the layers of one pull share.
pub struct Work {
    pub store: Store,
    pub repository: Repository,
    pub progress: Arc<Progress>,
    /// how many layers are worked on at once
    slots: Semaphore,
    /// when the last sync that is finished had begun; held during one
    synced: Mutex<Option<Instant>>,
}

impl Work {
    /// A layer keeps up to two threads busy; one more than there are cores fills the gaps between them.
    pub fn new(store: Store, repository: Repository, progress: Arc<Progress>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Work { store, repository, progress, slots: Semaphore::new(cores + 1), synced: Mutex::new(None) }
    }

    /// Brings to disk what was written until `ready`. What is ready while a sync runs shares the next one.
    pub async fn sync(&self, place: &Arc<Temporary>, ready: Instant) -> Result<(), Error> {
        let mut synced = self.synced.lock().await;
        if synced.is_some_and(|begun| begun >= ready) {
            return Ok(());
        }
        let begun = Instant::now();
        let place = place.clone();
        joined(spawn_blocking(move || publish::to_disk(place.path())).await)?;
        *synced = Some(begun);
        Ok(())
    }
}

/// Brings a layer and its blob into the store. What is there already is not fetched again; what another pull is just
/// fetching is waited for.
pub async fn fetch(work: &Work, layer: &Layer) -> Result<(), Error> {
    let store = &work.store;
    let bar = work.progress.layer(layer);
    if has_blob(store, layer) && has_files(store, layer) {
        bar.end("here already");
        return Ok(());
    }
    bar.state("waiting");
    let slot = work.slots.acquire().await.map_err(|_| Error::new("cannot go on: the pull has ended"))?;
    let _locks = lock(store, layer, &bar).await?;

    // Whoever had the lock may have done it all.
    let (blob, files) = (has_blob(store, layer), has_files(store, layer));
    if blob && files {
        bar.end("here already");
        return Ok(());
    }
    let place = Arc::new(store.temporary()?);
    let wanted = Wanted { blob: !blob, files: !files };
    let outcome = pass(work, layer, &place, wanted, &bar).await;
    let (wanted, place) = match outcome {
        Ok(()) => (wanted, place),
        Err(error) if wanted.blob || is_sound(store, layer).await? => return Err(error),
        Err(_) => {
            work.progress
                .say(&format!("layer {} is damaged in the store; fetching it again", layer.blob.digest.short()));
            let (wanted, place) = (Wanted { blob: true, ..wanted }, Arc::new(store.temporary()?));
            pass(work, layer, &place, wanted, &bar).await?;
            (wanted, place)
        }
    };
    drop(slot);

    bar.state("to disk");
    work.sync(&place, Instant::now()).await?;
    if wanted.blob {
        publish::blob(&place.path().join("blob"), &store.blob(&layer.blob.digest))?;
    }
    if wanted.files {
        let notes_file = (&*place.path().join("notes"), &*store.layer_notes(&layer.diff_id));
        publish::layer(notes_file, (&place.path().join("files"), &store.layer(&layer.diff_id)))?;
    }
    match wanted.blob {
        true => bar.done(layer.blob.size),
        false => bar.end("unpacked"),
    }
    Ok(())
}

fn has_blob(store: &Store, layer: &Layer) -> bool {
    fs::metadata(store.blob(&layer.blob.digest)).is_ok_and(|blob| blob.len() == layer.blob.size)
}

fn has_files(store: &Store, layer: &Layer) -> bool {
    store.layer(&layer.diff_id).is_dir() && store.layer_notes(&layer.diff_id).is_file()
}

/// Takes the locks of the blob and of the files, which are one and the same where a layer is not compressed. All take
/// them in the order of their names, so nobody waits in a circle.
pub(crate) async fn lock(store: &Store, layer: &Layer, bar: &Bar<'_>) -> Result<Vec<Lock>, Error> {
    let mut names = [layer.blob.digest.hex(), layer.diff_id.0.hex()];
    names.sort();
    let distinct = if names[0] == names[1] { &names[..1] } else { &names[..] };
    let mut locks = Vec::new();
    for name in distinct {
        // Asked for again and again rather than waited for: a wait inside the kernel could not be interrupted.
        loop {
            match store.try_lock(name)? {
                Some(lock) => break locks.push(lock),
                None => bar.state("another pull is at it"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(locks)
}

/// What of a layer is missing in the store.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub blob: bool,
    pub files: bool,
}

/// The one pass. Leaves `blob`, `files` and `notes` in `place`, as far as they are wanted, both digests checked.
pub(crate) async fn pass(
    work: &Work,
    layer: &Layer,
    place: &Arc<Temporary>,
    wanted: Wanted,
    bar: &Bar<'_>,
) -> Result<(), Error> {
    let (chunks, incoming) = mpsc::channel(CHUNKS);
    let (full, filled) = sync_channel(BUFFERS);
    let (empty, emptied) = channel();
    let hopeless = Arc::new(AtomicBool::new(false));

    let ended = Ended(Arc::default());
    let source = match wanted.blob {
        true => Source::Network(incoming),
        false => {
            let path = work.store.blob(&layer.blob.digest);
            Source::File(File::open(&path).map_err(failed("open", path.display()))?, ended.0.clone())
        }
    };
    let reading = spawn_blocking({
        let (layer, place, hopeless) = (layer.clone(), place.clone(), hopeless.clone());
        move || read_blob(source, &layer, place.path(), Buffers { full, emptied }, &hopeless)
    });
    let writing = spawn_blocking({
        let (diff_id, place) = (layer.diff_id.clone(), place.clone());
        move || {
            let mut tar = Tar { filled, empty, buffer: Vec::new(), at: 0, end: 0, hash: Sha256::new(), over: false };
            let written = write_files(&mut tar, &diff_id, place.path(), wanted.files);
            // A failed system call ends the pass; a bad archive does not, since a wrong digest may explain it.
            hopeless.store(written.as_ref().is_err_and(|error| error.errno != 0), Relaxed);
            written
        }
    });
    bar.state(if wanted.blob { "" } else { "unpacking" });
    let downloaded = if wanted.blob { download(work, layer, chunks, bar).await } else { Ok(()) };
    bar.state("unpacking");

    // A broken download ends the threads' work early: what they say then is only its consequence. In the same way a
    // damaged blob is why an archive does not read.
    let (read, written) = (joined(reading.await), joined(writing.await));
    downloaded.and(read).and(written)
}

/// Hands the blob's bytes to thread A as they come.
async fn download(work: &Work, layer: &Layer, chunks: mpsc::Sender<Bytes>, bar: &Bar<'_>) -> Result<(), Error> {
    const WHY: &str = "a layer is asked for by its digest, not by a name: what comes back is right or is thrown away";
    let mut download = work.repository.download(&layer.blob, WHY);
    while let Some(chunk) = download.next().await? {
        bar.advance(chunk.len());
        if chunks.send(chunk).await.is_err() {
            break; // thread A has failed and will say why
        }
    }
    Ok(())
}

fn joined<T>(outcome: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    outcome.unwrap_or_else(|cause| Err(Error::new(format!("cannot go on: a thread of this program ended: {cause}"))))
}

/// Whether the blob in the store still has its digest.
async fn is_sound(store: &Store, layer: &Layer) -> Result<bool, Error> {
    let (path, expected) = (store.blob(&layer.blob.digest), layer.blob.digest.clone());
    let hashed = spawn_blocking(move || {
        let file = File::open(&path).map_err(failed("open", path.display()))?;
        let mut blob = Blob::new(Source::File(file, Arc::default()), None);
        blob.drain().map_err(failed("read", path.display()))?;
        Ok(Digest::from_bytes(&blob.hash.finalize()) == expected)
    });
    joined(hashed.await)
}

/// Thread A: keeps the blob, hashes it, and hands on what it holds, uncompressed.
fn read_blob(
    source: Source,
    layer: &Layer,
    place: &Path,
    buffers: Buffers,
    hopeless: &AtomicBool,
) -> Result<(), Error> {
    let path = place.join("blob");
    let copy = match &source {
        Source::Network(_) => Some(File::create_new(&path).map_err(failed("make", path.display()))?),
        Source::File(..) => None,
    };
    let mut blob = Blob::new(source, copy);
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
        blob.check(layer)?;
        let stopped = cause.kind() == io::ErrorKind::BrokenPipe;
        return if stopped { Ok(()) } else { Err(undecodable(layer, &cause)) };
    }
    blob.drain().map_err(failed("write", path.display()))?;
    blob.check(layer)
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
    let mut tar = compression::reader(compression, blob)?;
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
}

enum Source {
    Network(mpsc::Receiver<Bytes>),
    /// a blob that is here, and whether the pull has ended meanwhile: a download would end with it, a file does not
    File(File, Arc<AtomicBool>),
}

/// Tells the threads of a pass when nobody waits for them any more.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The blob as thread A reads it: each chunk is kept and hashed when it comes, whoever consumes it.
struct Blob {
    source: Source,
    copy: Option<File>,
    hash: Sha256,
    count: u64,
    chunk: Bytes,
}

impl Blob {
    fn new(source: Source, copy: Option<File>) -> Self {
        Blob { source, copy, hash: Sha256::new(), count: 0, chunk: Bytes::new() }
    }

    /// The first bytes, enough to tell the compression by; they stay to be read.
    fn first(&mut self) -> io::Result<&[u8]> {
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
    fn drain(&mut self) -> io::Result<()> {
        while !self.fill_buf()?.is_empty() {
            self.chunk.clear();
        }
        Ok(())
    }

    fn check(self, layer: &Layer) -> Result<(), Error> {
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
            false => Err(wrong_digest(&layer.blob.digest, &received)),
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
            self.chunk = match &mut self.source {
                Source::Network(incoming) => incoming.blocking_recv().unwrap_or_default(),
                Source::File(_, ended) if ended.load(Relaxed) => Bytes::new(),
                Source::File(file, _) => {
                    let mut buffer = vec![0; BUFFER];
                    let count = file.read(&mut buffer)?;
                    buffer.truncate(count);
                    buffer.into()
                }
            };
            self.hash.update(&self.chunk);
            self.count += self.chunk.len() as u64;
            if let Some(copy) = &mut self.copy {
                copy.write_all(&self.chunk)?;
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        self.chunk.advance(count);
    }
}

/// Thread B: makes files of the tar, and notes of what it left open.
fn write_files(tar: &mut Tar, diff_id: &DiffId, place: &Path, wanted: bool) -> Result<(), Error> {
    if !wanted {
        io::copy(tar, &mut io::sink()).map_err(failed("read", "the layer"))?;
        return tar.check(diff_id);
    }
    let files = place.join("files");
    fs::create_dir(&files).map_err(failed("make directory", files.display()))?;
    let notes = unpack::unpack(&mut *tar, &files, &Limits::default())?;
    tar.check(diff_id)?;
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

/// A digest compared with what was promised, as a step of the narrative.
struct Checked<'a> {
    what: &'static str,
    digest: &'a Digest,
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
