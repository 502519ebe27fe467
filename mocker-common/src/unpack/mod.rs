//! A layer's tar becomes a directory that overlayfs can stack.
//!
//! Reads an uncompressed tar to its very end (both digests of a layer cover the padding), makes its tree in an empty
//! directory, and returns what the tar left open ([`Notes`]). Needs root for owners and devices; without it, files
//! belong to the user and devices are left out. Memory does not grow with the files. Nothing here trusts the tar:
//! every path is found beneath the directory's descriptor, links are never followed by the last component, and a
//! path with `..` refuses the layer.
//! Source: image-spec, layer.md.

pub mod calls;
pub mod compression;
pub mod fixup;
pub mod limits;
pub mod member;
pub mod notes;
pub mod sparse;
pub mod tree;
pub mod whiteout;

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::error::Error;
use crate::step::{Cause, KernelCall, report};
use rustix::fs::FileType;

use self::calls::{
    At, ChangeMode, ChangeOwner, MakeDirectory, MakeFile, MakeHardLink, MakeNode, MakeSymlink, OpenBeneath, SetTimes,
    SetXattr, Target, Truncate, Write, repeated, split,
};
use self::limits::{Expansion, over_limit};
use self::member::{Kind, Member, Members};
use self::notes::{LayerPath, LowerLink, Notes, shown};
use self::sparse::Piece;
use self::tree::{Directory, Form, Found, Tree, look_at, open_directory};

pub use self::limits::Limits;

/// Unpacks a layer's tar into the empty directory `into`.
pub fn unpack(tar: impl Read, into: &Path, limits: &Limits) -> Result<Notes, Error> {
    unpack_blob(tar, into, limits, &Expansion::unbounded())
}

/// The same for a tar that is decompressed meanwhile: by `expansion` its files may not be much more than the blob.
pub fn unpack_blob(tar: impl Read, into: &Path, limits: &Limits, expansion: &Expansion) -> Result<Notes, Error> {
    let mut members = Members::new(tar, limits.header_bytes);
    let mut layer = Layer {
        tree: Tree::begin(into, limits)?,
        limits,
        expansion,
        bytes: 0,
        xattrs_left_out: 0,
        devices_left_out: 0,
    };
    while let Some(member) = members.next_member()? {
        layer.place(&member, &mut members).map_err(|error| naming(&member, error))?;
    }
    members.drain()?;
    layer.link_late()?;
    layer.tree.finish()?;
    Ok(layer.notes())
}

/// Names the entry in its error, unless that does so itself.
fn naming(member: &Member, error: Error) -> Error {
    let entry = format!("'{}'", shown(&member.path));
    if error.what.contains(&entry) { error } else { error.while_doing(format_args!("cannot unpack {entry}")) }
}

/// A path as the tar has it, without `/` in front, doubled or behind, and without `.`; refused with `..`.
fn clean(path: &[u8], limits: &Limits) -> Result<Vec<u8>, Error> {
    let refused = |cause: &str| {
        Error::new(format!("cannot unpack '{}': {cause}", shown(path)))
            .why("no tool that makes images writes such a path; following it could reach files outside the layer")
            .likely("the layer was made by a broken tool, or it is hostile")
    };
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(refused("its path has '..'")),
            _ if component.contains(&0) => return Err(refused("its path has a NUL")),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(component);
        depth += 1;
    }
    match depth > limits.depth {
        true => Err(over_limit(path, "--max-path-depth", limits.depth, "directories in each other")),
        false => Ok(clean),
    }
}

/// A layer being unpacked.
struct Layer<'a> {
    tree: Tree,
    limits: &'a Limits,
    expansion: &'a Expansion,
    bytes: u64,
    xattrs_left_out: u64,
    devices_left_out: u64,
}

