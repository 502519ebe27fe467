//! Addresses: which a subnet has, which is free, and who has it.
//!
//! A lease is a file named by the address that holds the container's id, which appears complete or
//! not at all, under the lock of the state directory. On a tmpfs, so a reboot clears it.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// An IPv4 network. Its first address is the gateway; the second was the seed's own, and is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// The network that an address lies in.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Subnet { network: address.to_bits() & mask(prefix), prefix }
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | 1)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network
    }

    pub fn overlaps(&self, other: &Subnet) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.network & shorter == other.network & shorter
    }

    /// Whether it is the default route's 0.0.0.0/0.
    pub fn is_everything(&self) -> bool {
        self.prefix == 0
    }

    /// The addresses for containers, lowest first: without network, gateway, the seed's and broadcast.
    pub fn for_containers(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (self.network + 3..self.broadcast()).map(Ipv4Addr::from_bits)
    }

    fn broadcast(&self) -> u32 {
        self.network | !mask(self.prefix)
    }

    /// Refuses what no container can have.
    pub fn check_address(&self, address: Ipv4Addr) -> Result<(), Error> {
        let refused = |why: String| {
            Err(Error::new(format!("cannot give the container {address}: {why}"))
                .hint(format!("--ip with another address of {self}, or --subnet")))
        };
        match address.to_bits() {
            _ if !self.contains(address) => refused(format!("it is not in {self}")),
            bits if bits == self.network => refused("it is the network's own address".into()),
            bits if bits == self.broadcast() => refused("it is the broadcast address".into()),
            _ if address == self.gateway() => refused("it is the gateway's".into()),
            _ => Ok(()),
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| Error::new(format!("cannot use subnet '{text}': {why}"));
        let (address, prefix) = text.split_once('/').ok_or_else(|| refused("not of the form 10.0.0.0/24"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refused("not of the form 10.0.0.0/24"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refused("not of the form 10.0.0.0/24"))?;
        let subnet = Subnet::of(address, prefix);
        match prefix {
            8..=29 if subnet.network == address.to_bits() && !address.is_loopback() && !address.is_multicast() => {
                Ok(subnet)
            }
            8..=29 if subnet.network != address.to_bits() => {
                Err(refused("bits are set behind the prefix").hint(subnet.to_string()))
            }
            8..=29 => {
                Err(refused("its addresses have a meaning of their own")
                    .hint("10.0.0.0/24, 172.16.0.0/12, 192.168.0.0/16"))
            }
            _ => Err(refused("the prefix must be 8 to 29: a network, a gateway and at least one container")),
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

/// A hardware address made from the IPv4 address: whoever gets the address after, gets this too, and no neighbour's
/// table is stale. 02 says "locally administered".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl Mac {
    pub fn from_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The address asked for, if it is free; else the lowest free one.
pub fn choose(state: &State, bridge: &str, subnet: &Subnet, asked: Option<Ipv4Addr>) -> Result<Ipv4Addr, Error> {
    let owner = |address: Ipv4Addr| state.owner_of(&state.lease(bridge, address));
    if let Some(address) = asked {
        return match owner(address) {
            None => Ok(address),
            Some(owner) => Err(Error::new(format!("cannot give the container {address}: {owner} has it"))
                .hint(format!("mocker-net inspect {owner}; or leave out --ip"))),
        };
    }
    subnet.for_containers().find(|address| owner(*address).is_none()).ok_or_else(|| {
        Error::new(format!("cannot find a free address: every one of {subnet} is taken"))
            .likely(format!("the containers on {bridge} need a larger subnet"))
            .hint("mocker-net ls; mocker-net prune; or --bridge with a --subnet of its own")
    })
}

/// A name for the host's end of the pair, at most 15 characters: the id where it fits, else a digest of it.
pub fn host_interface(id: &ContainerId) -> String {
    let id = id.as_str();
    match id.len() {
        0..=12 => format!("mk-{id}"),
        // FNV-1a, 48 bits of it: names must differ, nobody is to be kept from forging one.
        _ => {
            let hash = id
                .bytes()
                .fold(0xcbf29ce484222325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3));
            format!("mk-{:012x}", hash >> 16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_addresses() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        let all: Vec<Ipv4Addr> = subnet.for_containers().collect();
        assert_eq!(subnet.gateway().to_string(), "10.0.0.1");
        assert_eq!(
            (all[0].to_string(), all[251].to_string(), all.len()),
            ("10.0.0.3".into(), "10.0.0.254".into(), 252)
        );
        assert_eq!("10.9.0.248/29".parse::<Subnet>().unwrap().for_containers().count(), 4);
        for bad in
            ["10.0.0.0", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "127.0.0.0/24", "224.0.0.0/24", "x/24", "::/64"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn subnets_overlap_when_one_contains_the_other() {
        for (a, b, expected) in [
            ("10.0.0.0/24", "10.0.0.128/25", true),
            ("10.0.0.0/8", "10.200.0.0/16", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
        ] {
            let (a, b): (Subnet, Subnet) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expected, expected), "{a} {b}");
        }
        assert!(Subnet::of(Ipv4Addr::UNSPECIFIED, 0).overlaps(&"10.0.0.0/24".parse().unwrap()));
    }

    #[test]
    fn an_address_that_has_another_use_is_refused() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        for bad in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.3"] {
            assert!(subnet.check_address(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(subnet.check_address("10.0.0.2".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_hardware_address_shows_the_address() {
        assert_eq!(Mac::from_address("10.0.0.3".parse().unwrap()).to_string(), "02:42:0a:00:00:03");
    }

    #[test]
    fn an_interface_name_fits_and_differs() {
        let name = |id: &str| host_interface(&id.parse().unwrap());
        assert_eq!(name("0123456789ab"), "mk-0123456789ab");
        let (a, b) = (name("a-very-long-name-1"), name("a-very-long-name-2"));
        assert!(a != b && a.len() == 15, "{a} {b}");
    }
}
