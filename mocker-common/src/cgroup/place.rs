//! Where a container's group stands: the same path in every hierarchy, from its root or from this process's own group.
//!
//! `linux.cgroupsPath` says it (runtime-spec config-linux.md, Cgroups Path): absolute, from where each hierarchy is mounted;
//! relative, below the group that the caller is in, hierarchy by hierarchy; absent, the container's id as if relative.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cgroup::hierarchy::{Hierarchies, Hierarchy};
use crate::document::{ContainerId, Document};
use crate::error::{Error, failed};

/// A container's group. As JSON it can be kept, so that nobody needs to look for it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub hierarchies: Hierarchies,
    /// `/mocker`
    pub parent: PathBuf,
    /// `/mocker/lab`
    pub path: PathBuf,
}

impl Group {
    /// The group of a pipeline's container. Refuses a parent that could lead out of the hierarchy.
    pub fn new(hierarchies: Hierarchies, parent: &Path, id: &ContainerId) -> Result<Self, Error> {
        let parent = Path::new("/").join(parent);
        if !parent.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))) {
            return Err(Error::new(format!("cannot make a group in {}: not a plain path", parent.display()))
                .hint("--parent /mocker"));
        }
        let path = parent.join(id.as_str());
        Ok(Group { hierarchies, parent, path })
    }

    /// The group that a configuration names.
    pub fn named(hierarchies: Hierarchies, cgroups_path: &str, id: &str, systemd: bool) -> Result<Self, Error> {
        if systemd {
            check_systemd(cgroups_path)?;
        }
        let (path, absolute) = match cgroups_path {
            "" => (plain(id), false),
            text => (plain(text), text.starts_with('/')),
        };
        let Some(parent) = path.parent().map(PathBuf::from) else {
            return Err(Error::new(format!(
                "cannot use linux.cgroupsPath {cgroups_path}: it is the root of all groups"
            ))
            .why("a container's limits would hold for the whole machine")
            .hint("a name of its own: /containers/ID"));
        };
        let hierarchies = if absolute { hierarchies } else { below_own(hierarchies)? };
        Ok(Group { hierarchies, parent, path })
    }

    pub fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        below(&hierarchy.base, &self.path)
    }

    /// The group's directories that are there.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.places().filter(|path| path.is_dir()).collect()
    }

    /// Its directories, there or not.
    pub fn places(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.all.iter().map(|hierarchy| self.directory(hierarchy))
    }

    /// Its directory in the hierarchy of a controller.
    pub fn of(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.of(controller).map(|hierarchy| self.directory(hierarchy)).filter(|path| path.is_dir())
    }

    pub fn unified(&self) -> Option<PathBuf> {
        self.hierarchies.unified().map(|hierarchy| self.directory(hierarchy)).filter(|path| path.is_dir())
    }

    /// The parent's directories in a hierarchy, outermost first.
    pub fn parents(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        let parent = below(&hierarchy.base, &self.parent);
        let mut parents: Vec<PathBuf> =
            parent.ancestors().take_while(|path| *path != hierarchy.base).map(PathBuf::from).collect();
        parents.reverse();
        parents
    }

    /// Tells the stages to come where the group is.
    pub fn describe(&self, document: &mut Document, devices: bool) {
        document.set("/linux/cgroupsPath", self.path.to_string_lossy());
        let mut description = json!({
            "version": self.hierarchies.version(),
            "directories": self.directories(),
            "devices": devices,
        });
        if let Some(unified) = self.unified() {
            description["unified"] = unified.to_string_lossy().into();
        }
        document.set("/mocker/cgroup", description);
    }
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// The path from `/` without `.` and `..`, none of which leads above the root.
fn plain(text: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}

/// With --systemd-cgroup the path is `SLICE:PREFIX:NAME`, and systemd makes the group. Groups that others make below its own
/// it may remove, so there is no way round it.
fn check_systemd(cgroups_path: &str) -> Result<(), Error> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Error::new("systemd not running on this host, cannot use systemd cgroups manager").hint(
            "without --systemd-cgroup; podman --cgroup-manager cgroupfs; docker's native.cgroupdriver=cgroupfs",
        ));
    }
    if !cgroups_path.is_empty() && cgroups_path.split(':').count() != 3 {
        return Err(Error::new(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"{cgroups_path}\" instead"
        )));
    }
    Err(Error::new("cannot ask systemd for a group: only groups made in the file system are supported")
        .hint("without --systemd-cgroup; podman --cgroup-manager cgroupfs; docker's native.cgroupdriver=cgroupfs"))
}

