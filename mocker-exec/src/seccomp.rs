//! Seccomp: a filter in the kernel that judges each system call of the container before it is made.
//!
//! In: `linux.seccomp` of the document. It is compiled before the fork, where there is time to refuse it; loading it is
//! one call that allocates nothing. A filter stays for life and passes on to every child; a second one can only forbid
//! more. Needs CAP_SYS_ADMIN or no_new_privs. Source: seccomp(2).

mod bpf;
mod compile;
mod profile;
mod table;
#[cfg(test)]
mod tests;

use mocker_common::error::Error;
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use serde::Deserialize;
use serde_json::Value;

use crate::calls::explained;
pub use bpf::Instruction;
pub use profile::Seccomp;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub instructions: Vec<Instruction>,
    /// for seccomp(2)
    pub flags: u32,
    /// names in the profile that no architecture of ours has, and that keep the default
    pub unknown_names: usize,
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

/// Loads a filter: from here on it judges every call of this process and of all that come from it.
pub fn load(program: &Program) -> Result<(), Error> {
    step(LoadFilter(program)).because(
        "the kernel has some 380 calls and a program needs a fraction; a hole in a call it cannot make cannot be used",
    )
}

/// seccomp(2), SECCOMP_SET_MODE_FILTER.
pub struct LoadFilter<'a>(pub &'a Program);

explained!(LoadFilter<'a>, "seccomp(2)", |this| {
    call: format!("seccomp(SECCOMP_SET_MODE_FILTER, {:#x}, {{len={}, filter=…}})", this.0.flags, this.0.instructions.len()),
    aim: "load the seccomp filter".to_string(),
    diagnose: |errno| match errno {
        libc::EACCES => diagnosis("without CAP_SYS_ADMIN a filter may only be loaded with no_new_privs set", "run it as root, or set process.noNewPrivileges"),
        libc::EINVAL => diagnosis("the kernel was built without seccomp filters, or does not know one of the flags", "zgrep SECCOMP /proc/config.gz"),
        libc::ENOMEM => diagnosis("the filters of this process and its parents are too long together", "grep Seccomp_filters /proc/self/status"),
        libc::ENOSYS => diagnosis("the kernel is older than 3.17", "uname -r"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for LoadFilter<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let filter = self.0.instructions.as_ptr().cast::<libc::sock_filter>().cast_mut();
        let program = libc::sock_fprog { len: self.0.instructions.len() as u16, filter };
        // SAFETY: Instruction has the layout of sock_filter; the kernel copies the program before the call returns.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.0.flags, &raw const program)
        };
        match result {
            0 => Ok(()),
            -1 => Err(Cause::last()),
            thread => Err(Cause::words(format!("thread {thread} has another filter, and TSYNC was asked for"))),
        }
    }
}
