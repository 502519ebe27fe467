//! `start`: the waiting first process of a created container goes on to its program.
//!
//! Two fifos in the container's directory. The waiting process holds both open in both directions, so that it never sees
//! an end, and a descriptor of it that nobody inherits past execve:
//!
//! - `go`: it reads one byte there. Who opens the fifo for writing learns from the kernel whether anybody waits (ENXIO: no).
//! - `outcome`: it writes there why its program could not be executed. If the program was, its end closes with nothing said.
//!
//! After the filter is loaded this needs read, write and execve alone: what every program needs. Source: fifo(7).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mocker_common::error::{Error, errno_text, failed};
use mocker_common::lock::Lock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};
use rustix::process::PidfdFlags;

use crate::runtime::record::{Record, Status};

const GO: &str = "go";
const OUTCOME: &str = "outcome";

/// The waiting process's side.
pub struct StartLine {
    go: OwnedFd,
    outcome: OwnedFd,
}

impl StartLine {
    /// Makes the fifos. Outside, before the container is made: its first process inherits the descriptors.
    pub fn make(directory: &Path) -> Result<StartLine, Error> {
        let make = |name: &str| -> Result<OwnedFd, Error> {
            let path = directory.join(name);
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .and_then(|()| openat(CWD, &path, flags, Mode::empty()))
                .map_err(|errno| failed("make fifo", path.display())(errno.into()))
        };
        Ok(StartLine { go: make(GO)?, outcome: make(OUTCOME)? })
    }

    /// Inside: waits until somebody says `start`.
    pub fn wait(&self) -> Result<(), Error> {
        let mut byte = [0u8; 1];
        loop {
            match rustix::io::read(&self.go, &mut byte) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    return Err(Error::new(format!("cannot wait for start: {}", errno_text(errno.raw_os_error()))));
                }
            }
        }
    }

    /// Inside: tells why the program does not run. If even that fails there is nobody left to tell.
    pub fn failed(&self, error: &Error) {
        let mut text = serde_json::to_vec(error).unwrap_or_default();
        text.truncate(32 << 10);
        rustix::io::write(&self.outcome, &text).unwrap_or_default();
    }
}

/// Whether the container's first process waits: the fifo has a reader.
pub fn is_waiting(directory: &Path) -> bool {
    open_go(directory).is_ok()
}

fn open_go(directory: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    openat(CWD, directory.join(GO), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Starts a created container. Returns when its program has been executed; fails if it could not be.
pub fn start(record: &Record) -> Result<(), Error> {
    let lock = record.directory.join("lock");
    let _held = Lock::exclusive(&lock)?; // two at once: the second finds it running
    match record.status() {
        Status::Created => {}
        Status::Running => return Err(Error::new("cannot start an already running container")),
        Status::Paused => return Err(Error::new("cannot start a container in the paused state")),
        Status::Stopped => return Err(Error::new("cannot start a container that has stopped")),
        Status::Creating => return Err(Error::new("cannot start a container that is still being created")),
    }
    let path = record.directory.join(OUTCOME);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let outcome =
        openat(CWD, &path, flags, Mode::empty()).map_err(|errno| failed("open", path.display())(errno.into()))?;
    let pid = record.init.and_then(|init| rustix::process::Pid::from_raw(init.pid));
    let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(pidfd) = pidfd else { return Err(Error::new("cannot start a container that has stopped")) };

    let go = open_go(&record.directory).map_err(|errno| failed("start", &record.id)(errno.into()))?;
    rustix::io::write(&go, b"g").map_err(|errno| failed("start", &record.id)(errno.into()))?;
    drop(go);
    wait_for_program(outcome, &pidfd)?;
    // execve closes both fifos, one a moment after the other. Who asks for the state now must not be told `created`.
    while is_waiting(&record.directory) {
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// The fifo hangs up when the last writer closes it, and the only one is the first process: at execve, or at its end.
fn wait_for_program(outcome: OwnedFd, pidfd: &OwnedFd) -> Result<(), Error> {
    let mut ends = [PollFd::new(&outcome, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
    while let Err(errno) = poll(&mut ends, None) {
        if errno != rustix::io::Errno::INTR {
            return Err(Error::new(format!("cannot wait for the program: {}", errno_text(errno.raw_os_error()))));
        }
    }
    let mut text = Vec::new();
    let mut outcome = File::from(outcome);
    // A reader that does not block sees an end only when nobody can write any more: wait for that, the error is one write.
    loop {
        match outcome.read_to_end(&mut text) {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut end = [PollFd::from_borrowed_fd(outcome.as_fd(), PollFlags::IN)];
                poll(&mut end, None).map(drop).unwrap_or_default();
            }
            Err(error) => return Err(failed("read", OUTCOME)(error)),
        }
    }
    match text.is_empty() {
        true => Ok(()),
        false => {
            let error: Error = serde_json::from_slice(&text)
                .map_err(|_| Error::new("cannot start the container: its first process has failed"))?;
            Err(Error { status: 0, ..error })
        }
    }
}
