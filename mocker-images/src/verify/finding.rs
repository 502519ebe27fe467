//! A finding: one thing of the store that is damaged, and what its repair takes.

use std::path::PathBuf;

use serde_json::{Value, json};

/// Of one thing more than these say nothing new.
const SHOWN: usize = 5;

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    Layout,
    Index,
    Manifest,
    Config,
    /// a layer as it was sent
    Blob,
    /// a layer as it was unpacked
    Layer,
    Notes,
    Fixup,
    Stray,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            What::Layout => "layout",
            What::Index => "index",
            What::Manifest => "manifest",
            What::Config => "config",
            What::Blob => "blob",
            What::Layer => "layer",
            What::Notes => "notes",
            What::Fixup => "fixup",
            What::Stray => "stray",
        }
    }

    /// What its repair takes.
    fn repair(self) -> &'static str {
        match self {
            What::Layout => "write",
            What::Index => "relist",
            What::Manifest | What::Config | What::Blob => "fetch",
            What::Layer | What::Notes => "unpack",
            What::Fixup => "rebuild",
            What::Stray => "prune",
        }
    }
}

/// Why something cannot be read, behind its path.
pub fn unreadable(error: std::io::Error) -> String {
    let text = mocker_common::error::failed("read", "it")(error).what;
    text.replacen("cannot read it", "cannot be read", 1)
}

/// What is wrong with one thing, in words.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    shown: Vec<String>,
    more: usize,
}

impl Damage {
    pub fn add(&mut self, what: impl Into<String>) {
        match self.shown.len() < SHOWN {
            true => self.shown.push(what.into()),
            false => self.more += 1,
        }
    }

    pub fn extend(&mut self, what: impl IntoIterator<Item = String>) {
        what.into_iter().for_each(|what| self.add(what));
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and differs in {} more places", self.more));
        self.shown.iter().cloned().chain(more).collect()
    }
}

impl<T: Into<String>> From<T> for Damage {
    fn from(what: T) -> Self {
        let mut damage = Damage::default();
        damage.add(what);
        damage
    }
}

/// One damaged thing.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: What,
    /// of the blob; diff_id of a layer and its notes; chain id of a fix-up
    pub digest: Option<String>,
    pub path: PathBuf,
    /// the references of the images that need it
    pub images: Vec<String>,
    pub damage: Damage,
}

impl Finding {
    /// For people: `blob sha256:12ab…: has 9 bytes, not 100`.
    pub fn lines(&self) -> Vec<String> {
        let line = |damage: String| format!("{}: {} {damage}", self.what.name(), self.path.display());
        self.damage.lines().into_iter().map(line).collect()
    }

    pub fn to_json(&self) -> Value {
        json!({
            "what": self.what.name(),
            "digest": self.digest,
            "path": self.path.to_string_lossy(),
            "images": self.images,
            "damage": self.damage.lines(),
            "repair": self.what.repair(),
        })
    }
}

/// The findings of a check; what several images share is one finding.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    /// Adds what is wrong with a thing that an image needs, if anything is.
    pub fn add(&mut self, finding: Finding) {
        if finding.damage.is_empty() {
            return;
        }
        let same = |known: &&mut Finding| (known.what, &known.path) == (finding.what, &finding.path);
        match self.list.iter_mut().find(same) {
            Some(known) => {
                known.images.extend(finding.images);
                known.images.dedup();
                if finding.what == What::Index {
                    known.damage.extend(finding.damage.lines()); // one file, an entry an image
                }
            }
            None => self.list.push(finding),
        }
    }

    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    pub fn of<'a>(&'a self, image: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.list.iter().filter(move |finding| finding.images.iter().any(|name| name == image))
    }

    /// In the order in which they are repaired: what names other things first.
    pub fn sort(&mut self) {
        self.list.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    }
}
