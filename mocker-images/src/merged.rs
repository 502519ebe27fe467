//! An image's tree as overlayfs would show it, read from the layer directories without mounting anything.
//!
//! Overlayfs' rules (Documentation/filesystems/overlayfs.rst): of a name the topmost layer's is seen; a 0:0 device hides
//! it in all layers below; directories of one name are merged, down to the first that is opaque, or to what is none. The
//! root is never opaque.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat};

use crate::printable;

/// Layer directories, opened. Two images that share a layer share its number here.
#[derive(Default)]
pub struct Layers {
    opened: Vec<(PathBuf, OwnedFd)>,
}

/// Which layers show through at a directory, top first.
pub type Stack = Vec<usize>;

/// What is seen under a name.
pub struct Node {
    /// whose it is
    pub layer: usize,
    pub stat: Stat,
    /// of a directory: where its content is from; else empty
    pub stack: Stack,
}

impl Node {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl Layers {
    /// Opens an image's layers (top first): the stack of its root.
    pub fn open(&mut self, lower: &[PathBuf]) -> Result<Stack, Error> {
        lower.iter().map(|path| self.number(path)).collect()
    }

    fn number(&mut self, path: &Path) -> Result<usize, Error> {
        if let Some(known) = self.opened.iter().position(|(known, _)| known == path) {
            return Ok(known);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open layer", path.display())(errno.into()))?;
        self.opened.push((path.to_path_buf(), root));
        Ok(self.opened.len() - 1)
    }

    /// The root itself, which has no name to be listed under. None for an image without layers.
    pub fn root(&self, stack: &Stack) -> Result<Option<Node>, Error> {
        let Some(layer) = stack.first().copied() else { return Ok(None) };
        let (path, root) = &self.opened[layer];
        let stat = rustix::fs::fstat(root).map_err(|errno| failed("look at", path.display())(errno.into()))?;
        Ok(Some(Node { layer, stat, stack: stack.clone() }))
    }

    /// What is seen in a directory of the merged tree, by name. `path` is below the root, empty for the root.
    pub fn read(&self, stack: &Stack, path: &[u8]) -> Result<BTreeMap<Vec<u8>, Node>, Error> {
        let mut seen: BTreeMap<Vec<u8>, Seen> = BTreeMap::new();
        for layer in stack {
            let directory = self.directory(*layer, path)?;
            let wrong = |errno: rustix::io::Errno| failed("read", self.shown(*layer, path))(errno.into());
            for entry in Dir::read_from(&directory).map_err(wrong)? {
                let entry = entry.map_err(wrong)?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." || seen.get(name).is_some_and(|seen| !seen.merges) {
                    continue;
                }
                let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(wrong)?;
                let merges = is_directory(&stat) && !is_opaque(directory.as_fd(), name);
                match seen.get_mut(name) {
                    None => {
                        let stack = if is_directory(&stat) { vec![*layer] } else { Stack::new() };
                        let node = (!is_whiteout(&stat)).then_some(Node { layer: *layer, stat, stack });
                        seen.insert(name.to_vec(), Seen { node, merges });
                    }
                    Some(above) => {
                        above.merges = merges;
                        if is_directory(&stat) {
                            above.node.iter_mut().for_each(|node| node.stack.push(*layer));
                        }
                    }
                }
            }
        }
        Ok(seen.into_iter().filter_map(|(name, seen)| Some((name, seen.node?))).collect())
    }

    /// Opens a directory of one layer. No link is followed; a path longer than the kernel takes at once is gone in parts.
    pub fn directory(&self, layer: usize, path: &[u8]) -> Result<OwnedFd, Error> {
        const AT_ONCE: usize = 3000;
        let wrong = |errno: rustix::io::Errno| failed("open", self.shown(layer, path))(errno.into());
        let open = |at: BorrowedFd<'_>, path: &[u8]| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(at, if path.is_empty() { b"." } else { path }, flags, Mode::empty(), how).map_err(wrong)
        };
        let mut rest = path;
        let mut hop: Option<OwnedFd> = None;
        while rest.len() > AT_ONCE {
            let slash = rest[..AT_ONCE].iter().rposition(|byte| *byte == b'/').unwrap_or(rest.len());
            let at = hop.as_ref().unwrap_or(&self.opened[layer].1);
            hop = Some(open(at.as_fd(), &rest[..slash])?);
            rest = rest.get(slash + 1..).unwrap_or_default();
        }
        open(hop.as_ref().unwrap_or(&self.opened[layer].1).as_fd(), rest)
    }

