//! `kill`: a signal to a container's first process, or to all of them. Source: signal(7), pidfd_send_signal(2).

use mocker_common::cgroup::{end, freeze};
use mocker_common::error::{Error, errno_text};
use nix::sys::signal::Signal;
use rustix::process::PidfdFlags;

use crate::args::KillArgs;
use crate::runtime::record::{Record, Status};
use crate::runtime::{Runtime, groups, not_running};

/// Sends a signal. `--all`: to every process in the container's groups; a container that has ended has none, which is no failure.
pub fn kill(runtime: &Runtime, args: &KillArgs) -> Result<(), Error> {
    let number = parse(&args.signal)?;
    let record = Record::find(&runtime.root, &args.id)?;
    if args.all {
        return kill_all(&record, number);
    }
    match (record.status(), record.init) {
        (Status::Created | Status::Running | Status::Paused, Some(init)) => {
            send(&record, init.pid, number)?;
            thaw_for_kill(&record, number)
        }
        _ => Err(not_running(&record)),
    }
}

fn send(record: &Record, pid: i32, number: i32) -> Result<(), Error> {
    let refused = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::SRCH => not_running(record),
        _ => Error::new(format!("cannot signal process {pid}: {}", errno_text(errno.raw_os_error()))),
    };
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return Err(not_running(record)) };
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(refused)?;
    if !record.init.is_some_and(|init| init.is_alive()) {
        return Err(not_running(record)); // the number belongs to another process by now
    }
    // SAFETY: a number between 1 and 64; the kernel judges it.
    let signal = unsafe { rustix::process::Signal::from_raw_unchecked(number) };
    rustix::process::pidfd_send_signal(pidfd, signal).map_err(refused)
}

fn kill_all(record: &Record, number: i32) -> Result<(), Error> {
    end::signal_all(&groups::find(&record.cgroup)?, number)
}

/// On v1 a frozen process takes no signal, not even SIGKILL: it dies when it is thawed.
fn thaw_for_kill(record: &Record, number: i32) -> Result<(), Error> {
    match number == libc::SIGKILL && groups::is_frozen(&record.cgroup) {
        true => freeze::thaw(&groups::find(&record.cgroup)?),
        false => Ok(()),
    }
}

/// `TERM`, `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
pub fn parse(text: &str) -> Result<i32, Error> {
    let unknown = || Error::new(format!("unknown signal {text:?}")).hint("kill -l");
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (min, max) = (34, 64); // as glibc numbers them: two below are kept for threads
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest, '+').map(|more| min + more).filter(|number| *number <= max).ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest, '-').map(|less| max - less).filter(|number| *number >= min).ok_or_else(unknown);
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

/// `` is 0, `+3` is 3.
fn offset(text: &str, sign: char) -> Option<i32> {
    match text {
        "" => Some(0),
        _ => text.strip_prefix(sign)?.parse().ok().filter(|number| *number >= 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let cases = [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("kill", 9),
            ("9", 9),
            ("SIGUSR1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
            ("0", 0),
        ];
        for (text, number) in cases {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "NOSUCH", "65", "-1", "SIGRTMIN+99", "RTMAX+1", "SIG"] {
            assert!(parse(bad).unwrap_err().what.contains("unknown signal"), "{bad}");
        }
    }
}
