//! A few rtnetlink messages: a header, a fixed part, then attributes, each padded to four bytes.
//!
//! Written and read by hand: mocker-exec needs three requests and two lists, and links no async runtime.
//! Source: netlink(7), rtnetlink(7).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use mocker_common::error::{Error, errno_text};
use mocker_common::step::Cause;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The header of every message: length, kind, flags, sequence number, sender.
const HEADER: usize = 16;
/// `struct ifinfomsg`, `struct ifaddrmsg`.
const LINK_PART: usize = 16;
const ADDRESS_PART: usize = 8;

/// A link of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: i32,
    pub name: String,
}

/// An address of a link, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    index: i32,
    /// attributes that are to be the same in the new place: local, address, broadcast, priority of its route
    kept: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether it is an address of this link that somebody gave it to last, to be reached from everywhere.
    pub fn lasts_on(&self, index: i32) -> bool {
        let everywhere = libc::RT_SCOPE_UNIVERSE;
        self.index == index && self.scope == everywhere && self.flags & libc::IFA_F_PERMANENT != 0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |kind: u16| self.kept.iter().find(|(other, _)| *other == kind).map(|(_, bytes)| bytes.as_slice());
        let bytes = of(libc::IFA_LOCAL).or(of(libc::IFA_ADDRESS)).unwrap_or_default();
        match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(four), _) => write!(f, "{}/{}", Ipv4Addr::from(four), self.prefix),
            (_, Ok(sixteen)) => write!(f, "{}/{}", Ipv6Addr::from(sixteen), self.prefix),
            _ => write!(f, "(family {})", self.family),
        }
    }
}

/// A message to the kernel.
pub struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, fixed: &[u8]) -> Request {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // its length, set when it is sent
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Request(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn list(kind: u16, fixed: usize) -> Request {
        Request::new(kind, libc::NLM_F_DUMP, &[0; LINK_PART][..fixed])
    }

    fn link(index: i32, flags: i32) -> Request {
        let mut fixed = [0; LINK_PART];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&flags.to_ne_bytes()); // those that are to change
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &fixed)
    }

    pub fn move_link(index: i32, namespace: i32, name: &str) -> Request {
        let name = [name.as_bytes(), &[0]].concat();
        Request::link(index, 0)
            .attribute(libc::IFLA_NET_NS_FD, &namespace.to_ne_bytes())
            .attribute(libc::IFLA_IFNAME, &name)
    }

    pub fn bring_up(index: i32) -> Request {
        Request::link(index, libc::IFF_UP)
    }

    pub fn add_address(index: i32, address: &Address) -> Request {
        let mut fixed = [0; ADDRESS_PART];
        fixed[..4].copy_from_slice(&[address.family, address.prefix, 0, address.scope]);
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        // What the kernel found out about it in the old place is not ours to tell in the new one.
        let own = libc::IFA_F_PERMANENT | libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_SECONDARY;
        let flags = address.flags & !own;
        let request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL, &fixed);
        let request = request.attribute(libc::IFA_FLAGS, &flags.to_ne_bytes());
        address.kept.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value))
    }
}

/// A netlink socket: it speaks for the network namespace it was made in.
pub struct Socket(OwnedFd);

