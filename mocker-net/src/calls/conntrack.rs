//! The flows the kernel remembers: a UDP flow that began before its port was published, or goes on after, keeps its old
//! translation for as long as datagrams come.

use std::fmt;
use std::net::Ipv4Addr;

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::nfnetlink::{attribute, errno, messages, nested, request};

/// Forgets every UDP flow to a port of the host.
pub struct ForgetFlows {
    pub address: Ipv4Addr,
    pub port: u16,
}

impl fmt::Display for ForgetFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPCTNL_MSG_CT_DELETE(orig(proto=udp, dst={}, dport={}))", self.address, self.port)
    }
}

impl Explained for ForgetFlows {
    fn aim(&self) -> String {
        format!("forget the UDP flows to {}:{}", self.address, self.port)
    }
    fn source(&self) -> &'static str {
        "conntrack(8), linux/netfilter/nfnetlink_conntrack.h"
    }
    fn by_hand(&self) -> String {
        let destination = match self.address.is_unspecified() {
            true => String::new(),
            false => format!(" --orig-dst {}", self.address),
        };
        format!("conntrack -D -p udp{destination} --orig-port-dst {}", self.port)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("flows are root's (CAP_NET_ADMIN)", "run it as root"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for ForgetFlows {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.send_to(&self.message(), &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let code = messages(&answer).next().map_or(0, |message| errno(message.body));
        match code {
            // Kernels before 6.8 know no filter here, and a kernel without flows has none to forget.
            0 | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT => Ok(()),
            errno => Err(Cause::errno(errno)),
        }
    }
}

impl ForgetFlows {
    /// The request as the kernel reads it: a tuple, and which parts of it count.
    fn message(&self) -> Vec<u8> {
        const DELETE: u16 = 1 << 8 | 2; // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
        const ACK: u16 = 4;
        const TUPLE_ORIG: u16 = 1;
        const FILTER: u16 = 25;
        const TUPLE_IP: u16 = 1;
        const TUPLE_PROTO: u16 = 2;
        let (mut tuple, mut flags) = (Vec::new(), 1u32 << 3 | 1 << 5); // protocol number, destination port
        if !self.address.is_unspecified() {
            tuple.extend(nested(TUPLE_IP, &attribute(2, &self.address.octets())));
            flags |= 1 << 1;
        }
        let protocol = [attribute(1, &[libc::IPPROTO_UDP as u8]), attribute(3, &self.port.to_be_bytes())].concat();
        tuple.extend(nested(TUPLE_PROTO, &protocol));
        let filter = [attribute(1, &flags.to_ne_bytes()), attribute(2, &0u32.to_ne_bytes())].concat();

        let attributes = [nested(TUPLE_ORIG, &tuple), nested(FILTER, &filter)].concat();
        request(DELETE, ACK, libc::AF_INET as u8, &attributes)
    }
}
