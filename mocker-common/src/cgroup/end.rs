//! A group's end: every process in it, however fast it forks, and every directory, whoever made it.
//!
//! cgroups-rs is not used here: its `delete` gives up at the first process, and what it makes by halves stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cgroup::calls::{RemoveGroup, WriteFile};
use crate::cgroup::freeze::{freeze_within, is_frozen, thaw, thaw_v1};
use crate::cgroup::place::Group;
use crate::error::Error;
use crate::step::step;

/// Kills everything in the group and below until nothing is left, however fast it forks.
pub fn end_processes(group: &Group) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let unified = group.unified().filter(|unified| unified.join("cgroup.kill").exists());
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while !processes(group).is_empty() {
        match &unified {
            // Else what is left has been moved out of the unified tree alone.
            Some(unified) if is_populated(unified) => {
                step(WriteFile { path: &unified.join("cgroup.kill"), value: "1" }).because(
                    "one write kills all at once and what they fork meanwhile; signals one by one lose that race",
                )?;
                thaw_v1(group)?; // a process that v1 has frozen dies only when it is thawed
            }
            _ => kill_one_by_one(group)?,
        }
        let left = processes(group);
        if !left.is_empty() && start.elapsed() > PATIENCE {
            let pids: Vec<String> = left.iter().map(ToString::to_string).collect();
            return Err(Error::new(format!(
                "cannot empty cgroup {}: {} will not die",
                group.path.display(),
                pids.join(", ")
            ))
            .likely("it waits inside the kernel for a device or a file server")
            .hint(format!("cat /proc/{}/stack; mocker-cgroup delete again when it has gone", pids[0])));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    thaw_v1(group) // an empty group left frozen would freeze whatever entered it
}

/// Whether anybody lives in a group of v2 or below it.
fn is_populated(unified: &Path) -> bool {
    fs::read_to_string(unified.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// v1 has no cgroup.kill: freeze, so that nothing forks or ends meanwhile (and no number is reused), kill, thaw, so that
/// the signal is taken.
fn kill_one_by_one(group: &Group) -> Result<(), Error> {
    signal_all(group, Signal::SIGKILL as i32)
}

/// Sends a signal to every process in the group and below. They stand meanwhile, so that none is forked past it; a group
/// that was frozen before stays so, but for SIGKILL, which a frozen process of v1 would not take.
pub fn signal_all(group: &Group, signal: i32) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let stood = is_frozen(group);
    if !stood {
        freeze_within(group, PATIENCE).unwrap_or(false); // without a freezer or its permission: as well as it goes
    }
    for pid in processes(group) {
        // SAFETY: kill takes any numbers; these are never 0 nor negative.
        unsafe { libc::kill(pid, signal) }; // gone already is as good
    }
    match (signal, stood) {
        (libc::SIGKILL, _) => {
            if is_frozen(group) {
                thaw(group)?;
            }
            thaw_v1(group)
        }
        (_, true) => Ok(()),
        (_, false) => thaw(group).or(Ok(())), // without a freezer nobody stands
    }
}

/// The processes in the group and below it, in any hierarchy. Never 0, which stands for a process of another pid namespace
/// and which kill would take for our own process group.
pub fn processes(group: &Group) -> Vec<i32> {
    let mut pids: Vec<i32> = group.directories().iter().flat_map(|directory| processes_below(directory)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let own = list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0);
    own.chain(groups_below(directory).iter().flat_map(|group| processes_below(group))).collect()
}

/// The groups right below a directory.
pub fn groups_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes a group and those that the container made below it, innermost first.
fn remove_tree(directory: &Path) -> Result<(), Error> {
    for below in groups_below(directory) {
        remove_tree(&below)?;
    }
    step(RemoveGroup { path: directory })
        .because("an empty group still costs the kernel memory, and its name would be in the way of the next")
}

/// Removes the group's directories, with what the container made below them. Nothing may live there any more.
pub fn remove(group: &Group) -> Result<(), Error> {
    group.directories().iter().try_for_each(|directory| remove_tree(directory))
}

/// Removes the group whatever lives in it. Succeeds if there is none. Groups above it stay, as in other runtimes.
pub fn delete(group: &Group) -> Result<(), Error> {
    // Nearly always the container has ended and made no groups: ten rmdir, and nothing is read.
    let busy = |path: &PathBuf| rustix::fs::rmdir(path).is_err_and(|errno| errno != rustix::io::Errno::NOENT);
    let left: Vec<PathBuf> = group.places().filter(busy).collect();
    if left.is_empty() {
        return Ok(());
    }
    end_processes(group)?;
    left.iter().filter(|path| path.is_dir()).try_for_each(|directory| remove_tree(directory))
}
