//! From `linux.resources` to lines in files: what each limit is called on v1 and on v2, and why it is set.
//!
//! cgroups-rs is not used to write limits: its `build` swallows a refused memory or cpuset limit, and a container would run
//! unlimited. Here every line is a step that can fail. Source: runtime-spec config-linux.md, Control groups.

use std::path::PathBuf;

use crate::document::Document;
use crate::error::Error;
use crate::step::step;
use serde::Deserialize;
use serde_json::Value;

use crate::cgroup::calls::WriteFile;
use crate::cgroup::cpu;
use crate::cgroup::devices::Rule;
use crate::cgroup::hierarchy::{Group, Hierarchies};

/// What mocker-cgroup can set of `linux.resources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub devices: Vec<Rule>,
    pub memory: Memory,
    pub cpu: Cpu,
    pub pids: Pids,
}

/// Bytes; −1 is no limit. `swap` is memory and swap together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
}

/// Times in microseconds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub burst: Option<u64>,
    pub period: Option<u64>,
    pub cpus: String,
    pub mems: String,
    pub idle: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pids {
    pub limit: Option<i64>,
}

/// A line for a file of the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
    why: &'static str,
    /// the kernel may lack the file: then there is nothing to limit
    optional: bool,
}

/// What of `linux.resources` is set here; the rest is refused by name.
const KNOWN: [(&str, &[&str]); 4] = [
    ("devices", &[]),
    ("memory", &["limit", "reservation", "swap", "checkBeforeUpdate", "useHierarchy"]),
    ("cpu", &["shares", "quota", "burst", "period", "cpus", "mems", "idle"]),
    ("pids", &["limit"]),
];

impl Resources {
    /// Reads and checks the document's limits. One that cannot be set is refused: without it the container would run with
    /// less confinement than was asked for.
    pub fn read(document: &Document) -> Result<Self, Error> {
        for (kind, part) in document.get("/linux/resources").and_then(Value::as_object).into_iter().flatten() {
            match KNOWN.iter().find(|(known, _)| known == kind) {
                None if asks(part) => return Err(unknown(kind)),
                Some((_, keys)) if part.is_object() => {
                    let mut asked = part.as_object().into_iter().flatten().filter(|(_, value)| asks(value));
                    if let Some((key, _)) = asked.find(|(key, _)| !keys.contains(&key.as_str())) {
                        return Err(unknown(&format!("{kind}.{key}")));
                    }
                }
                _ => {}
            }
        }
        document.view("/linux/resources")
    }

