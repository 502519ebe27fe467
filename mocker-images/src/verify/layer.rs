//! A layer against its archive, in one pass over the blob: its digests, then what it left on disk, down to the last
//! attribute, and the notes beside it.
//!
//! Not compared: what the machine adds by itself (labels of SELinux, when a whiteout was made), the content of a file
//! whose first name the archive itself replaced later, and without root the owners.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::unpack::calls::split;
use mocker_common::unpack::member::{Members, Time};
use mocker_common::unpack::notes::{Notes, shown};
use mocker_common::unpack::tree::{Form, join};
use rustix::fs::FileType;

use super::archive::{self, Hashed};
use super::finding::{Damage, unreadable};
use super::model::{Inode, Kind, Model};
use super::root::{Found, Root};

/// One long name or PAX header; a damaged one must not fill the memory.
const HEADER_LIMIT: u64 = 64 << 20;

/// Where a layer's parts are, and what they should be.
pub struct Layer<'a> {
    pub blob: &'a Path,
    pub digest: &'a Digest,
    pub size: Option<u64>,
    pub diff_id: &'a DiffId,
    pub directory: &'a Path,
    pub notes: &'a Path,
}

/// What is wrong with the three parts of a layer.
#[derive(Debug, Default)]
pub struct Outcome {
    pub blob: Damage,
    pub directory: Damage,
    pub notes: Damage,
}

impl Layer<'_> {
    /// Looks only whether everything is there.
    pub fn glance(&self) -> Outcome {
        let mut outcome = Outcome::default();
        match fs::metadata(self.blob) {
            Ok(metadata) => outcome.blob.extend(wrong_size(metadata.len(), self.size)),
            Err(error) => outcome.blob.add(unreadable(error)),
        }
        self.look_for_the_rest(&mut outcome);
        outcome
    }

    fn look_for_the_rest(&self, outcome: &mut Outcome) {
        if !self.directory.is_dir() {
            outcome.directory.add("is not there");
        }
        if !self.notes.is_file() {
            outcome.notes.add("are not there");
        }
    }

    /// Checks all there is. A blob that is damaged is nothing to compare the rest with.
    pub fn check(&self) -> Outcome {
        let mut outcome = Outcome::default();
        self.look_for_the_rest(&mut outcome);
        let mut blob = match archive::open(self.blob) {
            Ok(blob) => blob,
            Err(error) => {
                outcome.blob.add(unreadable(error));
                return outcome;
            }
        };
        let compared = self.compare(&mut blob, &outcome);
        if let Err(error) = blob.drain() {
            outcome.blob.add(unreadable(error));
            return outcome;
        }
        let length = blob.length();
        outcome.blob.extend(wrong_size(length, self.size));
        let found = blob.digest();
        if found != *self.digest {
            outcome.blob.add(format!("holds {found}"));
            return outcome;
        }
        match compared {
            Ok((directory, notes)) => {
                outcome.directory.extend(directory);
                outcome.notes.extend(notes);
            }
            Err(error) => outcome.directory.add(format!("cannot be compared: {}", error.what)),
        }
        outcome
    }

    fn compare(&self, blob: &mut Hashed<fs::File>, before: &Outcome) -> Result<(Vec<String>, Vec<String>), Error> {
        let unreadable = || failed("read the archive in", self.blob.display());
        let mut tar = Hashed::new(archive::uncompressed(blob).map_err(unreadable())?);
        let root = if before.directory.is_empty() { Some(Root::open(self.directory)?) } else { None };
        let mut model = Model::new(Form::of_this_process());
        let mut members = Members::new(&mut tar, HEADER_LIMIT);
        while let Some(member) = members.next_member()? {
            let Some(path) = model.take(&member)? else { continue };
            if let Some(root) = &root
                && let Some(how) = root.content_differs(&path, &member, &mut members)?
            {
                model.differs(&path, how);
            }
        }
        members.drain()?;
        model.finish();
        let found = tar.digest();
        if found != self.diff_id.0 {
            return Ok((vec![format!("has an archive whose diff_id is {found}")], Vec::new()));
        }
        let notes = if before.notes.is_empty() { read_notes(self.notes) } else { Ok(Notes::default()) };
        let left_out = notes.as_ref().map_or(0, |notes| notes.xattrs_left_out);
        let directory = root.map(|root| differences(&model, &root, left_out)).transpose()?.unwrap_or_default();
        let notes = match notes {
            _ if !before.notes.is_empty() => Vec::new(),
            Ok(notes) => wrong_notes(&notes, &model.notes()),
            Err(cause) => vec![cause],
        };
        Ok((directory, notes))
    }
}

