//! The document's mounts, in its order, each on a descriptor found beneath the root. Source: runtime-spec config.md,
//! Mounts; mount(2).

use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::mount::MsFlags;
use rustix::fs::StatVfsMountFlags;

use crate::calls::mounts::{Bind, MountNew, Propagate, Remount, Target};
use crate::plan::{Mount, Plan};
use crate::rootfs::{Rootfs, is_dir};

/// What `mounts[].options` says: flags of the mount, how it propagates, and the rest, which the file system reads.
#[derive(Debug, PartialEq)]
struct Options {
    flags: MsFlags,
    /// flags that were taken away by their opposite (`dev`, `suid`, …)
    cleared: MsFlags,
    propagation: Vec<MsFlags>,
    data: Vec<String>,
}

/// option, flag, whether it sets or clears it
const FLAGS: [(&str, MsFlags, bool); 25] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("silent", MsFlags::MS_SILENT, true),
    ("bind", MsFlags::MS_BIND, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
];

const PROPAGATIONS: [(&str, MsFlags); 4] = [
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("private", MsFlags::MS_PRIVATE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

/// Every option that is not left to the file system, for `features`.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, ..)| *name).chain(PROPAGATIONS.iter().map(|(name, _)| *name))
}

fn read_options(mount: &Mount) -> Result<Options, Error> {
    let (flags, cleared) = (MsFlags::empty(), MsFlags::empty());
    let mut read = Options { flags, cleared, propagation: Vec::new(), data: Vec::new() };
    for option in &mount.options {
        if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| name == option) {
            read.flags.set(*flag, *sets);
            read.cleared.set(*flag, !*sets);
        } else if let Some((_, flag)) = PROPAGATIONS.iter().find(|(name, _)| name == option) {
            read.propagation.push(*flag);
        } else if let Some((_, flag)) = PROPAGATIONS.iter().find(|(name, _)| option.strip_prefix('r') == Some(*name)) {
            read.propagation.push(*flag | MsFlags::MS_REC);
        } else if ["defaults", "rbind", ""].contains(&option.as_str()) {
        } else if ["idmap", "ridmap", "tmpcopyup", "rro", "rnosuid", "rnodev", "rnoexec"].contains(&option.as_str()) {
            return Err(Error::new(format!(
                "cannot mount {}: mocker-exec does not know the option '{option}'",
                mount.destination
            )));
        } else {
            read.data.push(option.clone());
        }
    }
    Ok(read)
}

/// Makes every mount of the document but the cgroup file system, which waits for the process to be in its group.
pub fn make(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    plan.mounts.iter().filter(|mount| !is_cgroup(mount)).try_for_each(|mount| make_one(mount, rootfs))
}

/// Makes the cgroup mounts.
pub fn make_cgroups(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    plan.mounts.iter().filter(|mount| is_cgroup(mount)).try_for_each(|mount| cgroup(plan, mount, rootfs))
}

fn is_cgroup(mount: &Mount) -> bool {
    mount.kind == "cgroup" || mount.kind == "cgroup2"
}

/// Why each kind of file system is there: the reason of a step that the document drives.
fn reason(kind: &str) -> &'static str {
    match kind {
        "proc" => "ps and /proc/self read it, and the host's would list the host's processes",
        "sysfs" => "programs look up devices and the network here; a new one shows only this network namespace",
        "tmpfs" => "files here live in memory and vanish with the container; the image's own stay as they are",
        "devpts" => "terminals of its own, numbered from 0; the host's must not be reachable",
        "mqueue" => "POSIX message queues are seen here, and only those of its own ipc namespace",
        _ => "the document asks for this file system",
    }
}

fn make_one(mount: &Mount, rootfs: &Rootfs) -> Result<(), Error> {
    let options = read_options(mount)?;
    if options.flags.contains(MsFlags::MS_BIND) || mount.kind == "bind" {
        return bind(mount, &options, rootfs);
    }
    let target = rootfs.ensure_dir(&mount.destination, 0o755)?;
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    let data = options.data.join(",");
    let call = MountNew { source, target: &target, kind: &mount.kind, flags: options.flags, data: &data };
    step(call).because(reason(&mount.kind))?;
    propagate(mount, &options, rootfs)
}

