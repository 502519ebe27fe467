//! Sending one request: the client, its timeouts, and redirects.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION, RANGE,
};
use reqwest::{Client, Method, Proxy, Response, Url};

use super::endpoint;
use super::failure::{Failure, Kind};
use super::request::{Authorization, Body, Part, Request};
use super::session::Session;
use super::trust::Trust;

/// How many redirects are followed: a registry to its storage is one or two.
const HOPS: usize = 5;
const CONNECT: Duration = Duration::from_secs(15);

/// How many times longer a registry may be silent once it has a whole blob: it then hashes it, and brings it to its place.
const FINISHING: u32 = 5;

/// The HTTP clients, each made when it is first needed: to load the machine's certificates takes longer than a small
/// image does from the loopback.
pub struct Transport {
    /// how long a peer may be silent; a whole download may take as long as it likes
    pub idle: Duration,
    /// how long a client waits for the next bytes of an answer
    read: Duration,
    /// what requests share
    pub session: Session,
    clients: Mutex<HashMap<Peer, Client>>,
}

/// Who needs a client of his own.
#[derive(PartialEq, Eq, Hash)]
enum Peer {
    /// the loopback without TLS: no certificates are loaded
    Plain,
    /// one with certificates of his own, by origin
    Known(String),
    Other,
}

impl Transport {
    /// Also chooses the TLS implementation of the process, which must be done before the first client is made.
    pub fn new(idle: Duration) -> Self {
        // Err means that it is chosen already.
        rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
        Transport { idle, read: idle, session: Session::new(idle), clients: Mutex::default() }
    }

    /// For uploads: to the client the answer to one is silent as long as its body is on the way. So it waits without end,
    /// and [`Transport::watch`] looks at what moves in either direction.
    pub fn for_uploads(idle: Duration) -> Self {
        const WITHOUT_END: Duration = Duration::from_secs(1 << 30); // Duration::MAX would overflow the clock
        Transport { read: WITHOUT_END, ..Transport::new(idle) }
    }

    /// Does the work of one request, and gives it up when nothing moves for too long.
    pub async fn watch<T>(
        &self,
        request: &Request,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let position = || match &request.body {
            Body::Blob(part) => part.source.position(),
            _ => 0,
        };
        let finishing = || match &request.body {
            Body::Blob(part) => request.part == Part::Fill && part.is_sent(),
            _ => request.part == Part::Close,
        };
        let mut work = std::pin::pin!(work);
        loop {
            let before = position();
            let patience = if finishing() { self.idle * FINISHING } else { self.idle };
            match tokio::time::timeout(patience, &mut work).await {
                Ok(outcome) => return outcome,
                Err(_) if position() != before => continue,
                Err(_) => return Err(Failure::new(Kind::Silent, "no answer in time")),
            }
        }
    }

    /// Sends a request, follows its redirects, and returns whatever the answer is in the end.
    ///
    /// Another host than the first gets no credentials: it has no use for them, and storage services refuse what is
    /// signed twice.
    pub async fn send(&self, request: &Request, authorization: Option<&Authorization>) -> Result<Response, Failure> {
        let mut url = request.url.clone();
        let mut authorization = authorization;
        for _ in 0..=HOPS {
            let response = self.hop(request, &url, authorization).await.map_err(|failure| self.blame(&url, failure))?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location.filter(|_| response.status().is_redirection()) else { return Ok(response) };
            let (next, at_home) = endpoint::redirected(&url, location, &*self.session.settings()?)
                .map_err(|cause| Failure::new(Kind::Broken, crate::manifest::printable(&cause)))?;
            if !at_home {
                authorization = None;
            }
            url = next;
        }
        Err(Failure::new(Kind::Broken, format!("more than {HOPS} redirects")))
    }

    async fn hop(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Failure> {
        let client = self.client(url)?;
        let mut builder = client.request(request.method(), url.clone());
        builder = match &request.body {
            // Servers want to be told that nothing follows (RFC 9110, 8.6).
            Body::None if matches!(request.method(), Method::POST | Method::PUT) => builder.header(CONTENT_LENGTH, 0),
            Body::None => builder,
            Body::Form(form) => builder.body(form.0.clone()),
            Body::Manifest { bytes, .. } => builder.body(bytes.clone()),
            Body::Blob(part) => builder.body(part.body()),
        };
        if let Some(content_type) = request.content_type() {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        if let Some(range) = request.content_range() {
            builder = builder.header(CONTENT_RANGE, range);
        }
        if let Some(accept) = request.accept() {
            builder = builder.header(ACCEPT, accept);
        }
        if request.offset > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.offset));
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.header())
                .map_err(|_| Failure::new(Kind::Broken, "the token has characters that no header may have"))?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        builder.send().await.map_err(|error| Failure::of_client(&error))
    }

    /// Where a request goes by a proxy, nobody behind it can have refused the connection: the proxy has.
    fn blame(&self, url: &Url, mut failure: Failure) -> Failure {
        let proxies = self.session.proxies().unwrap_or_default();
        let Some(proxy) = proxies.of(url) else { return failure };
        failure.kind = match failure.kind {
            Kind::Unresolved | Kind::Refused | Kind::Unreachable => Kind::NoProxy,
            Kind::Proxy => Kind::Proxy,
            other => return Failure { kind: other, ..failure },
        };
        let port = proxy.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
        failure.words = format!("the proxy {}{port}: {}", proxy.host_str().unwrap_or_default(), failure.words);
        failure
    }

    /// The client for a URL: with the certificates that its host needs, by the proxy that the environment names.
    pub(super) fn client(&self, url: &Url) -> Result<Client, Failure> {
        let trust = Trust::of(url, &*self.session.settings()?)?.filter(|_| url.scheme() == "https");
        let peer = match &trust {
            Some(_) => Peer::Known(url.origin().ascii_serialization()),
            None if url.scheme() == "http" && endpoint::is_loopback(url) => Peer::Plain,
            None => Peer::Other,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&peer) {
            return Ok(client.clone());
        }
        let mut headers = HeaderMap::new();
        // A blob is what its digest says it is: no server may compress it on the way.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let proxies = self.session.proxies()?;
        let builder = Client::builder()
            .user_agent(concat!("mocker/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .proxy(Proxy::custom(move |url| proxies.of(url).cloned()))
            .connect_timeout(CONNECT)
            .read_timeout(self.read);
        let client = match (trust, &peer) {
            (Some(trust), _) => trust.client(builder)?,
            (None, Peer::Plain) => builder.tls_certs_only([]).build().map_err(|error| Failure::of_client(&error))?,
            (None, _) => builder.build().map_err(|error| Failure::of_client(&error))?,
        };
        clients.insert(peer, client.clone());
        Ok(client)
    }
}
