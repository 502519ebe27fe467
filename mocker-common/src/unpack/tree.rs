//! The tree of a layer while it grows: every path is found beneath the root's descriptor, and what directories the
//! layer has is kept, since their times come last and the notes need to know which of them no entry named.
//!
//! A parent is opened with `openat2`, which refuses to leave the root or to follow a link. Where it meets a link, or
//! nothing, the path is walked component by component instead: links are read here and restart at the layer's root,
//! what is missing is made. The kernel's own RESOLVE_IN_ROOT would be as safe, but it cannot make what is missing,
//! and it does not tell where it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::step::{Cause, KernelCall, report, step};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::calls::{
    At, ChangeMode, ChangeOwner, MakeDirectory, OpenBeneath, OpenRoot, Remove, SetTimes, SetXattr, Target, repeated,
    split,
};
use super::limits::over_limit;
use super::member::{Member, Time};
use super::notes::shown;
use super::{DEFAULT_ACL, Limits, SETGID};
use crate::rootless;

/// How overlayfs' marks are written: with root's attributes, or with those an ordinary user may set (and mounts with
/// `userxattr`). A kernel reads only one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Root,
    /// In a user namespace: devices are left out.
    Mapped,
    /// The same with one id: owners stay the user's own, too.
    OneId,
}

impl Form {
    pub fn of_this_process() -> Self {
        // Asked for every file by some; it is decided by `rootless::enter`, before any file is looked at.
        static FORM: OnceLock<Form> = OnceLock::new();
        let is_root = || rustix::process::geteuid().is_root();
        *FORM.get_or_init(|| match () {
            _ if is_root() && !rootless::in_user_namespace() => Form::Root,
            _ if is_root() && !rootless::has_one_id() => Form::Mapped,
            _ => Form::OneId,
        })
    }

    /// Whether files can be given to those whose the image says they are.
    pub fn keeps_owners(self) -> bool {
        self != Form::OneId
    }

    pub fn opaque_xattr(self) -> &'static [u8] {
        match self {
            Form::Root => b"trusted.overlay.opaque",
            Form::Mapped | Form::OneId => b"user.overlay.opaque",
        }
    }
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    Nothing,
    Whiteout,
    Directory,
    Other,
}

/// What is remembered of a directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Set when the layer is complete: each file made in a directory changes its time.
    pub mtime: Time,
    /// No entry named it (so far).
    pub implicit: bool,
    pub opaque: bool,
    /// Set when the layer is complete, too: files made in the directory would inherit it.
    pub default_acl: Option<Vec<u8>>,
    /// A mode with setgid, which comes last as well: what is made in such a directory gets its group.
    pub setgid_mode: Option<u32>,
}

impl Directory {
    /// What is left for the end of a directory that this entry names.
    pub fn named(member: &Member) -> Self {
        let setgid_mode = (member.mode & SETGID != 0).then_some(member.mode);
        Directory { mtime: member.mtime, setgid_mode, ..Directory::default() }
    }
}

/// A layer's tree. Paths in it are real ones: no component but the last is a link.
pub struct Tree {
    root: OwnedFd,
    limits: Limits,
    pub form: Form,
    /// The directory opened last, by its real path: most entries follow a sibling.
    open: Option<(Vec<u8>, OwnedFd)>,
    /// The parent found last: as the tar spelled it, and its real path.
    found: Option<(Vec<u8>, Vec<u8>)>,
    /// Bits that the process's umask takes from the mode of what is made.
    pub umask: u32,
    pub directories: BTreeMap<Vec<u8>, Directory>,
    pub whiteouts: BTreeSet<Vec<u8>>,
    /// Hard links whose target is not here: path and target.
    pub links: BTreeMap<Vec<u8>, Vec<u8>>,
    pub opaque_root: bool,
    pub entries: u64,
    /// Bytes of memory that names take: of directories, whiteouts, links without a target.
    names: u64,
}

/// As the kernel: more links than this in one path are a circle.
const MAX_LINKS: usize = 40;

