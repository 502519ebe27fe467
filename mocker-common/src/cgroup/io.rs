//! `linux.resources.blockIO`: whose turn it is at a disk, and how fast one may read and write it.
//!
//! Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst; cgroup-v2.rst, IO; block/bfq-iosched.rst.

use serde::Deserialize;

use crate::cgroup::limits::{Setting, set};
use crate::cgroup::resources::or_default;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BlockIo {
    /// 10 to 1000
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    pub weight_device: Vec<WeightDevice>,
    #[serde(deserialize_with = "or_default")]
    pub throttle_read_bps_device: Vec<Throttle>,
    #[serde(deserialize_with = "or_default")]
    pub throttle_write_bps_device: Vec<Throttle>,
    #[serde(rename = "throttleReadIOPSDevice", deserialize_with = "or_default")]
    pub throttle_read_iops_device: Vec<Throttle>,
    #[serde(rename = "throttleWriteIOPSDevice", deserialize_with = "or_default")]
    pub throttle_write_iops_device: Vec<Throttle>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WeightDevice {
    pub major: i64,
    pub minor: i64,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

/// A device, and bytes or operations a second.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Throttle {
    pub major: i64,
    pub minor: i64,
    pub rate: u64,
}

const WEIGHT: &str = "when more wants to use a disk than it can serve, its time is dealt out by this weight";
const RATE: &str = "one container that reads or writes without pause would make the disk slow for all";

impl BlockIo {
    pub fn is_limited(&self) -> bool {
        let weights = [self.weight, self.leaf_weight];
        weights.iter().flatten().any(|weight| *weight != 0)
            || !self.weight_device.is_empty()
            || self.throttles().iter().any(|(_, _, list)| !list.is_empty())
    }

    /// v1's file, v2's key in io.max, and the devices.
    fn throttles(&self) -> [(&'static str, &'static str, &[Throttle]); 4] {
        [
            ("blkio.throttle.read_bps_device", "rbps", &self.throttle_read_bps_device),
            ("blkio.throttle.write_bps_device", "wbps", &self.throttle_write_bps_device),
            ("blkio.throttle.read_iops_device", "riops", &self.throttle_read_iops_device),
            ("blkio.throttle.write_iops_device", "wiops", &self.throttle_write_iops_device),
        ]
    }

    pub fn settings(&self, v2: bool) -> Vec<Setting> {
        let mut settings = if v2 { self.weights_v2() } else { self.weights_v1() };
        for (file, key, devices) in self.throttles() {
            settings.extend(devices.iter().map(|Throttle { major, minor, rate }| match v2 {
                true => set("io", "io.max", format!("{major}:{minor} {key}={rate}"), RATE),
                false => set("blkio", file, format!("{major}:{minor} {rate}"), RATE),
            }));
        }
        settings
    }

    /// The scheduler CFQ had blkio.weight; its successor BFQ has a name of its own for the same.
    fn weights_v1(&self) -> Vec<Setting> {
        let one = |file: &'static str, bfq: Option<&'static str>, value: String| {
            let setting = set("blkio", file, value.clone(), WEIGHT);
            match bfq {
                Some(bfq) => setting.or(set("blkio", bfq, value, WEIGHT)),
                None => setting,
            }
        };
        let mut settings = Vec::new();
        let weight = self.weight.filter(|weight| *weight != 0);
        settings.extend(weight.map(|weight| one("blkio.weight", Some("blkio.bfq.weight"), weight.to_string())));
        let leaf = self.leaf_weight.filter(|weight| *weight != 0);
        settings.extend(leaf.map(|weight| one("blkio.leaf_weight", None, weight.to_string())));
        for device in &self.weight_device {
            let line = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
            let weight = device.weight.filter(|weight| *weight != 0).map(line);
            settings.extend(weight.map(|line| one("blkio.weight_device", Some("blkio.bfq.weight_device"), line)));
            let leaf = device.leaf_weight.filter(|weight| *weight != 0).map(line);
            settings.extend(leaf.map(|line| one("blkio.leaf_weight_device", None, line)));
        }
        settings
    }

    /// BFQ takes the weight as it is; the kernel's own io.weight counts from 1 to 10000. There are no leaf weights.
    fn weights_v2(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        if let Some(weight) = self.weight.filter(|weight| *weight != 0) {
            let own = set("io", "io.weight", io_weight(weight), WEIGHT);
            settings.push(set("io", "io.bfq.weight", weight, WEIGHT).or(own));
        }
        for device in &self.weight_device {
            if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
                let place = format!("{}:{}", device.major, device.minor);
                let own = set("io", "io.weight", format!("{place} {}", io_weight(weight)), WEIGHT);
                settings.push(set("io", "io.bfq.weight", format!("{place} {weight}"), WEIGHT).or(own));
            }
        }
        settings
    }
}

/// v1's weight, 10 to 1000, on v2's scale, 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::limits::lines;

    #[test]
    fn block_io_is_written_in_the_words_of_each_version() {
        let json = serde_json::json!({
            "weight": 500, "leafWeight": 0,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 100, "leafWeight": 30}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
        });
        let io: BlockIo = serde_json::from_value(json).unwrap();
        assert_eq!(
            lines(&io.settings(false)),
            [
                "blkio.weight=500|blkio.bfq.weight=500",
                "blkio.weight_device=8:0 100|blkio.bfq.weight_device=8:0 100",
                "blkio.leaf_weight_device=8:0 30",
                "blkio.throttle.read_bps_device=8:0 1000",
                "blkio.throttle.write_iops_device=8:16 0",
            ]
        );
        assert_eq!(
            lines(&io.settings(true)),
            [
                "io.bfq.weight=500|io.weight=4950",
                "io.bfq.weight=8:0 100|io.weight=8:0 910",
                "io.max=8:0 rbps=1000",
                "io.max=8:16 wiops=0",
            ]
        );
        assert!(!BlockIo { weight: Some(0), ..BlockIo::default() }.is_limited());
    }

    #[test]
    fn weights_cover_the_whole_new_scale() {
        assert_eq!([10, 100, 1000].map(io_weight), [1, 910, 10_000]);
    }
}
