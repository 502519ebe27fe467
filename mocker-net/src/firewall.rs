//! Other people's firewalls. In nftables every base chain of a hook sees a packet, and a drop in any of them is final: what
//! our table accepts, another may still drop. We touch none of them; we say which one, and how its owner lets us through.

use mocker_common::error::Error;
use serde_json::Value;

/// The chains of all tables.
#[derive(Debug, Default)]
pub struct Chains {
    chains: Vec<Chain>,
}

#[derive(Debug, Default, PartialEq)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: String,
    policy: String,
}

impl Chains {
    /// Reads what `nft -j list chains` prints.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|cause| Error::new(format!("cannot read what nft lists: {cause}")).hint("nft -j list chains"))?;
        let items = value["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |chain: &Value, key: &str| chain[key].as_str().unwrap_or_default().to_string();
        let chains = items.iter().map(|item| &item["chain"]).filter(|chain| chain.is_object()).map(|chain| Chain {
            family: text(chain, "family"),
            table: text(chain, "table"),
            name: text(chain, "name"),
            hook: text(chain, "hook"),
            policy: text(chain, "policy"),
        });
        Ok(Chains { chains: chains.collect() })
    }

    /// Whether a table of the family `ip` has chains.
    pub fn has_table(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain.family == "ip" && chain.table == name)
    }

    /// A warning for each chain that drops forwarded packets unless it knows them.
    pub fn warnings(&self, bridge: &str) -> Vec<String> {
        let drops = self.chains.iter().filter(|chain| {
            chain.hook == "forward"
                && chain.policy == "drop"
                && ["ip", "inet", "bridge"].contains(&chain.family.as_str())
        });
        drops.map(|chain| self.warning(chain, bridge)).collect()
    }

    fn warning(&self, chain: &Chain, bridge: &str) -> String {
        let Chain { family, table, name, .. } = chain;
        format!(
            "chain {name} of table {family} {table} drops what it does not know: containers on {bridge} may reach nothing \
             beyond it\n  why     every firewall table sees a packet, and a drop in one is final, whatever ours accepts\n  \
             try     {}",
            self.door(chain, bridge).replace('\n', "\n          ")
        )
    }

    /// How the owner of a chain wants it to be opened.
    fn door(&self, chain: &Chain, bridge: &str) -> String {
        let has = |name: &str| self.chains.iter().any(|other| other.table == chain.table && other.name == name);
        if has("DOCKER-USER") {
            format!("iptables -I DOCKER-USER -i {bridge} -j ACCEPT\niptables -I DOCKER-USER -o {bridge} -j ACCEPT")
        } else if has("ufw-before-forward") {
            format!("ufw route allow in on {bridge}\nufw route allow out on {bridge}")
        } else if chain.table == "firewalld" {
            format!("firewall-cmd --zone=trusted --add-interface={bridge}")
        } else if chain.name == "FORWARD" && chain.table == "filter" {
            format!("iptables -I FORWARD -i {bridge} -j ACCEPT\niptables -I FORWARD -o {bridge} -j ACCEPT")
        } else {
            let Chain { family, table, name, .. } = chain;
            format!(
                "nft insert rule {family} {table} {name} iifname {bridge} accept\n\
                 nft insert rule {family} {table} {name} oifname {bridge} accept"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(forward: &str, other: &str) -> Chains {
        let json = format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {{"chain": {{"family": "ip", "table": "mocker",
            "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}}},
            {{"chain": {forward}}}, {{"chain": {other}}}]}}"#
        );
        Chains::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_chain_that_drops_is_named_with_its_owners_own_door() {
        let drop = |table: &str, name: &str| {
            format!(r#"{{"family":"ip","table":"{table}","name":"{name}","hook":"forward","prio":0,"policy":"drop"}}"#)
        };
        let plain = |table: &str, name: &str| format!(r#"{{"family":"ip","table":"{table}","name":"{name}"}}"#);
        for (chain, other, door) in [
            (drop("filter", "FORWARD"), plain("filter", "DOCKER-USER"), "iptables -I DOCKER-USER -i mocker0 -j ACCEPT"),
            (drop("filter", "FORWARD"), plain("filter", "ufw-before-forward"), "ufw route allow in on mocker0"),
            (drop("filter", "FORWARD"), plain("other", "DOCKER-USER"), "iptables -I FORWARD -i mocker0 -j ACCEPT"),
            (
                drop("firewalld", "filter_FORWARD"),
                plain("x", "y"),
                "firewall-cmd --zone=trusted --add-interface=mocker0",
            ),
            (drop("mine", "fwd"), plain("x", "y"), "nft insert rule ip mine fwd iifname mocker0 accept"),
        ] {
            let warnings = chains(&chain, &other).warnings("mocker0");
            assert_eq!(warnings.len(), 1, "{chain}");
            assert!(warnings[0].contains(door), "{}", warnings[0]);
        }
    }

    #[test]
    fn our_own_table_and_chains_that_accept_are_no_warning() {
        let accept = r#"{"family":"ip","table":"f","name":"FORWARD","hook":"forward","prio":0,"policy":"accept"}"#;
        let input = r#"{"family":"ip","table":"f","name":"INPUT","hook":"input","prio":0,"policy":"drop"}"#;
        let chains = chains(accept, input);
        assert_eq!(chains.warnings("mocker0"), Vec::<String>::new());
        assert!(chains.has_table("mocker") && !chains.has_table("mocker-b"));
    }
}
