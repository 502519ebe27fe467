//! Into the group: a container's first process, or one more, enters the container's groups before it can fork.
//!
//! Whoever writes the number of another process to a cgroup.procs takes a lock that every fork and exit of the machine goes
//! through, and after a quiet moment that costs 6 to 15 ms. Two ways need no lock: on v2 a process is born in its group, on v1
//! it moves itself, a single thread, by writing 0 to `tasks` (0.4 ms for nine hierarchies). Where neither can be had, the number is written
//! from outside. Source: cgroups(7); clone(2), CLONE_INTO_CGROUP; kernel/cgroup/cgroup.c, cgroup_procs_write_start.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::sched::CloneFlags;

use crate::calls::files::WriteTo;
use crate::calls::process::{Clone3, Cloned};
use crate::plan::{Cgroup, Plan};

/// The container's group in each hierarchy, open.
pub struct Groups {
    /// of v1, `tasks`: for the process itself
    own: Vec<(File, String)>,
    /// of v2: the directory to be born in, and its `cgroup.procs`
    unified: Vec<(File, String)>,
    birthplace: Option<File>,
    /// for a container whose own group takes no processes
    beside: Option<Beside>,
}

/// Where the first process is by now. A container that runs an init system of its own has moved it down, and handed
/// controllers down: on v2 such a group takes no processes any more.
struct Beside {
    init: i32,
    path: PathBuf,
    unified: PathBuf,
}

const PROCS: &str = "cgroup.procs";
const ENTER: &str = "limits hold for a group; outside it the process would run without any";

/// Opens them all. Before the container is made: a group that is not there must stop the start.
pub fn open(plan: &Plan) -> Result<Groups, Error> {
    open_all(&plan.cgroup, plan.cgroup.directories.iter().cloned())
}

fn open_all(cgroup: &Cgroup, directories: impl Iterator<Item = PathBuf>) -> Result<Groups, Error> {
    let mut groups = Groups { own: Vec::new(), unified: Vec::new(), birthplace: None, beside: None };
    for directory in directories {
        match cgroup.unified.as_ref().is_some_and(|unified| directory.starts_with(unified)) {
            false => groups.own.push(open_one(&directory, "tasks")?),
            true => {
                groups.unified.push(open_one(&directory, PROCS)?);
                groups.birthplace = Some(File::open(&directory).map_err(failed("open", directory.display()))?);
            }
        }
    }
    Ok(groups)
}

fn open_one(directory: &Path, file: &str) -> Result<(File, String), Error> {
    let path = directory.join(file);
    let file = File::options().write(true).open(&path).map_err(failed("open", path.display())).map_err(|error| {
        error
            .why("the limits in the document hold only for processes in this group")
            .hint("mocker-cgroup ls   (has it been deleted meanwhile?)")
    })?;
    Ok((file, path.display().to_string()))
}

/// The same for one more process of a container. `below`: groups that the container has made below its own, as
/// `GROUP` or `CONTROLLER,…:GROUP`; without, those of the container itself.
pub fn open_for_exec(plan: &Plan, init: i32, below: &[String]) -> Result<Groups, Error> {
    if below.is_empty() {
        return Ok(Groups { beside: Beside::of(&plan.cgroup, init), ..open(plan)? });
    }
    let below = parse_below(below)?;
    let Some(group) = &plan.cgroup.group else {
        return Err(Error::new("cannot use --cgroup: the container's groups are not this runtime's"));
    };
    let chosen = |controllers: &[String]| {
        let is_chosen = |name: &String| name.is_empty() || controllers.contains(name);
        below.iter().find(|(name, _)| is_chosen(name)).map(|(_, path)| path.as_path()).unwrap_or(Path::new(""))
    };
    let directory = |hierarchy| group.directory(hierarchy);
    let all = group.hierarchies.all.iter();
    open_all(&plan.cgroup, all.map(|one| directory(one).join(chosen(&one.controllers))))
}

