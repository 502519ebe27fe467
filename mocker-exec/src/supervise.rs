//! Outside, while the container runs: signals go in, the terminal's bytes go both ways, the exit status comes out.
//!
//! One loop, no thread: signals by signalfd, the container's end by pidfd. Source: signalfd(2), pidfd_open(2), poll(2).

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use mocker_common::error::{Error, errno_text};
use mocker_common::step::step;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::calls::process::Prctl;
use crate::terminal::{UserTerminal, set_nonblocking};

/// Signals that are passed on. Stop signals of the terminal are not: they are meant for us, in our process group.
const FORWARDED: [Signal; 12] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGURG,
];

/// Holds the signals back from now on, to be read one by one. Before the container is made: none may be lost.
pub fn catch_signals() -> Result<SignalFd, Error> {
    let refused = |errno: nix::errno::Errno| Error::new(format!("cannot catch signals: {}", errno_text(errno as i32)));
    let signals: SigSet = FORWARDED.into_iter().collect();
    signals.thread_block().map_err(refused)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(refused)
}

/// From now on the death of the parent arrives as SIGTERM.
pub fn end_with_parent() -> Result<(), Error> {
    let parent = rustix::process::getppid();
    step(Prctl { option: libc::PR_SET_PDEATHSIG, name: "PR_SET_PDEATHSIG", value: libc::SIGTERM as u64 })
        .because("a script that is killed takes nothing along; its container would live on with nobody to end it")?;
    if rustix::process::getppid() != parent {
        return Err(Error::new("cannot run the container: the process that asked for it is gone"));
    }
    Ok(())
}

/// Fails, with the status that a shell gives for it, if a signal asked for the end before there is a container.
pub fn stop_if_asked(signals: &SignalFd) -> Result<(), Error> {
    const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = signal.ssi_signo as i32;
        if ENDING.contains(&number) {
            let error = Error::new(format!("interrupted by signal {number} before the container was started"));
            return Err(Error { quiet: number == libc::SIGINT, ..error.status(128 + number as u8) });
        }
    }
    Ok(())
}

/// The container's first process, as seen from outside.
pub struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// The container's terminal and the user's.
pub struct Terminals {
    pub master: OwnedFd,
    pub user: Option<UserTerminal>,
    /// whether keys are passed on
    pub interactive: bool,
}

impl Running {
    /// Waits for the end. Returns the exit status as a shell would: 128+n for signal n.
    pub fn supervise(&self, signals: &SignalFd, mut terminals: Option<Terminals>) -> Result<u8, Error> {
        if let Some(terminals) = &mut terminals {
            terminals.begin()?;
        }
        let mut keys = Vec::new();
        let mut interrupts = 0;
        loop {
            let (master, user) = match &terminals {
                Some(terminals) => (Some(&terminals.master), terminals.input()),
                None => (None, None),
            };
            let mut waiting = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            if let Some(master) = master {
                let out = if keys.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                waiting.push(PollFd::new(master, PollFlags::IN | out));
            }
            if let Some(user) = user.filter(|_| keys.is_empty()) {
                waiting.push(PollFd::new(user, PollFlags::IN));
            }
            match poll(&mut waiting, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    let text = errno_text(errno.raw_os_error());
                    return Err(Error::new(format!("cannot wait for the container: {text}")));
                }
            }
            let ready: Vec<bool> = waiting.iter().map(|one| !one.revents().is_empty()).collect();

            if ready[0] {
                while let Ok(Some(signal)) = signals.read_signal() {
                    let number = signal.ssi_signo as i32;
                    match (&terminals, number) {
                        (Some(terminals), libc::SIGWINCH) => terminals.resize(),
                        _ => {
                            interrupts += u32::from(number == libc::SIGINT || number == libc::SIGTERM);
                            self.pass_on(number, interrupts);
                        }
                    }
                }
            }
            if let Some(terminals) = &mut terminals {
                if ready.get(2) == Some(&true) {
                    terminals.copy_out();
                    terminals.copy_in(&mut keys);
                }
                if ready.get(3) == Some(&true) {
                    terminals.read_keys(&mut keys);
                    terminals.copy_in(&mut keys);
                }
            }
            if ready[1] {
                if let Some(terminals) = &mut terminals {
                    terminals.drain();
                }
                return self.status();
            }
        }
    }

    /// Passes a signal on. The first process of a pid namespace ignores what it has no handler for, so the third
    /// request to end is made with SIGKILL, as docker's client does.
    fn pass_on(&self, number: i32, interrupts: u32) {
        let kills = interrupts >= 3 && (number == libc::SIGINT || number == libc::SIGTERM);
        let number = if kills { libc::SIGKILL } else { number };
        if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
            pidfd_send_signal(&self.pidfd, signal).unwrap_or_default(); // ESRCH: it has ended meanwhile
        }
    }

    pub fn kill(&self) {
        pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).unwrap_or_default();
    }

    /// Reaps it.
    pub fn status(&self) -> Result<u8, Error> {
        let refused = |text: String| Error::new(format!("cannot wait for the container: {text}"));
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(refused(errno_text(errno.raw_os_error()))),
                Ok(None) => return Err(refused("it is gone".into())),
                Ok(Some(status)) => {
                    let of_signal = status.terminating_signal().map(|signal| 128 + signal);
                    return Ok(status.exit_status().or(of_signal).unwrap_or(255) as u8);
                }
            }
        }
    }
}

impl Terminals {
    fn begin(&mut self) -> Result<(), Error> {
        set_nonblocking(&self.master)?;
        self.resize();
        match &mut self.user {
            Some(user) if self.interactive => user.make_raw(),
            _ => Ok(()),
        }
    }

    fn input(&self) -> Option<&UserTerminal> {
        self.user.as_ref().filter(|_| self.interactive)
    }

    fn resize(&self) {
        if let Some(user) = &self.user {
            user.copy_size_to(&self.master);
        }
    }

    /// From the container to stdout. Returns whether there may be more.
    fn copy_out(&mut self) -> bool {
        let mut buffer = [0u8; 16 << 10];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                let mut stdout = std::io::stdout().lock();
                // A reader that has gone does not stop the container; it only hears no more.
                stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).unwrap_or_default();
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(_) => false, // EAGAIN: nothing now. EIO: nobody has the other end open, for now or for good
        }
    }

    fn read_keys(&mut self, keys: &mut Vec<u8>) {
        let mut buffer = [0u8; 4096];
        let Some(user) = self.input() else { return };
        match rustix::io::read(user, &mut buffer) {
            Ok(count) if count > 0 => keys.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => self.interactive = false, // hung up
        }
    }

    fn copy_in(&mut self, keys: &mut Vec<u8>) {
        if let Ok(count) = rustix::io::write(&self.master, keys) {
            keys.drain(..count);
        }
    }

    /// What the program wrote last is still in the terminal after its end.
    fn drain(&mut self) {
        while self.copy_out() {}
    }
}
