//! A request as a step: what it asks for, how it prints, the same with curl.
//!
//! Passwords and tokens are not part of it: they travel beside it, and print as `…`.

use std::fmt;

use mocker_common::step::Explained;
use reqwest::Url;

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
}

#[derive(Clone, Debug)]
pub struct Request {
    pub part: Part,
    pub url: Url,
    /// verb and object: `get the manifest of nginx from docker.io`
    pub aim: String,
    /// the first byte wanted; those before it are here
    pub offset: u64,
    /// sent by POST; it holds a refresh token
    pub form: Option<Secret>,
}

impl Request {
    pub fn new(part: Part, url: Url, aim: impl Into<String>) -> Self {
        Request { part, url, aim: aim.into(), offset: 0, form: None }
    }

    pub fn accept(&self) -> Option<&'static str> {
        (self.part == Part::Manifest).then_some(ACCEPT)
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
        let method = if self.request.form.is_some() { "POST" } else { "GET" };
        let url = match self.request.part {
            Part::Token => self.request.url.to_string(), // service and scope, the lesson of it
            _ => without_query(&self.request.url),
        };
        write!(f, "{method} {url}")?;
        if self.request.offset > 0 {
            write!(f, ", Range: bytes={}-", self.request.offset)?;
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
        match (self.request.part, &self.request.form) {
            (Part::Token, None) => format!("TOKEN=$({line} '{url}' | jq -r '.token // .access_token')"),
            (Part::Token, Some(_)) => {
                format!(
                    "TOKEN=$({line} --data \"grant_type=refresh_token&refresh_token=$REFRESH…\" '{url}' | jq -r .access_token)"
                )
            }
            (Part::Blob, _) => format!("{line} --location --output blob '{url}'"),
            (Part::Manifest, _) => format!("{line} --location '{url}'"),
        }
    }
}
