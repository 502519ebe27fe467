//! User namespaces: ids that mean one thing inside and another outside. Source: user_namespaces(7).
//!
//! The container's root is an ordinary user of the host: what it may do, it may do to what its namespaces own. Outside,
//! the tool writes the maps while the child waits; inside, the child becomes user 0 of the map. A child that is to stand in
//! namespaces made by others goes there through a go-between, which still has the rights that joining takes.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;

use mocker_common::document::Document;
use mocker_common::error::{Error, NOT_EXECUTABLE, NOT_FOUND, errno_text, failed};
use mocker_common::rootless::{self, Line};
use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis, step};
use nix::sched::CloneFlags;
use nix::unistd::ForkResult;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;

use crate::calls::files::WriteTo;
use crate::calls::mounts::Chdir;
use crate::calls::process::{Clone3, Cloned, Join, JoinAll, SetGid, SetGroups, SetLimit, SetUid, Unshare};
use crate::channel::Channel;
use crate::identity::limit_number;
use crate::namespaces::Joins;
use crate::plan::{Mount, Namespace, Plan, Root};

/// `linux.uidMappings` and `linux.gidMappings`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mappings {
    pub uid: Vec<Mapping>,
    pub gid: Vec<Mapping>,
}

/// A range of ids: `size` of them, from `container_id` on inside, from `host_id` on outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Mapping {
    #[serde(rename = "containerID")]
    pub container_id: u32,
    #[serde(rename = "hostID")]
    pub host_id: u32,
    pub size: u32,
}

/// The kernel takes no more ranges (UID_GID_MAP_MAX_EXTENTS), and all in one write of less than a page.
const MOST_LINES: usize = 340;
const PAGE: usize = 4096;

impl Mappings {
    /// Reads and checks them: the kernel would answer a bare EINVAL. None where no user namespace is to be made.
    pub fn read(document: &Document, namespaces: &[Namespace]) -> Result<Option<Mappings>, Error> {
        let uid: Vec<Mapping> = document.view("/linux/uidMappings")?;
        let gid: Vec<Mapping> = document.view("/linux/gidMappings")?;
        let refused = |cause: &str| Error::new(format!("cannot map ids: {cause}"));
        match namespaces.iter().find(|namespace| namespace.kind == "user") {
            None if uid.is_empty() && gid.is_empty() => Ok(None),
            None => Err(refused("user namespace mappings specified, but the document asks for no user namespace")
                .why("without one the container's root would be the machine's root, and the document says otherwise")
                .hint("add {\"type\": \"user\"} to linux.namespaces")),
            Some(Namespace { path: Some(_), .. }) => Ok(None), // one that is joined has its maps already
            Some(_) => {
                check("uidMappings", &uid)?;
                check("gidMappings", &gid)?;
                Ok(Some(Mappings { uid, gid }))
            }
        }
    }
}

fn check(key: &str, mappings: &[Mapping]) -> Result<(), Error> {
    let refused = |cause: String| Err(Error::new(format!("cannot map ids: linux.{key} {cause}")));
    if mappings.is_empty() {
        return refused("is empty, and a user namespace is to be made".into())
            .map_err(|error: Error| error.why("ids without a map are nobody's: the container would have no root"));
    }
    if mappings.len() > MOST_LINES {
        return refused(format!("has {} ranges; the kernel takes {MOST_LINES} at most", mappings.len()));
    }
    for (number, one) in mappings.iter().enumerate() {
        let ends = |start: u32| start.checked_add(one.size.saturating_sub(1));
        if one.size == 0 || ends(one.container_id).is_none() || ends(one.host_id).is_none() {
            return refused(format!("[{number}] is no range of ids: {one}"));
        }
        let overlap = |a: u32, b: u32, size: u32| {
            u64::from(a) < u64::from(b) + u64::from(size) && u64::from(b) < u64::from(a) + u64::from(one.size)
        };
        let clash = mappings[..number].iter().find(|other| {
            overlap(one.container_id, other.container_id, other.size) || overlap(one.host_id, other.host_id, other.size)
        });
        if let Some(other) = clash {
            return refused(format!("overlap: {other} and {one}"))
                .map_err(|error: Error| error.why("an id must mean one user on either side"));
        }
    }
    if !mappings.iter().any(|one| one.container_id == 0) {
        return refused("maps no id to 0".into()).map_err(|error: Error| {
            error.why("mounts and devices are made by the container's root: there must be one")
        });
    }
    let length = text(mappings).len();
    match length < PAGE {
        true => Ok(()),
        false => refused(format!("takes {length} bytes to write; the kernel takes less than {PAGE}")),
    }
}

