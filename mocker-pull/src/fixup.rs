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
//! - A whiteout is listed by overlayfs unless its directory is merged; one repeated here is.
//! - An opaque root, which overlayfs does not know, becomes a whiteout of each name that it hides.
//!
//! It never resurrects: what a higher layer removed, or began anew, gets nothing here. Its directories are never
//! opaque, so they hide nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mocker_common::digest::DiffId;
use mocker_common::error::{Error, failed};
use mocker_common::image::chain_id;
use mocker_common::step::step;
use mocker_common::store::Store;
use rustix::fs::{FileType, SeekFrom};

use crate::calls::{
    At, ChangeMode, ChangeOwner, MakeDirectory, MakeFile, MakeHardLink, MakeNode, MakeSymlink, OpenBeneath, OpenRoot,
    SetTimes, SetXattr, Target, split,
};
use crate::member::Time;
use crate::notes::{LowerLink, Notes, shown};
use crate::tree::{Form, backwards, join};
use crate::unpack::{DEFAULT_ACL, is_wanted};

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
    fs::create_dir(&root).map_err(failed("make directory", root.display()))?;
    let opened = step(OpenRoot(&root)).because("all paths of the fix-up are resolved beneath this descriptor")?;
    Fixup { root: opened, stack: &stack, made: BTreeMap::new() }.write(&plan)?;
    sync(&root)?;
    fs::rename(&root, &place).map_err(failed("rename the fix-up to", place.display()))
}

/// All of a file system must be on the disk before the name that says "complete" is.
fn sync(root: &Path) -> Result<(), Error> {
    let opened = fs::File::open(root).map_err(failed("open", root.display()))?;
    rustix::fs::syncfs(&opened).map_err(|errno| failed("sync", root.display())(errno.into()))
}

/// One layer on disk.
struct Layer {
    root: PathBuf,
    notes: Notes,
    implicit: BTreeSet<Vec<u8>>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The layers, top first, as they are looked through.
struct Stack {
    layers: Vec<Layer>,
    form: Form,
    /// What was seen of directories: their children are asked about next.
    seen: RefCell<HashMap<(usize, Vec<u8>), Seen>>,
}

/// What stands at a path of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// Nothing: the layers below show.
    Through,
    /// A directory; `last` if the layers below do not show in it.
    Directory { last: bool },
    /// A file, a link, a device.
    File,
    /// A whiteout, or something that is no directory further up in the path: the layers below are hidden.
    Hidden,
}

impl Layer {
    fn path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }
}

impl Stack {
    fn read(store: &Store, layers: &[DiffId]) -> Result<Self, Error> {
        let read = |diff_id: &DiffId| {
            let file = store.layer_notes(diff_id);
            let text = fs::read(&file).map_err(failed("read", file.display()))?;
            let notes: Notes = serde_json::from_slice(&text).map_err(|error| {
                Error::new(format!("cannot read {}: {error}", file.display())).hint("mocker-images verify")
            })?;
            let implicit = notes.implicit.iter().map(|path| path.0.clone()).collect();
            let links = notes.links.iter().map(|link| (link.path.0.clone(), link.target.0.clone())).collect();
            Ok(Layer { root: store.layer(diff_id), notes, implicit, links })
        };
        // A layer that comes again below itself shows nothing that it does not show above; the mount leaves it out.
        let mut known = BTreeSet::new();
        let distinct = layers.iter().rev().filter(|diff_id| known.insert(*diff_id));
        let layers = distinct.map(read).collect::<Result<_, Error>>()?;
        Ok(Stack { layers, form: Form::of_this_process(), seen: RefCell::default() })
    }

    /// What layer `number` has at a path. The path's directories are looked at first, so no link is ever followed.
    fn look(&self, number: usize, path: &[u8]) -> Result<Seen, Error> {
        let layer = &self.layers[number];
        if path.is_empty() {
            return Ok(Seen::Directory { last: layer.notes.opaque_root });
        }
        let parent = split(path).0.to_vec();
        let known = self.seen.borrow().get(&(number, parent.clone())).copied();
        let around = match known {
            Some(seen) => seen,
            None => {
                let seen = self.look(number, &parent)?;
                self.seen.borrow_mut().insert((number, parent), seen);
                seen
            }
        };
        let last = match around {
            Seen::Through => return Ok(Seen::Through),
            Seen::File | Seen::Hidden => return Ok(Seen::Hidden),
            Seen::Directory { last } => last,
        };
        let file = layer.path(path);
        match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_dir() => {
                let opaque = layer.notes.opaque && self.is_opaque(&file)?;
                Ok(Seen::Directory { last: last || opaque })
            }
            Ok(metadata) => {
                let character = FileType::from_raw_mode(metadata.mode()) == FileType::CharacterDevice;
                Ok(if character && metadata.rdev() == 0 { Seen::Hidden } else { Seen::File })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(match last {
                _ if layer.links.contains_key(path) => Seen::File,
                true => Seen::Hidden,
                false => Seen::Through,
            }),
            Err(error) => Err(failed("look at", file.display())(error)),
        }
    }

