//! The document's mounts, in its order, each on a descriptor found beneath the root. Source: runtime-spec config.md,
//! Mounts; mount(2), open_tree(2).
//!
//! What is bound is cloned first and then moved to its place, so that its flags are changed through a descriptor of the
//! very mount: a name could lead elsewhere by then (CVE-2021-30465).

mod cgroups;
mod copy_up;
mod guards;
mod options;
pub mod procfs;
mod sources;

use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::rootless::in_user_namespace;
use mocker_common::step::step;
use nix::mount::MsFlags;
use rustix::fs::StatVfsMountFlags;

pub use guards::guard_kernel_files;
pub use options::known_options;
pub use sources::MountSources;

use crate::calls::mounts::{Attach, MS_NOSYMFOLLOW, MountNew, Propagate, Remount, RemountNew, SetAttributes, Target};
use crate::plan::{Mount, Plan};
use crate::rootfs::{Rootfs, is_dir, mode_of};
use options::Options;

/// Makes every mount of the document, but the cgroup file system and what stands on it: that waits for the process to be
/// in its group.
pub fn make(plan: &Plan, rootfs: &Rootfs, sources: &MountSources) -> Result<(), Error> {
    let waits = cgroups::waiting(&plan.mounts);
    let now = plan.mounts.iter().enumerate().filter(|(number, _)| !waits[*number]);
    now.into_iter().try_for_each(|(number, mount)| make_one(plan, mount, rootfs, sources.of(number)?))
}

