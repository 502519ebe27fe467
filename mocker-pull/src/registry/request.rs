//! A request as a step: what it asks for, how it prints, the same with curl.
//!
//! Passwords and tokens are not part of it: they travel beside it, and print as `…`.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use mocker_common::digest::Digest;
use mocker_common::step::Explained;
use reqwest::{Method, Url};

use super::body;
use super::credentials::Secret;
use super::endpoint::without_query;
use crate::manifest::ACCEPT;

/// What proves to a registry who we are, as the header's value.
#[derive(Debug)]
pub enum Authorization {
    Basic(Secret),
    Bearer(Secret),
}

impl Authorization {
    pub fn header(&self) -> &str {
        match self {
            Authorization::Basic(value) | Authorization::Bearer(value) => &value.0,
        }
    }
}

/// Which part of the protocol a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Manifest,
    Blob,
    Token,
    /// is this manifest there?
    SeekManifest,
    /// is this blob there?
    SeekBlob,
    /// take it from another repository, or else begin an upload
    Mount,
    /// begin an upload
    Open,
    /// all of a blob, at once
    Fill,
    /// some of a blob
    Chunk,
    /// that was all of it
    Close,
    /// how much has arrived?
    State,
    /// forget the upload
    Cancel,
    /// the manifest, under its name
    Publish,
}

impl Part {
    /// Whether it belongs to a push.
    pub fn is_of_push(self) -> bool {
        !matches!(self, Part::Manifest | Part::Blob | Part::Token)
    }
}

/// What a request brings along.
#[derive(Clone, Debug, Default)]
pub enum Body {
    #[default]
    None,
    /// holds a refresh token
    Form(Secret),
    Manifest {
        bytes: Bytes,
        media_type: &'static str,
        /// for the narrative
        path: PathBuf,
    },
    Blob(body::Part),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub part: Part,
    pub url: Url,
    /// verb and object: `get the manifest of nginx from docker.io`
    pub aim: String,
    /// the first byte wanted; those before it are here
    pub offset: u64,
    pub body: Body,
    /// of the blob that an upload is of
    pub digest: Option<Digest>,
}

impl Request {
    pub fn new(part: Part, url: Url, aim: impl Into<String>) -> Self {
        Request { part, url, aim: aim.into(), offset: 0, body: Body::None, digest: None }
    }

    pub fn method(&self) -> Method {
        match self.part {
            Part::Token if matches!(self.body, Body::Form(_)) => Method::POST,
            Part::Manifest | Part::Blob | Part::Token | Part::State => Method::GET,
            Part::SeekManifest | Part::SeekBlob => Method::HEAD,
            Part::Mount | Part::Open => Method::POST,
            Part::Chunk => Method::PATCH,
            Part::Fill | Part::Close | Part::Publish => Method::PUT,
            Part::Cancel => Method::DELETE,
        }
    }

    pub fn accept(&self) -> Option<&'static str> {
        matches!(self.part, Part::Manifest | Part::SeekManifest).then_some(ACCEPT)
    }

    pub fn content_type(&self) -> Option<&'static str> {
        match &self.body {
            Body::None => None,
            Body::Form(_) => Some("application/x-www-form-urlencoded"),
            Body::Manifest { media_type, .. } => Some(media_type),
            Body::Blob(_) => Some("application/octet-stream"),
        }
    }

    /// Which bytes of the blob these are: `0-1023` (unlike in an answer, without a unit; distribution-spec).
    pub fn content_range(&self) -> Option<String> {
        match &self.body {
            Body::Blob(part) if self.part == Part::Chunk => {
                Some(format!("{}-{}", part.from, part.to.saturating_sub(1)))
            }
            _ => None,
        }
    }

    /// The request as it goes out with these credentials.
    pub fn with<'a>(&'a self, authorization: Option<&'a Authorization>) -> Authorized<'a> {
        Authorized { request: self, authorization }
    }
}

/// A request with the credentials that go with it.
pub struct Authorized<'a> {
    pub request: &'a Request,
    pub authorization: Option<&'a Authorization>,
}

impl fmt::Display for Authorized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request;
        let url = match (request.part, &request.digest) {
            // Service and scope, digest and repository: the lesson of it.
            (Part::Token | Part::Mount, _) => request.url.to_string(),
            (Part::Fill | Part::Close, Some(digest)) => {
                let address = request.url.as_str().split('?').next().unwrap_or_default();
                let notes = if request.mark() == '&' { "?…" } else { "" };
                format!("{address}{notes}{}digest={digest}", request.mark())
            }
            _ => without_query(&request.url),
        };
        write!(f, "{} {url}", request.method())?;
        if request.offset > 0 {
            write!(f, ", Range: bytes={}-", request.offset)?;
        }
        if let Some(range) = request.content_range() {
            write!(f, ", Content-Range: {range}")?;
        }
        match self.authorization {
            Some(Authorization::Basic(_)) => f.write_str(", Authorization: Basic …"),
            Some(Authorization::Bearer(_)) => f.write_str(", Authorization: Bearer …"),
            None => Ok(()),
        }
    }
}