impl Tree {
    /// Takes over an empty directory. It gets the mode of a root that no entry names, and sheds what it inherited.
    pub fn begin(into: &Path, limits: &Limits) -> Result<Self, Error> {
        let root = step(OpenRoot(into)).because(
            "all paths of the layer are resolved beneath this descriptor, so that none of its links leads outside",
        )?;
        let form = Form::of_this_process();
        let target = Target::File(root.as_fd(), b"");
        const WHY: &str = "the topmost layer's root is the container's `/`: closed to others, no service could start";
        if form.keeps_owners() {
            step(ChangeOwner { target, uid: 0, gid: 0 }).because(WHY)?;
        }
        step(ChangeMode { target, mode: 0o755 }).because(WHY)?;
        // An access list that the store's directory hands on would reach every file of the layer; most have none.
        fs::fremovexattr(&root, "system.posix_acl_default").unwrap_or_default();
        let implicit = Directory { implicit: true, ..Directory::default() };
        Ok(Tree {
            root,
            limits: limits.clone(),
            form,
            open: None,
            found: None,
            umask: umask(),
            directories: BTreeMap::from([(Vec::new(), implicit)]),
            whiteouts: BTreeSet::new(),
            links: BTreeMap::new(),
            opaque_root: false,
            entries: 0,
            names: 0,
        })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Counts an entry of the tar, or a directory made for one.
    pub fn count(&mut self, path: &[u8]) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(over_limit(path, "--max-layer-entries", self.limits.entries, "files"));
        }
        Ok(())
    }

    /// Opens a directory of the tree by its real path.
    pub fn open(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            let call = OpenBeneath { root: self.root.as_fd(), path, follow: false };
            let fd = repeated(
                &TOLD,
                call,
                "a link planted by an earlier entry must not lead this one outside; the kernel refuses to follow it",
            )?;
            self.open = Some((path.to_vec(), fd));
        }
        Ok(self.open.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// What stands at a real path whose parent exists.
    pub fn look(&mut self, path: &[u8]) -> Result<Found, Error> {
        if path.is_empty() {
            return Ok(Found::Directory);
        }
        let dir = self.open(split(path).0)?;
        look_at(dir, split(path).1).map_err(|errno| unreadable(path, errno))
    }

    /// Whether a path leads through a file of this layer. Whatever lower layers had there is gone with that file: a whiteout
    /// at such a place, as umoci writes them, has nothing to hide, and must not make a directory of the file.
    pub fn is_within_file(&mut self, path: &[u8]) -> Result<bool, Error> {
        for end in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end) {
            let parent = &path[..end];
            if self.directories.contains_key(parent) {
                continue;
            }
            if self.links.contains_key(parent) {
                return Ok(true);
            }
            match self.look(parent)? {
                Found::Directory => {}
                Found::Nothing | Found::Whiteout => return Ok(false),
                Found::Other => {
                    let dir = self.open(split(parent).0)?;
                    return Ok(fs::readlinkat(dir, split(parent).1, Vec::new()).is_err());
                }
            }
        }
        Ok(false)
    }

    /// The real path of an entry whose clean path this is. Afterwards its parent exists and is a directory.
    ///
    /// A parent that is a symbolic link is followed inside the root. Where its target is missing, it is made, as an
    /// implicit directory: the link's target is then in a lower layer, and overlayfs merges that with ours.
    pub fn settle(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok(path.to_vec());
        }
        if let Some((spelled, real)) = &self.found
            && spelled == parent
        {
            return Ok(join(real, name));
        }
        let call = OpenBeneath { root: self.root.as_fd(), path: parent, follow: false };
        let real = match call.call() {
            Ok(fd) => {
                self.open = Some((parent.to_vec(), fd));
                parent.to_vec()
            }
            Err(Cause { errno: libc::ENOENT | libc::ENOTDIR | libc::ELOOP, .. }) => self.walk(parent)?,
            Err(cause) => return Err(report(&call, "the entry belongs in this directory", cause)),
        };
        let settled = join(&real, name);
        self.found = Some((parent.to_vec(), real));
        Ok(settled)
    }

    /// Walks to a directory, following links inside the root, making what is missing. Returns its real path.
    fn walk(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let mut ahead = backwards(path);
        let mut real: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            if component == b".." {
                real.truncate(split(&real).0.len());
                continue;
            }
            let next = join(&real, &component);
            if self.directories.contains_key(&next) {
                real = next;
                continue;
            }
            let dir = self.open(&real)?;
            match look_at(dir, &component).map_err(|errno| unreadable(&next, errno))? {
                Found::Directory => real = next,
                Found::Nothing => {
                    self.make_implicit(&next, false)?;
                    real = next;
                }
                Found::Whiteout => {
                    self.make_implicit(&next, true)?;
                    real = next;
                }
                Found::Other => match fs::readlinkat(dir, &component[..], Vec::new()) {
                    Ok(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Error::new(format!(
                                "cannot unpack the layer: the directory '{}' is a circle of symbolic links",
                                shown(path)
                            )));
                        }
                        if target.to_bytes().starts_with(b"/") {
                            real.clear();
                        }
                        ahead.extend(backwards(target.to_bytes()));
                    }
                    Err(_) => {
                        self.make_implicit(&next, true)?;
                        real = next;
                    }
                },
            }
        }
        Ok(real)
    }

    /// Makes a directory that the tar did not name, with the invented mode that the fix-up later puts right. One made
    /// in place of something must not show what lies below that.
    fn make_implicit(&mut self, path: &[u8], in_place: bool) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        self.count(path)?;
        let in_place = in_place || self.links.remove(path).is_some();
        if in_place {
            self.displace(path)?;
        }
        let at = At { dir: self.open(split(path).0)?, path };
        repeated(&TOLD, MakeDirectory { at, mode: 0o755 }, "the entry's parent is not in this layer's tar")?;
        if self.umask & 0o755 != 0 {
            let target = Target::Name(At { dir: self.open(split(path).0)?, path });
            static MODE: AtomicBool = AtomicBool::new(false);
            repeated(&MODE, ChangeMode { target, mode: 0o755 }, "the umask must not decide about an image's files")?;
        }
        self.remember(path, Directory { implicit: true, ..Directory::default() })?;
        if in_place {
            self.opaque(path)?;
        }
        Ok(())
    }

    /// Notes a directory that now exists. Below an opaque root it begins anew.
    pub fn remember(&mut self, path: &[u8], directory: Directory) -> Result<(), Error> {
        let depth = path.iter().filter(|byte| **byte == b'/').count() + 1;
        if depth as u64 > self.limits.depth {
            return Err(over_limit(path, "--max-path-depth", self.limits.depth, "directories in each other"));
        }
        let known = self.directories.insert(path.to_vec(), directory).is_some();
        if !known {
            self.charge(path, path.len())?;
        }
        if self.opaque_root && !path.is_empty() && !path.contains(&b'/') {
            // The mark set on the root counts for what comes later, too.
            self.opaque_root = false;
            let marked = self.opaque(path);
            self.opaque_root = true;
            return marked;
        }
        Ok(())
    }

    /// Counts what is kept in memory until the layer is complete. What is forgotten again stays counted.
    pub fn charge(&mut self, path: &[u8], bytes: usize) -> Result<(), Error> {
        self.names += bytes as u64 + 64;
        match self.names > self.limits.names_bytes {
            true => Err(over_limit(path, "--max-names-size", self.limits.names_bytes, "bytes of names to be kept")),
            false => Ok(()),
        }
    }

    /// Removes what stands at a real path, and all memory of it.
    pub fn displace(&mut self, path: &[u8]) -> Result<Found, Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        self.links.remove(path);
        let found = self.look(path)?;
        if found == Found::Nothing {
            return Ok(found);
        }
        let at = At { dir: self.open(split(path).0)?, path };
        repeated(&TOLD, Remove(at), "the last entry of a name wins; what stands there is of another kind")?;
        self.whiteouts.remove(path);
        if found != Found::Whiteout {
            // A directory or a link may have been part of the way to what is open.
            (self.open, self.found) = (None, None);
        }
        if found == Found::Directory {
            self.directories.remove(path);
            for gone in keys_below(&self.directories, path) {
                self.directories.remove(&gone);
            }
            for gone in keys_below(&self.links, path) {
                self.links.remove(&gone);
            }
            for gone in self.whiteouts_below(path) {
                self.whiteouts.remove(&gone);
            }
        }
        Ok(found)
    }

    pub fn whiteouts_below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let (from, to) = below(path);
        match path {
            b"" => self.whiteouts.iter().cloned().collect(),
            _ => self.whiteouts.range::<[u8], _>((Included(&from[..]), Excluded(&to[..]))).cloned().collect(),
        }
    }

    pub fn directories_at_the_top(&self) -> Vec<Vec<u8>> {
        let at_the_top = |path: &&Vec<u8>| !path.is_empty() && !path.contains(&b'/');
        self.directories.keys().filter(at_the_top).cloned().collect()
    }

    /// Whether nothing of lower layers shows at this path.
    pub fn is_below_opaque(&self, path: &[u8]) -> bool {
        let mut ancestor = path;
        while !ancestor.is_empty() {
            ancestor = split(ancestor).0;
            if self.directories.get(ancestor).is_some_and(|directory| directory.opaque) {
                return true;
            }
        }
        self.opaque_root && path.contains(&b'/')
    }

    /// Notes that a directory is opaque. False if it was already.
    pub fn mark_opaque(&mut self, path: &[u8]) -> bool {
        let directory = self.directories.entry(path.to_vec()).or_default();
        !std::mem::replace(&mut directory.opaque, true)
    }

    /// Gives all directories their times, the deepest first, and what they hand on to new files.
    pub fn finish(&mut self) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "each file made in a directory changed its time, so directories come last, the deepest first";
        const ACL_WHY: &str = "files made in the directory would have inherited it, so it comes after them";
        const MODE_WHY: &str = "with setgid on it, the directory would have given its group to the files made in it";
        let directories = std::mem::take(&mut self.directories);
        for (path, directory) in directories.iter().rev() {
            let dir = self.open(split(path).0)?;
            let target = match &path[..] {
                b"" => Target::File(dir, b""),
                _ => Target::Name(At { dir, path }),
            };
            if let Some(mode) = directory.setgid_mode {
                step(ChangeMode { target, mode }).because(MODE_WHY)?;
            }
            if let Some(value) = &directory.default_acl {
                let done = step(SetXattr { target, name: DEFAULT_ACL, value }).because(ACL_WHY);
                if !matches!(done, Err(Error { errno: libc::EOPNOTSUPP, .. })) {
                    done?;
                }
            }
            repeated(&TOLD, SetTimes { target, mtime: directory.mtime }, WHY)?;
        }
        self.directories = directories;
        Ok(())
    }
}

