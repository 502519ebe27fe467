//! The last steps before the program: limits, scheduling, labels, capabilities, ids, filter; in the order that leaves
//! each the privilege it needs, and the program none of it.

use std::os::fd::AsFd;

use mocker_common::error::Error;
use mocker_common::rootless;
use mocker_common::step::step;
use rustix::fs::OFlags;

use crate::calls::files::WriteTo;
use crate::calls::process::{NewKeyring, Prctl, SetGid, SetGroups, SetLimit, SetUid};
use crate::capabilities::{self, Sets};
use crate::channel::Channel;
use crate::labels::Labels;
use crate::mounts::procfs::Procfs;
use crate::plan::{Plan, Process, User};
use crate::rootfs::Rootfs;
use crate::{labels, netdev, scheduling, seccomp};

#[allow(clippy::unnecessary_cast)] // signed with musl
const LIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU as u32),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE as u32),
    ("RLIMIT_DATA", libc::RLIMIT_DATA as u32),
    ("RLIMIT_STACK", libc::RLIMIT_STACK as u32),
    ("RLIMIT_CORE", libc::RLIMIT_CORE as u32),
    ("RLIMIT_RSS", libc::RLIMIT_RSS as u32),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC as u32),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE as u32),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK as u32),
    ("RLIMIT_AS", libc::RLIMIT_AS as u32),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS as u32),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING as u32),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE as u32),
    ("RLIMIT_NICE", libc::RLIMIT_NICE as u32),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO as u32),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME as u32),
];

/// The number of a limit's name; checked outside, before anything is made.
pub fn limit_number(kind: &str) -> Result<u32, Error> {
    LIMITS.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number).ok_or_else(|| {
        Error::new(format!("cannot set limit {kind}: no such limit"))
            .hint("RLIMIT_NOFILE, RLIMIT_NPROC, …: getrlimit(2)")
    })
}

/// Refuses, before anything is made, attributes that no kernel or not this one has.
pub fn check(plan: &Plan) -> Result<(), Error> {
    check_process(&plan.process)?;
    labels::check(&plan.process, plan.mount_label.as_deref())?;
    if let Some(personality) = &plan.personality {
        personality.check()?;
    }
    if let Some(policy) = &plan.memory_policy {
        policy.check()?;
    }
    netdev::check(&plan.net_devices, plan.has_namespace("network"))
}

/// The same for what a process of `exec` can have of its own.
pub fn check_process(process: &Process) -> Result<(), Error> {
    for (place, limit) in process.rlimits.iter().enumerate() {
        limit_number(&limit.kind)?;
        if process.rlimits[..place].iter().any(|other| other.kind == limit.kind) {
            return Err(Error::new(format!("cannot set limit {}: process.rlimits has it twice", limit.kind)));
        }
    }
    if let Some(scheduler) = &process.scheduler {
        scheduler.attributes()?;
    }
    if let Some(io) = &process.io_priority {
        io.value()?;
    }
    process.exec_cpu_affinity.as_ref().map_or(Ok(()), |affinity| affinity.check())
}

/// Sets what needs the host's /proc or the caller's privilege. Before the root is changed.
pub fn prepare(plan: &Plan) -> Result<Labels, Error> {
    if !plan.no_new_keyring {
        labels::label_keys(&plan.process, false)?;
        step(NewKeyring(plan.id.as_str()))
            .because("the caller's session keyring may hold keys; the container would inherit it")?;
        labels::label_keys(&plan.process, true)?;
    }
    // In a user namespace it has been set from outside: the right to is the host's.
    if let Some(score) = plan.process.oom_score_adj.filter(|_| !plan.has_namespace("user")) {
        write_own("oom_score_adj", &score.to_string())?;
    }
    labels::open(&plan.process)
}

/// Writes the document's sysctls, through the /proc that was mounted for the container.
pub fn set_sysctls(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    if plan.sysctl.is_empty() {
        return Ok(());
    }
    let proc = Procfs::of_container(rootfs)?;
    for (name, value) in &plan.sysctl {
        let path = format!("sys/{}", name.replace('.', "/"));
        let file = proc.open(&path, OFlags::WRONLY)?;
        step(WriteTo { file: file.as_fd(), shown: &format!("/proc/{path}"), text: value })
            .because("asked for: this sysctl belongs to a namespace of the container and is its own")?;
    }
    Ok(())
}

