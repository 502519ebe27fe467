//! Which layers somebody stands on: those of every overlay that is mounted, in any mount namespace, and those that the
//! documents kept with containers name.
//!
//! A layer is known by the last part of its path, its digest, and by its inode where the path leads to one: the same
//! store may be reached in several ways, and two stores may have the same layer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::store::Store;

/// The layers and fix-ups in use, and by whom.
#[derive(Debug, Default)]
pub struct InUse {
    /// by the last part of the path: the whole path, and who
    by: BTreeMap<OsString, BTreeSet<(PathBuf, String)>>,
    /// An overlay is mounted whose layers cannot be told: then every layer is in use.
    unknown: BTreeSet<String>,
}

impl InUse {
    /// Reads the mounts of all processes and the containers of the store.
    pub fn find(store: &Store) -> InUse {
        let mut found = InUse::default();
        for container in fs::read_dir(store.containers()).into_iter().flatten().flatten() {
            let Ok(text) = fs::read(container.path().join("config.json")) else { continue };
            let Ok(document) = serde_json::from_slice::<Value>(&text) else { continue };
            let lower = document["mocker"]["rootfs"]["lower"].as_array().into_iter().flatten();
            let user = container.file_name().to_string_lossy().into_owned();
            lower.filter_map(Value::as_str).for_each(|path| found.add(Path::new(path), &user));
        }
        let mut namespaces = BTreeSet::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { continue };
            if namespaces.insert(namespace) {
                let mounts = fs::read(process.path().join("mountinfo")).unwrap_or_default(); // it may have ended
                mounts.split(|byte| *byte == b'\n').for_each(|line| found.add_mount(line));
            }
        }
        found
    }

    /// Who stands on a layer or a fix-up; empty if nobody does.
    pub fn users(&self, path: &Path) -> BTreeSet<String> {
        let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        let own = inode(path);
        let known = path.file_name().and_then(|name| self.by.get(name)).into_iter().flatten();
        // A path of another mount namespace may lead nowhere here; then the digest decides.
        let same = known.filter(|(other, _)| inode(other).is_none_or(|other| Some(other) == own));
        same.map(|(_, user)| user).chain(&self.unknown).cloned().collect()
    }

    /// Who has mounted an overlay whose layers cannot be told.
    pub fn unknown(&self) -> &BTreeSet<String> {
        &self.unknown
    }

    fn add(&mut self, layer: &Path, user: &str) {
        if let Some(name) = layer.file_name() {
            self.by.entry(name.to_os_string()).or_default().insert((layer.into(), user.into()));
        }
    }

    /// A line of mountinfo (proc_pid_mountinfo(5)), if it is that of an overlay: `lowerdir=A:B` or `lowerdir+=A`.
    fn add_mount(&mut self, line: &[u8]) {
        const MARK: &[u8] = b" - overlay ";
        let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { return };
        let options = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let values =
            |key: &'static [u8]| options.split(|byte| *byte == b',').filter_map(move |option| option.strip_prefix(key));
        let place = line[..at].split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        let user = values(b"upperdir=").next().and_then(container).unwrap_or_else(|| path(place).display().to_string());
        let old = values(b"lowerdir=").flat_map(|paths| paths.split(|byte| *byte == b':'));
        for layer in values(b"lowerdir+=").chain(old).filter(|layer| !layer.is_empty()).map(path) {
            // Kernels before 6.8 name those of our overlays by the numbers of descriptors; so do long paths.
            let name = layer.as_os_str().as_bytes();
            match name.iter().all(u8::is_ascii_digit) || name.starts_with(b"/proc/self/fd/") {
                true => drop(self.unknown.insert(user.clone())),
                false => self.add(&layer, &user),
            }
        }
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// The container whose upper directory this is: `…/containers/ID/upper`.
fn container(upper: &[u8]) -> Option<String> {
    let directory = Path::new(OsStr::from_bytes(upper)).parent()?;
    let ours = directory.parent()?.file_name()? == "containers";
    ours.then(|| Some(directory.file_name()?.to_string_lossy().into_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_mounted_overlay_are_found_in_both_spellings() {
        let new = "36 35 98:0 / /c/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir+=/l/b,lowerdir+=/l/a,upperdir=/s/containers/web/upper";
        let old = "36 35 98:0 / /c rw - overlay none rw,lowerdir=/l/b:/l/a,upperdir=/u,workdir=/w";
        for (line, user) in [(new, "web"), (old, "/c")] {
            let mut in_use = InUse::default();
            in_use.add_mount(line.as_bytes());
            for layer in ["/l/a", "/elsewhere/b"] {
                assert_eq!(in_use.users(Path::new(layer)), BTreeSet::from([user.to_string()]), "{line}");
            }
            assert!(in_use.users(Path::new("/l/c")).is_empty());
        }
        let mut none = InUse::default();
        none.add_mount(b"36 35 98:0 / /c rw - tmpfs lowerdir=/x rw");
        assert!(none.by.is_empty());
    }

    #[test]
    fn layers_without_a_name_are_all_layers() {
        for lower in ["lowerdir=7:8", "lowerdir+=/proc/self/fd/7"] {
            let mut in_use = InUse::default();
            let line = format!("36 35 98:0 / / rw - overlay overlay rw,{lower},upperdir=/s/containers/web/upper");
            in_use.add_mount(line.as_bytes());
            assert_eq!(in_use.users(Path::new("/any")), BTreeSet::from(["web".to_string()]));
        }
    }
}