/// The components of a path, the next one to walk last; `..` among them, for links have it.
pub fn backwards(path: &[u8]) -> Vec<Vec<u8>> {
    let useful = |component: &&[u8]| !component.is_empty() && component != b".";
    path.split(|byte| *byte == b'/').filter(useful).rev().map(<[u8]>::to_vec).collect()
}

pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The bounds between which all paths below this one lie: `0` follows `/`.
fn below(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    ([path, b"/"].concat(), [path, b"0"].concat())
}

fn keys_below<V>(map: &BTreeMap<Vec<u8>, V>, path: &[u8]) -> Vec<Vec<u8>> {
    let (from, to) = below(path);
    map.range::<[u8], _>((Included(&from[..]), Excluded(&to[..]))).map(|(key, _)| key.clone()).collect()
}

/// What a name in a directory is; links are not followed.
pub fn look_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Found, Errno> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(errno) => Err(errno),
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::Other,
        }),
    }
}

fn unreadable(path: &[u8], errno: Errno) -> Error {
    crate::error::failed("look at the layer's", shown(path))(errno.into())
}

/// The process's umask. Asking umask(2) would change it under the other threads, so it is read from /proc; where that
/// fails every mode is set by a call of its own.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

/// Opens a directory itself, to change its attributes; never a link.
pub fn open_directory(at: At<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at.dir, at.name(), flags, Mode::empty())
        .map_err(|errno| crate::error::failed("open the layer's directory", shown(at.path))(errno.into()))
}
