//! `--init`: a small init at pid 1 that passes signals on and reaps orphans. Source: pid_namespaces(7).
//!
//! The first process of a pid namespace is special: signals without a handler do nothing to it, and every orphan becomes
//! its child. Most programs count on neither.

use mocker_common::error::{Error, errno_text};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Forks. The child returns and goes on to be the program; pid 1 stays here until that ends, and ends like it.
pub fn become_init() -> Result<(), Error> {
    let all = SigSet::all();
    all.thread_block()
        .map_err(|errno| Error::new(format!("cannot hold signals back: {}", errno_text(errno as i32))))?;
    // SAFETY: one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => Ok(()),
        Ok(ForkResult::Parent { child }) => {
            // The channel must close with the program's execve, not with our end; the container's output is not ours.
            // SAFETY: nothing in this process uses a descriptor any more.
            unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
            let status = pass_on_and_reap(child, &all);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(status) }
        }
        Err(errno) => Err(Error::new(format!("cannot make the program's process: {}", errno_text(errno as i32)))),
    }
}

/// Waits for signals: SIGCHLD means somebody is to be reaped, every other goes to the program.
fn pass_on_and_reap(program: Pid, all: &SigSet) -> i32 {
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {
                if let Some(status) = reap(program) {
                    return status;
                }
            }
            // Those of the terminal that would stop us, or come from our own faults, stay here.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGTSTP) => {}
            Ok(signal) => nix::sys::signal::kill(program, signal).unwrap_or_default(),
        }
    }
}

/// Reaps all that have ended. The program's own status, if it was among them.
fn reap(program: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => return Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => return Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return None,
            Err(nix::errno::Errno::ECHILD) => return Some(255), // cannot be: the program was our child
            Ok(_) | Err(_) => continue,
        }
    }
}
