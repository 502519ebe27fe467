//! A blob as it comes in: a stream that survives broken connections and ends at the right byte.
//!
//! What a registry's mirrors cannot give is asked of the registry itself, from the byte on where the last one ended.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::Error;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use super::failure::{Failure, Kind};
use super::retry::{Attempts, Pace};
use super::{Repository, pause};
use crate::manifest::Descriptor;

const PART: &str = "it answers with another part than was asked for";

/// A download in progress. What was received stays good when a connection breaks: the next one begins where it ended.
/// (The digest over the whole is checked by whoever reads the stream.)
pub struct Download<'a> {
    repository: &'a Repository,
    /// who is asked now, and who after him
    source: &'a Repository,
    others: VecDeque<&'a Repository>,
    digest: &'a Digest,
    size: u64,
    offset: u64,
    /// bytes still to be passed over, where a registry begins anew instead of going on
    skip: u64,
    /// this source answers a wish for the rest with nonsense: it is asked for the whole
    whole: bool,
    response: Option<Response>,
    pace: Pace,
    /// when the last bytes were handed on
    handed: Option<Instant>,
    attempts: Attempts,
    /// it failed in a way that another attempt may not
    passing: bool,
    why: &'static str,
}

impl Repository {
    /// Begins to download a blob from a byte on; nothing is sent before the first [`Download::next`].
    pub fn download<'a>(&'a self, blob: &'a Descriptor, offset: u64, why: &'static str) -> Download<'a> {
        let mut others = VecDeque::from(self.sources_of(&blob.digest));
        let source = others.pop_front().unwrap_or(self);
        Download {
            repository: self,
            source,
            others,
            digest: &blob.digest,
            size: blob.size,
            offset,
            skip: 0,
            whole: false,
            response: None,
            pace: Pace::new(self.transport.idle, Instant::now()),
            handed: None,
            attempts: source.attempts(),
            passing: true,
            why,
        }
    }

    /// Gets a small blob whole, checked: an image's config.
    pub async fn small_blob(&self, blob: &Descriptor, limit: u64, why: &'static str) -> Result<Vec<u8>, Error> {
        if blob.size > limit {
            return Err(Error::new(format!(
                "cannot use blob {}: it has {} bytes, more than the {limit} that are read into memory",
                blob.digest.short(),
                blob.size
            )));
        }
        loop {
            match self.whole_blob(blob, why).await {
                Err(error) if self.distrust(&blob.digest, &error) => continue,
                outcome => return outcome,
            }
        }
    }

    async fn whole_blob(&self, blob: &Descriptor, why: &'static str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut download = self.download(blob, 0, why);
        while let Some(chunk) = download.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let digest = Digest::from_bytes(&sha256(&bytes));
        match digest == blob.digest {
            true => Ok(bytes),
            false => Err(wrong_digest(&blob.digest, &digest)),
        }
    }
}