fn text(mappings: &[Mapping]) -> String {
    mappings.iter().map(|one| format!("{one}\n")).collect()
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.container_id, self.host_id, self.size)
    }
}

impl From<&Mapping> for Line {
    fn from(one: &Mapping) -> Line {
        Line { inside: one.container_id, outside: one.host_id, size: one.size }
    }
}

/// Gives the child's new user namespace its maps, if it has one, and lets it go on. Outside.
pub fn map(plan: &Plan, pid: i32, channel: &Channel) -> Result<(), Error> {
    set_limits(plan, pid)?;
    plan.mappings.as_ref().map_or(Ok(()), |mappings| write_maps(pid, mappings).and_then(|()| channel.go()))
}

/// Sets for a process that is in a user namespace, or about to be, what takes rights on the host. Outside.
pub fn set_limits(plan: &Plan, pid: i32) -> Result<(), Error> {
    if !plan.has_namespace("user") {
        return Ok(());
    }
    for limit in &plan.process.rlimits {
        let resource = limit_number(&limit.kind)?;
        step(SetLimit { pid, kind: &limit.kind, resource, soft: limit.soft, hard: limit.hard })
            .because("in there nobody may raise a hard limit, whatever the capabilities")?;
    }
    let Some(score) = plan.process.oom_score_adj else { return Ok(()) };
    match write(pid, "oom_score_adj", &score.to_string()) {
        // It shields from the kernel's choice of a victim; an ordinary user may offer himself only.
        Err(error) if error.errno == libc::EACCES && !is_hosts_root() => Ok(()),
        outcome => outcome,
    }
}

/// Whether the caller is root, and of the machine.
pub fn is_hosts_root() -> bool {
    rustix::process::geteuid().is_root() && !rootless::in_user_namespace()
}

/// Gives the child's new user namespace its maps. Outside, while the child waits for them.
pub fn write_maps(pid: i32, mappings: &Mappings) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        write(pid, "uid_map", &text(&mappings.uid))?;
        return write(pid, "gid_map", &text(&mappings.gid));
    }
    let lines = |mappings: &[Mapping]| mappings.iter().map(Line::from).collect::<Vec<_>>();
    let (uids, gids) = (lines(&mappings.uid), lines(&mappings.gid));
    if !rootless::is_own_id_alone(&uids, &gids) {
        return rootless::map_by_helpers(pid, &uids, &gids);
    }
    write(pid, "uid_map", &text(&mappings.uid))?;
    write(pid, "setgroups", "deny")?;
    write(pid, "gid_map", &text(&mappings.gid))
}

