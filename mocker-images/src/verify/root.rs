//! A layer's directory as it is on disk. Nothing in it leads out of it: every name is looked at beneath a descriptor, and
//! no link is followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::KernelCall;
use mocker_common::unpack::calls::{OpenBeneath, split};
use mocker_common::unpack::is_wanted;
use mocker_common::unpack::member::{Member, Members};
use mocker_common::unpack::sparse::Piece;
use mocker_common::unpack::tree::Form;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, openat, readlinkat, seek, statat};

use super::layer::fill;

/// A directory of a layer.
pub struct Root {
    descriptor: OwnedFd,
    form: Form,
}

/// What stands at a name.
pub struct Found {
    pub stat: Stat,
    /// of a symlink
    pub target: Option<Vec<u8>>,
    /// those that an archive may set
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub is_opaque: bool,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, path, flags, Mode::empty());
        let descriptor = descriptor.map_err(|errno| failed("open", path.display())(errno.into()))?;
        Ok(Root { descriptor, form: Form::of_this_process() })
    }

    /// A directory below this one.
    pub fn enter(&self, path: &[u8]) -> Option<Root> {
        let opened = OpenBeneath { root: self.descriptor.as_fd(), path, follow: false }.call();
        opened.ok().map(|descriptor| Root { descriptor, form: self.form })
    }

    /// What a name of this directory is; an empty one is the directory itself.
    pub fn look(&self, name: &[u8]) -> Option<Found> {
        let name = if name.is_empty() { b"." } else { name };
        let stat = statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let target = is_link.then(|| readlinkat(&self.descriptor, name, Vec::new()).ok()).flatten();
        let all = self.xattrs(name);
        let is_opaque = all.get(self.form.opaque_xattr()).is_some_and(|value| value == b"y");
        let xattrs = all.into_iter().filter(|(name, _)| is_wanted(name, self.form)).collect();
        Some(Found { stat, target: target.map(|target| target.into_bytes()), xattrs, is_opaque })
    }

    /// The attributes of a name; none where they cannot be read.
    fn xattrs(&self, name: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let path = [format!("/proc/self/fd/{}/", self.descriptor.as_raw_fd()).as_bytes(), name].concat();
        let mut names = [0u8; 64 << 10]; // a list is never longer (listxattr(2))
        let length = rustix::fs::llistxattr(&path[..], &mut names[..]).unwrap_or(0);
        let mut found = BTreeMap::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0u8; 64 << 10];
            if let Ok(length) = rustix::fs::lgetxattr(&path[..], name, &mut value[..]) {
                value.truncate(length);
                found.insert(name.to_vec(), value);
            }
        }
        found
    }

    /// All names of this directory, sorted.
    pub fn names(&self) -> Vec<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&self.descriptor, ".", flags, Mode::empty()).and_then(Dir::new);
        let entries = opened.into_iter().flatten().flatten();
        let mut names: Vec<Vec<u8>> = entries.map(|entry| entry.file_name().to_bytes().to_vec()).collect();
        names.retain(|name| name != b"." && name != b"..");
        names.sort();
        names
    }

    /// How a file's content differs from what the archive holds for it; reads as much of that as is the same.
    pub fn content_differs<R: Read>(
        &self,
        path: &[u8],
        member: &Member,
        members: &mut Members<R>,
    ) -> Result<Option<String>, Error> {
        const OTHER: &str = "has other contents than in its archive";
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC; // a fifo must not hold us up
        let opened =
            self.enter(split(path).0).map(|place| openat(&place.descriptor, split(path).1, flags, Mode::empty()));
        let Some(Ok(file)) = opened.map(|opened| opened.map(File::from)) else { return Ok(None) }; // told when it is looked for
        let wrong = |error| failed("read", String::from_utf8_lossy(path))(error);
        let metadata = file.metadata().map_err(wrong)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        if metadata.len() != member.size {
            return Ok(Some(format!("has {} bytes, not {}", metadata.len(), member.size)));
        }
        let whole = [Piece { offset: 0, length: member.size }];
        let mut ours = vec![0; 64 << 10];
        for piece in member.pieces.as_deref().unwrap_or(&whole) {
            let (mut at, end) = (piece.offset, piece.offset + piece.length);
            while at < end {
                let theirs = members.data((end - at).min(ours.len() as u64))?;
                if theirs.is_empty() {
                    break;
                }
                let ours = &mut ours[..theirs.len()];
                if file.read_exact_at(ours, at).is_err() || ours != theirs {
                    return Ok(Some(OTHER.into()));
                }
                at += theirs.len() as u64;
            }
        }
        let holes = member.pieces.as_deref().map_or(Ok(true), |pieces| are_holes(&file, pieces)).map_err(wrong)?;
        Ok((!holes).then(|| OTHER.into()))
    }
}

