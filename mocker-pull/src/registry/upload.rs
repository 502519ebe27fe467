//! Blobs and manifests to a registry: what is there is passed over, what another repository has is mounted, the rest is
//! sent; an upload that breaks goes on where it broke.
//!
//! A registry tells with each answer where the next request of an upload goes (`Location`): that address is taken as it
//! is, with its query, for registries keep there what they remember. Source: distribution-spec, Pushing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mocker_common::digest::Digest;
use mocker_common::error::Error;
use reqwest::header::{LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::body::{self, Source};
use super::failure::{Failure, Kind};
use super::request::{Body, Part, Request};
use super::retry::Attempts;
use super::{Repository, endpoint, pause_if, persist};
use crate::manifest::printable;

/// How long a registry may take to forget the uploads that were given up.
const CANCELLING: Duration = Duration::from_secs(3);

/// A repository that is pushed to.
pub struct Uploads {
    repository: Repository,
    /// send blobs in pieces of at most so many bytes
    chunk: Option<u64>,
    /// where the unfinished ones go on, by blob
    open: Mutex<HashMap<Digest, Url>>,
}

/// How a blob came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    WasThere,
    /// from this other repository
    Mounted(String),
    Sent,
}

/// What became of a manifest.
pub enum Published {
    Done,
    /// the registry lacks a blob that the manifest lists, though it has said that it had them all
    Lacking(Error),
}

impl Uploads {
    /// Where the next request of an upload goes.
    fn next_url(&self, answer: &Response) -> Result<Option<Url>, Failure> {
        let Some(location) = header(answer, LOCATION.as_str()) else { return Ok(None) };
        let settings = self.repository.transport.session.settings()?;
        let next = endpoint::redirected(answer.url(), location, &settings);
        next.map(|(url, _)| Some(url)).map_err(|cause| Failure::new(Kind::Broken, printable(&cause)))
    }

    pub fn new(repository: Repository, chunk: Option<u64>) -> Self {
        Uploads { repository, chunk, open: Mutex::default() }
    }

    /// Whether the name leads to this very manifest already.
    pub async fn has_manifest(&self, selector: &str, digest: &Digest) -> Result<bool, Error> {
        const WHY: &str = "a name that leads there already need not be written again, and some registries let it be written once only";
        let repository = &self.repository;
        let aim = format!("look for {}", repository.full_name(selector));
        let request = Request::new(Part::SeekManifest, repository.url("manifests", selector)?, aim);
        let outcome = persist(&repository.progress, &repository.registry, async || {
            let found = found(repository.ask(&request, WHY).await)?;
            Ok(found.is_some_and(|answer| names(&answer, digest) == Some(true)))
        });
        outcome.await.map_err(|failure| repository.explain(failure, &request, WHY))
    }

    /// Sends the manifest, its bytes as they are stored. From then on the image can be pulled.
    pub async fn publish(&self, selector: &str, digest: &Digest, manifest: Body) -> Result<Published, Error> {
        const WHY: &str =
            "it comes last: a registry takes a manifest only once it has all that it lists, and so do those who pull";
        let repository = &self.repository;
        let aim = format!("push the manifest of {}", repository.full_name(selector));
        let url = repository.url("manifests", selector)?;
        let request = Request { body: manifest, ..Request::new(Part::Publish, url, aim) };
        let outcome = persist(&repository.progress, &repository.registry, async || {
            let answer = repository.ask(&request, WHY).await?;
            match names(&answer, digest) {
                Some(false) => Err(Failure::new(Kind::Broken, "the registry has kept another one than it was sent")),
                _ => Ok(()),
            }
        });
        match outcome.await {
            Ok(()) => Ok(Published::Done),
            Err(failure) => {
                let lacking = failure.said.iter().any(|line| line.contains("BLOB_UNKNOWN"));
                let error = repository.explain(failure, &request, WHY);
                if lacking { Ok(Published::Lacking(error)) } else { Err(error) }
            }
        }
    }

    /// Brings a blob there, if possible from another repository of the same registry.
    pub async fn send(&self, source: &Arc<Source>, from: Option<&str>) -> Result<Outcome, Error> {
        let upload = Upload { to: self, source, from, session: None, has_sent: false, attempts: Attempts::default() };
        let outcome = upload.run().await;
        if outcome.is_ok() {
            self.note(&source.blob.digest, None);
        }
        outcome
    }

