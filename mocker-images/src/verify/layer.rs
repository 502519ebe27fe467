//! A layer's directory against its archive: the same names, kinds, modes, owners, link targets and contents.
//!
//! Not compared: times and extended attributes, and files whose holes the archive describes in a form of its own. What is
//! settled by the fix-up above the layers (links into a lower layer, directories that no entry names) is not expected here.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mocker_common::digest::DiffId;
use mocker_common::error::{Error, failed};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use tar::Archive;

use super::archive::{self, Hashed};
use super::expected::{Expected, Item, Kind, join, shown};

/// More than these say nothing new.
const SHOWN: usize = 5;

/// What is wrong with a layer's directory. Fails if the archive cannot be read.
pub fn compare(blob: &Path, directory: &Path, diff_id: &DiffId) -> Result<Vec<String>, Error> {
    let unreadable = || failed("read the archive in", blob.display());
    let root = Root::open(directory)?;
    let mut archive = Archive::new(Hashed::new(archive::open(blob)?));
    let mut expected = Expected::default();
    for entry in archive.entries().map_err(unreadable())? {
        let is_same = |path: &[u8], wanted: &mut tar::Entry<'_, _>| root.has_content(path, wanted);
        expected.take(entry.map_err(unreadable())?, is_same).map_err(unreadable())?;
    }
    let mut rest = archive.into_inner();
    rest.drain().map_err(unreadable())?;
    let found = rest.digest();
    if found != diff_id.0 {
        return Ok(vec![format!("layer: the archive in {} is {found}, not {diff_id}", blob.display())]);
    }

    let mut damages: Vec<String> = expected.differences(&root);
    damages.extend(root.extras(&expected));
    let more = damages.len().saturating_sub(SHOWN);
    damages.truncate(SHOWN);
    let mut damages: Vec<String> =
        damages.into_iter().map(|damage| format!("layer: {}/{damage}", directory.display())).collect();
    if more > 0 {
        damages.push(format!("layer: {} differs from its archive in {more} more places", directory.display()));
    }
    Ok(damages)
}

impl Expected {
    fn differences(&self, root: &Root) -> Vec<String> {
        let differs = |(path, item): (&Vec<u8>, &Item)| {
            self.difference(root, path, item).map(|difference| format!("{} {difference}", shown(path)))
        };
        self.items.iter().filter_map(differs).collect()
    }

    /// What differs at one path, in words.
    fn difference(&self, root: &Root, path: &[u8], item: &Item) -> Option<String> {
        let stat = match root.stat(path) {
            Some(stat) => stat,
            None if item.kind == Kind::Whiteout && self.is_below_opaque(path) => return None,
            None if matches!(&item.kind, Kind::Link { target } if !self.items.contains_key(target)) => return None,
            None => return Some("is missing".into()),
        };
        let found = FileType::from_raw_mode(stat.st_mode);
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let fits = match &item.kind {
            Kind::Directory { .. } => found == FileType::Directory,
            Kind::File { .. } => found == FileType::RegularFile,
            Kind::Symlink { .. } => found == FileType::Symlink,
            Kind::Other { kind, device } => found == *kind && number == *device,
            // The second is the form without root.
            Kind::Whiteout => {
                (found == FileType::CharacterDevice && number == (0, 0))
                    || (found == FileType::RegularFile && stat.st_size == 0)
            }
            Kind::Link { .. } | Kind::Something => true,
        };
        if !fits {
            return Some(format!("is another kind of file than in its archive: {found:?}"));
        }
        match &item.kind {
            Kind::File { same: false } => return Some("has other contents than in its archive".into()),
            Kind::Symlink { target } if root.link(path) != *target => {
                return Some(format!("leads to {}", shown(&root.link(path))));
            }
            Kind::Link { target } => {
                let before = self.items.get(target).is_some_and(|target| target.order < item.order);
                let inode = root.stat(target).map(|stat| stat.st_ino);
                if before && inode != Some(stat.st_ino) {
                    return Some(format!("is no longer the same file as {}", shown(target)));
                }
            }
            _ => {}
        }
        let (mode, uid, gid) = item.attributes?;
        let found = (stat.st_mode & 0o7777, u64::from(stat.st_uid), u64::from(stat.st_gid));
        if item.kind != (Kind::Whiteout) && found.0 != mode {
            return Some(format!("has mode {:o}, not {mode:o}", found.0));
        }
        // Without root everything belongs to who unpacked it.
        let owned = rustix::process::geteuid().is_root() && (found.1, found.2) != (uid, gid);
        owned.then(|| format!("belongs to {}:{}, not {uid}:{gid}", found.1, found.2))
    }
}

/// The layer's directory. Nothing in it leads out of it.
struct Root {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Root {
    fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())
            .map_err(|errno| failed("open", path.display())(errno.into()))?;
        Ok(Root { path: path.into(), descriptor })
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Option<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.descriptor, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS).ok()
    }

    fn stat(&self, path: &[u8]) -> Option<Stat> {
        rustix::fs::fstat(self.open_at(path, OFlags::PATH)?).ok()
    }

    fn link(&self, path: &[u8]) -> Vec<u8> {
        let target =
            self.open_at(path, OFlags::PATH).and_then(|link| rustix::fs::readlinkat(link, "", Vec::new()).ok());
        target.map(|target| target.into_bytes()).unwrap_or_default()
    }

    /// Whether a file's content is what `wanted` yields. Reads `wanted` to its end as far as it is the same.
    fn has_content(&self, path: &[u8], wanted: &mut impl Read) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK; // a fifo in a file's place must not hold us up
        let Some(mut file) = self.open_at(path, flags).map(File::from) else { return Ok(false) };
        if !file.metadata()?.is_file() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            let count = fill(wanted, &mut theirs)?;
            if fill(&mut file, &mut ours)? != count || ours[..count] != theirs[..count] {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }

    /// What lies in the directory and in no entry of the archive.
    fn extras(&self, expected: &Expected) -> Vec<String> {
        let mut extras = Vec::new();
        let mut open = vec![Vec::new()];
        while let Some(directory) = open.pop() {
            let place = self.path.join(std::ffi::OsStr::from_bytes(&directory));
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                let path = join(&directory, entry.file_name().as_bytes());
                let is_directory = entry.metadata().is_ok_and(|metadata| metadata.mode() & 0o170_000 == 0o040_000);
                if !expected.items.contains_key(&path) && !expected.is_parent(&path) {
                    extras.push(format!("{} is not in its archive", shown(&path)));
                } else if is_directory {
                    open.push(path);
                }
            }
        }
        extras.sort();
        extras
    }
}

/// Reads until the buffer is full or the end is reached.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}
