//! What a layer's archive leaves, computed from its entries alone: what should stand at which path.
//!
//! The order of entries decides, whiteouts hide lower layers only, symlinks on the way lead inside the layer. Source:
//! image-spec, layer.md.

use std::collections::BTreeMap;
use std::io::{self, Read};

use rustix::fs::FileType;
use tar::{Entry, EntryType};

/// What should stand at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Directory {
        opaque: bool,
    },
    /// whether the content read from the archive is the file's
    File {
        same: bool,
    },
    /// a hard link to a path of this layer, or of a lower one
    Link {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Other {
        kind: FileType,
        device: (u32, u32),
    },
    Whiteout,
    /// it must be there; more cannot be told
    Something,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub kind: Kind,
    /// mode, uid, gid; None where the archive does not say
    pub attributes: Option<(u32, u64, u64)>,
    /// its place in the archive
    pub order: usize,
}

/// What the archive leaves when it is unpacked from its first entry to its last: at each path the last one wins.
#[derive(Default)]
pub struct Expected {
    pub items: BTreeMap<Vec<u8>, Item>,
    order: usize,
    opaque_root: bool,
}

impl Expected {
    /// Takes in the next entry. `is_same` says whether the file at a path has the content that a reader yields.
    pub fn take<R: Read>(
        &mut self,
        mut entry: Entry<'_, R>,
        is_same: impl Fn(&[u8], &mut Entry<'_, R>) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.order += 1;
        let Some(path) = clean(&entry.path_bytes()).map(|path| self.resolve_parent(&path)) else { return Ok(()) };
        let (parent, name) = split(&path);
        if let Some(order) = name.strip_prefix(b".wh.") {
            match order {
                b".wh..opq" => self.make_opaque(parent.to_vec()),
                aufs if aufs.starts_with(b".wh.") => {}
                hidden => self.whiteout(join(parent, hidden)),
            }
            return Ok(());
        }

        let header = entry.header();
        let (mut uid, mut gid, mut sparse) = (header.uid()?, header.gid()?, false);
        let mode = header.mode()? & 0o7777;
        let device =
            (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
        let kind = header.entry_type();
        for extension in entry.pax_extensions().ok().flatten().into_iter().flatten().flatten() {
            let number = || extension.value().ok()?.parse().ok();
            match extension.key_bytes() {
                b"uid" => uid = number().unwrap_or(uid),
                b"gid" => gid = number().unwrap_or(gid),
                key => sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        let link = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        let kind = match kind {
            _ if sparse => Kind::Something,
            EntryType::Directory => Kind::Directory { opaque: false },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File { same: is_same(&path, &mut entry)? }
            }
            EntryType::Link => {
                Kind::Link { target: clean(&link).map(|path| self.resolve_parent(&path)).unwrap_or_default() }
            }
            EntryType::Symlink => Kind::Symlink { target: link },
            EntryType::Char => Kind::Other { kind: FileType::CharacterDevice, device },
            EntryType::Block => Kind::Other { kind: FileType::BlockDevice, device },
            EntryType::Fifo => Kind::Other { kind: FileType::Fifo, device: (0, 0) },
            _ => return Ok(()),
        };
        let attributes = match kind {
            Kind::Symlink { .. } => Some((0o777, uid, gid)),
            Kind::Link { .. } | Kind::Something => None,
            _ => Some((mode, uid, gid)),
        };
        self.put(path, kind, attributes);
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, mut kind: Kind, attributes: Option<(u32, u64, u64)>) {
        // A name whose parent is no directory makes it one.
        let mut parent = split(&path).0.to_vec();
        while !parent.is_empty() {
            if self.items.get(&parent).is_some_and(|item| !matches!(item.kind, Kind::Directory { .. })) {
                self.items.remove(&parent);
            }
            parent = split(&parent).0.to_vec();
        }
        match (&mut kind, self.items.get(&path).map(|item| &item.kind)) {
            // A directory over a directory keeps what is in it; over a whiteout it hides what is below.
            (Kind::Directory { opaque }, Some(Kind::Directory { opaque: before })) => *opaque = *before,
            (Kind::Directory { opaque }, Some(Kind::Whiteout)) => *opaque = true,
            (Kind::Directory { .. }, _) => {}
            _ if self.is_parent(&path) => self.remove_below(&path),
            _ => {}
        }
        self.items.insert(path, Item { kind, attributes, order: self.order });
    }

    fn remove_below(&mut self, path: &[u8]) {
        let prefix = join(path, b"");
        self.items.retain(|other, _| !other.starts_with(&prefix));
    }

    /// Hides what lower layers have at a path; what this layer has there stays.
    fn whiteout(&mut self, path: Vec<u8>) {
        let is_parent = self.is_parent(&path);
        match self.items.get_mut(&path) {
            Some(Item { kind: Kind::Directory { opaque }, .. }) => *opaque = true,
            Some(_) => {}
            None if is_parent => {}
            None => self.put(path, Kind::Whiteout, None),
        }
    }

    fn make_opaque(&mut self, path: Vec<u8>) {
        match self.items.get_mut(&path) {
            _ if path.is_empty() => self.opaque_root = true, // overlayfs knows no opaque root: the fix-up's
            Some(Item { kind: Kind::Directory { opaque }, .. }) => *opaque = true,
            _ => self.put(path, Kind::Directory { opaque: true }, None),
        }
    }

    /// Whether something is expected below a path.
    pub fn is_parent(&self, path: &[u8]) -> bool {
        let prefix = join(path, b"");
        self.items.range(prefix.clone()..).next().is_some_and(|(other, _)| other.starts_with(&prefix))
    }

    /// Whether what lower layers have at a path is hidden by a directory above it.
    pub fn is_below_opaque(&self, path: &[u8]) -> bool {
        let mut parent = split(path).0;
        while !parent.is_empty() {
            if self.items.get(parent).is_some_and(|item| item.kind == Kind::Directory { opaque: true }) {
                return true;
            }
            parent = split(parent).0;
        }
        self.opaque_root
    }

    /// Follows the symlinks that this layer has on the way to a path, as if its root were `/`.
    fn resolve_parent(&self, path: &[u8]) -> Vec<u8> {
        const LIMIT: usize = 40;
        let mut path = path.to_vec();
        for _ in 0..LIMIT {
            let parents = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
            let link = parents.into_iter().find_map(|end| match self.items.get(&path[..end]).map(|item| &item.kind) {
                Some(Kind::Symlink { target }) => Some((end, target.clone())),
                _ => None,
            });
            let Some((end, target)) = link else { return path };
            let base = if target.starts_with(b"/") { Vec::new() } else { split(&path[..end]).0.to_vec() };
            path = normal(&join(&join(&base, &target), &path[end + 1..]));
        }
        path
    }
}

/// A path without empty parts and dots; None for one that leads out, which no unpacker makes.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    (!parts.contains(&&b".."[..])).then(|| parts.join(&b'/'))
}

/// The same with `..` resolved; above the root there is the root.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A name of an archive, safe to print on a terminal.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .flat_map(|c| if c.is_control() { '?'.escape_default() } else { c.escape_default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(entries: &[(&str, Kind)]) -> Expected {
        let mut expected = Expected::default();
        for (path, kind) in entries {
            expected.order += 1;
            let path = expected.resolve_parent(path.as_bytes());
            match kind {
                Kind::Whiteout => expected.whiteout(path),
                kind => expected.put(path, kind.clone(), None),
            }
        }
        expected
    }

