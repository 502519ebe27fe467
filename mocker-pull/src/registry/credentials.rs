//! User names and passwords, from the files where `docker login` and `podman login` keep them.
//!
//! They are looked for only once a registry asks, and never printed. Credential helpers (`credHelpers`, `credsStore`)
//! are not run; where one would be needed, the error says so.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mocker_common::error::{Error, failed};
use serde_json::Value;

/// A user's name and password, or a token in place of both.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Secret,
    /// a refresh token (`identitytoken`): it is traded for an access token, never sent as a password
    pub identity: Option<Secret>,
}

/// Text that no error and no narrative may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials of {}", self.user)
    }
}

impl Credentials {
    /// The value of a header `Authorization: Basic …` (RFC 7617).
    pub fn basic(&self) -> Secret {
        Secret(format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password.0))))
    }
}

/// What the files say about a repository.
#[derive(Debug, Default)]
pub struct Found {
    pub credentials: Option<Credentials>,
    /// A program that keeps them instead.
    pub helper: Option<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Looks through the files; the first that knows the registry decides.
pub fn look_up(registry: &str, repository: &str) -> Result<Found, Error> {
    let mut found = Found::default();
    for path in files(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)) {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("read", path.display())(error)),
        };
        let unreadable = |cause: String| {
            Error::new(format!("cannot read credentials in {}: {cause}", path.display()))
                .why("the registry asks who is there, and this file answers for docker and podman")
                .hint(format!("jq . {}", path.display()))
        };
        let config: Value = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        found.files.push(path.clone());
        found.credentials = find(&config, registry, repository).map_err(|cause| unreadable(cause.into()))?;
        found.helper = helper(&config, registry);
        if found.credentials.is_some() || found.helper.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Where credentials may stand, in the order they are looked for.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    let podman = variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
    match variable("REGISTRY_AUTH_FILE") {
        Some(only) => vec![only],
        None => docker.map(|directory| directory.join("config.json")).into_iter().chain(podman).collect(),
    }
}

/// The entry of `auths` for a repository: of those that match, the one with the longest path.
fn find(config: &Value, registry: &str, repository: &str) -> Result<Option<Credentials>, &'static str> {
    let Some(auths) = config["auths"].as_object() else { return Ok(None) };
    let best = auths
        .iter()
        .filter_map(|(key, entry)| matches(key, registry, repository).map(|length| (length, entry)))
        .max_by_key(|(length, _)| *length);
    match best {
        Some((_, entry)) => read(entry),
        None => Ok(None),
    }
}

/// How much of `registry/repository` a key names; None if it names another. Keys come with and without scheme and
/// path (`https://index.docker.io/v1/`, `localhost:5000`), podman's also as `host/namespace`.
fn matches(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let inside =
        path.is_empty() || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (host == registry && inside).then_some(path.len())
}

fn read(entry: &Value) -> Result<Option<Credentials>, &'static str> {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    let identity = text("identitytoken").map(|token| Secret(token.into()));
    let (user, password) = match (text("auth"), text("username")) {
        (Some(encoded), _) => {
            let bytes = STANDARD.decode(encoded.trim_end_matches('\0')).map_err(|_| "an 'auth' is not base64")?;
            let decoded = String::from_utf8(bytes).map_err(|_| "an 'auth' is not text")?;
            // The password may hold a colon, the name may not.
            let (user, password) = decoded.split_once(':').ok_or("an 'auth' has no colon between name and password")?;
            (user.to_string(), password.trim_end_matches('\0').to_string())
        }
        (None, Some(user)) => (user.into(), text("password").unwrap_or_default().into()),
        (None, None) if identity.is_some() => (String::new(), String::new()),
        (None, None) => return Ok(None), // docker leaves an empty entry where a helper keeps them
    };
    Ok(Some(Credentials { user, password: Secret(password), identity }))
}

fn helper(config: &Value, registry: &str) -> Option<String> {
    let key = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    let own = config["credHelpers"][registry].as_str().or_else(|| config["credHelpers"][key].as_str());
    let name = own.or_else(|| config["credsStore"].as_str()).filter(|name| !name.is_empty())?;
    Some(format!("docker-credential-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn user(config: &Value, registry: &str, repository: &str) -> String {
        find(config, registry, repository)
            .unwrap()
            .map_or("-".into(), |found| format!("{}={}", found.user, found.password.0))
    }

    #[test]
    fn the_key_of_a_registry_is_found_in_all_its_spellings() {
        let auth = |text: &str| json!({ "auth": STANDARD.encode(text) });
        let config = json!({ "auths": {
            "https://index.docker.io/v1/": auth("hub:a:b"),
            "localhost:5000": { "username": "local", "password": "p" },
            "https://quay.io": auth("quay:1"),
            "quay.io/org": auth("org:2"),
            "quay.io/org/app": auth("app:3"),
            "ghcr.io": {},
        }});
        let cases = [
            ("docker.io", "library/nginx", "hub=a:b"),
            ("localhost:5000", "a", "local=p"),
            ("localhost:5001", "a", "-"),
            ("quay.io", "x", "quay=1"),
            ("quay.io", "org/x", "org=2"),
            ("quay.io", "org/app", "app=3"),
            ("quay.io", "org/application", "org=2"),
            ("quay.io", "organisation", "quay=1"),
            ("ghcr.io", "a", "-"),
            ("evil.example", "docker.io", "-"),
        ];
        for (registry, repository, expected) in cases {
            assert_eq!(user(&config, registry, repository), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn broken_entries_are_refused_and_secrets_not_shown() {
        for auth in ["%", "bm9jb2xvbg==", "/////w=="] {
            assert!(find(&json!({ "auths": { "a.b": { "auth": auth } } }), "a.b", "x").is_err(), "{auth}");
        }
        let found = read(&json!({ "username": "u", "password": "hidden" })).unwrap().unwrap();
        assert!(!format!("{found:?} {:?}", found.password).contains("hidden"));
        assert_eq!(found.basic().0, "Basic dTpoaWRkZW4=");
    }

    #[test]
    fn files_are_looked_for_where_docker_and_podman_keep_them() {
        let of = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            files(variable).iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&[("HOME", "/h")]), "/h/.docker/config.json");
        assert_eq!(of(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), "/d/config.json");
        assert_eq!(of(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r.json")]), "/r.json");
        assert_eq!(of(&[("XDG_RUNTIME_DIR", "/x")]), "/x/containers/auth.json");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn a_helper_is_named() {
        let config = json!({ "credsStore": "pass", "credHelpers": { "a.b": "x" } });
        assert_eq!(helper(&config, "a.b").unwrap(), "docker-credential-x");
        assert_eq!(helper(&config, "docker.io").unwrap(), "docker-credential-pass");
        assert_eq!(helper(&json!({}), "a.b"), None);
    }
}