impl Download<'_> {
    /// Whether what has come in is worth keeping for a later attempt, after a failure.
    pub fn may_go_on(&self) -> bool {
        self.passing
    }

    /// The next bytes; None after the last. Never more in all than the descriptor says.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.attempt().await {
                Ok(chunk) => return Ok(chunk),
                Err(failure) => {
                    self.response = None;
                    self.wait(failure).await?;
                }
            }
        }
    }

    /// Waits until the same source is worth another attempt, or turns to the next.
    async fn wait(&mut self, failure: Failure) -> Result<(), Error> {
        let source = self.source;
        self.passing = failure.is_passing();
        let waited = pause(&source.progress, &source.registry, &mut self.attempts, failure).await;
        let Err(failure) = waited else { return Ok(()) };
        match self.others.pop_front() {
            Some(next) => {
                self.repository.pass_over(source, &failure, true);
                (self.source, self.attempts, self.whole) = (next, next.attempts(), false);
                Ok(())
            }
            None => {
                let request = source.blob(self.digest, self.offset)?;
                Err(source.explain(failure, &request, self.why))
            }
        }
    }

    async fn attempt(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.offset == self.size && self.response.is_none() {
            return Ok(None); // an empty blob, or one that was complete when the connection broke
        }
        if self.response.is_none() {
            self.open().await?;
        }
        let Some(response) = &mut self.response else { return Ok(None) };
        self.pace.read_on(self.handed.take().map(|handed| handed.elapsed()).unwrap_or_default());
        loop {
            let chunk = response.chunk().await.map_err(|error| {
                let failure = Failure::of_client(&error);
                let words = format!("{} after {} of {} bytes", failure.words, self.offset, self.size);
                Failure { words, ..failure }
            })?;
            let Some(mut chunk) = chunk else {
                let (offset, size) = (self.offset, self.size);
                return match offset == size {
                    true => Ok(None),
                    false => Err(Failure::new(Kind::Dropped, format!("it ended after {offset} of {size} bytes"))),
                };
            };
            let now = Instant::now();
            self.pace.received(chunk.len(), now).map_err(|words| Failure::new(Kind::Silent, words))?;
            let known = self.skip.min(chunk.len() as u64);
            self.skip -= known;
            let fresh = chunk.split_off(known as usize);
            if fresh.is_empty() {
                continue;
            }
            if self.offset + fresh.len() as u64 > self.size {
                return Err(too_long(self.size).into());
            }
            self.offset += fresh.len() as u64;
            self.attempts.received(fresh.len());
            self.handed = Some(now);
            return Ok(Some(fresh));
        }
    }

    /// Asks for what is missing. Only an answer that begins exactly there is appended; of one with the whole, what is
    /// known already is passed over. Who sends another part, or knows of none (416), is asked for the whole.
    async fn open(&mut self) -> Result<(), Failure> {
        let wanted = if self.whole { 0 } else { self.offset };
        let request = self.source.blob(self.digest, wanted)?;
        let response = match self.source.ask(&request, self.why).await {
            Err(failure) if failure.kind == Kind::Status(416) && wanted > 0 => return Err(self.nonsense()),
            other => other?,
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => header(CONTENT_RANGE).and_then(range_start),
            _ => Some(0),
        };
        let begins = match begins {
            Some(begins) if begins == wanted || begins == 0 => begins,
            _ if wanted > 0 => return Err(self.nonsense()),
            _ => return Err(Failure::new(Kind::Broken, PART)),
        };
        let length = header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
        if let Some(length) = length
            && begins + length != self.size
        {
            return Err(Error::new(format!(
                "{}: it is sent with {} bytes, its descriptor says {}",
                request.aim.replacen("get", "cannot use", 1),
                begins + length,
                self.size
            ))
            .why("what is not as long as its manifest says is not what was pushed")
            .likely("the registry has lost a part of it, or sends an error page in its place")
            .hint("push the image again")
            .into());
        }
        self.skip = self.offset - begins;
        self.pace = Pace::new(self.repository.transport.idle, Instant::now());
        self.handed = None;
        self.response = Some(response);
        if self.source.is_mirror {
            self.repository.note_giver(self.digest, self.source);
        }
        Ok(())
    }

    fn nonsense(&mut self) -> Failure {
        self.whole = true;
        Failure::new(Kind::Dropped, PART)
    }
}

/// The first byte of `bytes 100-199/200`.
fn range_start(header: &str) -> Option<u64> {
    header.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

fn too_long(size: u64) -> Error {
    Error::new(format!("cannot use the blob: it goes on after the {size} bytes of its descriptor"))
        .why("an endless answer would fill the disk before its digest could be checked")
        .likely("a broken or hostile registry")
}

/// The bytes are not those that were pushed.
pub fn wrong_digest(expected: &Digest, received: &Digest) -> Error {
    Error::new(format!("cannot use blob {}: its digest is wrong", expected.short()))
        .said(format!("expected {expected}"))
        .said(format!("received {received}"))
        .why("a digest is the only proof that these are the bytes that were pushed")
        .likely("the registry's storage or a proxy on the way has damaged it, or somebody has changed it")
        .hint("pull again, without a proxy if there is one; if it stays, push the image again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_range_reads() {
        let cases = [
            ("bytes 100-199/200", Some(100)),
            ("bytes 0-0/*", Some(0)),
            ("bytes=5-9/10", None),
            ("bytes */10", None),
            ("", None),
        ];
        for (header, start) in cases {
            assert_eq!(range_start(header), start, "{header}");
        }
    }
}
