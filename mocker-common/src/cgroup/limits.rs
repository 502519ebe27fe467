//! From `linux.resources` to lines in files: what each limit is called on v1 and on v2, and why it is set.
//!
//! cgroups-rs is not used to write limits: its `build` swallows a refused memory or cpuset limit, and a container would run
//! unlimited. Here every line is a step that can fail. Source: runtime-spec config-linux.md, Control groups.

use std::borrow::Cow;
use std::fs;

use serde_json::Value;

use crate::cgroup::calls::WriteFile;
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::place::Group;
use crate::cgroup::rare;
use crate::document::Document;
use crate::error::Error;
use crate::step::step;

pub use crate::cgroup::resources::{Cpu, Memory, Pids, Resources};

/// A line for a file of the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub controller: Cow<'static, str>,
    pub file: Cow<'static, str>,
    pub value: String,
    why: &'static str,
    /// the kernel may lack the file: then there is nothing to limit
    optional: bool,
    /// the kernel may refuse it until another limit has changed
    tried_again: bool,
    /// what to write where the kernel lacks the file
    otherwise: Option<Box<Setting>>,
}

pub fn set(
    controller: impl Into<Cow<'static, str>>,
    file: impl Into<Cow<'static, str>>,
    value: impl ToString,
    why: &'static str,
) -> Setting {
    let (controller, file) = (controller.into(), file.into());
    Setting { controller, file, value: value.to_string(), why, optional: false, tried_again: false, otherwise: None }
}

impl Setting {
    pub fn optional(self) -> Setting {
        Setting { optional: true, ..self }
    }

    pub fn tried_again(self) -> Setting {
        Setting { tried_again: true, ..self }
    }

    pub fn or(self, otherwise: Setting) -> Setting {
        Setting { otherwise: Some(Box::new(otherwise)), ..self }
    }
}

/// The words of v2: no limit is `max`.
pub fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// What mocker-cgroup sets of `linux.resources`; the rest it refuses by name.
const KNOWN: [(&str, &[&str]); 9] = [
    ("devices", &[]),
    (
        "memory",
        &[
            "limit",
            "reservation",
            "swap",
            "kernelTCP",
            "swappiness",
            "disableOOMKiller",
            "checkBeforeUpdate",
            "useHierarchy",
        ],
    ),
    ("cpu", &["shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems", "idle"]),
    ("pids", &["limit"]),
    (
        "blockIO",
        &[
            "weight",
            "leafWeight",
            "weightDevice",
            "throttleReadBpsDevice",
            "throttleWriteBpsDevice",
            "throttleReadIOPSDevice",
            "throttleWriteIOPSDevice",
        ],
    ),
    ("hugepageLimits", &[]),
    ("network", &["classID", "priorities"]),
    ("rdma", &[]),
    ("unified", &[]),
];

impl Resources {
    /// Reads and checks a document's limits. One that cannot be set is refused: without it the container would run with
    /// less confinement than was asked for.
    pub fn read(document: &Document) -> Result<Self, Error> {
        for (kind, part) in document.get("/linux/resources").and_then(Value::as_object).into_iter().flatten() {
            match KNOWN.iter().find(|(known, _)| known == kind) {
                None if asks(part) => return Err(unknown(kind)),
                Some((_, keys)) if part.is_object() && !keys.is_empty() => {
                    let mut asked = part.as_object().into_iter().flatten().filter(|(_, value)| asks(value));
                    if let Some((key, _)) = asked.find(|(key, _)| !keys.contains(&key.as_str())) {
                        return Err(unknown(&format!("{kind}.{key}")));
                    }
                }
                _ => {}
            }
        }
        let mut resources = Self::parse(document.get("/linux/resources"))?;
        // 0 is a limit here; 1 is the smallest that lets the first process be there.
        resources.pids.limit = resources.pids.limit.map(|limit| if limit == 0 { 1 } else { limit });
        Ok(resources)
    }

    /// The lines for a new group, in the order the kernel needs. Fails if the machine lacks a controller, or on what the
    /// kernel would answer with a bare EINVAL.
    pub fn settings(&self, hierarchies: &Hierarchies) -> Result<Vec<Setting>, Error> {
        self.settings_over(hierarchies, None)
    }

