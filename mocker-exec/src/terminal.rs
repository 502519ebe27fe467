//! A terminal for the container: a pseudo-terminal made in its own devpts, joined to the user's outside.
//!
//! Source: pty(7), ioctl_tty(2), termios(3).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mocker_common::error::{Error, errno_text, failed};
use mocker_common::step::step;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::calls::process::{Become, ControllingTerminal};
use crate::channel::Channel;
use crate::devices;
use crate::plan::Plan;
use crate::rootfs::Rootfs;

fn refused(what: &str) -> impl FnOnce(rustix::io::Errno) -> Error {
    let what = what.to_string();
    move |errno| Error::new(format!("cannot {what} the container's terminal: {}", errno_text(errno.raw_os_error())))
}

/// Inside, before the root is changed: makes the pair, sends the master out, shows the slave as /dev/console.
pub fn make(plan: &Plan, rootfs: &Rootfs, channel: &Channel) -> Result<OwnedFd, Error> {
    let ptmx = rootfs.ensure_existing("/dev/pts/ptmx").map_err(|error| {
        error
            .why("a terminal is made by the container's own devpts, so that it has a name in there")
            .hint("the document needs a devpts mount on /dev/pts")
    })?;
    let (master, slave) = open_pair(plan, &ptmx.path())?;
    let name = ptsname(&master, Vec::new()).map_err(refused("name"))?;
    let shown = name.to_string_lossy().into_owned();
    devices::bind_console(rootfs, slave.as_fd(), &shown)?;
    channel.terminal(master.as_fd())?;
    Ok(slave)
}

/// Inside a container that is there: makes the pair in its devpts and sends the master out.
pub fn make_for_exec(plan: &Plan, channel: &Channel) -> Result<OwnedFd, Error> {
    let (master, slave) = open_pair(plan, "/dev/pts/ptmx")?;
    channel.terminal(master.as_fd())?;
    Ok(slave)
}

/// Opens a pair and checks that it is one: whoever owns the container's /dev may have put another file there.
fn open_pair(plan: &Plan, ptmx: &str) -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(CWD, ptmx, flags, Mode::empty()).map_err(refused("open"))?;
    let is_ptmx = rustix::fs::fstat(&master).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(5, 2))
        && rustix::fs::fstatfs(&master).is_ok_and(|stat| stat.f_type as u64 == 0x1cd1);
    if !is_ptmx {
        return Err(Error::new("cannot open the container's terminal: /dev/pts/ptmx is not the terminal multiplexer"));
    }
    unlockpt(&master).map_err(refused("unlock"))?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(refused("open the other end of"))?;
    if let Some(size) = plan.process.console_size {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).map_err(refused("size"))?;
    }

    // The slave's user must be able to open it again by name; a mount option or another owner may forbid it.
    let owner = Some(rustix::fs::Uid::from_raw(plan.process.user.uid));
    rustix::fs::fchown(&slave, owner, None).unwrap_or_default();
    Ok((master, slave))
}

/// Inside, in the session of the program: makes the terminal its own and its three standard descriptors.
pub fn adopt(slave: &OwnedFd) -> Result<(), Error> {
    step(ControllingTerminal(slave.as_fd()))
        .because("Ctrl-C and Ctrl-Z become signals only for the session that the terminal controls")?;
    standard_descriptors(slave.as_fd(), "the terminal", 0..3)
}

/// Makes a file the standard descriptors of this range.
pub fn standard_descriptors(file: BorrowedFd<'_>, shown: &str, numbers: std::ops::Range<i32>) -> Result<(), Error> {
    for number in numbers {
        step(Become { source: file, number, shown })
            .because("a program reads 0 and writes 1 and 2; they must be the container's, not the caller's")?;
    }
    Ok(())
}

/// Outside: the user's own terminal, in raw mode while this lives.
pub struct UserTerminal {
    file: File,
    before: Option<Termios>,
}

impl UserTerminal {
    /// The terminal on stdin, or the one that controls this session: in a pipe stdin is the document.
    pub fn open() -> Result<Self, Error> {
        let stdin = std::io::stdin();
        let file = match rustix::termios::isatty(&stdin) {
            true => stdin.as_fd().try_clone_to_owned().map(File::from),
            false => File::options().read(true).write(true).open("/dev/tty"),
        };
        let file = file.map_err(|cause| {
            failed("open your terminal", "/dev/tty")(cause)
                .why("-t joins a terminal of the container to yours")
                .likely("there is none: a script, a cron job, a pipe")
                .hint("leave out -t")
        })?;
        Ok(UserTerminal { file, before: None })
    }

    /// Every key goes in as it is: Ctrl-C is the container's business. Restored when dropped.
    pub fn make_raw(&mut self) -> Result<(), Error> {
        let before = tcgetattr(&self.file).map_err(refused("read the settings of"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&self.file, OptionalActions::Now, &raw).map_err(refused("set"))?;
        self.before = Some(before);
        Ok(())
    }

    /// Gives the container's terminal the size of this one.
    pub fn copy_size_to(&self, master: &OwnedFd) {
        // A size is a courtesy: a terminal without one (a serial line) is no reason to stop.
        if let Ok(size) = tcgetwinsize(&self.file) {
            tcsetwinsize(master, size).unwrap_or_default();
        }
    }
}

impl AsFd for UserTerminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for UserTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            tcsetattr(&self.file, OptionalActions::Drain, before).unwrap_or_default();
        }
    }
}

/// Sets O_NONBLOCK: a container that does not read must not stop us from writing out what it says.
pub fn set_nonblocking(file: &OwnedFd) -> Result<(), Error> {
    let set = || rustix::fs::fcntl_setfl(file, rustix::fs::fcntl_getfl(file)? | OFlags::NONBLOCK);
    set().map_err(refused("set up"))?;
    debug_assert!(file.as_raw_fd() > 2);
    Ok(())
}
