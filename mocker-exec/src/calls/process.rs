//! Calls that change what a process is: its namespaces, its identity, its program.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis};
use nix::sched::CloneFlags;

use super::explained;

/// clone3(2) as fork: a child in new namespaces, and a descriptor of it.
pub struct Clone3<'a> {
    pub namespaces: CloneFlags,
    /// the directory of a group of cgroup v2 to be born in
    pub group: Option<BorrowedFd<'a>>,
}

/// Since Linux 5.7; not in libc for every C library.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What clone3 returns on either side.
pub enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

explained!(Clone3<'a>, "clone(2), namespaces(7)", |this| {
    call: format!(
        "clone3({{flags={}{}, exit_signal=SIGCHLD}})",
        namespace_flags(this.namespaces | CloneFlags::from_bits_retain(libc::CLONE_PIDFD)),
        if this.group.is_some() { "|CLONE_INTO_CGROUP" } else { "" },
    ),
    aim: "make a process in new namespaces".to_string(),
    by_hand: format!("unshare {} …", unshare_options(this.namespaces)),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("namespaces other than user need CAP_SYS_ADMIN", "run it as root"),
        libc::ENOSPC | libc::EUSERS => diagnosis("the limit on the number of namespaces is reached, not the disk", "sysctl user"),
        libc::EINVAL => diagnosis("the kernel was built without one of these namespaces", "ls /proc/self/ns"),
        libc::EAGAIN => diagnosis("the limit on the number of processes is reached", "ulimit -u; cat /sys/fs/cgroup/pids/pids.max"),
        libc::ENOSYS => diagnosis("the kernel is older than 5.3, or a seccomp filter outside hides clone3", "uname -r"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Clone3<'_> {
    type Output = Cloned;
    fn call(&self) -> Result<Cloned, Cause> {
        let mut pidfd: i32 = -1;
        // SAFETY: zero is a valid value of every field.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = self.namespaces.bits() as u64 | libc::CLONE_PIDFD as u64;
        arguments.pidfd = &raw mut pidfd as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        if let Some(group) = self.group {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = group.as_raw_fd() as u64;
        }
        // SAFETY: no stack and no CLONE_VM make it a fork; the process has one thread, so the child may allocate.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
        match pid {
            -1 => Err(Cause::last()),
            0 => Ok(Cloned::Child),
            // SAFETY: the kernel has just made this descriptor for us.
            pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        }
    }
}

/// unshare(2).
pub struct Unshare(pub CloneFlags);

explained!(Unshare, "unshare(2)", |this| {
    call: format!("unshare({})", namespace_flags(this.0)),
    aim: "make new namespaces".to_string(),
    by_hand: format!("unshare {} …", unshare_options(this.0)),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN", "run it as root"),
        libc::ENOSPC => diagnosis("the limit on the number of namespaces is reached, not the disk", "sysctl user"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Unshare {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(nix::sched::unshare(self.0)?)
    }
}

/// setns(2).
pub struct Join<'a> {
    pub namespace: BorrowedFd<'a>,
    pub kind: &'a str,
    pub flag: CloneFlags,
    pub shown: &'a str,
}

explained!(Join<'a>, "setns(2)", |this| {
    call: format!("setns({:?}, {})", this.shown, namespace_flags(this.flag)),
    aim: format!("join the {} namespace {}", this.kind, this.shown),
    by_hand: format!("nsenter {}={} …", unshare_options(this.flag), this.shown),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("the file is not a namespace of this kind: perhaps nothing is mounted on it here", "findmnt -t nsfs"),
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN", "run it as root"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Join<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(nix::sched::setns(self.namespace, self.flag)?)
    }
}

/// setns(2) with a pidfd: several namespaces of a process at once.
pub struct JoinAll<'a> {
    pub process: BorrowedFd<'a>,
    pub kinds: CloneFlags,
    pub pid: i32,
}

explained!(JoinAll<'a>, "setns(2)", |this| {
    call: format!("setns(pidfd of {}, {})", this.pid, namespace_flags(this.kinds)),
    aim: format!("join the namespaces of process {}", this.pid),
    by_hand: format!("nsenter --target {} {} …", this.pid, unshare_options(this.kinds)),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN here, or in the user namespace that owns these", "run it as the user who made the container"),
        libc::ESRCH => diagnosis("the process has just ended", ""),
        libc::EINVAL => diagnosis("the kernel is older than 5.8", "uname -r"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for JoinAll<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(nix::sched::setns(self.process, self.kinds)?)
    }
}

/// sethostname(2) or setdomainname(2).
pub struct SetName<'a> {
    pub domain: bool,
    pub name: &'a str,
}

