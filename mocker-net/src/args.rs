//! The command line. Help comes from here alone.

use std::net::Ipv4Addr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use mocker_common::document::ContainerId;
use mocker_common::stage::StageArgs;

use crate::addresses::Subnet;
use crate::ports::Publication;

/// Gives a container a network of its own: namespace, bridge, address, route, NAT, published ports
///
/// A stage: reads a document, makes the network, and writes the document with the namespace's path, with what was made
/// under mocker.network, and with `mocker-net delete ID` in front of its poststop hooks.
#[derive(Parser, Debug)]
#[command(name = "mocker-net", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub stage: StageArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Args {
    /// Whether something is asked for that only the stage can do.
    pub fn is_stage(&self) -> bool {
        let StageArgs { new, id, name, document_fd, .. } = &self.stage;
        let network = &self.network;
        *new || id.is_some()
            || name.is_some()
            || document_fd.is_some()
            || !network.publish.is_empty()
            || network.ip.is_some()
            || network.subnet.is_some()
    }
}

#[derive(ClapArgs, Clone, Debug)]
pub struct NetworkArgs {
    /// Publish a port of the container on the host; bound to 127.0.0.1 unless an address is given (0.0.0.0: all)
    #[arg(short, long, value_name = "[ADDR:]HOST:CONTAINER[/tcp|udp]")]
    pub publish: Vec<Publication>,
    /// What the container is connected to
    #[arg(long, value_enum, default_value = "bridge")]
    pub network: Mode,
    /// The bridge to hang it on; made if it is not there
    #[arg(long, default_value = "mocker0", value_name = "NAME")]
    pub bridge: String,
    /// The bridge's addresses; its own is the first [default: the bridge's, else 10.0.0.0/24]
    #[arg(long, value_name = "ADDR/BITS")]
    pub subnet: Option<Subnet>,
    /// The container's address [default: the lowest free one]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// a bridge of the host, with NAT to the outside
    Bridge,
    /// nothing: a namespace with its loopback alone
    None,
    /// the host's own network: no isolation
    Host,
}

impl Mode {
    pub fn word(self) -> &'static str {
        match self {
            Mode::Bridge => "bridge",
            Mode::None => "none",
            Mode::Host => "host",
        }
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Unmake the networks of containers; succeeds if there is nothing
    Delete {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<ContainerId>,
    },
    /// Unmake what was left behind by those who were killed
    Prune,
    /// List the containers' networks
    #[command(visible_alias = "list")]
    Ls {
        /// Print a JSON array, an object a container, as `inspect` prints one
        #[arg(long)]
        json: bool,
    },
    /// Print what was made for a container, as JSON, and what of it is missing
    #[command(after_help = FIELDS)]
    Inspect {
        #[arg(value_name = "ID")]
        id: ContainerId,
    },
}

const EXAMPLES: &str = "\
Examples:
  mocker-images get nginx | mocker-net -p 8080:80 | mocker-exec    serve on 127.0.0.1:8080
  mocker-images get nginx | mocker-net -p 0.0.0.0:8080:80 | mocker-exec    … to the world
  mocker-net --new --id lab > lab.json; ip netns exec lab ip address; mocker-net delete lab

Exit status: 0 done, 1 failed, 2 a command line that makes no sense.
NAT is done by an nftables table of our own: `nft list table ip mocker` (mocker-BRIDGE for another bridge).";

const FIELDS: &str = "\
Fields:
  id              of the container
  netns           file that stands for its network namespace
  bridge, subnet, gateway, address, mac, interface, host_interface, mtu    absent with --network none
  ports           an array of protocol, host_address, host_port, container_port
  missing         what should be there and is not: netns, host_interface, bridge, rules";
