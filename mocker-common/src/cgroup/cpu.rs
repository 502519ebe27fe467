//! Numbers of cpus, time slices and weights: the arithmetic of the cpu controller.

use crate::cgroup::limits::{Setting, or_max, set};
use crate::cgroup::resources::Cpu;
use crate::error::{Error, USAGE};

/// The span over which `--cpus` is counted, as docker's: 100 ms.
pub const PERIOD_US: i64 = 100_000;

/// Microseconds of cpu time a period for `--cpus 1.5`. More than the machine has is refused: it would be no limit.
pub fn quota_us(text: &str) -> Result<i64, Error> {
    let available = std::thread::available_parallelism().map_or(1, |number| number.get());
    let online = online_cpus().unwrap_or(available);
    let refused = |cause: String| Error::new(format!("cannot use --cpus {text}: {cause}")).status(USAGE);
    let range = format!("0.01 to {online} are possible on this machine");
    let cpus: f64 = text.parse().map_err(|_| refused(format!("not a number of cpus; {range}")))?;
    match cpus {
        _ if !cpus.is_finite() || cpus < 0.01 => Err(refused(range)),
        _ if cpus > online as f64 => Err(refused(format!("there are {online} cpus; {range}"))),
        _ => Ok((cpus * PERIOD_US as f64).round() as i64),
    }
}

/// How many cpus are online, whatever this process itself may use.
fn online_cpus() -> Option<usize> {
    count(&std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?)
}

/// How many a list names: `0-2,4` names 4 (cpuset(7), List format).
fn count(list: &str) -> Option<usize> {
    list.trim()
        .split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| last - first + 1)
        })
        .sum()
}

/// Refuses what is no list of numbers.
pub fn check_list(text: &str) -> Result<(), &'static str> {
    count(text).map(drop).ok_or("it is no list of numbers, such as 0-2,4")
}

/// v1 shares (2 to 262144) as a v2 weight (1 to 10000), so that 1024, what everybody has on v1, becomes 100, what
/// everybody has on v2. The formula is that of runc 1.3.2 and crun 1.23.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

const TIME: &str = "without it a busy container takes every cpu; at its quota it now waits for the next period";
const SPAN: &str =
    "the quota counts within this span: a short one spreads the time evenly, a long one lets bursts pass";
const SHARE: &str = "when more wants to run than there are cpus, time is dealt out by this weight";
const BURST: &str = "time saved in quiet periods may be used in a busy one, up to this";
const IDLE: &str = "it runs only when nothing else wants to";
const REAL: &str = "a realtime thread goes before all others: without a share of its own it may not even start";

impl Cpu {
    pub fn is_limited(&self) -> bool {
        let numbers = [self.shares, self.burst, self.period, self.quota.map(|quota| quota as u64)];
        let realtime = [self.realtime_period, self.realtime_runtime.map(|runtime| runtime as u64)];
        numbers.iter().chain(&realtime).flatten().any(|value| *value != 0) || self.idle.is_some()
    }

    /// The lines, in the order the kernel needs.
    pub fn settings(&self, v2: bool) -> Result<Vec<Setting>, Error> {
        self.check(v2)?;
        let shares = self.shares.filter(|shares| *shares != 0).map(|shares| match v2 {
            true => set("cpu", "cpu.weight", weight(shares), SHARE),
            false => set("cpu", "cpu.shares", shares, SHARE),
        });
        let idle = self.idle.map(|idle| {
            let setting = set("cpu", "cpu.idle", idle, IDLE);
            if idle == 0 { setting.optional() } else { setting }
        });
        // The weight of an idle group cannot be set.
        let weights = if self.idle == Some(0) { [idle, shares] } else { [shares, idle] };
        let mut settings: Vec<Setting> = weights.into_iter().flatten().collect();
        settings.extend(if v2 { self.bandwidth_v2() } else { self.bandwidth_v1() });
        Ok(settings)
    }

