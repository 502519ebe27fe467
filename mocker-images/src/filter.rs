//! `--filter KEY=VALUE`: which images are listed. Docker's keys and rules.

use jiff::Timestamp;
use mocker_common::error::{Error, USAGE};
use mocker_common::reference::Reference;
use mocker_common::store::Store;

use crate::list::Row;
use crate::summary::Reader;
use crate::{age, get};

/// What an image must be to be listed.
#[derive(Debug, Default)]
pub struct Filters {
    /// one of these must fit, if there are any
    references: Vec<String>,
    /// all of these must be there
    labels: Vec<(String, Option<String>)>,
    /// seconds and nanoseconds after 1970
    before: Vec<Timestamp>,
    since: Vec<Timestamp>,
}

impl Filters {
    /// Reads filters. `name` is the argument of `list`: one more filter by reference.
    pub fn parse(store: &Store, filters: &[String], name: Option<&str>) -> Result<Filters, Error> {
        let mut all = Filters { references: name.map(String::from).into_iter().collect(), ..Filters::default() };
        for filter in filters {
            let (key, value) = filter.split_once('=').ok_or_else(|| refused(filter, "it has no ="))?;
            match key {
                "reference" => all.references.push(value.into()),
                "label" => all.labels.push(match value.split_once('=') {
                    Some((name, value)) => (name.into(), Some(value.into())),
                    None => (value.into(), None),
                }),
                "before" => all.before.push(created(store, value)?),
                "since" => all.since.push(created(store, value)?),
                "dangling" => {
                    return Err(refused(filter, "every image here has a name")
                        .hint("mocker-images prune   (removes what no name leads to)"));
                }
                _ => return Err(refused(filter, "there is no such key")),
            }
        }
        Ok(all)
    }

    pub fn fits(&self, row: &Row) -> bool {
        let names = || names(&row.entry.reference);
        let is_named = |pattern: &String| names().iter().any(|name| glob(pattern, name));
        if !self.references.is_empty() && !self.references.iter().any(is_named) {
            return false;
        }
        let image = row.image.as_deref().ok();
        let has_label = |(name, value): &(String, Option<String>)| {
            let found = image.and_then(|image| image.labels.get(name));
            found.is_some_and(|found| value.as_ref().is_none_or(|value| found.as_str() == Some(value)))
        };
        let created = image.and_then(|image| age::instant(image.created.as_deref()?));
        self.labels.iter().all(has_label)
            && self.before.iter().all(|limit| created.is_some_and(|created| created < *limit))
            && self.since.iter().all(|limit| created.is_some_and(|created| created > *limit))
    }
}

fn refused(filter: &str, cause: &str) -> Error {
    Error::new(format!("cannot use filter '{filter}': {cause}"))
        .hint("reference=GLOB, label=NAME, label=NAME=VALUE, before=IMAGE, since=IMAGE are filters")
        .status(USAGE)
}

/// When an image was built.
fn created(store: &Store, reference: &str) -> Result<Timestamp, Error> {
    let entry = get::find(store, &reference.parse::<Reference>()?)?;
    let image = Reader::new(store).image(&entry.manifest)?;
    image.created.as_deref().and_then(age::instant).ok_or_else(|| {
        Error::new(format!("cannot tell what is older than {}: it does not say when it was built", entry.reference))
    })
}

/// What a pattern may mean an image by: with and without its tag, as typed and in full.
fn names(reference: &str) -> Vec<String> {
    match reference.parse::<Reference>() {
        Ok(reference) => {
            let tag = reference.tag.as_deref().unwrap_or_default();
            let (short, full) = (reference.familiar_name(), reference.name());
            vec![format!("{short}:{tag}"), format!("{full}:{tag}"), short, full]
        }
        Err(_) => vec![reference.into()],
    }
}

/// Whether a text fits a pattern as Go's path.Match has it: `*` and `?` do not cross a `/`, `[a-z]` and `[^a]` are sets.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Where the last * stood, and how much of the text it has taken: what does not fit makes it take one more.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match (one(&pattern[p..], text.get(t)), star) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, _) if p == pattern.len() && t == text.len() => return true,
            (None, Some((after, taken))) if text.get(taken).is_some_and(|c| *c != '/') => {
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// How long the pattern of one character is, if this one fits it.
fn one(pattern: &[char], character: Option<&char>) -> Option<usize> {
    let character = *character?;
    match pattern {
        ['?', ..] if character != '/' => Some(1),
        ['?', ..] => None,
        ['\\', literal, ..] => (*literal == character).then_some(2),
        ['[', set @ ..] => {
            let end = set.iter().skip(1).position(|c| *c == ']')? + 1; // a set is not empty
            let (negated, members) = match set[0] {
                '^' => (true, &set[1..end]),
                _ => (false, &set[..end]),
            };
            let mut found = false;
            let mut rest = members;
            while let Some((first, more)) = rest.split_first() {
                (found, rest) = match more {
                    ['-', last, more @ ..] => (found || (*first..=*last).contains(&character), more),
                    _ => (found || *first == character, more),
                };
            }
            (found != negated && character != '/').then_some(end + 2)
        }
        [literal, ..] => (*literal == character).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_docker_has_it() {
        let fits = [
            ("nginx", "nginx"),
            ("ngi*", "nginx"),
            ("*", "nginx"),
            ("*:1.*", "nginx:1.27"),
            ("team/*", "team/app"),
            ("*/*/*", "quay.io/team/app"),
            ("n?inx", "nginx"),
            ("[a-n]ginx", "nginx"),
            ("[^a-m]ginx", "nginx"),
            ("a\\*", "a*"),
            ("*a*b", "xaxxab"),
        ];
        for (pattern, text) in fits {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        let fails = [
            ("ngin", "nginx"),
            ("*", "team/app"),
            ("team*", "team/app"),
            ("n?inx", "ninx"),
            ("[^n]ginx", "nginx"),
            ("[", "["),
            ("[]", "]"),
            ("", "nginx"),
            ("nginx", ""),
            ("\\", "\\x"),
        ];
        for (pattern, text) in fails {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
