//! Whiteouts: how a layer says that a file of a lower layer is gone.
//!
//! In the tar it is a name: `.wh.NAME` hides NAME, `.wh..wh..opq` hides all a directory had. On disk it is what
//! overlayfs reads: a character device 0:0, and the attribute `overlay.opaque` on the directory. A whiteout hides
//! lower layers only, never what the same layer adds, whichever of the two stands first in the tar.
//! Source: image-spec, layer.md, Whiteouts; Documentation/filesystems/overlayfs.rst.

use std::sync::atomic::AtomicBool;

use crate::error::Error;
use rustix::fs::FileType;

use super::calls::{At, MakeNode, Remove, SetXattr, Target, repeated, split};
use super::notes::shown;
use super::tree::{Found, Tree};

/// What the last component of a path asks for.
#[derive(Debug, PartialEq)]
pub enum Name<'a> {
    Plain,
    /// Hide this sibling.
    Whiteout(&'a [u8]),
    /// Hide everything the directory has in lower layers.
    Opaque,
    /// Bookkeeping of aufs, of no use to anyone else.
    Aufs,
}

/// Reads the names of a clean path. `.wh.` is reserved: where it cannot be obeyed it is refused, never made a file.
pub fn read(path: &[u8]) -> Result<Name<'_>, Error> {
    let refused = |cause: &str| {
        Error::new(format!("cannot unpack '{}': {cause}", shown(path)))
            .why("names beginning with .wh. are orders to hide a file, not files")
            .likely("the layer was made by a broken tool, or it is hostile")
    };
    if !path.windows(4).any(|window| window == b".wh.") {
        return Ok(Name::Plain); // nearly all
    }
    let (parent, name) = split(path);
    for component in parent.split(|byte| *byte == b'/') {
        if component.starts_with(b".wh..wh.") {
            return Ok(Name::Aufs);
        }
        if component.starts_with(b".wh.") {
            return Err(refused("a whiteout is no directory"));
        }
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Name::Plain),
        Some(b".wh..opq") => Ok(Name::Opaque),
        Some(b"") => Err(refused("a whiteout of nothing")),
        Some(b"." | b"..") => Err(refused("a whiteout of a directory from within")),
        Some(hidden) if hidden.starts_with(b".wh.") => Ok(Name::Aufs),
        Some(hidden) => Ok(Name::Whiteout(hidden)),
    }
}

impl Tree {
    /// Hides `path` (whose parent exists) in all lower layers.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "overlayfs takes a character device 0:0 for \"gone\"; without it the lower layer's file \
                           shows through";
        if self.links.contains_key(path) {
            return Ok(()); // the layer's own, though its file is still to come
        }
        match self.look(path)? {
            // The layer has a directory there: its own files stay, those below it go.
            Found::Directory => self.opaque(path),
            Found::Whiteout | Found::Other => Ok(()),
            // Where nothing shows through there is nothing to hide, and overlayfs would list the device.
            Found::Nothing if self.is_below_opaque(path) => Ok(()),
            Found::Nothing => {
                let at = At { dir: self.open(split(path).0)?, path };
                repeated(&TOLD, MakeNode { at, kind: FileType::CharacterDevice, mode: 0, device: (0, 0) }, WHY)?;
                self.charge(path, path.len())?;
                self.whiteouts.insert(path.to_vec());
                Ok(())
            }
        }
    }

    /// Hides everything the directory `path` has in lower layers.
    pub fn opaque(&mut self, path: &[u8]) -> Result<(), Error> {
        static TOLD: AtomicBool = AtomicBool::new(false);
        const WHY: &str = "overlayfs merges directories of one name; this one starts anew and must not show the lower \
                           layer's files";
        static PRUNED: AtomicBool = AtomicBool::new(false);
        for needless in &self.whiteouts_below(path) {
            let dir = self.open(split(needless).0)?;
            repeated(&PRUNED, Remove(At { dir, path: needless }), "overlayfs lists whiteouts that nothing lies under")?;
            self.whiteouts.remove(needless);
        }
        if path.is_empty() {
            // Overlayfs ignores the mark on a layer's root: it goes to each directory at the top, and the notes ask
            // the fix-up for the rest.
            self.opaque_root = true;
            let top: Vec<Vec<u8>> = self.directories_at_the_top();
            return top.iter().try_for_each(|directory| self.opaque(directory));
        }
        if self.is_below_opaque(path) || !self.mark_opaque(path) {
            return Ok(());
        }
        let name = self.form.opaque_xattr();
        let dir = self.open(split(path).0)?;
        let target = Target::Name(At { dir, path });
        repeated(&TOLD, SetXattr { target, name, value: b"y" }, WHY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_orders_or_plain() {
        let cases: [(&[u8], Option<Name>); 16] = [
            (b"etc/passwd", Some(Name::Plain)),
            (b"etc/x.wh.y", Some(Name::Plain)),
            (b".whx", Some(Name::Plain)),
            (b".wh.x", Some(Name::Whiteout(b"x"))),
            (b"a/b/.wh.x.y", Some(Name::Whiteout(b"x.y"))),
            (b"a/.wh....", Some(Name::Whiteout(b"..."))),
            (b".wh..hidden", Some(Name::Whiteout(b".hidden"))),
            (b".wh..wh..opq", Some(Name::Opaque)),
            (b"a/.wh..wh..opq", Some(Name::Opaque)),
            (b".wh..wh.plnk", Some(Name::Aufs)),
            (b".wh..wh.plnk/1.2", Some(Name::Aufs)),
            (b"a/.wh..wh.aufs", Some(Name::Aufs)),
            (b"a/.wh.", None),
            (b".wh..", None),
            (b"a/.wh...", None),
            (b".wh.d/x", None),
        ];
        for (path, expected) in cases {
            assert_eq!(read(path).ok(), expected, "{}", shown(path));
        }
    }
}
