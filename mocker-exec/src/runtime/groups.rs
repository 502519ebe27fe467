//! The groups of a container that an engine asked for: made from `linux.cgroupsPath` and `linux.resources`, removed with it.

use std::fs;
use std::path::Path;

use mocker_common::cgroup::devices::{self, Rule};
use mocker_common::cgroup::hierarchy::{Group, Hierarchies};
use mocker_common::cgroup::life;
use mocker_common::cgroup::limits::{self, Resources, Setting};
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;

use crate::plan::Cgroup;

/// What is to be made.
pub struct Asked {
    group: Group,
    settings: Vec<Setting>,
    rules: Vec<Rule>,
}

/// Reads and checks what the document asks for. Nothing is made.
pub fn asked(document: &Document, id: &ContainerId) -> Result<Asked, Error> {
    let hierarchies = Hierarchies::detect()?;
    let resources = Resources::read(document)?;
    let settings = resources.settings(&hierarchies)?;
    let path = document.text("/linux/cgroupsPath").filter(|path| !path.is_empty());
    let path = path.map(Path::new).unwrap_or(Path::new(id.as_str()));
    let name: ContainerId = path.file_name().and_then(|name| name.to_str()).unwrap_or("").parse()?;
    let group = Group::new(hierarchies, path.parent().unwrap_or(Path::new("/")), &name)?;
    Ok(Asked { group, settings, rules: with_defaults(resources.devices) })
}

/// The devices that every container has are always allowed (runtime-spec config-linux.md, Default Devices).
fn with_defaults(asked: Vec<Rule>) -> Vec<Rule> {
    const CHARACTER: [(i64, Option<i64>); 8] =
        [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];
    let rule = |allow, kind: &str, major, minor, access: &str| Rule {
        allow,
        kind: Some(kind.into()),
        major,
        minor,
        access: Some(access.into()),
    };
    let mut rules = match asked.is_empty() {
        true => vec![Rule { allow: false, access: Some("rwm".into()), ..Rule::default() }],
        false => asked,
    };
    rules.extend(["c", "b"].map(|kind| rule(true, kind, None, None, "m")));
    rules.extend(CHARACTER.map(|(major, minor)| rule(true, "c", Some(major), minor, "rwm")));
    rules
}

impl Asked {
    /// Where the groups will be: for the record, which comes before the thing.
    pub fn describe(&self) -> Cgroup {
        let all = &self.group.hierarchies.all;
        Cgroup {
            path: self.group.path.clone(),
            directories: all.iter().map(|hierarchy| self.group.directory(hierarchy)).collect(),
            unified: self.group.hierarchies.unified().map(|unified| self.group.directory(unified)),
            devices: true,
        }
    }

    /// Makes the groups and sets their limits.
    pub fn make(&self) -> Result<(), Error> {
        life::make(&self.group, &self.settings, false)?;
        limits::apply(&self.group, &self.settings)?;
        devices::confine(&self.group, &self.rules).map(drop)
    }
}

/// The group of a container that is there.
pub fn find(cgroup: &Cgroup) -> Result<Group, Error> {
    if cgroup.directories.is_empty() {
        return Err(Error::new("cannot find the container's group: it has none")
            .why("freezing, counting and killing all its processes is done by their group")
            .hint("… | mocker-cgroup | mocker-exec"));
    }
    let name: ContainerId = cgroup.path.file_name().and_then(|name| name.to_str()).unwrap_or("").parse()?;
    Group::new(Hierarchies::detect()?, cgroup.path.parent().unwrap_or(Path::new("/")), &name)
}

/// Whether the container stands frozen. Read from the one file that says it, since every `state` asks.
pub fn is_frozen(cgroup: &Cgroup) -> bool {
    let v1 = cgroup.directories.iter().filter_map(|one| fs::read_to_string(one.join("freezer.state")).ok()).next();
    let v2 = || cgroup.unified.as_ref().and_then(|one| fs::read_to_string(one.join("cgroup.events")).ok());
    match v1 {
        Some(state) => state.trim() != "THAWED",
        None => v2().is_some_and(|events| events.contains("frozen 1")),
    }
}

/// Kills whatever is left in the groups.
pub fn end_processes(cgroup: &Cgroup) -> Result<(), Error> {
    life::end_processes(&find(cgroup)?)
}

/// Kills what is left in the groups and removes them.
pub fn remove(cgroup: &Cgroup) -> Result<(), Error> {
    let group = find(cgroup)?;
    life::end_processes(&group)?;
    life::remove(&group)
}