    /// The lines to write, in the order the kernel needs. Fails if the machine lacks a controller, or on what the kernel
    /// would answer with a bare EINVAL.
    pub fn settings(&self, hierarchies: &Hierarchies) -> Result<Vec<Setting>, Error> {
        let is_v2 = |controller: &str| hierarchies.need(controller).map(|hierarchy| hierarchy.unified);
        let mut settings = Vec::new();
        if self.memory.is_limited() {
            settings.extend(self.memory.settings(is_v2("memory")?)?);
        }
        if self.cpu.is_limited() {
            settings.extend(self.cpu.settings(is_v2("cpu")?)?);
        }
        if !(self.cpu.cpus.is_empty() && self.cpu.mems.is_empty()) {
            is_v2("cpuset")?;
            settings.extend(self.cpu.set_settings());
        }
        if let Some(limit) = self.pids.limit {
            is_v2("pids")?;
            settings.push(pids_setting(limit));
        }
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

fn set(controller: &'static str, file: &'static str, value: impl ToString, why: &'static str) -> Setting {
    Setting { controller, file, value: value.to_string(), why, optional: false }
}

/// The words of v2: no limit is `max`.
fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

impl Memory {
    fn is_limited(&self) -> bool {
        [self.limit, self.reservation, self.swap].iter().flatten().any(|value| *value != 0)
    }

    fn settings(&self, v2: bool) -> Result<Vec<Setting>, Error> {
        let [limit, reservation, swap] =
            [self.limit, self.reservation, self.swap].map(|value| value.filter(|value| *value != 0));
        for (key, value) in [("limit", limit), ("reservation", reservation), ("swap", swap)] {
            if value.is_some_and(|value| value < -1) {
                return Err(Error::new(format!(
                    "cannot use memory.{key} {}: bytes, or -1 for no limit",
                    value.unwrap_or(0)
                )));
            }
        }
        if let (Some(limit), Some(swap)) = (limit, swap)
            && swap >= 0
            && swap < limit
        {
            return Err(Error::new(format!(
                "cannot use memory.swap {swap}: it is memory and swap together, and memory.limit is {limit}"
            )));
        }
        // No limit on memory means none on swap either, unless one is given.
        let swap = swap.or((limit == Some(-1)).then_some(-1));

        const LIMIT: &str =
            "without it one container's leak makes the kernel kill whatever process of the whole machine it likes";
        const SWAP: &str =
            "what does not fit in memory would go to swap without end, and slow the machine instead of ending";
        const LOW: &str = "when memory is short, the kernel takes it from those above their reservation first";
        let mut settings = Vec::new();
        if v2 {
            settings.extend(limit.map(|limit| set("memory", "memory.max", or_max(limit), LIMIT)));
            let swap_alone = match (swap, limit) {
                (Some(swap @ 0..), Some(limit @ 0..)) => Some((swap - limit).to_string()),
                (Some(-1), _) => Some("max".into()),
                (Some(_), _) => {
                    return Err(Error::new(
                        "cannot use memory.swap without memory.limit: v2 limits swap alone, and it is their difference",
                    ));
                }
                (None, _) => None,
            };
            if let Some(value) = swap_alone {
                let optional =
                    value == "0" || value == "max" || limit.is_some_and(|limit| swap == Some(limit.saturating_mul(2)));
                settings.push(Setting { optional, ..set("memory", "memory.swap.max", value, SWAP) });
            }
            settings.extend(reservation.map(|bytes| set("memory", "memory.low", bytes.max(0), LOW)));
        } else {
            // A new group has no limits, so memory goes first: the pair may never be below it.
            settings.extend(limit.map(|limit| set("memory", "memory.limit_in_bytes", limit, LIMIT)));
            if let Some(swap) = swap {
                let optional = swap == -1;
                settings.push(Setting { optional, ..set("memory", "memory.memsw.limit_in_bytes", swap, SWAP) });
            }
            settings.extend(reservation.map(|bytes| set("memory", "memory.soft_limit_in_bytes", bytes, LOW)));
        }
        Ok(settings)
    }
}

impl Cpu {
    fn is_limited(&self) -> bool {
        let numbers = [self.shares, self.burst, self.period, self.quota.map(|quota| quota as u64)];
        numbers.iter().flatten().any(|value| *value != 0) || self.idle.is_some()
    }

    fn settings(&self, v2: bool) -> Result<Vec<Setting>, Error> {
        const TIME: &str = "without it a busy container takes every cpu; at its quota it now waits for the next period";
        const SPAN: &str =
            "the quota counts within this span: a short one spreads the time evenly, a long one lets bursts pass";
        const SHARE: &str = "when more wants to run than there are cpus, time is dealt out by this weight";
        const BURST: &str = "time saved in quiet periods may be used in a busy one, up to this";
        const IDLE: &str = "it runs only when nothing else wants to";
        let quota = self.quota.filter(|quota| *quota != 0);
        let period = self.period.filter(|period| *period != 0);
        if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
            return Err(Error::new(format!(
                "cannot use cpu.period {}: 1000 to 1000000 microseconds are possible",
                period.unwrap_or(0)
            )));
        }
        if quota.is_some_and(|quota| quota > 0 && quota < 1000) {
            return Err(Error::new(format!(
                "cannot use cpu.quota {}: at least 1000 microseconds, or -1 for no limit",
                quota.unwrap_or(0)
            )));
        }

        let mut settings = Vec::new();
        let shares = self.shares.filter(|shares| *shares != 0);
        let burst = self.burst.filter(|burst| *burst != 0);
        if v2 {
            settings.extend(shares.map(|shares| set("cpu", "cpu.weight", cpu::weight(shares), SHARE)));
            settings.extend(self.idle.map(|idle| set("cpu", "cpu.idle", idle, IDLE)));
            if quota.is_some() || period.is_some() {
                let line = format!("{} {}", or_max(quota.unwrap_or(-1)), period.unwrap_or(cpu::PERIOD_US as u64));
                settings.push(set("cpu", "cpu.max", line, TIME));
            }
            settings.extend(burst.map(|burst| set("cpu", "cpu.max.burst", burst, BURST)));
        } else {
            settings.extend(shares.map(|shares| set("cpu", "cpu.shares", shares, SHARE)));
            settings.extend(self.idle.map(|idle| set("cpu", "cpu.idle", idle, IDLE)));
            settings.extend(period.map(|period| set("cpu", "cpu.cfs_period_us", period, SPAN)));
            settings.extend(quota.map(|quota| set("cpu", "cpu.cfs_quota_us", quota.max(-1), TIME)));
            settings.extend(burst.map(|burst| set("cpu", "cpu.cfs_burst_us", burst, BURST)));
        }
        Ok(settings)
    }

    fn set_settings(&self) -> Vec<Setting> {
        const CPUS: &str = "its threads run on these cpus only, so that others keep theirs, caches included";
        const MEMS: &str = "its memory comes from these nodes only: near its cpus, and not from others' banks";
        let lists = [("cpuset.cpus", &self.cpus, CPUS), ("cpuset.mems", &self.mems, MEMS)];
        lists
            .into_iter()
            .filter(|(_, list, _)| !list.is_empty())
            .map(|(file, list, why)| set("cpuset", file, list, why))
            .collect()
    }
}

/// 0 is a limit in the specification; 1 is the smallest that lets the first process be there.
fn pids_setting(limit: i64) -> Setting {
    const WHY: &str = "a program that forks without end would use up the process numbers of the whole machine";
    let value = if limit < 0 { "max".into() } else { limit.max(1).to_string() };
    set("pids", "pids.max", value, WHY)
}

/// Writes the limits into the group's files.
pub fn apply(group: &Group, settings: &[Setting]) -> Result<(), Error> {
    for setting in settings {
        let directory: PathBuf = group.directory(group.hierarchies.need(setting.controller)?);
        let path = directory.join(setting.file);
        if setting.optional && !path.exists() {
            continue;
        }
        step(WriteFile { path: &path, value: &setting.value }).because(setting.why)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn memory_is_written_in_the_words_of_each_version() {
        let memory = |limit, swap| Memory { limit, reservation: None, swap };
        type Case = (Option<i64>, Option<i64>, &'static [&'static str], &'static [&'static str]);
        let cases: [Case; 5] = [
            (Some(100), None, &["memory.limit_in_bytes=100"], &["memory.max=100"]),
            (
                Some(100),
                Some(250),
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=250"],
                &["memory.max=100", "memory.swap.max=150"],
            ),
            (
                Some(100),
                Some(100),
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"],
                &["memory.max=100", "memory.swap.max=0"],
            ),
            (
                Some(100),
                Some(-1),
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"],
                &["memory.max=100", "memory.swap.max=max"],
            ),
            (
                Some(-1),
                None,
                &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
                &["memory.max=max", "memory.swap.max=max"],
            ),
        ];
        for (limit, swap, v1, v2) in cases {
            assert_eq!(lines(&memory(limit, swap).settings(false).unwrap()), v1);
            assert_eq!(lines(&memory(limit, swap).settings(true).unwrap()), v2);
        }
        assert!(memory(Some(100), Some(99)).settings(false).is_err());
        assert!(memory(None, Some(99)).settings(true).is_err());
        assert!(memory(Some(-5), None).settings(false).is_err());
    }

