//! Image references in docker's grammar: `nginx`, `nginx:1.27`, `localhost:5000/a/b@sha256:…`.
//!
//! What is left out is implied: the registry `docker.io`, the namespace `library/` there, the tag `latest` where
//! there is no digest. Source: distribution/reference, its grammar and its rules of normalisation.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::digest::Digest;
use crate::error::Error;

/// A reference in full: nothing implied is missing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`
    pub registry: String,
    /// `library/nginx`
    pub repository: String,
    /// `latest`; absent only where a digest alone was given
    pub tag: Option<String>,
    /// given with `@`; it decides, whatever the tag says
    pub digest: Option<Digest>,
}

impl Reference {
    /// What a registry is asked for: the digest where there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }

    /// The name as a person would type it: `nginx` for `docker.io/library/nginx`. In full where the short form would mean
    /// another image: `docker.io/library/a/b` is not `a/b`, nor `docker.io/a.b/c` the `c` of a registry `a.b`.
    pub fn familiar_name(&self) -> String {
        let full = self.name();
        let short = match self.registry.as_str() {
            "docker.io" => self.repository.strip_prefix("library/").unwrap_or(&self.repository),
            _ => return full,
        };
        match short.parse::<Reference>() {
            Ok(meant) if meant.repository == self.repository && meant.registry == self.registry => short.into(),
            _ => full,
        }
    }

    /// The whole as a person would type it: `nginx`, `nginx:1.27`, `nginx@sha256:…`.
    pub fn familiar(&self) -> String {
        let tag = self.tag.as_ref().filter(|tag| *tag != "latest").map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.familiar_name())
    }

    /// Registry and repository: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|cause| {
            Error::new(format!("cannot read image reference '{text}': {cause}"))
                .hint("nginx, nginx:1.27, quay.io/org/app:v2 and localhost:5000/a/b@sha256:… are references")
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl From<&Reference> for Value {
    fn from(reference: &Reference) -> Value {
        Value::String(reference.to_string())
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.what)?)),
        None => (text, None),
    };

    // A colon after the last slash begins a tag; before it, a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }

    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path.to_string()),
        _ => ("docker.io", name.to_string()),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    check_registry(registry)?;
    let repository = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    check_repository(&repository)?;

    if digest.is_none() && name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hex digits alone are an id, not a name".into());
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_string()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".into()),
    };
    Ok(Reference { registry: registry.into(), repository, tag, digest })
}

/// The first part is a host only if it could not be a repository's name.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), String> {
    // [::1]:5000, host:5000, host
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| format!("'{address}' is no IPv6 address"))?;
            ("v6", port.strip_prefix(':').or((!port.is_empty()).then_some("?")))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("'{registry}' has no valid port"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match host.split('.').all(label) {
        true => Ok(()),
        false => Err(format!("'{host}' is not a host name")),
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let legal =
        tag.bytes().next().is_some_and(word) && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    match legal && tag.len() <= 128 {
        true => Ok(()),
        false => Err(format!("'{tag}' is not a tag (letters, digits, _ . -, at most 128)")),
    }
}

/// Parts of lower-case letters and digits, between them one `.`, one or two `_`, or any number of `-`.
fn check_repository(repository: &str) -> Result<(), String> {
    if repository.len() > 255 {
        return Err("the name is longer than 255 characters".into());
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository's name is lower case".into());
    }
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    for part in repository.split('/') {
        let edges = part.bytes().next().is_some_and(alphanumeric) && part.bytes().last().is_some_and(alphanumeric);
        let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let legal =
            |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-');
        if !edges || !separators.into_iter().all(legal) {
            return Err(format!("'{part}' is not a part of a repository's name (a-z, 0-9, between them . _ -)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_implied() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let cases = [
            ("nginx", "docker.io/library/nginx:latest", "nginx"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx"),
            ("localhost/nginx", "localhost/nginx:latest", "localhost/nginx"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a"),
            ("quay.io/org/app:v2", "quay.io/org/app:v2", "quay.io/org/app"),
            ("a--b/c__d.e:T.1-x", "docker.io/a--b/c__d.e:T.1-x", "a--b/c__d.e"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "docker.io/library/a/b"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c"),
        ];
        for (typed, full, familiar) in cases {
            let reference: Reference = typed.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{typed}");
            assert_eq!(reference.familiar_name(), familiar, "{typed}");
            assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference, "{typed}");
        }
        let pinned: Reference = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!(pinned.selector(), digest);
        let untagged: Reference = format!("nginx@{digest}").parse().unwrap();
        assert_eq!(untagged.tag, None);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_part() {
        let id = "a".repeat(64);
        let long = format!("a/{}", "b".repeat(255));
        let bad = [
            "",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@sha256:00",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "../a",
            "host:port/a",
            "a/b:c/d:e/f",
            "http://a/b",
            &id,
            &long,
            "localhost:5000",
            "é",
        ];
        for typed in bad {
            // `localhost:5000` alone is the repository `localhost` with a tag, as docker reads it.
            if typed == "localhost:5000" {
                assert_eq!(typed.parse::<Reference>().unwrap().tag.as_deref(), Some("5000"));
                continue;
            }
            assert!(typed.parse::<Reference>().is_err(), "{typed}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_reference_printed_reads_back_the_same(text in "[a-z0-9.:/_@-]{1,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            drop(text.parse::<Reference>());
        }
    }
}
