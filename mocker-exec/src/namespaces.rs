//! Namespaces: which the child is born into, which it joins, which it makes later. Source: namespaces(7).
//!
//! `mount`, `pid`, `uts`, `ipc` and a new `network` one are made by clone3 itself. `cgroup` comes last, by unshare: its
//! root is where the process stands at that moment, so the process must be in its own group first. Needs one thread.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::sched::CloneFlags;

use crate::calls::process::{Cloned, Join, NEW_TIME, Unshare};
use crate::cgroup::Groups;
use crate::plan::Plan;
use crate::userns;

const FLAGS: [(&str, CloneFlags); 8] = [
    ("mount", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("network", CloneFlags::CLONE_NEWNET),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("user", CloneFlags::CLONE_NEWUSER),
    ("time", NEW_TIME),
];

/// Every kind of namespace, for `features`.
pub fn known_kinds() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(kind, _)| *kind)
}

/// Namespaces that exist already and are to be joined, opened while the host's paths can still be seen.
pub struct Joins(pub Vec<(&'static str, CloneFlags, File, String)>);

/// The kinds that the container does not share with the host.
pub fn kinds(plan: &Plan) -> CloneFlags {
    let own = FLAGS.into_iter().filter(|(kind, _)| plan.has_namespace(kind));
    own.fold(CloneFlags::empty(), |all, (_, flag)| all | flag)
}

/// Opens every namespace that the document names by path.
pub fn open(plan: &Plan) -> Result<Joins, Error> {
    let mut joins = Vec::new();
    for (kind, flag) in FLAGS {
        let Some(path) =
            plan.namespaces.iter().find(|namespace| namespace.kind == kind).and_then(|one| one.path.as_ref())
        else {
            continue;
        };
        let file = File::open(path).map_err(failed("open namespace", path.display())).map_err(|error| {
            error
                .why(format!("the document says that the container shares this {kind} namespace"))
                .hint("ip netns   (mocker-net makes network namespaces; has this one been deleted?)")
        })?;
        check_is_namespace(&file, path)?;
        if kind == "user" && userns::is_own(&file) {
            continue; // the container shares ours
        }
        joins.push((kind, flag, file, path.display().to_string()));
    }
    Ok(Joins(joins))
}

/// A file that is no namespace would be EINVAL without a word; say it while the name is known.
fn check_is_namespace(file: &File, path: &Path) -> Result<(), Error> {
    let is_nsfs = rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type as u64 == 0x6e73_6673);
    match is_nsfs {
        true => Ok(()),
        false => Err(Error::new(format!("cannot join {}: it is not a namespace", path.display()))
            .likely("nothing is mounted on that file (any more), or in another mount namespace only")
            .hint("findmnt -t nsfs")),
    }
}

/// Makes the container's first process. In the child: it is pid 1 there and has not seen anything yet.
pub fn clone_init(plan: &Plan, joins: &Joins, groups: &mut Groups) -> Result<Cloned, Error> {
    let later: &[&str] = if plan.has_namespace("user") { &userns::MADE_LATER } else { &["cgroup", "time"] };
    let made = FLAGS.into_iter().filter(|(kind, _)| !later.contains(kind) && plan.makes_namespace(kind));
    let namespaces = made.fold(CloneFlags::empty(), |all, (_, flag)| all | flag);
    if plan.has_namespace("user") && !joins.0.is_empty() {
        return userns::clone_through(joins, namespaces);
    }
    // A pid namespace takes in children only: the parent steps half in, and the child is born inside.
    for (kind, flag, file, shown) in joins.0.iter().filter(|(kind, ..)| *kind == "pid") {
        step(Join { namespace: file.as_fd(), kind, flag: *flag, shown })
            .because("the container shares this process tree; only children born from now on are in it")?;
    }
    groups.clone(
        namespaces,
        "a process sees the world through its namespaces: in new ones it sees no host process, mount, name or queue",
    )
}

/// Joins the namespaces that exist already. In the child, which a go-between has not put there yet.
pub fn join(plan: &Plan, joins: &Joins) -> Result<(), Error> {
    if plan.has_namespace("user") {
        return Ok(());
    }
    for (kind, flag, file, shown) in joins.0.iter().filter(|(kind, ..)| *kind != "pid") {
        step(Join { namespace: file.as_fd(), kind, flag: *flag, shown }).because(match *kind {
            "network" => {
                "its interface, address and routes were made before; in the host's it could listen on any port"
            }
            _ => "the container shares it with another, as the document says",
        })?;
    }
    Ok(())
}

/// Makes the cgroup namespace. In the child, once it is in its own group.
pub fn unshare_cgroup(plan: &Plan) -> Result<(), Error> {
    if plan.makes_namespace("cgroup") {
        step(Unshare(CloneFlags::CLONE_NEWCGROUP))
            .because("/proc/self/cgroup would show the path of the group on the host; from here on it is the root")?;
    }
    Ok(())
}