fn write(pid: i32, name: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{name}");
    let file = openat(CWD, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", &path)(errno.into()))?;
    let written = step(WriteTo { file: file.as_fd(), shown: &path, text }).because(match name {
        "oom_score_adj" => "asked for, and the right to lower it is the host's: in there nobody has it",
        "setgroups" => "a user who could drop a group could open what is closed to that group (CVE-2014-8989)",
        _ => "until ids are mapped the child is nobody in there, and can become no one; the map is written once",
    });
    written.map_err(|error| match error.errno {
        libc::EPERM => Error {
            likely: "a host id is not the caller's to give: root's own namespace has it not, or it is another user's"
                .into(),
            hint: "cat /proc/self/uid_map /etc/subuid".into(),
            ..error
        },
        _ => error,
    })
}

/// Becomes user and group 0 of the user namespace it stands in, with no other group. Inside, or for `exec`.
///
/// Afterwards the process is not dumpable and no signal tells it of its parent's death: the kernel clears both.
pub fn become_root() -> Result<(), Error> {
    if rootless::may_set_groups() {
        step(SetGroups(&[]))
            .because("the caller's groups would stay with it, unseen, for they have no name in the map")?;
    }
    step(SetGid(0))
        .because("files made from here on must belong to a group of the map; the caller's may not be in it")?;
    step(SetUid(0))
        .because("it still has the caller's user id: what it makes would belong to the host's root, not its own")
        .map_err(|error| match error.errno {
            libc::EINVAL => Error { likely: "the namespace maps no id to 0".into(), ..error },
            _ => error,
        })
}

/// Layers are stacked by marks that only the machine's root may read and files that belong to its users: an overlay made in
/// another user namespace would show neither as they are meant.
pub fn check_root(root: &Root, namespaces: &[Namespace]) -> Result<(), Error> {
    let other = |namespace: &Namespace| namespace.kind == "user";
    match matches!(root, Root::Layers { .. }) && namespaces.iter().any(other) {
        false => Ok(()),
        true => Err(Error::new("cannot run an image's layers in a user namespace of the container's own")
            .why("the store's layers belong to the users of the namespace that they were unpacked in")
            .hint("run mocker as an ordinary user: the container is then in his; or podman --runtime mocker-exec --userns")),
    }
}

/// Steps into the directory that will be the root, while the caller's user may still go there: the directories above it
/// may be closed to the container's. Returns the plan with the root where the process then stands.
pub fn stand_in_root(plan: &Plan) -> Result<Option<Plan>, Error> {
    let Root::Directory(directory) = &plan.root else { return Ok(None) };
    let shown = directory.to_string_lossy();
    step(Chdir(&shown)).because("the way to the root may be open to the caller alone, as the store of an engine is")?;
    Ok(Some(Plan { root: Root::Directory(".".into()), ..plan.clone() }))
}

/// What clone3 does not make where there is a user namespace: `cgroup` and `time` wait for other reasons, and who owns the
/// message queues of an ipc namespace is decided when it is made.
pub const MADE_LATER: [&str; 3] = ["cgroup", "time", "ipc"];

/// Makes the ipc namespace. Inside, as root of the user namespace.
pub fn make_later(plan: &Plan) -> Result<(), Error> {
    match plan.makes_namespace("ipc") {
        true => step(Unshare(CloneFlags::CLONE_NEWIPC))
            .because("made before, its message queues would belong to the host's root, who is nobody in here"),
        false => Ok(()),
    }
}

/// Whether this is the user namespace that we are in: the kernel refuses to join it again.
pub fn is_own(file: &File) -> bool {
    let own = rustix::fs::stat("/proc/self/ns/user");
    rustix::fs::fstat(file).is_ok_and(|one| own.is_ok_and(|own| (one.st_dev, one.st_ino) == (own.st_dev, own.st_ino)))
}

/// For `exec`: the kinds of a container's namespaces without the user namespace, if it shares ours.
pub fn kinds_to_join(kinds: CloneFlags, pid: i32) -> Result<CloneFlags, Error> {
    if !kinds.contains(CloneFlags::CLONE_NEWUSER) {
        return Ok(kinds);
    }
    let path = format!("/proc/{pid}/ns/user");
    let file = File::open(&path).map_err(failed("open", &path))?;
    Ok(if is_own(&file) { kinds.difference(CloneFlags::CLONE_NEWUSER) } else { kinds })
}

/// For `exec` by an ordinary user: only inside the user namespace has the tool the right to join the others, so it goes
/// there itself. Root goes there last, by its child alone. Returns what is still to be joined.
pub fn join_first(process: BorrowedFd<'_>, pid: i32, kinds: CloneFlags) -> Result<CloneFlags, Error> {
    let user = CloneFlags::CLONE_NEWUSER;
    if !kinds.contains(user) || rustix::process::geteuid().is_root() {
        return Ok(kinds);
    }
    step(JoinAll { process, kinds: user, pid })
        .because("an ordinary user has rights over the other namespaces only in the user namespace that owns them")?;
    Ok(kinds.difference(user))
}

/// Changes what the default document asks for and the kernel refuses to an ordinary user's root: a group of terminals that
/// has no id in here, and a sysfs of a network namespace that belongs to the host.
pub fn adapt(mounts: &mut [Mount], namespaces: &[Namespace]) -> Result<(), Error> {
    if !rootless::in_user_namespace() {
        return Ok(());
    }
    for mount in mounts {
        if mount.kind == "devpts" {
            let is_known = |option: &String| match option.strip_prefix("gid=").map(str::parse) {
                Some(Ok(gid)) => rootless::is_mapped("gid_map", gid),
                _ => true,
            };
            mount.options.retain(is_known);
        }
        if mount.kind == "sysfs" && !namespaces.iter().any(|namespace| namespace.kind == "network") {
            mount.kind = "bind".into();
            mount.source = "/sys".into();
            mount.options.push("rbind".into());
        }
    }
    Ok(())
}

/// `unshare COMMAND…`: becomes the command, in the user namespace that this process has entered.
pub fn unshare(command: &[OsString]) -> Result<u8, Error> {
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut words = command.iter().cloned();
    let program = words.next().unwrap_or_else(shell);
    let cause = std::process::Command::new(&program).args(words).exec();
    let status = if cause.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    Err(failed("run", program.display())(cause).status(status))
}

/// clone3(2) with CLONE_PARENT: the child is the caller's sibling.
struct CloneSibling(CloneFlags);

impl fmt::Display for CloneSibling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with CLONE_PARENT", Clone3 { namespaces: self.0, group: None })
    }
}

