//! Why a request failed, and what a person can do about it.

use std::time::{Duration, SystemTime};

use mocker_common::clock;
use mocker_common::error::{Error, errno_text};
use mocker_common::step::{Cause, Explained, report};
use reqwest::Response;
use reqwest::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::Value;

use super::limit::Limit;
use super::request::{Authorized, Part};
use super::retry::{LONGEST_WAIT, retry_after};
use crate::manifest::printable;

/// An attempt that brought no answer, or one that says no.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    /// the cause, for the error's first line
    pub words: String,
    /// what the registry said itself
    pub said: Vec<String>,
    /// how long it wants to be left alone
    pub retry_after: Option<Duration>,
    /// how much it gives, and to whom
    pub limit: Option<Limit>,
}

#[derive(Debug, PartialEq)]
pub enum Kind {
    /// its name leads to no address
    Unresolved,
    /// nobody listens there
    Refused,
    /// no way there
    Unreachable,
    /// it cannot prove who it is
    Untrusted,
    /// it ends the TLS handshake, which it does where it wants another proof of us
    Alert,
    /// it does not speak TLS
    NotTls,
    /// it said nothing for too long
    Silent,
    /// the connection broke
    Dropped,
    /// the way there is by a proxy, which does not give it
    Proxy,
    /// the proxy is not there
    NoProxy,
    Status(u16),
    /// it answered against the rules
    Broken,
    /// a step on the way failed and has its own error
    Told(Box<Error>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(Kind::Told(Box::new(error)), "")
    }
}

impl Failure {
    pub fn new(kind: Kind, words: impl Into<String>) -> Self {
        Failure { kind, words: words.into(), said: Vec::new(), retry_after: None, limit: None }
    }

