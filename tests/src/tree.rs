//! A directory tree as facts that can be compared, whoever made it: names are bytes, and no path is too long, as each
//! directory is opened from the one above it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use sha2::{Digest, Sha256};

/// Every path below a root (itself as the empty one), and by name what is to be said of it: `type`, `mode`, `owner`,
/// `mtime`, `device`, `size`, `content`, `target`, `xattr …`, and `link`, the first path of the same file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree(pub BTreeMap<Vec<u8>, BTreeMap<String, String>>);

/// One fact that two trees do not have in common; "absent" is one, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub path: String,
    pub fact: String,
    pub one: String,
    pub other: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().take(100).collect::<String>();
        write!(f, "{:?} {}: {} | {}", short(&self.path), self.fact, short(&self.one), short(&self.other))
    }
}

impl Tree {
    /// Reads all of it. What cannot be read ends the test.
    pub fn of(root: &Path) -> Tree {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .unwrap_or_else(|errno| panic!("cannot walk {}: {errno}", root.display()));
        let mut walk = Walk::default();
        let stat = rustix::fs::fstat(&opened).expect("an open directory");
        walk.note(Vec::new(), &stat, opened.as_fd().as_raw_fd(), c".");
        walk.directory(&opened, &[]);
        Tree(walk.facts)
    }

    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| printable(path)).collect()
    }

    /// Whether a path, as it is printed, is a directory here.
    pub fn is_directory(&self, path: &str) -> bool {
        let facts = self.0.iter().find(|(bytes, _)| printable(bytes) == path).map(|(_, facts)| facts);
        facts.is_some_and(|facts| facts.get("type").is_some_and(|kind| kind == "Directory"))
    }

    /// What is not the same in both.
    pub fn differences(&self, other: &Tree) -> Vec<Difference> {
        let mut all = Vec::new();
        let empty = BTreeMap::new();
        let mut paths: Vec<_> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            if self.0.contains_key(path) != other.0.contains_key(path) {
                let there = |tree: &Tree| if tree.0.contains_key(path) { "there" } else { "absent" }.to_string();
                let (path, fact) = (printable(path), "path".to_string());
                all.push(Difference { one: there(self), other: there(other), path, fact });
                continue;
            }
            let (one, two) = (self.0.get(path).unwrap_or(&empty), other.0.get(path).unwrap_or(&empty));
            let mut facts: Vec<_> = one.keys().chain(two.keys()).collect();
            facts.sort();
            facts.dedup();
            for fact in facts.into_iter().filter(|fact| one.get(*fact) != two.get(*fact)) {
                let value =
                    |facts: &BTreeMap<String, String>| facts.get(fact).cloned().unwrap_or_else(|| "absent".into());
                let (one, other) = (value(one), value(two));
                all.push(Difference { path: printable(path), fact: fact.clone(), one, other });
            }
        }
        all
    }
}

#[derive(Default)]
struct Walk {
    facts: BTreeMap<Vec<u8>, BTreeMap<String, String>>,
    /// the first path of each file that has several
    first: BTreeMap<(u64, u64), String>,
}

impl Walk {
    fn directory(&mut self, directory: &OwnedFd, path: &[u8]) {
        let mut names: Vec<_> = Dir::read_from(directory)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .unwrap_or_else(|errno| panic!("cannot list {}: {errno}", printable(path)))
            .into_iter()
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        names.sort();
        for name in names {
            let below = if path.is_empty() { name.to_bytes().into() } else { [path, b"/", name.to_bytes()].concat() };
            let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap_or_else(|errno| panic!("cannot look at {}: {errno}", printable(&below)));
            self.note(below.clone(), &stat, directory.as_raw_fd(), &name);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(directory, &name, flags, Mode::empty())
                    .unwrap_or_else(|errno| panic!("cannot open {}: {errno}", printable(&below)));
                self.directory(&opened, &below);
            }
        }
    }

    /// Writes down what is to be said of `name` in the open directory `parent`.
    fn note(&mut self, path: Vec<u8>, stat: &Stat, parent: i32, name: &CStr) {
        let place = [format!("/proc/self/fd/{parent}/").as_bytes(), name.to_bytes()].concat();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut facts = BTreeMap::new();
        let mut fact = |name: &str, value: String| facts.insert(name.to_string(), value);
        fact("type", format!("{kind:?}"));
        fact("mode", format!("{:04o}", stat.st_mode & 0o7777));
        fact("owner", format!("{}:{}", stat.st_uid, stat.st_gid));
        fact("mtime", format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec));
        match kind {
            FileType::RegularFile => {
                fact("size", stat.st_size.to_string());
                fact("content", content(&place));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlink(&place[..], Vec::new()).expect("a link");
                fact("target", printable(target.to_bytes()));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                fact("device", format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
            }
            _ => {}
        }
        if kind != FileType::Directory {
            let first = self.first.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| printable(&path));
            fact("link", first.clone());
        }
        for (name, value) in xattrs(&place) {
            fact(&format!("xattr {name}"), value);
        }
        self.facts.insert(path, facts);
    }
}

fn content(place: &[u8]) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut hash = Sha256::new();
    let mut file = File::open(std::ffi::OsStr::from_bytes(place)).expect("root reads all");
    std::io::copy(&mut file, &mut HashWriter(&mut hash)).expect("a file can be read");
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn xattrs(place: &[u8]) -> Vec<(String, String)> {
    let mut names = vec![0; 65536];
    let Ok(length) = rustix::fs::llistxattr(place, &mut names[..]) else { return Vec::new() };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(place, name, &mut value[..]).expect("an attribute that is listed");
        (printable(name), printable(&value[..length]))
    };
    names.map(value).collect()
}

/// Bytes as text, unambiguously.
pub fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
