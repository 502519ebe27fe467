//! Netlink: links, addresses and routes are made by messages to the kernel, not by system calls of their own.
//!
//! Every message asks for an acknowledgement, and for the kernel's own words where it refuses (extended ack).

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use mocker_common::error::{Error, errno_text};
use mocker_common::step::{AsyncKernelCall, Cause, Diagnosis, Explained, KernelCall, diagnosis};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::addresses::{Mac, Subnet};

/// A netlink socket. It belongs to the network namespace it was opened in, for life, wherever the thread goes after.
pub struct Netlink {
    handle: Handle,
}

/// Opens the socket, in the namespace the thread is in now.
pub struct OpenNetlink;

impl fmt::Display for OpenNetlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE)")
    }
}

impl Explained for OpenNetlink {
    fn aim(&self) -> String {
        "open a netlink socket".into()
    }
    fn source(&self) -> &'static str {
        "netlink(7)"
    }
}

impl KernelCall for OpenNetlink {
    type Output = Netlink;

    fn call(&self) -> Result<Netlink, Cause> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        let socket = connection.socket_mut().socket_mut();
        // Old kernels know neither; then an error is a bare errno.
        socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)).unwrap_or_default();
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }
}

/// A new bridge, down.
pub struct AddBridge<'a> {
    pub net: &'a Netlink,
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
}

impl fmt::Display for AddBridge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RTM_NEWLINK(ifname=\"{}\", kind=\"bridge\", address={}, mtu={}), NLM_F_CREATE|NLM_F_EXCL",
            self.name, self.mac, self.mtu
        )
    }
}

impl Explained for AddBridge<'_> {
    fn aim(&self) -> String {
        format!("make bridge {}", self.name)
    }
    fn source(&self) -> &'static str {
        "rtnetlink(7), ip-link(8)"
    }
    fn by_hand(&self) -> String {
        format!("ip link add {} address {} mtu {} type bridge", self.name, self.mac, self.mtu)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EOPNOTSUPP => diagnosis("the kernel has no bridges: module bridge is missing", "modprobe bridge"),
            other => refused(other),
        }
    }
}

impl AsyncKernelCall for AddBridge<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
            .name(self.name)
            .address(self.mac.to_vec())
            .mtu(self.mtu)
            .build();
        self.net.handle.link().add(message).execute().await.map_err(cause)
    }
}

/// A veth pair: one end here, as a port of the bridge; the other born inside another namespace.
pub struct AddVeth<'a> {
    pub net: &'a Netlink,
    pub name: &'a str,
    pub bridge: (&'a str, u32),
    pub mtu: u32,
    pub peer: &'a str,
    pub peer_mac: Mac,
    /// the id of the container, for print; and its namespace
    pub netns: (&'a str, BorrowedFd<'a>),
}

impl fmt::Display for AddVeth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RTM_NEWLINK(ifname=\"{}\", kind=\"veth\", master={}, mtu={mtu}, peer(ifname=\"{}\", address={}, \
             mtu={mtu}, net_ns_fd={})), NLM_F_CREATE|NLM_F_EXCL",
            self.name,
            self.bridge.1,
            self.peer,
            self.peer_mac,
            self.netns.1.as_raw_fd(),
            mtu = self.mtu
        )
    }
}

impl Explained for AddVeth<'_> {
    fn aim(&self) -> String {
        format!("make the veth pair {} and {}", self.name, self.peer)
    }
    fn source(&self) -> &'static str {
        "veth(4), rtnetlink(7)"
    }
    fn by_hand(&self) -> String {
        format!(
            "ip link add {} mtu {mtu} master {} type veth peer name {} address {} mtu {mtu} netns {}",
            self.name,
            self.bridge.0,
            self.peer,
            self.peer_mac,
            self.netns.0,
            mtu = self.mtu
        )
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EOPNOTSUPP => diagnosis("the kernel has no veth pairs: module veth is missing", "modprobe veth"),
            libc::EXFULL => diagnosis("a bridge takes 1023 ports, and this one has them", "another --bridge"),
            other => refused(other),
        }
    }
}

impl AsyncKernelCall for AddVeth<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(self.peer)
            .address(self.peer_mac.to_vec())
            .mtu(self.mtu)
            .setns_by_fd(self.netns.1.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(self.name)
            .mtu(self.mtu)
            .controller(self.bridge.1)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.net.handle.link().add(message).execute().await.map_err(cause)
    }
}