    /// Finds the cause at the bottom of a client's error.
    pub fn of_client(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Failure::new(Kind::Silent, "no answer in time");
        }
        let mut cause: &(dyn std::error::Error + 'static) = error;
        let mut all = cause.to_string();
        let mut errno = 0;
        let (mut tls, mut alert) = (false, None);
        while let Some(next) = below(cause) {
            cause = next;
            all += &format!(": {cause}");
            errno = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error).unwrap_or(errno);
            let refused = cause.downcast_ref::<rustls::Error>();
            tls |= refused.is_some();
            if let Some(rustls::Error::AlertReceived(told)) = refused
                && *told != rustls::AlertDescription::InternalError
            {
                alert = Some(format!("it ends the TLS handshake: {told:?}"));
            }
        }
        let words = printable(&cause.to_string());
        let unresolved = all.contains("dns error") || all.contains("failed to lookup address");
        match errno {
            _ if unresolved => Failure::new(Kind::Unresolved, words),
            _ if tls && (all.contains("InvalidContentType") || all.contains("corrupt message")) => {
                Failure::new(Kind::NotTls, "it does not speak TLS")
            }
            _ if alert.is_some() => Failure::new(Kind::Alert, alert.unwrap_or_default()),
            _ if tls => Failure::new(Kind::Untrusted, words),
            libc::ECONNREFUSED => Failure::new(Kind::Refused, errno_text(errno)),
            libc::ENETUNREACH | libc::EHOSTUNREACH => Failure::new(Kind::Unreachable, errno_text(errno)),
            0 if all.contains("tunnel error") || all.contains("socks") => Failure::new(Kind::Proxy, words),
            0 if words.starts_with("end of file") => Failure::new(Kind::Dropped, "the connection broke"),
            0 => Failure::new(Kind::Dropped, words),
            _ => Failure::new(Kind::Dropped, errno_text(errno)),
        }
    }

    /// An answer that is no success. Reads what the registry has to say about it.
    pub async fn of_answer(mut response: Response) -> Self {
        let status = response.status();
        let headers = response.headers();
        let retry = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry = retry.and_then(|value| retry_after(value, SystemTime::now()));
        let limit = Limit::read(|name| headers.get(name)?.to_str().ok());
        let challenge = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let complaint: Option<String> = challenge.flat_map(super::challenge::parse).find_map(|challenge| {
            challenge.get("error").map(|error| format!("the registry asks for: {}", printable(error)))
        });
        const LIMIT: usize = 64 << 10;
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > LIMIT {
                break;
            }
        }
        let mut failure = Failure::new(Kind::Status(status.as_u16()), status.to_string());
        failure.said = said(&body);
        failure.said.extend(complaint);
        failure.retry_after = retry;
        failure.limit = limit;
        failure
    }

    /// Whether the same request may well succeed in a moment. What is used up for hours does not come back in seconds.
    pub fn is_passing(&self) -> bool {
        match self.kind {
            Kind::Silent | Kind::Dropped | Kind::Status(408) => true,
            Kind::Status(429) => self.retry_after.is_some() || !self.limit.as_ref().is_some_and(Limit::is_reached),
            Kind::Status(status) => (500..600).contains(&status) && ![501, 505, 511].contains(&status),
            _ => false,
        }
    }

    /// In one line, where another is asked instead.
    pub fn summary(&self) -> &str {
        match &self.kind {
            Kind::Told(error) => &error.what,
            _ => &self.words,
        }
    }

    /// The error of a failure that is no answer to a request of the protocol.
    pub fn into_plain_error(self, aim: &str) -> Error {
        match self.kind {
            Kind::Told(error) => *error,
            _ => Error::new(format!("cannot {aim}: {}", self.words)),
        }
    }

    /// The error a person reads. `credentials` says where they came from, if any were sent.
    pub fn into_error(self, call: &Authorized<'_>, why: &str, advice: &Advice) -> Error {
        if let Kind::Told(error) = self.kind {
            return *error;
        }
        let (likely, hint) = self.diagnose(call, advice);
        let cause = Cause { errno: 0, words: self.words, said: self.said };
        let error = report(call as &dyn Explained, why, cause);
        error.likely(likely).hint(hint)
    }

    fn diagnose(&self, call: &Authorized<'_>, advice: &Advice) -> (String, String) {
        if let Some(refusal) = super::refusal::diagnose(self, call.request, advice) {
            return refusal;
        }
        let url = &call.request.url;
        let host = url.host_str().unwrap_or_default();
        let (likely, hint): (&str, String) = match &self.kind {
            Kind::Unresolved => {
                ("the name is misspelt, or no name server can be reached", format!("getent hosts {host}"))
            }
            Kind::Refused => ("no registry runs there, or on another port", format!("curl -v {}v2/", base(url))),
            Kind::Unreachable => ("this machine has no route to it", format!("ip route get {host}; ping {host}")),
            Kind::Untrusted => (
                "its certificate is of an authority that this machine does not know, or is for another name or time",
                format!(
                    "{} ca = \"/path/ca.pem\"   (in /etc/mocker/registries.toml)\n\
                     SSL_CERT_FILE=ca.pem mocker-pull …, or apt install ca-certificates where no authority is known",
                    section(url)
                ),
            ),
            Kind::Alert => (
                "it wants a certificate of ours, or another than it was sent",
                format!("{} certificate = \"FILE\", key = \"FILE\"   (in /etc/mocker/registries.toml)", section(url)),
            ),
            Kind::NotTls => (
                "it speaks plain HTTP, which mocker speaks with the loopback alone unless told otherwise",
                format!("{} insecure = true   (in /etc/mocker/registries.toml)", section(url)),
            ),
            Kind::Silent => ("it is overloaded, or something on the way swallows packets", "--timeout 300".into()),
            // With TLS 1.3 its complaint may come too late to be read.
            Kind::Dropped if url.scheme() == "https" => (
                "the registry, or something on the way, closed the connection: some do who want a certificate of ours",
                format!("curl -v {}v2/", base(url)),
            ),
            Kind::Dropped => {
                ("the registry, or something on the way, closed the connection", format!("curl -v {}v2/", base(url)))
            }
            Kind::Status(401 | 403) if call.request.part == Part::Token || call.authorization.is_some_and(is_basic) => {
                ("the user name or the password is wrong", advice.login())
            }
            Kind::Status(401 | 403) => (
                "the repository is private, or there is none of that name: registries do not tell strangers which",
                advice.login(),
            ),
            Kind::Status(404) if call.request.part == Part::Manifest => (
                "there is no such tag, or no such repository; of a private one some registries say 404 instead of 401",
                format!("curl {}v2/{}/tags/list; or docker login, if it is private", base(url), advice.repository),
            ),
            Kind::Status(404) => ("the registry has lost a part of the image", "push the image again".into()),
            Kind::Status(429) => return self.too_many(advice),
            Kind::Proxy | Kind::NoProxy | Kind::Status(407) => (
                match self.kind {
                    Kind::NoProxy => "no proxy runs where the environment says that one does",
                    _ => "the proxy does not know the host, or does not let this machine or user through",
                },
                format!("env | grep -i _proxy; or NO_PROXY={host}, if the registry is reached without it"),
            ),
            Kind::Status(500..) => ("the registry is in trouble", self.when()),
            Kind::Status(400) if url.scheme() == "http" => (
                "it wants TLS; with the loopback mocker speaks plain HTTP",
                "call it by another name or address of this machine".into(),
            ),
            Kind::Status(_) => ("what answers there is no registry", format!("curl -v {}v2/", base(url))),
            Kind::Broken | Kind::Told(_) => ("", String::new()),
        };
        (likely.into(), hint)
    }

    /// Who has had too much of what, and what to do about it.
    fn too_many(&self, advice: &Advice) -> (String, String) {
        let who = match advice.logged_in {
            Some(true) => "this user",
            _ => "strangers from this address",
        };
        let likely = match &self.limit {
            Some(limit) => limit.words(who),
            None => format!("too many requests, of {who} or of all"),
        };
        let mut hint = self.when();
        if advice.logged_in != Some(true) {
            hint += &format!("\ndocker login {}, or podman login: who is known may pull more", advice.registry);
        } else if !advice.credentials.is_empty() {
            hint += &format!("\n({})", advice.credentials);
        }
        hint +=
            &format!("\n[registry.\"{}\"] mirrors = [\"…\"] in registries.toml: a mirror near you", advice.registry);
        (likely, hint)
    }

    /// When to come again.
    pub(super) fn when(&self) -> String {
        match self.retry_after {
            Some(wait) if wait > LONGEST_WAIT => {
                format!(
                    "the registry wants to be asked again at {}, not before",
                    clock::rfc3339(SystemTime::now() + wait)
                )
            }
            _ => "try again later".into(),
        }
    }
}

