//! What `diff` knows of a file: all that an image can say of it, times and the names that are hard links left aside.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use mocker_common::error::{Error, failed};
use rustix::fs::{FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::merged::{Layers, Node, by_descriptor, join};
use crate::printable;

pub struct Facts {
    stat: Stat,
    /// of a symbolic link
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// its layer, its directory, its name there: descriptors of a whole image's files would be too many
    place: (usize, Vec<u8>, Vec<u8>),
}

impl Facts {
    pub fn read(layers: &Layers, directory: &[u8], name: &[u8], node: &Node) -> Result<Facts, Error> {
        let wrong = |errno: Errno| failed("read", layers.shown(node.layer, &join(directory, name)))(errno.into());
        let parent = layers.directory(node.layer, directory)?;
        let target = match node.kind() {
            FileType::Symlink => readlinkat(&parent, name, Vec::new()).map_err(wrong)?.into_bytes(),
            _ => Vec::new(),
        };
        let name = if name.is_empty() { b"." } else { name };
        let xattrs = xattrs(&by_descriptor(parent.as_fd(), name)).map_err(wrong)?;
        Ok(Facts { stat: node.stat, target, xattrs, place: (node.layer, directory.to_vec(), name.to_vec()) })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// What is not the same. Contents are read only where all else leaves them open.
    pub fn differs(&self, other: &Facts, layers: &Layers) -> Result<Vec<&'static str>, Error> {
        if self.kind() != other.kind() {
            return Ok(vec!["kind"]);
        }
        let (is_file, is_device) = (
            self.kind() == FileType::RegularFile,
            matches!(self.kind(), FileType::CharacterDevice | FileType::BlockDevice),
        );
        let same_size = self.stat.st_size == other.stat.st_size;
        let facts = [
            ("mode", self.mode() != other.mode()),
            ("owner", self.owner() != other.owner()),
            ("size", is_file && !same_size),
            ("content", is_file && same_size && !self.has_content_of(other, layers)?),
            ("target", self.target != other.target),
            ("device", is_device && self.stat.st_rdev != other.stat.st_rdev),
            ("xattrs", self.xattrs != other.xattrs),
        ];
        Ok(facts.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect())
    }

    fn has_content_of(&self, other: &Facts, layers: &Layers) -> Result<bool, Error> {
        let (mut ours, mut theirs) = (self.open(layers)?, other.open(layers)?);
        let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            let count = ours.read(&mut a).map_err(failed("read", self.shown(layers)))?;
            match theirs.read_exact(&mut b[..count]) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
                outcome => outcome.map_err(failed("read", other.shown(layers)))?,
            }
            if count == 0 || a[..count] != b[..count] {
                return Ok(count == 0);
            }
        }
    }

    fn open(&self, layers: &Layers) -> Result<File, Error> {
        let (layer, directory, name) = &self.place;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(layers.directory(*layer, directory)?, &name[..], flags, Mode::empty());
        file.map(File::from).map_err(|errno| failed("open", self.shown(layers))(errno.into()))
    }

    fn shown(&self, layers: &Layers) -> String {
        let (layer, directory, name) = &self.place;
        layers.shown(*layer, &join(directory, name))
    }

    fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    fn owner(&self) -> (u32, u32) {
        (self.stat.st_uid, self.stat.st_gid)
    }

    fn device(&self) -> String {
        format!("{}:{}", major(self.stat.st_rdev), minor(self.stat.st_rdev))
    }

    /// A difference in words: `mode 0644 -> 0600`.
    pub fn told(&self, new: &Facts, what: &str) -> String {
        let change = |told: fn(&Facts) -> String| format!("{what} {} -> {}", told(self), told(new));
        match what {
            "kind" => change(|facts| kind(facts.kind()).into()),
            "mode" => change(|facts| format!("{:04o}", facts.mode())),
            "owner" => change(|facts| format!("{}:{}", facts.owner().0, facts.owner().1)),
            "size" => change(|facts| facts.stat.st_size.to_string()),
            "target" => change(|facts| printable::path(&facts.target)),
            "device" => change(Facts::device),
            "xattrs" => {
                let names = self.xattrs.keys().chain(new.xattrs.keys());
                let names = names.filter(|name| self.xattrs.get(*name) != new.xattrs.get(*name));
                let names: std::collections::BTreeSet<String> = names.map(|name| printable::path(name)).collect();
                format!("xattrs {}", names.into_iter().collect::<Vec<_>>().join(" "))
            }
            _ => what.into(),
        }
    }

    pub fn to_json(&self) -> Value {
        let names: Vec<_> = self.xattrs.keys().map(|name| String::from_utf8_lossy(name)).collect();
        let mut object = json!({
            "kind": kind(self.kind()),
            "mode": format!("{:04o}", self.mode()),
            "uid": self.owner().0,
            "gid": self.owner().1,
            "xattrs": names,
        });
        match self.kind() {
            FileType::RegularFile => object["size"] = self.stat.st_size.into(),
            FileType::Symlink => object["target"] = String::from_utf8_lossy(&self.target).into(),
            FileType::CharacterDevice | FileType::BlockDevice => object["device"] = self.device().into(),
            _ => {}
        }
        object
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Unknown => "unknown",
    }
}

/// The extended attributes that are the image's: not those by which overlayfs marks directories.
fn xattrs(path: &std::path::Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    const LONGEST: usize = 64 << 10; // neither a list nor a value is longer (listxattr(2))
    let mut found = BTreeMap::new();
    match rustix::fs::llistxattr(path, &mut [0u8; 1][..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found), // nearly always
        Ok(_) | Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    };
    let mut names = vec![0u8; LONGEST];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0u8; LONGEST];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}
