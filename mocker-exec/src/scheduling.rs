//! When the container's processes run and on what: scheduler policy, I/O priority, CPU affinity.
//!
//! In: `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`. All three belong to a thread and pass on to
//! what it starts, so they are set once, before execve; raising a priority needs CAP_SYS_NICE, so before capabilities
//! are dropped. Source: sched_setattr(2), ioprio_set(2), sched_setaffinity(2); runtime-spec config.md, Linux Process.

use mocker_common::error::Error;
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use serde::Deserialize;

use crate::calls::explained;
use crate::ranges::BitSet;

/// `process.scheduler`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    pub policy: String,
    pub nice: i32,
    pub priority: i32,
    pub flags: Option<Vec<String>>,
    /// nanoseconds, as the next two
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `process.ioPriority`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    pub class: String,
    pub priority: i32,
}

/// `process.execCPUAffinity`: where a process of `exec` runs, before and after it is in the container's cgroup.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    pub initial: String,
    #[serde(rename = "final")]
    pub last: String,
}

/// By number (linux/sched.h).
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const CLASSES: [(&str, i32); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

impl Scheduler {
    /// What the kernel is to be told. Refuses here what it would refuse without a word, or ignore.
    pub fn attributes(&self) -> Result<Attributes, Error> {
        let refused = |cause: String| Error::new(format!("cannot use process.scheduler: {cause}"));
        let policy = lookup(&POLICIES, &self.policy)
            .ok_or_else(|| refused(format!("no policy '{}'", self.policy)).hint(names(&POLICIES)))?;
        if !(-20..=19).contains(&self.nice) {
            return Err(refused(format!("invalid scheduler.nice: {}", self.nice)).hint("-20 to 19"));
        }
        let realtime = ["SCHED_FIFO", "SCHED_RR"].contains(&self.policy.as_str());
        if self.priority != 0 && !realtime {
            return Err(refused("scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into()));
        }
        if self.policy != "SCHED_DEADLINE" && (self.runtime, self.deadline, self.period) != (0, 0, 0) {
            return Err(refused(
                "scheduler runtime/deadline/period can only be specified for SchedDeadline policy".into(),
            ));
        }
        let flags = self.flags.iter().flatten().try_fold(0, |all, flag| {
            let bit = lookup(&FLAGS, flag).ok_or_else(|| refused(format!("no flag '{flag}'")).hint(names(&FLAGS)))?;
            Ok(all | bit)
        })?;
        Ok(Attributes {
            size: size_of::<Attributes>() as u32,
            policy,
            flags,
            nice: self.nice,
            priority: u32::try_from(self.priority)
                .map_err(|_| refused(format!("invalid scheduler.priority: {}", self.priority)))?,
            runtime: self.runtime,
            deadline: self.deadline,
            period: self.period,
            util_min: 0,
            util_max: 0,
        })
    }
}

impl IoPriority {
    /// Class above, priority in the low 13 bits.
    pub fn value(&self) -> Result<i32, Error> {
        let refused = |cause: String| Error::new(format!("cannot use process.ioPriority: {cause}"));
        let class = lookup(&CLASSES, &self.class)
            .ok_or_else(|| refused(format!("no class '{}'", self.class)).hint(names(&CLASSES)))?;
        match self.priority {
            0..=7 => Ok(class << 13 | self.priority),
            other => Err(refused(format!("no priority {other}")).hint("0 (highest) to 7")),
        }
    }
}

impl CpuAffinity {
    pub fn check(&self) -> Result<(), Error> {
        [&self.initial, &self.last].into_iter().try_for_each(|list| BitSet::parse(list, "CPU").map(drop))
    }

    /// Outside, before the process is made: it inherits where it may run.
    pub fn before_group(&self) -> Result<(), Error> {
        let cpus = BitSet::parse(&self.initial, "CPU")?;
        if cpus.is_empty() {
            return Ok(());
        }
        step(SetAffinity { pid: 0, cpus: &cpus, shown: &self.initial })
            .because("asked for: entering must not disturb the CPUs that the container has for itself")
    }

    /// Once the process is in the container's group. Without `final` the group alone decides.
    pub fn in_group(&self, pid: i32) -> Result<(), Error> {
        let cpus = BitSet::parse(&self.last, "CPU")?;
        if cpus.is_empty() {
            return reset_affinity(pid);
        }
        step(SetAffinity { pid, cpus: &cpus, shown: &self.last })
            .because("asked for: of the group's CPUs this process is to have these alone")
    }
}

/// Lets a process run on all CPUs of its group, whatever its caller was pinned to. 0 is this process.
pub fn reset_affinity(pid: i32) -> Result<(), Error> {
    step(SetAffinity { pid, cpus: &BitSet::all(), shown: "all" })
        .because("a caller pinned to one CPU would pin the container to it, whatever its cpuset says")
}

/// Sets policy and I/O priority of this process and of all that come from it.
pub fn apply(scheduler: Option<&Scheduler>, io: Option<&IoPriority>) -> Result<(), Error> {
    if let Some(scheduler) = scheduler {
        step(SetScheduler(scheduler.attributes()?))
            .because("asked for: it says which programs the container's make way for, and which for them")?;
    }
    if let Some(io) = io {
        step(SetIoPriority { value: io.value()?, shown: io })
            .because("asked for: whose reads and writes the disk's queue takes first")?;
    }
    Ok(())
}

/// `struct sched_attr` (linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// sched_setattr(2) of the calling thread.
struct SetScheduler(Attributes);

explained!(SetScheduler, "sched_setattr(2), sched(7)", |this| {
    call: format!(
        "sched_setattr(0, {{{}, flags={:#x}, nice={}, priority={}, runtime={}, deadline={}, period={}}}, 0)",
        policy_name(this.0.policy), this.0.flags, this.0.nice, this.0.priority, this.0.runtime, this.0.deadline, this.0.period,
    ),
    aim: format!("set the scheduling policy to {}", policy_name(this.0.policy)),
    by_hand: match policy_name(this.0.policy) {
        "SCHED_DEADLINE" => format!("chrt --deadline -T {} -D {} -P {} 0 …", this.0.runtime, this.0.deadline, this.0.period),
        name => format!("chrt --{} {} nice -n {} …", name.trim_start_matches("SCHED_").to_lowercase(), this.0.priority, this.0.nice),
    },
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis(
            "the caller lacks CAP_SYS_NICE, the cgroup has no realtime budget (v1), or the policy is SCHED_DEADLINE and \
             the process may not run on all CPUs: process scheduler can't be used together with AllowedCPUs",
            "cat cpu.rt_runtime_us cpuset.cpus   (of the container's cgroup)",
        ),
        libc::EINVAL => diagnosis("the kernel does not have the policy, or the numbers do not fit it: runtime <= deadline <= period", "chrt --max"),
        libc::EOPNOTSUPP => diagnosis("the kernel was built without CONFIG_UCLAMP_TASK", "zgrep UCLAMP /proc/config.gz"),
        libc::EBUSY => diagnosis("the CPUs have no time left to promise to a SCHED_DEADLINE process", ""),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetScheduler {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: the structure says its own size; the kernel reads it during the call.
        check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const self.0, 0) })
    }
}

/// ioprio_set(2) of the calling process.
struct SetIoPriority<'a> {
    value: i32,
    shown: &'a IoPriority,
}

