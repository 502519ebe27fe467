//! The groups of a container that an engine asked for: made from `linux.cgroupsPath` and `linux.resources`, removed with it.

use std::fs;
use std::path::Path;

use mocker_common::cgroup::devices::{self, Rule};
use mocker_common::cgroup::end;
use mocker_common::cgroup::hierarchy::Hierarchies;
use mocker_common::cgroup::life::{self, Made};
use mocker_common::cgroup::limits::{self, Resources, Setting};
use mocker_common::cgroup::place::Group;
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;

use crate::plan::Cgroup;

/// What is to be made.
pub struct Asked {
    group: Group,
    resources: Resources,
    settings: Vec<Setting>,
    rules: Vec<Rule>,
    /// whether the container may do without, where nobody lets us make groups
    may_lack: bool,
}

/// Reads and checks what the document asks for. Nothing is made.
pub fn asked(document: &Document, id: &ContainerId, systemd: bool) -> Result<Asked, Error> {
    let resources = Resources::parse(document.get("/linux/resources"))?;
    let hierarchies = Hierarchies::detect()?;
    let settings = resources.settings(&hierarchies)?;
    let path = document.text("/linux/cgroupsPath").unwrap_or_default();
    let group = Group::named(hierarchies, path, id.as_str(), systemd)?;
    life::check(&group)?;
    // What every container may open stands behind what was asked for.
    let rules = resources.devices.iter().cloned().chain(devices::defaults()).collect();
    Ok(Asked { group, resources, settings, rules, may_lack: path.is_empty() && !is_root_of_the_machine() })
}

/// Root in a user namespace is an ordinary user outside, as far as groups are concerned.
fn is_root_of_the_machine() -> bool {
    const ALL: &str = "4294967295";
    let maps_all = || fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.trim().ends_with(ALL));
    rustix::process::geteuid().is_root() && maps_all()
}

impl Asked {
    /// Where the groups will be: for the record, which comes before the thing.
    pub fn describe(&self) -> Cgroup {
        let unified = self.group.hierarchies.unified().map(|unified| self.group.directory(unified));
        Cgroup {
            path: self.group.path.clone(),
            directories: self.group.places().collect(),
            unified,
            devices: true,
            group: Some(self.group.clone()),
        }
    }

    /// Makes the groups and sets their limits. Returns where they are. If it fails, what it made is gone: groups that turn out
    /// to be somebody else's must not be removed with the rest of the container.
    pub fn make(&mut self) -> Result<Cgroup, Error> {
        let made = life::ensure(&mut self.group, &self.settings, self.may_lack)?;
        self.limit(made).map_err(|mut error| {
            error.also.extend(end::delete(&self.group).err().map(|also| also.to_string()));
            error
        })
    }

    fn limit(&mut self, made: Made) -> Result<Cgroup, Error> {
        let have = &self.group.hierarchies;
        if let Some(lacks) = self.settings.iter().find(|setting| have.of(&setting.controller).is_none()) {
            return Err(Error::new(format!(
                "cannot set {} limit: container could not join or create cgroup",
                lacks.controller
            ))
            .why("a container must never run less confined than was asked")
            .hint("as root; or without limits; or below a group that was delegated to you (cgroups(7), Delegation)"));
        }
        if made == Made::Reused {
            // Its limits may stand in the way of the new ones.
            self.settings = self.resources.settings_over(have, limits::memory_limit(&self.group))?;
        }
        limits::apply(&self.group, &self.settings)?;
        let devices = devices::enforce(&self.group, &self.rules, made == Made::New)?;
        Ok(Cgroup { devices, ..self.describe() })
    }
}

/// The group of a container that is there.
pub fn find(cgroup: &Cgroup) -> Result<Group, Error> {
    if let Some(group) = &cgroup.group {
        return Ok(group.clone());
    }
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
    let state = |one: &Path| fs::read_to_string(one.join("freezer.state")).ok();
    let v1 = match &cgroup.group {
        Some(group) => group.hierarchies.of("freezer").and_then(|freezer| state(&group.directory(freezer))),
        None => cgroup.directories.iter().find_map(|one| state(one)),
    };
    let v2 = || cgroup.unified.as_ref().and_then(|one| fs::read_to_string(one.join("cgroup.events")).ok());
    match v1 {
        Some(state) => state.trim() != "THAWED",
        None => v2().is_some_and(|events| events.contains("frozen 1")),
    }
}

/// Kills whatever is left in the groups.
pub fn end_processes(cgroup: &Cgroup) -> Result<(), Error> {
    end::end_processes(&find(cgroup)?)
}

/// Kills what is left in the groups and removes them.
pub fn remove(cgroup: &Cgroup) -> Result<(), Error> {
    end::delete(&find(cgroup)?)
}
