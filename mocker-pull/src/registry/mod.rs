//! The distribution API: manifests and blobs to and from a registry, by the OCI distribution specification over HTTP.

pub mod auth;
mod base;
pub mod body;
pub mod challenge;
pub mod credentials;
pub mod download;
pub mod endpoint;
pub mod failure;
mod helper;
pub mod limit;
mod mirror;
pub mod proxy;
mod refusal;
pub mod request;
pub mod retry;
pub mod session;
pub mod settings;
pub mod transport;
mod trust;
pub mod upload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mocker_common::clock;
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::Error;
use mocker_common::explain;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

use self::auth::{Access, Auth};
use self::failure::{Failure, Kind};
use self::mirror::{Given, Mirror};
use self::request::{Authorization, Part, Request};
use self::retry::{Attempts, random};
use self::transport::Transport;
use crate::progress::Progress;

/// The largest manifest that is read (distribution-spec: a registry may refuse larger ones).
const MANIFEST_LIMIT: usize = 4 << 20;

/// One repository of a registry.
pub struct Repository {
    /// `docker.io`
    registry: String,
    /// `library/nginx`
    name: String,
    base: Url,
    transport: Arc<Transport>,
    auth: Arc<Auth>,
    /// what we are there for
    access: Access,
    progress: Arc<Progress>,
    /// asked first when something is pulled
    mirrors: Vec<Mirror>,
    /// there is another to ask
    is_mirror: bool,
    /// blobs that mirrors gave
    given: Given,
}

/// A document as it was received.
pub struct Document {
    /// of the bytes as received, not of what they say
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    pub json: Value,
}

impl Repository {
    /// One that is written to; mirrors are not.
    pub async fn for_push(
        registry: &str,
        name: &str,
        transport: Arc<Transport>,
        progress: Arc<Progress>,
    ) -> Result<Self, Error> {
        let alone = Repository::alone(registry, name, transport, progress).await?;
        Ok(Repository { access: Access::push(name), ..alone })
    }

    /// One that is asked after its mirrors, if it has any.
    pub async fn new(
        registry: &str,
        name: &str,
        transport: Arc<Transport>,
        progress: Arc<Progress>,
    ) -> Result<Self, Error> {
        let mirrors = Mirror::all_of(registry, name, &transport, &progress).await?;
        Ok(Repository { mirrors, ..Repository::alone(registry, name, transport, progress).await? })
    }

    /// One without mirrors.
    async fn alone(
        registry: &str,
        name: &str,
        transport: Arc<Transport>,
        progress: Arc<Progress>,
    ) -> Result<Self, Error> {
        let base = transport.base(registry).await?;
        let settings = transport.session.settings()?;
        let auth = transport.session.auth(registry, name, || Auth::new(registry, &base, settings));
        let (access, registry, name) = (Access::pull(name), registry.into(), name.into());
        Ok(Repository {
            registry,
            name,
            base,
            transport,
            auth,
            access,
            progress,
            mirrors: Vec::new(),
            is_mirror: false,
            given: Given::default(),
        })
    }

    /// Gets the manifest or index of a tag or a digest from this very registry. By digest, it is checked to be the one
    /// asked for.
    async fn manifest_here(&self, selector: &str, why: &'static str) -> Result<Document, Failure> {
        let request = self.manifest_request(selector)?;
        let outcome = persist_with(self.attempts(), &self.progress, &self.registry, async || {
            let response = self.ask(&request, why).await?;
            let header =
                |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
            let (content_type, claimed) = (header(CONTENT_TYPE.as_str()), header("docker-content-digest"));
            Ok((content_type, claimed, read_limited(response, MANIFEST_LIMIT).await?))
        });
        let (content_type, claimed, bytes) = outcome.await?;

        let digest = Digest::from_bytes(&sha256(&bytes));
        let asked = selector.contains(':').then_some(selector);
        for expected in asked.into_iter().chain(claimed.as_deref().filter(|claimed| claimed.starts_with("sha256:"))) {
            if expected != digest.to_string() {
                return Err(Error::new(format!(
                    "cannot use {}: the digest is wrong",
                    request.aim.replacen("get ", "", 1)
                ))
                .said(format!("expected {}", crate::manifest::printable(expected)))
                .said(format!("received {digest}"))
                .why("a digest is the only proof that this is what was pushed")
                .likely("a broken or hostile registry, or a proxy that changes what passes through it")
                .into());
            }
        }
        let json = serde_json::from_slice(&bytes).map_err(|cause| {
            Error::new(format!("cannot read {}: {cause}", request.aim.replacen("get ", "", 1)))
                .likely("what answers there is no registry")
                .hint(format!("curl -v {}v2/", self.base))
        })?;
        Ok(Document { digest, bytes, content_type, json })
    }

