//! The layers of an image as they are looked through: what one of them has at a path, and what they show together.
//! Overlayfs does this in the kernel; here it is asked layer by layer, since the answer wanted is *which* layer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::digest::DiffId;
use crate::error::{Error, failed};
use crate::store::Store;
use rustix::fs::FileType;

use crate::unpack::calls::split;
use crate::unpack::notes::{LowerLink, Notes};
use crate::unpack::tree::{Form, backwards, join};

/// One layer on disk.
pub struct Layer {
    pub root: PathBuf,
    pub notes: Notes,
    pub implicit: BTreeSet<Vec<u8>>,
    pub links: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The layers, top first, as they are looked through.
pub struct Stack {
    pub layers: Vec<Layer>,
    pub form: Form,
    /// What was seen of directories: their children are asked about next.
    seen: RefCell<HashMap<(usize, Vec<u8>), Seen>>,
}

/// What stands at a path of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
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
    pub fn path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }
}

impl Stack {
    pub fn read(store: &Store, layers: &[DiffId]) -> Result<Self, Error> {
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
    pub fn look(&self, number: usize, path: &[u8]) -> Result<Seen, Error> {
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
    pub fn find(&self, from: usize, path: &[u8]) -> Result<Option<(usize, Seen)>, Error> {
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
    pub fn source(&self, number: usize, link: &LowerLink) -> Result<(usize, Vec<u8>), Error> {
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
    pub fn real(&self, number: usize, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
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

    /// Where a symbolic link leads that leads to nothing yet, as `x/inside`: its target, taken by its letters.
    pub fn dangling(&self, number: usize, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Ok(target) = fs::read_link(self.layers[number].path(path)) else { return Ok(None) };
        let target = target.as_os_str().as_bytes();
        let mut place = if target.starts_with(b"/") { Vec::new() } else { split(path).0.to_vec() };
        for component in backwards(target).into_iter().rev() {
            match &component[..] {
                b".." => place.truncate(split(&place).0.len()),
                _ => place = join(&place, &component),
            }
        }
        Ok((!place.is_empty()).then(|| join(&place, b"inside")))
    }

    /// The layers whose directories merge at a path, top first.
    pub fn merged(&self, path: &[u8]) -> Result<Vec<usize>, Error> {
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
    pub fn attributes(&self, path: &[u8]) -> Result<Option<PathBuf>, Error> {
        let merged = self.merged(path)?;
        let named = merged.iter().find(|number| !self.layers[**number].implicit.contains(path));
        Ok(named.or(merged.first()).map(|number| self.layers[*number].path(path)))
    }
}
