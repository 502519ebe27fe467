//! The group of a container, by its id: where it was made, what of that is ours to remove, and when.

use std::fs;
use std::path::{Path, PathBuf};

use mocker_common::cgroup::calls::MARK;
use mocker_common::cgroup::hierarchy::{Hierarchies, Hierarchy};
use mocker_common::cgroup::limits::Setting;
use mocker_common::cgroup::place::Group;
use mocker_common::cgroup::{end, freeze, life};
use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use mocker_common::state::{self, Directories};
use mocker_common::undo::Undo;

use crate::TOOL;

/// Where groups are made unless another parent was asked for.
const PARENT: &str = "/mocker";

/// Makes the group in every hierarchy, empty and without limits. Its directories must not be there yet.
pub fn create(group: &Group, id: &ContainerId, settings: &[Setting], undo: &mut Undo) -> Result<(), Error> {
    if let Some(present) = group.directories().first() {
        return Err(Error::new(format!("cannot make cgroup {}: it is there already", present.display()))
            .why("its limits and its processes would be somebody else's")
            .hint(format!("mocker-cgroup delete {id}, or another --id or --parent")));
    }
    remember_parent(id, group)?;
    undo.push(format!("cgroup {}", group.path.display()), {
        let (group, id) = (group.clone(), id.clone());
        move || {
            unmake(&group, &id)?;
            forget_parent(&id);
            Ok(())
        }
    });

    life::make(group, settings, group.parent != Path::new(PARENT)) // the name /mocker says whose it is
}

/// `delete ID…`: all are tried; the first failure is told with the others beside it.
pub fn delete_all(ids: &[ContainerId]) -> Result<(), Error> {
    let mut failures: Vec<Error> = ids.iter().filter_map(|id| delete(id).err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    let mut first = failures.remove(0);
    first.also.extend(failures.iter().map(ToString::to_string));
    Err(first)
}

/// Ends what lives in a container's group and removes the group. Succeeds if there is none.
pub fn delete(id: &ContainerId) -> Result<(), Error> {
    unmake(&find(id)?, id)?;
    forget_parent(id);
    state::release(&Directories::from_env(), id, TOOL);
    Ok(())
}

/// The group of a container: below the parent it was made in.
pub fn find(id: &ContainerId) -> Result<Group, Error> {
    let record = fs::read_to_string(parent_file(id)).unwrap_or_default();
    Group::new(detect()?, Path::new(record.lines().next().unwrap_or(PARENT)), id)
}

/// The hierarchies that a container's limits and life need. The others (net_cls, perf_event, systemd's own) are left alone: a
/// group there would limit nothing, and take time to make and remove.
pub fn detect() -> Result<Hierarchies, Error> {
    const WANTED: [&str; 7] = ["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer"];
    let mut hierarchies = Hierarchies::detect()?;
    let wanted = |name: &String| WANTED.contains(&name.as_str());
    hierarchies.all.retain(|hierarchy| hierarchy.unified || hierarchy.controllers.iter().any(wanted));
    Ok(hierarchies)
}

/// The same; fails if it is not there.
pub fn find_present(id: &ContainerId) -> Result<Group, Error> {
    let group = find(id)?;
    match group.directories().is_empty() {
        false => Ok(group),
        true => Err(Error::new(format!("no cgroup of container {id} here")).hint("mocker-cgroup ls")),
    }
}

/// One small file a group says which parent it has: `delete` is given nothing but the id.
fn parent_file(id: &ContainerId) -> PathBuf {
    Directories::from_env().run.join("cgroups").join(id.as_str())
}

/// Its lines: the parent, then those of its directories that are not there yet, which are ours to remove even if we are
/// killed before they are marked.
fn remember_parent(id: &ContainerId, group: &Group) -> Result<(), Error> {
    if group.parent == Path::new(PARENT) {
        return Ok(());
    }
    let parents = group.hierarchies.all.iter().flat_map(|hierarchy| group.parents(hierarchy));
    let absent = parents.filter(|directory| !directory.exists());
    let lines: Vec<String> =
        std::iter::once(group.parent.clone()).chain(absent).map(|path| format!("{}\n", path.display())).collect();
    let path = parent_file(id);
    state::ensure_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    state::write_atomically(&path, 0o600, lines.concat().as_bytes())
}

fn forget_parent(id: &ContainerId) {
    fs::remove_file(parent_file(id)).unwrap_or_default(); // most groups have none
}

fn unmake(group: &Group, id: &ContainerId) -> Result<(), Error> {
    end::end_processes(group)?;
    end::remove(group)?;
    for hierarchy in &group.hierarchies.all {
        remove_empty_parents(group, id, hierarchy);
    }
    Ok(())
}

/// Removes the groups above that we have made, innermost first, as far as they are empty.
fn remove_empty_parents(group: &Group, id: &ContainerId, hierarchy: &Hierarchy) {
    let record = fs::read_to_string(parent_file(id)).unwrap_or_default();
    let ours = |parent: &Path| {
        let mut mark = [0u8; 8];
        group.parent == Path::new(PARENT)
            || record.lines().skip(1).any(|line| Path::new(line) == parent)
            || rustix::fs::getxattr(parent, MARK, &mut mark[..]).is_ok()
    };
    for parent in group.parents(hierarchy).into_iter().rev() {
        // Not empty: other containers live there, and the last of them removes it.
        if !ours(&parent) || rustix::fs::rmdir(&parent).is_err_and(|errno| errno != rustix::io::Errno::NOENT) {
            return;
        }
    }
}

/// Stops every process of a container, and waits until all stand.
pub fn freeze(id: &ContainerId) -> Result<(), Error> {
    freeze::freeze(&find_present(id)?)
}

/// Lets every process of a container run on.
pub fn thaw(id: &ContainerId) -> Result<(), Error> {
    freeze::thaw(&find_present(id)?)
}