/// Changes a link that is there: up, with an alias; a bridge's port may send frames back where they came from.
pub struct DressLink<'a> {
    pub net: &'a Netlink,
    pub name: &'a str,
    pub index: u32,
    pub alias: Option<&'a str>,
    pub hairpin: bool,
}

impl fmt::Display for DressLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTM_NEWLINK(index={}, up", self.index)?;
        if let Some(alias) = self.alias {
            write!(f, ", alias=\"{alias}\"")?;
        }
        f.write_str(if self.hairpin { ", bridge_slave(hairpin=1))" } else { ")" })
    }
}

impl Explained for DressLink<'_> {
    fn aim(&self) -> String {
        format!("set up {}", self.name)
    }
    fn source(&self) -> &'static str {
        "rtnetlink(7), bridge(8)"
    }
    fn by_hand(&self) -> String {
        let alias = self.alias.map(|alias| format!(" alias '{alias}'")).unwrap_or_default();
        let hairpin =
            if self.hairpin { format!("\nbridge link set dev {} hairpin on", self.name) } else { String::new() };
        format!("ip link set {} up{alias}{hairpin}", self.name)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        refused(errno)
    }
}

impl AsyncKernelCall for DressLink<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        let mut message = match self.hairpin {
            true => LinkBridgePort::new(self.index).hairpin(true).up().build(),
            false => LinkUnspec::new_with_index(self.index).up().build(),
        };
        if let Some(alias) = self.alias {
            message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        }
        self.net.handle.link().change(message).execute().await.map_err(cause)
    }
}

/// An address on a link; one that it has already is as good.
pub struct AddAddress<'a> {
    pub net: &'a Netlink,
    pub name: &'a str,
    pub index: u32,
    pub address: Ipv4Addr,
    pub subnet: Subnet,
}

impl fmt::Display for AddAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTM_NEWADDR(index={}, local={}, prefixlen={})", self.index, self.address, self.subnet.prefix())
    }
}

impl Explained for AddAddress<'_> {
    fn aim(&self) -> String {
        format!("give {} the address {}", self.name, self.address)
    }
    fn source(&self) -> &'static str {
        "rtnetlink(7), ip-address(8)"
    }
    fn by_hand(&self) -> String {
        format!("ip address add {}/{} broadcast + dev {}", self.address, self.subnet.prefix(), self.name)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        refused(errno)
    }
}

impl AsyncKernelCall for AddAddress<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        let add = self.net.handle.address().add(self.index, self.address.into(), self.subnet.prefix());
        match add.execute().await {
            Err(rtnetlink::Error::NetlinkError(answer)) if answer.raw_code() == -libc::EEXIST => Ok(()),
            answer => answer.map_err(cause),
        }
    }
}

/// The default route.
pub struct AddDefaultRoute<'a> {
    pub net: &'a Netlink,
    pub gateway: Ipv4Addr,
}

impl fmt::Display for AddDefaultRoute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTM_NEWROUTE(dst=0.0.0.0/0, gateway={})", self.gateway)
    }
}

impl Explained for AddDefaultRoute<'_> {
    fn aim(&self) -> String {
        format!("route by {}", self.gateway)
    }
    fn source(&self) -> &'static str {
        "rtnetlink(7), ip-route(8)"
    }
    fn by_hand(&self) -> String {
        format!("ip route add default via {}", self.gateway)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENETUNREACH => diagnosis("the gateway is not in the subnet of an interface that is up", "ip address"),
            other => refused(other),
        }
    }
}

impl AsyncKernelCall for AddDefaultRoute<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(self.gateway).build();
        self.net.handle.route().add(route).execute().await.map_err(cause)
    }
}

/// Removes a link; one that is gone already is as good. Waits until the kernel has let go of it.
pub struct DeleteLink<'a> {
    pub net: &'a Netlink,
    pub name: &'a str,
    pub index: u32,
}

impl fmt::Display for DeleteLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTM_DELLINK(index={})", self.index)
    }
}

impl Explained for DeleteLink<'_> {
    fn aim(&self) -> String {
        format!("delete {}", self.name)
    }
    fn source(&self) -> &'static str {
        "rtnetlink(7), ip-link(8)"
    }
    fn by_hand(&self) -> String {
        format!("ip link delete {}", self.name)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        refused(errno)
    }
}

impl AsyncKernelCall for DeleteLink<'_> {
    type Output = ();
    async fn call(&self) -> Result<(), Cause> {
        match self.net.handle.link().del(self.index).execute().await {
            Err(rtnetlink::Error::NetlinkError(answer)) if answer.raw_code() == -libc::ENODEV => Ok(()),
            answer => answer.map_err(cause),
        }
    }
}

