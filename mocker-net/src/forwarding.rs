//! Forwarding: by default a host drops what is not for itself, and all a container sends is not.

use std::fs;

use mocker_common::error::Error;
use mocker_common::step::step;
use serde::{Deserialize, Serialize};

use crate::calls::{Netlink, WriteSetting, links};
use crate::state::{State, remove, replace};

const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";
const INTERFACES: &str = "/proc/sys/net/ipv4/conf";

/// How it was, for the last container to put back.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    boot: String,
    /// interfaces that forwarded although the host did not: writing ip_forward sets them all
    forwarding: Vec<String>,
    /// bridges there were: one that came since may rely on forwarding, and belongs to somebody else
    bridges: Vec<String>,
}

/// Switches forwarding on if it is off, and remembers that. Needs the lock.
pub async fn enable(state: &State, host: &Netlink) -> Result<(), Error> {
    if is_on(SETTING) {
        return Ok(());
    }
    let bridges = links(host).await?.into_iter().filter(|link| link.is_bridge).map(|link| link.name).collect();
    let before = Before {
        boot: boot(),
        forwarding: interfaces().into_iter().filter(|name| is_on(&of(name))).collect(),
        bridges,
    };
    replace(&state.forwarding(), &serde_json::to_vec(&before).unwrap_or_default())?; // plain data always serialises
    step(WriteSetting { path: SETTING, value: "1" })
        .because("the host is a router for its containers, and without this it drops what is not addressed to it")
}

/// Puts the settings back, when the last container is gone. Needs the lock.
pub async fn restore(state: &State, host: &Netlink) -> Result<(), Error> {
    let path = state.forwarding();
    let Some(before) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Before>(&bytes).ok()) else {
        remove(&path);
        return Ok(());
    };
    if before.boot == boot() && is_on(SETTING) {
        let since = links(host).await?.into_iter().find(|link| link.is_bridge && !before.bridges.contains(&link.name));
        if let Some(other) = since {
            eprintln!(
                "{}: leaving net.ipv4.ip_forward at 1: bridge {} came after the containers and may rely on it\n  \
                 try     sysctl net.ipv4.ip_forward=0   (it was 0 before)",
                crate::TOOL,
                other.name
            );
        } else {
            step(WriteSetting { path: SETTING, value: "0" })
                .because("it was off before the first container; a host that forwards is a router for everybody who can reach it")?;
            for name in before.forwarding.iter().map(|name| of(name)).filter(|name| fs::exists(name).unwrap_or(false)) {
                step(WriteSetting { path: &name, value: "1" })
                    .because("this interface forwarded before, and the write to ip_forward has reset all of them")?;
            }
        }
    }
    remove(&path);
    Ok(())
}

fn is_on(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

fn of(interface: &str) -> String {
    format!("{INTERFACES}/{interface}/forwarding")
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir(INTERFACES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "all").collect()
}

/// The kernel's random name for this boot: what an earlier one noted says nothing about now.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}
