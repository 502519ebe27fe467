//! How a group comes to be: made in every hierarchy, with the groups above it, and fit to be entered.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cgroup::calls::{MakeGroup, Mark, WriteFile};
use crate::cgroup::end::processes;
use crate::cgroup::freeze::is_frozen;
use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::limits::Setting;
use crate::cgroup::place::Group;
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
    if hierarchy.is_v1("cpuset") { fill_cpuset(&group.directory(hierarchy), true, hierarchy, settings) } else { Ok(()) }
}

/// What became of [`ensure`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Made {
    /// It is new in every hierarchy: nothing is set in it.
    New,
    /// It was there in one at least, and is used as it is.
    Reused,
}

/// Makes the group of a runtime's container, or takes the one that is there, if nobody lives in it.
///
/// `may_lack`: where groups may not be made, there is none; such hierarchies leave the group, and a limit that needs one of
/// them is an error later. So may an ordinary user run containers without limits.
pub fn ensure(group: &mut Group, settings: &[Setting], may_lack: bool) -> Result<Made, Error> {
    let mut new = Vec::new();
    let mut have = Vec::new();
    for hierarchy in &group.hierarchies.all {
        match ensure_in(group, hierarchy, settings) {
            Ok(true) => new.push(group.directory(hierarchy)),
            Ok(false) => {}
            Err(error) if may_lack && matches!(error.errno, libc::EACCES | libc::EPERM | libc::EROFS) => continue,
            Err(error) => return Err(remove_again(&new, error)),
        }
        have.push(hierarchy.clone());
    }
    group.hierarchies.all = have;
    if new.len() == group.hierarchies.all.len() {
        return Ok(Made::New);
    }
    check_unused(group).map_err(|error| remove_again(&new, error))?;
    Ok(Made::Reused)
}

/// Whether the group had to be made.
fn ensure_in(group: &Group, hierarchy: &Hierarchy, settings: &[Setting]) -> Result<bool, Error> {
    const OWN: &str = "limits and counts hold for a group: the container needs one that nobody else is in";
    let directory = group.directory(hierarchy);
    if hierarchy.controllers.iter().any(|controller| is_handed_down(hierarchy, controller, settings)) {
        ensure_parents(group, hierarchy, settings, false)?;
    }
    let made = step(MakeGroup { path: &directory }).because(OWN).or_else(|error| match error.errno {
        libc::ENOENT => {
            ensure_parents(group, hierarchy, settings, false)?;
            step(MakeGroup { path: &directory }).because(OWN)
        }
        _ => Err(error),
    });
    let new = match made {
        Ok(()) => true,
        Err(error) if error.errno == libc::EEXIST => false,
        Err(error) => return Err(error),
    };
    if hierarchy.is_v1("cpuset") {
        fill_cpuset(&directory, new, hierarchy, settings)?;
    }
    Ok(new)
}

/// Refuses a group that somebody lives in, before anything is made. Most are not there yet.
pub fn check(group: &Group) -> Result<(), Error> {
    if group.directories().is_empty() { Ok(()) } else { check_unused(group) }
}

/// Two containers in one group would share limits, and the end of one would be the end of the other.
fn check_unused(group: &Group) -> Result<(), Error> {
    let found = processes(group).len();
    if found > 0 {
        return Err(Error::new(format!("container's cgroup is not empty: {found} process(es) found"))
            .why("the end of the container would be theirs, and its limits would hold for them")
            .hint(format!("cat /sys/fs/cgroup/*{}/cgroup.procs; another linux.cgroupsPath", group.path.display())));
    }
    if is_frozen(group) {
        return Err(Error::new("container's cgroup unexpectedly frozen")
            .why("the container's first process would stand still from its first moment"));
    }
    Ok(())
}

fn remove_again(made: &[PathBuf], error: Error) -> Error {
    for directory in made {
        rustix::fs::rmdir(directory).unwrap_or_default(); // the failure before is the one to tell
    }
    error
}

/// Makes the groups above, and lets v2 hand the controllers down to where they are needed.
fn ensure_parents(group: &Group, hierarchy: &Hierarchy, settings: &[Setting], mark: bool) -> Result<(), Error> {
    let shown = hierarchy.base.ancestors().take_while(|above| above.starts_with(&hierarchy.mount));
    for above in shown.collect::<Vec<_>>().into_iter().rev() {
        hand_down(above, hierarchy, settings)?;
    }
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

/// Whether v2 must hand a controller down to the group.
fn is_handed_down(hierarchy: &Hierarchy, controller: &str, settings: &[Setting]) -> bool {
    let needed = || settings.iter().any(|setting| setting.controller == controller);
    hierarchy.unified && (COUNTED.contains(&controller) || needed())
}

/// v2: enables controllers for the groups below. Each by itself, since one that is refused would take the others along.
fn hand_down(directory: &Path, hierarchy: &Hierarchy, settings: &[Setting]) -> Result<(), Error> {
    let wanted = hierarchy.controllers.iter().filter(|controller| is_handed_down(hierarchy, controller, settings));
    let mut wanted = wanted.peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let path = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).unwrap_or_default();
    for controller in wanted.filter(|wanted| !enabled.split_ascii_whitespace().any(|enabled| enabled == *wanted)) {
        let outcome = step(WriteFile { path: &path, value: &format!("+{controller}") })
            .because("on v2 a group has only the controllers that the one above hands down to it");
        if settings.iter().any(|setting| setting.controller == *controller) {
            outcome?;
        }
    }
    Ok(())
}