impl Layer<'_> {
    /// Places one member in the tree.
    fn place<R: Read>(&mut self, member: &Member, members: &mut Members<R>) -> Result<(), Error> {
        let path = clean(&member.path, self.limits)?;
        self.tree.count(&path)?;
        match whiteout::read(&path)? {
            whiteout::Name::Plain => {}
            whiteout::Name::Aufs => return Ok(()),
            _ if self.tree.is_within_file(&path)? => return Ok(()),
            whiteout::Name::Whiteout(hidden) => {
                let beside = [&path[..path.len() - split(&path).1.len()], hidden].concat();
                let real = self.tree.settle(&beside)?;
                return self.tree.whiteout(&real);
            }
            whiteout::Name::Opaque => {
                let inside = self.tree.settle(&path)?;
                return self.tree.opaque(split(&inside).0);
            }
        }
        if path.is_empty() {
            return self.root(member);
        }
        let path = self.tree.settle(&path)?;
        match member.kind {
            Kind::File => self.file(&path, member, members),
            Kind::Directory => self.directory(&path, member),
            Kind::Symlink => self.symlink(&path, member),
            Kind::HardLink => self.hard_link(&path, member),
            // Some tools write whiteouts as overlayfs has them.
            Kind::Character if member.device == (0, 0) => self.tree.whiteout(&path),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(&path, member),
            Kind::Nothing => Ok(()),
        }
    }

    /// The entry `./`: the layer's root itself.
    fn root(&mut self, member: &Member) -> Result<(), Error> {
        if member.kind != Kind::Directory {
            return Err(Error::new("cannot unpack the layer: an entry would replace its root by something else")
                .likely("the layer was made by a broken tool, or it is hostile"));
        }
        let root = self.tree.root().try_clone_to_owned().map_err(crate::error::failed("open", "the root"))?;
        self.tree.directories.insert(Vec::new(), Directory::named(member));
        self.attributes(Target::File(root.as_fd(), b""), member, member.mode & !SETGID, None)
    }

    fn directory(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "the layer has a directory here";
        let opaque = self.tree.directories.get(path).is_some_and(|known| known.opaque);
        let mut in_place = self.tree.links.remove(path).is_some();
        let mode = member.mode & 0o777;
        let mut made = Some(mode & !self.tree.umask);
        let call = MakeDirectory { at: At { dir: self.tree.open(split(path).0)?, path }, mode };
        if let Err(cause) = call.call() {
            if cause.errno != libc::EEXIST {
                return Err(report(&call, WHY, cause));
            }
            if self.tree.look(path)? == Found::Directory {
                made = None; // its files stay, its attributes are the last entry's
            } else {
                self.tree.displace(path)?;
                in_place = true;
                let at = At { dir: self.tree.open(split(path).0)?, path };
                repeated(&TOLD, MakeDirectory { at, mode }, WHY)?;
            }
        }
        self.tree.remember(path, Directory { opaque, ..Directory::named(member) })?;
        if in_place {
            self.tree.opaque(path)?;
        }
        if made == Some(member.mode & !SETGID) && self.is_roots(member) && member.xattrs.is_empty() {
            return Ok(()); // mkdirat has said it all
        }
        let opened = open_directory(At { dir: self.tree.open(split(path).0)?, path })?;
        self.attributes(Target::File(opened.as_fd(), path), member, member.mode & !SETGID, made)
    }

    fn file<R: Read>(&mut self, path: &[u8], member: &Member, members: &mut Members<R>) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(member.size);
        if self.bytes > self.limits.total_bytes {
            return Err(over_limit(
                path,
                "--max-layer-size",
                self.limits.total_bytes,
                "bytes in files, holes included",
            ));
        }
        if member.pieces.is_some() {
            // What is written came out of the blob and was checked there; of holes only their size is known.
            self.expansion.check(self.bytes)?;
        }
        // Created with its final mode where that takes no second call; setuid only after the owner is right.
        let mode = member.mode & 0o777;
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "new or not at all: O_EXCL and O_NOFOLLOW keep a planted link from being written through";
        let file = self.make(path, |at| repeated(&TOLD, MakeFile { at, mode }, WHY))?;
        match &member.pieces {
            None => self.copy(file.as_fd(), path, Piece { offset: 0, length: member.size }, members)?,
            Some(pieces) => {
                pieces.iter().try_for_each(|piece| self.copy(file.as_fd(), path, *piece, members))?;
                static TOLD: AtomicBool = AtomicBool::new(false);
                let end = Truncate { file: file.as_fd(), path, size: member.size };
                repeated(&TOLD, end, "a sparse file may end in a hole, which no write makes")?;
            }
        }
        let made = mode & !self.tree.umask;
        let target = Target::File(file.as_fd(), path);
        self.attributes(target, member, member.mode, Some(made))?;
        self.times(target, member)
    }

    /// Writes the next stretch of the member's data at its place.
    fn copy<R: Read>(
        &self,
        file: std::os::fd::BorrowedFd<'_>,
        path: &[u8],
        piece: Piece,
        members: &mut Members<R>,
    ) -> Result<(), Error> {
        let Piece { mut offset, mut length } = piece;
        while length > 0 {
            let bytes = members.data(length)?;
            if bytes.is_empty() {
                break;
            }
            let call = Write { file, path, bytes, offset };
            call.call().map_err(|cause| report(&call, "the layer holds this file", cause))?;
            offset += bytes.len() as u64;
            length -= bytes.len() as u64;
        }
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        let target = &member.link[..];
        if target.contains(&0) {
            return Err(Error::new(format!("cannot unpack '{}': its target has a NUL", shown(path))));
        }
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "its target is only text here: it is resolved in the container, in the container's root";
        self.make(path, |at| repeated(&TOLD, MakeSymlink { at, target }, WHY))?;
        self.finish_by_name(path, member, 0o777, 0o777) // a link has no mode of its own
    }

    fn node(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        let kind = match member.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if self.tree.form != Form::Root && kind != FileType::Fifo {
            self.devices_left_out += 1;
            return Ok(()); // only root may make devices; a container brings its own /dev anyway
        }
        let (mode, device) = (member.mode & 0o777, member.device);
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "the image has a node here; whether a container may open it, its cgroup decides";
        self.make(path, |at| repeated(&TOLD, MakeNode { at, kind, mode, device }, WHY))?;
        let made = mode & !self.tree.umask;
        self.finish_by_name(path, member, member.mode, made)
    }

    /// A second name for a file of this layer, or a note that its first name is in a lower one.
    fn hard_link(&mut self, path: &[u8], member: &Member) -> Result<(), Error> {
        let target = clean(&member.link, self.limits)?;
        if target.is_empty() || whiteout::read(&target)? != whiteout::Name::Plain {
            return Err(Error::new(format!(
                "cannot unpack the hard link '{}': '{}' is no file",
                shown(path),
                shown(&member.link)
            )));
        }
        if self.link(path, &target)? {
            return Ok(());
        }
        self.tree.displace(path)?;
        self.tree.charge(path, path.len() + target.len())?;
        self.tree.links.insert(path.to_vec(), target);
        Ok(())
    }

    /// Links `path` to `target` if this layer has that. What stands at `path` goes first, but only once it is sure
    /// that it is not the target itself.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<bool, Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "both names are one file: changing it by one must show in the other, and it is stored once";
        let (parent, name) = split(target);
        let call = OpenBeneath { root: self.tree.root(), path: parent, follow: true };
        let target_dir = match call.call() {
            Ok(dir) => dir,
            Err(Cause { errno: libc::ENOENT | libc::ENOTDIR, .. }) => return Ok(false),
            Err(cause) => return Err(report(&call, "the link's target is looked for in this layer", cause)),
        };
        let is_file = |found| match found {
            Ok(Found::Other) => Ok(true),
            Ok(Found::Directory) => {
                Err(Error::new(format!("cannot link '{}' to '{}': that is a directory", shown(path), shown(target))))
            }
            _ => Ok(false),
        };
        if !is_file(look_at(target_dir.as_fd(), name))? {
            return Ok(false);
        }
        let from = At { dir: target_dir.as_fd(), path: target };
        let call = MakeHardLink { target: from, at: At { dir: self.tree.open(split(path).0)?, path } };
        match call.call() {
            Ok(()) => {}
            Err(Cause { errno: libc::EEXIST, .. }) => {
                if self.same_file(from, path)? {
                    return Ok(true);
                }
                self.tree.displace(path)?;
                // The target may have been in what went.
                if !is_file(look_at(target_dir.as_fd(), name))? {
                    return Ok(false);
                }
                let at = At { dir: self.tree.open(split(path).0)?, path };
                repeated(&TOLD, MakeHardLink { target: from, at }, WHY)?;
            }
            Err(cause) => return Err(report(&call, WHY, cause)),
        }
        self.tree.links.remove(path);
        Ok(true)
    }

    fn same_file(&mut self, one: At<'_>, other: &[u8]) -> Result<bool, Error> {
        let stat = |at: At<'_>| rustix::fs::statat(at.dir, at.name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        let other = At { dir: self.tree.open(split(other).0)?, path: other };
        match (stat(one), stat(other)) {
            (Ok(one), Ok(other)) => Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)),
            _ => Ok(false),
        }
    }

    /// Links whose target came after them in the tar are made now; the others are for the fix-up.
    fn link_late(&mut self) -> Result<(), Error> {
        for (path, target) in std::mem::take(&mut self.tree.links) {
            if !self.link(&path, &target)? {
                self.tree.links.insert(path, target);
            }
        }
        Ok(())
    }

    /// Makes something at a path, in place of whatever stands there.
    fn make<T>(&mut self, path: &[u8], make: impl Fn(At<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.tree.links.remove(path);
        match make(At { dir: self.tree.open(split(path).0)?, path }) {
            Err(Error { errno: libc::EEXIST, .. }) => {
                self.tree.displace(path)?;
                make(At { dir: self.tree.open(split(path).0)?, path })
            }
            done => done,
        }
    }

    /// Owner, mode, attributes: in this order, for chown clears setuid, and capabilities too. `made` is the mode the
    /// thing was made with, `None` if unknown.
    fn attributes(&mut self, target: Target<'_>, member: &Member, mode: u32, made: Option<u32>) -> Result<(), Error> {
        static OWNER: AtomicBool = AtomicBool::new(false);
        static MODE: AtomicBool = AtomicBool::new(false);
        static XATTR: AtomicBool = AtomicBool::new(false);
        if !self.is_roots(member) || (made.is_none() && self.tree.form.keeps_owners()) {
            let call = ChangeOwner { target, uid: member.uid, gid: member.gid };
            repeated(&OWNER, call, "the image says whose file this is; services run as users that own little else")?;
        }
        if made != Some(mode) {
            repeated(
                &MODE,
                ChangeMode { target, mode },
                "after chown, which takes setuid and setgid away; the umask must not decide about an image's files",
            )?;
        }
        for (name, value) in &member.xattrs {
            if name == DEFAULT_ACL
                && let Some(directory) = self.tree.directories.get_mut(target.path())
            {
                directory.default_acl = Some(value.clone());
            } else if is_wanted(name, self.tree.form) {
                let call = SetXattr { target, name, value };
                let why = "after chown, which drops capabilities; without them programs like ping need root";
                match repeated(&XATTR, call, why) {
                    // A store without room for them loses no image over it; a lost capability would break programs.
                    Err(Error { errno: libc::EOPNOTSUPP | libc::EPERM, .. }) if !name.starts_with(b"security.") => {
                        self.xattrs_left_out += 1;
                    }
                    done => done?,
                }
            }
        }
        Ok(())
    }

    fn times(&self, target: Target<'_>, member: &Member) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let call = SetTimes { target, mtime: member.mtime };
        repeated(&TOLD, call, TIMES_WHY)
    }

    /// Owner, mode, attributes and times of what is not opened: links, devices, fifos.
    fn finish_by_name(&mut self, path: &[u8], member: &Member, mode: u32, made: u32) -> Result<(), Error> {
        if !self.is_roots(member) || mode != made || !member.xattrs.is_empty() {
            // `attributes` needs all of `self`, so the directory is held by a descriptor of its own.
            let parent = self.tree.open(split(path).0)?.try_clone_to_owned();
            let parent = parent.map_err(crate::error::failed("open the directory of", shown(path)))?;
            self.attributes(Target::Name(At { dir: parent.as_fd(), path }), member, mode, Some(made))?;
        }
        static TOLD: AtomicBool = AtomicBool::new(false);
        let target = Target::Name(At { dir: self.tree.open(split(path).0)?, path });
        repeated(&TOLD, SetTimes { target, mtime: member.mtime }, TIMES_WHY)
    }

    fn is_roots(&self, member: &Member) -> bool {
        !self.tree.form.keeps_owners() || (member.uid, member.gid) == (0, 0)
    }

    fn notes(self) -> Notes {
        let paths = |paths: Vec<&[u8]>| paths.into_iter().map(|path| LayerPath(path.to_vec())).collect();
        let tree = &self.tree;
        // What begins anew has nothing below it to take attributes from.
        let open =
            |path: &[u8], directory: &Directory| directory.implicit && !directory.opaque && !tree.is_below_opaque(path);
        let implicit = tree.directories.iter().filter(|(path, directory)| open(path, directory));
        let mut whiteouts: Vec<&[u8]> = tree.whiteouts.iter().map(|path| split(path).0).collect();
        whiteouts.sort_unstable();
        whiteouts.dedup();
        let link = |(path, target): (&Vec<u8>, &Vec<u8>)| LowerLink {
            path: LayerPath(path.clone()),
            target: LayerPath(target.clone()),
        };
        Notes {
            entries: tree.entries,
            bytes: self.bytes,
            implicit: paths(implicit.map(|(path, _)| &path[..]).collect()),
            links: tree.links.iter().map(link).collect(),
            whiteouts: paths(whiteouts),
            opaque: tree.directories.values().any(|directory| directory.opaque),
            opaque_root: tree.opaque_root,
            xattrs_left_out: self.xattrs_left_out,
            devices_left_out: self.devices_left_out,
        }
    }
}

const TIMES_WHY: &str = "make, python and others compare times; the same layer must give the same files";

/// On a directory: what is made in it belongs to its group.
const SETGID: u32 = 0o2000;

/// An access list that a directory hands on to what is made in it: set last, or our own files would inherit it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Which attributes an image may set. Those of overlayfs would steer the mount; labels of SELinux and signatures of
/// IMA belong to the machine that made them.
pub fn is_wanted(name: &[u8], form: Form) -> bool {
    let has = |prefix: &[u8]| name.starts_with(prefix);
    match () {
        _ if has(b"trusted.overlay.") || has(b"user.overlay.") => false,
        _ if has(b"user.") || name == b"security.capability" || name == b"system.posix_acl_access" => true,
        _ => name == DEFAULT_ACL || (has(b"trusted.") && form == Form::Root),
    }
}

#[cfg(test)]
pub mod archive;
#[cfg(test)]
mod tests;
