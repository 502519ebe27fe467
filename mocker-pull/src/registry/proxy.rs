//! The proxy that the environment names, and for whom it is not used.
//!
//! `HTTPS_PROXY` for TLS, `HTTP_PROXY` for plain HTTP, else `ALL_PROXY`; of each name the lower-case form wins, as in curl.
//! `NO_PROXY` has what is reached directly, separated by commas: `registry.lan` (and all below it), `.lan` (only what is
//! below it), `10.0.0.0/8`, `10.0.0.7`, each with `:port` if only that port is meant, or `*`. The loopback never goes
//! through a proxy: on the proxy's machine it would be another one. Source: curl(1), ENVIRONMENT; Go's http/httpproxy.

use std::net::IpAddr;

use mocker_common::error::Error;
use reqwest::Url;

use super::endpoint;

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

/// One entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq)]
struct Direct {
    whom: Whom,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
enum Whom {
    All,
    /// an address and how many of its bits count
    Network(IpAddr, u32),
    /// this name and all below it
    Domain(String),
    /// what is below this name
    Below(String),
}

impl Proxies {
    pub fn of_environment() -> Result<Self, Error> {
        Proxies::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let get = |name: &str| {
            // In a CGI program HTTP_PROXY is what a client has sent as header "Proxy" (httpoxy, CVE-2016-5385).
            let hostile = name == "http_proxy" && variable("REQUEST_METHOD").is_some();
            let upper = || variable(&name.to_ascii_uppercase()).filter(|_| !hostile);
            variable(name).or_else(upper).filter(|value| !value.trim().is_empty())
        };
        let of = |name: &str| match get(name).or_else(|| get("all_proxy")) {
            Some(value) => address(value.trim()).map(Some).map_err(|cause| unusable(name, cause)),
            None => Ok(None),
        };
        let direct = get("no_proxy").unwrap_or_default().split([',', ' ']).filter_map(Direct::read).collect();
        Ok(Proxies { http: of("http_proxy")?, https: of("https_proxy")?, direct })
    }

    /// The proxy for a URL; None where it is reached directly.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let direct = || endpoint::is_loopback(url) || self.direct.iter().any(|direct| direct.matches(url));
        proxy.as_ref().filter(|_| !direct())
    }
}

impl Direct {
    fn read(text: &str) -> Option<Direct> {
        let text = text.trim().to_ascii_lowercase();
        let (host, port) = match text.rsplit_once(':') {
            // More than one colon is an IPv6 address, unless brackets end it.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (text.as_str(), None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let (address, bits) = host.split_once('/').map_or((host, None), |(address, bits)| (address, Some(bits)));
        let whom = match (address.parse::<IpAddr>(), host) {
            (_, "") => return None,
            (_, "*") => Whom::All,
            (Ok(address), _) => {
                let most = if address.is_ipv4() { 32 } else { 128 };
                let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
                Whom::Network(address, bits)
            }
            (Err(_), _) => match host.trim_start_matches('*').strip_prefix('.') {
                Some(below) => Whom::Below(below.into()),
                None => Whom::Domain(host.into()),
            },
        };
        Some(Direct { whom, port })
    }

    fn matches(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches([']', '.']);
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        let whom = match &self.whom {
            Whom::All => true,
            Whom::Network(network, bits) => host.parse().is_ok_and(|address| is_within(address, *network, *bits)),
            Whom::Domain(domain) => host == domain || below(domain),
            Whom::Below(domain) => below(domain),
        };
        whom && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, most) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (u32::from(address).into(), u32::from(network).into(), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), 128),
        _ => return false,
    };
    (address ^ network).checked_shr(most - bits).unwrap_or(0) == 0
}

/// Reads a proxy's address; without a scheme it is plain HTTP.
fn address(value: &str) -> Result<Url, &'static str> {
    let text = if value.contains("://") { value.to_string() } else { format!("http://{value}") };
    let url = Url::parse(&text).map_err(|_| "it is no URL")?;
    match url.scheme() {
        _ if url.host_str().is_none() => Err("it names no host"),
        "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h" => Ok(url),
        _ => Err("mocker-pull knows proxies of http, https, socks4 and socks5"),
    }
}