/// v1: gives a group the cpus and memory nodes of the one above, unless the settings name others.
fn fill_cpuset(directory: &Path, new: bool, hierarchy: &Hierarchy, settings: &[Setting]) -> Result<(), Error> {
    let Some(above) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        match (settings.iter().any(|setting| setting.file == file), new) {
            (true, _) => drop(filled(above, file, hierarchy)?),
            (false, true) => fill(&directory.join(file), &filled(above, file, hierarchy)?)?,
            (false, false) => drop(filled(directory, file, hierarchy)?),
        }
    }
    Ok(())
}

/// A file of a cpuset, filled from the group above if it is empty.
fn filled(directory: &Path, file: &str, hierarchy: &Hierarchy) -> Result<String, Error> {
    let path = directory.join(file);
    let present = fs::read_to_string(&path).unwrap_or_default().trim().to_string();
    match directory.parent() {
        Some(above) if present.is_empty() && directory != hierarchy.mount => {
            let value = filled(above, file, hierarchy)?;
            fill(&path, &value)?;
            Ok(value)
        }
        _ => Ok(present),
    }
}

fn fill(path: &Path, value: &str) -> Result<(), Error> {
    step(WriteFile { path, value }).because("a new v1 cpuset has no cpu and no memory: to enter it would be ENOSPC")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cgroup::hierarchy::Hierarchies;
    use crate::cgroup::limits::{apply, set};

    /// Directories in place of hierarchies: mkdir and write are the same there.
    fn group(name: &str, hierarchies: Vec<Hierarchy>) -> (PathBuf, Group) {
        let directory = std::env::temp_dir().join(format!("mocker-life-{name}-{}", std::process::id()));
        let mut all = Hierarchies { all: vec![Hierarchy::at(&directory, true)] };
        all.all.extend(hierarchies);
        all.all[0].controllers = vec!["memory".into()];
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("cgroup.subtree_control"), "").unwrap();
        (directory, Group::named(all, "/a/b", "id", false).unwrap())
    }

    #[test]
    fn a_group_that_is_there_is_used_and_those_above_are_made() {
        let (directory, mut group) = group("there", Vec::new());
        fs::create_dir(directory.join("a")).unwrap();
        fs::write(directory.join("a/cgroup.subtree_control"), "cpu memory").unwrap();
        assert_eq!(ensure(&mut group, &[], false).unwrap(), Made::New);
        assert_eq!(fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap(), "+memory");
        assert_eq!(fs::read_to_string(directory.join("a/cgroup.subtree_control")).unwrap(), "cpu memory");
        assert_eq!(ensure(&mut group, &[], false).unwrap(), Made::Reused);

        fs::write(directory.join("a/b/memory.max"), "").unwrap();
        let settings = [set("memory", "memory.max", 7, "x"), set("memory", "memory.swap.max", 0, "x").optional()];
        apply(&group, &settings).unwrap();
        assert_eq!(fs::read_to_string(directory.join("a/b/memory.max")).unwrap(), "7");
        let lacks = apply(&group, &[set("memory", "memory.high", 7, "x")]).unwrap_err();
        assert!(lacks.what.contains("no such limit") && !lacks.what.contains("No such file"), "{lacks}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn where_groups_may_not_be_made_the_container_may_do_without() {
        // mkdir in /sys is EPERM even for root.
        let forbidden = || vec![Hierarchy { controllers: vec!["pids".into()], ..Hierarchy::at("/sys", false) }];
        let (directory, mut group) = group("forbidden", forbidden());
        fs::create_dir(directory.join("a")).unwrap();
        fs::write(directory.join("a/cgroup.subtree_control"), "memory").unwrap();
        assert!(ensure(&mut group.clone(), &[], false).is_err());
        assert!(!directory.join("a/b").exists(), "what was made before the failure is gone again");
        assert_eq!(ensure(&mut group, &[], true).unwrap(), Made::New);
        assert_eq!(group.hierarchies.all.len(), 1);
        assert!(group.hierarchies.of("pids").is_none() && group.directories() == [directory.join(Path::new("a/b"))]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
