//! `--repair`: makes good what `mocker-images verify --json` has found, and nothing else.
//!
//! What is fetched comes from the registry that the image's own name says, by digest: it is right or is thrown away. A
//! layer whose blob is sound is unpacked from it again, without a network. Whatever the findings say, only names that
//! the store itself gives are written to. A damaged thing is replaced in one step, so no image misses a part meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mocker_common::digest::{DiffId, Digest, sha256};
use mocker_common::error::{Error, failed};
use mocker_common::image::{Image, chain_id};
use mocker_common::in_use::InUse;
use mocker_common::publish;
use mocker_common::reference::Reference;
use mocker_common::state::write_atomically;
use mocker_common::store::{Entry, LAYOUT, REF_NAME, Store};
use mocker_common::unpack::fixup;
use serde::Deserialize;
use serde_json::Value;

use crate::layer::pass::{Pass, Wanted};
use crate::layer::{self, Work};
use crate::manifest::{Layer, Manifest};
use crate::progress::Progress;
use crate::pull::CONFIG_LIMIT;
use crate::registry::Repository;
use crate::registry::transport::Transport;
use crate::source::Source;

/// What mocker-images found, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Finding {
    what: String,
    digest: Option<String>,
    #[serde(default)]
    images: Vec<String>,
}

/// Reads the findings from stdin. An empty one means that the check before us failed, and has said why.
pub fn read() -> Result<Vec<Finding>, Error> {
    const TRY: &str = "mocker-images verify --json | mocker-pull --repair";
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        return Err(Error::new("cannot repair: nobody says what is damaged").hint(TRY));
    }
    std::io::stdin().lock().read_to_string(&mut text).map_err(failed("read", "the findings"))?;
    if text.trim().is_empty() {
        return Err(Error::already_said());
    }
    serde_json::from_str(&text).map_err(|error| Error::new(format!("cannot read the findings: {error}")).hint(TRY))
}

/// Repairs what was found. All is tried; what could not be repaired is named at the end.
pub async fn repair(work: &Arc<Work>, transport: &Arc<Transport>, findings: &[Finding]) -> Result<(), Error> {
    let (store, progress) = (&work.store, &work.progress);
    let mut repair =
        Repair { work, store, transport, progress, images: BTreeMap::new(), repaired: 0, failures: Vec::new() };
    repair.everything(findings).await;
    for directory in ["image/blobs/sha256", "layers/sha256", "fixups/sha256"] {
        publish::to_disk_by_name(&store.root().join(directory))?;
    }
    let damaged = findings.iter().filter(|finding| finding.what != "stray").count();
    match findings.is_empty() {
        true => progress.say("nothing is damaged"),
        false => progress.say(&format!("repaired {} of {damaged}", repair.repaired)),
    }
    match repair.failures.is_empty() {
        true => Ok(()),
        false if repair.failures.len() == 1 => Err(repair.failures.remove(0)),
        false => Err(Error {
            also: repair.failures.iter().map(ToString::to_string).collect(),
            ..Error::new("cannot repair everything")
        }),
    }
}

struct Repair<'a> {
    work: &'a Arc<Work>,
    store: &'a Store,
    transport: &'a Arc<Transport>,
    progress: &'a Arc<Progress>,
    /// read so far, by name
    images: BTreeMap<String, Known>,
    repaired: usize,
    failures: Vec<Error>,
}

/// An image, and where its parts come from.
#[derive(Clone)]
struct Known {
    source: Arc<Source>,
    layers: Vec<Layer>,
}

/// A layer with damaged parts.
#[derive(Clone)]
struct Torn {
    layer: Layer,
    blob: bool,
    files: bool,
    notes: bool,
    images: Vec<String>,
}

