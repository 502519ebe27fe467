//! One pass: the container's directory to a tar, and the tar to both digests, a blob and an unpacked layer at once.
//!
//! ```text
//! walk ──► tar ──┬──► sha256 (the diff_id)
//!                ├──► gzip ──► sha256 (the blob's digest), blob file
//!                └──► the unpacker, in a thread of its own ──► files, notes
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::publish;
use mocker_common::step::Explained;
use mocker_common::store::Store;
use mocker_common::units::format_size;
use mocker_common::unpack::{self, Limits};
use sha2::{Digest as _, Sha256};

use super::container::Container;
use super::walk::Walk;
use super::{below, left_behind};

/// A layer that lies in a temporary directory: `blob`, `files`, `notes`.
pub struct Layer {
    pub diff_id: DiffId,
    pub digest: Digest,
    pub size: u64,
    entries: u64,
}

/// Stretches of tar on their way to the unpacker.
const STRETCHES: usize = 8;
const BUFFER: usize = 256 << 10;

/// Packs what the container has written into `place`. None if that is nothing.
pub fn pack(container: &Container, place: &Path) -> Result<Option<Layer>, Error> {
    let Container { upper, lower, .. } = container;
    let left_behind = left_behind::find(upper, lower)?;
    let opened = |cause: rustix::io::Errno| failed("read", upper.display())(cause.into());
    let root = below::open_directory(upper, b"").map_err(opened)?;
    if is_unchanged(upper, lower, &left_behind)? {
        return Ok(None);
    }

    explain::tell(
        &Packed { upper },
        "two digests, the blob and the unpacked layer come of one reading: a second could find other files",
    );
    let files = place.join("files");
    fs::create_dir(&files).map_err(failed("make directory", files.display()))?;
    let (stretches, incoming) = sync_channel(STRETCHES);
    let unpacking = thread::spawn(move || {
        unpack::unpack(Incoming { stretches: incoming, current: Vec::new(), at: 0 }, &files, &Limits::default())
    });
    let walked = Tee::begin(&place.join("blob"), stretches).and_then(|tee| {
        let mut walk = Walk::new(BufWriter::with_capacity(BUFFER, tee), lower, &left_behind);
        walk.root(root)?;
        let entries = walk.entries;
        let out = walk.pack.finish().map_err(written)?;
        out.into_inner().map_err(|error| written(error.into_error()))?.finish(entries)
    });
    let unpacked = unpacking.join().unwrap_or_else(|_| Err(Error::new("cannot go on: a thread of this program ended")));
    let (layer, notes) = match (walked, unpacked) {
        // The one that stopped first is the reason; an unpacker that lost its source only tells of it.
        (Err(error), Err(other)) if other.errno == 0 => return Err(error),
        (_, Err(error)) | (Err(error), Ok(_)) => return Err(error),
        (Ok(layer), Ok(notes)) => (layer, notes),
    };
    let path = place.join("notes");
    let wrote = File::create_new(&path).and_then(|file| Ok(serde_json::to_writer(file, &notes)?));
    wrote.map_err(failed("write", path.display()))?;
    Ok(Some(layer))
}

/// Whether the upper directory says nothing: no names but mocker's own, and the root as the image has it.
fn is_unchanged(
    upper: &Path,
    lower: &[std::path::PathBuf],
    left_behind: &std::collections::BTreeSet<Vec<u8>>,
) -> Result<bool, Error> {
    let wrong = |errno: rustix::io::Errno| failed("read", upper.display())(errno.into());
    let root = below::open_directory(upper, b"").map_err(wrong)?;
    let names = left_behind::names(std::os::fd::AsFd::as_fd(&root)).map_err(wrong)?;
    let now = rustix::fs::fstat(&root).map_err(wrong)?;
    let as_before = match lower.first() {
        None => true,
        Some(top) => rustix::fs::stat(top)
            .is_ok_and(|top| (top.st_mode, top.st_uid, top.st_gid) == (now.st_mode, now.st_uid, now.st_gid)),
    };
    Ok(as_before && names.iter().all(|name| left_behind.contains(name)))
}

impl Layer {
    /// Puts the layer where images look for it. One that the store has already, to the byte, stays.
    pub fn publish(&self, store: &Store, place: &Path) -> Result<(), Error> {
        let mut names = [self.digest.hex(), self.diff_id.0.hex()];
        names.sort(); // all take them in this order, so nobody waits in a circle
        let _locks = names.iter().map(|name| store.lock(name)).collect::<Result<Vec<_>, _>>()?;
        let (blob, directory) = (store.blob(&self.digest), store.layer(&self.diff_id));
        if !fs::metadata(&blob).is_ok_and(|there| there.len() == self.size) {
            publish::blob(&place.join("blob"), &blob)?;
        }
        let notes = store.layer_notes(&self.diff_id);
        if !directory.is_dir() || !notes.is_file() {
            publish::layer((&place.join("notes"), &notes), (&place.join("files"), &directory))?;
        }
        Ok(())
    }

    /// For people.
    pub fn summary(&self) -> String {
        format!("{} entries, {} compressed", self.entries, format_size(self.size))
    }
}

/// The pass, as a step of the narrative.
struct Packed<'a> {
    upper: &'a Path,
}

impl fmt::Display for Packed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tar(\"{}\") | sha256, gzip | sha256, unpack", self.upper.display())
    }
}

impl Explained for Packed<'_> {
    fn aim(&self) -> String {
        format!("pack {}", self.upper.display())
    }
    fn source(&self) -> &'static str {
        "image-spec, layer.md; Documentation/filesystems/overlayfs.rst, Whiteouts and opaque directories"
    }
    fn by_hand(&self) -> String {
        format!(
            "tar --xattrs --create -C {} . | tee >(sha256sum >&2) | gzip | tee layer.tar.gz | sha256sum",
            self.upper.display()
        )
    }
}

/// What went wrong with the layer's bytes.
pub fn written(cause: io::Error) -> Error {
    failed("write", "the new layer")(cause)
}

/// The tar's three ways.
struct Tee {
    tar: Sha256,
    blob: GzEncoder<Hashed>,
    stretches: SyncSender<Vec<u8>>,
}

impl Tee {
    fn begin(blob: &Path, stretches: SyncSender<Vec<u8>>) -> Result<Self, Error> {
        let file = File::create_new(blob).map_err(failed("make", blob.display()))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let blob = GzEncoder::new(Hashed { file, hasher: Sha256::new(), count: 0 }, Compression::default());
        Ok(Tee { tar: Sha256::new(), blob, stretches })
    }

    fn finish(self, entries: u64) -> Result<Layer, Error> {
        self.stretches.send(Vec::new()).unwrap_or_default(); // the end; the unpacker's own error says why it is gone
        let mut blob = self.blob.finish().map_err(written)?;
        blob.file.flush().map_err(written)?;
        Ok(Layer {
            diff_id: DiffId(Digest::from_bytes(&self.tar.finalize())),
            digest: Digest::from_bytes(&blob.hasher.finalize()),
            size: blob.count,
            entries,
        })
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar.update(bytes);
        self.blob.write_all(bytes)?;
        let gone = |_| io::Error::other("the unpacker has ended");
        self.stretches.send(bytes.to_vec()).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blob's file and its digest.
struct Hashed {
    file: BufWriter<File>,
    hasher: Sha256,
    count: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The unpacker's end of the tar.
struct Incoming {
    stretches: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            // A channel that closes without an empty stretch means that the walk has failed: that is no end of a tar.
            let gone = |_| io::Error::other("the rest of the layer did not come");
            (self.current, self.at) = (self.stretches.recv().map_err(gone)?, 0);
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
