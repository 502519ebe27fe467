//! User names and passwords, from where `docker login` and `podman login` keep them: files, and the helpers these name.
//!
//! They are looked for only once a registry asks, once for each repository, and never printed. In a file the order is
//! docker's: the registry's own helper (`credHelpers`), the helper for all (`credsStore`), the file itself (`auths`). Of
//! the files the first that knows the registry decides.
//!
//! A registry's own helper that fails is an error: it was named for just this. The helper for all is named in many a file
//! that was copied from another machine: where that one fails, the pull goes on without it, and says so.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mocker_common::error::{Error, failed};
use serde_json::Value;
use tokio::sync::Mutex;

use super::helper::{self, Helper};

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

/// What is known about a repository.
#[derive(Debug, Default)]
pub struct Found {
    pub credentials: Option<Credentials>,
    /// The helper that gave them, or had none.
    pub helper: Option<String>,
    /// What went wrong with a helper that the pull goes on without.
    pub trouble: Option<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Looks up credentials. What helpers answered is kept: some ask the user, or a cloud, each time.
pub struct Keyring {
    /// how long a helper may take
    patience: Duration,
    asked: Mutex<HashMap<Helper, Option<Credentials>>>,
}

impl Keyring {
    pub fn new(patience: Duration) -> Self {
        Keyring { patience, asked: Mutex::default() }
    }

    /// Looks through the files; the first that knows the registry decides.
    pub async fn look_up(&self, registry: &str, repository: &str) -> Result<Found, Error> {
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
            found.credentials = self.ask_helpers(&config, registry, &mut found).await?;
            if found.credentials.is_none() {
                found.credentials = find(&config, registry, repository).map_err(|cause| unreadable(cause.into()))?;
            }
            if found.credentials.is_some() {
                break;
            }
        }
        Ok(found)
    }

    async fn ask_helpers(
        &self,
        config: &Value,
        registry: &str,
        found: &mut Found,
    ) -> Result<Option<Credentials>, Error> {
        let Some((helper, own)) = helper(config, registry) else { return Ok(None) };
        let name = helper.program.clone();
        match self.ask(helper).await {
            Ok(answer) => {
                found.helper = Some(name);
                Ok(answer)
            }
            Err(error) if own => {
                Err(error.hint(format!("{registry} in credHelpers of {} names it", listed(&found.files))))
            }
            Err(error) => {
                let said = error.said.first().map(|line| format!(" ({line})")).unwrap_or_default();
                found.trouble = Some(error.what + &said);
                Ok(None)
            }
        }
    }

    async fn ask(&self, helper: Helper) -> Result<Option<Credentials>, Error> {
        let mut asked = self.asked.lock().await;
        if let Some(answer) = asked.get(&helper) {
            return Ok(answer.clone());
        }
        let answer = helper::ask(helper.clone(), self.patience).await?;
        asked.insert(helper, answer.clone());
        Ok(answer)
    }
}

impl Found {
    /// What it has to do with a refusal, for its error.
    pub fn words(&self) -> String {
        let files = listed(&self.files);
        let place = self.helper.as_deref().unwrap_or(&files);
        match (&self.credentials, &self.trouble) {
            (Some(known), _) if known.user.is_empty() => format!("an identity token from {place} was used"),
            (Some(known), _) => format!("the password of {} from {place} was used", known.user),
            (None, Some(trouble)) => trouble.clone(),
            (None, None) if files.is_empty() => String::new(),
            (None, None) => match &self.helper {
                Some(helper) => format!("{helper}, which {files} names, has no password for it"),
                None => format!("{files} has no password for it"),
            },
        }
    }
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where credentials may stand, in the order they are looked for.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(only) = variable("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = |place: &str| variable("HOME").map(|home| home.join(place));
    let docker = variable("DOCKER_CONFIG").or_else(|| home(".docker")).map(|place| place.join("config.json"));
    // podman login keeps it until the next boot, or for ever where a person has asked for that.
    let run = PathBuf::from(format!("/run/containers/{}", rustix::process::getuid().as_raw()));
    let run = variable("XDG_RUNTIME_DIR").map_or(run, |place| place.join("containers")).join("auth.json");
    let config =
        variable("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|place| place.join("containers/auth.json"));
    docker.into_iter().chain([run]).chain(config).collect()
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

/// The helper to ask for a registry, and whether it is the registry's own.
fn helper(config: &Value, registry: &str) -> Option<(Helper, bool)> {
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    let keys = [server, registry, "index.docker.io"];
    let keys = if registry == "docker.io" { &keys[..] } else { &keys[..1] };
    let own = keys.iter().find_map(|key| config["credHelpers"][*key].as_str()).filter(|name| !name.is_empty());
    let name = own.or_else(|| config["credsStore"].as_str()).filter(|name| !name.is_empty())?;
    Some((Helper { program: format!("docker-credential-{name}"), server: server.into() }, own.is_some()))
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
        let run = format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw());
        let kept = "/h/.config/containers/auth.json";
        assert_eq!(of(&[("HOME", "/h")]), format!("/h/.docker/config.json {run} {kept}"));
        assert_eq!(of(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), format!("/d/config.json {run} {kept}"));
        assert_eq!(of(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/r.json")]), "/r.json");
        let places = [("XDG_RUNTIME_DIR", "/x"), ("XDG_CONFIG_HOME", "/c")];
        assert_eq!(of(&places), "/x/containers/auth.json /c/containers/auth.json");
        assert_eq!(of(&[]), run);
    }

    #[test]
    fn a_registry_s_own_helper_goes_before_the_one_for_all() {
        let config = json!({ "credsStore": "pass", "credHelpers": { "a.b": "x", "e.f": "" } });
        let hub = json!({ "credHelpers": { "docker.io": "h" } });
        let cases = [
            (&config, "a.b", Some("docker-credential-x a.b true")),
            (&config, "docker.io", Some("docker-credential-pass https://index.docker.io/v1/ false")),
            (&config, "e.f", Some("docker-credential-pass e.f false")),
            (&hub, "docker.io", Some("docker-credential-h https://index.docker.io/v1/ true")),
            (&hub, "a.b", None),
        ];
        for (config, registry, expected) in cases {
            let found = helper(config, registry).map(|(it, own)| format!("{} {} {own}", it.program, it.server));
            assert_eq!(found.as_deref(), expected, "{registry}");
        }
    }
}
