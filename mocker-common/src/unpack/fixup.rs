//! The fix-up: a thin layer on top of an image's own that settles what each of them, unpacked alone, left open.
//!
//! Layers are shared by images, so none may be changed for one stack; what depends on the stack goes above it.
//!
//! - A directory that a tar did not name was invented (0755, root's), and in an overlay the topmost directory's
//!   attributes win: /tmp would lose its 1777. The fix-up repeats it with the attributes of the nearest layer below
//!   that does name it.
//! - A hard link into a lower layer is made here, as overlayfs itself would make it: the file is *copied* up and both
//!   names link to the copy. Linking to the lower layer's own file would be smaller, but changes that file's link
//!   count and time, in a layer that other images use and that `verify` compares.
//! - A parent that a tar did not name may be a symbolic link below: `lib/x` in a layer over one with `lib -> usr/lib`.
//!   Extracted on top, the file lands in usr/lib; stacked, the invented lib hides the link and all behind it. The
//!   fix-up puts the link back, and copies the files to where it leads.
//! - A whiteout is listed by overlayfs unless its directory is merged; one repeated here is.
//! - An opaque root, which overlayfs does not know, becomes a whiteout of each name that it hides.
//!
//! It never resurrects: what a higher layer removed, or began anew, gets nothing here. Its directories are never
//! opaque, so they hide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::digest::DiffId;
use crate::error::{Error, failed};
use crate::image::chain_id;
use crate::step::step;
use crate::store::Store;
use rustix::fs::{FileType, SeekFrom};

use self::plan::Plan;
use self::stack::Stack;
use super::calls::{
    At, ChangeMode, ChangeOwner, MakeDirectory, MakeFile, MakeHardLink, MakeNode, MakeSymlink, OpenBeneath, OpenRoot,
    SetTimes, SetXattr, Target, split,
};
use super::member::Time;
use super::tree::Form;
use super::{DEFAULT_ACL, is_wanted};

mod plan;
mod stack;

/// Makes the fix-up of a stack of layers, bottom first, all of them in the store with their notes. Makes nothing
/// where nothing is open, or where it is there already.
pub fn build(store: &Store, layers: &[DiffId]) -> Result<(), Error> {
    let Some(chain) = chain_id(layers) else { return Ok(()) };
    let place = store.fixup(&chain);
    if place.exists() {
        return Ok(());
    }
    let stack = Stack::read(store, layers)?;
    let plan = Plan::of(&stack)?;
    if plan.is_empty() {
        return Ok(());
    }

    let _lock = store.lock(&format!("fixup-{}", chain.hex()))?;
    if place.exists() {
        return Ok(());
    }
    let temporary = store.temporary()?;
    let root = temporary.path().join("fixup");
    write(&stack, &plan, &root)?;
    sync(&root)?;
    fs::rename(&root, &place).map_err(failed("rename the fix-up to", place.display()))
}

/// Makes the fix-up of a stack at a place where nothing is. False, and nothing is made, where the stack needs none.
pub fn make(store: &Store, layers: &[DiffId], root: &Path) -> Result<bool, Error> {
    let stack = Stack::read(store, layers)?;
    let plan = Plan::of(&stack)?;
    if !plan.is_empty() {
        write(&stack, &plan, root)?;
    }
    Ok(!plan.is_empty())
}

fn write(stack: &Stack, plan: &Plan, root: &Path) -> Result<(), Error> {
    fs::create_dir(root).map_err(failed("make directory", root.display()))?;
    let opened = step(OpenRoot(root)).because("all paths of the fix-up are resolved beneath this descriptor")?;
    Fixup { root: opened, stack, plan, made: BTreeMap::new() }.write()
}

/// All of a file system must be on the disk before the name that says "complete" is.
fn sync(root: &Path) -> Result<(), Error> {
    let opened = fs::File::open(root).map_err(failed("open", root.display()))?;
    rustix::fs::syncfs(&opened).map_err(|errno| failed("sync", root.display())(errno.into()))
}

