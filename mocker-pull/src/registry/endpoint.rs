//! Where a registry answers, and where it may send us.
//!
//! Plain HTTP is spoken with the loopback, and with whom a person has declared insecure; everybody else must prove by TLS
//! who they are. Pure functions.

use std::net::IpAddr;

use mocker_common::error::Error;
use reqwest::Url;

use super::settings::Settings;

/// The base address of a registry's API.
pub fn of(registry: &str, scheme: &str) -> Result<Url, Error> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    Url::parse(&format!("{scheme}://{host}/"))
        .map_err(|cause| Error::new(format!("cannot make an address of registry '{registry}': {cause}")))
}

/// Whether a URL names this machine literally: 127/8, ::1, localhost.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether bytes on the way to this URL are as safe from others as they have to be: by TLS, because they do not leave the
/// machine, or because a person has settled for less.
pub fn is_safe(url: &Url, settings: &Settings) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && settings.may_be_plain(url))
}

/// Where a redirect leads, and whether the credentials may come along: only to the same scheme, host and port.
pub fn redirected(from: &Url, location: &str, settings: &Settings) -> Result<(Url, bool), String> {
    let mut to = from.join(location).map_err(|cause| format!("it redirects to '{location}': {cause}"))?;
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(format!("it redirects from https to {}", without_query(&to)));
    }
    if !is_safe(&to, settings) {
        return Err(format!("it redirects to {}, without TLS", without_query(&to)));
    }
    if !to.username().is_empty() || to.password().is_some() {
        to.set_username("").and_then(|()| to.set_password(None)).unwrap_or_default();
    }
    to.set_fragment(None);
    let same = from.origin() == to.origin();
    Ok((to, same))
}

/// A URL fit to be shown: what a redirect has behind the `?` is often a signature, as good as a password.
pub fn without_query(url: &Url) -> String {
    match url.query() {
        Some(_) => url.as_str().split('?').next().unwrap_or_default().to_string() + "?…",
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_registry_s_name_becomes_its_address() {
        let cases = [
            ("docker.io", "https", "https://registry-1.docker.io/"),
            ("quay.io", "https", "https://quay.io/"),
            ("localhost:5000", "http", "http://localhost:5000/"),
            ("[2001:db8::1]:5000", "https", "https://[2001:db8::1]:5000/"),
        ];
        for (registry, scheme, url) in cases {
            assert_eq!(of(registry, scheme).unwrap().as_str(), url, "{registry}");
        }
    }

    #[test]
    fn only_literal_names_of_this_machine_are_the_loopback() {
        let here = ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"];
        let elsewhere =
            ["quay.io", "10.0.0.1:5000", "localhost.example:5000", "127.0.0.1.example", "[2001:db8::1]:5000"];
        for (registries, expected) in [(here, true), (elsewhere, false)] {
            for registry in registries {
                assert_eq!(is_loopback(&of(registry, "https").unwrap()), expected, "{registry}");
            }
        }
    }

    #[test]
    fn a_redirect_keeps_credentials_at_home_and_never_leaves_tls() {
        let cases = [
            ("https://r.io/v2/a", "/v2/b", Some(("https://r.io/v2/b", true))),
            ("https://r.io/v2/a", "https://r.io:443/x#y", Some(("https://r.io/x", true))),
            ("https://r.io/v2/a", "https://cdn.io/x?sig=1", Some(("https://cdn.io/x?sig=1", false))),
            ("https://r.io/v2/a", "https://r.io:444/x", Some(("https://r.io:444/x", false))),
            ("https://r.io/v2/a", "https://u:p@cdn.io/x", Some(("https://cdn.io/x", false))),
            ("https://r.io/v2/a", "http://r.io/x", None),
            ("https://r.io/v2/a", "http://127.0.0.1/x", None),
            ("https://r.io/v2/a", "file:///etc/passwd", None),
            ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b", Some(("http://127.0.0.1:2/b", false))),
            ("http://127.0.0.1:1/a", "https://cdn.io/b", Some(("https://cdn.io/b", false))),
            ("http://127.0.0.1:1/a", "http://cdn.io/b", None),
            ("http://localhost/a", "https://", None),
            ("http://r.lan:5000/a", "/b", Some(("http://r.lan:5000/b", true))),
            ("http://r.lan:5000/a", "http://r.lan:5001/b", None),
            ("https://r.lan:5000/a", "http://r.lan:5000/b", None),
            ("http://127.0.0.1:1/a", "http://r.lan:5000/b", Some(("http://r.lan:5000/b", false))),
        ];
        let settings = Settings::parse("[registry.\"r.lan:5000\"]\ninsecure = true\n", Path::new("/x")).unwrap();
        for (from, location, expected) in cases {
            let outcome = redirected(&Url::parse(from).unwrap(), location, &settings).ok();
            let expected = expected.map(|(url, keep)| (Url::parse(url).unwrap(), keep));
            assert_eq!(outcome, expected, "{from} to {location}");
        }
    }
}
