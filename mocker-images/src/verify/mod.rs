//! `verify`: is everything there, and is it what its digest says?
//!
//! From the top down: the layout and its index, then each image's manifest and config, then its layers as they were
//! sent and as they are unpacked, at last the fix-up above them and what lies in `blobs/` without being needed. What
//! images share is checked once. The layers, which take nearly all of the time, are shared out among the cores.

mod archive;
mod finding;
mod index;
mod layer;
mod model;
mod root;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::store::{Claim, Entry, Store};
use mocker_common::unpack::fixup;
use serde_json::Value;

use self::finding::{Damage, Finding, Findings, What, unreadable};
use self::layer::{Layer, Outcome};
use crate::{TOOL, contents, get};

/// How to check, and how to tell.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Print the findings as a JSON array, for mocker-pull --repair
    #[arg(long)]
    pub json: bool,
    /// Look only whether everything is there and has its size
    #[arg(long)]
    pub quick: bool,
}

/// Checks images, all of them where none is named. Prints those that are sound; what is damaged is named on stderr.
pub fn verify(store: &Store, references: &[Reference], options: Options) -> Result<(), Error> {
    let mut check = Check { store, quick: options.quick, findings: Findings::default() };
    let mut entries = Vec::new();
    if store.root().exists() {
        // What is being removed meanwhile is not damaged: the claim keeps what the list has, and holds nobody up.
        let claim = Claim::begin(store).ok();
        entries = check.entries(references)?;
        if let Some(claim) = &claim {
            let held = store.hold_contents()?;
            let still: BTreeSet<String> = check.entries(&[])?.into_iter().map(|entry| entry.reference).collect();
            entries.retain(|entry| still.contains(&entry.reference));
            let needs = entries.iter().filter_map(|entry| contents::paths_of(store, entry.descriptor.clone()).ok());
            claim.paths(needs.flatten().collect::<Vec<_>>().into_iter())?;
            drop(held);
        }
        check.everything(&entries, references.is_empty());
        drop(claim);
    } else if !references.is_empty() {
        check.entries(references)?;
    }
    check.findings.sort();
    tell(&entries, &check.findings, options)
}

fn tell(entries: &[Entry], findings: &Findings, options: Options) -> Result<(), Error> {
    let list = findings.list();
    if options.json {
        let array = Value::Array(list.iter().map(Finding::to_json).collect());
        writeln!(std::io::stdout(), "{array:#}").map_err(failed("write", "the findings"))?;
        return match list.len() {
            0 => Ok(()),
            count => Err(Error::new(format!("the store is damaged: {count} findings"))),
        };
    }
    for entry in entries.iter().filter(|entry| findings.of(&entry.reference).next().is_none()) {
        println!("{} ok", entry.reference);
    }
    if list.is_empty() {
        return Ok(());
    }
    let mut also = Vec::new();
    for finding in list {
        let needed_by = match finding.images.is_empty() {
            true => String::new(),
            false => format!("{}: ", finding.images.join(", ")),
        };
        also.extend(finding.lines().into_iter().map(|line| format!("{needed_by}{line}")));
    }
    let only_stray = list.iter().all(|finding| finding.what == What::Stray);
    let hint = match only_stray {
        true => format!("{TOOL} prune"),
        false => format!("{TOOL} verify --json | mocker-pull --repair"),
    };
    Err(Error { also, hint, ..Error::new("the store is damaged") })
}

struct Check<'a> {
    store: &'a Store,
    quick: bool,
    findings: Findings,
}

/// A layer to be checked, and the images that need it.
struct Job {
    digest: Digest,
    size: Option<u64>,
    diff_id: DiffId,
    images: Vec<String>,
}

