//! What an archive leaves when it is unpacked, computed from its entries alone: which file under which names, with which
//! attributes.
//!
//! The same rules as in `mocker_common::unpack`, on a map instead of a disk: the last entry of a name wins, symlinks on
//! the way lead inside the layer, what no entry names is invented, whiteouts hide lower layers only. Source: image-spec,
//! layer.md.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

use mocker_common::error::Error;
use mocker_common::unpack::calls::split;
use mocker_common::unpack::member::{self, Member, Time};
use mocker_common::unpack::notes::{LayerPath, LowerLink, Notes, shown};
use mocker_common::unpack::tree::{Form, backwards, join};
use mocker_common::unpack::whiteout::{self, Name};
use mocker_common::unpack::{DEFAULT_ACL, is_wanted};
use rustix::fs::FileType;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Directory { implicit: bool, opaque: bool },
    File,
    Symlink(Vec<u8>),
    Node(FileType, (u32, u32)),
    Whiteout,
}

/// A file with all its names, or a directory.
#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: Time,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// under which name its content was compared, and how it differs
    pub content: Option<Box<(Vec<u8>, String)>>,
}

/// A layer as it should be.
pub struct Model {
    pub names: BTreeMap<Vec<u8>, usize>,
    pub inodes: Vec<Inode>,
    form: Form,
    whiteouts: BTreeSet<Vec<u8>>,
    /// hard links whose target is not here
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque_root: bool,
    /// the parent found last, as it is spelled and as it is
    found: Option<(Vec<u8>, Vec<u8>)>,
}

const MAX_LINKS: usize = 40;

impl Model {
    pub fn new(form: Form) -> Self {
        Model {
            names: BTreeMap::from([(Vec::new(), 0)]),
            inodes: vec![implicit()],
            form,
            whiteouts: BTreeSet::new(),
            links: BTreeMap::new(),
            opaque_root: false,
            found: None,
        }
    }

    pub fn get(&self, path: &[u8]) -> Option<&Inode> {
        self.names.get(path).map(|number| &self.inodes[*number])
    }

    fn at(&mut self, path: &[u8]) -> Option<&mut Inode> {
        self.names.get(path).map(|number| &mut self.inodes[*number])
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        matches!(self.get(path), Some(Inode { kind: Kind::Directory { .. }, .. }))
    }

    /// Takes in the next member. Returns the real path of a regular file, whose content follows.
    pub fn take(&mut self, member: &Member) -> Result<Option<Vec<u8>>, Error> {
        let path = clean(&member.path)?;
        match whiteout::read(&path)? {
            Name::Plain => {}
            Name::Aufs => return Ok(None),
            _ if self.is_within_file(&path) => return Ok(None),
            Name::Whiteout(hidden) => {
                let beside = [&path[..path.len() - split(&path).1.len()], hidden].concat();
                let real = self.settle(&beside)?;
                self.whiteout(&real);
                return Ok(None);
            }
            Name::Opaque => {
                let inside = self.settle(&path)?;
                self.opaque(split(&inside).0);
                return Ok(None);
            }
        }
        if path.is_empty() {
            self.directory(b"", member);
            return Ok(None);
        }
        let path = self.settle(&path)?;
        let kind = match member.kind {
            member::Kind::Directory => {
                self.directory(&path, member);
                return Ok(None);
            }
            member::Kind::HardLink => {
                self.hard_link(&path, &clean(&member.link)?);
                return Ok(None);
            }
            member::Kind::Character if member.device == (0, 0) => {
                self.whiteout(&path);
                return Ok(None);
            }
            member::Kind::Nothing => return Ok(None),
            member::Kind::Character | member::Kind::Block if self.form != Form::Root => return Ok(None),
            member::Kind::Character => Kind::Node(FileType::CharacterDevice, member.device),
            member::Kind::Block => Kind::Node(FileType::BlockDevice, member.device),
            member::Kind::Fifo => Kind::Node(FileType::Fifo, (0, 0)),
            member::Kind::Symlink => Kind::Symlink(member.link.clone()),
            member::Kind::File => Kind::File,
        };
        let is_file = kind == Kind::File;
        let inode = Inode { kind, ..self.attributes(member) };
        self.displace(&path);
        self.put(&path, inode);
        Ok(is_file.then_some(path))
    }

    /// The archive is over: links whose target came after them are made now.
    pub fn finish(&mut self) {
        for (path, target) in self.links.clone() {
            self.link(&path, &target);
        }
    }

    /// Says how the content at a path differs from the archive's.
    pub fn differs(&mut self, path: &[u8], how: String) {
        let found = path.to_vec();
        if let Some(inode) = self.at(path) {
            inode.content = Some(Box::new((found, how)));
        }
    }