/// What an error needs to know beyond the request itself.
#[derive(Clone, Debug, Default)]
pub struct Advice {
    pub registry: String,
    pub repository: String,
    /// `the credentials of anna in ~/.docker/config.json`, or that there are none
    pub credentials: String,
    /// whether there were any; None where nobody asked
    pub logged_in: Option<bool>,
}

impl Advice {
    pub(super) fn login(&self) -> String {
        let login =
            format!("check the spelling; docker login {} or podman login {0} keeps a password for it", self.registry);
        if self.credentials.is_empty() { login } else { format!("{login}\n({})", self.credentials) }
    }
}

/// The cause of an error. An I/O error made of another passes that one over and names only *its* cause; hence the look
/// inside.
fn below<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn is_basic(authorization: &super::request::Authorization) -> bool {
    matches!(authorization, super::request::Authorization::Basic(_))
}

/// The host's table in the settings.
fn section(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("[registry.\"{host}{port}\"]")
}

fn base(url: &reqwest::Url) -> String {
    format!("{}/", url.origin().ascii_serialization())
}

/// The errors in a registry's answer (distribution-spec, Error Codes), or the beginning of what it says instead.
fn said(body: &[u8]) -> Vec<String> {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let html = first.trim_start().starts_with('<');
        return if first.is_empty() || html { Vec::new() } else { vec![printable(first.trim())] };
    };
    let one = |error: &Value| {
        let text = |key: &str| error[key].as_str().map(printable).unwrap_or_default();
        let line = format!("{}: {}", text("code"), text("message"));
        line.trim_matches([':', ' ']).to_string()
    };
    let errors = answer["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = errors.iter().take(3).map(one).filter(|line| !line.is_empty()).collect();
    for key in ["details", "message", "error_description"] {
        lines.extend(answer[key].as_str().filter(|_| errors.is_empty()).map(printable));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_quoted_and_cannot_move_the_cursor() {
        let cases: [(&str, &[&str]); 7] = [
            (
                r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
                &["DENIED: requested access is denied"],
            ),
            (r#"{"errors":[{"code":"UNKNOWN"},{"message":"no"}]}"#, &["UNKNOWN", "no"]),
            (r#"{"details":"incorrect username or password"}"#, &["incorrect username or password"]),
            ("{\"message\":\"a\\u001b[2Jb\"}", &["a?[2Jb"]),
            ("Client sent an HTTP request\nto an HTTPS server.\n", &["Client sent an HTTP request"]),
            ("<html>502</html>", &[]),
            ("", &[]),
        ];
        for (body, lines) in cases {
            assert_eq!(said(body.as_bytes()), lines, "{body}");
        }
    }
}
