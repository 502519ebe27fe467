//! Seccomp: a filter in the kernel that judges each system call of the container before it is made.
//!
//! In: `linux.seccomp` of the document. It is compiled before the fork, where there is time to refuse it; loading it is
//! one call that allocates nothing. A filter stays for life and passes on to every child; a second one can only forbid
//! more. Needs CAP_SYS_ADMIN or no_new_privs. Source: seccomp(2).

mod bpf;
mod compile;
pub mod listener;
pub mod profile;
mod table;
#[cfg(test)]
mod tests;

use mocker_common::error::Error;
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use serde::Deserialize;
use serde_json::Value;

use crate::calls::explained;
use crate::channel::Channel;
pub use bpf::Instruction;
use listener::Messenger;
pub use profile::{Listener, Seccomp};

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub instructions: Vec<Instruction>,
    /// for seccomp(2)
    pub flags: u32,
    /// names in the profile that no architecture of ours has, and that keep the default
    pub unknown_names: usize,
    /// who decides what SCMP_ACT_NOTIFY leaves open
    pub listener: Option<Listener>,
}

/// Reads and compiles `linux.seccomp`. Everything in it that cannot be done is refused here.
pub fn from_document(seccomp: &Value) -> Result<Program, Error> {
    let profile = Seccomp::deserialize(seccomp)
        .map_err(|cause| Error::new(format!("cannot read linux.seccomp: {cause}")).hint("jq .linux.seccomp"))?;
    compile(&profile)
}

/// Compiles a profile for this machine. Pure.
pub fn compile(profile: &Seccomp<'_>) -> Result<Program, Error> {
    let native = table::Architecture::native().ok_or_else(|| {
        let machine = std::env::consts::ARCH;
        Error::new(format!("cannot use the seccomp profile: the numbers of {machine}'s system calls are not known"))
            .hint("jq 'del(.linux.seccomp)'   (runs it without)")
    })?;
    compile::compile(profile, native)
}

/// A filter that is ready to be loaded, with all that loading it takes.
pub struct Ready<'a> {
    program: &'a Program,
    messenger: Option<Messenger>,
}

/// Gets ready while every call is still allowed.
pub fn prepare<'a>(program: &'a Program, channel: &Channel) -> Result<Ready<'a>, Error> {
    let messenger = program.listener.is_some().then(|| Messenger::start(channel)).transpose()?;
    Ok(Ready { program, messenger })
}

impl Ready<'_> {
    /// Loads the filter: from here on it judges every call of this process and of all that come from it.
    ///
    /// With a listener it returns once that has been handed over: it may be the listener that judges the next call.
    pub fn load(self) -> Result<(), Error> {
        let Some(messenger) = self.messenger else {
            return step(LoadFilter(self.program)).because(
                "the kernel has some 380 calls and a program needs a fraction; a hole in a call it cannot make cannot be used",
            );
        };
        let number = step(LoadNotifying(self.program)).because(
            "some calls are to be decided outside, one by one, by a process that knows what the container may do",
        )?;
        messenger.deliver(number);
        Ok(())
    }
}

/// seccomp(2), SECCOMP_SET_MODE_FILTER.
pub struct LoadFilter<'a>(pub &'a Program);

explained!(LoadFilter<'a>, "seccomp(2)", |this| {
    call: format!("seccomp(SECCOMP_SET_MODE_FILTER, {:#x}, {{len={}, filter=…}})", this.0.flags, this.0.instructions.len()),
    aim: "load the seccomp filter".to_string(),
    diagnose: cause_of_refusal,
});

impl KernelCall for LoadFilter<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        set_filter(self.0, self.0.flags).map(drop)
    }
}

/// seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER: returns the number of the descriptor that notifications come from.
pub struct LoadNotifying<'a>(pub &'a Program);

explained!(LoadNotifying<'a>, "seccomp(2), seccomp_unotify(2)", |this| {
    call: format!(
        "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER|{:#x}, {{len={}, filter=…}})",
        this.0.flags, this.0.instructions.len(),
    ),
    aim: "load the seccomp filter with a listener".to_string(),
    diagnose: |errno| match errno {
        libc::EBUSY => diagnosis("a filter that this process has already has a listener, and there can be one only", "grep Seccomp_filters /proc/self/status"),
        other => cause_of_refusal(other),
    },
});

impl KernelCall for LoadNotifying<'_> {
    type Output = i32;
    fn call(&self) -> Result<i32, Cause> {
        set_filter(self.0, self.0.flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32)
    }
}

fn cause_of_refusal(errno: i32) -> Diagnosis {
    match errno {
        libc::EACCES => diagnosis(
            "without CAP_SYS_ADMIN a filter may only be loaded with no_new_privs set",
            "run it as root, or set process.noNewPrivileges",
        ),
        libc::EINVAL => diagnosis(
            "the kernel was built without seccomp filters, or does not know one of the flags",
            "zgrep SECCOMP /proc/config.gz",
        ),
        libc::ENOMEM => diagnosis(
            "the filters of this process and its parents are too long together",
            "grep Seccomp_filters /proc/self/status",
        ),
        libc::ENOSYS => diagnosis("the kernel is older than 3.17", "uname -r"),
        _ => Diagnosis::default(),
    }
}

fn set_filter(program: &Program, flags: u32) -> Result<i32, Cause> {
    let filter = program.instructions.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len: program.instructions.len() as u16, filter };
    // SAFETY: Instruction has the layout of sock_filter; the kernel copies the program before the call returns.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) } {
        -1 => Err(Cause::last()),
        number => Ok(number as i32),
    }
}

/// Whether this kernel takes a flag: asked with no filter, it says EFAULT if it does and EINVAL if not. A way of waiting
/// for a listener it takes only together with one.
pub fn kernel_takes(flag: u32) -> bool {
    let waits = flag & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32 != 0;
    let flag = if waits { flag | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 } else { flag };
    let nothing = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel looks at the flags first, and then finds no filter to load.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, nothing) };
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
