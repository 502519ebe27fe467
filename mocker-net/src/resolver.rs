//! Name servers that a container can reach.
//!
//! The host's resolv.conf often names a server on the host's own loopback (systemd-resolved, dnsmasq), which inside is
//! nobody. Source: resolv.conf(5), systemd-resolved.service(8).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

/// `mocker.network.dns`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Resolver {
    pub nameservers: Vec<Ipv4Addr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

const CONFIGURATION: &str = "/etc/resolv.conf";
/// The servers that systemd-resolved itself asks.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

impl Resolver {
    /// What the host uses, as far as it can be used from inside. Says on stderr when nothing is left.
    pub fn of_host() -> Self {
        let text = fs::read_to_string(CONFIGURATION).unwrap_or_default();
        let mut resolver = Resolver::parse(&text);
        if resolver.nameservers.is_empty()
            && let Ok(text) = fs::read_to_string(BEHIND_THE_STUB)
        {
            resolver.nameservers = Resolver::parse(&text).nameservers;
        }
        if resolver.nameservers.is_empty() {
            eprintln!(
                "{}: no name server of the host can be reached from inside: names will not resolve there\n  \
                 likely  {CONFIGURATION} names none but the host's loopback, or IPv6 ones\n  \
                 try     jq '.mocker.network.dns.nameservers = [\"192.0.2.53\"]' between this tool and the next",
                crate::TOOL
            );
        }
        resolver
    }

    /// Leaves out servers on the loopback, those bound to an interface (`fe80::1%eth0`), and IPv6: the bridge has none.
    fn parse(text: &str) -> Self {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => match words.next().and_then(|word| word.parse().ok()) {
                    Some(IpAddr::V4(address)) if !address.is_loopback() && !address.is_unspecified() => {
                        resolver.nameservers.push(address)
                    }
                    _ => {}
                },
                // Of several, the last counts; `domain` is an older word for a list of one.
                Some("search" | "domain") => resolver.search = words.map(String::from).collect(),
                Some("options") => resolver.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        resolver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_mean_nothing_inside_are_left_out() {
        let text = "# by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1 ; first\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::1\nnameserver 0.0.0.0\nnameserver\n domain old.example\nsearch a.example b.example\n\
                    options edns0 trust-ad\noptions ndots:2\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.nameservers, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(resolver.search, ["a.example", "b.example"]);
        assert_eq!(resolver.options, ["edns0", "trust-ad", "ndots:2"]);
    }
}