/// Pairs of controller and group; an empty controller stands for all.
fn parse_below(words: &[String]) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    for word in words {
        let bad = |why: &str| Error::new(format!("invalid --cgroup argument: {word}{why}"));
        let (controllers, path) = match word.split_once(':') {
            None if words.len() > 1 => return Err(bad(" (missing <controller>: prefix)")),
            None => ("", word.as_str()),
            Some((_, path)) if path.contains(':') => return Err(bad("")),
            Some(pair) => pair,
        };
        let path = Path::new(path.trim_start_matches('/'));
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(bad(" (it would lead out of the container's group)"));
        }
        for controller in controllers.split(',') {
            if all.iter().any(|(known, _)| known == controller) {
                return Err(bad(&format!(": controller {controller} specified multiple times")));
            }
            all.push((controller.into(), path.into()));
        }
    }
    Ok(all)
}

impl Beside {
    fn of(cgroup: &Cgroup, init: i32) -> Option<Beside> {
        Some(Beside { init, path: cgroup.path.clone(), unified: cgroup.unified.clone()? })
    }

    /// Its group's directory in the unified tree.
    fn directory(&self) -> Option<PathBuf> {
        let lines = fs::read_to_string(format!("/proc/{}/cgroup", self.init)).ok()?;
        let own = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
        let (_, below) = own.split_once(self.path.to_str()?)?;
        Some(self.unified.join(below.strip_prefix('/')?))
    }
}

impl Groups {
    /// Makes a process: on v2 it is born in its group, so there is no moment in which it is outside.
    pub fn clone(&mut self, namespaces: CloneFlags, why: &'static str) -> Result<Cloned, Error> {
        if let Some(group) = &self.birthplace {
            // Refused (an older kernel, a group that takes no processes): then it enters later, and what is wrong is told then.
            if let Ok(made) = step(Clone3 { namespaces, group: Some(group.as_fd()) }).because(why) {
                self.unified.clear();
                return Ok(made);
            }
        }
        step(Clone3 { namespaces, group: None }).because(why)
    }

    /// Inside, as the first thing: enters the groups of v1.
    pub fn enter_own(&self) -> Result<(), Error> {
        let mut own = self.own.iter();
        own.try_for_each(|(file, shown)| step(WriteTo { file: file.as_fd(), shown, text: "0" }).because(ENTER))
    }

    /// Outside: puts a process that was not born there into the group of v2, while it waits before its first program.
    pub fn enter(&self, pid: i32) -> Result<(), Error> {
        let text = pid.to_string();
        for (file, shown) in &self.unified {
            step(WriteTo { file: file.as_fd(), shown, text: &text }).because(ENTER).or_else(|error| {
                let busy = self.beside.as_ref().filter(|_| error.errno == libc::EBUSY);
                let Some(directory) = busy.and_then(Beside::directory) else { return Err(error) };
                let (file, shown) = open_one(&directory, PROCS)?;
                step(WriteTo { file: file.as_fd(), shown: &shown, text: &text }).because(ENTER)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_below_are_named_for_all_or_by_controller() {
        let parse = |words: &[&str]| parse_below(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(parse(&["/a/b"]).unwrap(), [(String::new(), "a/b".into())]);
        let expected =
            [("cpu".to_string(), "a".into()), ("memory".to_string(), "a".into()), ("pids".to_string(), "b".into())];
        assert_eq!(parse(&["cpu,memory:a", "pids:/b"]).unwrap(), expected);
        for (bad, says) in [
            (&["a", "b"][..], "missing <controller>: prefix"),
            (&["cpu:a", "cpu:b"], "specified multiple times"),
            (&["cpu:a:b"], "invalid --cgroup argument: cpu:a:b"),
            (&["../x"], "lead out"),
        ] {
            assert!(parse(bad).unwrap_err().what.contains(says), "{bad:?}");
        }
    }
}