    fn is_opaque(&self, directory: &Path) -> Result<bool, Error> {
        let mut value = [0u8; 4];
        match rustix::fs::lgetxattr(directory, self.form.opaque_xattr(), &mut value) {
            Ok(length) => Ok(&value[..length] == b"y"),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(failed("look at", directory.display())(errno.into())),
        }
    }

    /// What layers `from` and below show at a path: the layer it is in, and what it is there. None for nothing.
    fn find(&self, from: usize, path: &[u8]) -> Result<Option<(usize, Seen)>, Error> {
        for number in from..self.layers.len() {
            match self.look(number, path)? {
                Seen::Through => continue,
                Seen::Hidden => return Ok(None),
                seen => return Ok(Some((number, seen))),
            }
        }
        Ok(None)
    }

    /// The file that a link of layer `number` means: its layer and real path. A link may lead to a link of a layer
    /// further down, and through symbolic links among the directories.
    fn source(&self, number: usize, link: &LowerLink) -> Result<(usize, Vec<u8>), Error> {
        let unresolved = |cause: &str| {
            Error::new(format!("cannot link '{}' to '{}': {cause}", link.path, link.target))
                .why("the layer has the link, but not the file it is a second name of")
                .likely("the image's layers were put together from different images")
        };
        let (mut number, mut target) = (number, link.target.0.clone());
        loop {
            let real = self.real(number, &target)?.ok_or_else(|| unresolved("no layer has its directory"))?;
            number = match self.find(number + 1, &real)? {
                Some((lower, Seen::File)) => lower,
                Some(_) => return Err(unresolved("that is a directory")),
                None => return Err(unresolved("no lower layer has it")),
            };
            match self.layers[number].links.get(&real) {
                Some(further) => target = further.clone(),
                None => return Ok((number, real)),
            }
        }
    }