    /// What the archive leaves open. Counts and sizes are not reckoned.
    pub fn notes(&self) -> Notes {
        let paths = |paths: Vec<&[u8]>| paths.into_iter().map(|path| LayerPath(path.to_vec())).collect();
        let directories = || {
            self.names.iter().filter_map(|(path, number)| match self.inodes[*number].kind {
                Kind::Directory { implicit, opaque } => Some((&path[..], implicit, opaque)),
                _ => None,
            })
        };
        let open = |(path, implicit, opaque): &(&[u8], bool, bool)| *implicit && !opaque && !self.is_below_opaque(path);
        let mut whiteouts: Vec<&[u8]> = self.whiteouts.iter().map(|path| split(path).0).collect();
        whiteouts.sort_unstable();
        whiteouts.dedup();
        let link = |(path, target): (&Vec<u8>, &Vec<u8>)| LowerLink {
            path: LayerPath(path.clone()),
            target: LayerPath(target.clone()),
        };
        Notes {
            implicit: paths(directories().filter(open).map(|(path, ..)| path).collect()),
            links: self.links.iter().map(link).collect(),
            whiteouts: paths(whiteouts),
            opaque: directories().any(|(_, _, opaque)| opaque),
            opaque_root: self.opaque_root,
            ..Notes::default()
        }
    }

    /// Whether nothing of lower layers shows at this path.
    pub fn is_below_opaque(&self, path: &[u8]) -> bool {
        let mut ancestor = path;
        while !ancestor.is_empty() {
            ancestor = split(ancestor).0;
            if matches!(self.get(ancestor), Some(Inode { kind: Kind::Directory { opaque: true, .. }, .. })) {
                return true;
            }
        }
        self.opaque_root && path.contains(&b'/')
    }

    fn attributes(&self, member: &Member) -> Inode {
        let wanted = member.xattrs.iter().filter(|(name, _)| is_wanted(name, self.form));
        Inode {
            kind: Kind::File,
            mode: member.mode,
            owner: (member.uid, member.gid),
            mtime: member.mtime,
            xattrs: wanted.cloned().collect(),
            content: None,
        }
    }

    fn put(&mut self, path: &[u8], inode: Inode) {
        self.names.insert(path.to_vec(), self.inodes.len());
        self.inodes.push(inode);
    }

    /// A directory over a directory keeps what is in it; over anything else it begins anew.
    fn directory(&mut self, path: &[u8], member: &Member) {
        let mut in_place = self.links.remove(path).is_some();
        let fresh = self.attributes(member);
        match self.at(path) {
            Some(known) if matches!(known.kind, Kind::Directory { .. }) => {
                let mut xattrs = std::mem::take(&mut known.xattrs);
                xattrs.remove(DEFAULT_ACL);
                xattrs.extend(fresh.xattrs);
                let was_opaque = matches!(known.kind, Kind::Directory { opaque: true, .. });
                let kind = Kind::Directory { implicit: false, opaque: was_opaque };
                *known = Inode { kind, xattrs, ..fresh };
            }
            known => {
                in_place |= known.is_some();
                self.displace(path);
                self.put(path, Inode { kind: Kind::Directory { implicit: false, opaque: false }, ..fresh });
            }
        }
        self.remember(path, in_place);
    }

    fn make_implicit(&mut self, path: &[u8]) {
        let in_place = self.links.remove(path).is_some() || self.names.contains_key(path);
        self.displace(path);
        self.put(path, implicit());
        self.remember(path, in_place);
    }

    /// A directory is there. One in place of something must not show what lies below that.
    fn remember(&mut self, path: &[u8], in_place: bool) {
        if self.opaque_root && !path.is_empty() && !path.contains(&b'/') {
            self.mark_opaque(path);
        }
        if in_place {
            self.opaque(path);
        }
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) {
        if !self.link(path, target) {
            self.displace(path);
            self.links.insert(path.to_vec(), target.to_vec());
        }
    }

    /// Gives a file of this layer another name. False if it is not here.
    fn link(&mut self, path: &[u8], target: &[u8]) -> bool {
        let (parent, name) = split(target);
        let Some(parent) = self.resolve(parent) else { return false };
        let target = join(&parent, name);
        let number = |model: &Model| {
            let number = *model.names.get(&target)?;
            let linkable = !matches!(model.inodes[number].kind, Kind::Directory { .. } | Kind::Whiteout);
            linkable.then_some(number)
        };
        let Some(first) = number(self) else { return false };
        if self.names.get(path) == Some(&first) {
            return true;
        }
        self.displace(path);
        // The target may have been in what went.
        let Some(still) = number(self) else { return false };
        self.names.insert(path.to_vec(), still);
        true
    }

    /// Whether a path leads through a file of this layer: a whiteout there has nothing to hide.
    fn is_within_file(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for parent in ends.map(|end| &path[..end]) {
            match self.get(parent).map(|inode| &inode.kind) {
                Some(Kind::Directory { .. }) => {}
                Some(Kind::Symlink(_) | Kind::Whiteout) => return false,
                Some(_) => return true,
                None => return self.links.contains_key(parent),
            }
        }
        false
    }

