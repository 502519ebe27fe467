//! The calls of control groups. A cgroup is a directory, a limit a file in it: mkdir, write, rmdir are the whole API.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, failed};
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// mkdir in a cgroup file system: a new group.
pub struct MakeGroup<'a> {
    pub path: &'a Path,
}

impl fmt::Display for MakeGroup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mkdir(\"{}\", 0755)", self.path.display())
    }
}

impl Explained for MakeGroup<'_> {
    fn aim(&self) -> String {
        format!("make cgroup {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "cgroups(7)"
    }
    fn by_hand(&self) -> String {
        format!("mkdir {}", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EEXIST => diagnosis(
                "a group of this name is there, made by something else",
                "another --id or --parent; mocker-cgroup ls",
            ),
            libc::EACCES | libc::EPERM => diagnosis(
                "groups are made by root, or by the user to whom the parent group was delegated",
                "sudo, or --parent with a group that is yours (cgroups(7), Delegation)",
            ),
            libc::EROFS => {
                diagnosis("the cgroup file system is mounted read-only, as it is in most containers", "run on the host")
            }
            libc::EAGAIN => {
                diagnosis("the parent allows no more groups below it", "cat cgroup.max.descendants cgroup.max.depth")
            }
            libc::ENOSPC => diagnosis("the hierarchy has as many groups as the kernel can number", "cat /proc/cgroups"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for MakeGroup<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // Said, and not left to a caller's umask of 0: whoever can write there can set the limits.
        Ok(fs::DirBuilder::new().mode(0o755).create(self.path)?)
    }
}

/// The name of the attribute that marks a parent group as made by us, so that the last one out may remove it.
pub const MARK: &str = "user.mocker";

/// setxattr on a group: a note that lives and dies with it.
pub struct Mark<'a> {
    pub path: &'a Path,
}

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setxattr(\"{}\", \"{MARK}\", \"1\", 1, 0)", self.path.display())
    }
}

impl Explained for Mark<'_> {
    fn aim(&self) -> String {
        format!("mark cgroup {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "setxattr(2)"
    }
    fn by_hand(&self) -> String {
        format!("setfattr -n {MARK} -v 1 {}", self.path.display())
    }
}

impl KernelCall for Mark<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::fs::setxattr(self.path, MARK, b"1", rustix::fs::XattrFlags::empty())?)
    }
}

/// One line into one file of a group.
pub struct WriteFile<'a> {
    pub path: &'a Path,
    pub value: &'a str,
}

impl fmt::Display for WriteFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write(open(\"{}\", O_WRONLY), \"{}\")", self.path.display(), self.value)
    }
}

impl WriteFile<'_> {
    fn file(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or("")
    }
}

