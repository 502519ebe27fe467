//! Address translation: out of the bridge under the host's address, and in through published ports.
//!
//! One nftables table a bridge, made once; a published port is one element of one of its two maps. Adding is quick,
//! removing anything waits some ten milliseconds for the kernel to be sure that no packet is looking, so a container
//! comes with an addition and goes with one removal. Source: nft(8).

use std::fmt::Write;

use mocker_common::error::Error;
use mocker_common::step::{Step, step};

use crate::calls::{ForgetFlows, ListChains, Nft, WriteSetting};
use crate::firewall::Chains;
use crate::ports::{Port, Protocol};
use crate::state::{Link, State};

/// The table of a bridge.
pub fn table(bridge: &str) -> String {
    match bridge {
        "mocker0" => "mocker".into(),
        other => format!("mocker-{other}"),
    }
}

/// Makes the bridge's table if it is not there: for the first container, or when somebody has flushed the rules; then
/// with the ports of every container on it. Needs the lock.
pub fn ensure(state: &State, link: &Link, chains: &Chains) -> Result<(), Error> {
    let table = table(&link.bridge);
    if chains.has_table(&table) {
        return Ok(());
    }
    let records = state.records();
    let links = records.iter().filter_map(|record| record.link.as_ref()).filter(|other| other.bridge == link.bridge);
    let mut script = rules(&table, link);
    links.for_each(|link| script += &elements("add", &table, link, &link.ports));
    step(Nft { script: &script }).because(
        "the outside cannot answer a private address: the host lends its address on the way out, and takes published ports in",
    )
}

/// Publishes a container's ports.
pub fn publish(link: &Link) -> Result<(), Error> {
    if link.ports.is_empty() {
        return Ok(());
    }
    let table = table(&link.bridge);
    let add = elements("add", &table, link, &link.ports);
    publication(&add)
        .because("the port is the container's from here on: the kernel rewrites what arrives for it")
        .or_else(|error| {
            // The registry says that the ports are ours: what stands there is left over from one that was killed.
            link.ports.iter().for_each(|port| {
                let one = elements("delete", &table, link, std::slice::from_ref(port));
                publication(&one).because("a dead container's entry is in the way").unwrap_or_default();
            });
            publication(&add).because("the port is the container's, now that the old entry is gone").map_err(|_| error)
        })?;

    if link.ports.iter().any(Port::is_on_loopback) {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", link.bridge);
        step(WriteSetting { path: &path, value: "1" }).because(
            "a packet from 127.0.0.1 may not leave by a bridge, nor its answer come back, unless this says so",
        )?;
    }
    forget_flows(&link.ports)
}

fn publication(script: &str) -> Step<Nft<'_>> {
    step(Nft { script })
}

fn forget_flows(ports: &[Port]) -> Result<(), Error> {
    ports.iter().filter(|port| port.protocol == Protocol::Udp).try_for_each(|port| {
        step(ForgetFlows { address: port.host_address, port: port.host_port })
            .because("a flow is translated as its first datagram was: an old one would go on to where it went before")
    })
}

/// Takes a container's ports out of the maps. Succeeds if they are not there.
pub fn withdraw(link: &Link) -> Result<(), Error> {
    if link.ports.is_empty() || !is_there(&link.bridge)? {
        return Ok(());
    }
    let table = table(&link.bridge);
    let all = elements("delete", &table, link, &link.ports);
    let outcome = publication(&all)
        .because("its address will be another container's, which would then answer on this one's ports");
    if let Err(error) = outcome {
        // One that is missing refuses the whole transaction: each alone, then.
        for port in &link.ports {
            let one = elements("delete", &table, link, std::slice::from_ref(port));
            let outcome = publication(&one).because("not all of its ports are there, so each goes alone");
            absent_is_fine(outcome, &error)?;
        }
    }
    forget_flows(&link.ports)
}

/// Takes the bridge's table away. Succeeds if there is none.
pub fn delete(bridge: &str) -> Result<(), Error> {
    if !is_there(bridge)? {
        return Ok(());
    }
    // Adding what is there changes nothing, and what was just added can be deleted: so it need not be there.
    let script = format!("add table ip {0}\ndelete table ip {0}\n", table(bridge));
    step(Nft { script: &script }).because("its last container is gone; a table of no use would stay until the reboot")
}

/// The same for a container's UDP flows, when its table goes as a whole.
pub fn forget(link: &Link) -> Result<(), Error> {
    forget_flows(&link.ports)
}