/// What the fix-up repeats of a file or directory.
#[derive(Debug, PartialEq)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: Time,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    pub fn of(path: &Path) -> Result<Self, Error> {
        let metadata = fs::symlink_metadata(path).map_err(failed("look at", path.display()))?;
        let wrong = |errno: rustix::io::Errno| failed("read the attributes of", path.display())(errno.into());
        let mut names = vec![0u8; 64 * 1024]; // a list is never longer (listxattr(2))
        let length = match rustix::fs::llistxattr(path, &mut names[..]) {
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            length => length.map_err(wrong)?,
        };
        let mut xattrs = BTreeMap::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| is_wanted(name, Form::Root)) {
            let mut value = vec![0u8; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).map_err(wrong)?;
            value.truncate(length);
            xattrs.insert(name.to_vec(), value);
        }
        Ok(Attributes {
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: Time { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() as u32 },
            xattrs,
        })
    }

    /// Those of a directory that no layer names, as unpacking invents them.
    fn invented() -> Self {
        Attributes { mode: 0o755, owner: (0, 0), mtime: Time::default(), xattrs: BTreeMap::new() }
    }

    /// Owner, mode, attributes; in this order, for chown clears setuid and capabilities.
    fn give(&self, target: Target<'_>, is_link: bool, form: Form) -> Result<(), Error> {
        const WHY: &str = "in an overlay the topmost directory's attributes win, and this is now the topmost";
        if form.keeps_owners() {
            step(ChangeOwner { target, uid: self.owner.0, gid: self.owner.1 }).because(WHY)?;
        }
        if !is_link {
            step(ChangeMode { target, mode: self.mode }).because(WHY)?;
        }
        let mut now = self.xattrs.iter().filter(|(name, _)| *name != DEFAULT_ACL);
        now.try_for_each(|(name, value)| step(SetXattr { target, name, value }).because(WHY))
    }
}

/// The fix-up being written, in a temporary directory.
struct Fixup<'a> {
    root: OwnedFd,
    stack: &'a Stack,
    plan: &'a Plan,
    /// Directories made so far, and what they get at the end: their times, and what they hand on to new files.
    made: BTreeMap<Vec<u8>, Attributes>,
}

