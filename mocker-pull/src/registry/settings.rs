//! What a person has settled about registries: mirrors, plain HTTP, whom to trust. One small TOML file.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000"]   # asked in this order, then docker.io itself; digests are checked whoever answers
//!
//! [registry."registry.lan:5000"]
//! insecure = true                     # TLS whose certificate nobody checks, else plain HTTP
//!
//! [registry."registry.example"]
//! ca = "/etc/mocker/example-ca.pem"   # trusted for this registry, beside the system's authorities
//! certificate = "client.pem"          # proves to it who we are; a path is relative to the file's own directory
//! key = "client.key"
//! ```
//!
//! The file is `$MOCKER_REGISTRIES`, else `$XDG_CONFIG_HOME/mocker/registries.toml` (`~/.config`), else
//! `/etc/mocker/registries.toml`: one, never a mixture. A key that mocker does not know is an error, not a comment: a typo
//! could otherwise leave out what keeps a registry safe. What is said holds for that host and port alone, not for a token
//! server or a storage on another one: these may have entries of their own.
//!
//! `insecure` is docker's: TLS is tried first and its certificate not checked; where no TLS is spoken, plain HTTP. A registry
//! on the loopback is spoken to by plain HTTP without being listed, by TLS once it has a `ca`, a `certificate` or `insecure =
//! false`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use reqwest::Url;
use serde::Deserialize;

use super::endpoint;

/// All of it.
#[derive(Debug, Default)]
pub struct Settings {
    /// by host, with a port unless it is TLS's own
    registries: BTreeMap<String, Entry>,
}

/// About one registry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// `host`, `host:port`, either with the path under which it keeps the registry's repositories
    pub mirrors: Vec<String>,
    pub insecure: Option<bool>,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: BTreeMap<String, Entry>,
}

impl Settings {
    /// Reads the file. Without one there is nothing settled.
    pub fn load() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let (named, usual) = places(variable);
        let path = named.or_else(|| usual.into_iter().find(|path| path.exists()));
        let Some(path) = path else { return Ok(Settings::default()) };
        let text = std::fs::read_to_string(&path).map_err(failed("read the settings of registries in", path.display()));
        Settings::parse(&text?, &path).map_err(|cause| {
            Error::new(format!("cannot read the settings of registries in {}: {cause}", path.display()))
                .why("they say whom to trust; what is not understood must not be passed over")
                .hint("[registry.\"registry.lan:5000\"]\ninsecure = true   # or mirrors = […], ca, certificate and key = \"FILE\"")
        })
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| at_line(text, &error))?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let mut registries = BTreeMap::new();
        for (name, mut entry) in file.registry {
            let told = |cause: String| format!("registry \"{name}\": {cause}");
            let host = host(&name).map_err(told)?;
            entry.check().map_err(told)?;
            for file in [&mut entry.ca, &mut entry.certificate, &mut entry.key].into_iter().flatten() {
                *file = beside.join(&*file);
            }
            if registries.insert(host, entry).is_some() {
                return Err(told("it stands there twice, in two spellings".into()));
            }
        }
        Ok(Settings { registries })
    }

    /// About the registry with this name, as a reference has it.
    pub fn of(&self, registry: &str) -> Option<&Entry> {
        self.registries.get(&host(registry).ok()?)
    }

    /// About the host that a URL leads to.
    pub fn of_url(&self, url: &Url) -> Option<&Entry> {
        let name = url.host_str()?;
        let with_port = format!("{name}:{}", url.port_or_known_default()?);
        self.of(&with_port).or_else(|| self.of(name).filter(|_| url.port().is_none()))
    }

    /// Whether nobody needs to prove who he is behind this URL: it does not leave the machine, or was declared insecure.
    pub fn may_be_plain(&self, url: &Url) -> bool {
        endpoint::is_loopback(url) || self.of_url(url).is_some_and(|entry| entry.insecure == Some(true))
    }
}

impl Entry {
    fn check(&self) -> Result<(), String> {
        for mirror in &self.mirrors {
            split_mirror(mirror)?;
        }
        match self {
            Entry { insecure: Some(true), ca: Some(_), .. } => {
                Err("with insecure = true no certificate is checked; leave out that or 'ca'".into())
            }
            Entry { certificate: Some(_), key: None, .. } => Err("a certificate is of no use without its 'key'".into()),
            Entry { certificate: None, key: Some(_), .. } => Err("a key is of no use without its 'certificate'".into()),
            _ => Ok(()),
        }
    }
}

/// Splits `mirror.example:5000/hub` into the registry and the path in it.
pub fn split_mirror(mirror: &str) -> Result<(&str, &str), String> {
    if mirror.contains("://") {
        return Err(format!(
            "mirror '{mirror}': leave out the scheme; TLS is spoken unless the mirror has insecure = true"
        ));
    }
    let (registry, path) = mirror.split_once('/').unwrap_or((mirror, ""));
    host(registry)?;
    let path = path.trim_end_matches('/');
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    match path.chars().all(legal) && !path.split('/').any(|part| part.starts_with('.')) {
        true => Ok((registry, path)),
        false => Err(format!("mirror '{mirror}': '{path}' is no path of repositories")),
    }
}

