//! The bridge: a switch inside the host, its own address the containers' gateway.

use std::path::Path;

use mocker_common::error::Error;
use mocker_common::step::step;

use crate::addresses::Mac;
use crate::calls::{AddAddress, AddBridge, DeleteLink, DressLink, Netlink, WriteSetting, find_link};
use crate::state::{Link, State};

/// Makes the bridge if it is not there, and puts right what it lacks. Returns its index. Needs the lock.
pub async fn ensure(state: &State, host: &Netlink, link: &Link) -> Result<u32, Error> {
    let name = &link.bridge;
    state.remember_bridge(name, &link.subnet)?;
    let found = find_link(host, name).await?;
    if found.is_none() {
        step(AddBridge { net: host, name, mac: Mac::from_address(link.gateway), mtu: link.mtu })
            .because_async(
                "a bridge without a MAC of its own takes its lowest port's, and changes it as containers come and go",
            )
            .await?;
    }
    let index = match &found {
        Some(found) => found.index,
        None => find_link(host, name).await?.map(|made| made.index).unwrap_or_default(),
    };
    if found.is_none_or(|found| found.alias.is_empty()) {
        without_ipv6(name)?;
        step(DressLink { net: host, name, index, alias: Some(&state.signature()), hairpin: false })
            .because_async("an interface that is down carries nothing; the alias says whose it is")
            .await?;
    }
    step(AddAddress { net: host, name, index, address: link.gateway, subnet: link.subnet })
        .because_async("the containers' default route leads here, and the host's route to them comes with it")
        .await?;
    Ok(index)
}

/// Keeps IPv6 off an interface of the host that is there for containers. Before it is up: then it has no address yet.
pub fn without_ipv6(name: &str) -> Result<(), Error> {
    let setting = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if !Path::new(&setting).exists() {
        return Ok(()); // a kernel without IPv6
    }
    step(WriteSetting { path: &setting, value: "1" })
        .because("the host would get an address here, and take a container that says so for its IPv6 router")
}

/// Takes the bridge away. Succeeds if there is none; leaves one that is not ours.
pub async fn delete(state: &State, host: &Netlink, name: &str) -> Result<(), Error> {
    if let Some(link) = find_link(host, name).await?
        && link.is_bridge
        && (link.alias.is_empty() || link.alias == state.signature())
    {
        step(DeleteLink { net: host, name, index: link.index })
            .because_async("its last container is gone; its address and route would stay with it")
            .await?;
    }
    Ok(())
}
