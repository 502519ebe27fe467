//! Trying a port of the host.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::ports::Protocol;

/// Binds a port of the host and lets go of it at once: whoever has it makes this fail.
pub struct BindPort {
    pub protocol: Protocol,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl fmt::Display for BindPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.protocol == Protocol::Tcp { "SOCK_STREAM" } else { "SOCK_DGRAM" };
        write!(f, "bind(socket(AF_INET, {kind}), {}:{})", self.address, self.port)
    }
}

impl Explained for BindPort {
    fn aim(&self) -> String {
        format!("publish {} port {} on {}", self.protocol, self.port, self.address)
    }
    fn source(&self) -> &'static str {
        "bind(2), ip(7)"
    }
    fn by_hand(&self) -> String {
        let flag = if self.protocol == Protocol::Tcp { "t" } else { "u" };
        format!("ss -nlp{flag} 'sport = {}'", self.port)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EADDRINUSE => diagnosis("a program on the host listens there", "ss -nlptu   (or another host port)"),
            libc::EADDRNOTAVAIL => {
                diagnosis("the host has no such address", "ip -br address; 0.0.0.0 means all of them")
            }
            libc::EACCES => diagnosis("ports below net.ipv4.ip_unprivileged_port_start are root's", "a higher port"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for BindPort {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let kind = if self.protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let socket = socket(AddressFamily::INET, kind, None)?;
        if self.protocol == Protocol::Tcp {
            // Connections of the past (TIME_WAIT) do not hold a port against a listener; for UDP this would let two in.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        Ok(bind(&socket, &SocketAddrV4::new(self.address, self.port))?)
    }
}