/// The value may hold a password: it is not shown.
fn unusable(name: &str, cause: &str) -> Error {
    let upper = name.to_ascii_uppercase();
    Error::new(format!("cannot use the proxy in {upper} (or ALL_PROXY): {cause}"))
        .why("to go on without it would show to others what was meant for the proxy alone")
        .hint(format!("{upper}=http://proxy.example:3128, or unset {name} {upper}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Proxies, Error> {
        Proxies::read(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    fn of(proxies: &Proxies, url: &str) -> String {
        proxies.of(&Url::parse(url).unwrap()).map_or("-".into(), |proxy| proxy.to_string())
    }

    #[test]
    fn a_proxy_is_taken_from_either_spelling_for_its_scheme() {
        type Set = &'static [(&'static str, &'static str)];
        let cases: [(Set, &str, &str); 8] = [
            (&[("HTTPS_PROXY", "http://p:1")], "https://a.b/", "http://p:1/"),
            (&[("HTTPS_PROXY", "http://p:1")], "http://a.b/", "-"),
            (&[("https_proxy", "p:1"), ("HTTPS_PROXY", "q:1")], "https://a.b/", "http://p:1/"),
            (&[("http_proxy", "p:1")], "http://a.b/", "http://p:1/"),
            (&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")], "http://a.b/", "-"),
            (&[("ALL_PROXY", "socks5h://p:1")], "https://a.b/", "socks5h://p:1"),
            (&[("HTTPS_PROXY", "")], "https://a.b/", "-"),
            (&[("HTTPS_PROXY", "p:1")], "https://127.0.0.1/", "-"),
        ];
        for (set, url, expected) in cases {
            assert_eq!(of(&read(set).unwrap(), url), expected, "{set:?} {url}");
        }
        for bad in ["ftp://p", "http://", "http://:x"] {
            assert!(read(&[("HTTPS_PROXY", bad)]).is_err(), "{bad}");
        }
        let error = read(&[("HTTPS_PROXY", "gopher://user:hidden@p")]).unwrap_err();
        assert!(!error.to_string().contains("hidden"), "{error}");
    }

    #[test]
    fn who_is_reached_directly() {
        let cases = [
            ("registry.lan", "https://registry.lan/", true),
            ("registry.lan", "https://a.registry.lan/", true),
            ("registry.lan", "https://myregistry.lan/", false),
            (".lan", "https://registry.lan/", true),
            (".lan", "https://lan/", false),
            ("*.lan", "https://registry.lan/", true),
            ("a, Registry.LAN ,b", "https://registry.lan/", true),
            ("registry.lan:5000", "https://registry.lan:5000/", true),
            ("registry.lan:5000", "https://registry.lan/", false),
            ("registry.lan:443", "https://registry.lan/", true),
            ("registry.lan:x", "https://registry.lan/", false),
            ("10.0.0.0/8", "https://10.255.0.1:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("10.0.0.0/0", "https://11.0.0.1/", true),
            ("10.0.0.0/33", "https://10.0.0.0/", false),
            ("10.0.0.7", "https://10.0.0.7/", true),
            ("10.0.0.7:5000", "https://10.0.0.7/", false),
            ("2001:db8::/32", "https://[2001:db8::7]/", true),
            ("[2001:db8::7]:5000", "https://[2001:db8::7]:5000/", true),
            ("2001:db8::/32", "https://10.0.0.1/", false),
            ("*", "https://a.b/", true),
            ("", "https://a.b/", false),
        ];
        for (value, url, direct) in cases {
            let proxies = read(&[("HTTPS_PROXY", "p:1"), ("no_proxy", value)]).unwrap();
            assert_eq!(of(&proxies, url) == "-", direct, "{value} {url}");
        }
    }
}
