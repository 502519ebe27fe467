//! Inside the namespace: loopback, address, default route.

use mocker_common::error::Error;
use mocker_common::step::step;

use crate::calls::{AddAddress, AddDefaultRoute, DressLink, Netlink, find_link};
use crate::state::Link;

/// A new namespace has a loopback, and it is down.
pub async fn loopback(inside: &Netlink) -> Result<(), Error> {
    const INDEX: u32 = 1; // in every namespace
    step(DressLink { net: inside, name: "lo", index: INDEX, alias: None, hairpin: false })
        .because_async("programs talk to themselves at 127.0.0.1, and a new namespace's loopback is down")
        .await
}

/// The container's address and its way out.
pub async fn configure(inside: &Netlink, link: &Link) -> Result<(), Error> {
    let name = &link.interface;
    let index = find_link(inside, name).await?.map(|found| found.index).unwrap_or_default();
    step(DressLink { net: inside, name, index, alias: None, hairpin: false })
        .because_async("a link is born down; the bridge's port gets its carrier when both ends are up")
        .await?;
    step(AddAddress { net: inside, name, index, address: link.address, subnet: link.subnet })
        .because_async("without an address nobody can answer the container; its neighbours are reached with it")
        .await?;
    step(AddDefaultRoute { net: inside, gateway: link.gateway })
        .because_async("it knows its own subnet only; everything else goes to the bridge, and the host forwards it")
        .await
}
