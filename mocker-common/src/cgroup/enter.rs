//! Into the group: a process is put into every hierarchy, before it can fork.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, failed};
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis, step};

/// The cgroup.procs files of a group, one a hierarchy, open for writing.
pub struct Entrance(Vec<(File, PathBuf)>);

impl Entrance {
    /// Opens them all. Before the container is made: a group that is not there must stop the start.
    pub fn open(directories: impl Iterator<Item = PathBuf>) -> Result<Self, Error> {
        let open = |directory: PathBuf| {
            let path = directory.join("cgroup.procs");
            let file = File::options().write(true).open(&path).map_err(failed("open", path.display()));
            let file = file.map_err(|error| {
                error
                    .why("the limits in the document hold only for processes in this group")
                    .hint("ls the directory   (has the group been deleted meanwhile?)")
            })?;
            Ok((file, path))
        };
        directories.map(open).collect::<Result<_, _>>().map(Entrance)
    }

    /// Puts a process into the group of every hierarchy, back to back: the kernel waits for a grace period once, not
    /// once each. From outside, while the process waits before its first program.
    pub fn enter(&self, pid: i32) -> Result<(), Error> {
        self.0.iter().try_for_each(|(file, path)| {
            step(Enter { file, path, pid })
                .because("limits hold for a group; outside it the process would run without any")
        })
    }
}

/// write of a process's number into cgroup.procs: the process moves, with all its threads.
struct Enter<'a> {
    file: &'a File,
    path: &'a Path,
    pid: i32,
}

impl fmt::Display for Enter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write(open(\"{}\", O_WRONLY), \"{}\")", self.path.display(), self.pid)
    }
}

impl Explained for Enter<'_> {
    fn aim(&self) -> String {
        format!("put process {} into the group by {}", self.pid, self.path.display())
    }
    fn source(&self) -> &'static str {
        "cgroups(7)"
    }
    fn by_hand(&self) -> String {
        format!("echo {} > {}", self.pid, self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOSPC => {
                diagnosis("the group's cpuset.cpus or cpuset.mems is empty", "copy them from the parent first")
            }
            libc::EBUSY => diagnosis(
                "a v2 group that hands controllers down takes no processes itself",
                "cat cgroup.subtree_control beside it",
            ),
            libc::EINVAL => diagnosis("a realtime process needs cpu.rt_runtime_us in its group", "linux.resources.cpu"),
            libc::EOPNOTSUPP => diagnosis("the group is threaded or invalid", "cat cgroup.type beside it"),
            libc::EACCES | libc::EPERM => {
                diagnosis("the group, or the one above both groups, is somebody else's", "cgroups(7), Delegation")
            }
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for Enter<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let mut file = self.file;
        Ok(file.write_all(self.pid.to_string().as_bytes())?)
    }
}