    fn check(&self, v2: bool) -> Result<(), Error> {
        match (self.period, self.quota, self.shares) {
            (Some(period @ 1..), ..) if !(1000..=1_000_000).contains(&period) => {
                Err(Error::new(format!("cannot use cpu.period {period}: 1000 to 1000000 microseconds are possible")))
            }
            (_, Some(quota @ 1..1000), _) => {
                Err(Error::new(format!("cannot use cpu.quota {quota}: at least 1000 microseconds, or -1 for no limit")))
            }
            // The kernel would take another value without a word.
            (.., Some(1)) if !v2 => Err(Error::new("the minimum allowed cpu-shares is 2")),
            (.., Some(262_145..)) if !v2 => Err(Error::new("the maximum allowed cpu-shares is 262144")),
            _ if v2 && self.realtime_runtime.is_some_and(|runtime| runtime != 0) => {
                Err(Error::new("cannot use cpu.realtimeRuntime: cgroup v2 has no share for realtime threads"))
            }
            _ => Ok(()),
        }
    }

    /// Each may be refused until another has changed: what is EINVAL is tried again at the end.
    fn bandwidth_v1(&self) -> Vec<Setting> {
        let some = |value: Option<u64>| value.filter(|value| *value != 0);
        let quota = self.quota.filter(|quota| *quota != 0).map(|quota| quota.max(-1));
        let runtime = self.realtime_runtime.filter(|runtime| *runtime != 0);
        let settings = [
            some(self.period).map(|period| set("cpu", "cpu.cfs_period_us", period, SPAN)),
            some(self.burst).map(|burst| set("cpu", "cpu.cfs_burst_us", burst, BURST)),
            quota.map(|quota| set("cpu", "cpu.cfs_quota_us", quota, TIME)),
            some(self.realtime_period).map(|period| set("cpu", "cpu.rt_period_us", period, REAL)),
            runtime.map(|runtime| set("cpu", "cpu.rt_runtime_us", runtime, REAL)),
        ];
        settings.into_iter().flatten().map(Setting::tried_again).collect()
    }

    /// Quota and period go in one line; one alone stands with what the kernel begins with.
    fn bandwidth_v2(&self) -> Vec<Setting> {
        let quota = self.quota.filter(|quota| *quota != 0);
        let period = self.period.filter(|period| *period != 0);
        let burst = self.burst.filter(|burst| *burst != 0);
        let line = (quota.is_some() || period.is_some())
            .then(|| format!("{} {}", or_max(quota.unwrap_or(-1)), period.unwrap_or(PERIOD_US as u64)));
        let settings = [
            burst.map(|burst| set("cpu", "cpu.max.burst", burst, BURST)),
            line.map(|line| set("cpu", "cpu.max", line, TIME)),
        ];
        settings.into_iter().flatten().map(Setting::tried_again).collect()
    }

    pub fn set_settings(&self) -> Vec<Setting> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::lines;

    #[test]
    fn the_usual_share_becomes_the_usual_weight() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((3..262_144).step_by(97).all(|shares| weight(shares) <= weight(shares + 97)), "more never weighs less");
    }

    #[test]
    fn cpu_lists_are_counted() {
        for (list, number) in
            [("0", Some(1)), ("0-2,4\n", Some(4)), ("2-1", None), ("", None), ("a", None), ("0,", None)]
        {
            assert_eq!(count(list), number, "{list}");
        }
    }

    #[test]
    fn cpus_beyond_the_machine_or_none_are_refused_with_what_is_possible() {
        assert_eq!(quota_us("0.5").unwrap(), 50_000);
        for bad in ["0", "-1", "1000000", "nan", "inf", "two", ""] {
            let error = quota_us(bad).unwrap_err();
            assert!(error.what.contains("0.01 to"), "{}", error.what);
        }
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
        let real = Cpu { realtime_runtime: Some(5), realtime_period: Some(9), ..Cpu::default() };
        assert_eq!(lines(&real.settings(false).unwrap()), ["cpu.rt_period_us=9", "cpu.rt_runtime_us=5"]);
        assert!(real.settings(true).is_err());
        let awake = Cpu { shares: Some(7), idle: Some(0), burst: Some(3), ..Cpu::default() };
        assert_eq!(lines(&awake.settings(false).unwrap()), ["cpu.idle=0", "cpu.shares=7", "cpu.cfs_burst_us=3"]);
        for shares in [1, 262_145] {
            assert!(Cpu { shares: Some(shares), ..Cpu::default() }.settings(false).is_err(), "{shares}");
        }
        assert!(Cpu { quota: Some(10), ..Cpu::default() }.settings(true).is_err());
        assert!(Cpu { period: Some(10), ..Cpu::default() }.settings(false).is_err());
    }
}