impl Explained for CloneSibling {
    fn aim(&self) -> String {
        "make a process in new namespaces".into()
    }
    fn source(&self) -> &'static str {
        "clone(2), CLONE_PARENT"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOSPC => diagnosis("the limit on the number of namespaces is reached, not the disk", "sysctl user"),
            libc::EPERM => diagnosis("the go-between has no rights in the user namespace that it joined", ""),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for CloneSibling {
    type Output = i32;
    /// Returns the child's number, and 0 to the child.
    fn call(&self) -> Result<i32, Cause> {
        // SAFETY: zero is a valid value of every field.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = self.0.bits() as u64 | libc::CLONE_PARENT as u64;
        // SAFETY: no stack and no CLONE_VM make it a fork; the process has one thread, so the child may allocate.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) } {
            -1 => Err(Cause::last()),
            pid => Ok(pid as i32),
        }
    }
}

/// Makes the container's first process where a user namespace and namespaces of others come together: a go-between joins
/// those while it has the caller's rights, then the user namespace, and makes the child as its sibling.
pub fn clone_through(joins: &Joins, namespaces: CloneFlags) -> Result<Cloned, Error> {
    let broken = |errno: rustix::io::Errno| failed("make", "a pipe")(errno.into());
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(broken)?;
    // SAFETY: one thread; the child may allocate.
    let forked = unsafe { nix::unistd::fork() };
    let forked = forked.map_err(|errno| Error::new(format!("cannot make a process: {}", errno_text(errno as i32))))?;
    let ForkResult::Parent { child } = forked else {
        let outcome = join_all(joins).and_then(|()| {
            step(CloneSibling(namespaces)).because("born here, it has these and its own; its parent is ours")
        });
        if outcome == Ok(0) {
            return Ok(Cloned::Child);
        }
        let answer = serde_json::to_vec(&outcome).unwrap_or_default(); // a number or an error always serialises
        File::from(writer).write_all(&answer).unwrap_or_default(); // the parent reads nothing, and says so
        // SAFETY: ends this process at once; nothing of the parent's is flushed twice.
        unsafe { libc::_exit(0) }
    };
    drop(writer);
    let mut answer = vec![0; 64 << 10];
    // One read: the child that was made still has the other end open.
    let length =
        File::from(reader).read(&mut answer).map_err(failed("hear", "the process that makes the container"))?;
    nix::sys::wait::waitpid(child, None)
        .map_err(|errno| Error::new(format!("cannot wait: {}", errno_text(errno as i32))))?;
    let outcome: Result<i32, Error> = serde_json::from_slice(&answer[..length])
        .map_err(|_| Error::new("cannot make the container: the process that was to join its namespaces is gone"))?;
    let pid = outcome?;
    let number =
        rustix::process::Pid::from_raw(pid).ok_or_else(|| Error::new("cannot make the container: no process"))?;
    // Ours to reap, so the number cannot be another's meanwhile.
    let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
        .map_err(|errno| failed("watch", "the container")(errno.into()))?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// Joins what belongs to the caller's user namespace before the other user namespace is entered, and the rest after it.
fn join_all(joins: &Joins) -> Result<(), Error> {
    let user = joins.0.iter().find(|(kind, ..)| *kind == "user");
    let mut later = Vec::new();
    for one @ (kind, flag, file, shown) in joins.0.iter().filter(|(kind, ..)| *kind != "user") {
        let joined = step(Join { namespace: file.as_fd(), kind, flag: *flag, shown }).because(
            "the container shares it; its owner is no concern of the container's root, so it is joined before",
        );
        match joined {
            Err(error) if error.errno == libc::EPERM && user.is_some() => later.push(one),
            other => other?,
        }
    }
    let Some((kind, flag, file, shown)) = user else { return Ok(()) };
    step(Join { namespace: file.as_fd(), kind, flag: *flag, shown })
        .because("the container has the same users and rights as the one it shares this with, and no more")?;
    later.into_iter().try_for_each(|(kind, flag, file, shown)| {
        step(Join { namespace: file.as_fd(), kind, flag: *flag, shown })
            .because("it belongs to the user namespace just joined, and only there is the right to join it")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(mappings: Value, user: Value) -> Result<Option<Mappings>, Error> {
        let text = json!({
            "mocker": {"version": 1},
            "linux": {"uidMappings": mappings, "gidMappings": mappings, "namespaces": user},
        });
        let document = Document::parse(text.to_string().as_bytes()).unwrap();
        Mappings::read(&document, &document.view::<Vec<Namespace>>("/linux/namespaces").unwrap())
    }

    fn ranges(list: &[(u32, u32, u32)]) -> Value {
        list.iter()
            .map(|(inside, outside, size)| json!({"containerID": inside, "hostID": outside, "size": size}))
            .collect()
    }

    #[test]
    fn mappings_that_the_kernel_would_refuse_without_a_word_are_refused_with_words() {
        let many: Vec<_> = (0..341).map(|number| (number, 1000 + number, 1)).collect();
        let long: Vec<_> = (0..340).map(|number| (number, 4_000_000_000 + number, 1)).collect();
        let new = json!([{"type": "user"}]);
        for (mappings, user, word) in [
            (ranges(&[(0, 1000, 1)]), json!([]), "no user namespace"),
            (ranges(&[]), new.clone(), "is empty"),
            (ranges(&many), new.clone(), "341 ranges"),
            (ranges(&long), new.clone(), "bytes to write"),
            (ranges(&[(0, 1000, 10), (9, 2000, 10)]), new.clone(), "overlap: 0 1000 10 and 9 2000 10"),
            (ranges(&[(0, 1000, 10), (10, 1009, 10)]), new.clone(), "overlap"),
            (ranges(&[(1, 1000, 10)]), new.clone(), "maps no id to 0"),
            (ranges(&[(0, 1000, 0)]), new.clone(), "is no range"),
            (ranges(&[(0, u32::MAX, 2)]), new.clone(), "is no range"),
        ] {
            let error = read(mappings, user).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn ranges_that_touch_are_fine_and_a_joined_namespace_has_its_own() {
        let good = ranges(&[(0, 1000, 10), (10, 1010, 10)]);
        let read_here = read(good.clone(), json!([{"type": "user"}])).unwrap().unwrap();
        assert_eq!(text(&read_here.uid), "0 1000 10\n10 1010 10\n");
        assert_eq!(read(good, json!([{"type": "user", "path": "/x"}])).unwrap(), None);
        assert_eq!(read(json!([]), json!([])).unwrap(), None);
    }
}
