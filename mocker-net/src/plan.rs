//! What is asked for, checked: all that can be refused is refused before anything is made.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, USAGE};

use crate::addresses::{Subnet, host_interface};
use crate::args::{Mode, NetworkArgs};
use crate::calls::{Netlink, Route, find_link, links, routes};
use crate::netns;
use crate::ports::Port;
use crate::state::State;

/// A network that can be made.
#[derive(Debug)]
pub struct Plan {
    pub id: ContainerId,
    pub netns: PathBuf,
    /// none with `--network none`
    pub bridge: Option<BridgePlan>,
}

/// The bridge to hang on, and as what.
#[derive(Debug)]
pub struct BridgePlan {
    pub name: String,
    pub subnet: Subnet,
    pub asked: Option<Ipv4Addr>,
    pub ports: Vec<Port>,
    pub mtu: u32,
}

impl Plan {
    /// Reads what is there; makes nothing.
    pub async fn check(
        document: &Document,
        id: &ContainerId,
        args: &NetworkArgs,
        state: &State,
        host: &Netlink,
    ) -> Result<Plan, Error> {
        check_document(document)?;
        let netns = netns::path(id);
        if netns.symlink_metadata().is_ok() {
            return Err(Error::new(format!("cannot make the network namespace {id}: {} exists", netns.display()))
                .why("the namespace is named by the container's id, and this one is somebody else's")
                .hint(format!("another --id, or ip netns delete {id}")));
        }
        if args.network == Mode::None {
            return Ok(Plan { id: id.clone(), netns, bridge: None });
        }

        let known = state.subnet_of(&args.bridge);
        let subnet = args.subnet.or(known).unwrap_or(Subnet::of(Ipv4Addr::new(10, 0, 0, 0), 24));
        if let Some(address) = args.ip {
            subnet.check_address(address)?;
        }
        let routes = routes(host).await?;
        check_host_interface(id, host).await?;
        check_bridge(&args.bridge, subnet, known, state, host, &routes).await?;
        let bridge = BridgePlan {
            name: args.bridge.clone(),
            subnet,
            asked: args.ip,
            ports: args.publish.iter().flat_map(|publication| publication.ports.clone()).collect(),
            mtu: mtu(host, &routes).await?,
        };
        Ok(Plan { id: id.clone(), netns, bridge: Some(bridge) })
    }
}

/// Options that contradict each other.
pub fn check_options(args: &NetworkArgs) -> Result<(), Error> {
    let refused = |what: String| Err(Error::new(what).status(USAGE));
    if args.network != Mode::Bridge && (!args.publish.is_empty() || args.ip.is_some()) {
        return refused(format!("cannot use -p or --ip with --network {}: there is no bridge", args.network.word()));
    }
    let name = args.bridge.as_bytes();
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(1..=15).contains(&name.len()) || !name[0].is_ascii_alphabetic() || !name.iter().all(legal) {
        return refused(format!(
            "cannot call a bridge '{}': 1 to 15 letters, digits, - _ . and a letter first",
            args.bridge
        ));
    }
    Ok(())
}

/// A namespace that somebody else has made for the container is not ours to replace.
pub fn check_document(document: &Document) -> Result<(), Error> {
    let namespaces = document.get("/linux/namespaces").and_then(|all| all.as_array());
    let network = namespaces.and_then(|all| all.iter().find(|one| one["type"] == "network"));
    match network.and_then(|namespace| namespace["path"].as_str()) {
        None => Ok(()),
        Some(path) => Err(Error::new(format!("cannot give the container a network: its namespace is {path} already"))
            .likely("mocker-net stands twice in the pipeline")
            .hint("jq 'del(.linux.namespaces[] | select(.type == \"network\").path)'")),
    }
}

/// The name of the pair's end on the host must be free: undo goes by it.
async fn check_host_interface(id: &ContainerId, host: &Netlink) -> Result<(), Error> {
    let name = host_interface(id);
    match find_link(host, &name).await? {
        None => Ok(()),
        Some(_) => {
            Err(Error::new(format!("cannot make the interface {name}: one of this name exists, and is not ours"))
                .why("it is named after the container's id, so that it is found again when the container is gone")
                .hint(format!("another --id, or ip link delete {name}")))
        }
    }
}

/// A bridge that is there must be ours and of this subnet; one that is not must not cut off what the host reaches now.
async fn check_bridge(
    name: &str,
    subnet: Subnet,
    known: Option<Subnet>,
    state: &State,
    host: &Netlink,
    routes: &[Route],
) -> Result<(), Error> {
    if let Some(known) = known.filter(|known| *known != subnet) {
        return Err(Error::new(format!("cannot use {subnet} on bridge {name}: it has {known}"))
            .hint("leave out --subnet, or another --bridge"));
    }
    let link = find_link(host, name).await?;
    if let Some(link) = link {
        let ours = known.is_some() && link.is_bridge && (link.alias.is_empty() || link.alias == state.signature());
        return match ours {
            true => Ok(()),
            false => {
                Err(Error::new(format!("cannot use bridge {name}: an interface of this name exists, and is not ours"))
                    .why("what mocker-net takes down with the last container must be what it has made")
                    .likely(match link.alias.strip_prefix("mocker ") {
                        Some(directory) => format!("a mocker with the state directory {directory} has made it"),
                        None => String::new(),
                    })
                    .hint("another --bridge; ip -d link"))
            }
        };
    }
    const LOCAL: u32 = 255;
    let conflict = routes.iter().find(|route| {
        route.table != LOCAL && !route.destination.is_everything() && route.destination.overlaps(&subnet)
    });
    let Some(route) = conflict else { return Ok(()) };
    let links = links(host).await?;
    let interface = links.iter().find(|link| link.index == route.interface).map_or("?", |link| &link.name);
    Err(Error::new(format!("cannot use subnet {subnet}: the host has the route {} dev {interface}", route.destination))
        .why("the bridge's route would take these addresses away from where they lead now")
        .hint("--subnet with addresses that `ip route show table all` does not name"))
}

/// What fits through the host's way out: larger packets of a container would vanish there.
async fn mtu(host: &Netlink, routes: &[Route]) -> Result<u32, Error> {
    const ETHERNET: u32 = 1500;
    let default = routes.iter().filter(|route| route.destination.is_everything() && route.interface != 0);
    let Some(default) = default.min_by_key(|route| route.metric) else { return Ok(ETHERNET) };
    let links = links(host).await?;
    Ok(links.iter().find(|link| link.index == default.interface).map_or(ETHERNET, |link| link.mtu))
}
