//! A layer's directory against its archive: the same names, kinds, modes, owners, link targets and contents.
//!
//! Not compared: times and extended attributes, and files whose holes the archive describes in a form of its own. What is
//! settled by the fix-up above the layers (links into a lower layer, directories that no entry names) is not expected here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mocker_common::digest::DiffId;
use mocker_common::error::{Error, failed};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use tar::{Archive, Entry, EntryType};

use super::archive::{self, Hashed};

/// More than these say nothing new.
const SHOWN: usize = 5;

/// What is wrong with a layer's directory. Fails if the archive cannot be read.
pub fn compare(blob: &Path, directory: &Path, diff_id: &DiffId) -> Result<Vec<String>, Error> {
    let unreadable = || failed("read the archive in", blob.display());
    let root = Root::open(directory)?;
    let mut archive = Archive::new(Hashed::new(archive::open(blob)?));
    let mut expected = Expected::default();
    for entry in archive.entries().map_err(unreadable())? {
        expected.take(&root, entry.map_err(unreadable())?).map_err(unreadable())?;
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

/// What should stand at a path.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Directory {
        opaque: bool,
    },
    /// whether the content read from the archive is the file's
    File {
        same: bool,
    },
    /// a hard link to a path of this layer, or of a lower one
    Link {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Other {
        kind: FileType,
        device: (u32, u32),
    },
    Whiteout,
    /// it must be there; more cannot be told
    Something,
}

#[derive(Clone, Debug)]
struct Item {
    kind: Kind,
    /// mode, uid, gid; None where the archive does not say
    attributes: Option<(u32, u64, u64)>,
    /// its place in the archive
    order: usize,
}

/// What the archive leaves when it is unpacked from its first entry to its last: at each path the last one wins.
#[derive(Default)]
struct Expected {
    items: BTreeMap<Vec<u8>, Item>,
    order: usize,
    opaque_root: bool,
}

impl Expected {
    fn take<R: Read>(&mut self, root: &Root, mut entry: Entry<'_, R>) -> io::Result<()> {
        self.order += 1;
        let Some(path) = clean(&entry.path_bytes()).map(|path| self.resolve_parent(&path)) else { return Ok(()) };
        let (parent, name) = split(&path);
        if let Some(order) = name.strip_prefix(b".wh.") {
            match order {
                b".wh..opq" => self.make_opaque(parent.to_vec()),
                aufs if aufs.starts_with(b".wh.") => {}
                hidden => self.whiteout(join(parent, hidden)),
            }
            return Ok(());
        }

        let header = entry.header();
        let (mut uid, mut gid, mut sparse) = (header.uid()?, header.gid()?, false);
        let mode = header.mode()? & 0o7777;
        let device =
            (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
        let kind = header.entry_type();
        for extension in entry.pax_extensions().ok().flatten().into_iter().flatten().flatten() {
            let number = || extension.value().ok()?.parse().ok();
            match extension.key_bytes() {
                b"uid" => uid = number().unwrap_or(uid),
                b"gid" => gid = number().unwrap_or(gid),
                key => sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        let link = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        let kind = match kind {
            _ if sparse => Kind::Something,
            EntryType::Directory => Kind::Directory { opaque: false },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File { same: root.has_content(&path, &mut entry)? }
            }
            EntryType::Link => {
                Kind::Link { target: clean(&link).map(|path| self.resolve_parent(&path)).unwrap_or_default() }
            }
            EntryType::Symlink => Kind::Symlink { target: link },
            EntryType::Char => Kind::Other { kind: FileType::CharacterDevice, device },
            EntryType::Block => Kind::Other { kind: FileType::BlockDevice, device },
            EntryType::Fifo => Kind::Other { kind: FileType::Fifo, device: (0, 0) },
            _ => return Ok(()),
        };
        let attributes = match kind {
            Kind::Symlink { .. } => Some((0o777, uid, gid)),
            Kind::Link { .. } | Kind::Something => None,
            _ => Some((mode, uid, gid)),
        };
        self.put(path, kind, attributes);
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, mut kind: Kind, attributes: Option<(u32, u64, u64)>) {
        // A name whose parent is no directory makes it one.
        let mut parent = split(&path).0.to_vec();
        while !parent.is_empty() {
            if self.items.get(&parent).is_some_and(|item| !matches!(item.kind, Kind::Directory { .. })) {
                self.items.remove(&parent);
            }
            parent = split(&parent).0.to_vec();
        }
        match (&mut kind, self.items.get(&path).map(|item| &item.kind)) {
            // A directory over a directory keeps what is in it; over a whiteout it hides what is below.
            (Kind::Directory { opaque }, Some(Kind::Directory { opaque: before })) => *opaque = *before,
            (Kind::Directory { opaque }, Some(Kind::Whiteout)) => *opaque = true,
            (Kind::Directory { .. }, _) => {}
            _ => self.remove_below(&path),
        }
        self.items.insert(path, Item { kind, attributes, order: self.order });
    }

    fn remove_below(&mut self, path: &[u8]) {
        let prefix = join(path, b"");
        self.items.retain(|other, _| !other.starts_with(&prefix));
    }

    /// Hides what lower layers have at a path; what this layer has there stays.
    fn whiteout(&mut self, path: Vec<u8>) {
        let is_parent = self.is_parent(&path);
        match self.items.get_mut(&path) {
            Some(Item { kind: Kind::Directory { opaque }, .. }) => *opaque = true,
            Some(_) => {}
            None if is_parent => {}
            None => self.put(path, Kind::Whiteout, None),
        }
    }

    fn make_opaque(&mut self, path: Vec<u8>) {
        match self.items.get_mut(&path) {
            _ if path.is_empty() => self.opaque_root = true, // overlayfs knows no opaque root: the fix-up's
            Some(Item { kind: Kind::Directory { opaque }, .. }) => *opaque = true,
            _ => self.put(path, Kind::Directory { opaque: true }, None),
        }
    }

    /// Whether something is expected below a path.
    fn is_parent(&self, path: &[u8]) -> bool {
        let prefix = join(path, b"");
        self.items.range(prefix.clone()..).next().is_some_and(|(other, _)| other.starts_with(&prefix))
    }

    fn is_below_opaque(&self, path: &[u8]) -> bool {
        let mut parent = split(path).0;
        while !parent.is_empty() {
            if self.items.get(parent).is_some_and(|item| item.kind == Kind::Directory { opaque: true }) {
                return true;
            }
            parent = split(parent).0;
        }
        self.opaque_root
    }

    /// Follows the symlinks that this layer has on the way to a path, as if its root were `/`.
    fn resolve_parent(&self, path: &[u8]) -> Vec<u8> {
        const LIMIT: usize = 40;
        let mut path = path.to_vec();
        for _ in 0..LIMIT {
            let parents = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
            let link = parents.into_iter().find_map(|end| match self.items.get(&path[..end]).map(|item| &item.kind) {
                Some(Kind::Symlink { target }) => Some((end, target.clone())),
                _ => None,
            });
            let Some((end, target)) = link else { return path };
            let base = if target.starts_with(b"/") { Vec::new() } else { split(&path[..end]).0.to_vec() };
            path = normal(&join(&join(&base, &target), &path[end + 1..]));
        }
        path
    }

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

/// A path without empty parts and dots; None for one that leads out, which no unpacker makes.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    (!parts.contains(&&b".."[..])).then(|| parts.join(&b'/'))
}

/// The same with `..` resolved; above the root there is the root.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A name of an archive, safe to print on a terminal.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .flat_map(|c| if c.is_control() { '?'.escape_default() } else { c.escape_default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(entries: &[(&str, Kind)]) -> Expected {
        let mut expected = Expected::default();
        for (path, kind) in entries {
            expected.order += 1;
            let path = expected.resolve_parent(path.as_bytes());
            match kind {
                Kind::Whiteout => expected.whiteout(path),
                kind => expected.put(path, kind.clone(), None),
            }
        }
        expected
    }

    fn names(expected: &Expected) -> Vec<String> {
        expected.items.keys().map(|path| shown(path)).collect()
    }

    const FILE: Kind = Kind::File { same: true };
    const DIRECTORY: Kind = Kind::Directory { opaque: false };

    #[test]
    fn the_last_entry_of_a_path_wins_and_a_file_takes_a_directory_away() {
        let expected = expect(&[("a", DIRECTORY), ("a/b", FILE), ("a", DIRECTORY), ("c", FILE)]);
        assert_eq!(names(&expected), ["a", "a/b", "c"]);
        let expected = expect(&[("a", DIRECTORY), ("a/b", FILE), ("a", FILE)]);
        assert_eq!(names(&expected), ["a"]);
    }

    #[test]
    fn a_symlink_on_the_way_is_followed_inside_the_layer() {
        let to = |target: &str| Kind::Symlink { target: target.into() };
        let expected = expect(&[("run", DIRECTORY), ("var/run", to("/run")), ("var/run/lock", FILE)]);
        assert_eq!(names(&expected), ["run", "run/lock", "var/run"]);
        let expected = expect(&[("x/up", to("../../../y")), ("x/up/z", FILE)]);
        assert_eq!(names(&expected), ["x/up", "y/z"]);
        let around = expect(&[("a", to("a")), ("a/b", FILE)]);
        assert!(!names(&around).is_empty(), "a link to itself ends");
    }

    #[test]
    fn a_whiteout_hides_what_is_below_and_not_what_the_layer_has() {
        let expected = expect(&[("a", FILE), ("a", Kind::Whiteout), ("b", Kind::Whiteout), ("b", DIRECTORY)]);
        assert_eq!(expected.items[&b"a"[..]].kind, FILE);
        assert_eq!(expected.items[&b"b"[..]].kind, Kind::Directory { opaque: true });
        assert!(expected.is_below_opaque(b"b/c") && !expected.is_below_opaque(b"a"));
    }

    #[test]
    fn paths_are_cleaned_and_those_that_lead_out_are_none() {
        assert_eq!(clean(b"./a//b/"), Some(b"a/b".to_vec()));
        assert_eq!(clean(b"/"), Some(Vec::new()));
        assert_eq!(clean(b"a/../b"), None);
    }
}
