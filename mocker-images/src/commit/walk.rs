//! The upper directory of an overlay as a layer's tar.
//!
//! Overlayfs marks a removed file by a character device 0:0, a directory begun anew by an attribute; a layer has
//! `.wh.NAME` and `.wh..wh..opq` for these. All else goes in as it is: owners, modes, times to the nanosecond,
//! attributes, hard links, devices. Holes are written as zeros: docker and podman read the sparse form of tar, but
//! cannot save or push an image that has it ("could not verify layer data").
//!
//! A container may be running and hostile. So every name is opened beneath its directory's descriptor, never through a
//! link, and what was opened is what is looked at; devices are not opened at all.
//! Source: image-spec, layer.md; Documentation/filesystems/overlayfs.rst.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use mocker_common::error::{Error, failed};
use mocker_common::units::format_size;
use mocker_common::unpack::is_wanted;
use mocker_common::unpack::member::{Kind, Member, Time};
use mocker_common::unpack::notes::shown;
use mocker_common::unpack::tree::Form;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, major, minor, openat};
use rustix::io::Errno;

use super::below;
use super::left_behind::names;
use crate::TOOL;
use crate::pack::{Pack, plain};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Holes of more than this are worth a word.
const LARGE: u64 = 1 << 30;

/// The walk through the upper directory.
pub struct Walk<'a, W> {
    pub pack: Pack<W>,
    lower: &'a [PathBuf],
    left_behind: &'a BTreeSet<Vec<u8>>,
    /// files with several names, by device and inode: the first name
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    pub entries: u64,
}

impl<'a, W: Write> Walk<'a, W> {
    pub fn new(out: W, lower: &'a [PathBuf], left_behind: &'a BTreeSet<Vec<u8>>) -> Self {
        Walk { pack: Pack::new(out), lower, left_behind, links: HashMap::new(), buffer: vec![0; 256 << 10], entries: 0 }
    }

    /// Packs the root and all below it.
    pub fn root(&mut self, upper: OwnedFd) -> Result<(), Error> {
        let stat = fstat(&upper).map_err(reading(b""))?;
        self.directory(upper, b"", &stat)
    }

    fn directory(&mut self, directory: OwnedFd, path: &[u8], stat: &Stat) -> Result<(), Error> {
        let attributes = Attributes::read(directory.as_fd(), path)?;
        let with_slash = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        self.put(&Member { xattrs: attributes.wanted, ..member(with_slash, Kind::Directory, stat) })?;
        // The kernel marks whatever directory is new; a layer says it where there is something to hide.
        if attributes.opaque && below::look(self.lower, path)?.is_some() {
            self.put(&plain(join(path, OPAQUE), Kind::File, 0o600))?;
        }
        for name in names(directory.as_fd()).map_err(reading(path))? {
            self.name(directory.as_fd(), path, &name)?;
        }
        Ok(())
    }

