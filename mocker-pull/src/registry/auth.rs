//! Proving who we are: nothing, a password, or a token that a third party gives for one.
//!
//! A registry that wants to know answers 401 and says by what scheme. *Basic*: the password itself. *Bearer*: a token,
//! from the address it names (`realm`), for what we want to do (`scope`); strangers get one too, for public images.
//! Source: distribution, Token Authentication Specification and its OAuth2 supplement.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mocker_common::error::Error;
use mocker_common::explain;
use reqwest::Url;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

use super::challenge::Challenge;
use super::credentials::{Credentials, Found, Secret};
use super::failure::{Advice, Failure, Kind};
use super::request::{Authorization, Body, Part, Request};
use super::settings::Settings;
use super::transport::Transport;
use super::{endpoint, persist, read_limited};
use crate::progress::Progress;

/// The largest answer to a request for a token.
const TOKEN_LIMIT: usize = 1 << 20;

/// What is known about one registry's way of asking.
pub struct Auth {
    registry: String,
    base: Url,
    settings: Arc<Settings>,
    /// looked up once the registry asks
    found: OnceCell<Found>,
    state: Mutex<State>,
}

/// What we want to do there, in the words of the token specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// whose password is looked for
    pub repository: String,
    /// `repository:library/nginx:pull`, one for each repository that takes part
    scopes: Vec<String>,
}

impl Access {
    pub fn pull(repository: &str) -> Self {
        Access { repository: repository.into(), scopes: vec![format!("repository:{repository}:pull")] }
    }

    pub fn push(repository: &str) -> Self {
        Access { repository: repository.into(), scopes: vec![format!("repository:{repository}:pull,push")] }
    }

    /// To take blobs from another repository one must be allowed to read there: one token for both.
    pub fn mounting(mut self, from: &str) -> Self {
        self.scopes.push(format!("repository:{from}:pull"));
        self
    }
}

#[derive(Default)]
struct State {
    /// how it asked last time
    scheme: Option<Scheme>,
    basic: Option<Arc<Authorization>>,
    tokens: HashMap<Access, Token>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    authorization: Arc<Authorization>,
    until: Instant,
}

impl Auth {
    pub fn new(registry: &str, base: &Url, settings: Arc<Settings>) -> Self {
        let state = Mutex::new(State::default());
        Auth { registry: registry.into(), base: base.clone(), settings, found: OnceCell::new(), state }
    }

    /// What is known about who we are here. A helper that failed is told of once.
    async fn found(&self, transport: &Transport, progress: &Progress, repository: &str) -> Result<&Found, Error> {
        let look_up = || async {
            let found = transport.session.keyring.look_up(&self.registry, repository).await?;
            if let Some(trouble) = &found.trouble {
                progress.say(&format!("{}: going on without a password: {trouble}", self.registry));
            }
            Ok(found)
        };
        self.found.get_or_try_init(look_up).await
    }

    /// What to send along with a request: nothing as long as the registry has not asked.
    pub async fn current(
        &self,
        transport: &Transport,
        progress: &Progress,
        access: &Access,
    ) -> Result<Option<Arc<Authorization>>, Error> {
        let mut state = self.state.lock().await;
        match state.scheme.clone() {
            None => Ok(None),
            Some(Scheme::Basic) => Ok(state.basic.clone()),
            Some(Scheme::Bearer { realm, service }) => {
                if let Some(token) = state.tokens.get(access)
                    && Instant::now() < token.until
                {
                    return Ok(Some(token.authorization.clone()));
                }
                let service = service.as_deref();
                let token = self.fetch(transport, progress, access, &realm, service, &access.scopes).await?;
                let authorization = token.authorization.clone();
                state.tokens.insert(access.clone(), token);
                Ok(Some(authorization))
            }
        }
    }