fn absent_is_fine(outcome: Result<(), Error>, first: &Error) -> Result<(), Error> {
    match outcome {
        Err(error) if error.said.iter().any(|line| line.contains("No such file or directory")) => Ok(()),
        Err(error) => Err(Error { also: vec![first.to_string()], ..error }),
        Ok(()) => Ok(()),
    }
}

/// Whether the rules of a bridge are in the kernel.
pub fn is_there(bridge: &str) -> Result<bool, Error> {
    let chains = step(ListChains).because("rules that somebody has flushed need not be taken out")?;
    Ok(Chains::from(chains).has_table(&table(bridge)))
}

/// The table: chains with their rules, maps still empty.
fn rules(table: &str, link: &Link) -> String {
    let Link { bridge, subnet, .. } = link;
    format!(
        r#"table ip {table} {{
    map published {{
        comment "a port of one address of the host: the container's"
        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    }}
    map published_everywhere {{
        comment "a port of every address of the host: the container's"
        type inet_proto . inet_service : ipv4_addr . inet_service
    }}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 drop comment "only the host itself may use its loopback"
    }}
    chain from_outside {{
        type nat hook prerouting priority dstnat; policy accept;
        dnat ip to ip daddr . meta l4proto . th dport map @published
        fib daddr type local dnat ip to meta l4proto . th dport map @published_everywhere
    }}
    chain from_host {{
        type nat hook output priority -100; policy accept;
        dnat ip to ip daddr . meta l4proto . th dport map @published
        fib daddr type local dnat ip to meta l4proto . th dport map @published_everywhere
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname "{bridge}" iifname "{bridge}" accept comment "neighbours"
        oifname "{bridge}" ct state established,related accept comment "answers"
        oifname "{bridge}" ct status dnat accept comment "published ports"
        oifname "{bridge}" drop comment "nothing else comes in, though the host forwards"
        iifname "{bridge}" accept comment "the way out"
    }}
    chain to_outside {{
        type nat hook postrouting priority srcnat; policy accept;
        ip daddr 224.0.0.0/4 accept comment "multicast is for the bridge alone"
        ip saddr {subnet} oifname != "{bridge}" masquerade comment "the outside answers the host"
        ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade comment "a neighbour's answer must come back this way"
        ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade comment "nobody can answer 127.0.0.1"
    }}
}}
"#
    )
}

/// Statements that add or delete the elements of some ports.
fn elements(verb: &str, table: &str, link: &Link, ports: &[Port]) -> String {
    let mut script = String::new();
    for (map, everywhere) in [("published", false), ("published_everywhere", true)] {
        let of_map = ports.iter().filter(|port| port.host_address.is_unspecified() == everywhere);
        let elements: Vec<String> = of_map.map(|port| element(verb, link, port)).collect();
        if !elements.is_empty() {
            // Writing to a String cannot fail.
            writeln!(script, "{verb} element ip {table} {map} {{ {} }}", elements.join(", ")).unwrap_or_default();
        }
    }
    script
}

fn element(verb: &str, link: &Link, port: &Port) -> String {
    let Port { protocol, host_address, host_port, container_port } = port;
    let address = if host_address.is_unspecified() { String::new() } else { format!("{host_address} . ") };
    let value = if verb == "add" { format!(" : {} . {container_port}", link.address) } else { String::new() };
    format!("{address}{protocol} . {host_port}{value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Publication;

    #[test]
    fn a_port_of_one_address_and_one_of_all_go_to_different_maps() {
        let ports = ["8080:80", "0.0.0.0:53:5353/udp"].map(|text| text.parse::<Publication>().unwrap().ports[0]);
        let link = Link {
            bridge: "mocker0".into(),
            subnet: "10.0.0.0/24".parse().unwrap(),
            gateway: [10, 0, 0, 1].into(),
            address: [10, 0, 0, 3].into(),
            mac: String::new(),
            interface: "eth0".into(),
            host_interface: "mk-x".into(),
            mtu: 1500,
            ports: ports.to_vec(),
        };
        assert_eq!(
            elements("add", "mocker", &link, &link.ports),
            "add element ip mocker published { 127.0.0.1 . tcp . 8080 : 10.0.0.3 . 80 }\n\
             add element ip mocker published_everywhere { udp . 53 : 10.0.0.3 . 5353 }\n"
        );
        assert_eq!(
            elements("delete", "mocker", &link, &link.ports[..1]),
            "delete element ip mocker published { 127.0.0.1 . tcp . 8080 }\n"
        );
        assert_eq!(elements("add", "mocker", &link, &[]), "");
    }
}
