//! Limits that few ask for: huge pages, marks on packets, remote memory, and files of v2 by their names.
//!
//! Source: Documentation/admin-guide/cgroup-v1/hugetlb.rst, net_cls.rst, net_prio.rst, rdma.rst; cgroup-v2.rst.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::limits::{Setting, set};
use crate::cgroup::resources::or_default;
use crate::error::Error;

/// `pageSize` is the kernel's word: `2MB`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HugepageLimit {
    pub page_size: String,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Network {
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub priorities: Vec<Priority>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Priority {
    pub name: String,
    pub priority: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RdmaLimit {
    pub hca_handles: Option<u32>,
    pub hca_objects: Option<u32>,
}

/// Pages in use, and pages set aside: without the second, a reservation would pass the limit and fail at first touch.
pub fn hugepages(limits: &[HugepageLimit], v2: bool) -> Result<Vec<Setting>, Error> {
    const PAGES: &str = "huge pages are few and never swapped: one container could take them all";
    let ending = if v2 { "max" } else { "limit_in_bytes" };
    let mut settings = Vec::new();
    for HugepageLimit { page_size, limit } in limits {
        if page_size.is_empty() || !page_size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::new(format!("cannot use the huge page size '{page_size}'"))
                .hint("ls /sys/kernel/mm/hugepages; 2MB, 1GB"));
        }
        settings.push(set("hugetlb", format!("hugetlb.{page_size}.{ending}"), limit, PAGES));
        settings.push(set("hugetlb", format!("hugetlb.{page_size}.rsvd.{ending}"), limit, PAGES).optional());
    }
    Ok(settings)
}

impl Network {
    /// v1 only: on v2 a packet filter asks for the group itself.
    pub fn settings(&self) -> Vec<Setting> {
        const CLASS: &str = "traffic control and the firewall know the container's packets by this mark";
        const TURN: &str = "its packets leave an interface in the order of this priority";
        let class = self.class_id.filter(|class| *class != 0);
        let class = class.map(|class| set("net_cls", "net_cls.classid", class, CLASS));
        let one = |Priority { name, priority }: &Priority| {
            set("net_prio", "net_prio.ifpriomap", format!("{name} {priority}"), TURN)
        };
        class.into_iter().chain(self.priorities.iter().map(one)).collect()
    }
}

/// The same file on both versions.
pub fn rdma(limits: &BTreeMap<String, RdmaLimit>) -> Vec<Setting> {
    const HANDLES: &str = "an adapter has few handles and objects: one container could take them all";
    let part = |key: &str, number: Option<u32>| number.map(|number| format!(" {key}={number}")).unwrap_or_default();
    let line = |(name, limit): (&String, &RdmaLimit)| {
        format!("{name}{}{}", part("hca_handle", limit.hca_handles), part("hca_object", limit.hca_objects))
    };
    limits.iter().map(line).map(|line| set("rdma", "rdma.max", line, HANDLES)).collect()
}

/// Files of v2 as they are, which stand above what the other keys say.
pub fn unified(files: &BTreeMap<String, String>, hierarchies: &Hierarchies) -> Result<Vec<Setting>, Error> {
    const RAW: &str = "the configuration names this file of v2 itself";
    if !files.is_empty() && hierarchies.version() != "v2" {
        return Err(Error::new("invalid configuration: cannot use unified on cgroup v1")
            .why("a limit that does not hold must not be taken for one that does"));
    }
    let mut settings = Vec::new();
    for (file, value) in files {
        let controller = match file.split_once('.') {
            _ if file.contains('/') => {
                return Err(Error::new(format!("unified resource \"{file}\" must be a file name (no slashes)")));
            }
            None => {
                return Err(Error::new(format!(
                    "unified resource \"{file}\" must be in the form CONTROLLER.PARAMETER"
                )));
            }
            Some((controller, _)) if controller != "cgroup" && hierarchies.of(controller).is_none() => {
                return Err(Error::new(format!(
                    "unified resource \"{file}\" can't be set: controller \"{controller}\" not available"
                ))
                .hint("cat /sys/fs/cgroup/cgroup.controllers"));
            }
            Some((controller, _)) => controller,
        };
        // The kernel takes one line a write.
        settings.extend(value.lines().map(|line| set(controller.to_string(), file.clone(), line, RAW)));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::hierarchy::Hierarchy;
    use crate::cgroup::limits::lines;

    #[test]
    fn huge_pages_are_limited_in_use_and_set_aside() {
        let limits = [HugepageLimit { page_size: "2MB".into(), limit: 4096 }];
        let v1 = ["hugetlb.2MB.limit_in_bytes=4096", "hugetlb.2MB.rsvd.limit_in_bytes=4096"];
        assert_eq!(lines(&hugepages(&limits, false).unwrap()), v1);
        assert_eq!(lines(&hugepages(&limits, true).unwrap()), ["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"]);
        for bad in ["", "../x", "2MB.x"] {
            assert!(hugepages(&[HugepageLimit { page_size: bad.into(), limit: 1 }], false).is_err(), "{bad}");
        }
    }

    #[test]
    fn marks_and_adapters_are_written_line_by_line() {
        let network: Network =
            serde_json::from_str(r#"{"classID": 7, "priorities": [{"name": "eth0", "priority": 5}]}"#).unwrap();
        assert_eq!(lines(&network.settings()), ["net_cls.classid=7", "net_prio.ifpriomap=eth0 5"]);
        let limits: BTreeMap<String, RdmaLimit> =
            serde_json::from_str(r#"{"mlx5_1": {"hcaHandles": 3, "hcaObjects": 9}, "x": {"hcaObjects": 1}}"#).unwrap();
        assert_eq!(lines(&rdma(&limits)), ["rdma.max=mlx5_1 hca_handle=3 hca_object=9", "rdma.max=x hca_object=1"]);
    }

    #[test]
    fn raw_files_are_for_v2_alone_and_stay_in_the_group() {
        let files = |text: &str| serde_json::from_str::<BTreeMap<String, String>>(text).unwrap();
        let machine = |unified: bool| {
            let hierarchy =
                Hierarchy { controllers: vec!["memory".into()], ..Hierarchy::at("/sys/fs/cgroup", unified) };
            Hierarchies { all: vec![hierarchy] }
        };
        let two = files(r#"{"memory.high": "8", "cgroup.max.depth": "1\n2"}"#);
        let expected = ["cgroup.max.depth=1", "cgroup.max.depth=2", "memory.high=8"];
        assert_eq!(lines(&unified(&two, &machine(true)).unwrap()), expected);
        assert!(unified(&two, &machine(false)).unwrap_err().what.contains("cannot use unified on cgroup v1"));
        assert!(unified(&files("{}"), &machine(false)).unwrap().is_empty());
        for bad in [r#"{"../memory.max": "1"}"#, r#"{"memory": "1"}"#, r#"{"pids.max": "1"}"#] {
            assert!(unified(&files(bad), &machine(true)).is_err(), "{bad}");
        }
    }
}
