//! Notice of a group that has run out of memory: an eventfd of v1, a watched file of v2.
//!
//! Source: Documentation/admin-guide/cgroup-v1/memory.rst, OOM control; cgroup-v2.rst, memory.events.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::EventfdFlags;
use rustix::fs::inotify;

use crate::cgroup::calls::WriteFile;
use crate::cgroup::place::Group;
use crate::error::{Error, failed};
use crate::step::step;

/// What becomes readable when the group runs out of memory, or when it is removed.
pub struct Watch {
    descriptor: OwnedFd,
    /// v1: gone when the group is; v2: where kills are counted
    file: PathBuf,
    /// kills counted by v2 so far
    killed: Option<u64>,
    _control: Option<File>,
}

/// What has been noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notice {
    OutOfMemory,
    /// something else was written to the same file
    Nothing,
    Gone,
}

impl Watch {
    /// Begins to watch. None where the group has no memory controller.
    pub fn begin(group: &Group) -> Result<Option<Watch>, Error> {
        let Some(directory) = group.of("memory") else { return Ok(None) };
        match group.hierarchies.of("memory").is_some_and(|hierarchy| hierarchy.unified) {
            true => watch_v2(directory.join("memory.events")).map(Some),
            false => watch_v1(directory).map(Some),
        }
    }

    /// Reads what has become readable.
    pub fn notice(&mut self) -> Notice {
        let mut buffer = [0u8; 4096];
        let read = rustix::io::read(&self.descriptor, &mut buffer).is_ok();
        if !self.file.exists() {
            return Notice::Gone;
        }
        let Some(before) = self.killed else {
            return if read { Notice::OutOfMemory } else { Notice::Nothing };
        };
        let now = kills(&self.file);
        self.killed = Some(now);
        if now > before { Notice::OutOfMemory } else { Notice::Nothing }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn watch_v1(directory: PathBuf) -> Result<Watch, Error> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let descriptor = rustix::event::eventfd(0, flags).map_err(|errno| failed("make", "an eventfd")(errno.into()))?;
    let path = directory.join("memory.oom_control");
    let control = File::open(&path).map_err(failed("open", path.display()))?;
    let file = directory.join("cgroup.event_control");
    let line = format!("{} {}", descriptor.as_raw_fd(), control.as_raw_fd());
    step(WriteFile { path: &file, value: &line })
        .because("the kernel counts up the eventfd whenever the group runs out of memory; nobody has to ask")?;
    Ok(Watch { descriptor, file, killed: None, _control: Some(control) })
}

fn watch_v2(file: PathBuf) -> Result<Watch, Error> {
    let refused = |errno: rustix::io::Errno| failed("watch", file.display())(errno.into());
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let descriptor = inotify::init(flags).map_err(refused)?;
    inotify::add_watch(&descriptor, &file, inotify::WatchFlags::MODIFY).map_err(refused)?;
    let killed = Some(kills(&file));
    Ok(Watch { descriptor, file, killed, _control: None })
}

fn kills(file: &std::path::Path) -> u64 {
    kills_in(&fs::read_to_string(file).unwrap_or_default())
}

fn kills_in(events: &str) -> u64 {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_and_not_other_events() {
        assert_eq!(kills_in("low 1\noom 5\noom_kill 2\noom_group_kill 9\n"), 2);
        assert_eq!(kills_in(""), 0);
    }
}