fn write_own(name: &str, text: &str) -> Result<(), Error> {
    let file = Procfs::own()?.open(&format!("self/{name}"), OFlags::WRONLY)?;
    step(WriteTo { file: file.as_fd(), shown: &format!("/proc/self/{name}"), text })
        .because("asked for: the kernel reads the setting here")
}

/// Where a user has mapped himself alone nobody may set groups: then the one that is there anyway need not be set.
fn set_groups(user: &User) -> Result<(), Error> {
    let set = step(SetGroups(&user.additional_gids))
        .because("the caller's supplementary groups would open the host's files to the container");
    match set {
        Err(error) if error.errno == libc::EPERM && !rootless::may_set_groups() => {
            match user.additional_gids.iter().all(|group| *group == user.gid) {
                true => Ok(()),
                false => Err(Error { likely: "in a user namespace with one id there is one group".into(), ..error }),
            }
        }
        other => other,
    }
}

/// What was made ready for the program outside and before the root was changed.
pub struct Prepared<'a> {
    pub capabilities: &'a Sets,
    pub filter: Option<&'a seccomp::Program>,
    pub labels: &'a Labels,
}

/// Becomes the container's user with the container's rights, and no more. Afterwards only execve is left to do.
pub fn assume(plan: &Plan, prepared: &Prepared<'_>, channel: &Channel) -> Result<(), Error> {
    let (process, sets) = (&plan.process, prepared.capabilities);
    let filter = prepared.filter.map(|filter| seccomp::prepare(filter, channel)).transpose()?;
    let (early, late) = if process.no_new_privileges { (None, filter) } else { (filter, None) };
    for limit in &process.rlimits {
        step(SetLimit {
            pid: 0,
            kind: &limit.kind,
            resource: limit_number(&limit.kind)?,
            soft: limit.soft,
            hard: limit.hard,
        })
        .because("set while still privileged: a hard limit may not be raised later")?;
    }
    set_attributes(plan, prepared.labels)?;
    if process.no_new_privileges {
        step(Prctl { option: libc::PR_SET_NO_NEW_PRIVS, name: "PR_SET_NO_NEW_PRIVS", value: 1 })
            .because("asked for: no setuid program in the image can give more rights than these")?;
    }
    if let Some(filter) = early {
        filter.load()?; // needs CAP_SYS_ADMIN, so before it is dropped
    }
    capabilities::drop_bounding(sets)?;
    step(Prctl { option: libc::PR_SET_KEEPCAPS, name: "PR_SET_KEEPCAPS", value: 1 })
        .because("changing from user 0 to another clears the capabilities; some are to be kept")?;

    let user = &process.user;
    set_groups(user)?;
    step(SetGid(user.gid)).because("before the user: afterwards the right to change groups is gone")?;
    step(SetUid(user.uid))
        .because("the program runs as the container's user, by number; names mean nothing to the kernel")?;

    if !plan.detached {
        step(Prctl { option: libc::PR_SET_PDEATHSIG, name: "PR_SET_PDEATHSIG", value: libc::SIGKILL as u64 })
            .because("changing the user has cleared it, and the container must still not outlive its tool")?;
    }

    capabilities::apply(sets)?;
    if let Some(filter) = late {
        filter.load()?; // needs nothing any more, so as late as can be
    }
    Ok(())
}

/// What a process passes on to all it starts. While privileged, and before a filter that may forbid these calls.
fn set_attributes(plan: &Plan, labels: &Labels) -> Result<(), Error> {
    scheduling::apply(plan.process.scheduler.as_ref(), plan.process.io_priority.as_ref())?;
    if let Some(policy) = &plan.memory_policy {
        policy.apply()?;
    }
    if let Some(personality) = &plan.personality {
        personality.apply()?;
    }
    labels.apply()
}