impl Socket {
    pub fn open() -> Result<Socket, Error> {
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None) // NETLINK_ROUTE is 0
            .map(Socket)
            .map_err(|errno| Error::new(format!("cannot make a netlink socket: {}", errno_text(errno.raw_os_error()))))
    }

    /// Makes a request and waits for its acknowledgement.
    pub fn ask(&self, request: Request) -> Result<(), Cause> {
        self.exchange(request, |_, _| {})
    }

    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        self.dump(Request::list(libc::RTM_GETLINK, LINK_PART), "network devices", |kind, body| {
            links.extend((kind == libc::RTM_NEWLINK).then(|| read_link(body)).flatten());
        })?;
        Ok(links)
    }

    pub fn addresses(&self) -> Result<Vec<Address>, Error> {
        let mut addresses = Vec::new();
        self.dump(Request::list(libc::RTM_GETADDR, ADDRESS_PART), "addresses", |kind, body| {
            addresses.extend((kind == libc::RTM_NEWADDR).then(|| read_address(body)).flatten());
        })?;
        Ok(addresses)
    }

    fn dump(&self, request: Request, what: &str, each: impl FnMut(u16, &[u8])) -> Result<(), Error> {
        self.exchange(request, each).map_err(|cause| {
            let text = if cause.words.is_empty() { errno_text(cause.errno) } else { cause.words };
            Error::new(format!("cannot list {what}: {text}"))
        })
    }

    /// Sends a request and reads to the end of its answer: an acknowledgement, or the end of a list.
    fn exchange(&self, Request(mut bytes): Request, mut each: impl FnMut(u16, &[u8])) -> Result<(), Cause> {
        let length = (bytes.len() as u32).to_ne_bytes();
        bytes[..4].copy_from_slice(&length);
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; 64 << 10]; // no part of a list is longer (NLMSG_GOODSIZE, 32 KiB at most)
        loop {
            let (length, _) = recv(&self.0, &mut buffer, RecvFlags::empty())?;
            for (kind, body) in messages(&buffer[..length]) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return match -number(body, 0).unwrap_or(-libc::EPROTO) {
                            0 => Ok(()),
                            errno => Err(Cause::errno(errno)),
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// Kind and body of each message in what was received.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = number(bytes, 0).filter(|length| *length as usize >= HEADER)? as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind and value of each attribute behind the fixed part.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]), value))
    })
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_link(body: &[u8]) -> Option<Link> {
    let index = number(body, 4)?;
    let (_, name) = attributes(body.get(LINK_PART..)?).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
    Some(Link { index, name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned() })
}

fn read_address(body: &[u8]) -> Option<Address> {
    const ROUTE_PRIORITY: u16 = 9; // IFA_RT_PRIORITY
    let [family, prefix, flags, scope] = body.get(..4)?.try_into().ok()?;
    let (fixed, rest) = (body, body.get(ADDRESS_PART..)?);
    let long = attributes(rest).find(|(kind, _)| *kind == libc::IFA_FLAGS).and_then(|(_, value)| number(value, 0));
    let keep = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_BROADCAST, ROUTE_PRIORITY];
    let kept = attributes(rest).filter(|(kind, _)| keep.contains(kind));
    Some(Address {
        family,
        prefix,
        scope,
        flags: long.map_or(u32::from(flags), |flags| flags as u32),
        index: number(fixed, 4)?,
        kept: kept.map(|(kind, value)| (kind, value.to_vec())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: i32, scope: u8, flags: u32) -> Address {
        let kept = vec![(libc::IFA_ADDRESS, vec![10, 0, 0, 7]), (libc::IFA_LOCAL, vec![10, 0, 0, 7])];
        Address { family: 2, prefix: 24, scope, flags, index, kept }
    }

    #[test]
    fn an_address_that_was_sent_is_read_back() {
        let request = Request::add_address(3, &address(9, 0, libc::IFA_F_PERMANENT | 0x200));
        assert_eq!(request.0.len() % 4, 0);
        let read = read_address(&request.0[HEADER..]).unwrap();
        assert_eq!(read, address(3, 0, 0x200), "the new link's number, and no flag of the kernel's own");
        assert_eq!(read.to_string(), "10.0.0.7/24");
    }

    #[test]
    fn only_addresses_that_were_meant_to_last_and_be_reached_are_kept() {
        assert!(address(3, 0, libc::IFA_F_PERMANENT).lasts_on(3));
        assert!(!address(4, 0, libc::IFA_F_PERMANENT).lasts_on(3));
        assert!(!address(3, libc::RT_SCOPE_LINK, libc::IFA_F_PERMANENT).lasts_on(3));
        assert!(!address(3, 0, 0).lasts_on(3), "one of DHCP or of a router's advertisement runs out");
    }

    #[test]
    fn a_move_is_one_message() {
        let Request(bytes) = Request::move_link(7, 5, "web0");
        let sent: Vec<_> = attributes(&bytes[HEADER + LINK_PART..]).collect();
        assert_eq!(sent, [(libc::IFLA_NET_NS_FD, &5i32.to_ne_bytes()[..]), (libc::IFLA_IFNAME, &b"web0\0"[..])]);
        assert_eq!(number(&bytes, HEADER + 4), Some(7));
    }

    #[test]
    fn what_is_cut_off_ends_the_list() {
        let mut bytes = Request::bring_up(1).0;
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(messages(&bytes).count(), 1);
        for cut in 0..bytes.len() {
            assert_eq!(messages(&bytes[..cut]).count(), 0, "{cut}");
        }
        assert_eq!(attributes(&[0; 8]).count(), 0);
        let links = Socket::open().unwrap().links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == 1), "{links:?}");
    }
}
