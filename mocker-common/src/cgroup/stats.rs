//! What a group uses, in the shape in which runtimes print it (`runc events`): that is what engines' libraries read.
//!
//! Zeros are left out where runc leaves them out. What the machine does not count is zero or empty. Source: cgroup-v1/cpuacct.rst,
//! memory.rst, blkio-controller.rst; cgroup-v2.rst.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cgroup::place::Group;

/// The member `data` of an event of type `stats`.
pub fn stats(group: &Group) -> Value {
    let v2 = group.hierarchies.version() == "v2";
    let unified = group.unified().unwrap_or_default();
    json!({
        "cpu": if v2 { cpu_v2(&unified) } else { cpu_v1(&Files::of(group, "cpuacct"), &Files::of(group, "cpu")) },
        "cpuset": cpuset(&Files::of(group, "cpuset")),
        "memory": if v2 { memory_v2(&Files(Some(unified.clone()))) } else { memory_v1(&Files::of(group, "memory")) },
        "pids": pids(&Files::of(group, "pids")),
        "blkio": if v2 { io_v2(&unified) } else { blkio(&Files::of(group, "blkio")) },
        "hugetlb": hugetlb(group),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// The files of a group's directory, if it has one.
struct Files(Option<PathBuf>);

impl Files {
    fn of(group: &Group, controller: &str) -> Files {
        Files(group.of(controller))
    }

    fn text(&self, file: &str) -> String {
        self.0.as_ref().and_then(|directory| fs::read_to_string(directory.join(file)).ok()).unwrap_or_default()
    }

    /// A file with one number; `max` is the largest there is.
    fn number(&self, file: &str) -> u64 {
        match self.text(file).trim() {
            "max" => u64::MAX,
            text => text.parse().unwrap_or(0),
        }
    }
}

/// A JSON object whose empty members are not there.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn number(mut self, key: &str, number: u64) -> Self {
        if number != 0 {
            self.0.insert(key.into(), number.into());
        }
        self
    }

    fn list(mut self, key: &str, list: Vec<Value>) -> Self {
        if !list.is_empty() {
            self.0.insert(key.into(), list.into());
        }
        self
    }

    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

/// The number behind a word: `nr_throttled 7`.
fn keyed(text: &str, key: &str) -> u64 {
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    number.unwrap_or(0)
}

fn cpu(usage: Object, kernel: u64, user: u64, throttling: [u64; 3]) -> Value {
    let throttling = Object::default()
        .number("periods", throttling[0])
        .number("throttledPeriods", throttling[1])
        .number("throttledTime", throttling[2]);
    json!({ "usage": usage.always("kernel", kernel).always("user", user).value(), "throttling": throttling.value() })
}

/// Nanoseconds; cpuacct.stat alone counts in hundredths of a second.
fn cpu_v1(cpuacct: &Files, cpu_files: &Files) -> Value {
    const TICK_NS: u64 = 10_000_000;
    let numbers = |text: &str| {
        text.split_ascii_whitespace().filter_map(|word| word.parse::<u64>().ok()).map(Value::from).collect()
    };
    let all = cpuacct.text("cpuacct.usage_all");
    let column = |index: usize| {
        let rows = all.lines().skip(1);
        rows.filter_map(|row| row.split(' ').nth(index)?.trim().parse::<u64>().ok())
            .map(Value::from)
            .collect::<Vec<_>>()
    };
    let usage = Object::default()
        .number("total", cpuacct.number("cpuacct.usage"))
        .list("percpu", numbers(&cpuacct.text("cpuacct.usage_percpu")))
        .list("percpu_kernel", column(2))
        .list("percpu_user", column(1));
    let stat = cpuacct.text("cpuacct.stat");
    let held = cpu_files.text("cpu.stat");
    let throttling = ["nr_periods", "nr_throttled", "throttled_time"].map(|key| keyed(&held, key));
    cpu(usage, keyed(&stat, "system") * TICK_NS, keyed(&stat, "user") * TICK_NS, throttling)
}

fn cpu_v2(directory: &Path) -> Value {
    let stat = Files(Some(directory.into())).text("cpu.stat");
    let ns = |key: &str| keyed(&stat, key) * 1000;
    let throttling = [keyed(&stat, "nr_periods"), keyed(&stat, "nr_throttled"), ns("throttled_usec")];
    cpu(Object::default().number("total", ns("usage_usec")), ns("system_usec"), ns("user_usec"), throttling)
}

/// `0-2,4` as [0, 1, 2, 4].
fn listed(text: &str) -> Vec<Value> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(part).flatten().map(Value::from).collect()
}

fn cpuset(files: &Files) -> Value {
    let number = |file: &str| files.number(&format!("cpuset.{file}"));
    let relax: i64 = files.text("cpuset.sched_relax_domain_level").trim().parse().unwrap_or(0);
    let lists = Object::default()
        .list("cpus", listed(&files.text("cpuset.cpus")))
        .always("cpu_exclusive", number("cpu_exclusive"))
        .list("mems", listed(&files.text("cpuset.mems")));
    let flags = [
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
    ];
    let all = flags.into_iter().fold(lists, |object, flag| object.always(flag, number(flag)));
    all.always("sched_relax_domain_level", relax).value()
}

/// All lines `word number` of a file.
fn raw(text: &str) -> Map<String, Value> {
    let pair = |line: &str| {
        let (key, number) = line.split_once(' ')?;
        Some((key.to_string(), Value::from(number.trim().parse::<u64>().ok()?)))
    };
    let mut pairs: Vec<(String, Value)> = text.lines().filter_map(pair).collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs.into_iter().collect()
}

fn entry(limit: u64, usage: u64, max: u64, failures: u64) -> Value {
    Object::default()
        .always("limit", limit)
        .number("usage", usage)
        .number("max", max)
        .always("failcnt", failures)
        .value()
}

fn memory_v1(files: &Files) -> Value {
    let one = |name: &str| {
        let number = |file: &str| files.number(&format!("memory.{name}{file}"));
        entry(number("limit_in_bytes"), number("usage_in_bytes"), number("max_usage_in_bytes"), number("failcnt"))
    };
    let stat = files.text("memory.stat");
    Object::default()
        .number("cache", keyed(&stat, "cache"))
        .always("usage", one(""))
        .always("swap", one("memsw."))
        .always("kernel", one("kmem."))
        .always("kernelTCP", one("kmem.tcp."))
        .always("raw", raw(&stat))
        .value()
}

/// v1's swap is memory and swap together: so is what is told of v2.
fn memory_v2(files: &Files) -> Value {
    let number = |file: &str| files.number(&format!("memory.{file}"));
    let (usage, limit) = (number("current"), number("max"));
    let swap_limit = match number("swap.max") {
        u64::MAX => u64::MAX,
        bytes => bytes.saturating_add(limit),
    };
    let stat = files.text("memory.stat");
    let none = || entry(0, 0, 0, 0);
    Object::default()
        .number("cache", keyed(&stat, "file"))
        .always("usage", entry(limit, usage, number("peak"), 0))
        .always("swap", entry(swap_limit, usage + number("swap.current"), 0, 0))
        .always("kernel", none())
        .always("kernelTCP", none())
        .always("raw", raw(&stat))
        .value()
}

fn pids(files: &Files) -> Value {
    let limit = Some(files.number("pids.max")).filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Object::default().number("current", files.number("pids.current")).number("limit", limit).value()
}

/// What is told of a disk, and the end of its file's name.
const DISK: [(&str, &str); 8] = [
    ("ioServiceBytesRecursive", "io_service_bytes"),
    ("ioServicedRecursive", "io_serviced"),
    ("ioQueueRecursive", "io_queued"),
    ("ioServiceTimeRecursive", "io_service_time"),
    ("ioWaitTimeRecursive", "io_wait_time"),
    ("ioMergedRecursive", "io_merged"),
    ("ioTimeRecursive", "time"),
    ("sectorsRecursive", "sectors"),
];

/// v1 counts in the scheduler that a disk has, or where it is throttled: the first that has counted anything.
fn blkio(files: &Files) -> Value {
    let names = |prefix: &'static str, ending: &'static str| move |kind: &str| format!("{prefix}{kind}{ending}");
    let sources: [&dyn Fn(&str) -> String; 4] = [
        &names("blkio.bfq.", "_recursive"),
        &names("blkio.", "_recursive"),
        &names("blkio.throttle.", "_recursive"),
        &names("blkio.throttle.", ""),
    ];
    let read = |name: &dyn Fn(&str) -> String| {
        DISK.into_iter().fold(Object::default(), |object, (key, kind)| {
            object.list(key, files.text(&name(kind)).lines().filter_map(disk_line).collect())
        })
    };
    sources.into_iter().map(read).find(|object| !object.0.is_empty()).unwrap_or_default().value()
}

/// `8:0 Read 4096`, or `8:0 4096` where there is one number for all. The last line is a total.
fn disk_line(line: &str) -> Option<Value> {
    let words: Vec<&str> = line.split([' ', ':']).collect();
    let (major, minor, operation, number) = match words[..] {
        [major, minor, operation, number] => (major, minor, operation, number),
        [major, minor, number] => (major, minor, "", number),
        _ => return None,
    };
    Some(disk_entry(major.parse().ok()?, minor.parse().ok()?, operation, number.parse().ok()?))
}

fn disk_entry(major: u64, minor: u64, operation: &str, number: u64) -> Value {
    let object = Object::default().number("major", major).number("minor", minor);
    let object = if operation.is_empty() { object } else { object.always("op", operation) };
    object.number("value", number).value()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn io_v2(directory: &Path) -> Value {
    let text = Files(Some(directory.into())).text("io.stat");
    let entries = |ending: &str| {
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let device = words.next().and_then(|device| device.split_once(':'));
            let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
                continue;
            };
            for (letter, operation) in [("r", "Read"), ("w", "Write"), ("d", "Discard")] {
                let key = format!("{letter}{ending}=");
                let number = words.clone().find_map(|word| word.strip_prefix(key.as_str())?.parse().ok());
                entries.extend(number.map(|number| disk_entry(major, minor, operation, number)));
            }
        }
        entries
    };
    Object::default()
        .list("ioServiceBytesRecursive", entries("bytes"))
        .list("ioServicedRecursive", entries("ios"))
        .value()
}