    fn attempts(&self) -> Attempts {
        if self.is_mirror { Attempts::once() } else { Attempts::default() }
    }

    /// The request for a manifest, by tag or digest.
    fn manifest_request(&self, selector: &str) -> Result<Request, Error> {
        let mark = if selector.contains(':') { '@' } else { ':' };
        let aim = format!("get the manifest of {}/{}{mark}{selector}", self.registry, self.name);
        Ok(Request::new(Part::Manifest, self.url("manifests", selector)?, aim))
    }

    /// The request for a blob, from a byte on.
    fn blob(&self, digest: &Digest, offset: u64) -> Result<Request, Error> {
        let aim = format!("get blob {} of {}/{}", digest.short(), self.registry, self.name);
        Ok(Request { offset, ..Request::new(Part::Blob, self.url("blobs", &digest.to_string())?, aim) })
    }

    fn url(&self, what: &str, which: &str) -> Result<Url, Error> {
        let path = format!("v2/{}/{what}/{which}", self.name);
        self.base.join(&path).map_err(|cause| Error::new(format!("cannot make a URL of {path}: {cause}")))
    }

    /// Sends a request once, with what the registry wants to see. A 401 is answered once: at first because nothing was
    /// sent along, later because a token lives only minutes.
    async fn ask(&self, request: &Request, why: &'static str) -> Result<Response, Failure> {
        self.ask_for(&self.access, request, why).await
    }

    /// The same with another access than this repository's own.
    async fn ask_for(&self, access: &Access, request: &Request, why: &'static str) -> Result<Response, Failure> {
        // Only the registry itself may ask who we are: a host that it sends us to could name its own token server.
        let at_home = |url: &Url| url.origin() == self.base.origin();
        let (transport, progress) = (&self.transport, &self.progress);
        if !at_home(&request.url) {
            return self.judge(request, self.send(request, None, why).await?).await;
        }
        let used = self.auth.current(transport, progress, access).await?;
        let response = self.send(request, used.as_deref(), why).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !at_home(response.url()) {
            return self.judge(request, response).await;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<_> =
            headers.iter().filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        match self.auth.answer(transport, progress, access, &challenges, used.as_ref()).await? {
            Some(authorization) => self.judge(request, self.send(request, Some(&authorization), why).await?).await,
            None => self.judge(request, response).await,
        }
    }

    /// Lets an answer pass that is a success; of any other reads what it says.
    async fn judge(&self, request: &Request, response: Response) -> Result<Response, Failure> {
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.transport.watch(request, async { Ok(Failure::of_answer(response).await) }).await?),
        }
    }

    async fn send(
        &self,
        request: &Request,
        authorization: Option<&Authorization>,
        why: &'static str,
    ) -> Result<Response, Failure> {
        explain::tell(&request.with(authorization), why);
        self.transport.watch(request, self.transport.send(request, authorization)).await
    }

    /// Makes the error of a failure.
    fn explain(&self, failure: Failure, request: &Request, why: &str) -> Error {
        failure.into_error(&request.with(None), why, &self.auth.advice(&self.name))
    }
}

/// Repeats an attempt as long as its failures are of the passing kind.
async fn persist<T>(
    progress: &Progress,
    registry: &str,
    attempt: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    persist_with(Attempts::default(), progress, registry, attempt).await
}

async fn persist_with<T>(
    mut attempts: Attempts,
    progress: &Progress,
    registry: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => pause(progress, registry, &mut attempts, failure).await?,
        }
    }
}

/// Waits before the next attempt, or gives the failure back.
async fn pause(progress: &Progress, registry: &str, attempts: &mut Attempts, failure: Failure) -> Result<(), Failure> {
    let passing = failure.is_passing();
    pause_if(passing, progress, registry, attempts, failure).await
}

/// The same, where the caller knows better what passes.
async fn pause_if(
    passing: bool,
    progress: &Progress,
    registry: &str,
    attempts: &mut Attempts,
    mut failure: Failure,
) -> Result<(), Failure> {
    let wait = passing.then(|| attempts.wait(failure.retry_after, random())).flatten();
    let Some(wait) = wait else {
        if attempts.failed() > 1 {
            failure.words += &format!(" (tried {} times)", attempts.failed());
        }
        return Err(failure);
    };
    let when = match wait {
        short if short < Duration::from_secs(10) => String::new(),
        long => format!(" (at {})", clock::rfc3339(SystemTime::now() + long)),
    };
    progress.say(&format!("{registry}: {}; asking again in {:.1} s{when}", failure.words, wait.as_secs_f64()));
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Reads a small body; one beyond the limit is a failure, and is not read further.
async fn read_limited(mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(Failure::new(Kind::Broken, format!("the answer is larger than {limit} bytes"))),
            Ok(None) => return Ok(body),
            Err(error) => return Err(Failure::of_client(&error)),
        }
    }
}