impl Check<'_> {
    /// The images that were asked for. Where the index is damaged, the names of its copy say what is missing.
    fn entries(&mut self, references: &[Reference]) -> Result<Vec<Entry>, Error> {
        if !references.is_empty() {
            return references.iter().map(|reference| get::find(self.store, reference)).collect();
        }
        let listed = self.store.descriptors().or_else(|_| self.store.copied_descriptors()).unwrap_or_default();
        Ok(listed.into_iter().filter_map(|descriptor| Entry::read(descriptor).ok().flatten()).collect())
    }

    fn everything(&mut self, entries: &[Entry], whole_store: bool) {
        if whole_store {
            index::layout(self.store, &mut self.findings);
            index::index(self.store, &mut self.findings);
        }
        let mut images = Vec::new();
        for entry in entries {
            images.extend(self.image(entry));
        }
        self.layers(&images);
        for image in &images {
            self.fixup(image);
        }
        if whole_store && !self.quick {
            let needed: BTreeSet<PathBuf> = images.iter().flat_map(|image| self.blobs_of(image)).collect();
            index::strays(self.store, &needed, &mut self.findings);
        }
    }

    fn blobs_of(&self, image: &Image) -> Vec<PathBuf> {
        let digests = self.sent(image).into_iter().map(|(digest, _)| digest);
        let own = [image.entry.manifest.clone(), image.config_digest.clone()];
        digests.chain(own).map(|digest| self.store.blob(&digest)).collect()
    }

    /// The layers of an image as its manifest has them.
    fn sent(&self, image: &Image) -> Vec<(Digest, Option<u64>)> {
        let manifest = self.store.read_json(&image.entry.manifest).unwrap_or_default();
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let read = |layer: &Value| Some((layer["digest"].as_str()?.parse().ok()?, layer["size"].as_u64()));
        layers.iter().filter_map(read).collect()
    }

    /// Checks an image's manifest and config, and the index's entry against them. None if its layers cannot be told.
    fn image(&mut self, entry: &Entry) -> Option<Image> {
        let name = entry.reference.clone();
        let sound = self.small_blob(What::Manifest, &entry.manifest, None, &name);
        let manifest = self.store.read_json(&entry.manifest).ok().filter(|_| sound)?;
        let config = &manifest["config"];
        match config["digest"].as_str().unwrap_or_default().parse::<Digest>() {
            Ok(digest) => {
                let sound = self.small_blob(What::Config, &digest, config["size"].as_u64(), &name);
                sound.then_some(())?;
            }
            Err(error) => {
                self.add(What::Manifest, Some(&entry.manifest), &name, error.what.into());
                return None;
            }
        }
        match Image::read(self.store, entry.clone()) {
            Ok(image) => {
                index::entry(self.store, &image, &manifest, &mut self.findings);
                Some(image)
            }
            Err(error) => {
                self.add(What::Manifest, Some(&entry.manifest), &name, error.what.into());
                None
            }
        }
    }

    /// Checks a blob that is read whole: a manifest or a config.
    fn small_blob(&mut self, what: What, digest: &Digest, size: Option<u64>, image: &str) -> bool {
        let path = self.store.blob(digest);
        let damage = match self.quick {
            true => std::fs::metadata(&path).map(|metadata| layer::wrong_size(metadata.len(), size)),
            false => archive::open(&path).and_then(|mut blob| {
                blob.drain()?;
                let wrong_size = layer::wrong_size(blob.length(), size);
                let found = blob.digest();
                Ok((found != *digest).then(|| format!("holds {found}")).or(wrong_size))
            }),
        };
        let damage = damage.unwrap_or_else(|error| Some(unreadable(error)));
        let sound = damage.is_none();
        if let Some(damage) = damage {
            self.add(what, Some(digest), image, damage.into());
        }
        sound
    }

    fn add(&mut self, what: What, digest: Option<&Digest>, image: &str, damage: Damage) {
        let path = digest.map_or_else(|| self.store.index(), |digest| self.store.blob(digest));
        let digest = digest.map(ToString::to_string);
        self.findings.add(Finding { what, digest, path, images: vec![image.into()], damage });
    }

    /// Checks all layers of all images, each once, on all cores.
    fn layers(&mut self, images: &[Image]) {
        let mut jobs: BTreeMap<(Digest, DiffId), Job> = BTreeMap::new();
        for image in images {
            for ((digest, size), diff_id) in self.sent(image).into_iter().zip(&image.layers) {
                let fresh = Job { digest: digest.clone(), size, diff_id: diff_id.clone(), images: Vec::new() };
                let job = jobs.entry((digest, diff_id.clone())).or_insert(fresh);
                if job.images.last() != Some(&image.entry.reference) {
                    job.images.push(image.entry.reference.clone());
                }
            }
        }
        let mut jobs: Vec<Job> = jobs.into_values().collect();
        jobs.sort_by_key(|job| job.size); // the largest is taken first, from the end
        let (store, quick) = (self.store, self.quick);
        let queue = Mutex::new(jobs);
        let findings = Mutex::new(&mut self.findings);
        let work = || {
            loop {
                let job = queue.lock().ok().and_then(|mut queue| queue.pop());
                let Some(job) = job else { return };
                let outcome = job.check(store, quick);
                if let Ok(mut findings) = findings.lock() {
                    job.tell(store, outcome, &mut findings);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(work);
            }
        });
    }

    /// Checks the fix-up above an image's layers: it is made once more, beside it. Sound layers are what it is made of.
    fn fixup(&mut self, image: &Image) {
        let name = image.entry.reference.clone();
        let (Some(chain), false) = (image.chain_id(), self.quick) else { return };
        let parts: BTreeSet<PathBuf> =
            image.layers.iter().flat_map(|layer| [self.store.layer(layer), self.store.layer_notes(layer)]).collect();
        if self.findings.list().iter().any(|finding| parts.contains(&finding.path)) {
            return;
        }
        let place = self.store.fixup(&chain);
        let damage = match compare_fixup(self.store, &image.layers, &place) {
            Ok(damage) => damage,
            Err(error) => format!("cannot be compared: {}", error.what).into(),
        };
        let digest = Some(chain.to_string());
        self.findings.add(Finding { what: What::Fixup, digest, path: place, images: vec![name], damage });
    }
}

impl Job {
    fn check(&self, store: &Store, quick: bool) -> Outcome {
        let layer = Layer {
            blob: &store.blob(&self.digest),
            digest: &self.digest,
            size: self.size,
            diff_id: &self.diff_id,
            directory: &store.layer(&self.diff_id),
            notes: &store.layer_notes(&self.diff_id),
        };
        if quick { layer.glance() } else { layer.check() }
    }

    fn tell(&self, store: &Store, outcome: Outcome, findings: &mut Findings) {
        let Outcome { blob, directory, notes } = outcome;
        let diff_id = self.diff_id.to_string();
        for (what, digest, path, damage) in [
            (What::Blob, self.digest.to_string(), store.blob(&self.digest), blob),
            (What::Layer, diff_id.clone(), store.layer(&self.diff_id), directory),
            (What::Notes, diff_id, store.layer_notes(&self.diff_id), notes),
        ] {
            findings.add(Finding { what, digest: Some(digest), path, images: self.images.clone(), damage });
        }
    }
}

/// How a fix-up differs from what its layers ask for.
fn compare_fixup(store: &Store, layers: &[DiffId], place: &Path) -> Result<Damage, Error> {
    let temporary = store.temporary()?;
    let right = temporary.path().join("fixup");
    let mut damage = Damage::default();
    match (fixup::make(store, layers, &right)?, place.is_dir()) {
        (false, false) => {}
        (false, true) => damage.add("is there, and its layers need none"),
        (true, false) => damage.add("is not there"),
        (true, true) => damage.extend(root::compare_trees(&right, place)?),
    }
    Ok(damage)
}