    fn names(expected: &Expected) -> Vec<String> {
        expected.items.keys().map(|path| shown(path)).collect()
    }

    const FILE: Kind = Kind::File { same: true };
    const DIRECTORY: Kind = Kind::Directory { opaque: false };

    #[test]
    fn the_last_entry_of_a_path_wins_and_a_file_takes_a_directory_away() {
        let expected = expect(&[("a", DIRECTORY), ("a/b", FILE), ("a", DIRECTORY), ("c", FILE)]);
        assert_eq!(names(&expected), ["a", "a/b", "c"]);
        let expected = expect(&[("a", DIRECTORY), ("a/b", FILE), ("a", FILE)]);
        assert_eq!(names(&expected), ["a"]);
    }

    #[test]
    fn a_symlink_on_the_way_is_followed_inside_the_layer() {
        let to = |target: &str| Kind::Symlink { target: target.into() };
        let expected = expect(&[("run", DIRECTORY), ("var/run", to("/run")), ("var/run/lock", FILE)]);
        assert_eq!(names(&expected), ["run", "run/lock", "var/run"]);
        let expected = expect(&[("x/up", to("../../../y")), ("x/up/z", FILE)]);
        assert_eq!(names(&expected), ["x/up", "y/z"]);
        let around = expect(&[("a", to("a")), ("a/b", FILE)]);
        assert!(!names(&around).is_empty(), "a link to itself ends");
    }

    #[test]
    fn a_whiteout_hides_what_is_below_and_not_what_the_layer_has() {
        let expected = expect(&[("a", FILE), ("a", Kind::Whiteout), ("b", Kind::Whiteout), ("b", DIRECTORY)]);
        assert_eq!(expected.items[&b"a"[..]].kind, FILE);
        assert_eq!(expected.items[&b"b"[..]].kind, Kind::Directory { opaque: true });
        assert!(expected.is_below_opaque(b"b/c") && !expected.is_below_opaque(b"a"));
    }

    #[test]
    fn paths_are_cleaned_and_those_that_lead_out_are_none() {
        assert_eq!(clean(b"./a//b/"), Some(b"a/b".to_vec()));
        assert_eq!(clean(b"/"), Some(Vec::new()));
        assert_eq!(clean(b"a/../b"), None);
    }
}