    /// The same for a group that has limits: `memory` is the one on memory that stands now.
    pub fn settings_over(&self, hierarchies: &Hierarchies, memory: Option<u64>) -> Result<Vec<Setting>, Error> {
        let is_v2 = |controller: &str| hierarchies.need(controller).map(|hierarchy| hierarchy.unified);
        let mut settings = Vec::new();
        if self.memory.is_limited() {
            settings.extend(self.memory.settings(is_v2("memory")?, memory)?);
        }
        if self.cpu.is_limited() {
            settings.extend(self.cpu.settings(is_v2("cpu")?)?);
        }
        if !(self.cpu.cpus.is_empty() && self.cpu.mems.is_empty()) {
            is_v2("cpuset")?;
            settings.extend(self.cpu.set_settings());
        }
        if let Some(limit) = self.pids.limit.filter(|limit| *limit != 0) {
            const FORKS: &str =
                "a program that forks without end would use up the process numbers of the whole machine";
            is_v2("pids")?;
            settings.push(set("pids", "pids.max", or_max(limit), FORKS));
        }
        if self.block_io.is_limited() {
            let v2 = hierarchies.of("blkio").is_none() && is_v2("io")?;
            settings.extend(self.block_io.settings(v2));
        }
        if !self.hugepage_limits.is_empty() {
            settings.extend(rare::hugepages(&self.hugepage_limits, is_v2("hugetlb")?)?);
        }
        for setting in self.network.settings().into_iter().chain(rare::rdma(&self.rdma)) {
            is_v2(&setting.controller)?;
            settings.push(setting);
        }
        settings.extend(rare::unified(&self.unified, hierarchies)?);
        Ok(settings)
    }
}

fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(asked) => *asked,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(asks),
    }
}

fn unknown(what: &str) -> Error {
    Error::new(format!("cannot set the document's linux.resources.{what}: mocker-cgroup has no such limit"))
        .why("a container must never run with less confinement than was asked for")
        .hint(format!("jq 'del(.linux.resources.{what})' takes it out, if it is not needed"))
}

/// Writes the limits into the group's files.
pub fn apply(group: &Group, settings: &[Setting]) -> Result<(), Error> {
    let mut refused = Vec::new();
    for setting in settings {
        match write(group, setting) {
            Err(error) if error.errno == libc::EINVAL && setting.tried_again => refused.push(setting),
            outcome => outcome?,
        }
    }
    refused.into_iter().try_for_each(|setting| write(group, setting))
}

/// The limit on memory that stands in a group of v1.
pub fn memory_limit(group: &Group) -> Option<u64> {
    fs::read_to_string(group.of("memory")?.join("memory.limit_in_bytes")).ok()?.trim().parse().ok()
}

fn write(group: &Group, setting: &Setting) -> Result<(), Error> {
    let hierarchy = match setting.controller.as_ref() {
        "cgroup" => group.hierarchies.unified(), // the files that every group of v2 has
        controller => Some(group.hierarchies.need(controller)?),
    };
    let Some(hierarchy) = hierarchy else { return Ok(()) };
    let path = group.directory(hierarchy).join(setting.file.as_ref());
    match (step(WriteFile { path: &path, value: &setting.value }).because(setting.why), &setting.otherwise) {
        (Err(error), Some(otherwise)) if error.errno == libc::ENOENT => write(group, otherwise),
        (Err(error), None) if error.errno == libc::ENOENT && setting.optional => Ok(()),
        // Not in the kernel's words, which engines take for a program that is missing in the image.
        (Err(error), _) if error.errno == libc::ENOENT => {
            Err(Error { what: format!("cannot set {}: the kernel has no such limit", path.display()), ..error })
        }
        (outcome, _) => outcome,
    }
}

/// `memory.max=100`, for tests: with what is written otherwise behind a bar.
#[cfg(test)]
pub fn lines(settings: &[Setting]) -> Vec<String> {
    let line = |setting: &Setting| format!("{}={}", setting.file, setting.value);
    let otherwise = |setting: &Setting| setting.otherwise.as_deref().map(|other| format!("|{}", line(other)));
    settings.iter().map(|setting| line(setting) + &otherwise(setting).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_be_set_is_refused_by_name() {
        let mut document = Document::new();
        document.set("/linux/resources/memory/swappiness", -1); // asks for nothing
        document.set("/linux/resources/network", serde_json::json!({}));
        assert!(Resources::read(&document).is_ok());
        document.set("/linux/resources/memory/kernel", 4096);
        let error = Resources::read(&document).unwrap_err();
        assert!(error.what.contains("linux.resources.memory.kernel"), "{error}");
        let mut document = Document::new();
        document.set("/linux/resources/newController/weight", 10);
        assert!(Resources::read(&document).unwrap_err().what.contains("newController"));
    }

    #[test]
    fn no_number_of_processes_is_one_in_a_document_and_unset_for_a_runtime() {
        let mut document = Document::new();
        document.set("/linux/resources/pids/limit", 0);
        assert_eq!(Resources::read(&document).unwrap().pids.limit, Some(1));
        assert!(Resources::parse(document.get("/linux/resources")).unwrap().pids.limit == Some(0));
    }
}
