//! Other people's firewalls. In nftables every base chain of a hook sees a packet, and a drop in any of them is final: what
//! our table accepts, another may still drop. We touch none of them; we say which one, and how its owner lets us through.

use crate::calls::Chain;

/// The chains of all tables.
#[derive(Debug, Default)]
pub struct Chains {
    chains: Vec<Chain>,
}

impl From<Vec<Chain>> for Chains {
    fn from(chains: Vec<Chain>) -> Self {
        Chains { chains }
    }
}

impl Chains {
    /// Whether a table of the family `ip` has chains.
    pub fn has_table(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain.family == "ip" && chain.table == name)
    }

    /// A warning for each chain that drops forwarded packets unless it knows them.
    pub fn warnings(&self, bridge: &str) -> Vec<String> {
        let drops = |chain: &&Chain| chain.forwards && chain.drops && ["ip", "inet", "bridge"].contains(&chain.family);
        self.chains.iter().filter(drops).map(|chain| self.warning(chain, bridge)).collect()
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

    fn chain(table: &str, name: &str, forwards: bool, drops: bool) -> Chain {
        Chain { family: "ip", table: table.into(), name: name.into(), forwards, drops }
    }

    fn chains(first: Chain, second: Chain) -> Chains {
        vec![chain("mocker", "forward", true, false), first, second].into()
    }

    #[test]
    fn a_chain_that_drops_is_named_with_its_owners_own_door() {
        let drop = |table: &str, name: &str| chain(table, name, true, true);
        let plain = |table: &str, name: &str| chain(table, name, false, false);
        for (first, second, door) in [
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
            let warnings = chains(first, second).warnings("mocker0");
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains(door), "{}", warnings[0]);
        }
    }

    #[test]
    fn our_own_table_and_chains_that_accept_are_no_warning() {
        let chains = chains(chain("f", "FORWARD", true, false), chain("f", "INPUT", false, true));
        assert_eq!(chains.warnings("mocker0"), Vec::<String>::new());
        assert!(chains.has_table("mocker") && !chains.has_table("mocker-b"));
    }
}
