//! `update`: new limits for a container that runs.

use std::fs;
use std::io::Read;
use std::path::Path;

use mocker_common::cgroup::update;
use mocker_common::error::{Error, failed};
use mocker_common::units::parse_size;
use serde_json::{Value, json};

use crate::args::UpdateArgs;
use crate::runtime::record::{Record, Status};
use crate::runtime::{Runtime, groups, not_running};

/// Sets what the file or the flags say, and leaves the rest. Zero means: as it is.
pub fn update(runtime: &Runtime, args: &UpdateArgs) -> Result<(), Error> {
    let record = Record::find(&runtime.root, &args.id)?;
    if record.status() == Status::Stopped {
        return Err(not_running(&record));
    }
    let new = match &args.resources {
        Some(path) => read_resources(path)?,
        None => of_flags(args)?,
    };
    let mut document = record.document()?;
    let old = document.get("/linux/resources").cloned().unwrap_or_default();
    let merged = update::update(&groups::find(&record.cgroup)?, &old, &new)?;
    document.set("/linux/resources", merged);
    let (config, new) = (record.directory.join("config.json"), record.directory.join("config.json.new"));
    fs::write(&new, document.to_bytes())
        .and_then(|()| fs::rename(&new, &config))
        .map_err(failed("write", config.display()))
}

fn read_resources(path: &Path) -> Result<Value, Error> {
    let mut text = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_end(&mut text).map(drop),
        false => fs::read(path).map(|bytes| text = bytes),
    };
    read.map_err(failed("read resources", path.display()))?;
    serde_json::from_slice(&text).map_err(|cause| Error::new(format!("cannot read resources: {cause}")))
}

/// The flags as the file would have them.
fn of_flags(args: &UpdateArgs) -> Result<Value, Error> {
    let bytes = |flag: &str, text: &Option<String>| match text.as_deref() {
        None => Ok(Value::Null),
        Some("-1") => Ok((-1).into()),
        Some(text) => parse_size(text)
            .map(Value::from)
            .map_err(|error| Error::new(format!("invalid value for {flag}: {}", error.what)).hint(error.hint)),
    };
    Ok(json!({
        "blockIO": { "weight": args.blkio_weight },
        "cpu": {
            "period": args.cpu_period,
            "quota": args.cpu_quota,
            "burst": args.cpu_burst,
            "shares": args.cpu_share,
            "realtimePeriod": args.cpu_rt_period,
            "realtimeRuntime": args.cpu_rt_runtime,
            "cpus": args.cpuset_cpus,
            "mems": args.cpuset_mems,
            "idle": args.cpu_idle,
        },
        "memory": {
            "limit": bytes("memory", &args.memory)?,
            "reservation": bytes("memory-reservation", &args.memory_reservation)?,
            "swap": bytes("memory-swap", &args.memory_swap)?,
            "kernel": bytes("kernel-memory", &args.kernel_memory)?,
            "kernelTCP": bytes("kernel-memory-tcp", &args.kernel_memory_tcp)?,
        },
        "pids": { "limit": args.pids_limit },
    }))
}