impl Repair<'_> {
    /// What names other things comes first: without a manifest nobody knows an image's layers.
    async fn everything(&mut self, findings: &[Finding]) {
        let of = |what: &'static [&'static str]| findings.iter().filter(move |finding| what.contains(&&*finding.what));
        for _ in of(&["layout"]) {
            let outcome = write_atomically(&self.store.layout(), 0o644, LAYOUT);
            self.count(outcome);
        }
        if of(&["index"]).next().is_some() {
            let outcome = restore_index(self.store, self.progress);
            self.failures.extend(outcome.err());
        }
        for finding in of(&["manifest"]) {
            let outcome = self.manifest(finding).await;
            self.count(outcome);
        }
        for finding in of(&["config"]) {
            let outcome = self.config(finding).await;
            self.count(outcome);
        }
        if of(&["index"]).next().is_some() {
            let outcome = correct_index(self.store);
            self.count(outcome);
        }
        self.layers(&of(&["blob", "layer", "notes"]).collect::<Vec<_>>()).await;
        for finding in of(&["fixup"]) {
            let outcome = self.fixup(finding).await;
            self.count(outcome);
        }
        for finding in of(&["stray"]) {
            let digest = finding.digest.as_deref().unwrap_or("a file that is no blob");
            self.progress.say(&format!("{digest}: no image needs it; mocker-images prune removes it"));
        }
        if of(&["manifest", "config", "index"]).next().is_some() {
            self.progress.say("check once more, for what these images need can be told only now: mocker-images verify");
        }
    }

    fn count(&mut self, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.repaired += 1,
            Err(error) => self.failures.push(error),
        }
    }

    /// The repository that an image's name says.
    async fn repository(&self, reference: &Reference) -> Result<Repository, Error> {
        let (registry, name) = (&reference.registry, &reference.repository);
        Repository::new(registry, name, self.transport.clone(), self.progress.clone()).await
    }

    /// Tries the registries of all images that need a thing, one after the other.
    async fn ask_each<T>(
        &self,
        what: &str,
        images: &[String],
        mut fetch: impl AsyncFnMut(&Reference) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut last = Error::new("no image needs it any more");
        for name in images {
            let outcome = match name.parse::<Reference>() {
                Ok(reference) => fetch(&reference).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(done) => return Ok(done),
                Err(error) => last = error,
            }
        }
        let from = images.first().map_or("its image", String::as_str);
        let advice = format!("if {from} came from an archive: mocker-images rm {from}, and mocker-pull it from there");
        let hint = if last.hint.is_empty() { advice } else { format!("{}\n{advice}", last.hint) };
        Err(Error { hint, ..last }.while_doing(format_args!("cannot repair {what}")))
    }

    async fn manifest(&self, finding: &Finding) -> Result<(), Error> {
        const WHY: &str = "the manifest in the store is damaged; by its digest the very same one comes back";
        let digest: Digest = finding.digest.as_deref().unwrap_or_default().parse()?;
        self.work.claim.blobs([&digest])?;
        let what = format!("manifest {}", digest.short());
        let fetch = async |reference: &Reference| {
            Ok(self.repository(reference).await?.manifest(&digest.to_string(), WHY).await?.bytes)
        };
        let bytes = self.ask_each(&what, &finding.images, fetch).await?;
        self.put(&digest, &bytes)?;
        self.progress.say(&format!("{what} fetched again"));
        Ok(())
    }

    async fn config(&self, finding: &Finding) -> Result<(), Error> {
        const WHY: &str = "the config in the store is damaged; by its digest the very same one comes back";
        let digest: Digest = finding.digest.as_deref().unwrap_or_default().parse()?;
        self.work.claim.blobs([&digest])?;
        let what = format!("config {}", digest.short());
        let fetch = async |reference: &Reference| {
            let manifest = manifest_of(self.store, reference)?;
            self.repository(reference).await?.small_blob(&manifest.config, CONFIG_LIMIT, WHY).await
        };
        let bytes = self.ask_each(&what, &finding.images, fetch).await?;
        self.put(&digest, &bytes)?;
        self.progress.say(&format!("{what} fetched again"));
        Ok(())
    }

    /// Puts a small blob in the place of the damaged one.
    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if Digest::from_bytes(&sha256(bytes)) != *digest {
            return Err(Error::new(format!("cannot repair {}: what came is something else", digest.short())));
        }
        let place = self.store.temporary()?;
        let path = place.path().join("blob");
        let written = fs::write(&path, bytes).and_then(|()| fs::File::open(&path)?.sync_all());
        written.map_err(failed("write", path.display()))?;
        publish::blob(&path, &self.store.blob(digest))
    }

    /// The image of a name, read once.
    async fn image(&mut self, name: &str) -> Result<Known, Error> {
        if let Some(known) = self.images.get(name) {
            return Ok(known.clone());
        }
        let reference: Reference = name.parse()?;
        let manifest = manifest_of(self.store, &reference)?;
        let image = Image::read(self.store, entry_of(self.store, &reference)?)?;
        let layers = manifest.layers_of(&image.config)?;
        self.work.claim.blobs(layers.iter().map(|layer| &layer.blob.digest))?;
        self.work.claim.layers(&image.layers)?;
        let source = Source::Registry(Box::new(self.repository(&reference).await?));
        let known = Known { source: Arc::new(source), layers };
        self.images.insert(name.into(), known.clone());
        Ok(known)
    }

    /// Layers: several findings about one are repaired in one pass.
    async fn layers(&mut self, findings: &[&Finding]) {
        let mut torn: BTreeMap<(String, String), (Torn, usize)> = BTreeMap::new();
        for finding in findings {
            let mut is_known = false;
            for name in &finding.images {
                let known = match self.image(name).await {
                    Ok(known) => known,
                    Err(error) => {
                        self.failures.push(error.while_doing(format_args!("cannot repair {name}")));
                        is_known = true;
                        continue;
                    }
                };
                let digest = finding.digest.as_deref().unwrap_or_default();
                for layer in known.layers {
                    let (blob, diff_id) = (layer.blob.digest.to_string(), layer.diff_id.to_string());
                    if digest != if finding.what == "blob" { &blob } else { &diff_id } {
                        continue;
                    }
                    let fresh = Torn { layer, blob: false, files: false, notes: false, images: Vec::new() };
                    let (torn, count) = torn.entry((blob, diff_id)).or_insert((fresh, 0));
                    *count += usize::from(!is_known);
                    is_known = true;
                    torn.blob |= finding.what == "blob";
                    torn.files |= finding.what == "layer";
                    torn.notes |= finding.what == "notes";
                    if !torn.images.contains(name) {
                        torn.images.push(name.clone());
                    }
                }
            }
            if !is_known {
                let digest = finding.digest.as_deref().unwrap_or("a layer");
                self.failures.push(Error::new(format!("cannot repair {digest}: no image here has it")));
            }
        }
        for (torn, count) in torn.into_values() {
            match self.layer(&torn).await {
                Ok(()) => self.repaired += count,
                Err(error) => self.failures.push(error),
            }
        }
    }

    async fn layer(&mut self, torn: &Torn) -> Result<(), Error> {
        let directory = self.store.layer(&torn.layer.diff_id);
        if torn.files {
            refuse_if_in_use(self.store, &directory)?; // before anything is fetched for nothing
        }
        let sources: BTreeMap<&String, Arc<Source>> =
            torn.images.iter().filter_map(|name| Some((name, self.images.get(name)?.source.clone()))).collect();
        let what = format!("layer {}", torn.layer.blob.digest.short());
        let fetch = async |reference: &Reference| match sources.get(&reference.to_string()) {
            Some(source) => renew(self.work, source, torn).await,
            None => Err(Error::new(format!("cannot find {reference}"))),
        };
        match torn.blob {
            true => self.ask_each(&what, &torn.images, fetch).await,
            false => match sources.values().next() {
                Some(source) => renew(self.work, source, torn).await,
                None => Err(Error::new("no image needs it any more")),
            },
        }
    }

    async fn fixup(&mut self, finding: &Finding) -> Result<(), Error> {
        let digest = finding.digest.as_deref().unwrap_or_default();
        let mut found = None;
        for name in &finding.images {
            let layers: Vec<DiffId> = self.image(name).await?.layers.into_iter().map(|layer| layer.diff_id).collect();
            found =
                found.or(chain_id(&layers).filter(|chain| chain.to_string() == digest).map(|chain| (chain, layers)));
        }
        let (chain, layers) =
            found.ok_or_else(|| Error::new(format!("cannot repair fix-up {digest}: no image here has it")))?;
        let place = self.store.fixup(&chain);
        refuse_if_in_use(self.store, &place)?;
        let temporary = self.store.temporary()?;
        let fresh = temporary.path().join("fixup");
        match fixup::make(self.store, &layers, &fresh)? {
            true => {
                publish::to_disk(&fresh)?;
                swap(self.store, &fresh, &place)?;
            }
            false => fs::rename(&place, &fresh).map_err(failed("remove", place.display()))?,
        }
        self.progress.say(&format!("fix-up {} made again", chain.short()));
        Ok(())
    }
}