pub fn wrong_size(length: u64, size: Option<u64>) -> Option<String> {
    size.filter(|size| *size != length).map(|size| format!("has {length} bytes, not {size}"))
}

fn read_notes(path: &Path) -> Result<Notes, String> {
    let bytes = fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&bytes).map_err(|error| format!("do not read: {error}"))
}

/// Counts of entries and bytes are for people; everything else decides what an image shows.
fn wrong_notes(found: &Notes, right: &Notes) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut compare = |what: &str, same: bool| {
        if !same {
            wrong.push(format!("tell other {what} than the archive has"));
        }
    };
    compare("invented directories", found.implicit == right.implicit);
    compare("links into lower layers", found.links == right.links);
    compare("whiteouts", found.whiteouts == right.whiteouts);
    compare("opaque directories", (found.opaque, found.opaque_root) == (right.opaque, right.opaque_root));
    wrong
}

/// Where the directory differs from what the archive leaves.
fn differences(model: &Model, root: &Root, xattrs_left_out: u64) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut counts = vec![0; model.inodes.len()];
    model.names.values().for_each(|number| counts[*number] += 1);
    let (seen, several) = (vec![false; counts.len()], Default::default());
    let mut comparison = Comparison { model, left_out: xattrs_left_out, counts, seen, several };
    let mut directory: Option<(Vec<u8>, Root)> = None;
    for (path, number) in &model.names {
        let (parent, name) = split(path);
        if directory.as_ref().is_none_or(|(open, _)| open != parent) {
            directory = root.enter(parent).map(|entered| (parent.to_vec(), entered));
        }
        // Where the directory itself is missing or another kind of file, that has been told.
        let Some((_, place)) = &directory else { continue };
        let difference = match place.look(name) {
            Some(entry) => comparison.difference(path, *number, &entry),
            None => Some("is missing".into()),
        };
        found.extend(difference.map(|difference| format!("{} {difference}", shown(path))));
    }
    for (path, number) in &model.names {
        if !matches!(model.inodes[*number].kind, Kind::Directory { .. }) {
            continue;
        }
        for name in root.enter(path).map(|place| place.names()).into_iter().flatten() {
            let path = join(path, &name);
            if !model.names.contains_key(&path) {
                found.push(format!("{} is not in its archive", shown(&path)));
            }
        }
    }
    Ok(found)
}

struct Comparison<'a> {
    model: &'a Model,
    /// how many attributes the file system would not take
    left_out: u64,
    /// how many names each file of the model has
    counts: Vec<u32>,
    seen: Vec<bool>,
    /// of inodes on disk and files of the model with several names: which is which
    several: (HashMap<u64, usize>, HashMap<usize, u64>),
}