explained!(SetIoPriority<'a>, "ioprio_set(2)", |this| {
    call: format!("ioprio_set(IOPRIO_WHO_PROCESS, 0, {}|{})", this.shown.class, this.shown.priority),
    aim: format!("set the I/O priority to {} {}", this.shown.class, this.shown.priority),
    by_hand: format!("ionice -c {} -n {} …", this.value >> 13, this.shown.priority),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("IOPRIO_CLASS_RT needs CAP_SYS_NICE", "grep Cap /proc/self/status"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetIoPriority<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // Not the whole process group: that is still the caller's. What the container starts inherits it.
        const WHO_PROCESS: i32 = 1;
        // SAFETY: three numbers.
        check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, self.value) })
    }
}

/// sched_setaffinity(2).
struct SetAffinity<'a> {
    pid: i32,
    cpus: &'a BitSet,
    shown: &'a str,
}

explained!(SetAffinity<'a>, "sched_setaffinity(2)", |this| {
    call: format!("sched_setaffinity({}, {{{}}})", this.pid, this.shown),
    aim: format!("run on CPUs {}", this.shown),
    by_hand: format!("taskset --cpu-list {} …", this.shown),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("none of these CPUs is there, or in the process's cpuset", "cat /sys/devices/system/cpu/online"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetAffinity<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let words = self.cpus.words();
        // SAFETY: length and pointer describe the mask, which the kernel reads during the call.
        check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, self.pid, size_of_val(words), words.as_ptr()) })
    }
}

