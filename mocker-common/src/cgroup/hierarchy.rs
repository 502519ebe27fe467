//! Which cgroup hierarchies this machine has: v1 (one a controller), v2 (one for all), hybrid (both).
//!
//! Source: cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, failed};

/// One mounted tree of groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// the group that the mount shows as its root: `/`, or a container's own
    #[serde(skip)]
    pub root: PathBuf,
    /// where paths of groups begin: the mount, or this process's own group
    pub base: PathBuf,
    /// of v1 those mounted here; of v2 those not taken by a v1 hierarchy
    pub controllers: Vec<String>,
    pub unified: bool,
}

/// What the machine has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hierarchies {
    pub all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Asks the kernel: every cgroup file system that is mounted, in the order of /proc/self/mountinfo. cgroups-rs knows
    /// neither named v1 hierarchies nor the unified tree of a hybrid machine, so the list is read here.
    pub fn detect() -> Result<Self, Error> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(failed("read", "/proc/self/mountinfo"))?;
        let all = Self::read(&mountinfo);
        match all.is_empty() {
            false => Ok(Hierarchies { all }),
            true => Err(Error::new("cannot make a cgroup: no cgroup hierarchy is mounted")
                .hint("mount -t cgroup2 cgroup2 /sys/fs/cgroup")),
        }
    }

    /// The lines of mountinfo (proc_pid_mountinfo(5)): root and mount point are fields 4 and 5; behind ` - ` stand the type
    /// and the options of the file system, where v1 names its controllers.
    fn read(mountinfo: &str) -> Vec<Hierarchy> {
        let mut all: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let mut mount = mount.split(' ').skip(3).map(PathBuf::from);
            let (Some(root), Some(mount)) = (mount.next(), mount.next()) else { continue };
            let mut system = system.split(' ');
            let found = match (system.next(), system.nth(1)) {
                (Some("cgroup2"), _) => {
                    Hierarchy { root, controllers: handed_down(&mount), ..Hierarchy::at(mount, true) }
                }
                (Some("cgroup"), Some(options)) => {
                    let named = options.split(',').filter(|option| is_controller(option));
                    let controllers = named.map(str::to_string).collect();
                    Hierarchy { root, controllers, ..Hierarchy::at(mount, false) }
                }
                _ => continue,
            };
            let same =
                |known: &&mut Hierarchy| known.controllers == found.controllers && known.unified == found.unified;
            match all.iter_mut().find(same) {
                // Mounted over: only the upper one is seen.
                Some(known) if known.mount == found.mount => *known = found,
                // The same hierarchy may be mounted twice, or shown again in a container; the first is the usual one.
                Some(_) => {}
                None => all.push(found),
            }
        }
        all
    }

    /// `v1`, `hybrid` or `v2`.
    pub fn version(&self) -> &'static str {
        match (self.all.iter().any(|hierarchy| hierarchy.unified), self.all.iter().any(|hierarchy| !hierarchy.unified))
        {
            (true, true) => "hybrid",
            (true, false) => "v2",
            (false, _) => "v1",
        }
    }

    /// The hierarchy that has this controller.
    pub fn of(&self, controller: &str) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.controllers.iter().any(|own| own == controller))
    }

    /// The same, or an error that says what the machine has.
    pub fn need(&self, controller: &str) -> Result<&Hierarchy, Error> {
        self.of(controller).ok_or_else(|| {
            let have: Vec<&str> =
                self.all.iter().flat_map(|hierarchy| &hierarchy.controllers).map(String::as_str).collect();
            Error::new(format!("cannot limit {controller}: this machine has no {controller} controller mounted"))
                .why("the limit would not hold, and a container must never run less confined than was asked")
                .likely(
                    "the kernel was built without it, or started with cgroup_disable, or another container hides it",
                )
                .hint(format!("there are: {}; cat /proc/cgroups /sys/fs/cgroup/cgroup.controllers", have.join(" ")))
        })
    }

    /// The unified tree: the only one of v2, or beside the others on hybrid.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.unified)
    }

    /// Whether swap is counted. v1 has the files or not; v2 decides when the group is there.
    pub fn accounts_swap(&self) -> bool {
        self.of("memory")
            .is_some_and(|memory| memory.unified || memory.mount.join("memory.memsw.limit_in_bytes").exists())
    }
}

impl Hierarchy {
    /// One that is mounted there, with no controllers yet.
    pub fn at(mount: impl Into<PathBuf>, unified: bool) -> Hierarchy {
        let mount = mount.into();
        Hierarchy { base: mount.clone(), mount, root: "/".into(), controllers: Vec::new(), unified }
    }

    /// Whether it is v1's and has this controller.
    pub fn is_v1(&self, controller: &str) -> bool {
        !self.unified && self.controllers.iter().any(|own| own == controller)
    }
}

fn handed_down(mount: &Path) -> Vec<String> {
    let text = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_string).collect()
}

/// Whether a super block option of v1 names what the hierarchy is for: a controller, or `name=systemd`.
fn is_controller(option: &str) -> bool {
    !["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none", "favordynmods", "nofavordynmods"]
        .contains(&option)
        && !option.starts_with("release_agent=")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine with two hierarchies of v1, one of them of two controllers.
    pub fn machine() -> Hierarchies {
        let v1 = |name: &str| Hierarchy {
            controllers: name.split(',').map(str::to_string).collect(),
            ..Hierarchy::at(format!("/sys/fs/cgroup/{name}"), false)
        };
        Hierarchies { all: vec![v1("memory"), v1("cpu,cpuacct")] }
    }

    #[test]
    fn every_mounted_hierarchy_is_found_once() {
        let hybrid = "34 24 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      33 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      35 24 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                      36 24 0:29 /x /mnt/memory rw - cgroup cgroup rw,memory\n\
                      37 24 0:28 /y /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let all = Hierarchies::read(hybrid);
        let mounts: Vec<&str> = all.iter().map(|one| one.mount.to_str().unwrap()).collect();
        assert_eq!(mounts, ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"]);
        assert_eq!(all[1].controllers, ["name=systemd"]);
        assert_eq!([&all[0].root, &all[1].root], [Path::new("/"), Path::new("/y")], "a mount over another hides it");
        assert_eq!(Hierarchies { all }.version(), "hybrid");
    }

    #[test]
    fn a_shared_mount_serves_all_its_controllers_and_a_missing_one_is_named() {
        let machine = machine();
        assert_eq!(machine.of("cpu"), machine.of("cpuacct"));
        assert_eq!(machine.version(), "v1");
        let error = machine.need("pids").unwrap_err();
        assert!(error.what.contains("no pids controller") && error.hint.contains("memory cpu cpuacct"), "{error}");
    }
}