/// Fetches or unpacks a layer once more, and puts what was damaged of it in its place.
async fn renew(work: &Work, source: &Source, torn: &Torn) -> Result<(), Error> {
    let (store, layer) = (&work.store, &torn.layer);
    let bar = work.progress.layer(layer);
    let _locks = layer::lock(store, layer, &bar).await?;
    let place = Arc::new(store.temporary()?);
    let wanted = Wanted { blob: torn.blob, files: torn.files || torn.notes };
    let pass = Pass { work, source, layer, wanted, place: place.clone() };
    pass.run(&bar).await?;
    work.sync(&place, Instant::now()).await?;
    if torn.blob {
        publish::blob(&pass.blob(), &store.blob(&layer.blob.digest))?;
    }
    if wanted.files {
        publish::notes(&place.path().join("notes"), &store.layer_notes(&layer.diff_id))?;
    }
    if torn.files {
        swap(store, &place.path().join("files"), &store.layer(&layer.diff_id))?;
    }
    match torn.blob {
        true => bar.done(layer.blob.size),
        false => bar.end("unpacked again"),
    }
    Ok(())
}

/// Replaces a directory of the store, unless somebody stands on it. The contents' lock keeps anybody from stepping on it
/// in between.
fn swap(store: &Store, fresh: &Path, place: &Path) -> Result<(), Error> {
    let lock = store.lock_contents()?;
    let _lock = lock.ok_or_else(|| Error::new("cannot repair: another tool is at work in the store"))?;
    refuse_if_in_use(store, place)?;
    publish::replacement(fresh, place)
}

