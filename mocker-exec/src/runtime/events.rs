//! `events`: what a container uses, now and then, and when it runs out of memory: a line of JSON each, in runc's shape.
//!
//! Nothing asks the kernel in between: the watch on memory and the group's own file of events wake us.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mocker_common::cgroup::end::processes;
use mocker_common::cgroup::oom::{Notice, Watch};
use mocker_common::cgroup::place::Group;
use mocker_common::cgroup::stats::stats;
use mocker_common::error::{Error, failed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::runtime::record::{Record, Status};
use crate::runtime::{Runtime, groups};

/// The command: refuses a container that has ended.
pub fn events(runtime: &Runtime, id: &str, interval: &str, once: bool) -> Result<(), Error> {
    let interval = parse_interval(interval)?;
    let record = Record::find(&runtime.root, id)?;
    if record.status() == Status::Stopped {
        return Err(Error::new(format!("container with id {id} is not running")));
    }
    run(&groups::find(&record.cgroup)?, id, interval, once)
}

/// Prints events until the container has ended; `once`: what it uses now, and no more.
pub fn run(group: &Group, id: &str, interval: Duration, once: bool) -> Result<(), Error> {
    let used = || json!({ "type": "stats", "id": id, "data": stats(group) });
    if once {
        return print(&used()).map(drop);
    }
    let mut memory = Watch::begin(group)?;
    let life = Life::of(group);
    let mut next = Instant::now() + interval;
    while !life.has_ended(group) {
        wait(memory.as_ref(), life.events.as_ref(), next)?;
        match memory.as_mut().map_or(Notice::Nothing, Watch::notice) {
            Notice::Gone => return Ok(()),
            Notice::OutOfMemory if !print(&json!({ "type": "oom", "id": id }))? => return Ok(()),
            _ => {}
        }
        if Instant::now() >= next {
            next += interval;
            if life.has_ended(group) || !print(&used())? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Sleeps until something is told or the time has come.
fn wait(memory: Option<&Watch>, events: Option<&File>, until: Instant) -> Result<(), Error> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    let memory = memory.map(|watch| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN));
    let events = events.map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI));
    let mut all: Vec<PollFd<'_>> = memory.into_iter().chain(events).collect();
    match poll(&mut all, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(failed("wait for", "events of the container")(errno.into())),
    }
}

/// How the end is seen: the unified tree tells it in cgroup.events, v1 has to be asked.
struct Life {
    events: Option<File>,
}

impl Life {
    fn of(group: &Group) -> Life {
        Life { events: group.unified().and_then(|unified| File::open(unified.join("cgroup.events")).ok()) }
    }

    /// Whether nobody lives in the group any more.
    fn has_ended(&self, group: &Group) -> bool {
        match &self.events {
            // Reading it is also what makes the next change wake us.
            Some(file) => read_from_start(file).is_none_or(|text| text.contains("populated 0")),
            None => processes(group).is_empty(),
        }
    }
}

/// None: the group is gone.
fn read_from_start(file: &File) -> Option<String> {
    let mut buffer = [0u8; 256];
    let length = rustix::io::pread(file, &mut buffer, 0).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// False: nobody reads any more.
fn print(event: &Value) -> Result<bool, Error> {
    match std::io::stdout().lock().write_all(format!("{event}\n").as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(failed("write", "the event")(error)),
    }
}

/// `5s`, `100ms`, `1m30s`, as Go writes time.
fn parse_interval(text: &str) -> Result<Duration, Error> {
    let bad = || Error::new(format!("invalid value \"{text}\" for --interval")).hint("5s, 100ms, 1m30s");
    let mut rest = text;
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(unit_at);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        all += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = tail;
    }
    match all {
        Duration::ZERO => Err(Error::new("duration interval must be greater than 0")),
        all => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, ms) in [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("0.5s", 500), ("2h", 7_200_000)] {
            assert_eq!(parse_interval(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["5", "s", "5 s", "-5s", "5x", "1..2s"] {
            assert!(parse_interval(bad).unwrap_err().what.contains("--interval"), "{bad}");
        }
        for zero in ["", "0s"] {
            assert!(parse_interval(zero).unwrap_err().what.contains("greater than 0"));
        }
    }
}
