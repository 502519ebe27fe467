//! Without root: the tools of an ordinary user work in a user namespace, where that user is root.
//!
//! Where /etc/subuid and /etc/subgid give the user more ids, and newuidmap and newgidmap (package uidmap) are there, ids
//! from 1 on in there are those; else the user's own id is the only one, as 0. All tools of a pipeline must share one such
//! namespace, or what one has made another could not use: `mocker-exec unshare` makes it for the wrapper. Source:
//! user_namespaces(7), newuidmap(1), subuid(5).

mod calls;
mod subids;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{ForkResult, Pid};

use crate::error::{Error, errno_text, failed};
use crate::state::Directories;
use crate::step::step;

use self::calls::{NewUserNamespace, WriteMap};
pub use self::subids::Line;

/// Whether root here is not the machine's root.
pub fn in_user_namespace() -> bool {
    // Asked for at every start of a container, it must cost no more than this.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether there is one id only in here: everything belongs to it, and nothing can be given to another.
pub fn has_one_id() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut sizes = map.lines().filter_map(|line| line.split_ascii_whitespace().nth(2));
    matches!((sizes.next(), sizes.next()), (Some("1"), None))
}

/// Whether an id means anything in a map of `/proc/self`: `uid_map` or `gid_map`.
pub fn is_mapped(map: &str, id: u32) -> bool {
    let text = fs::read_to_string(Path::new("/proc/self").join(map)).unwrap_or_default();
    Line::parse_map(&text).iter().any(|line| line.inside <= id && id - line.inside < line.size)
}

/// Whether setgroups(2) is open to whoever has the capability: it is closed where a user has mapped himself alone.
pub fn may_set_groups() -> bool {
    !fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// Makes an ordinary user root: of a user namespace and a mount namespace, which this process enters and all that it starts.
/// Nothing happens if it is root already. Needs one thread.
///
/// The user's store and state directory are decided before, and stand in the environment from then on.
pub fn enter() -> Result<(), Error> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Ok(());
    }
    let directories = Directories::from_env();
    check_state_directory(&directories.run, uid.as_raw())?;
    let gid = rustix::process::getegid().as_raw();
    match subids::of(uid.as_raw(), gid) {
        Some(maps) => with_helpers(&maps.uids, &maps.gids)?,
        None => alone(uid.as_raw(), gid)?,
    }
    // SAFETY: there is one thread, so nobody reads the environment meanwhile.
    unsafe {
        std::env::set_var("MOCKER_ROOT", std::path::absolute(&directories.root).unwrap_or(directories.root));
        std::env::set_var("MOCKER_RUN", std::path::absolute(&directories.run).unwrap_or(directories.run));
    }
    Ok(())
}

/// The state directory holds commands that prune runs: without $XDG_RUNTIME_DIR it lies in a directory that others write
/// to, and what they have put there must not be taken for the user's own.
fn check_state_directory(run: &Path, uid: u32) -> Result<(), Error> {
    let parent = run.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed("make directory", parent.display()))?;
    match fs::DirBuilder::new().mode(0o700).create(run) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(failed("make directory", run.display())(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(run).map_err(failed("look at", run.display()))?;
    match found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(Error::new(format!("cannot use {}: it is not a directory of this user's alone", run.display()))
            .why("mocker runs the undo commands that it finds in there")
            .hint("MOCKER_RUN=DIR, a directory of your own, or XDG_RUNTIME_DIR as your login should set it")),
    }
}

/// One id: the user's, as root. The kernel lets everybody write this map.
fn alone(uid: u32, gid: u32) -> Result<(), Error> {
    step(NewUserNamespace).because(ENTER_WHY)?;
    step(WriteMap { name: "uid_map", text: &format!("0 {uid} 1") })
        .because("until it is mapped, the user is nobody in there; this one id may be given without anybody's leave")?;
    step(WriteMap { name: "setgroups", text: "deny" })
        .because("a user who could drop a group could open what is closed to that group (CVE-2014-8989)")?;
    step(WriteMap { name: "gid_map", text: &format!("0 {gid} 1") })
        .because("a file without a group that is known in here could not be made")
}