fn refuse_if_in_use(store: &Store, place: &Path) -> Result<(), Error> {
    let users: Vec<String> = InUse::find(store).users(place).into_iter().collect();
    match users.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("cannot replace {}: {} stands on it", place.display(), users.join(", ")))
            .why("a mounted overlay keeps the directory that it began with: its files would vanish under the container")
            .hint("end the container (mocker-images delete ID, for one that was mounted; mocker prune, for what was killed),\nthen repair again")),
    }
}

fn entry_of(store: &Store, reference: &Reference) -> Result<Entry, Error> {
    store.find(reference)?.ok_or_else(|| Error::new(format!("no image {reference} here")))
}

fn manifest_of(store: &Store, reference: &Reference) -> Result<Manifest, Error> {
    Manifest::read(&store.read_json(&entry_of(store, reference)?.manifest)?)
}

/// Gives the index its names back, from its copy: all of them where it does not read, else those that name nothing.
fn restore_index(store: &Store, progress: &Progress) -> Result<(), Error> {
    let name = |descriptor: &Value| descriptor["annotations"][REF_NAME].as_str().map(str::to_string);
    store.mend_index(|| {
        let copy = store.copied_descriptors();
        let listed = match store.descriptors() {
            Ok(listed) if store.index().exists() => listed,
            _ => {
                let copy = copy.map_err(|error| {
                    error
                        .while_doing("cannot restore the list of images")
                        .why("the names stand in index.json and in its copy, and neither reads")
                        .hint(format!(
                            "rm {}; then mocker-pull each image: what is here of it is not fetched again",
                            store.index().display()
                        ))
                })?;
                progress.say(&format!("index: {} names come from its copy", copy.len()));
                return Ok(copy);
            }
        };
        let copy = copy.unwrap_or_default();
        let mut mended = Vec::new();
        for descriptor in listed {
            if Entry::read(descriptor.clone()).is_ok() {
                mended.push(descriptor);
                continue;
            }
            let name = name(&descriptor).unwrap_or_default();
            let same = |other: &&Value| other["annotations"][REF_NAME] == name.as_str();
            match copy.iter().find(same).filter(|other| Entry::read((*other).clone()).is_ok()) {
                Some(other) => mended.push(other.clone()),
                None => progress.say(&format!("index: {name} is no longer listed; mocker-pull {name}")),
            }
        }
        Ok(mended)
    })
}

/// Makes the index say of each image what the image is: its manifest's size and type, its config's platform.
fn correct_index(store: &Store) -> Result<(), Error> {
    store.mend_index(|| {
        let mut descriptors = store.descriptors()?;
        for descriptor in &mut descriptors {
            let Ok(Some(entry)) = Entry::read(descriptor.clone()) else { continue };
            let Ok(bytes) = fs::read(store.blob(&entry.manifest)) else { continue };
            if Digest::from_bytes(&sha256(&bytes)) != entry.manifest {
                continue;
            }
            descriptor["size"] = bytes.len().into();
            let manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if let Some(own) = manifest["mediaType"].as_str() {
                descriptor["mediaType"] = own.into();
            }
            if let Ok(image) = Image::read(store, entry) {
                for (key, own) in [("os", image.config.os), ("architecture", image.config.architecture)] {
                    if !own.is_empty() && descriptor["platform"].is_object() {
                        descriptor["platform"][key] = own.into();
                    }
                }
            }
        }
        Ok(descriptors)
    })
}