    /// Ends the uploads that were begun and not finished. What a registry does not do about it at once it does later.
    pub async fn cancel(&self) {
        let open: Vec<Url> = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.drain().map(|(_, url)| url).collect()
        };
        let all = async {
            for url in open {
                self.forget(url).await;
            }
        };
        tokio::time::timeout(CANCELLING, all).await.unwrap_or_default();
    }

    async fn forget(&self, url: Url) {
        const WHY: &str = "what has arrived of it would lie there until somebody sweeps";
        let request = Request::new(Part::Cancel, url, "cancel an upload");
        self.repository.ask(&request, WHY).await.map(drop).unwrap_or_default();
    }

    /// Remembers where the upload of a blob goes on, or that it has ended.
    fn note(&self, blob: &Digest, url: Option<&Url>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match url {
            Some(url) => open.insert(blob.clone(), url.clone()),
            None => open.remove(blob),
        };
    }
}

impl Repository {
    /// `127.0.0.1:5000/library/nginx:latest`
    fn full_name(&self, selector: &str) -> String {
        let mark = if selector.contains(':') { '@' } else { ':' };
        format!("{}/{}{mark}{selector}", self.registry, self.name)
    }
}

/// An upload that the registry has opened.
struct Session {
    /// where its next request goes
    url: Url,
    /// how much has arrived
    offset: u64,
    /// the smallest piece that is taken, but for the last (`OCI-Chunk-Min-Length`)
    least: u64,
}

/// A request that failed, for its error.
struct Stumble {
    failure: Failure,
    request: Request,
    why: &'static str,
}

/// One blob on its way.
struct Upload<'a> {
    to: &'a Uploads,
    source: &'a Arc<Source>,
    from: Option<&'a str>,
    session: Option<Session>,
    has_sent: bool,
    attempts: Attempts,
}