/// More ids: a helper that stays outside has the two programs write them.
fn with_helpers(uids: &[Line], gids: &[Line]) -> Result<(), Error> {
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| failed("make", "a pipe")(errno.into()))
    };
    let ((go, tell), (answer, said)) = (pipe()?, pipe()?);
    let waiting = Pid::this();
    // SAFETY: one thread; the child may allocate.
    match unsafe { nix::unistd::fork() }.map_err(refused("make a helper"))? {
        ForkResult::Child => {
            drop((tell, answer));
            help_from_outside(waiting, go, said, uids, gids)
        }
        ForkResult::Parent { child } => {
            drop((go, said));
            let entered = step(NewUserNamespace).because(ENTER_WHY);
            if entered.is_ok() {
                File::from(tell).write_all(b"g").unwrap_or_default(); // a helper that is gone has no answer
            } else {
                drop(tell);
            }
            let mut text = Vec::new();
            File::from(answer).read_to_end(&mut text).map_err(failed("hear", "the helper that maps ids"))?;
            nix::sys::wait::waitpid(child, None).map_err(refused("wait for the helper that maps ids"))?;
            entered?;
            let gone = |_| Error::new("cannot map ids: the helper is gone");
            serde_json::from_slice::<Result<(), Error>>(&text).map_err(gone)?
        }
    }
}

const ENTER_WHY: &str =
    "an ordinary user may mount nothing and become nobody else; in a user namespace of his own he is root";

fn refused(what: &str) -> impl FnOnce(nix::errno::Errno) -> Error {
    let what = what.to_string();
    move |errno| Error::new(format!("cannot {what}: {}", errno_text(errno as i32)))
}

fn help_from_outside(pid: Pid, go: OwnedFd, said: OwnedFd, uids: &[Line], gids: &[Line]) -> ! {
    let mut byte = [0];
    if matches!(File::from(go).read(&mut byte), Ok(1)) {
        let outcome = map_by_helpers(pid.as_raw(), uids, gids);
        let text = serde_json::to_vec(&outcome).unwrap_or_default(); // nothing or an error always serialises
        File::from(said).write_all(&text).unwrap_or_default(); // who is gone needs no answer
    }
    // SAFETY: ends this process at once; nothing of the parent's is flushed twice.
    unsafe { libc::_exit(0) }
}

/// Whether these maps are the one that a user may write without help: his own ids, one of each.
pub fn is_own_id_alone(uids: &[Line], gids: &[Line]) -> bool {
    let own = |lines: &[Line], id: u32| matches!(lines, [Line { outside, size: 1, .. }] if *outside == id);
    own(uids, rustix::process::geteuid().as_raw()) && own(gids, rustix::process::getegid().as_raw())
}

/// Has newuidmap and newgidmap write the maps of a process of ours that waits in a new user namespace.
pub fn map_by_helpers(pid: i32, uids: &[Line], gids: &[Line]) -> Result<(), Error> {
    help("newuidmap", pid, uids)?;
    help("newgidmap", pid, gids)
}

fn help(program: &str, pid: i32, lines: &[Line]) -> Result<(), Error> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for line in lines {
        command.args([line.inside, line.outside, line.size].map(|number| number.to_string()));
    }
    let output = command.stdin(Stdio::null()).output().map_err(failed("run", program)).map_err(|error| {
        let why = "only a program with root's rights may give an ordinary user more ids than his own";
        Error { hint: "apt install uidmap".into(), ..error.why(why) }
    })?;
    if output.status.success() {
        return Ok(());
    }
    let file = if program == "newuidmap" { subids::UIDS } else { subids::GIDS };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    let error = Error::new(format!("cannot map ids: {program} refused ({})", output.status)).said(said);
    Err(error
        .likely(format!("{file} does not give these ids to this user, or {program} is not setuid root"))
        .hint(format!("cat {file}; ls -l $(command -v {program})")))
}