/// What refuses any message alike.
fn refused(errno: i32) -> Diagnosis {
    match errno {
        libc::EPERM | libc::EACCES => {
            diagnosis("interfaces are made by root (CAP_NET_ADMIN)", "run it as root, or in `unshare -rn`")
        }
        libc::EEXIST => diagnosis("something has this name already, and it is not ours", "ip -d link"),
        libc::ENOBUFS | libc::ENOMEM => diagnosis("the kernel is short of memory for interfaces", "ip link | wc -l"),
        _ => Diagnosis::default(),
    }
}

/// What the tool reads of an interface.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub mtu: u32,
    pub is_bridge: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Link { index: message.header.index, ..Link::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::LinkInfo(info) => link.is_bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge)),
                _ => {}
            }
        }
        link
    }
}

/// The interface of this name, if there is one. Looking is no step: it changes nothing.
pub async fn find_link(net: &Netlink, name: &str) -> Result<Option<Link>, Error> {
    match net.handle.link().get().match_name(name).execute().try_next().await {
        Ok(message) => Ok(message.map(Link::from)),
        Err(rtnetlink::Error::NetlinkError(answer)) if answer.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(unread(&format!("interface {name}"), error)),
    }
}

/// All interfaces.
pub async fn links(net: &Netlink) -> Result<Vec<Link>, Error> {
    let all = net.handle.link().get().execute().map_ok(Link::from).try_collect();
    all.await.map_err(|error| unread("the interfaces", error))
}

/// What the tool reads of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub destination: Subnet,
    pub interface: u32,
    pub metric: u32,
    pub table: u32,
}

impl From<RouteMessage> for Route {
    fn from(message: RouteMessage) -> Self {
        let (mut destination, mut interface, mut metric) = (Ipv4Addr::UNSPECIFIED, 0, 0);
        let mut table = u32::from(message.header.table);
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = address,
                RouteAttribute::Oif(index) => interface = index,
                RouteAttribute::Priority(priority) => metric = priority,
                RouteAttribute::Table(number) => table = number,
                // Several ways to one place: the first stands for all.
                RouteAttribute::MultiPath(hops) => interface = hops.first().map_or(0, |hop| hop.interface_index),
                _ => {}
            }
        }
        let destination = Subnet::of(destination, message.header.destination_prefix_length);
        Route { destination, interface, metric, table }
    }
}

/// All IPv4 routes of all tables.
pub async fn routes(net: &Netlink) -> Result<Vec<Route>, Error> {
    let ask = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let all = net.handle.route().get(ask).execute().map_ok(Route::from).try_collect();
    all.await.map_err(|error| unread("the routes", error))
}

fn unread(what: &str, error: rtnetlink::Error) -> Error {
    let cause = cause(error);
    let text = if cause.words.is_empty() { errno_text(cause.errno) } else { cause.words };
    Error { errno: cause.errno, said: cause.said, ..Error::new(format!("cannot read {what}: {text}")) }
}

/// The errno of a refusal, and what the kernel said beside it.
fn cause(error: rtnetlink::Error) -> Cause {
    match error {
        rtnetlink::Error::NetlinkError(answer) => {
            let cause = Cause::errno(-answer.raw_code());
            match extended_ack(&answer.header) {
                Some(words) => cause.said(words),
                None => cause,
            }
        }
        other => Cause::words(other.to_string()),
    }
}

/// The text in an error's attributes, which follow the header of the refused message (NETLINK_CAP_ACK is on, so nothing
/// of its body comes back). Source: netlink(7); linux/netlink.h, NLMSGERR_ATTR_MSG.
fn extended_ack(answer: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const MESSAGE: u16 = 1;
    let mut rest = answer.get(HEADER..)?;
    while let [a, b, c, d, ..] = rest {
        let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        let value = rest.get(4..length)?;
        if kind == MESSAGE {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_string());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_found_behind_the_header() {
        let mut answer = vec![0u8; 16];
        answer.extend([8, 0, 2, 0, 9, 9, 9, 9]); // NLMSGERR_ATTR_OFFS
        answer.extend([11, 0, 1, 0]);
        answer.extend(b"no way\0\0");
        assert_eq!(extended_ack(&answer).as_deref(), Some("no way"));
        for cut in 0..answer.len() {
            extended_ack(&answer[..cut]); // never panics
        }
    }
}