    fn whiteout(&mut self, path: &[u8]) {
        if self.links.contains_key(path) {
            return;
        }
        match self.get(path).map(|inode| &inode.kind) {
            Some(Kind::Directory { .. }) => self.opaque(path),
            Some(_) => {}
            None if self.is_below_opaque(path) => {}
            None => {
                self.put(path, Inode { kind: Kind::Whiteout, ..implicit() });
                self.whiteouts.insert(path.to_vec());
            }
        }
    }

    fn opaque(&mut self, path: &[u8]) {
        for needless in below(&self.whiteouts, path) {
            self.whiteouts.remove(&needless);
            self.names.remove(&needless);
        }
        if path.is_empty() {
            self.opaque_root = true;
            let top: Vec<Vec<u8>> = self.names.keys().filter(|path| !path.contains(&b'/')).cloned().collect();
            top.iter().filter(|path| !path.is_empty()).for_each(|path| self.mark_opaque(path));
            return;
        }
        if !self.is_below_opaque(path) {
            self.mark_opaque(path);
        }
    }

    fn mark_opaque(&mut self, path: &[u8]) {
        if let Some(Inode { kind: Kind::Directory { opaque, .. }, .. }) = self.at(path) {
            *opaque = true;
        }
    }

    /// Removes what stands at a path.
    fn displace(&mut self, path: &[u8]) {
        self.links.remove(path);
        let Some(number) = self.names.remove(path) else { return };
        if self.inodes[number].kind == Kind::Whiteout {
            self.whiteouts.remove(path);
            return;
        }
        self.found = None;
        if matches!(self.inodes[number].kind, Kind::Directory { .. }) {
            let (from, to) = bounds(path);
            let range = (Included(from), Excluded(to));
            for gone in self.names.range(range.clone()).map(|(path, _)| path.clone()).collect::<Vec<_>>() {
                self.names.remove(&gone);
            }
            for gone in self.links.range(range).map(|(path, _)| path.clone()).collect::<Vec<_>>() {
                self.links.remove(&gone);
            }
            for gone in below(&self.whiteouts, path) {
                self.whiteouts.remove(&gone);
            }
        }
    }

    /// The real path of an entry; its parent is made a directory.
    fn settle(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok(path.to_vec());
        }
        if let Some((spelled, real)) = &self.found
            && spelled == parent
        {
            return Ok(join(real, name));
        }
        let real = self.walk(parent)?;
        let settled = join(&real, name);
        self.found = Some((parent.to_vec(), real));
        Ok(settled)
    }

    fn walk(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let mut ahead = backwards(path);
        let (mut real, mut links) = (Vec::new(), 0);
        while let Some(component) = ahead.pop() {
            if component == b".." {
                real.truncate(split(&real).0.len());
                continue;
            }
            let next = join(&real, &component);
            match self.get(&next).map(|inode| inode.kind.clone()) {
                Some(Kind::Directory { .. }) => real = next,
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::new(format!("'{}' is a circle of symbolic links", shown(path))));
                    }
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    ahead.extend(backwards(&target));
                }
                _ => {
                    self.make_implicit(&next);
                    real = next;
                }
            }
        }
        Ok(real)
    }

    /// The real path of a directory, symlinks followed inside the layer. None if it is not there.
    fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut ahead = backwards(path);
        let (mut real, mut links) = (Vec::new(), 0);
        while let Some(component) = ahead.pop() {
            if component == b".." {
                real.truncate(split(&real).0.len());
                continue;
            }
            let next = join(&real, &component);
            match &self.get(&next)?.kind {
                Kind::Directory { .. } => real = next,
                Kind::Symlink(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    ahead.extend(backwards(target));
                }
                _ => return None,
            }
        }
        self.is_directory(&real).then_some(real)
    }
}

/// A directory that no entry names: closed to nobody, root's, from 1970.
fn implicit() -> Inode {
    Inode {
        kind: Kind::Directory { implicit: true, opaque: false },
        mode: 0o755,
        owner: (0, 0),
        mtime: Time::default(),
        xattrs: BTreeMap::new(),
        content: None,
    }
}

/// A path without empty parts and dots. One that leads out was never unpacked.
fn clean(path: &[u8]) -> Result<Vec<u8>, Error> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    match parts.contains(&&b".."[..]) {
        true => Err(Error::new(format!("'{}' leads out of the layer", shown(path)))),
        false => Ok(parts.join(&b'/')),
    }
}

/// The bounds between which all paths below this one lie: `0` follows `/`.
fn bounds(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    ([path, b"/"].concat(), [path, b"0"].concat())
}

fn below(paths: &BTreeSet<Vec<u8>>, path: &[u8]) -> Vec<Vec<u8>> {
    if path.is_empty() {
        return paths.iter().cloned().collect();
    }
    let (from, to) = bounds(path);
    paths.range((Included(from), Excluded(to))).cloned().collect()
}