fn bind(mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    let source = Path::new(&mount.source);
    let metadata = source.metadata().map_err(failed("find the mount source", source.display()))?;
    let target = match metadata.is_dir() {
        true => rootfs.ensure_dir(&mount.destination, 0o755)?,
        false => rootfs.ensure_file(&mount.destination)?,
    };
    let recursive = options.flags.contains(MsFlags::MS_REC) || !mount.options.iter().any(|option| option == "bind");
    let call = Bind { source: &mount.source, source_shown: &mount.source, target: &target, recursive };
    step(call).because("asked for: this file or directory of the host is shared with the container, not copied")?;
    propagate(mount, options, rootfs)?;

    let wanted = options.flags.difference(MsFlags::MS_BIND | MsFlags::MS_REC);
    if !wanted.is_empty() || !options.cleared.is_empty() {
        let mounted = rootfs.ensure_existing(&mount.destination)?;
        let flags = wanted | (flags_of(&mounted)?.difference(options.cleared));
        step(Remount { target: &mounted, flags })
            .because("a bind mount first takes over its source's flags; read-only and the like need a second call")?;
    }
    Ok(())
}

/// Sets how mounts and unmounts pass between this mount and its peers.
fn propagate(mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    for flags in &options.propagation {
        let mounted = rootfs.ensure_existing(&mount.destination)?;
        step(Propagate { path: &mounted.path(), shown: &mount.destination, flags: *flags })
            .because("the document says which mounts made later are passed on, and which way")?;
    }
    Ok(())
}

impl Rootfs {
    /// The mount that now stands at a path: found anew, since a descriptor from before shows what lies under it.
    pub fn ensure_existing(&self, path: &str) -> Result<Target, Error> {
        self.find(path)?
            .ok_or_else(|| Error::new(format!("cannot find {path} in the container just after mounting it")))
    }
}

/// The flags of a mount that a remount must carry over: in a user namespace some are locked.
fn flags_of(target: &Target) -> Result<MsFlags, Error> {
    let stat = rustix::fs::fstatvfs(target.descriptor.as_fd())
        .map_err(|errno| failed("look at the mount", &target.shown)(errno.into()))?;
    let table = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ];
    let set = table.into_iter().filter(|(flag, _)| stat.f_flag.contains(*flag));
    Ok(set.fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}

/// `/sys/fs/cgroup` as the container sees it: its own group is the root of each hierarchy.
///
/// One mount on v2. On v1 a small tmpfs with one mount a hierarchy, each shown from the container's own group on.
fn cgroup(plan: &Plan, mount: &Mount, rootfs: &Rootfs) -> Result<(), Error> {
    let options = read_options(mount)?;
    let target = rootfs.ensure_dir(&mount.destination, 0o755)?;
    let unified_alone = plan.cgroup.directories.len() <= 1 && plan.cgroup.unified.is_some();
    if unified_alone && plan.has_namespace("cgroup") {
        let call = MountNew { source: "cgroup", target: &target, kind: "cgroup2", flags: options.flags, data: "" };
        return step(call)
            .because("the container may read its own limits and use; the namespace hides the groups above");
    }

    let writable = options.flags.difference(MsFlags::MS_RDONLY);
    let call = MountNew { source: "tmpfs", target: &target, kind: "tmpfs", flags: writable, data: "mode=755,size=64k" };
    step(call).because("cgroup v1 has a hierarchy for each controller; their mount points need a directory")?;
    for directory in &plan.cgroup.directories {
        let Some(name) = hierarchy_name(directory, plan) else { continue };
        let place = format!("{}/{name}", mount.destination.trim_end_matches('/'));
        let hierarchy = rootfs.ensure_dir(&place, 0o755)?;
        let shown = directory.display().to_string();
        let call = Bind { source: &shown, source_shown: &shown, target: &hierarchy, recursive: false };
        step(call).because("the container may read its own limits and use, and no group above or beside it")?;
        let mounted = rootfs.ensure_existing(&place)?;
        step(Remount { target: &mounted, flags: options.flags })
            .because("a container that can write here sets its own limits (CVE-2022-0492)")?;
    }
    if options.flags.contains(MsFlags::MS_RDONLY) {
        let mounted = rootfs.ensure_existing(&mount.destination)?;
        step(Remount { target: &mounted, flags: options.flags })
            .because("nothing is to be added among the hierarchies")?;
    }
    Ok(())
}