/// Whether a sparse file holds nothing but zeros between its pieces. What is a hole on disk is not read.
fn are_holes(file: &File, pieces: &[Piece]) -> std::io::Result<bool> {
    let size = file.metadata()?.len();
    let ends = pieces.iter().map(|piece| piece.offset + piece.length);
    let starts = pieces.iter().map(|piece| piece.offset).chain([size]);
    let gaps = std::iter::once(0).chain(ends).zip(starts).filter(|(from, to)| from < to);
    let mut buffer = vec![0; 64 << 10];
    for (from, to) in gaps {
        let mut at = from;
        while at < to {
            at = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(to),
                Err(rustix::io::Errno::NXIO) => to, // nothing but a hole follows
                Err(errno) => return Err(errno.into()),
            };
            let hole = seek(file, SeekFrom::Hole(at)).unwrap_or(to).min(to);
            while at < hole {
                let wanted = buffer.len().min((hole - at) as usize);
                let count = file.read_at(&mut buffer[..wanted], at)?;
                if count == 0 || buffer[..count].iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
                at += count as u64;
            }
        }
    }
    Ok(true)
}

/// How two trees differ, in words: names, kinds, attributes, contents.
pub fn compare_trees(right: &Path, found: &Path) -> Result<Vec<String>, Error> {
    let (right, found) = (Root::open(right)?, Root::open(found)?);
    let mut differences = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let (Some(a), Some(b)) = (right.enter(&path), found.enter(&path)) else { continue };
        let (names, others) = (a.names(), b.names());
        let shown = |name: &[u8]| mocker_common::unpack::notes::shown(&mocker_common::unpack::tree::join(&path, name));
        for name in others.iter().filter(|name| !names.contains(name)) {
            differences.push(format!("{} does not belong there", shown(name)));
        }
        let own = path.is_empty().then(Vec::new);
        for name in own.iter().chain(&names) {
            let (Some(right), Some(found)) = (a.look(name), b.look(name)) else {
                differences.push(format!("{} is missing", shown(name)));
                continue;
            };
            if let Some(what) = right.differs(&found).or_else(|| contents_differ(&a, &b, name, &right)) {
                differences.push(format!("{} has {what}", shown(name)));
            } else if FileType::from_raw_mode(right.stat.st_mode) == FileType::Directory && !name.is_empty() {
                open.push(mocker_common::unpack::tree::join(&path, name));
            }
        }
    }
    Ok(differences)
}

impl Found {
    fn differs(&self, other: &Found) -> Option<&'static str> {
        let (a, b) = (&self.stat, &other.stat);
        let is_whiteout = FileType::from_raw_mode(a.st_mode) == FileType::CharacterDevice && a.st_rdev == 0;
        match () {
            _ if a.st_mode & 0o170_000 != b.st_mode & 0o170_000 || a.st_rdev != b.st_rdev => Some("another kind"),
            _ if is_whiteout => None,
            _ if a.st_mode != b.st_mode => Some("another mode"),
            _ if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid) => Some("another owner"),
            _ if (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec) => Some("another time"),
            _ if self.target != other.target => Some("another target"),
            _ if self.xattrs != other.xattrs || self.is_opaque != other.is_opaque => Some("other attributes"),
            _ => None,
        }
    }
}

fn contents_differ(a: &Root, b: &Root, name: &[u8], found: &Found) -> Option<&'static str> {
    if FileType::from_raw_mode(found.stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let open = |root: &Root| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&root.descriptor, name, flags, Mode::empty()).map(File::from).ok()
    };
    let (mut a, mut b) = (open(a)?, open(b)?);
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        match (fill(&mut a, &mut ours), fill(&mut b, &mut theirs)) {
            (Ok(0), Ok(0)) => return None,
            (Ok(one), Ok(other)) if ours[..one] == theirs[..other] => {}
            _ => return Some("other contents"),
        }
    }
}
