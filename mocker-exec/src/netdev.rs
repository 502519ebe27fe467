//! Network devices of the host that move into the container: `linux.netDevices`.
//!
//! Outside, once the container's network namespace exists. A device that moves is taken down and loses its addresses;
//! those that were meant to last are given back, and it is brought up. Its links, addresses and names are asked and set
//! by rtnetlink, one socket here and one that was made in there. Source: rtnetlink(7); runtime-spec config-linux.md,
//! Network Devices.

mod message;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use mocker_common::error::{Error, failed};
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use nix::sched::CloneFlags;
use serde::Deserialize;

use crate::calls::explained;
use crate::calls::process::Join;
use message::{Address, Link, Request, Socket};

/// One of `linux.netDevices`; its key is the device's name on the host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetDevice {
    /// in the container; empty keeps the host's. `%d` in it is replaced by the first free number.
    pub name: String,
}

pub type NetDevices = BTreeMap<String, NetDevice>;

/// Refuses names that no device can have, and a move to where the device is already.
pub fn check(devices: &NetDevices, has_namespace: bool) -> Result<(), Error> {
    if !devices.is_empty() && !has_namespace {
        return Err(Error::new("unable to move network devices without a NET namespace")
            .why("the container shares the host's network, where the devices are")
            .hint("jq '.linux.namespaces += [{\"type\":\"network\"}]'"));
    }
    let names =
        devices.iter().flat_map(|(host, device)| [Some(host), Some(&device.name).filter(|name| !name.is_empty())]);
    match names.flatten().find(|name| !is_device_name(name)) {
        Some(bad) => Err(Error::new(format!("cannot move network devices: invalid network device name '{bad}'"))
            .hint("1 to 15 bytes without '/', ':' and blanks")),
        None => Ok(()),
    }
}

/// dev_valid_name in net/core/dev.c.
fn is_device_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && ![".", ".."].contains(&name)
        && !name.chars().any(|letter| letter == '/' || letter == ':' || letter.is_whitespace())
}

/// Moves the devices into the network namespace of a process. All of them or, on a conflict of names, none.
pub fn move_into(devices: &NetDevices, pid: i32) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).map_err(failed("open", &path))?;
    let (here, there) = (Socket::open()?, socket_in(&namespace, &path)?);

    let (ours, theirs) = (here.links()?, there.links()?);
    let mut moves = Vec::new();
    for (host, device) in devices {
        let Some(link) = ours.iter().find(|link| link.name == *host) else {
            return Err(Error::new(format!("cannot move network device {host}: there is no such device"))
                .hint("ip link   (in the network namespace of the caller)"));
        };
        let name = if device.name.is_empty() { host } else { &device.name };
        let taken = theirs.iter().any(|link| link.name == *name) || moves.iter().any(|(_, other)| *other == name);
        if taken {
            return Err(Error::new(format!("cannot move network device {host}: the container has a device {name}"))
                .why("two devices of one namespace cannot have one name")
                .hint("give linux.netDevices a free name, or one with %d for the first free number"));
        }
        moves.push((link, name));
    }
    moves.into_iter().try_for_each(|(link, name)| move_one(link, name, (&here, &there), &namespace))
}

fn move_one(link: &Link, name: &str, (here, there): (&Socket, &Socket), target: &File) -> Result<(), Error> {
    let addresses: Vec<Address> = here.addresses()?.into_iter().filter(|one| one.lasts_on(link.index)).collect();
    let before = there.links()?;
    step(MoveDevice { socket: here, link, name, target })
        .because("asked for: the device is the container's from here on, and nobody else can use it")?;

    // Its number may be another one in there, and so may its name: it is the one that was not there before.
    let after = there.links()?;
    let Some(moved) = after.iter().find(|link| before.iter().all(|old| old.index != link.index)) else {
        return Err(Error::new(format!("cannot find network device {name} after moving it into the container")));
    };
    for address in &addresses {
        step(AddAddress { socket: there, link: moved, address })
            .because("moving took it away, and the container is to be reached where the device was")?;
    }
    step(BringUp { socket: there, link: moved }).because("moving took the device down; no packet would pass it")
}