impl Upload<'_> {
    async fn run(mut self) -> Result<Outcome, Error> {
        loop {
            let stumble = match self.attempt().await {
                Ok(outcome) => return Ok(outcome),
                Err(stumble) => stumble,
            };
            if let Some(damage) = self.source.fault() {
                return Err(damage);
            }
            let Repository { progress, registry, .. } = &self.to.repository;
            let again = stumble.failure.is_passing() || stumble.is_about_session();
            let waited = pause_if(again, progress, registry, &mut self.attempts, stumble.failure).await;
            waited.map_err(|failure| self.to.repository.explain(failure, &stumble.request, stumble.why))?;
        }
    }

    /// From wherever it stands to the end.
    async fn attempt(&mut self) -> Result<Outcome, Stumble> {
        self.take_up().await?;
        if self.session.is_none() {
            if self.is_there().await? {
                return Ok(if self.has_sent { Outcome::Sent } else { Outcome::WasThere });
            }
            if let Some(mounted) = self.open().await? {
                return Ok(mounted);
            }
        }
        self.fill().await?;
        Ok(Outcome::Sent)
    }

    /// After a failure: learns how much has arrived. An upload that the registry does not know any more is begun anew.
    async fn take_up(&mut self) -> Result<(), Stumble> {
        const WHY: &str = "the connection broke; only the registry knows how much had arrived before";
        let Some(session) = &mut self.session else { return Ok(()) };
        let request =
            Request::new(Part::State, session.url.clone(), format!("ask how much of {} has arrived", self.name()));
        let answer = match self.ask(request, WHY).await {
            Ok(answer) => Some(answer),
            Err(stumble) if stumble.failure.is_passing() => return Err(stumble),
            Err(_) => None,
        };
        let arrived = answer.as_ref().and_then(arrived).filter(|arrived| *arrived <= self.size());
        let Some(session) = &mut self.session else { return Ok(()) };
        match (answer, arrived) {
            (Some(answer), Some(arrived)) => {
                self.attempts.received(arrived.saturating_sub(session.offset) as usize);
                session.offset = arrived;
                if let Ok(Some(url)) = self.to.next_url(&answer) {
                    session.url = url;
                }
                self.to.note(&self.source.blob.digest, Some(&session.url));
            }
            _ => {
                let url = session.url.clone();
                self.session = None;
                self.to.note(&self.source.blob.digest, None);
                self.to.forget(url).await;
            }
        }
        Ok(())
    }

    async fn is_there(&self) -> Result<bool, Stumble> {
        const WHY: &str = "most blobs are there from an earlier image; what is there need not be sent";
        let aim = format!("look for {}", self.name());
        let request = Request::new(Part::SeekBlob, self.url("blobs", &self.source.blob.digest.to_string())?, aim);
        match self.ask(request, WHY).await {
            Ok(_) => Ok(true),
            Err(Stumble { failure, request, why }) => {
                let found = found(Err(failure)).map_err(|failure| Stumble { failure, request, why })?;
                Ok(found.is_some())
            }
        }
    }

    /// Begins an upload, or mounts the blob: then nothing is left to do.
    async fn open(&mut self) -> Result<Option<Outcome>, Stumble> {
        const MOUNT: &str = "the registry has this blob in another repository and can lend it: nothing is sent";
        const OPEN: &str = "an upload has an address of its own, to which it can come back after it broke";
        let mut answer = None;
        if let Some(from) = self.from.take() {
            let mut url = self.url("blobs", "uploads/")?;
            let digest = self.source.blob.digest.to_string();
            url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", from);
            let aim = format!("mount {} from {from}", self.name());
            let request = Request::new(Part::Mount, url, aim);
            let access = self.to.repository.access.clone().mounting(from);
            match self.to.repository.ask_for(&access, &request, MOUNT).await {
                Ok(mounted) if mounted.status() == StatusCode::CREATED => {
                    return Ok(Some(Outcome::Mounted(from.to_string())));
                }
                Ok(opened) => answer = Some((opened, request, MOUNT)),
                Err(failure) if failure.is_passing() => {
                    self.from = Some(from);
                    return Err(Stumble { failure, request, why: MOUNT });
                }
                Err(_) => {} // it may not be read there, or this registry cannot mount: send it
            }
        }
        let (answer, request, why) = match answer {
            Some(opened) => opened,
            None => {
                let aim = format!("begin to upload {}", self.name());
                let request = Request::new(Part::Open, self.url("blobs", "uploads/")?, aim);
                (self.ask(request.clone(), OPEN).await?, request, OPEN)
            }
        };
        let least = header(&answer, "oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let url = self.to.next_url(&answer).and_then(|url| {
            url.ok_or_else(|| Failure::new(Kind::Broken, "it does not say where the upload goes (no Location)"))
        });
        let url = url.map_err(|failure| Stumble { failure, request, why })?;
        self.to.note(&self.source.blob.digest, Some(&url));
        self.session = Some(Session { url, offset: 0, least });
        Ok(None)
    }

    /// Sends what has not arrived yet: in one request if that was not tried before and is allowed, else in pieces.
    async fn fill(&mut self) -> Result<(), Stumble> {
        const WHOLE: &str =
            "one request with the digest at its end is the shortest way; the registry hashes what arrives and compares";
        const CHUNK: &str = "each piece says which bytes it brings, so none can be lost or come twice";
        const CLOSE: &str = "until its digest is named, the registry does not know that these pieces are all";
        let size = self.size();
        let Some(session) = &self.session else { return Ok(()) };
        self.has_sent = true;
        if session.offset == 0 && (self.to.chunk.is_none_or(|chunk| size <= chunk.max(session.least))) {
            let answer = self.put(Part::Fill, WHOLE).await?;
            return self.finished(&answer).map_err(|failure| self.stumble(Part::Fill, failure, WHOLE));
        }
        while let Some(session) = &self.session
            && session.offset < size
        {
            let (offset, chunk) = (session.offset, self.to.chunk.unwrap_or(size).max(session.least));
            let to = size.min(offset.saturating_add(chunk));
            let body = Body::Blob(body::Part { source: self.source.clone(), from: offset, to });
            let aim = format!("send bytes {offset} to {} of {}", to - 1, self.name());
            let request = Request { body, ..Request::new(Part::Chunk, session.url.clone(), aim) };
            let answer = self.ask(request, CHUNK).await?;
            self.advance(&answer, to).map_err(|failure| self.stumble(Part::Chunk, failure, CHUNK))?;
        }
        let answer = self.put(Part::Close, CLOSE).await?;
        self.finished(&answer).map_err(|failure| self.stumble(Part::Close, failure, CLOSE))
    }

    /// The request that names the digest: with all the bytes, or after them.
    async fn put(&self, part: Part, why: &'static str) -> Result<Response, Stumble> {
        let Some(session) = &self.session else { return Err(self.stumble(part, lost(), why)) };
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.source.blob.digest.to_string());
        let body = match part {
            Part::Fill => Body::Blob(body::Part { source: self.source.clone(), from: 0, to: self.size() }),
            _ => Body::None,
        };
        let verb = if part == Part::Fill { "send" } else { "finish" };
        let request = Request { body, ..Request::new(part, url, format!("{verb} {}", self.name())) };
        self.ask(request, why).await
    }

    /// A piece was taken. The registry may have kept less than it was sent.
    fn advance(&mut self, answer: &Response, to: u64) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Err(lost()) };
        let kept = arrived(answer).unwrap_or(to);
        if kept <= session.offset || kept > to {
            return Err(Failure::new(Kind::Dropped, format!("of {to} bytes sent it has {kept}")));
        }
        let news = kept - session.offset;
        session.offset = kept;
        if let Some(url) = self.to.next_url(answer)? {
            session.url = url;
        }
        self.attempts.received(news as usize);
        self.to.note(&self.source.blob.digest, Some(&session.url));
        Ok(())
    }

    fn finished(&self, answer: &Response) -> Result<(), Failure> {
        match names(answer, &self.source.blob.digest) {
            Some(false) => Err(Failure::new(Kind::Broken, "the registry calls it by another digest")),
            _ => Ok(()),
        }
    }

    async fn ask(&self, request: Request, why: &'static str) -> Result<Response, Stumble> {
        let request = Request { digest: Some(self.source.blob.digest.clone()), ..request };
        match self.to.repository.ask(&request, why).await {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(Stumble { failure, request, why }),
        }
    }

    fn stumble(&self, part: Part, failure: Failure, why: &'static str) -> Stumble {
        let url = self.session.as_ref().map_or(&self.to.repository.base, |session| &session.url).clone();
        Stumble { failure, request: Request::new(part, url, format!("send {}", self.name())), why }
    }

    fn url(&self, what: &str, which: &str) -> Result<Url, Stumble> {
        let url = self.to.repository.url(what, which);
        url.map_err(|error| self.stumble(Part::Open, error.into(), ""))
    }

    /// `blob a1b2c3d4e5f6 to 127.0.0.1:5000/library/nginx`
    fn name(&self) -> String {
        let Repository { registry, name, .. } = &self.to.repository;
        format!("blob {} at {registry}/{name}", self.source.blob.digest.short())
    }

    fn size(&self) -> u64 {
        self.source.blob.size
    }
}