/// `memory` of `/sys/fs/cgroup/memory/mocker/ID`: the directory just below the mount point of all hierarchies.
fn hierarchy_name(directory: &Path, plan: &Plan) -> Option<String> {
    let group = Path::new("mocker").join(plan.id.as_str());
    let below = directory.strip_prefix("/sys/fs/cgroup").ok()?;
    let first = below.components().next()?.as_os_str().to_str()?.to_string();
    (below != group).then_some(first)
}

/// Hides and protects the kernel files that tell about the host or steer it.
pub fn guard_kernel_files(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    for path in &plan.readonly_paths {
        let Some(target) = rootfs.find(path)? else { continue };
        let call = Bind { source: &target.path(), source_shown: path, target: &target, recursive: true };
        step(call).because("only a mount of its own can be made read-only without its surroundings")?;
        let mounted = rootfs.ensure_existing(path)?;
        let flags = flags_of(&mounted)? | MsFlags::MS_RDONLY;
        step(Remount { target: &mounted, flags }).because(
            "writing here steers the whole machine: sysctls, interrupts, sysrq; namespaces do not cover them",
        )?;
    }
    let null = own_null(rootfs)?;
    for path in &plan.masked_paths {
        let Some(target) = rootfs.find(path)? else { continue };
        match is_dir(&target)? {
            true => {
                let data = "size=0k,nr_inodes=1";
                let call =
                    MountNew { source: "tmpfs", target: &target, kind: "tmpfs", flags: MsFlags::MS_RDONLY, data };
                step(call).because("it tells about the host's hardware or keys; an empty directory takes its place")?;
            }
            false => {
                let call = Bind { source: &null.path(), source_shown: "/dev/null", target: &target, recursive: false };
                step(call).because("it tells about the host's memory or keys; reading it now gives nothing")?;
            }
        }
    }
    Ok(())
}

/// The container's /dev/null, checked to be the null device: one swapped for a link to a kernel file would open that
/// file instead of hiding another (CVE-2025-31133).
fn own_null(rootfs: &Rootfs) -> Result<Target, Error> {
    let null = rootfs.ensure_existing("/dev/null")?;
    let stat = rustix::fs::fstat(&null.descriptor).map_err(|errno| failed("look at", "/dev/null")(errno.into()))?;
    let is_null = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    match is_null {
        true => Ok(null),
        false => Err(Error::new("cannot hide kernel files: the container's /dev/null is not the null device")
            .likely("the document mounts something over /dev that has a file of that name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        let mount = Mount { options: list.iter().map(|text| text.to_string()).collect(), ..Mount::default() };
        read_options(&mount).unwrap()
    }

    #[test]
    fn options_are_flags_propagation_or_data() {
        let read = options(&["nosuid", "ro", "mode=755", "rslave", "size=1k"]);
        assert_eq!(read.flags, MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert_eq!(read.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert_eq!(read.data, ["mode=755", "size=1k"]);
        assert_eq!(options(&["ro", "rw"]).flags, MsFlags::empty(), "the last one wins");
        assert_eq!(options(&["rbind"]).flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        let unknown = Mount { options: vec!["idmap".into()], ..Mount::default() };
        assert!(read_options(&unknown).is_err(), "what confines is never ignored");
    }
}