fn check(result: libc::c_long) -> Result<(), Cause> {
    if result < 0 { Err(Cause::last()) } else { Ok(()) }
}

fn lookup<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn names<T>(table: &[(&str, T)]) -> String {
    table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn policy_name(number: u32) -> &'static str {
    POLICIES.get(number as usize).map_or("?", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scheduler(json: Value) -> Result<Attributes, Error> {
        serde_json::from_value::<Scheduler>(json).unwrap().attributes()
    }

    #[test]
    fn a_policy_becomes_its_number_and_flags_their_bits() {
        for (number, (name, value)) in POLICIES.iter().enumerate() {
            assert_eq!(number as u32, *value, "{name}: its place is its number");
        }
        let batch = scheduler(json!({ "policy": "SCHED_BATCH", "nice": 19 })).unwrap();
        assert_eq!((batch.size, batch.policy, batch.nice, batch.flags), (56, 3, 19, 0));
        let flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"];
        let deadline = json!({ "policy": "SCHED_DEADLINE", "flags": flags, "runtime": 1, "deadline": 2, "period": 3 });
        let deadline = scheduler(deadline).unwrap();
        assert_eq!((deadline.policy, deadline.flags), (6, 5));
        assert_eq!((deadline.runtime, deadline.deadline, deadline.period), (1, 2, 3));
        assert_eq!(scheduler(json!({ "policy": "SCHED_RR", "priority": 9, "flags": null })).unwrap().priority, 9);
    }

    #[test]
    fn what_a_policy_does_not_have_is_refused() {
        for (json, part) in [
            (json!({}), "policy ''"),
            (json!({ "policy": "SCHED_FAIR" }), "SCHED_FAIR"),
            (json!({ "policy": "SCHED_OTHER", "nice": 20 }), "nice: 20"),
            (json!({ "policy": "SCHED_OTHER", "priority": 1 }), "priority"),
            (json!({ "policy": "SCHED_FIFO", "priority": -1 }), "priority: -1"),
            (json!({ "policy": "SCHED_FIFO", "runtime": 1 }), "runtime"),
            (json!({ "policy": "SCHED_FIFO", "flags": ["SCHED_FLAG_X"] }), "SCHED_FLAG_X"),
        ] {
            let error = scheduler(json.clone()).unwrap_err();
            assert!(error.what.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn an_io_priority_is_class_and_number() {
        let value = |class: &str, priority: i32| IoPriority { class: class.into(), priority }.value();
        assert_eq!(value("IOPRIO_CLASS_RT", 0).unwrap(), 0x2000);
        assert_eq!(value("IOPRIO_CLASS_BE", 4).unwrap(), 0x4004);
        assert_eq!(value("IOPRIO_CLASS_IDLE", 0).unwrap(), 0x6000);
        assert!(value("IOPRIO_CLASS_NONE", 0).is_err() && value("IOPRIO_CLASS_BE", 8).is_err());
    }
}