/// Makes the cgroup mounts and what stands on them.
pub fn make_cgroups(plan: &Plan, rootfs: &Rootfs, sources: &MountSources) -> Result<(), Error> {
    let waits = cgroups::waiting(&plan.mounts);
    let now = plan.mounts.iter().enumerate().filter(|(number, _)| waits[*number]);
    now.into_iter().try_for_each(|(number, mount)| match cgroups::is_one(mount) {
        true => cgroups::make(plan, mount, rootfs),
        false => make_one(plan, mount, rootfs, sources.of(number)?),
    })
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

fn make_one(plan: &Plan, mount: &Mount, rootfs: &Rootfs, opened: Option<Target>) -> Result<(), Error> {
    let options = Options::read(&mount.options);
    if options.flags.contains(MsFlags::MS_REMOUNT) {
        return remount(mount, &options, rootfs);
    }
    if sources::is_bind(mount, &options) {
        // A mount that came into a user namespace with the rest would have its flags locked; this one has them kept.
        let locked = opened.is_some() && plan.has_namespace("user");
        let tree = opened.map_or_else(|| sources::clone(plan, mount, &options), Ok)?;
        return bind(mount, &options, rootfs, &tree, locked);
    }
    match mount.kind.as_str() {
        "proc" | "sysfs" => kernel_tree(plan, mount, &options, rootfs),
        "tmpfs" => tmpfs(mount, &options, rootfs),
        _ => {
            let target = rootfs.ensure_dir(&mount.destination, 0o755)?;
            check_not_inside_proc(mount, &target, None)?;
            new(mount, &options, rootfs, &target, &options.data.join(","))
        }
    }
}

/// Mounts a new file system.
fn new(mount: &Mount, options: &Options, rootfs: &Rootfs, target: &Target, data: &str) -> Result<(), Error> {
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    let later = if is_readonly_later(mount) { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let flags = options.of_the_mount().difference(later);
    let call =
        |data: &str| step(MountNew { source, target, kind: &mount.kind, flags, data }).because(reason(&mount.kind));
    match call(data) {
        // Group 5, tty, may have no number in a small user namespace; terminals then belong to their opener's group.
        Err(error) if error.errno == libc::EINVAL && mount.kind == "devpts" && in_user_namespace() => {
            let kept: Vec<&str> = data.split(',').filter(|option| !option.starts_with("gid=")).collect();
            if kept.len() == data.split(',').count() {
                return Err(error);
            }
            call(&kept.join(","))?;
        }
        outcome => outcome?,
    }
    settle_new(mount, options, rootfs)
}

/// Whether a read-only mount is writable until everything in it is made: mount points, device nodes.
fn is_readonly_later(mount: &Mount) -> bool {
    mount.kind == "tmpfs" || mount.destination.trim_end_matches('/') == "/dev" || cgroups::is_by_controller(mount)
}

/// Makes read-only what had to be written to until now. After everything that is made in there.
fn close_what_was_open(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    for mount in plan.mounts.iter().filter(|mount| is_readonly_later(mount)) {
        let options = Options::read(&mount.options);
        if !options.is_readonly() || sources::is_bind(mount, &options) {
            continue;
        }
        let mounted = rootfs.ensure_existing(&mount.destination)?;
        let flags = flags_of(&mounted)? | MsFlags::MS_RDONLY;
        step(Remount { target: &mounted, flags })
            .because("asked for; until now devices and other mounts' places had to be made in it")?;
    }
    Ok(())
}

/// Does to a new file system what the mount call itself cannot.
fn settle_new(mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    if options.propagation.is_empty() && options.all_set == 0 && options.all_cleared == 0 {
        return Ok(());
    }
    let mounted = rootfs.ensure_existing(&mount.destination)?;
    propagate(options, &mounted)?;
    set_all(options, &mounted)
}

/// proc or sysfs. On a directory, never through a link: masks and sysctls are found by name later, and a link could be
/// turned meanwhile to a tree that only looks like the kernel's (CVE-2019-19921, CVE-2023-27561).
fn kernel_tree(plan: &Plan, mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    let target = rootfs.ensure_plain_dir(&mount.destination).map_err(|error| match error.errno {
        libc::ELOOP | libc::ENOTDIR => Error::new(format!(
            "cannot mount {kind} on {}: filesystem \"{kind}\" must be mounted on ordinary directory",
            mount.destination,
            kind = mount.kind
        ))
        .why("behind a link of the image could stand a forged tree; what is to be masked in the real one would stay open"),
        _ => error,
    })?;
    let mounted = new(mount, options, rootfs, &target, &options.data.join(","));
    let shares_processes = !plan.has_namespace("pid");
    match mounted {
        // A user namespace may not have a new view of what is not its own: the host's network, the host's processes.
        Err(error)
            if error.errno == libc::EPERM && in_user_namespace() && (mount.kind == "sysfs" || shares_processes) =>
        {
            let host = if mount.kind == "sysfs" { "/sys" } else { "/proc" };
            let tree = sources::clone_path(Path::new(host), true)?;
            step(Attach { tree: tree.descriptor.as_fd(), shown: host, target: &target })
                .because("this user namespace may not make a new one, as it shares what is shown with the host")?;
            step(Propagate { path: &tree.path(), shown: host, flags: MsFlags::MS_SLAVE | MsFlags::MS_REC })
                .because("what the host mounts there later may be seen; nothing goes the other way")?;
            change_flags(options, &tree, true)
        }
        outcome => outcome,
    }
}

/// A tmpfs, with the mode of the directory that it covers: /tmp stays writable for all, /root closed.
fn tmpfs(mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    let found = rootfs.find(&mount.destination)?;
    let mut data = options.data.clone();
    if let Some(found) = &found
        && !data.iter().any(|option| option.starts_with("mode="))
    {
        data.insert(0, format!("mode={:04o}", mode_of(found)?));
    }
    let target = found.map_or_else(|| rootfs.ensure_dir(&mount.destination, 0o755), Ok)?;
    new(mount, options, rootfs, &target, &data.join(","))?;
    if options.copy_up {
        copy_up::fill(&target, &rootfs.ensure_existing(&mount.destination)?)?;
    }
    Ok(())
}

/// Changes a mount that is there already.
fn remount(mount: &Mount, options: &Options, rootfs: &Rootfs) -> Result<(), Error> {
    let mounted = rootfs.find(&mount.destination)?.ok_or_else(|| {
        Error::new(format!("cannot remount {}: it is not there", mount.destination))
            .hint("the document's mounts are made in its order; the remount must come after the mount")
    })?;
    let flags = options.flags.difference(MsFlags::MS_REC);
    match sources::is_bind(mount, options) {
        true => change_flags(options, &mounted, false)?,
        false => step(RemountNew { target: &mounted, flags, data: &options.data.join(",") })
            .because("asked for: a file system that is mounted already is to have other options")?,
    }
    propagate(options, &mounted)?;
    set_all(options, &mounted)
}

/// Shows a file or directory of the host. `tree` is a mount of it that has no place yet.
fn bind(mount: &Mount, options: &Options, rootfs: &Rootfs, tree: &Target, locked: bool) -> Result<(), Error> {
    let source_is_dir = is_dir(tree)?;
    let target = match source_is_dir {
        true => rootfs.ensure_dir(&mount.destination, 0o755)?,
        false => rootfs.ensure_file(&mount.destination)?,
    };
    if is_dir(&target)? != source_is_dir {
        let (source, place) = if source_is_dir { ("directory", "file") } else { ("file", "directory") };
        return Err(Error::new(format!(
            "cannot mount {} on {}: not a directory: the source is a {source}, the place a {place}",
            mount.source, mount.destination
        )));
    }
    check_not_inside_proc(mount, &target, Some(tree))?;
    step(Attach { tree: tree.descriptor.as_fd(), shown: &tree.shown, target: &target })
        .because("asked for: this file or directory of the host is shared with the container, not copied")?;
    propagate(options, tree)?;
    change_flags(options, tree, locked)?;
    set_all(options, tree)
}

/// Of a container's /proc only these files may be replaced: others are how labels, limits and sysctls are set, and would
/// be written to in the belief that they are the kernel's (CVE-2019-16884).
const REPLACEABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

fn check_not_inside_proc(mount: &Mount, target: &Target, tree: Option<&Target>) -> Result<(), Error> {
    let place = mount.destination.trim_end_matches('/');
    let refused = |what: &str| {
        Err(Error::new(format!("cannot mount {}: {place:?} cannot be mounted because it is {what}", mount.source))
            .why("the kernel's settings are written there, and would go into the file that stands in their place"))
    };
    match tree {
        Some(tree) if place == "/proc" && !procfs::is_proc(tree) => refused("not of type proc"),
        _ if place != "/proc" && procfs::is_proc(target) && !REPLACEABLE.contains(&place) => refused("inside /proc"),
        _ => Ok(()),
    }
}

/// Sets how mounts and unmounts pass between this mount and its peers.
fn propagate(options: &Options, mounted: &Target) -> Result<(), Error> {
    options.propagation.iter().try_for_each(|flags| {
        step(Propagate { path: &mounted.path(), shown: &mounted.shown, flags: *flags })
            .because("the document says which mounts made later are passed on, and which way")
    })
}

/// Flags that a mount of a more privileged namespace keeps: they cannot be taken away, but it can be asked for them.
const LOCKABLE: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME);

/// Gives a bind mount the flags that were asked for: those and no others, as `mount --bind -o` does.
fn change_flags(options: &Options, mounted: &Target, locked: bool) -> Result<(), Error> {
    let wanted = options.of_the_mount();
    if wanted.is_empty() && options.cleared.is_empty() {
        return Ok(());
    }
    let now = flags_of(mounted)?;
    // Only opposites, `rw` or `exec`: the rest stays as the source has it.
    let flags = if wanted.is_empty() { now.difference(options.cleared) } else { wanted };
    let kept = now & LOCKABLE.difference(options.cleared);
    let flags = if locked { flags | kept } else { flags };
    if flags == now {
        return Ok(());
    }
    let call = |flags| {
        step(Remount { target: mounted, flags })
            .because("a bind mount first takes over its source's flags; read-only and the like need a second call")
    };
    match call(flags) {
        Err(error) if error.errno == libc::EPERM && !now.intersects(options.cleared & LOCKABLE) => call(flags | kept),
        outcome => outcome,
    }
}

/// Sets what is to hold for all mounts below, too.
fn set_all(options: &Options, mounted: &Target) -> Result<(), Error> {
    if options.all_set == 0 && options.all_cleared == 0 {
        return Ok(());
    }
    step(SetAttributes {
        mount: mounted.descriptor.as_fd(),
        shown: &mounted.shown,
        set: options.all_set,
        clear: options.all_cleared,
        propagation: MsFlags::empty(),
        recursive: true,
        user_namespace: None,
    })
    .because("read-only and the like hold for one mount; those that came along below it would still be writable")
}

impl Rootfs {
    /// The mount that now stands at a path: found anew, since a descriptor from before shows what lies under it.
    pub fn ensure_existing(&self, path: &str) -> Result<Target, Error> {
        self.find(path)?
            .ok_or_else(|| Error::new(format!("cannot find {path} in the container just after mounting it")))
    }
}

/// The flags of a mount that a remount must carry over: in a user namespace some are locked.
pub fn flags_of(target: &Target) -> Result<MsFlags, Error> {
    let stat = rustix::fs::fstatvfs(target.descriptor.as_fd())
        .map_err(|errno| failed("look at the mount", &target.shown)(errno.into()))?;
    let no_links = StatVfsMountFlags::from_bits_retain(0x2000); // ST_NOSYMFOLLOW
    let table = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
        (no_links, MS_NOSYMFOLLOW),
    ];
    let set = table.into_iter().filter(|(flag, _)| stat.f_flag.contains(*flag));
    Ok(set.fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}
