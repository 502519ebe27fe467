//! `linux.resources` of a configuration, as clients write it: with zeros and nulls where nothing is asked for.
//!
//! Source: runtime-spec 1.3, config-linux.md, Control groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::cgroup::devices::Rule;
use crate::cgroup::io::BlockIo;
use crate::cgroup::rare::{HugepageLimit, Network, RdmaLimit};
use crate::error::Error;

/// All that may be limited. What is absent, null, zero or empty stays as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<Rule>,
    #[serde(deserialize_with = "or_default")]
    pub memory: Memory,
    #[serde(deserialize_with = "or_default")]
    pub cpu: Cpu,
    #[serde(deserialize_with = "or_default")]
    pub pids: Pids,
    #[serde(rename = "blockIO", deserialize_with = "or_default")]
    pub block_io: BlockIo,
    #[serde(deserialize_with = "or_default")]
    pub hugepage_limits: Vec<HugepageLimit>,
    #[serde(deserialize_with = "or_default")]
    pub network: Network,
    #[serde(deserialize_with = "or_default")]
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// files of v2 and what to write there
    #[serde(deserialize_with = "or_default")]
    pub unified: BTreeMap<String, String>,
}

/// Bytes; −1 is no limit. `swap` is memory and swap together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
    /// 0 to 100; −1, also as an unsigned number, is unset
    pub swappiness: Option<i128>,
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// a limit below what is in use is refused instead of killing somebody
    pub check_before_update: Option<bool>,
}

/// Times in microseconds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub burst: Option<u64>,
    pub period: Option<u64>,
    pub realtime_runtime: Option<i64>,
    pub realtime_period: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub cpus: String,
    #[serde(deserialize_with = "or_default")]
    pub mems: String,
    pub idle: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pids {
    pub limit: Option<i64>,
}

impl Resources {
    /// Reads `linux.resources`. Unknown keys are no error, as the specification has it (config.md, Extensibility).
    pub fn parse(json: Option<&Value>) -> Result<Self, Error> {
        match json {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(json) => Self::deserialize(json).map_err(|error| {
                Error::new(format!("cannot use linux.resources: {error}"))
                    .hint("runtime-spec, config-linux.md, Control groups")
            }),
        }
    }
}

/// null is what absence is: Go's encoder writes it for an empty list.
pub fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_zeros_and_unknown_keys_ask_for_nothing() {
        let json = serde_json::json!({
            "devices": null, "memory": {"limit": null, "swappiness": 18_446_744_073_709_551_615u64, "new": 1},
            "cpu": {"cpus": null, "shares": 0}, "blockIO": {"weight": 0, "weightDevice": null}, "hugepageLimits": null,
            "network": {"classID": null, "priorities": null}, "rdma": null, "unified": null, "pids": null, "else": {},
        });
        let resources = Resources::parse(Some(&json)).unwrap();
        assert_eq!(resources.memory.swappiness, Some(18_446_744_073_709_551_615));
        assert_eq!(resources.cpu.shares, Some(0));
        assert!(Resources::parse(Some(&Value::Null)).unwrap().devices.is_empty());
        assert!(Resources::parse(None).is_ok());
        let error = Resources::parse(Some(&serde_json::json!({"pids": {"limit": "many"}}))).unwrap_err();
        assert!(error.what.contains("linux.resources"), "{error}");
    }
}
