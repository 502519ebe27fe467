//! `/sys/fs/cgroup` as the container sees it. Source: cgroups(7), cgroup_namespaces(7).
//!
//! On v2 one mount, which a cgroup namespace roots at the container's group. On v1 a small tmpfs with a directory a
//! hierarchy, each showing the container's own group and what is below; as runc has it, without the unified tree that a
//! hybrid machine has beside them.

use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::options::Options;
use super::{change_flags, new, propagate, sources};
use crate::calls::files::{MakeDir, MakeLink};
use crate::calls::mounts::{Attach, MountNew, Remount, Target};
use crate::plan::{Mount, Plan};
use crate::rootfs::Rootfs;

/// Whether this is the mount of the container's groups. `cgroup2` beside v1 hierarchies is a file system like any other.
pub fn is_one(mount: &Mount) -> bool {
    mount.kind == "cgroup" || mount.kind == "cgroup2"
}

/// Which mounts wait until the process is in its group: those of the groups, and, to keep the document's order, all that
/// stand on these.
pub fn waiting(mounts: &[Mount]) -> Vec<bool> {
    let mut places: Vec<&str> = Vec::new();
    let wait = |mount: &Mount, places: &[&str]| {
        is_one(mount) || places.iter().any(|place| Path::new(&mount.destination).starts_with(place))
    };
    let mut waits = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let one = wait(mount, &places);
        if one {
            places.push(&mount.destination);
        }
        waits.push(one);
    }
    waits
}

/// Makes it.
pub fn make(plan: &Plan, mount: &Mount, rootfs: &Rootfs) -> Result<(), Error> {
    let options = Options::read(&mount.options);
    let target = rootfs.ensure_dir(&mount.destination, 0o755)?;
    match is_by_controller(mount) {
        true => by_controller(plan, mount, &options, rootfs, &target),
        false => unified(plan, mount, &options, rootfs, &target),
    }
}

/// Whether this mount is a tmpfs with a directory a hierarchy.
pub fn is_by_controller(mount: &Mount) -> bool {
    mount.kind == "cgroup" && !is_unified()
}

/// Whether the machine has cgroup v2 alone.
fn is_unified() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

fn unified(plan: &Plan, mount: &Mount, options: &Options, rootfs: &Rootfs, target: &Target) -> Result<(), Error> {
    let asked = Mount { kind: "cgroup2".into(), ..mount.clone() };
    match new(&asked, options, rootfs, target, &options.data.join(",")) {
        // A user namespace may mount only groups that a cgroup namespace of its own is rooted at.
        Err(error) if [libc::EPERM, libc::EBUSY].contains(&error.errno) => {
            let own = plan.cgroup.unified.as_deref().filter(|_| plan.has_namespace("cgroup"));
            let tree = sources::clone_path(own.unwrap_or(Path::new("/sys/fs/cgroup")), false)?;
            show(&tree, target)?;
            propagate(options, &tree)?;
            change_flags(options, &tree, true)
        }
        outcome => outcome,
    }
}

fn show(tree: &Target, target: &Target) -> Result<(), Error> {
    step(Attach { tree: tree.descriptor.as_fd(), shown: &tree.shown, target })
        .because("the container may read its own limits and use, and no group above or beside it")
}

/// What nothing needs in these trees: device nodes, programs.
const NEVER: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

fn by_controller(plan: &Plan, mount: &Mount, options: &Options, rootfs: &Rootfs, target: &Target) -> Result<(), Error> {
    let call = MountNew { source: "tmpfs", target, kind: "tmpfs", flags: NEVER, data: "mode=755" };
    step(call).because("cgroup v1 has a hierarchy for each controller; their mount points need a directory")?;
    let place = rootfs.ensure_existing(&mount.destination)?;
    propagate(options, &place)?;
    let unified = plan.cgroup.unified.as_deref();
    for directory in plan.cgroup.directories.iter().filter(|directory| Some(directory.as_path()) != unified) {
        let name = hierarchy_name(directory)?;
        let shown = format!("{}/{name}", mount.destination.trim_end_matches('/'));
        step(MakeDir { parent: place.descriptor.as_fd(), name: &name, shown: &shown, mode: 0o755 })
            .because("a mount needs a directory to stand on")?;
        let hierarchy = place.below(&name, shown)?;
        let tree = sources::clone_path(directory, false)?;
        show(&tree, &hierarchy)?;
        propagate(options, &tree)?;
        step(Remount { target: &tree, flags: options.of_the_mount() | NEVER })
            .because("a container that can write here sets its own limits (CVE-2022-0492)")?;
        for controller in name.split(',').filter(|controller| *controller != name) {
            step(MakeLink { parent: place.descriptor.as_fd(), name: controller, target: &name })
                .because("several controllers share this hierarchy; programs look for each by its own name")?;
        }
    }
    Ok(())
}

/// `cpu,cpuacct` of `/sys/fs/cgroup/cpu,cpuacct/any/path/of/groups`: the name of the directory that is the mount point.
fn hierarchy_name(group: &Path) -> Result<String, Error> {
    for above in group.ancestors() {
        let look = statx(CWD, above, AtFlags::empty(), StatxFlags::empty());
        let look = look.map_err(|errno| failed("look at", above.display())(errno.into()))?;
        if look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(above.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    Err(Error::new(format!("cannot find the hierarchy of {}: it lies on no mount", group.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_on_the_groups_waits_with_them() {
        let mounts = [
            ("/proc", "proc"),
            ("/sys/fs/cgroup", "cgroup"),
            ("/sys/fs/cgroup/systemd", "bind"),
            ("/sys/fs/cgroupx", "tmpfs"),
            ("/sys", "sysfs"),
        ];
        let mounts = mounts.map(|(destination, kind)| Mount {
            destination: destination.into(),
            kind: kind.into(),
            ..Mount::default()
        });
        assert_eq!(waiting(&mounts), [false, true, true, false, false]);
    }

    #[test]
    fn a_hierarchy_is_named_by_its_mount_point() {
        assert_eq!(hierarchy_name(Path::new("/proc/self")).unwrap(), "proc");
    }
}