impl Explained for Authorized<'_> {
    fn aim(&self) -> String {
        self.request.aim.clone()
    }

    fn source(&self) -> &'static str {
        match self.request.part {
            Part::Manifest => "distribution-spec, Pulling manifests",
            Part::Blob => "distribution-spec, Pulling blobs",
            Part::Token => "distribution, Token Authentication Specification",
            Part::SeekManifest | Part::SeekBlob => "distribution-spec, Checking if content exists in the registry",
            Part::Mount => "distribution-spec, Mounting a blob from another repository",
            Part::Open | Part::Fill => "distribution-spec, POST then PUT",
            Part::Chunk | Part::Close | Part::State => "distribution-spec, Pushing a blob in chunks",
            Part::Cancel => "distribution-spec, Cancel a blob upload",
            Part::Publish => "distribution-spec, Pushing manifests",
        }
    }

    fn by_hand(&self) -> String {
        let mut line = String::from("curl --silent");
        match self.authorization {
            Some(Authorization::Basic(_)) => line += " --user \"$NAME:$PASSWORD\"",
            Some(Authorization::Bearer(_)) => line += " --header \"Authorization: Bearer $TOKEN\"",
            None => {}
        }
        if let Some(accept) = self.request.accept() {
            line += &format!(" --header 'Accept: {accept}'");
        }
        if self.request.offset > 0 {
            line += &format!(" --range {}-", self.request.offset);
        }
        let url = &self.request.url;
        match self.request.part {
            Part::Token if matches!(self.request.body, Body::None) => {
                format!("TOKEN=$({line} '{url}' | jq -r '.token // .access_token')")
            }
            Part::Token => {
                format!(
                    "TOKEN=$({line} --data \"grant_type=refresh_token&refresh_token=$REFRESH…\" '{url}' | jq -r .access_token)"
                )
            }
            Part::Blob => format!("{line} --location --output blob '{url}'"),
            Part::Manifest => format!("{line} --location '{url}'"),
            _ => self.request.push_by_hand(line),
        }
    }
}

impl Request {
    /// What stands before the digest that ends an upload: its address may have a query of its own.
    fn mark(&self) -> char {
        let own = self.url.query().is_some_and(|query| !query.starts_with("digest="));
        if own { '&' } else { '?' }
    }

    /// The requests of a push with curl. `$LOCATION` is where the answer before said to go on; it changes with each.
    fn push_by_hand(&self, curl: String) -> String {
        const LOCATION: &str = "sed -n 's/^[Ll]ocation: *//p' | tr -d '\\r'";
        let url = &self.url;
        let mark = self.mark();
        let digest = self.digest.as_ref().map(ToString::to_string).unwrap_or_default();
        let kind = self.content_type().map(|kind| format!(" --header 'Content-Type: {kind}'")).unwrap_or_default();
        match (self.part, &self.body) {
            (Part::SeekManifest | Part::SeekBlob, _) => format!("{curl} --head --location '{url}'"),
            (Part::Mount | Part::Open, _) => {
                format!("LOCATION=$({curl} --request POST --dump-header - --output /dev/null '{url}' | {LOCATION})")
            }
            (Part::Fill, Body::Blob(part)) => {
                let path = part.source.path.display();
                format!("{curl}{kind} --upload-file {path} \"$LOCATION{mark}digest={digest}\"")
            }
            (Part::Chunk, Body::Blob(part)) => format!(
                "LOCATION=$(tail --bytes=+{} {} | head --bytes={} | {curl}{kind} --header 'Content-Range: {}' \\\n  \
                 --request PATCH --data-binary @- --dump-header - --output /dev/null \"$LOCATION\" | {LOCATION})",
                part.from + 1,
                part.source.path.display(),
                part.length(),
                self.content_range().unwrap_or_default(),
            ),
            (Part::State, _) => format!("{curl} --include \"$LOCATION\""),
            (Part::Cancel, _) => format!("{curl} --request DELETE \"$LOCATION\""),
            (Part::Publish, Body::Manifest { path, .. }) => {
                format!("{curl}{kind} --upload-file {} '{url}'", path.display())
            }
            _ => format!("{curl} --request PUT \"$LOCATION{mark}digest={digest}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notes_that_a_registry_keeps_in_an_address_are_not_shown() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let shown = |part, url: &str| {
            let request = Request::new(part, Url::parse(url).unwrap(), "");
            Request { digest: Some(digest.parse().unwrap()), ..request }.with(None).to_string()
        };
        assert_eq!(shown(Part::Close, "http://a/u/1?digest=x"), format!("PUT http://a/u/1?digest={digest}"));
        assert_eq!(shown(Part::Close, "http://a/u/1?s=1&digest=x"), format!("PUT http://a/u/1?…&digest={digest}"));
        assert_eq!(shown(Part::State, "http://a/u/1?s=1"), "GET http://a/u/1?…");
        assert_eq!(shown(Part::Mount, "http://a/u/?mount=x&from=b"), "POST http://a/u/?mount=x&from=b");
    }
}