impl Fixup<'_> {
    fn write(&mut self) -> Result<(), Error> {
        let plan = self.plan;
        self.directory(b"")?;
        plan.directories.keys().try_for_each(|path| self.directory(path))?;
        plan.whiteouts.iter().try_for_each(|path| self.whiteout(path))?;
        for ((number, source), names) in &plan.copies {
            self.copy(*number, source, names)?;
        }
        for (path, Attributes { mtime, xattrs, .. }) in self.made.iter().rev() {
            let parent = self.open(split(path).0)?;
            let target = match &path[..] {
                b"" => Target::File(parent.as_fd(), b""),
                _ => Target::Name(At { dir: parent.as_fd(), path }),
            };
            if let Some(value) = xattrs.get(DEFAULT_ACL) {
                step(SetXattr { target, name: DEFAULT_ACL, value })
                    .because("files made in the directory would have inherited it, so it comes after them")?;
            }
            step(SetTimes { target, mtime: *mtime })
                .because("directories come last: what was made in them changed it")?;
        }
        Ok(())
    }

    /// A directory of the fix-up; opened for changes if it is the root.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        match path {
            b"" => self.root.try_clone().map_err(failed("open", "the fix-up's root")),
            _ => step(OpenBeneath { root: self.root.as_fd(), path, follow: false })
                .because("the fix-up's paths are those of the layers, and no link among them may lead outside"),
        }
    }

    /// Makes a directory, and those above it, with the attributes that the merged one should have.
    fn directory(&mut self, path: &[u8]) -> Result<(), Error> {
        if self.made.contains_key(path) {
            return Ok(());
        }
        let planned = self.plan.directories.get(path).cloned().flatten();
        let right = match planned.map_or_else(|| self.stack.attributes(path), |source| Ok(Some(source)))? {
            Some(source) => Attributes::of(&source)?,
            None => Attributes::invented(),
        };
        let form = self.stack.form;
        if path.is_empty() {
            right.give(Target::File(self.root.as_fd(), b""), false, form)?;
        } else {
            self.directory(split(path).0)?;
            let parent = self.open(split(path).0)?;
            let at = At { dir: parent.as_fd(), path };
            step(MakeDirectory { at, mode: 0o700 })
                .because("a tar did not name it, and an invented mode or owner would hide the right one")?;
            right.give(Target::Name(at), false, form)?;
        }
        self.made.insert(path.to_vec(), right);
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        self.directory(split(path).0)?;
        let parent = self.open(split(path).0)?;
        let at = At { dir: parent.as_fd(), path };
        step(MakeNode { at, kind: FileType::CharacterDevice, mode: 0, device: (0, 0) })
            .because("a layer is opaque at its root, which overlayfs ignores: each name it hides is hidden here")
    }

    /// Copies a lower layer's file, once, under all its names.
    fn copy(&mut self, number: usize, source: &[u8], names: &BTreeSet<Vec<u8>>) -> Result<(), Error> {
        const WHY: &str = "a hard link into a lower layer: a copy leaves that layer, which other images use, unchanged";
        let source = self.stack.layers[number].path(source);
        let metadata = fs::symlink_metadata(&source).map_err(failed("look at", source.display()))?;
        let right = Attributes::of(&source)?;
        let kind = FileType::from_raw_mode(metadata.mode());
        let mut first: Option<&[u8]> = None;
        for path in names {
            self.directory(split(path).0)?;
            let parent = self.open(split(path).0)?;
            let at = At { dir: parent.as_fd(), path };
            if let Some(first) = first {
                let first_parent = self.open(split(first).0)?;
                let target = At { dir: first_parent.as_fd(), path: first };
                step(MakeHardLink { target, at }).because("the names of one file stay names of one file")?;
                continue;
            }
            first = Some(path);
            match kind {
                FileType::RegularFile => {
                    let file = step(MakeFile { at, mode: 0o600 }).because(WHY)?;
                    copy_data(&source, file)?;
                }
                FileType::Symlink => {
                    let target = fs::read_link(&source).map_err(failed("read", source.display()))?;
                    step(MakeSymlink { at, target: target.as_os_str().as_bytes() }).because(WHY)?;
                }
                _ => {
                    let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
                    step(MakeNode { at, kind, mode: 0o600, device }).because(WHY)?;
                }
            }
            right.give(Target::Name(at), kind == FileType::Symlink, self.stack.form)?;
            step(SetTimes { target: Target::Name(at), mtime: right.mtime }).because(WHY)?;
        }
        Ok(())
    }
}

/// Copies a file's content: by sharing its blocks where the file system can, else stretch by stretch, holes kept.
fn copy_data(source: &Path, to: OwnedFd) -> Result<(), Error> {
    let wrong = |error: std::io::Error| failed("copy", source.display())(error);
    let from = fs::File::open(source).map_err(wrong)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let (mut to, size) = (fs::File::from(to), from.metadata().map_err(wrong)?.len());
    to.set_len(size).map_err(wrong)?;
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(&from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(()), // nothing but a hole follows
            Err(errno) => return Err(wrong(errno.into())),
        };
        let end = rustix::fs::seek(&from, SeekFrom::Hole(at)).map_err(|errno| wrong(errno.into()))?;
        let mut reader = &from;
        std::io::Seek::seek(&mut reader, std::io::SeekFrom::Start(at)).map_err(wrong)?;
        std::io::Seek::seek(&mut to, std::io::SeekFrom::Start(at)).map_err(wrong)?;
        std::io::copy(&mut reader.take(end - at), &mut to).map_err(wrong)?;
        at = end;
    }
}

#[cfg(test)]
mod tests;
