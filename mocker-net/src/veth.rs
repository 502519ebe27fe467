//! The veth pair: a cable with one end in the bridge and the other in the container.

use std::os::fd::AsFd;

use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use mocker_common::step::step;

use crate::addresses::Mac;
use crate::bridge::without_ipv6;
use crate::calls::{AddVeth, DeleteLink, DressLink, Netlink, find_link};
use crate::netns::Namespace;
use crate::state::Link;

/// Makes the pair: `host_interface` in the bridge, `interface` in the namespace.
pub async fn create(
    host: &Netlink,
    id: &ContainerId,
    bridge: u32,
    netns: &Namespace,
    link: &Link,
) -> Result<(), Error> {
    let name = &link.host_interface;
    step(AddVeth {
        net: host,
        name,
        bridge: (&link.bridge, bridge),
        mtu: link.mtu,
        peer: &link.interface,
        peer_mac: Mac::from_address(link.address),
        netns: (id.as_str(), netns.as_fd()),
    })
    .because_async("the namespace has no way out; its end is born inside under its last name, so no eth0 of the host is in the way")
    .await?;
    without_ipv6(name)?;
    let index = find_link(host, name).await?.map(|made| made.index).unwrap_or_default();
    step(DressLink { net: host, name, index, alias: Some(id.as_str()), hairpin: true })
        .because_async("a container that calls its own published port gets its frame back through the port it came by")
        .await
}

/// Takes the pair away, both ends. Succeeds if there is none; leaves one that is another container's.
pub async fn delete(host: &Netlink, id: &str, name: &str) -> Result<(), Error> {
    if let Some(link) = find_link(host, name).await?
        && (link.alias.is_empty() || link.alias == id)
    {
        step(DeleteLink { net: host, name, index: link.index })
            .because_async("the kernel would take it down with the namespace, but later, at a moment of its own")
            .await?;
    }
    Ok(())
}
