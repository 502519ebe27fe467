//! Without root: the tools of an ordinary user work in a user namespace, where that user is root.
//!
//! Where /etc/subuid and /etc/subgid give the user more ids, and newuidmap and newgidmap (package uidmap) are there, ids
//! from 1 on in there are those; else the user's own id is the only one, as 0. All tools of a pipeline must share one such
//! namespace, or what one has made another could not use: `mocker-exec unshare` makes it for the wrapper. Source:
//! user_namespaces(7), newuidmap(1), subuid(5).

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

use crate::error::{Error, failed};

/// A line of a map of ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.size)
    }
}

/// Whether root here is not the machine's root.
pub fn in_user_namespace() -> bool {
    // Asked for at every start of a container, it must cost no more than this.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether setgroups(2) is open to whoever has the capability: it is closed where a user has mapped himself alone.
pub fn may_set_groups() -> bool {
    !fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
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
        error.why("only a program with root's rights may give an ordinary user more ids than his own").hint("apt install uidmap")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let file = if program == "newuidmap" { "/etc/subuid" } else { "/etc/subgid" };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    let error = Error::new(format!("cannot map ids: {program} refused ({})", output.status)).said(said);
    Err(error
        .likely(format!("{file} does not give these ids to this user, or {program} is not setuid root"))
        .hint(format!("cat {file}; ls -l $(command -v {program})")))
}
