//! What a fix-up has to hold: the open questions of all layers, answered by the stack.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::error::{Error, failed};

use super::Attributes;
use super::stack::{Seen, Stack};
use crate::unpack::notes::LowerLink;
use crate::unpack::tree::join;

/// What a fix-up has to hold.
#[derive(Debug, Default)]
pub struct Plan {
    /// Directories to repeat with the right attributes: those that the stack knows, or another directory's.
    pub directories: BTreeMap<Vec<u8>, Option<PathBuf>>,
    /// Names to hide.
    pub whiteouts: BTreeSet<Vec<u8>>,
    /// Copies to make: the layer and path of the file, and all the names that it gets.
    pub copies: BTreeMap<(usize, Vec<u8>), BTreeSet<Vec<u8>>>,
    /// Directories that are put back to the symbolic links they hide, and where those lead.
    grafts: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.whiteouts.is_empty() && self.copies.is_empty()
    }

    pub fn of(stack: &Stack) -> Result<Self, Error> {
        let mut plan = Plan::default();
        for (number, layer) in stack.layers.iter().enumerate() {
            for path in &layer.notes.implicit {
                plan.find_graft(stack, number, &path.0)?;
            }
        }
        for (number, layer) in stack.layers.iter().enumerate() {
            for path in &layer.notes.implicit {
                plan.attributes(stack, number, &path.0)?;
            }
            for directory in &layer.notes.whiteouts {
                if !directory.0.is_empty() && stack.merged(&directory.0)? == [number] {
                    plan.directories.insert(directory.0.clone(), None);
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
        plan.apply_grafts(stack)?;
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
            self.directories.insert(path.to_vec(), None);
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

    /// An implicit directory that hides a symbolic link of a layer below. Only where all layers left it out: a tar
    /// that names it wants a directory there.
    fn find_graft(&mut self, stack: &Stack, number: usize, path: &[u8]) -> Result<(), Error> {
        let merged = stack.merged(path)?;
        let all_implicit = merged.iter().all(|number| stack.layers[*number].implicit.contains(path));
        if path.is_empty() || merged.first() != Some(&number) || !all_implicit {
            return Ok(());
        }
        let lowest = merged.last().map_or(number, |lowest| *lowest);
        let Some((below, Seen::File)) = stack.find(lowest + 1, path)? else { return Ok(()) };
        if !fs::symlink_metadata(stack.layers[below].path(path)).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(());
        }
        // Followed as the layers from there on show it, its last component too.
        let inside = join(path, b"inside");
        let led = stack.real(below, &inside)?.or(stack.dangling(below, path)?);
        if let Some(place) = led.and_then(|led| led.strip_suffix(b"/inside").map(<[u8]>::to_vec)) {
            self.grafts.insert(path.to_vec(), place);
            self.copies.entry((below, path.to_vec())).or_default().insert(path.to_vec());
        }
        Ok(())
    }

    /// Moves what the plan has below a graft, and adds the files that are there.
    fn apply_grafts(&mut self, stack: &Stack) -> Result<(), Error> {
        for (path, place) in self.grafts.clone() {
            let moved = |name: &Vec<u8>| -> Vec<u8> {
                match name.strip_prefix(&path[..]) {
                    Some(rest) if rest.starts_with(b"/") => [&place[..], rest].concat(),
                    _ => name.clone(),
                }
            };
            let below = |name: &Vec<u8>| *name == path || moved(name) != *name;
            self.directories.retain(|name, _| !below(name));
            self.whiteouts.retain(|name| !below(name));
            for names in self.copies.values_mut() {
                *names = names.iter().map(moved).collect();
            }
            self.graft(stack, &path, &place)?;
        }
        Ok(())
    }

    /// Brings what the layers have in the directory `from` to the place `to`.
    fn graft(&mut self, stack: &Stack, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let merged = stack.merged(from)?;
        let named = merged.iter().find(|number| !stack.layers[**number].implicit.contains(from));
        self.directories.insert(to.to_vec(), named.map(|number| stack.layers[*number].path(from)));

        let mut names: BTreeMap<OsString, usize> = BTreeMap::new();
        for number in merged {
            let directory = stack.layers[number].path(from);
            for entry in fs::read_dir(&directory).map_err(failed("read", directory.display()))? {
                let entry = entry.map_err(failed("read", directory.display()))?;
                names.entry(entry.file_name()).or_insert(number);
            }
        }
        let mut first_names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        for (name, number) in names {
            let (source, place) = (join(from, name.as_bytes()), join(to, name.as_bytes()));
            let above: Vec<Seen> = (0..number).map(|upper| stack.look(upper, &place)).collect::<Result<_, _>>()?;
            if above.iter().any(|seen| matches!(seen, Seen::File | Seen::Hidden)) {
                continue; // a higher layer replaced or removed it where it belongs
            }
            match stack.look(number, &source)? {
                Seen::Directory { .. } => self.graft(stack, &source, &place)?,
                Seen::Hidden if stack.find(number, &place)?.is_some() => drop(self.whiteouts.insert(place)),
                Seen::File => {
                    let file = stack.layers[number].path(&source);
                    let metadata = fs::symlink_metadata(&file).map_err(failed("look at", file.display()))?;
                    let first = first_names.entry((metadata.dev(), metadata.ino())).or_insert(source);
                    self.copies.entry((number, first.clone())).or_default().insert(place);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
