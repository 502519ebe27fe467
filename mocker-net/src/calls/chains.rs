//! The chains of every firewall table, asked of the kernel itself: a thousandth of the time that `nft` takes to start.

use std::fmt;

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::nfnetlink::{attributes, errno, messages, request};

/// Lists every chain of every table.
pub struct ListChains;

/// A chain as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// `ip`, `inet`, `bridge`, …
    pub family: &'static str,
    pub table: String,
    pub name: String,
    /// whether forwarded packets run through it
    pub forwards: bool,
    /// whether it drops what none of its rules has decided
    pub drops: bool,
}

impl fmt::Display for ListChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NFT_MSG_GETCHAIN, NLM_F_DUMP")
    }
}

impl Explained for ListChains {
    fn aim(&self) -> String {
        "list the firewall's chains".into()
    }
    fn source(&self) -> &'static str {
        "nft(8), linux/netfilter/nf_tables.h"
    }
    fn by_hand(&self) -> String {
        "nft list chains".into()
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("the firewall is root's (CAP_NET_ADMIN)", "run it as root"),
            libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP => {
                diagnosis("the kernel has no nftables: module nf_tables is missing", "modprobe nf_tables")
            }
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for ListChains {
    type Output = Vec<Chain>;
    fn call(&self) -> Result<Vec<Chain>, Cause> {
        loop {
            if let Some(chains) = dump()? {
                return Ok(chains);
            }
        }
    }
}

/// Asks once. None if somebody changed the rules meanwhile, so that the list is neither the old nor the new one.
fn dump() -> Result<Option<Vec<Chain>>, Cause> {
    const GET_CHAIN: u16 = 10 << 8 | 4; // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
    const DUMP: u16 = 0x300;
    const INTERRUPTED: u16 = 0x10;
    const DONE: u16 = libc::NLMSG_DONE as u16;
    const ERROR: u16 = libc::NLMSG_ERROR as u16;

    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.send_to(&request(GET_CHAIN, DUMP, libc::AF_UNSPEC as u8, &[]), &SocketAddr::new(0, 0), 0)?;
    let (mut chains, mut whole) = (Vec::new(), true);
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for message in messages(&answer) {
            whole &= message.flags & INTERRUPTED == 0;
            match message.kind {
                DONE => return Ok(whole.then_some(chains)),
                ERROR if errno(message.body) != 0 => return Err(Cause::errno(errno(message.body))),
                _ => chains.extend(parse(message.body)),
            }
        }
    }
}

/// One chain: the family, then attributes. Numbers are big-endian.
fn parse(body: &[u8]) -> Option<Chain> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const HOOK_NUMBER: u16 = 1;
    const POLICY: u16 = 5;
    const FORWARD: u32 = 2; // NF_INET_FORWARD, and NF_BR_FORWARD

    let family = match *body.first()? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string();
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let mut chain = Chain { family, ..Chain::default() };
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            TABLE => chain.table = text(value),
            NAME => chain.name = text(value),
            HOOK => {
                let hook = attributes(value).find(|(kind, _)| *kind == HOOK_NUMBER);
                chain.forwards = hook.and_then(|(_, value)| number(value)) == Some(FORWARD);
            }
            POLICY => chain.drops = number(value) == Some(0),
            _ => {}
        }
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::super::nfnetlink::{attribute, nested};
    use super::*;

    #[test]
    fn a_chain_is_read_as_the_kernel_tells_it() {
        let hook = nested(4, &[attribute(1, &2u32.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat());
        let body = [
            vec![2, 0, 0, 0],
            attribute(1, b"filter\0"),
            attribute(3, b"FORWARD\0"),
            hook,
            attribute(5, &0u32.to_be_bytes()),
        ]
        .concat();
        let expected =
            Chain { family: "ip", table: "filter".into(), name: "FORWARD".into(), forwards: true, drops: true };
        assert_eq!(parse(&body), Some(expected));
        for cut in 0..body.len() {
            parse(&body[..cut]); // never panics
        }
    }
}
