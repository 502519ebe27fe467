//! `stat` and `ls`: what groups use and may use.
//!
//! The numbers are read by cgroups-rs, which knows the files of both versions. Read before delete: they go with the group.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::Cgroup;
use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use mocker_common::cgroup::end::processes;
use mocker_common::cgroup::freeze::is_frozen;
use mocker_common::cgroup::place::Group;
use mocker_common::document::ContainerId;
use mocker_common::error::{Error, failed};
use mocker_common::stage;
use mocker_common::state::{self, Directories};
use mocker_common::units::format_size;
use serde_json::{Value, json};

use crate::{TOOL, life};

/// Prints one group.
pub fn stat(id: &ContainerId, as_json: bool) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let numbers = read(id, &life::find_present(id)?);
    let text = match as_json {
        true => format!("{numbers:#}\n"),
        false => describe(&numbers),
    };
    print(&text)
}

/// Prints every group that has a record or stands below the usual parent.
pub fn list(as_json: bool) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let mut ids = state::ids_of(&Directories::from_env(), TOOL);
    if let Ok(group) = "x".parse().and_then(|id| life::find(&id)) {
        let parents = group.hierarchies.all.iter().filter_map(|hierarchy| group.parents(hierarchy).pop());
        ids.extend(parents.flat_map(|parent| names_in(&parent)));
    }
    ids.sort();
    ids.dedup();

    let mut all = Vec::new();
    for id in ids.iter().filter_map(|id| id.parse::<ContainerId>().ok()) {
        let group = life::find(&id)?;
        if !group.directories().is_empty() {
            all.push(read(&id, &group));
        }
    }
    match as_json {
        true => print(&format!("{:#}\n", Value::Array(all))),
        false => print(&table(&all)),
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The numbers of a group. What has no limit, or no controller, is null.
fn read(id: &ContainerId, group: &Group) -> Value {
    let path: PathBuf = group.path.strip_prefix("/").unwrap_or(&group.path).into();
    let cgroup = Cgroup::load(hierarchies::auto(), &path);
    let here = |controller: &str| group.of(controller).is_some();

    let memory = cgroup.controller_of::<MemController>().filter(|_| here("memory")).map(|controller| {
        let memory = controller.memory_stat();
        json!({
            "usage_bytes": memory.usage_in_bytes,
            "limit_bytes": limit(memory.limit_in_bytes),
            "max_usage_bytes": memory.max_usage_in_bytes,
            "oom_kills": oom_kills(group).unwrap_or(memory.oom_control.oom_kill),
        })
    });
    let pids = cgroup.controller_of::<PidController>().filter(|_| here("pids")).map(|controller| {
        let limit = match controller.get_pid_max() {
            Ok(MaxValue::Value(limit)) => Some(limit),
            _ => None,
        };
        json!({ "current": controller.get_pid_current().unwrap_or(0), "limit": limit })
    });
    let cpu = cgroup.controller_of::<CpuController>().filter(|_| here("cpu")).map(|controller| {
        let stat = controller.cpu().stat;
        let period = controller.cfs_period().ok().filter(|period| *period > 0);
        let quota = controller.cfs_quota().ok().filter(|quota| *quota > 0);
        json!({
            "usage_us": cpu_usage_us(group, &stat),
            "throttled_us": keyed(&stat, "throttled_usec").or(keyed(&stat, "throttled_time").map(|ns| ns / 1000)),
            "throttled_periods": keyed(&stat, "nr_throttled"),
            "quota_us": quota,
            "period_us": period,
        })
    });
    json!({
        "id": id.as_str(),
        "path": group.path,
        "version": group.hierarchies.version(),
        "directories": group.directories(),
        "frozen": is_frozen(group),
        "processes": processes(group),
        "memory": memory,
        "pids": pids,
        "cpu": cpu,
    })
}

/// v1 writes a number near 2^63 for no limit, v2 `max`, which cgroups-rs reads as i64::MAX.
fn limit(bytes: i64) -> Option<i64> {
    const NEAR_THE_END: i64 = i64::MAX - (1 << 16);
    (0..NEAR_THE_END).contains(&bytes).then_some(bytes)
}

/// v2 counts in memory.events, which cgroups-rs does not read.
fn oom_kills(group: &Group) -> Option<u64> {
    keyed(&fs::read_to_string(group.of("memory")?.join("memory.events")).ok()?, "oom_kill")
}

/// v2 counts in cpu.stat, v1 in a controller of its own, in nanoseconds.
fn cpu_usage_us(group: &Group, stat: &str) -> Option<u64> {
    keyed(stat, "usage_usec").or_else(|| {
        let text = fs::read_to_string(group.of("cpuacct")?.join("cpuacct.usage")).ok()?;
        Some(text.trim().parse::<u64>().ok()? / 1000)
    })
}

/// The number behind a word: `nr_throttled 7`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or("-".into(), format_size)
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |number| number.to_string())
}

fn cpus(cpu: &Value) -> String {
    match (cpu["quota_us"].as_f64(), cpu["period_us"].as_f64()) {
        (Some(quota), Some(period)) => format!("{}", (quota / period * 100.0).round() / 100.0),
        _ => "-".into(),
    }
}

fn describe(numbers: &Value) -> String {
    let directories = numbers["directories"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let (memory, pids, cpu) = (&numbers["memory"], &numbers["pids"], &numbers["cpu"]);
    let state = if numbers["frozen"] == true { "frozen" } else { "running" };
    let mut text =
        format!("{} ({}, {state})\n", numbers["id"].as_str().unwrap_or(""), numbers["version"].as_str().unwrap_or(""));
    text += &format!(
        "  memory  {} of {}, at most {}; {} killed for lack of it\n",
        bytes(&memory["usage_bytes"]),
        bytes(&memory["limit_bytes"]),
        bytes(&memory["max_usage_bytes"]),
        number(&memory["oom_kills"])
    );
    text += &format!("  pids    {} of {}\n", number(&pids["current"]), number(&pids["limit"]));
    text += &format!(
        "  cpu     {} us used, on {} cpus; held back {} times, {} us\n",
        number(&cpu["usage_us"]),
        cpus(cpu),
        number(&cpu["throttled_periods"]),
        number(&cpu["throttled_us"])
    );
    directories.fold(text, |text, directory| format!("{text}  {directory}\n"))
}

fn table(all: &[Value]) -> String {
    let heading = ["id", "processes", "memory", "limit", "pids", "limit", "cpus"].map(String::from);
    let rows = all.iter().map(|group| {
        [
            group["id"].as_str().unwrap_or("").to_string(),
            group["processes"].as_array().map_or(0, Vec::len).to_string(),
            bytes(&group["memory"]["usage_bytes"]),
            bytes(&group["memory"]["limit_bytes"]),
            number(&group["pids"]["current"]),
            number(&group["pids"]["limit"]),
            cpus(&group["cpu"]),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &[String; 7]| {
        let cells: String =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}  ", width(column))).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

fn print(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_told_as_none_on_both_versions() {
        assert_eq!(limit(9_223_372_036_854_771_712), None); // v1: pages, so not the very end
        assert_eq!(limit(i64::MAX), None);
        assert_eq!(limit(-1), None);
        assert_eq!(limit(1 << 28), Some(1 << 28));
    }

    #[test]
    fn a_word_is_not_taken_for_another_that_begins_alike() {
        let stat = "nr_throttled_x 1\nnr_throttled 7\nthrottled_usec 9\n";
        assert_eq!(keyed(stat, "nr_throttled"), Some(7));
        assert_eq!(keyed(stat, "nr"), None);
    }
}