impl Comparison<'_> {
    /// What differs at one path, in words.
    fn difference(&mut self, path: &[u8], number: usize, found: &Found) -> Option<String> {
        let wanted = &self.model.inodes[number];
        let kind = FileType::from_raw_mode(found.stat.st_mode);
        let device = (rustix::fs::major(found.stat.st_rdev), rustix::fs::minor(found.stat.st_rdev));
        let fits = match &wanted.kind {
            Kind::Directory { .. } => kind == FileType::Directory,
            Kind::File => kind == FileType::RegularFile,
            Kind::Symlink(_) => kind == FileType::Symlink,
            Kind::Node(wanted, number) => kind == *wanted && (kind == FileType::Fifo || device == *number),
            Kind::Whiteout => kind == FileType::CharacterDevice && device == (0, 0),
        };
        if !fits {
            return Some(format!("is another kind of file than in its archive: {kind:?}"));
        }
        if let Kind::Symlink(target) = &wanted.kind
            && found.target.as_ref() != Some(target)
        {
            return Some(format!("leads to {}", shown(found.target.as_deref().unwrap_or_default())));
        }
        if wanted.kind == Kind::Whiteout {
            return None; // when and by whom it was made says nothing
        }
        if let Some(content) =
            wanted.content.as_ref().filter(|content| self.model.names.get(&content.0) == Some(&number))
        {
            return (content.0 == path).then(|| content.1.clone());
        }
        if kind != FileType::Directory && !self.is_same_file(number, found) {
            return Some("is no longer one file with the names that its archive gives it".into());
        }
        match std::mem::replace(&mut self.seen[number], true) {
            true => None, // another name of it
            false => self.attributes(path, wanted, found),
        }
    }

    /// Whether names of one file lead to one inode, and those of two to two.
    fn is_same_file(&mut self, number: usize, found: &Found) -> bool {
        let inode = found.stat.st_ino;
        let (numbers, inodes) = &mut self.several;
        let right = found.stat.st_nlink == 1 || *numbers.entry(inode).or_insert(number) == number;
        right && (self.counts[number] == 1 || *inodes.entry(number).or_insert(inode) == inode)
    }

    fn attributes(&mut self, path: &[u8], wanted: &Inode, found: &Found) -> Option<String> {
        let (mode, is_link) = (found.stat.st_mode & 0o7777, matches!(wanted.kind, Kind::Symlink(_)));
        let xattrs = &wanted.xattrs;
        // An access list takes the place of the group's bits.
        let mask = if xattrs.contains_key(ACCESS_ACL) { 0o7707 } else { 0o7777 };
        if !is_link && mode & mask != wanted.mode & mask {
            return Some(format!("has mode {mode:o}, not {:o}", wanted.mode));
        }
        let (owner, (uid, gid)) = ((found.stat.st_uid, found.stat.st_gid), wanted.owner);
        // Without root everything belongs to who unpacked it.
        if Form::of_this_process().keeps_owners() && owner != (uid, gid) {
            return Some(format!("belongs to {}:{}, not {uid}:{gid}", owner.0, owner.1));
        }
        let time = Time { seconds: found.stat.st_mtime, nanoseconds: found.stat.st_mtime_nsec as u32 };
        // No file system keeps all times that a tar can hold.
        if time != wanted.mtime && i32::try_from(wanted.mtime.seconds).is_ok() {
            return Some(format!("is of {}, not {}", moment(time), moment(wanted.mtime)));
        }
        self.xattrs(xattrs, found).or_else(|| self.opaque_mark(path, wanted, found))
    }

    fn xattrs(&mut self, wanted: &BTreeMap<Vec<u8>, Vec<u8>>, found: &Found) -> Option<String> {
        for (name, value) in wanted {
            match found.xattrs.get(name) {
                Some(here) if here == value => {}
                Some(_) => return Some(format!("has another value of attribute {}", shown(name))),
                // One that says no more than the mode does is not kept.
                None if name.starts_with(b"system.posix_acl_") && value.len() <= SHORT_ACL => {}
                None if self.left_out > 0 && !name.starts_with(b"security.") => self.left_out -= 1,
                None => return Some(format!("has lost its attribute {}", shown(name))),
            }
        }
        let more = found.xattrs.keys().find(|name| !wanted.contains_key(*name))?;
        Some(format!("has an attribute {} that is not in its archive", shown(more)))
    }

    /// Below a directory that is opaque another mark changes nothing.
    fn opaque_mark(&self, path: &[u8], wanted: &Inode, found: &Found) -> Option<String> {
        match wanted.kind {
            Kind::Directory { opaque, .. } if opaque != found.is_opaque && !self.model.is_below_opaque(path) => {
                Some(match opaque {
                    true => "no longer hides what lower layers have there".into(),
                    false => "hides what lower layers have there".into(),
                })
            }
            _ => None,
        }
    }
}

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// A version and three entries: owner, group, others (acl(5)).
const SHORT_ACL: usize = 4 + 3 * 8;

fn moment(time: Time) -> String {
    format!("@{}.{:09}", time.seconds, time.nanoseconds)
}

/// Reads until the buffer is full or the end is reached.
pub fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