/// A netlink socket belongs to the network namespace that its maker was in.
fn socket_in(namespace: &File, path: &str) -> Result<Socket, Error> {
    let own = File::open("/proc/self/ns/net").map_err(failed("open", "/proc/self/ns/net"))?;
    let join = |file: &File, shown: &str, why: &'static str| {
        let flag = CloneFlags::CLONE_NEWNET;
        step(Join { namespace: file.as_fd(), kind: "network", flag, shown }).because(why)
    };
    join(namespace, path, "the socket made in there can set the device up once it has moved")?;
    let socket = Socket::open();
    join(&own, "/proc/self/ns/net", "the rest of this tool's work belongs to the host's network")?;
    socket
}

/// RTM_NEWLINK with a namespace and a name.
struct MoveDevice<'a> {
    socket: &'a Socket,
    link: &'a Link,
    name: &'a str,
    target: &'a File,
}

explained!(MoveDevice<'a>, "rtnetlink(7), RTM_NEWLINK, IFLA_NET_NS_FD", |this| {
    call: format!("RTM_NEWLINK {{index={} ({}), IFLA_NET_NS_FD, IFLA_IFNAME={:?}}}", this.link.index, this.link.name, this.name),
    aim: format!("move network device {} into the container as {}", this.link.name, this.name),
    by_hand: format!("ip link set {} netns PID name {}", this.link.name, this.name),
    diagnose: |errno| match errno {
        libc::EEXIST => diagnosis("the container has a device of that name", "nsenter -t PID -n ip link"),
        libc::EINVAL => diagnosis("the device cannot leave its namespace (lo, a bridge of some kinds, a wireless one)", "ip -d link show DEVICE   (netns-immutable)"),
        libc::EPERM => diagnosis("the caller lacks CAP_NET_ADMIN, here or in the container's network", "run it as root"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for MoveDevice<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        self.socket.ask(Request::move_link(self.link.index, self.target.as_raw_fd(), self.name))
    }
}

/// RTM_NEWADDR.
struct AddAddress<'a> {
    socket: &'a Socket,
    link: &'a Link,
    address: &'a Address,
}

explained!(AddAddress<'a>, "rtnetlink(7), RTM_NEWADDR", |this| {
    call: format!("RTM_NEWADDR {{{}, index={} ({})}}", this.address, this.link.index, this.link.name),
    aim: format!("give network device {} its address {} again", this.link.name, this.address),
    by_hand: format!("nsenter -t PID -n ip address add {} dev {}", this.address, this.link.name),
    diagnose: |errno| match errno {
        libc::EACCES => diagnosis("IPv6 is switched off in the container's network", "sysctl net.ipv6.conf.all.disable_ipv6"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for AddAddress<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        self.socket.ask(Request::add_address(self.link.index, self.address))
    }
}

/// RTM_NEWLINK with IFF_UP.
struct BringUp<'a> {
    socket: &'a Socket,
    link: &'a Link,
}

explained!(BringUp<'a>, "rtnetlink(7), RTM_NEWLINK", |this| {
    call: format!("RTM_NEWLINK {{index={} ({}), flags=IFF_UP}}", this.link.index, this.link.name),
    aim: format!("bring network device {} up", this.link.name),
    by_hand: format!("nsenter -t PID -n ip link set {} up", this.link.name),
});

impl KernelCall for BringUp<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        self.socket.ask(Request::bring_up(self.link.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_a_namespace_is_needed() {
        let devices = |host: &str, name: &str| NetDevices::from([(host.into(), NetDevice { name: name.into() })]);
        for (host, name) in [("eth0", ""), ("eth0", "web%d"), ("a.b", "fifteen-letters"), ("...", "x")] {
            assert!(check(&devices(host, name), true).is_ok(), "{host} {name}");
        }
        for (host, name) in
            [("", ""), ("a/b", ""), ("eth0", "a b"), ("eth0", "a:1"), ("eth0", ".."), ("sixteen-letters!", "")]
        {
            assert!(check(&devices(host, name), true).is_err(), "{host:?} {name:?}");
        }
        assert!(check(&NetDevices::new(), false).is_ok());
        let error = check(&devices("eth0", ""), false).unwrap_err();
        assert!(error.what.contains("unable to move network devices without a NET namespace"));
    }
}