/// By the size of the pages. The sizes stand in the names of the files.
fn hugetlb(group: &Group) -> Value {
    let Some(directory) = group.of("hugetlb") else { return json!({}) };
    let v2 = group.hierarchies.of("hugetlb").is_some_and(|hierarchy| hierarchy.unified);
    let ending = if v2 { ".current" } else { ".usage_in_bytes" };
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let sizes = names.filter_map(|name| Some(name.strip_prefix("hugetlb.")?.strip_suffix(ending)?.to_string()));
    let mut sizes: Vec<String> = sizes.filter(|size| !size.contains('.')).collect();
    sizes.sort();

    let files = Files(Some(directory));
    let one = |size: String| {
        let number = |file: &str| files.number(&format!("hugetlb.{size}.{file}"));
        let (usage, max, failures) = match v2 {
            true => (number("current"), 0, keyed(&files.text(&format!("hugetlb.{size}.events")), "max")),
            false => (number("usage_in_bytes"), number("max_usage_in_bytes"), number("failcnt")),
        };
        let object = Object::default().number("usage", usage).number("max", max).always("failcnt", failures);
        (size.clone(), object.value())
    };
    Value::Object(sizes.into_iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_spelled_out() {
        assert_eq!(listed("0-2,4\n"), [0, 1, 2, 4].map(Value::from));
        assert_eq!(listed(""), Vec::<Value>::new());
    }

    #[test]
    fn lines_about_disks_become_entries() {
        let entry = json!({"major": 8, "op": "Read", "value": 4096});
        assert_eq!(disk_line("8:0 Read 4096"), Some(entry));
        assert_eq!(disk_line("8:16 7"), Some(json!({"major": 8, "minor": 16, "value": 7})));
        assert_eq!(disk_line("Total 4096"), None);
    }

    #[test]
    fn a_word_is_not_taken_for_another_that_begins_alike() {
        assert_eq!(keyed("user_usec 5\nuser 7\n", "user"), 7);
        assert_eq!(keyed("", "user"), 0);
    }

    #[test]
    fn numbers_of_v2_have_the_shape_of_v1() {
        let directory = std::env::temp_dir().join(format!("mocker-stats-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\n"),
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "20\n"),
            ("memory.swap.max", "50\n"),
            ("memory.stat", "anon 60\nfile 40\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ] {
            fs::write(directory.join(file), text).unwrap();
        }
        let files = Files(Some(directory.clone()));
        let (cpu, memory, io) = (cpu_v2(&directory), memory_v2(&files), io_v2(&directory));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(cpu["usage"], json!({"total": 9000, "kernel": 4000, "user": 5000}));
        assert_eq!(cpu["throttling"], json!({"periods": 2, "throttledPeriods": 1, "throttledTime": 3000}));
        assert_eq!((&memory["cache"], &memory["usage"]["limit"]), (&json!(40), &json!(u64::MAX)));
        assert_eq!(memory["swap"], json!({"limit": u64::MAX, "usage": 120, "failcnt": 0}));
        let bytes = json!([{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2}, {"major": 8, "op": "Discard"}]);
        assert_eq!(io["ioServiceBytesRecursive"], bytes);
    }
}