/// Lets paths begin at this process's own group in each hierarchy. As runc has it, which engines look beside: on v2 alone, in
/// the group above it, since one with processes hands no controllers down; on hybrid, the unified tree counts from its root.
fn below_own(mut hierarchies: Hierarchies) -> Result<Hierarchies, Error> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(failed("read", "/proc/self/cgroup"))?;
    let is_v2 = hierarchies.version() == "v2";
    for hierarchy in hierarchies.all.iter_mut().filter(|hierarchy| is_v2 || !hierarchy.unified) {
        if let Some(path) = own_path(&own, hierarchy) {
            let path = if is_v2 { path.parent().unwrap_or(path) } else { path };
            // Both count from the same root, and a mount in a container shows only what is below another group.
            let shown = path.strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
            hierarchy.base = hierarchy.mount.join(shown);
        }
    }
    Ok(hierarchies)
}

/// A line of /proc/self/cgroup (cgroups(7)) is `4:memory:/a/b`; the unified tree's is `0::/a/b`.
fn own_path<'a>(own: &'a str, hierarchy: &Hierarchy) -> Option<&'a Path> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mut names = controllers.split(',').filter(|name| !name.is_empty());
        let found = match hierarchy.unified {
            true => controllers.is_empty(),
            false => names.any(|name| hierarchy.controllers.iter().any(|own| own == name)),
        };
        found.then_some(Path::new(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::hierarchy::tests::machine;

    #[test]
    fn a_parent_that_leads_out_is_refused() {
        let id = "lab".parse().unwrap();
        assert!(Group::new(machine(), Path::new("/a/../.."), &id).is_err());
        let group = Group::new(machine(), Path::new("a/b"), &id).unwrap();
        assert_eq!(group.path, Path::new("/a/b/lab"));
        let memory = &machine().all[0];
        assert_eq!(group.directory(memory), Path::new("/sys/fs/cgroup/memory/a/b/lab"));
        let parents = ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/a/b"].map(PathBuf::from);
        assert_eq!(group.parents(memory), parents);
    }

    #[test]
    fn an_absolute_path_counts_from_the_mount_and_never_leads_above_it() {
        for (text, path) in [("/a/b", "/a/b"), ("/a/../../b/.", "/b"), ("//a//b/", "/a/b")] {
            let group = Group::named(machine(), text, "id", false).unwrap();
            assert_eq!(group.path, Path::new(path), "{text}");
            assert_eq!(group.hierarchies, machine());
        }
        for root in ["/", "/..", "."] {
            assert!(Group::named(machine(), root, "id", false).unwrap_err().what.contains("root of all groups"));
        }
        assert_eq!(Group::named(machine(), "", "id", false).unwrap().path, Path::new("/id"));
    }

    #[test]
    fn the_own_group_is_found_for_each_hierarchy() {
        let own = "9:name=systemd:/s\n4:memory:/m:x/y\n2:cpu,cpuacct:/\n0::/u\n";
        let path = |hierarchy: &Hierarchy| own_path(own, hierarchy).map(|path| path.to_str().unwrap());
        let named = Hierarchy { controllers: vec!["name=systemd".into()], ..Hierarchy::at("/s", false) };
        assert_eq!(machine().all.iter().map(path).collect::<Vec<_>>(), [Some("/m:x/y"), Some("/")]);
        assert_eq!(path(&named), Some("/s"));
        assert_eq!(path(&Hierarchy::at("/u", true)), Some("/u"));
        let absent = Hierarchy { controllers: vec!["pids".into()], ..Hierarchy::at("/p", false) };
        assert_eq!(path(&absent), None);
    }

    #[test]
    fn a_group_can_be_kept_as_json() {
        let group = Group::named(machine(), "/a/b", "id", false).unwrap();
        let kept = serde_json::to_value(&group).unwrap();
        let back: Group = serde_json::from_value(kept).unwrap();
        assert_eq!(back.places().collect::<Vec<_>>(), group.places().collect::<Vec<_>>());
    }
}
