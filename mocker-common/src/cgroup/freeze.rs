//! A group stands still: all its processes stop between two instructions, and go on when it is thawed.
//!
//! Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; cgroup-v2.rst, cgroup.freeze.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::calls::WriteFile;
use crate::cgroup::end::groups_below;
use crate::cgroup::place::Group;
use crate::error::Error;
use crate::step::step;

/// Stops every process of a group, and waits until all stand.
pub fn freeze(group: &Group) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(5);
    match freeze_within(group, PATIENCE)? {
        true => Ok(()),
        false => Err(Error::new(format!("cannot freeze {}: a process does not come to a stop", group.path.display()))
            .likely("it waits inside the kernel for a device or a file server")),
    }
}

/// The same for a while: if not all stand by then, they run on, and the answer is false.
pub fn freeze_within(group: &Group, patience: Duration) -> Result<bool, Error> {
    // v1 can miss a process that is being forked just then, and stays half frozen: another write takes it along, and now
    // and then all must move on a little, since one may wait for another that stands already.
    const AGAIN_AFTER: Duration = Duration::from_millis(10);
    const LOOSEN_EVERY: u32 = 8;
    let start = Instant::now();
    for attempt in 1.. {
        set_frozen(group, true)?;
        if wait_for(AGAIN_AFTER.min(patience), || is_frozen(group)) {
            return Ok(true);
        }
        if start.elapsed() >= patience {
            break;
        }
        if attempt % LOOSEN_EVERY == 0 {
            set_frozen(group, false)?;
        }
    }
    set_frozen(group, false)?; // half frozen helps nobody
    Ok(false)
}

/// Lets every process of a group run on.
pub fn thaw(group: &Group) -> Result<(), Error> {
    set_frozen(group, false)
}

fn set_frozen(group: &Group, frozen: bool) -> Result<(), Error> {
    let Some((path, words)) = freezer_file(group) else {
        return Err(
            Error::new("cannot freeze: this machine has no freezer").hint("Linux 5.2 has it in v2; cat /proc/cgroups")
        );
    };
    let write = step(WriteFile { path: &path, value: words[usize::from(frozen)] });
    match frozen {
        true => {
            write.because("all stop between two instructions; unlike SIGSTOP nobody notices, and nobody can refuse")
        }
        false => write.because("they go on where they stood"),
    }
}

/// v1: lets a group run on that stands or is about to, and the groups below it, which the container may have frozen itself.
pub fn thaw_v1(group: &Group) -> Result<(), Error> {
    group.of("freezer").map_or(Ok(()), |directory| thaw_tree(&directory))
}

fn thaw_tree(directory: &Path) -> Result<(), Error> {
    let file = directory.join("freezer.state");
    if fs::read_to_string(&file).is_ok_and(|state| state.trim() != "THAWED") {
        step(WriteFile { path: &file, value: "THAWED" })
            .because("a frozen process takes no signal, not even SIGKILL: it dies when it is thawed")?;
    }
    groups_below(directory).iter().try_for_each(|below| thaw_tree(below))
}

/// The file that freezes, and its words for thawed and frozen. On hybrid v1's, since a process is sure to be in there.
fn freezer_file(group: &Group) -> Option<(PathBuf, [&'static str; 2])> {
    let v1 = group.of("freezer").map(|directory| (directory.join("freezer.state"), ["THAWED", "FROZEN"]));
    let v2 = group.unified().map(|directory| (directory.join("cgroup.freeze"), ["0", "1"]));
    v1.into_iter().chain(v2).find(|(path, _)| path.exists())
}

/// Whether all processes stand. v2 says it in cgroup.events: cgroup.freeze only says what was asked for.
pub fn is_frozen(group: &Group) -> bool {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let v1 = group.of("freezer").is_some_and(|directory| read(directory.join("freezer.state")).trim() == "FROZEN");
    let v2 = || group.unified().is_some_and(|directory| read(directory.join("cgroup.events")).contains("frozen 1"));
    v1 || v2()
}

fn wait_for(patience: Duration, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    while !done() {
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    true
}