explained!(SetName<'a>, "sethostname(2)", |this| {
    call: format!("{}({:?})", if this.domain { "setdomainname" } else { "sethostname" }, this.name),
    aim: format!("name the container {}", this.name),
    by_hand: format!("{} {}", if this.domain { "domainname" } else { "hostname" }, this.name),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("a host name has at most 64 bytes", "--hostname NAME"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetName<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        match self.domain {
            true => Ok(rustix::system::setdomainname(self.name.as_bytes())?),
            false => Ok(rustix::system::sethostname(self.name.as_bytes())?),
        }
    }
}

/// setsid(2).
pub struct NewSession;

explained!(NewSession, "setsid(2)", |_this| {
    call: "setsid()",
    aim: "begin a session of its own".to_string(),
    by_hand: "setsid …".to_string(),
});

impl KernelCall for NewSession {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        match rustix::process::setsid() {
            Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()), // EPERM: it leads one already
            Err(errno) => Err(errno.into()),
        }
    }
}

/// keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
pub struct NewKeyring<'a>(pub &'a str);

explained!(NewKeyring<'a>, "keyctl(2), KEYCTL_JOIN_SESSION_KEYRING", |this| {
    call: format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {:?})", this.0),
    aim: "begin a session keyring of its own".to_string(),
    by_hand: format!("keyctl session {} …", this.0),
});

impl KernelCall for NewKeyring<'_> {
    type Output = ();
    /// A kernel without keyrings, or a full quota, leaves the container without one: nothing of the host's is lost.
    fn call(&self) -> Result<(), Cause> {
        let name = super::files::c_string(self.0);
        // SAFETY: the name is a C string that outlives the call.
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING as libc::c_long, name.as_ptr()) };
        Ok(())
    }
}

/// prctl(2) with one number.
pub struct Prctl {
    pub option: i32,
    pub name: &'static str,
    pub value: u64,
}

explained!(Prctl, "prctl(2)", |this| {
    call: format!("prctl({}, {})", this.name, this.value),
    aim: format!("set {} to {}", this.name, this.value),
});

impl KernelCall for Prctl {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: these options take numbers only.
        match unsafe { libc::prctl(self.option, self.value, 0, 0, 0) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

/// prlimit(2).
pub struct SetLimit<'a> {
    /// 0: the calling one
    pub pid: i32,
    pub kind: &'a str,
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

explained!(SetLimit<'a>, "getrlimit(2)", |this| {
    call: format!("prlimit({}, {}, {{{}, {}}})", this.pid, this.kind, this.soft, this.hard),
    aim: format!("set {} to {}:{}", this.kind, this.soft, this.hard),
    by_hand: format!("prlimit --{}={}:{} …", this.kind.trim_start_matches("RLIMIT_").to_lowercase(), this.soft, this.hard),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the hard limit would rise above the caller's, which needs CAP_SYS_RESOURCE", "ulimit -Ha"),
        libc::EINVAL => diagnosis("the soft limit is above the hard one", ""),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetLimit<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let limit = libc::rlimit64 { rlim_cur: self.soft, rlim_max: self.hard };
        // SAFETY: the kernel reads the structure during the call only.
        match unsafe { libc::syscall(libc::SYS_prlimit64, self.pid, self.resource, &raw const limit, 0) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

/// setgroups(2), setresgid(2), setresuid(2).
pub struct SetGroups<'a>(pub &'a [u32]);
pub struct SetGid(pub u32);
pub struct SetUid(pub u32);

explained!(SetGroups<'a>, "setgroups(2)", |this| {
    call: format!("setgroups({:?})", this.0),
    aim: "set the supplementary groups".to_string(),
    by_hand: format!("setpriv --groups {} …", this.0.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_SETGID", ""),
        libc::EINVAL => diagnosis("more groups than the kernel takes (65536)", ""),
        _ => Diagnosis::default(),
    },
});

explained!(SetGid, "setresgid(2)", |this| {
    call: format!("setresgid({0}, {0}, {0})", this.0),
    aim: format!("become group {}", this.0),
    by_hand: format!("setpriv --regid {} …", this.0),
});

explained!(SetUid, "setresuid(2)", |this| {
    call: format!("setresuid({0}, {0}, {0})", this.0),
    aim: format!("become user {}", this.0),
    by_hand: format!("setpriv --reuid {} …", this.0),
    diagnose: |errno| match errno {
        libc::EAGAIN => diagnosis("the user is over its limit of processes", "ulimit -u"),
        _ => Diagnosis::default(),
    },
});

// The raw calls: libc's wrappers would change the ids of every thread, by signals; there is one thread.
impl KernelCall for SetGroups<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: pointer and length describe the slice.
        check(unsafe { libc::syscall(libc::SYS_setgroups, self.0.len(), self.0.as_ptr()) })
    }
}

