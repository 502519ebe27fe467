//! `linux.resources.memory`: how much, how much with swap, and what happens when it is used up.
//!
//! Source: Documentation/admin-guide/cgroup-v1/memory.rst; cgroup-v2.rst, Memory.

use crate::cgroup::limits::{Setting, or_max, set};
use crate::cgroup::resources::Memory;
use crate::error::Error;

const LIMIT: &str =
    "without it one container's leak makes the kernel kill whatever process of the whole machine it likes";
const SWAP: &str = "what does not fit in memory would go to swap without end, and slow the machine instead of ending";
const LOW: &str = "when memory is short, the kernel takes it from those above their reservation first";

impl Memory {
    pub fn is_limited(&self) -> bool {
        [self.limit, self.reservation, self.swap, self.kernel_tcp].iter().flatten().any(|value| *value != 0)
            || self.disable_oom_killer == Some(true)
            || self.swappiness().is_some()
    }

    /// −1 stands for unset, and some write it as the largest unsigned number.
    fn swappiness(&self) -> Option<i128> {
        self.swappiness.filter(|value| *value != -1 && *value != i128::from(u64::MAX))
    }

    /// The lines, in the order the kernel needs. `current` is the limit that stands now in a v1 group that is not new.
    ///
    /// `kernel` is not among them: the kernel ignores it since Linux 5.16, as do other runtimes.
    pub fn settings(&self, v2: bool, current: Option<u64>) -> Result<Vec<Setting>, Error> {
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
        let pair = Pair { limit, swap: swap.or((limit == Some(-1)).then_some(-1)) };
        let mut settings = if v2 { pair.v2()? } else { pair.v1(current) };
        settings.extend(reservation.map(|bytes| match v2 {
            true => set("memory", "memory.low", or_max(bytes), LOW),
            false => set("memory", "memory.soft_limit_in_bytes", bytes, LOW),
        }));
        if !v2 {
            settings.extend(self.only_v1()?);
        }
        Ok(settings)
    }

    fn only_v1(&self) -> Result<Vec<Setting>, Error> {
        const SOCKETS: &str = "buffers of connections are the kernel's memory, and a container can fill many";
        const WAIT: &str = "who is past the limit waits for memory instead of being killed, as was asked";
        const SWAPPINESS: &str = "how soon its memory goes to swap is its own choice, not the machine's";
        let mut settings = Vec::new();
        let tcp = self.kernel_tcp.filter(|bytes| *bytes != 0);
        settings.extend(tcp.map(|bytes| set("memory", "memory.kmem.tcp.limit_in_bytes", bytes, SOCKETS).optional()));
        if self.disable_oom_killer == Some(true) {
            settings.push(set("memory", "memory.oom_control", 1, WAIT));
        }
        match self.swappiness() {
            Some(value) if !(0..=100).contains(&value) => {
                return Err(Error::new(format!("invalid memory swappiness value: {value} (valid range is 0-100)")));
            }
            Some(value) => settings.push(set("memory", "memory.swappiness", value, SWAPPINESS)),
            None => {}
        }
        Ok(settings)
    }
}

/// Memory, and memory with swap.
struct Pair {
    limit: Option<i64>,
    swap: Option<i64>,
}

impl Pair {
    /// The pair may never be below memory alone: what grows is written first. A new group has no limits.
    fn v1(&self, current: Option<u64>) -> Vec<Setting> {
        let limit = self.limit.map(|limit| set("memory", "memory.limit_in_bytes", limit, LIMIT));
        let swap = self.swap.map(|swap| {
            let setting = set("memory", "memory.memsw.limit_in_bytes", swap, SWAP);
            if swap == -1 { setting.optional() } else { setting }
        });
        let grows = self.swap.zip(current).is_some_and(|(swap, current)| swap == -1 || current < swap.unsigned_abs());
        let ordered = if grows { [swap, limit] } else { [limit, swap] };
        ordered.into_iter().flatten().collect()
    }

    /// v2 limits swap alone.
    fn v2(&self) -> Result<Vec<Setting>, Error> {
        let alone = match (self.swap, self.limit) {
            (Some(-1), _) => Some("max".to_string()),
            (Some(swap), Some(limit @ 0..)) => Some((swap - limit).to_string()),
            (Some(swap), Some(_)) => Some(swap.to_string()),
            (Some(_), None) => {
                return Err(Error::new("unable to set swap limit without memory limit")
                    .why("v2 limits swap alone, and it is the difference of memory.swap and memory.limit"));
            }
            (None, _) => None,
        };
        let limit = self.limit.map(|limit| set("memory", "memory.max", or_max(limit), LIMIT));
        let swap = alone.map(|value| {
            // A kernel without swap accounting lacks the file: then there is none to limit. Twice the memory is what
            // engines ask for when nobody said anything.
            let usual = self.limit.is_some_and(|limit| self.swap == Some(limit.saturating_mul(2)));
            let optional = value == "0" || value == "max" || usual;
            let setting = set("memory", "memory.swap.max", value, SWAP);
            if optional { setting.optional() } else { setting }
        });
        Ok(limit.into_iter().chain(swap).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::lines;

    #[test]
    fn memory_is_written_in_the_words_of_each_version() {
        let memory = |limit, swap| Memory { limit, swap, ..Memory::default() };
        type Case = (Option<i64>, Option<i64>, &'static [&'static str], &'static [&'static str]);
        let cases: [Case; 6] = [
            (Some(100), None, &["memory.limit_in_bytes=100"], &["memory.max=100"]),
            (Some(100), Some(0), &["memory.limit_in_bytes=100"], &["memory.max=100"]),
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
            assert_eq!(lines(&memory(limit, swap).settings(false, None).unwrap()), v1);
            assert_eq!(lines(&memory(limit, swap).settings(true, None).unwrap()), v2);
        }
        assert!(memory(Some(100), Some(99)).settings(false, None).is_err());
        assert!(memory(None, Some(99)).settings(true, None).is_err());
        assert!(memory(Some(-5), None).settings(false, None).is_err());
    }

    #[test]
    fn the_pair_grows_before_memory_and_shrinks_after_it() {
        let order = |limit, swap, current| {
            let memory = Memory { limit: Some(limit), swap: Some(swap), ..Memory::default() };
            let settings = memory.settings(false, Some(current)).unwrap();
            settings.iter().map(|setting| setting.file.to_string()).collect::<Vec<_>>()
        };
        let (alone, both) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        assert_eq!(order(200, 400, 100), [both, alone]);
        assert_eq!(order(50, 80, 100), [alone, both]);
        assert_eq!(order(50, -1, 100), [both, alone]);
    }

    #[test]
    fn what_only_v1_has_is_written_there_and_passed_over_on_v2() {
        let json = r#"{"kernel": 5, "kernelTCP": 9, "disableOOMKiller": true, "swappiness": 7, "reservation": 3}"#;
        let memory: Memory = serde_json::from_str(json).unwrap();
        let v1 = [
            "memory.soft_limit_in_bytes=3",
            "memory.kmem.tcp.limit_in_bytes=9",
            "memory.oom_control=1",
            "memory.swappiness=7",
        ];
        assert_eq!(lines(&memory.settings(false, None).unwrap()), v1);
        assert_eq!(lines(&memory.settings(true, None).unwrap()), ["memory.low=3"]);
        for unset in [-1, i128::from(u64::MAX)] {
            assert!(!Memory { swappiness: Some(unset), ..Memory::default() }.is_limited());
        }
        assert!(Memory { swappiness: Some(101), ..Memory::default() }.settings(false, None).is_err());
    }
}
