//! How many pulls a registry gives to whom: `RateLimit-Limit`, `RateLimit-Remaining`, `Docker-RateLimit-Source`.
//!
//! Docker Hub sends `100;w=21600`: a hundred within six hours. Source: docker docs, "Docker Hub pull usage and limits";
//! draft-ietf-httpapi-ratelimit-headers, version 4.

use crate::manifest::printable;

/// What the headers of one answer say.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// how many, and in how many seconds
    pulls: Option<(u64, Option<u64>)>,
    remaining: Option<u64>,
    /// an address, or a user's id
    source: Option<String>,
}

impl Limit {
    /// None if an answer has none of the headers.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Limit> {
        let limit = Limit {
            pulls: header("ratelimit-limit").and_then(quota),
            remaining: header("ratelimit-remaining").and_then(quota).map(|(remaining, _)| remaining),
            source: header("docker-ratelimit-source").filter(|source| !source.is_empty()).map(printable),
        };
        (limit.pulls.is_some() || limit.remaining.is_some() || limit.source.is_some()).then_some(limit)
    }

    pub fn is_reached(&self) -> bool {
        self.remaining == Some(0)
    }

    /// `100 pulls within 6 h are given to 192.0.2.7, and 0 are left`
    pub fn words(&self, who: &str) -> String {
        let who = self.source.as_ref().map_or(who.to_string(), |source| format!("{who}, counted as {source}"));
        let left = self.remaining.map(|left| format!("; {left} are left")).unwrap_or_default();
        match self.pulls {
            Some((pulls, Some(window))) => format!("{pulls} pulls within {} are given to {who}{left}", span(window)),
            Some((pulls, None)) => format!("{pulls} pulls are given to {who}{left}"),
            None => format!("too many pulls of {who}{left}"),
        }
    }
}

/// Reads `100;w=21600`; of several windows the first.
fn quota(header: &str) -> Option<(u64, Option<u64>)> {
    let mut parts = header.split(',').next()?.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((count, window))
}

fn span(seconds: u64) -> String {
    match seconds {
        0 => "no time".into(),
        s if s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_told_in_words() {
        let words = |limit: &str, remaining: &str, source: &str| {
            let header = |name: &str| match name {
                "ratelimit-limit" => Some(limit),
                "ratelimit-remaining" => Some(remaining),
                _ => Some(source),
            };
            Limit::read(header).map(|limit| limit.words("strangers"))
        };
        let cases = [
            (
                ("100;w=21600", "0;w=21600", "192.0.2.7"),
                Some("100 pulls within 6 h are given to strangers, counted as 192.0.2.7; 0 are left"),
            ),
            (("200;w=90", "", ""), Some("200 pulls within 90 s are given to strangers")),
            (("10, 10;w=1", "3", ""), Some("10 pulls are given to strangers; 3 are left")),
            (("x", "", "a\u{1b}b"), Some("too many pulls of strangers, counted as a?b")),
            (("", "", ""), None),
        ];
        for ((limit, remaining, source), expected) in cases {
            assert_eq!(words(limit, remaining, source).as_deref(), expected, "{limit} {remaining} {source}");
        }
    }
}