impl Stumble {
    /// Whether the upload itself is the trouble: it was forgotten, or what arrived is not what was sent. Another may do.
    fn is_about_session(&self) -> bool {
        matches!(self.request.part, Part::Fill | Part::Chunk | Part::Close)
            && matches!(self.failure.kind, Kind::Status(400 | 404 | 416))
    }
}

fn lost() -> Failure {
    Failure::new(Kind::Dropped, "the upload is gone")
}

/// The answer to "is it there?". Whoever is refused even that may still be allowed to push, and is told more then.
fn found(answer: Result<Response, Failure>) -> Result<Option<Response>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.is_passing() => Err(failure),
        Err(Failure { kind: Kind::Status(400..500), .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether an answer is about this digest; None if it names none that can be compared.
fn names(answer: &Response, digest: &Digest) -> Option<bool> {
    let named = header(answer, "docker-content-digest").filter(|named| named.starts_with("sha256:"))?;
    Some(named == digest.to_string())
}

/// How much of an upload has arrived, from an answer's `Range`.
fn arrived(answer: &Response) -> Option<u64> {
    arrived_by(header(answer, RANGE.as_str())?)
}

/// `0-1023`, some say `bytes=0-1023`: 1024 bytes. `0-0` is one byte or none, nobody knows.
fn arrived_by(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes=").trim_start_matches("bytes ");
    let last = range.strip_prefix("0-")?.parse::<u64>().ok()?;
    if last == 0 { None } else { last.checked_add(1) }
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_arrived_reads() {
        let cases = [
            ("0-1023", Some(1024)),
            ("bytes=0-9", Some(10)),
            (" bytes 0-9 ", Some(10)),
            ("0-0", None),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("0--1", None),
            ("", None),
        ];
        for (range, expected) in cases {
            assert_eq!(arrived_by(range), expected, "{range}");
        }
    }
}
