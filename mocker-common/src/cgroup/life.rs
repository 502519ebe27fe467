//! A group's life: made empty, frozen and thawed, and its end, whatever lives in it.
//!
//! cgroups-rs is not used here: its `delete` gives up at the first process, and what it makes by halves stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::calls::{MakeGroup, Mark, RemoveGroup, WriteFile};
use crate::cgroup::hierarchy::{Group, Hierarchy};
use crate::cgroup::limits::Setting;
use crate::error::Error;
use crate::step::step;

/// Controllers that v2 hands down even without a limit, since `stat` reads them.
const COUNTED: [&str; 3] = ["cpu", "memory", "pids"];

/// Makes the group in every hierarchy, empty and without limits. `mark`: groups above that had to be made are marked as
/// ours, so that the last one to leave may remove them.
pub fn make(group: &Group, settings: &[Setting], mark: bool) -> Result<(), Error> {
    group.hierarchies.all.iter().try_for_each(|hierarchy| create_in(group, hierarchy, settings, mark))
}

fn create_in(group: &Group, hierarchy: &Hierarchy, settings: &[Setting], mark: bool) -> Result<(), Error> {
    const ATTEMPTS: u32 = 10;
    let mut attempt = 0;
    loop {
        let made = ensure_parents(group, hierarchy, settings, mark).and_then(|()| {
            step(MakeGroup { path: &group.directory(hierarchy) })
                .because("limits and counts hold for a group: the container needs one that nobody else is in")
        });
        match made {
            // The last container of this parent has just left and taken it along.
            Err(error) if error.errno == libc::ENOENT && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    let is_v1_cpuset = !hierarchy.unified && hierarchy.controllers.iter().any(|controller| controller == "cpuset");
    if is_v1_cpuset { inherit_cpuset(group, hierarchy) } else { Ok(()) }
}

/// Makes the groups above, and lets v2 hand the controllers down to where they are needed.
fn ensure_parents(group: &Group, hierarchy: &Hierarchy, settings: &[Setting], mark: bool) -> Result<(), Error> {
    hand_down(&hierarchy.mount, hierarchy, settings)?;
    for parent in group.parents(hierarchy) {
        let made = step(MakeGroup { path: &parent })
            .because("all containers' groups stand below one, so that they are found, and can be limited together");
        match made {
            Err(error) if error.errno == libc::EEXIST => {}
            Err(error) => return Err(error),
            Ok(()) if !mark => {}
            Ok(()) => step(Mark { path: &parent })
                .because("the last container to leave removes this group; one that somebody else has made must stay")?,
        }
        hand_down(&parent, hierarchy, settings)?;
    }
    Ok(())
}

/// v2: enables controllers for the groups below. Each by itself, since one that is refused would take the others along.
fn hand_down(directory: &Path, hierarchy: &Hierarchy, settings: &[Setting]) -> Result<(), Error> {
    if !hierarchy.unified {
        return Ok(());
    }
    let path = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).unwrap_or_default();
    for controller in &hierarchy.controllers {
        let needed = settings.iter().any(|setting| setting.controller == controller);
        let counted = COUNTED.contains(&controller.as_str());
        if !(needed || counted) || enabled.split_ascii_whitespace().any(|enabled| enabled == controller) {
            continue;
        }
        let outcome = step(WriteFile { path: &path, value: &format!("+{controller}") })
            .because("on v2 a group has only the controllers that the one above hands down to it");
        if needed {
            outcome?;
        }
    }
    Ok(())
}

/// v1: fills the empty cpuset of each new group from the one above, outermost first.
fn inherit_cpuset(group: &Group, hierarchy: &Hierarchy) -> Result<(), Error> {
    let mut above = hierarchy.mount.clone();
    for directory in group.parents(hierarchy).into_iter().chain([group.directory(hierarchy)]) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read =
                |directory: &Path| fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_string();
            if read(&directory).is_empty() {
                step(WriteFile { path: &directory.join(file), value: &read(&above) })
                    .because("a new v1 cpuset has no cpu and no memory: to enter it would be ENOSPC")?;
            }
        }
        above = directory;
    }
    Ok(())
}

/// Kills everything in the group and below until nothing is left, however fast it forks.
pub fn end_processes(group: &Group) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(10);
    // Hundreds need a while to end, and freezing them meanwhile only holds them up. What is still there then is a process
    // that somebody has moved out of the unified hierarchy alone.
    const ONE_BY_ONE_AFTER: Duration = Duration::from_secs(2);
    let kill_file = group.unified().map(|unified| unified.join("cgroup.kill")).filter(|file| file.exists());
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while !processes(group).is_empty() {
        match &kill_file {
            Some(file) if start.elapsed() < ONE_BY_ONE_AFTER => {
                step(WriteFile { path: file, value: "1" }).because(
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

/// v1 has no cgroup.kill: freeze, so that nothing forks or ends meanwhile (and no number is reused), kill, thaw, so that
/// the signal is taken.
fn kill_one_by_one(group: &Group) -> Result<(), Error> {
    let freezer = group.of("freezer").map(|directory| directory.join("freezer.state")).filter(|file| file.exists());
    if let Some(file) = &freezer {
        step(WriteFile { path: file, value: "FROZEN" })
            .because("what runs may fork faster than a list of processes is read; frozen, the list stays true")?;
        wait_for(Duration::from_millis(100), || fs::read_to_string(file).is_ok_and(|state| state.trim() == "FROZEN"));
    }
    for pid in processes(group) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default(); // gone already is as good; others come up again
    }
    thaw_v1(group)
}

fn thaw_v1(group: &Group) -> Result<(), Error> {
    let freezer = group.of("freezer").map(|directory| directory.join("freezer.state"));
    match freezer.filter(|file| fs::read_to_string(file).is_ok_and(|state| state.trim() != "THAWED")) {
        Some(file) => step(WriteFile { path: &file, value: "THAWED" })
            .because("a frozen process takes no signal, not even SIGKILL: it dies when it is thawed"),
        None => Ok(()),
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

fn groups_below(directory: &Path) -> Vec<PathBuf> {
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

/// Stops every process of a group, and waits until all stand.
pub fn freeze(group: &Group) -> Result<(), Error> {
    set_frozen(group, true)?;
    const PATIENCE: Duration = Duration::from_secs(5);
    match wait_for(PATIENCE, || is_frozen(group)) {
        true => Ok(()),
        false => {
            set_frozen(group, false)?; // half frozen helps nobody
            Err(Error::new(format!("cannot freeze {}: a process does not come to a stop", group.path.display()))
                .likely("it waits inside the kernel for a device or a file server"))
        }
    }
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