    /// A path of a layer, for an error.
    pub fn shown(&self, layer: usize, path: &[u8]) -> String {
        printable::path(&[self.opened[layer].0.as_os_str().as_bytes(), b"/", path].concat())
    }
}

/// A name on the way down the layers.
struct Seen {
    /// None where the topmost is a whiteout
    node: Option<Node>,
    /// whether a directory of this name in a layer below would be merged
    merges: bool,
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The mark has one of two names: the second where layers were unpacked without root.
fn is_opaque(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let path = by_descriptor(directory, name);
    let mut mark = [0u8; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|key| rustix::fs::lgetxattr(&path, *key, &mut mark[..]).is_ok_and(|_| mark == *b"y"))
}

/// A name in an open directory, for the calls that take only paths (the xattr ones). The last part is not followed.
pub fn by_descriptor(directory: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(std::ffi::OsStr::from_bytes(name))
}

/// A path below the root, one name longer.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The paths of the merged tree, sorted.
    fn tree(layers: &Layers, stack: Stack) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![(Vec::new(), stack)];
        while let Some((path, stack)) = open.pop() {
            for (name, node) in layers.read(&stack, &path).unwrap() {
                let path = join(&path, &name);
                found.push(String::from_utf8_lossy(&path).into_owned());
                if node.kind() == FileType::Directory {
                    open.push((path, node.stack));
                }
            }
        }
        found.sort();
        found
    }

    fn layer(root: &Path, paths: &[&str]) -> PathBuf {
        for path in paths {
            let place = root.join(path.trim_end_matches('/'));
            fs::create_dir_all(if path.ends_with('/') { &place } else { place.parent().unwrap() }).unwrap();
            if !path.ends_with('/') {
                fs::write(&place, path).unwrap();
            }
        }
        root.to_path_buf()
    }

    #[test]
    fn directories_merge_until_one_is_opaque_or_none() {
        let scratch = tempfile::tempdir().unwrap();
        let bottom = layer(&scratch.path().join("a"), &["etc/a", "opt/a", "srv/a", "usr/lib/a", "x/"]);
        let middle = layer(&scratch.path().join("b"), &["etc/b", "opt/b", "srv", "usr/lib/b", "x/y"]);
        let top = layer(&scratch.path().join("c"), &["etc/c", "opt/c", "srv/c", "usr/lib/a"]);
        let opaque = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(middle.join("opt"), "user.overlay.opaque", b"y", opaque).unwrap();
        let mut layers = Layers::default();
        let stack = layers.open(&[top, middle, bottom]).unwrap();
        let expected = "etc etc/a etc/b etc/c opt opt/b opt/c srv srv/c usr usr/lib usr/lib/a usr/lib/b x x/y";
        assert_eq!(tree(&layers, stack.clone()).join(" "), expected);
        assert_eq!(layers.read(&stack, b"usr/lib").unwrap()[&b"a"[..]].layer, 0);
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_at_once_is_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let name = "n".repeat(200);
        let mut path = Vec::new();
        let mut here = rustix::fs::open(scratch.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..50 {
            rustix::fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
            path = join(&path, name.as_bytes());
        }
        let mut layers = Layers::default();
        let stack = layers.open(&[scratch.path().to_path_buf()]).unwrap();
        let opened = layers.directory(stack[0], &path).unwrap();
        assert_eq!(rustix::fs::fstat(opened).unwrap().st_ino, rustix::fs::fstat(here).unwrap().st_ino);
    }
}