    #[test]
    fn quota_and_period_go_together_on_v2_and_period_first_on_v1() {
        let cpu = Cpu { quota: Some(150_000), period: Some(100_000), shares: Some(1024), ..Cpu::default() };
        assert_eq!(lines(&cpu.settings(true).unwrap()), ["cpu.weight=100", "cpu.max=150000 100000"]);
        assert_eq!(
            lines(&cpu.settings(false).unwrap()),
            ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000"]
        );
        let alone = Cpu { quota: Some(-1), ..Cpu::default() };
        assert_eq!(lines(&alone.settings(true).unwrap()), ["cpu.max=max 100000"]);
        assert!(Cpu { quota: Some(10), ..Cpu::default() }.settings(true).is_err());
        assert!(Cpu { period: Some(10), ..Cpu::default() }.settings(false).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_refused_by_name() {
        let mut document = Document::new();
        document.set("/linux/resources/memory/swappiness", 0); // asks for nothing
        document.set("/linux/resources/network", serde_json::json!({}));
        assert!(Resources::read(&document).is_ok());
        document.set("/linux/resources/memory/kernel", 4096);
        let error = Resources::read(&document).unwrap_err();
        assert!(error.what.contains("linux.resources.memory.kernel"), "{error}");
        let mut document = Document::new();
        document.set("/linux/resources/blockIO/weight", 10);
        assert!(Resources::read(&document).unwrap_err().what.contains("blockIO"));
    }
}