/// A host and its port in the one spelling that is looked for: lower case, without TLS's own port.
fn host(name: &str) -> Result<String, String> {
    let refused = || format!("'{name}' is no registry: a host, or host:port");
    let url = Url::parse(&format!("https://{name}")).map_err(|_| refused())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let host = url.host_str().filter(|_| bare && !name.ends_with('/')).ok_or_else(refused)?;
    Ok(match (host, url.port()) {
        ("index.docker.io" | "registry-1.docker.io", None) => "docker.io".into(),
        (host, None) => host.into(),
        (host, Some(port)) => format!("{host}:{port}"),
    })
}

/// The file that a variable names, and the usual ones.
fn places(variable: impl Fn(&str) -> Option<PathBuf>) -> (Option<PathBuf>, Vec<PathBuf>) {
    let own = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let usual = own.into_iter().map(|place| place.join("mocker")).chain([PathBuf::from("/etc/mocker")]);
    (variable("MOCKER_REGISTRIES"), usual.map(|place| place.join("registries.toml")).collect())
}

/// `line 3: unknown field …`
fn at_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    line.map_or(message.clone(), |line| format!("line {line}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("/etc/mocker/registries.toml"))
    }

    #[test]
    fn a_registry_is_found_by_name_and_by_url_with_its_own_port_alone() {
        let text = "[registry.\"docker.io\"]\nmirrors = [\"m.example:5000/hub\"]\n[registry.\"R.lan:5000\"]\ninsecure = true\n\
                    [registry.\"tls.lan:443\"]\nca = \"ca.pem\"\n[registry.\"plain.lan:80\"]\ninsecure = true\n\
                    [registry.\"[2001:db8::1]:5000\"]\ninsecure = true\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.of("docker.io").unwrap().mirrors, ["m.example:5000/hub"]);
        assert_eq!(settings.of("tls.lan").unwrap().ca.as_deref(), Some(Path::new("/etc/mocker/ca.pem")));
        let cases = [
            ("http://r.lan:5000/v2/", true),
            ("https://r.lan:5000/v2/", true),
            ("http://r.lan:5001/v2/", false),
            ("http://r.lan/v2/", false),
            ("http://a.r.lan:5000/v2/", false),
            ("http://plain.lan/", true),
            ("https://plain.lan/", false),
            ("http://tls.lan/", false),
            ("http://[2001:db8::1]:5000/", true),
            ("http://127.0.0.1:7/", true),
            ("http://registry-1.docker.io/", false),
        ];
        for (url, plain) in cases {
            assert_eq!(settings.may_be_plain(&Url::parse(url).unwrap()), plain, "{url}");
        }
        assert!(settings.of_url(&Url::parse("https://registry-1.docker.io/v2/").unwrap()).is_some());
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_place() {
        let cases = [
            ("[registry.\"a.lan\"]\n\ninsecur = true\n", "line 3: unknown field `insecur`, expected one of"),
            ("[registry.\"a.lan\"]\ninsecure = \"yes\"\n", "line 2: invalid type: string \"yes\", expected a boolean"),
            ("[registries.\"a.lan\"]\n", "line 1: unknown field `registries`"),
            ("[registry.a.lan]\ninsecure = true\n", "unknown field `lan`"),
            ("[registry.\"a.lan\"]\n[registry.\"a.lan\"]\n", "line 2: duplicate key"),
            ("[registry.\"a.lan\"]\n[registry.\"A.lan:443\"]\n", "stands there twice"),
            ("[registry.\"http://a.lan\"]\n", "is no registry"),
            ("[registry.\"a.lan/x\"]\n", "is no registry"),
            (
                "[registry.\"a.lan\"]\nmirrors = [\"https://b\"]\n",
                "registry \"a.lan\": mirror 'https://b': leave out the",
            ),
            ("[registry.\"a.lan\"]\nmirrors = [\"b/../c\"]\n", "'../c' is no path"),
            ("[registry.\"a.lan\"]\ninsecure = true\nca = \"x\"\n", "no certificate is checked"),
            ("[registry.\"a.lan\"]\nkey = \"x\"\n", "without its 'certificate'"),
            ("[registry.\"a.lan\"\n", "line 1: "),
        ];
        for (text, says) in cases {
            let told = read(text).unwrap_err();
            assert!(told.contains(says), "{text}: {told}");
        }
        assert!(read("").unwrap().registries.is_empty());
    }

    #[test]
    fn the_file_is_looked_for_in_three_places() {
        let of = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            let (named, usual) = places(variable);
            named.into_iter().chain(usual).map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let (home, etc) = ("/h/.config/mocker/registries.toml", "/etc/mocker/registries.toml");
        assert_eq!(of(&[("HOME", "/h")]), format!("{home} {etc}"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), format!("/x/mocker/registries.toml {etc}"));
        assert_eq!(of(&[("MOCKER_REGISTRIES", "/r"), ("HOME", "/h")]), format!("/r {home} {etc}"));
        assert_eq!(of(&[]), etc);
    }
}