    /// One name of a directory, whatever it is.
    fn name(&mut self, directory: BorrowedFd<'_>, parent: &[u8], name: &[u8]) -> Result<(), Error> {
        let path = join(parent, name);
        if self.left_behind.contains(&path) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()), // removed since the directory was read
            found => found.map_err(reading(&path))?,
        };
        let stat = fstat(&found).map_err(reading(&path))?;
        if below::is_whiteout(&stat) {
            let hidden = plain(join(parent, &[WHITEOUT, name].concat()), Kind::File, 0o600);
            return self.put(&hidden);
        }
        if name.starts_with(WHITEOUT) {
            warn(&path, "left out: in a layer such a name removes another file");
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(&found, ".", flags, Mode::empty()).map_err(reading(&path))?;
            return self.directory(opened, &path, &stat);
        }
        if kind == FileType::Socket {
            warn(&path, "left out: a socket ends with the program that listens on it");
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                return self.put(&Member { link: first, ..member(path, Kind::HardLink, &stat) });
            }
            self.links.insert(key, path.clone());
        }
        let xattrs = Attributes::read(found.as_fd(), &path)?.wanted;
        let node =
            |kind| Member { device: (major(stat.st_rdev), minor(stat.st_rdev)), ..member(path.clone(), kind, &stat) };
        let member = match kind {
            FileType::RegularFile => return self.file(found.as_fd(), xattrs, path, &stat),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&found, "", Vec::new()).map_err(reading(&path))?.into_bytes();
                Member { link, ..member(path, Kind::Symlink, &stat) }
            }
            FileType::CharacterDevice => node(Kind::Character),
            FileType::BlockDevice => node(Kind::Block),
            _ => member(path, Kind::Fifo, &stat),
        };
        self.put(&Member { xattrs, ..member })
    }

    fn file(
        &mut self,
        found: BorrowedFd<'_>,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        path: Vec<u8>,
        stat: &Stat,
    ) -> Result<(), Error> {
        // Opened anew by its descriptor: the name may lead elsewhere by now.
        let by_descriptor = format!("/proc/self/fd/{}", found.as_raw_fd());
        let file = File::open(by_descriptor).map_err(failed("read", shown(&path)))?;
        let size = stat.st_size as u64;
        self.put(&Member { size, xattrs, ..member(path.clone(), Kind::File, stat) })?;

        let written = stat.st_blocks as u64 * 512;
        if size.saturating_sub(written) > LARGE {
            let holes = format_size(size - written);
            warn(
                &path,
                &format!(
                    "its holes, {holes}, are written as zeros, as docker does: truncate it before if it is of no use"
                ),
            );
        }
        let mut at = 0;
        while at < size {
            let piece = if written < size { next_piece(&file, at, size) } else { Ok((at, size)) };
            let (start, end) = piece.map_err(failed("read", shown(&path)))?;
            self.pack.zeros(start - at).map_err(super::layer::written)?;
            at = self.copy(&file, &path, start, end)?;
            if at < end {
                break; // cut off meanwhile
            }
        }
        if self.pack.left() > 0 {
            warn(&path, "it was cut off while it was read; the rest is zeros");
        }
        self.pack.zeros(self.pack.left()).map_err(super::layer::written)
    }

    /// Copies a stretch of a file. Returns where it ended: before `end` if the file does.
    fn copy(&mut self, file: &File, path: &[u8], mut at: u64, end: u64) -> Result<u64, Error> {
        while at < end {
            let wanted = (end - at).min(self.buffer.len() as u64) as usize;
            match file.read_at(&mut self.buffer[..wanted], at) {
                Ok(0) => break,
                Ok(count) => {
                    self.pack.data(&self.buffer[..count]).map_err(super::layer::written)?;
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", shown(path))(error)),
            }
        }
        Ok(at)
    }

    fn put(&mut self, member: &Member) -> Result<(), Error> {
        self.entries += 1;
        self.pack.member(member).map_err(super::layer::written)
    }
}

/// The next stretch of data at or after `at`; an empty one at the end where only a hole follows.
fn next_piece(file: &File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).map_or(size, |end| end.min(size));
    Ok((start, end))
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn member(path: Vec<u8>, kind: Kind, stat: &Stat) -> Member {
    let mtime = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    Member { uid: stat.st_uid, gid: stat.st_gid, mtime, ..plain(path, kind, stat.st_mode & 0o7777) }
}

/// The extended attributes of a file.
struct Attributes {
    /// those that a layer holds
    wanted: Vec<(Vec<u8>, Vec<u8>)>,
    /// overlayfs' mark of a directory that shows nothing of the layers below
    opaque: bool,
}

impl Attributes {
    /// Of whatever a descriptor stands for, links and devices too: hence by its path in /proc.
    fn read(file: BorrowedFd<'_>, path: &[u8]) -> Result<Self, Error> {
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut attributes = Attributes { wanted: Vec::new(), opaque: false };
        let mut names = vec![0; 64 << 10]; // a list is never longer (listxattr(2))
        let length = match rustix::fs::listxattr(&by_descriptor, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            length => length.map_err(reading(path))?,
        };
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let opaque = name == b"trusted.overlay.opaque" || name == b"user.overlay.opaque";
            if !opaque && !is_wanted(name, Form::of_this_process()) {
                continue;
            }
            let mut value = vec![0; 64 << 10];
            let length = match rustix::fs::getxattr(&by_descriptor, name, &mut value[..]) {
                Err(Errno::NODATA) => continue,
                length => length.map_err(reading(path))?,
            };
            value.truncate(length);
            match opaque {
                true => attributes.opaque |= value == b"y",
                false if name.contains(&b'=') => {
                    warn(path, &format!("its attribute {} is left out: a tar cannot hold the name", shown(name)))
                }
                false => attributes.wanted.push((name.to_vec(), value)),
            }
        }
        attributes.wanted.sort();
        Ok(attributes)
    }
}

fn reading(path: &[u8]) -> impl FnOnce(Errno) -> Error {
    let path = shown(path);
    move |errno| failed("read", path)(errno.into())
}

fn warn(path: &[u8], what: &str) {
    eprintln!("{TOOL}: {}: {what}", shown(path));
}