    /// Answers a 401. `used` is what the refused request had with it. None if there is nothing better to send.
    pub async fn answer(
        &self,
        transport: &Transport,
        progress: &Progress,
        access: &Access,
        challenges: &[Challenge],
        used: Option<&Arc<Authorization>>,
    ) -> Result<Option<Arc<Authorization>>, Error> {
        let mut state = self.state.lock().await;

        // Another layer's request may have been refused as well, and have fetched a new token while we waited.
        let newer = |known: &Arc<Authorization>| used.is_none_or(|used| !Arc::ptr_eq(known, used));
        if let Some(token) = state.tokens.get(access)
            && newer(&token.authorization)
        {
            return Ok(Some(token.authorization.clone()));
        }

        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(bearer) = find("bearer").filter(|challenge| challenge.get("realm").is_some()) {
            let realm = self.realm(bearer.get("realm").unwrap_or_default())?;
            let service = bearer.get("service").map(str::to_string);
            // Our own scope is enough, except where the registry says that it is not.
            let asked = bearer.get("scope").filter(|_| bearer.get("error") == Some("insufficient_scope"));
            let asked = asked.map(|scope| scope.split_whitespace().map(str::to_string).collect());
            let wanted: Vec<String> = asked.unwrap_or_else(|| access.scopes.clone());
            let token = self.fetch(transport, progress, access, &realm, service.as_deref(), &wanted).await?;
            let authorization = token.authorization.clone();
            state.scheme = Some(Scheme::Bearer { realm, service });
            state.tokens.insert(access.clone(), token);
            return Ok(Some(authorization));
        }
        if find("basic").is_some() && used.is_none() {
            if state.basic.is_none() {
                let found = self.found(transport, progress, &access.repository).await?;
                state.basic = found.credentials.as_ref().map(|known| Arc::new(Authorization::Basic(known.basic())));
            }
            state.scheme = Some(Scheme::Basic);
            return Ok(state.basic.clone());
        }
        Ok(None)
    }

    /// The address of the token server. It will be sent the password, so it must be the one that *this* registry named,
    /// and nobody may listen on the way there.
    fn realm(&self, text: &str) -> Result<Url, Error> {
        let refused = |cause: String| {
            Error::new(format!("cannot log in to {}: {cause}", self.registry))
                .why("the token server is sent the password; anybody on the way could read it")
        };
        let realm =
            Url::parse(text).map_err(|cause| refused(format!("its token server '{text}' is no URL: {cause}")))?;
        let downgrade = self.base.scheme() == "https" && realm.scheme() != "https";
        match endpoint::is_safe(&realm, &self.settings) && !downgrade {
            true => Ok(realm),
            false => Err(refused(format!("its token server {} is without TLS", endpoint::without_query(&realm)))),
        }
    }

