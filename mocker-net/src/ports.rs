//! Published ports: `-p [ADDRESS:]HOST:CONTAINER[/tcp|udp]`, and the registry of who has which.
//!
//! Address translation would take a port from a program of the host without a word, and of two containers the last would
//! win. So the port is tried first, and a file named by it, made under the lock, holds the container's id.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use mocker_common::step::step;
use serde::{Deserialize, Serialize};

use crate::calls::BindPort;
use crate::state::State;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Protocol::Tcp { "tcp" } else { "udp" })
    }
}

/// One port of the host that leads to one of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub protocol: Protocol,
    /// 0.0.0.0: every address of the host
    pub host_address: Ipv4Addr,
    pub host_port: u16,
    pub container_port: u16,
}

impl Port {
    /// The name of its file in the registry.
    fn file(&self) -> String {
        format!("{}-{}-{}", self.protocol, self.host_port, self.host_address)
    }

    /// Whether the host reaches it at 127.0.0.1.
    pub fn is_on_loopback(&self) -> bool {
        self.host_address.is_unspecified() || self.host_address.is_loopback()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}/{}", self.host_address, self.host_port, self.container_port, self.protocol)
    }
}

/// One `-p`: a port, or as many on either side.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    pub ports: Vec<Port>,
}

impl FromStr for Publication {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| {
            Error::new(format!("cannot publish '{text}': {why}"))
                .hint("-p 8080:80, -p 0.0.0.0:53:53/udp, -p 8000-8009:80-89")
        };
        let (rest, protocol) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((_, other)) => return Err(refused(&format!("'{other}' is neither tcp nor udp"))),
        };
        let (rest, container) = rest
            .rsplit_once(':')
            .ok_or_else(|| refused("a port of the host and one of the container, with a colon between"))?;
        let (address, host) = rest.rsplit_once(':').map_or((None, rest), |(address, host)| (Some(address), host));
        let host_address = match address {
            None => Ipv4Addr::LOCALHOST,
            Some(address) if address.contains(':') || address.starts_with('[') => {
                return Err(refused("addresses are IPv4 here"));
            }
            Some(address) => address.parse().map_err(|_| refused(&format!("'{address}' is no IPv4 address")))?,
        };
        let parse = |text: &str| {
            range(text).ok_or_else(|| refused(&format!("'{text}' is no port, 1 to 65535, and no range of them")))
        };
        let (host, container) = (parse(host)?, parse(container)?);
        if host.len() != container.len() {
            return Err(refused(&format!("{} ports of the host for {} of the container", host.len(), container.len())));
        }
        let port = |(host_port, container_port)| Port { protocol, host_address, host_port, container_port };
        Ok(Publication { ports: host.zip(container).map(port).collect() })
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0 && !text.starts_with('+'));
    match text.split_once('-') {
        None => number(text).map(|port| port..=port),
        Some((first, last)) => Some(number(first)?..=number(last)?).filter(|range| !range.is_empty()),
    }
}

/// Refuses ports that somebody has: another container, or a program of the host. Needs the lock.
pub fn check(state: &State, ports: &[Port], gateway: Ipv4Addr) -> Result<(), Error> {
    let taken = state.taken_ports()?;
    for (at, port) in ports.iter().enumerate() {
        let clash = |other: &Port| {
            let (a, b) = (port.host_address, other.host_address);
            let same = port.protocol == other.protocol && port.host_port == other.host_port;
            same && (a == b || a.is_unspecified() || b.is_unspecified())
        };
        let what = || format!("cannot publish {} port {} on {}", port.protocol, port.host_port, port.host_address);
        if ports[..at].iter().any(clash) {
            return Err(
                Error::new(format!("{}: it is asked for twice", what())).hint("one -p for each port of the host")
            );
        }
        if let Some((_, owner)) = taken.iter().find(|(other, _)| clash(other)) {
            return Err(Error::new(format!("{}: container {owner} has it", what()))
                .why("of two containers with one port the last would win, silently")
                .hint(format!("mocker-net inspect {owner}; or another host port")));
        }
        // The bridge's own address may not be there yet, and nobody listens on it then.
        if port.host_address != gateway {
            let Port { protocol, host_address: address, host_port: port, .. } = *port;
            step(BindPort { protocol, address, port })
                .because("translation comes before any socket: it would take the port from a program that listens on it, silently")?;
        }
    }
    Ok(())
}

/// Enters the ports into the registry. Needs the lock, and `check` before.
pub fn register(state: &State, ports: &[Port], id: &ContainerId) -> Result<(), Error> {
    ports.iter().try_for_each(|port| state.take(&state.port(&port.file()), id))
}

/// Takes the ports out of the registry, those that are still this container's.
pub fn release(state: &State, ports: &[Port], id: &str) {
    ports.iter().for_each(|port| state.give_back(&state.port(&port.file()), id));
}

/// What the name of a file in the registry says: `tcp-8080-127.0.0.1`.
pub fn parse_file(name: &str) -> Option<Port> {
    let mut parts = name.splitn(3, '-');
    let protocol = match parts.next()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let host_port = parts.next()?.parse().ok()?;
    Some(Port { protocol, host_port, host_address: parts.next()?.parse().ok()?, container_port: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<Publication>() {
            Ok(publication) => publication.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.what,
        }
    }

    #[test]
    fn a_publication_is_read_as_docker_writes_it() {
        for (text, expected) in [
            ("8080:80", "127.0.0.1:8080->80/tcp"),
            ("8080:80/tcp", "127.0.0.1:8080->80/tcp"),
            ("53:53/udp", "127.0.0.1:53->53/udp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080->80/tcp"),
            ("192.0.2.1:1:2/udp", "192.0.2.1:1->2/udp"),
            ("8000-8001:80-81", "127.0.0.1:8000->80/tcp 127.0.0.1:8001->81/tcp"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn a_publication_that_makes_no_sense_is_refused() {
        let bad = [
            "",
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "80:80/sctp",
            "x:80:80",
            "[::1]:80:80",
            "::1:80:80",
            "2-1:2-1",
            "1-2:3",
            "+1:1",
        ];
        for text in bad {
            assert!(text.parse::<Publication>().is_err(), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn a_file_of_the_registry_says_what_it_stands_for() {
        let port = "0.0.0.0:53:53/udp".parse::<Publication>().unwrap().ports[0];
        assert_eq!(parse_file(&port.file()), Some(Port { container_port: 0, ..port }));
        assert_eq!(parse_file("lock"), None);
    }
}