impl Explained for WriteFile<'_> {
    fn aim(&self) -> String {
        format!("set {} to {}", self.path.display(), self.value)
    }
    fn source(&self) -> &'static str {
        match self.file() {
            file if file.starts_with("memory.") && file.ends_with("_in_bytes") => "cgroup-v1/memory.rst",
            file if file.starts_with("cpu.cfs") => "scheduler/sched-bwc.rst",
            file if file.starts_with("cpuset.") => "cpuset(7)",
            file if file.starts_with("pids.") => "cgroup-v1/pids.rst",
            file if file.starts_with("devices.") => "cgroup-v1/devices.rst",
            file if file.starts_with("freezer.") => "cgroup-v1/freezer-subsystem.rst",
            _ => "cgroup-v2.rst",
        }
    }
    fn by_hand(&self) -> String {
        format!("echo '{}' > {}", self.value, self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match (errno, self.file()) {
            (libc::EBUSY, "cgroup.subtree_control") => diagnosis(
                "processes sit in this group itself, and a v2 group with processes cannot hand controllers down",
                "--parent with a group that only holds groups (cgroups(7), no internal processes)",
            ),
            (libc::ENOENT, "cgroup.subtree_control") => {
                diagnosis("the group above does not hand this controller down", "cat cgroup.controllers beside it")
            }
            (libc::EBUSY, file) if file.starts_with("memory.") => diagnosis(
                "more memory is in use than the limit allows, and it cannot be reclaimed",
                "cat memory.usage_in_bytes beside it",
            ),
            (libc::EINVAL, file) if file.starts_with("memory.memsw") => diagnosis(
                "memory and swap together must be at least the memory limit",
                "memory.swap in the document, --memory-swap",
            ),
            (libc::EINVAL, file) if file.starts_with("cpu.cfs") || file.starts_with("cpu.max") => diagnosis(
                "the group above allows less, or the value is outside 1 ms to 1 s",
                "cat cpu.cfs_quota_us or cpu.max of the parent; a smaller --cpus",
            ),
            (libc::EINVAL | libc::ERANGE, file) if file.starts_with("cpuset.") => diagnosis(
                "a cpu or node that this machine, or the group above, does not have",
                "cat cpuset.cpus cpuset.mems of the parent",
            ),
            (libc::EACCES, file) if file.starts_with("cpuset.") => diagnosis(
                "a cpu or node that the group above does not have",
                "cat cpuset.cpus cpuset.mems of the parent",
            ),
            (libc::ENOSPC, "cgroup.procs") => {
                diagnosis("the group's cpuset.cpus or cpuset.mems is empty", "copy them from the parent first")
            }
            (libc::EPERM, file) if file.starts_with("devices.") => diagnosis(
                "the group above does not allow this device, or this process is not root",
                "cat devices.list of the parent",
            ),
            (libc::EINVAL, _) => diagnosis("the file does not take this value", ""),
            (libc::ENOENT, _) => diagnosis("this kernel's controller has no such file", "ls beside it; uname -r"),
            (libc::EACCES | libc::EPERM, _) => diagnosis(
                "limits are set by root, or by the user to whom the parent group was delegated",
                "sudo, or --parent with a group that is yours",
            ),
            (libc::EOPNOTSUPP, _) => {
                diagnosis("the group is threaded or invalid", "cat cgroup.type of it and of its parents")
            }
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for WriteFile<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // No O_CREAT: a mistyped name must be ENOENT. One write: the kernel reads a whole value from each.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(self.path, flags, rustix::fs::Mode::empty())?;
        rustix::io::write(&file, self.value.as_bytes())?;
        Ok(())
    }
}

/// A file of a group that takes several lines, one a write.
pub struct LineFile {
    file: OwnedFd,
    path: PathBuf,
}

impl LineFile {
    pub fn open(path: PathBuf) -> Result<LineFile, Error> {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
        let file = file.map_err(|errno| failed("open", path.display())(errno.into()))?;
        Ok(LineFile { file, path })
    }
}

/// One line more into such a file.
pub struct WriteLine<'a> {
    pub file: &'a LineFile,
    pub line: &'a str,
}

impl WriteLine<'_> {
    fn as_write(&self) -> WriteFile<'_> {
        WriteFile { path: &self.file.path, value: self.line }
    }
}

impl fmt::Display for WriteLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_write().fmt(f)
    }
}

impl Explained for WriteLine<'_> {
    fn aim(&self) -> String {
        self.as_write().aim()
    }
    fn source(&self) -> &'static str {
        self.as_write().source()
    }
    fn by_hand(&self) -> String {
        self.as_write().by_hand()
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        self.as_write().diagnose(errno)
    }
}

impl KernelCall for WriteLine<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        rustix::io::write(&self.file.file, self.line.as_bytes())?;
        Ok(())
    }
}

/// open of a group's directory.
pub struct OpenGroup<'a> {
    pub path: &'a Path,
}

impl fmt::Display for OpenGroup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open(\"{}\", O_RDONLY|O_DIRECTORY|O_CLOEXEC)", self.path.display())
    }
}

impl Explained for OpenGroup<'_> {
    fn aim(&self) -> String {
        format!("open cgroup {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "open(2)"
    }
}

impl KernelCall for OpenGroup<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path, flags, rustix::fs::Mode::empty())?)
    }
}

/// rmdir of a group, again and again for a while: it is EBUSY until the last process has left for good.
pub struct RemoveGroup<'a> {
    pub path: &'a Path,
}

/// The last exit is over within milliseconds; two seconds mean that something still lives there.
const PATIENCE: Duration = Duration::from_secs(2);

impl fmt::Display for RemoveGroup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rmdir(\"{}\")", self.path.display())
    }
}

impl Explained for RemoveGroup<'_> {
    fn aim(&self) -> String {
        format!("remove cgroup {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "cgroups(7)"
    }
    fn by_hand(&self) -> String {
        format!("rmdir {}", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EBUSY => diagnosis(
                "a process or a group is still in it",
                "cat cgroup.procs in it and below; mocker-cgroup delete ID again",
            ),
            libc::EACCES | libc::EPERM => diagnosis("groups are removed by who may make them", "sudo"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for RemoveGroup<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        loop {
            match rustix::fs::rmdir(self.path) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
                Err(rustix::io::Errno::BUSY) if start.elapsed() < PATIENCE => std::thread::sleep(pause),
                Err(errno) => return Err(errno.into()),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}
