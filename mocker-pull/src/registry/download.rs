//! A blob as it comes in: a stream that survives broken connections and ends at the right byte.

use bytes::Bytes;
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::Error;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use super::failure::{Failure, Kind};
use super::retry::Attempts;
use super::{Repository, pause};
use crate::manifest::Descriptor;

/// A download in progress. What was received stays good when a connection breaks: the next one begins where it ended.
/// (The digest over the whole is checked by whoever reads the stream.)
pub struct Download<'a> {
    repository: &'a Repository,
    digest: &'a Digest,
    size: u64,
    offset: u64,
    /// bytes still to be passed over, where a registry begins anew instead of going on
    skip: u64,
    response: Option<Response>,
    attempts: Attempts,
    /// it failed in a way that another attempt may not
    passing: bool,
    why: &'static str,
}

impl Repository {
    /// Begins to download a blob from a byte on; nothing is sent before the first [`Download::next`].
    pub fn download<'a>(&'a self, blob: &'a Descriptor, offset: u64, why: &'static str) -> Download<'a> {
        Download {
            repository: self,
            digest: &blob.digest,
            size: blob.size,
            offset,
            skip: 0,
            response: None,
            attempts: Attempts::default(),
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
                    self.passing = failure.is_passing();
                    let waited =
                        pause(&self.repository.progress, &self.repository.registry, &mut self.attempts, failure);
                    if let Err(failure) = waited.await {
                        let request = self.repository.blob(self.digest, self.offset)?;
                        return Err(self.repository.explain(failure, &request, self.why));
                    }
                }
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
        loop {
            let chunk = response.chunk().await.map_err(|error| Failure::of_client(&error))?;
            let Some(mut chunk) = chunk else {
                let (offset, size) = (self.offset, self.size);
                return match offset == size {
                    true => Ok(None),
                    false => Err(Failure::new(Kind::Dropped, format!("it ended after {offset} of {size} bytes"))),
                };
            };
            let known = self.skip.min(chunk.len() as u64);
            self.skip -= known;
            let fresh = chunk.split_off(known as usize);
            if fresh.is_empty() {
                continue;
            }
            self.offset += fresh.len() as u64;
            if self.offset > self.size {
                return Err(too_long(self.size).into());
            }
            self.attempts.progressed();
            return Ok(Some(fresh));
        }
    }

    /// Asks for what is missing. Only an answer that begins exactly there is appended.
    async fn open(&mut self) -> Result<(), Failure> {
        let request = self.repository.blob(self.digest, self.offset)?;
        let response = self.repository.ask(&request, self.why).await?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => header(CONTENT_RANGE).and_then(range_start),
            _ => Some(0),
        };
        let length = header(CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
        let begins = match begins {
            Some(begins) if begins == self.offset || begins == 0 => begins,
            _ => return Err(Failure::new(Kind::Broken, "it answers with another part than was asked for")),
        };
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
        self.response = Some(response);
        Ok(())
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