    async fn fetch(
        &self,
        transport: &Transport,
        progress: &Progress,
        access: &Access,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Token, Error> {
        const WHY: &str = "the registry answers only who brings a token for this repository; its token server gives one, \
                           for public images to strangers too";
        let known = self.found(transport, progress, &access.repository).await?.credentials.as_ref();
        let advice = self.advice(&access.repository);
        let request = token_request(&self.registry, realm, service, scopes, known);
        let basic = known.filter(|known| known.identity.is_none()).map(|known| Authorization::Basic(known.basic()));
        let call = request.with(basic.as_ref());

        let outcome = persist(progress, &self.registry, async || {
            explain::tell(&call, WHY);
            let work = async {
                let response = transport.send(&request, basic.as_ref()).await?;
                match response.status().is_success() {
                    true => read_limited(response, TOKEN_LIMIT).await,
                    false => Err(Failure::of_answer(response).await),
                }
            };
            let body = transport.watch(&request, work).await?;
            read_token(&body).ok_or_else(|| Failure::new(Kind::Broken, "the answer has no token"))
        });
        let (token, lifetime) = outcome.await.map_err(|failure| failure.into_error(&call, WHY, &advice))?;
        // A little early: the token has to be good when it arrives, too.
        let until = Instant::now() + lifetime.saturating_sub(Duration::from_secs(5));
        Ok(Token { authorization: Arc::new(Authorization::Bearer(Secret(format!("Bearer {token}")))), until })
    }

    /// What an error about this repository should know: what credentials were used, if they were looked for.
    pub fn advice(&self, repository: &str) -> Advice {
        let credentials = self.found.get().map(Found::words).unwrap_or_default();
        let logged_in = self.found.get().map(|found| found.credentials.is_some());
        Advice { registry: self.registry.clone(), repository: repository.into(), credentials, logged_in }
    }
}

/// A refresh token is traded by POST; in all other cases the request is a GET, with the password if there is one.
fn token_request(
    registry: &str,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    known: Option<&Credentials>,
) -> Request {
    let mut url = realm.clone();
    let aim = format!("get a token for {registry} from {}", realm.host_str().unwrap_or_default());
    let joined = scopes.join(" ");
    let service = service.map(|service| ("service", service));
    match known.and_then(|known| known.identity.as_ref()) {
        None => {
            let mut query: Vec<_> = scopes.iter().map(|scope| ("scope", scope.as_str())).chain(service).collect();
            query.extend(known.map(|known| ("account", known.user.as_str())));
            url.query_pairs_mut().extend_pairs(query);
            Request::new(Part::Token, url, aim)
        }
        Some(identity) => {
            // By GET each scope is a parameter of its own; in the form they share one (RFC 6749, 3.3).
            let mut query: Vec<_> = std::iter::once(("scope", joined.as_str())).chain(service).collect();
            query.extend([("grant_type", "refresh_token"), ("refresh_token", &identity.0), ("client_id", "mocker")]);
            let mut form = realm.clone();
            form.set_query(None);
            form.query_pairs_mut().extend_pairs(query);
            let body = Body::Form(Secret(form.query().unwrap_or_default().into()));
            Request { body, ..Request::new(Part::Token, url, aim) }
        }
    }
}

/// The token and how long it is good. The field has two names; without a time it is a minute, and never less.
fn read_token(body: &[u8]) -> Option<(String, Duration)> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let text = |key: &str| answer[key].as_str().filter(|token| !token.is_empty());
    let token = text("token").or_else(|| text("access_token"))?;
    let seconds = answer["expires_in"].as_u64().unwrap_or(60).clamp(60, 86_400);
    Some((token.into(), Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_names_and_lives_a_minute_at_least() {
        let cases = [
            (r#"{"token":"a"}"#, Some(("a", 60))),
            (r#"{"access_token":"b","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#, Some(("b", 300))),
            (r#"{"token":"","access_token":"c","expires_in":5}"#, Some(("c", 60))),
            (r#"{"token":"d","expires_in":99999999999}"#, Some(("d", 86_400))),
            (r#"{"token":1}"#, None),
            ("{}", None),
            ("<html>", None),
        ];
        for (body, expected) in cases {
            let expected = expected.map(|(token, seconds)| (token.to_string(), Duration::from_secs(seconds)));
            assert_eq!(read_token(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn only_a_realm_behind_tls_is_trusted_with_a_password() {
        let cases = [
            ("quay.io", "https://auth.quay.io/token", true),
            ("quay.io", "http://auth.quay.io/token", false),
            ("quay.io", "http://127.0.0.1/token", false),
            ("quay.io", "/token", false),
            ("quay.io", "ftp://auth.quay.io/", false),
            ("localhost:5000", "http://localhost:5001/token", true),
            ("localhost:5000", "https://auth.quay.io/token", true),
            ("localhost:5000", "http://auth.quay.io/token", false),
        ];
        for (registry, realm, accepted) in cases {
            let scheme = if registry.starts_with("localhost") { "http" } else { "https" };
            let auth = Auth::new(registry, &endpoint::of(registry, scheme).unwrap(), Arc::default());
            assert_eq!(auth.realm(realm).is_ok(), accepted, "{registry} {realm}");
        }
    }

    #[test]
    fn a_refresh_token_travels_in_the_body_alone() {
        let realm = Url::parse("https://a.b/token?x=1").unwrap();
        let plain = token_request("r", &realm, Some("s t"), &Access::pull("a/b").scopes, None);
        assert_eq!(plain.url.as_str(), "https://a.b/token?x=1&scope=repository%3Aa%2Fb%3Apull&service=s+t");
        let both = token_request("r", &realm, None, &Access::push("a").mounting("b").scopes, None);
        let query = "scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull";
        assert_eq!(both.url.as_str(), format!("https://a.b/token?x=1&{query}"));
        let known =
            Credentials { user: "u".into(), password: Secret("p".into()), identity: Some(Secret("i&d".into())) };
        let traded = token_request("r", &realm, None, &Access::push("a").mounting("b").scopes, Some(&known));
        assert_eq!(traded.url, realm);
        let form = "scope=repository%3Aa%3Apull%2Cpush+repository%3Ab%3Apull&grant_type=refresh_token&refresh_token=i%26d&client_id=mocker";
        assert!(matches!(&traded.body, Body::Form(body) if body.0 == form), "{traded:?}");
        assert!(!format!("{}", traded.with(None)).contains("i%26d"));
    }
}
