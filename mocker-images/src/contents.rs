//! What lies in the store: how large a tree is, what is needed, what is not.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mocker_common::digest::Digest;
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::in_use::InUse;
use mocker_common::state;
use mocker_common::store::{Entry, INDEX_DIGEST, Store};
use serde_json::Value;

/// What a tree occupies on disk, in bytes. A file with several names is counted once. What cannot be read counts as 0.
pub fn size(root: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut open = vec![root.to_path_buf()];
    let mut total = 0;
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            total += state::disk_bytes(&metadata);
        }
    }
    total
}

/// The sizes of a tree's files, in bytes, holes included. A file with several names is counted once.
pub fn file_bytes(root: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut open = vec![root.to_path_buf()];
    let mut total = 0;
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) if metadata.is_file() && seen.insert(metadata.ino()) => total += metadata.len(),
                _ => {}
            }
        }
    }
    total
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kept {
    /// an image lists it
    Listed,
    /// a container stands on it
    InUse,
    /// a pull or a check that runs relies on it
    Claimed,
}

/// What must stay.
#[derive(Debug)]
pub struct Needed {
    listed: HashSet<PathBuf>,
    claimed: HashSet<PathBuf>,
    /// the blobs of the images that containers were made from: `commit` builds on them
    below: HashSet<PathBuf>,
    in_use: InUse,
}

impl Needed {
    /// What listed images, containers and running pulls need. Under the contents' lock: then nothing is added to it
    /// meanwhile. Fails if an image cannot be read: then nobody can tell what it needs, and removing anything could
    /// make it worse.
    pub fn find(store: &Store) -> Result<Needed, Error> {
        // The claims first: one that is given up after this has left its image in the index.
        let claimed = store.claimed()?;
        let mut listed = HashSet::new();
        for descriptor in store.descriptors()? {
            let name = descriptor["annotations"][mocker_common::store::REF_NAME].as_str().unwrap_or("").to_string();
            let paths = paths_of(store, descriptor).map_err(|error| {
                Error { hint: format!("mocker-images verify; mocker-images rm {name}, or mocker-pull {name}"), ..error }
                    .while_doing(format_args!("cannot tell what {name} needs"))
            })?;
            listed.extend(paths);
        }
        Ok(Needed { listed, claimed, below: below_containers(store), in_use: InUse::find(store) })
    }

    /// Why a path must stay; None if nothing needs it.
    pub fn why(&self, path: &Path) -> Option<Kept> {
        // A layer's notes go with its directory.
        let is_notes = path.extension().is_some_and(|extension| extension == "json");
        let directory = if is_notes { path.with_extension("") } else { path.to_path_buf() };
        match () {
            _ if self.listed.contains(path) => Some(Kept::Listed),
            _ if self.claimed.contains(path) => Some(Kept::Claimed),
            _ if self.below.contains(path) => Some(Kept::InUse),
            _ if is_layer(path) && !self.in_use.users(&directory).is_empty() => Some(Kept::InUse),
            _ => None,
        }
    }

    pub fn in_use(&self) -> &InUse {
        &self.in_use
    }
}

/// The manifest, config and archives of the image below each container that a document is kept with.
fn below_containers(store: &Store) -> HashSet<PathBuf> {
    let mut below = HashSet::new();
    for container in fs::read_dir(store.containers()).into_iter().flatten().flatten() {
        let Ok(text) = fs::read(container.path().join("config.json")) else { continue };
        let Ok(document) = serde_json::from_slice::<Value>(&text) else { continue };
        let descriptor = serde_json::json!({ "digest": document["mocker"]["image"]["manifest"] });
        below.extend(paths_of(store, descriptor).unwrap_or_default()); // one that is damaged has nothing to build on
    }
    below
}

fn is_layer(path: &Path) -> bool {
    let parent = path.ancestors().nth(2).and_then(Path::file_name);
    parent.is_some_and(|name| name == "layers" || name == "fixups")
}

/// All that an entry of the index needs. What another tool has listed, without a name or as an index of images, keeps
/// its blobs.
pub fn paths_of(store: &Store, descriptor: Value) -> Result<HashSet<PathBuf>, Error> {
    let digest: Digest = descriptor["digest"].as_str().unwrap_or("").parse()?;
    let manifest = store.read_json(&digest)?;
    let mut paths = HashSet::from([store.blob(&digest)]);
    for child in manifest["manifests"].as_array().into_iter().flatten() {
        let digest: Digest = child["digest"].as_str().unwrap_or("").parse()?;
        if store.blob(&digest).exists() {
            paths.extend(paths_of(store, child.clone())?); // an index may list platforms that were not fetched
        }
    }
    let descriptors = manifest["layers"].as_array().into_iter().flatten();
    for descriptor in descriptors.chain(manifest.get("config")) {
        paths.insert(store.blob(&descriptor["digest"].as_str().unwrap_or("").parse()?));
    }
    if let Some(index) = descriptor["annotations"][INDEX_DIGEST].as_str() {
        paths.insert(store.blob(&index.parse()?));
    }
    if let Some(entry) = Entry::read(descriptor)?.filter(|_| manifest["config"].is_object()) {
        let image = Image::read(store, entry)?;
        paths.extend(image.layers.iter().flat_map(|layer| [store.layer(layer), store.layer_notes(layer)]));
        paths.extend(image.chain_id().map(|chain_id| store.fixup(&chain_id)));
    }
    Ok(paths)
}

/// Takes out of a directory of the store what `stays` does not keep: each thing is renamed into `away`, at once and
/// whole. Whoever looks for it meanwhile finds all of it or nothing. Returns how many.
pub fn take_out(directory: &Path, away: &Path, stays: impl Fn(&Path) -> bool) -> Result<usize, Error> {
    let mut count = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if stays(&path) {
            continue;
        }
        match fs::rename(&path, away.join(entry.file_name())) {
            Ok(()) => count += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", path.display())(error)),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_is_counted_once() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("a"), vec![1; 100_000]).unwrap();
        let once = size(scratch.path());
        fs::hard_link(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        assert_eq!(size(scratch.path()), once);
        assert!(once >= 100_000);
    }
}