impl KernelCall for SetGid {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: three numbers.
        check(unsafe { libc::syscall(libc::SYS_setresgid, self.0, self.0, self.0) })
    }
}

impl KernelCall for SetUid {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: three numbers.
        check(unsafe { libc::syscall(libc::SYS_setresuid, self.0, self.0, self.0) })
    }
}

fn check(result: libc::c_long) -> Result<(), Cause> {
    if result < 0 { Err(Cause::last()) } else { Ok(()) }
}

/// ioctl(2), TIOCSCTTY: makes a terminal the session's controlling one.
pub struct ControllingTerminal<'a>(pub BorrowedFd<'a>);

explained!(ControllingTerminal<'a>, "ioctl_tty(2)", |_this| {
    call: "ioctl(terminal, TIOCSCTTY, 0)",
    aim: "make the terminal the session's own".to_string(),
    by_hand: "setsid -c …".to_string(),
});

impl KernelCall for ControllingTerminal<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::process::ioctl_tiocsctty(self.0)?)
    }
}

/// dup2(2) onto 0, 1 or 2.
pub struct Become<'a> {
    pub source: BorrowedFd<'a>,
    pub number: i32,
    pub shown: &'a str,
}

explained!(Become<'a>, "dup2(2)", |this| {
    call: format!("dup2({}, {})", this.shown, this.number),
    aim: format!("make {} descriptor {}", this.shown, this.number),
    by_hand: format!("exec {}<>{}", this.number, this.shown),
});

impl KernelCall for Become<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: the target is one of the three standard numbers, which nothing else here owns.
        match unsafe { libc::dup2(self.source.as_raw_fd(), self.number) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC: everything from a number up closes at execve.
pub struct CloseOnExec {
    pub from: u32,
}

explained!(CloseOnExec, "close_range(2)", |this| {
    call: format!("close_range({}, ~0, CLOSE_RANGE_CLOEXEC)", this.from),
    aim: "close every other descriptor".to_string(),
});

impl KernelCall for CloseOnExec {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: only flags of descriptors change.
        match unsafe { libc::syscall(libc::SYS_close_range, self.from, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

/// execve(2). Returns only if it failed.
pub struct Execute<'a> {
    pub program: &'a str,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
}

explained!(Execute<'a>, "execve(2)", |this| {
    call: format!("execve({:?}, {:?}, [{} variables])", this.program, this.arguments, this.environment.len()),
    aim: format!("execute {}", this.program),
    by_hand: format!("exec {}", this.program),
});

impl KernelCall for Execute<'_> {
    type Output = std::convert::Infallible;
    fn call(&self) -> Result<Self::Output, Cause> {
        let program = super::files::c_string(self.program);
        Ok(nix::unistd::execve(&program, self.arguments, self.environment)?)
    }
}

/// CLONE_NEWTIME, which nix does not name.
pub const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

const NAMESPACES: [(CloneFlags, &str, &str); 9] = [
    (CloneFlags::CLONE_NEWNS, "CLONE_NEWNS", "--mount"),
    (CloneFlags::CLONE_NEWPID, "CLONE_NEWPID", "--pid --fork"),
    (CloneFlags::CLONE_NEWUTS, "CLONE_NEWUTS", "--uts"),
    (CloneFlags::CLONE_NEWIPC, "CLONE_NEWIPC", "--ipc"),
    (CloneFlags::CLONE_NEWNET, "CLONE_NEWNET", "--net"),
    (CloneFlags::CLONE_NEWCGROUP, "CLONE_NEWCGROUP", "--cgroup"),
    (CloneFlags::CLONE_NEWUSER, "CLONE_NEWUSER", "--user"),
    (NEW_TIME, "CLONE_NEWTIME", "--time"),
    (CloneFlags::from_bits_retain(libc::CLONE_PIDFD), "CLONE_PIDFD", ""),
];

fn namespace_flags(flags: CloneFlags) -> String {
    let names = NAMESPACES.iter().filter(|(flag, ..)| flags.contains(*flag)).map(|(_, name, _)| *name);
    names.collect::<Vec<_>>().join("|")
}

fn unshare_options(flags: CloneFlags) -> String {
    let names = NAMESPACES.iter().filter(|(flag, _, option)| flags.contains(*flag) && !option.is_empty());
    names.map(|(_, _, option)| *option).collect::<Vec<_>>().join(" ")
}

/// rt_sigaction(2) with SIG_DFL for every signal, the two that C libraries keep to themselves (32, 33) too: a caller may
/// have left those ignored. SIGKILL and SIGSTOP refuse; they have nothing to reset.
pub fn default_dispositions() {
    // struct sigaction as the kernel knows it: handler, flags, restorer, mask; all zero is SIG_DFL.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads 32 bytes; a default disposition runs no code of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
    }
}
