//! What lies in the store: how large a tree is, what is needed, what is not.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::state;
use mocker_common::store::Store;

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

/// The paths that must stay.
#[derive(Debug, Default)]
pub struct Needed {
    paths: HashSet<PathBuf>,
    /// An overlay is mounted whose layers cannot be told: then every layer is needed.
    all_layers: bool,
}

impl Needed {
    /// What the listed images and the containers need. Fails if an image cannot be read: then nobody can tell what it
    /// needs, and removing anything could make it worse.
    pub fn find(store: &Store) -> Result<Needed, Error> {
        let mut needed = Needed::default();
        for entry in store.entries()? {
            let name = entry.reference.clone();
            needed.add_image(store, entry).map_err(|error| {
                Error { hint: format!("mocker-images rm {name}, or mocker-pull {name}"), ..error }
                    .while_doing(format_args!("cannot tell what {name} needs"))
            })?;
        }
        needed.paths.extend(used_by_containers(store));
        let mounted = mounted();
        needed.all_layers = mounted.iter().any(|path| path.as_os_str().as_bytes().iter().all(u8::is_ascii_digit));
        needed.paths.extend(mounted);
        if needed.all_layers {
            eprintln!("{}: keeping all layers: an overlay is mounted that does not say which are its own", crate::TOOL);
        }
        Ok(needed)
    }

    fn add_image(&mut self, store: &Store, entry: mocker_common::store::Entry) -> Result<(), Error> {
        let manifest = store.read_json(&entry.manifest)?;
        self.paths.insert(store.blob(&entry.manifest));
        let descriptors = manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]]);
        for descriptor in descriptors {
            let digest = descriptor["digest"].as_str().unwrap_or("").parse()?;
            self.paths.insert(store.blob(&digest));
        }
        let index = entry.descriptor["annotations"][mocker_common::store::INDEX_DIGEST].as_str();
        if let Some(index) = index {
            self.paths.insert(store.blob(&index.parse()?));
        }
        let image = Image::read(store, entry)?;
        self.paths.extend(image.layers.iter().flat_map(|layer| [store.layer(layer), store.layer_notes(layer)]));
        self.paths.extend(image.chain_id().map(|chain_id| store.fixup(&chain_id)));
        Ok(())
    }

    pub fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// Whether nobody can tell which layers are in use. On kernels before 6.8 mountinfo names those of our overlays by the
    /// numbers of descriptors.
    pub fn has_all_layers(&self) -> bool {
        self.all_layers
    }
}

/// The layers that the documents kept with containers name.
fn used_by_containers(store: &Store) -> Vec<PathBuf> {
    let mut used = Vec::new();
    for container in fs::read_dir(store.containers()).into_iter().flatten().flatten() {
        let Ok(text) = fs::read(container.path().join("config.json")) else { continue };
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
        let lower = document["mocker"]["rootfs"]["lower"].as_array().into_iter().flatten();
        used.extend(lower.filter_map(|path| path.as_str()).map(PathBuf::from));
    }
    used
}

/// The lower directories of every overlay that is mounted anywhere, in any mount namespace of any process.
fn mounted() -> HashSet<PathBuf> {
    let mut lower = HashSet::new();
    let mut namespaces = HashSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { continue };
        if namespaces.insert(namespace) {
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            lower.extend(mounts.lines().flat_map(lower_directories));
        }
    }
    lower
}

/// The lower directories in a line of mountinfo (proc_pid_mountinfo(5)): `lowerdir=A:B` or `lowerdir+=A`.
fn lower_directories(line: &str) -> Vec<PathBuf> {
    let Some((_, rest)) = line.split_once(" - overlay ") else { return Vec::new() };
    let options = rest.rsplit(' ').next().unwrap_or("");
    let mut found = Vec::new();
    for option in options.split(',') {
        if let Some(path) = option.strip_prefix("lowerdir+=") {
            found.push(path.into());
        } else if let Some(paths) = option.strip_prefix("lowerdir=") {
            found.extend(paths.split(':').filter(|path| !path.is_empty()).map(PathBuf::from));
        }
    }
    found
}

/// Removes from a directory of the store what is not needed. Returns what that frees, in bytes.
pub fn sweep(directory: &Path, needed: &Needed) -> Result<u64, Error> {
    let mut freed = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if needed.has(&path) {
            continue;
        }
        let metadata = entry.metadata().map_err(failed("read", path.display()))?;
        freed += state::disk_bytes(&metadata) + size(&path);
        remove(&path)?;
    }
    Ok(freed)
}

/// Removes a file, or a tree. A layer leaves its name first: whoever looks for it meanwhile finds all of it or nothing.
pub fn remove(path: &Path) -> Result<(), Error> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let gone = match is_directory {
        true => {
            let doomed = path.with_extension("removing");
            fs::rename(path, &doomed).and_then(|()| fs::remove_dir_all(&doomed))
        }
        false => fs::remove_file(path),
    };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path.display())(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_mounted_overlay_are_found_in_both_spellings() {
        let new = "36 35 98:0 / /c/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir+=/l/b,lowerdir+=/l/a,upperdir=/u";
        let old = "36 35 98:0 / /c rw - overlay none rw,lowerdir=/l/b:/l/a,upperdir=/u,workdir=/w";
        for line in [new, old] {
            assert_eq!(lower_directories(line), [PathBuf::from("/l/b"), "/l/a".into()], "{line}");
        }
        assert!(lower_directories("36 35 98:0 / /c rw - tmpfs lowerdir=/x rw").is_empty());
    }

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
