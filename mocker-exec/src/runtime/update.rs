//! `update`: new limits for a container that runs.

use std::io::Read;
use std::path::Path;

use mocker_common::cgroup::limits::{self, Resources};
use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::units::parse_size;
use serde_json::Value;

use crate::args::UpdateArgs;
use crate::runtime::record::{Record, Status};
use crate::runtime::{Runtime, groups, not_running};

/// Sets what the file or the flags say, and leaves the rest. Zero means: as it is.
pub fn update(runtime: &Runtime, args: &UpdateArgs) -> Result<(), Error> {
    let record = Record::find(&runtime.root, &args.id)?;
    if record.status() == Status::Stopped {
        return Err(not_running(&record));
    }
    let mut document = Document::new();
    document.remove("/linux/resources");
    match &args.resources {
        Some(path) => document.set("/linux/resources", read_resources(path)?),
        None => flags_into(&mut document, args)?,
    }
    let group = groups::find(&record.cgroup)?;
    let settings = Resources::read(&document)?.settings(&group.hierarchies)?;
    limits::apply(&group, &settings)
}

fn read_resources(path: &Path) -> Result<Value, Error> {
    let mut text = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_end(&mut text).map(drop),
        false => std::fs::read(path).map(|bytes| text = bytes),
    };
    read.map_err(failed("read resources", path.display()))?;
    serde_json::from_slice(&text).map_err(|cause| Error::new(format!("cannot read resources: {cause}")))
}

fn flags_into(document: &mut Document, args: &UpdateArgs) -> Result<(), Error> {
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            document.set(&format!("/linux/resources/{name}"), value);
        }
    };
    set("blockIO/weight", args.blkio_weight.map(Value::from));
    set("cpu/period", args.cpu_period.map(Value::from));
    set("cpu/quota", args.cpu_quota.map(Value::from));
    set("cpu/burst", args.cpu_burst.map(Value::from));
    set("cpu/shares", args.cpu_share.map(Value::from));
    set("cpu/realtimePeriod", args.cpu_rt_period.map(Value::from));
    set("cpu/realtimeRuntime", args.cpu_rt_runtime.map(Value::from));
    set("cpu/cpus", args.cpuset_cpus.clone().map(Value::from));
    set("cpu/mems", args.cpuset_mems.clone().map(Value::from));
    set("cpu/idle", args.cpu_idle.map(Value::from));
    set("pids/limit", args.pids_limit.map(Value::from));
    for (name, text) in [
        ("memory/limit", &args.memory),
        ("memory/reservation", &args.memory_reservation),
        ("memory/swap", &args.memory_swap),
        ("memory/kernel", &args.kernel_memory),
        ("memory/kernelTCP", &args.kernel_memory_tcp),
    ] {
        let bytes = |text: &String| match text.as_str() {
            "-1" => Ok(-1),
            _ => parse_size(text).map(|bytes| bytes as i64),
        };
        set(name, text.as_ref().map(bytes).transpose()?.map(Value::from));
    }
    Ok(())
}