    /// A path with the symbolic links among its directories followed, as layer `number` and those below show them.
    fn real(&self, number: usize, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let (mut ahead, mut real, mut links) = (backwards(path), Vec::new(), 0);
        while let Some(component) = ahead.pop() {
            if component == b".." {
                real.truncate(split(&real).0.len());
                continue;
            }
            let next = join(&real, &component);
            let (at, false) = (self.find(number, &next)?, ahead.is_empty()) else {
                real = next;
                continue;
            };
            match at {
                Some((_, Seen::Directory { .. })) => real = next,
                Some((at, Seen::File)) if links < 40 => {
                    let Ok(target) = fs::read_link(self.layers[at].path(&next)) else { return Ok(None) };
                    let target = target.as_os_str().as_bytes();
                    links += 1;
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    ahead.extend(backwards(target));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(real))
    }

    /// The layers whose directories merge at a path, top first.
    fn merged(&self, path: &[u8]) -> Result<Vec<usize>, Error> {
        let mut merged = Vec::new();
        for number in 0..self.layers.len() {
            match self.look(number, path)? {
                Seen::Through => continue,
                Seen::Directory { last } => {
                    merged.push(number);
                    if last {
                        break;
                    }
                }
                Seen::File | Seen::Hidden => break,
            }
        }
        Ok(merged)
    }

    /// The directory whose attributes the merged one should have: the topmost that its tar named. Where none did,
    /// the topmost. None if there is no directory.
    fn attributes(&self, path: &[u8]) -> Result<Option<PathBuf>, Error> {
        let merged = self.merged(path)?;
        let named = merged.iter().find(|number| !self.layers[**number].implicit.contains(path));
        Ok(named.or(merged.first()).map(|number| self.layers[*number].path(path)))
    }
}

/// What a fix-up has to hold.
#[derive(Debug, Default)]
struct Plan {
    /// Directories to repeat with the right attributes.
    directories: BTreeSet<Vec<u8>>,
    /// Names that an opaque root hides.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Copies to make: the layer and path of the file, and all the names that it gets.
    copies: BTreeMap<(usize, Vec<u8>), BTreeSet<Vec<u8>>>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.whiteouts.is_empty() && self.copies.is_empty()
    }

    fn of(stack: &Stack) -> Result<Self, Error> {
        let mut plan = Plan::default();
        for (number, layer) in stack.layers.iter().enumerate() {
            for path in &layer.notes.implicit {
                plan.attributes(stack, number, &path.0)?;
            }
            for directory in &layer.notes.whiteouts {
                if !directory.0.is_empty() && stack.merged(&directory.0)? == [number] {
                    plan.directories.insert(directory.0.clone());
                }
            }
            for link in &layer.notes.links {
                plan.link(stack, number, link)?;
            }
            if layer.notes.opaque_root {
                plan.hide(stack, number, b"")?;
                break; // nothing of what lies below is visible
            }
        }
        Ok(plan)
    }

    /// An implicit directory of a layer: to be repeated if it is the topmost, and another layer knows better.
    fn attributes(&mut self, stack: &Stack, number: usize, path: &[u8]) -> Result<(), Error> {
        let merged = stack.merged(path)?;
        if merged.first() != Some(&number) {
            return Ok(()); // hidden, or a higher layer's directory counts
        }
        let named = merged.iter().find(|number| !stack.layers[**number].implicit.contains(path));
        let Some(named) = named.map(|number| stack.layers[*number].path(path)) else { return Ok(()) };
        let (wanted, given) = (Attributes::of(&named)?, Attributes::of(&stack.layers[number].path(path))?);
        // The time of `/` alone is worth no layer: it is what most images would need one for.
        let times = path.is_empty() || wanted.mtime == given.mtime;
        if !times || (wanted.mode, wanted.owner, &wanted.xattrs) != (given.mode, given.owner, &given.xattrs) {
            self.directories.insert(path.to_vec());
        }
        Ok(())
    }

    /// A hard link of layer `number` to a file below it.
    fn link(&mut self, stack: &Stack, number: usize, link: &LowerLink) -> Result<(), Error> {
        let path = &link.path.0;
        if stack.find(0, path)? != Some((number, Seen::File)) {
            return Ok(()); // a higher layer removed or replaced it
        }
        let source = stack.source(number, link)?;
        // As overlayfs copies up: where the file is what one sees at its own place too, that is the same file.
        let visible = stack.find(0, &source.1)? == Some((source.0, Seen::File));
        let own = visible.then(|| source.1.clone());
        self.copies.entry(source).or_default().extend(own.into_iter().chain([path.clone()]));
        Ok(())
    }

    /// Layer `number` begins anew at its root: what the layers below have in `path` is hidden, name by name. Where
    /// a layer above has a directory of the same name, what is in it is hidden in turn.
    fn hide(&mut self, stack: &Stack, number: usize, path: &[u8]) -> Result<(), Error> {
        for lower in number + 1..stack.layers.len() {
            if !matches!(stack.look(lower, path)?, Seen::Directory { .. }) {
                continue;
            }
            let directory = stack.layers[lower].path(path);
            for entry in fs::read_dir(&directory).map_err(failed("read", directory.display()))? {
                let name = entry.map_err(failed("read", directory.display()))?.file_name();
                let child = join(path, name.as_bytes());
                let above: Vec<Seen> = (0..number).map(|upper| stack.look(upper, &child)).collect::<Result<_, _>>()?;
                let stopped = above.iter().any(|seen| !matches!(seen, Seen::Through | Seen::Directory { last: false }));
                if stopped || stack.look(number, &child)? != Seen::Hidden {
                    continue; // hidden already
                }
                match above.iter().any(|seen| *seen != Seen::Through) {
                    true => self.hide(stack, number, &child)?,
                    false => drop(self.whiteouts.insert(child)),
                }
            }
        }
        Ok(())
    }
}

/// What the fix-up repeats of a file or directory.
#[derive(Debug, PartialEq)]
struct Attributes {
    mode: u32,
    owner: (u32, u32),
    mtime: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    fn of(path: &Path) -> Result<Self, Error> {
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

    /// Owner, mode, attributes; in this order, for chown clears setuid and capabilities.
    fn give(&self, target: Target<'_>, is_link: bool, form: Form) -> Result<(), Error> {
        const WHY: &str = "in an overlay the topmost directory's attributes win, and this is now the topmost";
        if form == Form::Root {
            step(ChangeOwner { target, uid: self.owner.0, gid: self.owner.1 }).because(WHY)?;
        }
        if !is_link {
            step(ChangeMode { target, mode: self.mode }).because(WHY)?;
        }
        let now = self.xattrs.iter().filter(|(name, _)| *name != DEFAULT_ACL);
        now.map(|(name, value)| step(SetXattr { target, name, value }).because(WHY)).collect()
    }
}

/// The fix-up being written, in a temporary directory.
struct Fixup<'a> {
    root: OwnedFd,
    stack: &'a Stack,
    /// Directories made so far, and what they get at the end: their times, and what they hand on to new files.
    made: BTreeMap<Vec<u8>, Attributes>,
}

impl Fixup<'_> {
    fn write(&mut self, plan: &Plan) -> Result<(), Error> {
        self.directory(b"")?;
        plan.directories.iter().try_for_each(|path| self.directory(path))?;
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
        let right = match self.stack.attributes(path)? {
            Some(source) => Attributes::of(&source)?,
            None => return Err(Error::new(format!("cannot fix up '{}': no layer has this directory", shown(path)))),
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
