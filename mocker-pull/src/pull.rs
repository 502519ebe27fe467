//! One image, from a source's name for it to an entry in the store's index.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mocker_common::clock::rfc3339;
use mocker_common::digest::{DiffId, Digest, sha256};
use mocker_common::error::{Error, failed};
use mocker_common::image::{Config, Image};
use mocker_common::publish;
use mocker_common::reference::Reference;
use mocker_common::store::{Entry, INDEX_DIGEST, STORED_AT, Store, Temporary};
use mocker_common::unpack::fixup;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::layer::{self, Work};
use crate::manifest::{Descriptor, Kind, Layer, Manifest, kind};
use crate::platform::{Platform, choose, offered};
use crate::registry::Document;
use crate::source::{Source, Wish};

/// The largest config that is read into memory.
pub(crate) const CONFIG_LIMIT: u64 = 8 << 20;
/// Indexes within indexes are legal; more than this is a circle or a joke.
const NESTED: usize = 4;

/// Pulls an image. Afterwards it and all its parts are in the store, or the store's index is as before.
pub async fn pull(work: &Arc<Work>, wish: &Wish, wanted: &Platform) -> Result<Image, Error> {
    let (store, source, name) = (&work.store, &wish.source, wish.name.familiar());
    work.progress.say(&format!("{name}: pulling from {}", wish.origin));

    let (document, index) = resolve(source, &name, &wish.selector, wanted).await?;
    let manifest = Manifest::read(&document.json).map_err(|error| error.while_doing(&name))?;
    // Until the index keeps it the claim does: nothing of it is pruned meanwhile.
    let blobs = manifest.layers.iter().chain([&manifest.config]).map(|part| &part.digest);
    work.claim.blobs(blobs.chain([&document.digest]))?;
    let mut staged = Staged::begin(store)?;
    let config = fetch_config(store, source, &manifest.config, &mut staged).await?;
    let platform = check_platform(&name, &config, wanted)?;
    let layers = manifest.layers_of(&config).map_err(|error| error.while_doing(&name))?;
    staged.put(&document.digest, &document.bytes)?;

    let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    work.claim.layers(&diff_ids)?;
    fetch_layers(work, source, &layers).await?;
    fixup::build(store, &diff_ids)?;
    staged.publish(work).await?;

    // Everything is there. The index comes last: from then on the image can be found.
    let mut descriptor = json!({
        "mediaType": manifest.media_type,
        "digest": document.digest.to_string(),
        "size": document.bytes.len(),
        "platform": platform,
        "annotations": { STORED_AT: rfc3339(SystemTime::now()) },
    });
    if let Some(index) = index {
        descriptor["annotations"][INDEX_DIGEST] = index.into();
    }
    let entry = match listed(store, &wish.name, &descriptor)? {
        Some(entry) => {
            work.progress.say(&format!("{name}: unchanged {}", document.digest));
            entry
        }
        None => {
            for directory in ["image/blobs/sha256", "layers/sha256", "fixups/sha256"] {
                publish::to_disk_by_name(&store.root().join(directory))?;
            }
            let entry = store.list_image(&wish.name, descriptor)?;
            work.progress.say(&format!("{name}: stored {}", document.digest));
            entry
        }
    };
    // Read from what was pulled, not from the list: somebody may have removed it there meanwhile, its parts nobody can.
    Image::read(store, entry)
}

/// The image, if the index has it so already but for when it was stored.
fn listed(store: &Store, reference: &Reference, descriptor: &Value) -> Result<Option<Entry>, Error> {
    let text = reference.to_string();
    let found = store.entries()?.into_iter().find(|entry| entry.reference == text);
    let same = |entry: &Entry| {
        let keeps = |pointer: &str| entry.descriptor.pointer(pointer) == descriptor.pointer(pointer);
        let index = &entry.descriptor["annotations"][INDEX_DIGEST];
        keeps("/digest") && keeps("/size") && keeps("/platform") && *index == descriptor["annotations"][INDEX_DIGEST]
    };
    Ok(found.filter(same))
}

/// The manifest and the config, on their way into the store: they share the layers' sync.
struct Staged {
    store: Store,
    place: Arc<Temporary>,
    blobs: Vec<Digest>,
    written: Instant,
}

impl Staged {
    fn begin(store: &Store) -> Result<Self, Error> {
        let place = Arc::new(store.temporary()?);
        Ok(Staged { store: store.clone(), place, blobs: Vec::new(), written: Instant::now() })
    }

    /// Writes a blob beside its place. One that the store has, and has whole, is left as it is.
    fn put(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if std::fs::read(self.store.blob(digest)).is_ok_and(|here| here == bytes) {
            return Ok(());
        }
        let path = self.place.path().join(digest.hex());
        std::fs::write(&path, bytes).map_err(failed("write", path.display()))?;
        self.written = Instant::now();
        self.blobs.push(digest.clone());
        Ok(())
    }

    async fn publish(self, work: &Work) -> Result<(), Error> {
        if !self.blobs.is_empty() {
            work.sync(&self.place, self.written).await?;
        }
        for digest in &self.blobs {
            publish::blob(&self.place.path().join(digest.hex()), &self.store.blob(digest))?;
        }
        Ok(())
    }
}

/// Asks for the manifest, and through an index for that of the wanted platform. Also returns the index's digest.
async fn resolve(
    source: &Source,
    name: &str,
    selector: &str,
    wanted: &Platform,
) -> Result<(Document, Option<String>), Error> {
    const WHY: &str =
        "a tag is only a name that may point elsewhere tomorrow; the manifest behind it lists the parts by digest";
    const PICKED: &str = "the index names an image for each platform; this is the digest of the one that runs here";
    let mut document = source.manifest(selector, WHY).await?;
    let mut index = None;
    for _ in 0..NESTED {
        let what = kind(document.content_type.as_deref(), &document.json);
        if what.map_err(|error| error.while_doing(name))? == Kind::Image {
            return Ok((document, index));
        }
        let descriptors = document.json["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let picked = choose(descriptors, wanted).ok_or_else(|| other_platform(name, wanted, &offered(descriptors)))?;
        let picked = Descriptor::read(picked).map_err(|error| error.while_doing(name))?;
        index.get_or_insert(document.digest.to_string());
        document = source.manifest(&picked.digest.to_string(), PICKED).await?;
    }
    Err(Error::new(format!("cannot pull {name}: more than {NESTED} indexes point to each other"))
        .likely("a broken or hostile image"))
}

async fn fetch_config(
    store: &Store,
    source: &Source,
    descriptor: &Descriptor,
    staged: &mut Staged,
) -> Result<Config, Error> {
    const WHY: &str = "the config says what to run, and by their diff_ids what the layers hold once unpacked";
    let is_it = |bytes: &Vec<u8>| {
        bytes.len() as u64 == descriptor.size && Digest::from_bytes(&sha256(bytes)) == descriptor.digest
    };
    let bytes = match std::fs::read(store.blob(&descriptor.digest)).ok().filter(is_it) {
        Some(bytes) => bytes,
        None => source.small_blob(descriptor, CONFIG_LIMIT, WHY).await?,
    };
    staged.put(&descriptor.digest, &bytes)?;
    serde_json::from_slice(&bytes).map_err(|cause| {
        Error::new(format!("cannot read the image's config {}: {cause}", descriptor.digest.short()))
            .likely("a broken tool has made the image")
    })
}

/// A manifest without an index says nothing about platforms; its config does, in words before execve does in an errno.
fn check_platform(name: &str, config: &Config, wanted: &Platform) -> Result<Value, Error> {
    let own = Platform::of_json(&json!({ "os": config.os, "architecture": config.architecture }));
    match own {
        Some(own) if wanted.has_architecture_of(&own) => Ok(json!({ "os": own.os, "architecture": own.architecture })),
        Some(own) => Err(other_platform(name, wanted, &own.to_string())),
        None => Ok(json!({ "os": wanted.os, "architecture": wanted.architecture })),
    }
}

fn other_platform(name: &str, wanted: &Platform, there: &str) -> Error {
    let first = there.split(", ").next().unwrap_or_default();
    let error = Error::new(format!("cannot pull {name}: there is none for {wanted}"))
        .said(format!("there is one for {there}"))
        .why("a program for another processor does not start here (exec format error)");
    match first {
        "none" => error,
        _ => error.hint(format!(
            "mocker-pull --platform {first} {name} gets it all the same, for binfmt_misc or another machine"
        )),
    }
}

/// Fetches the layers, several at once, the largest first: whoever is last should not have the longest way.
async fn fetch_layers(work: &Arc<Work>, source: &Arc<Source>, layers: &[Layer]) -> Result<(), Error> {
    let mut order: Vec<&Layer> = Vec::new();
    for layer in layers {
        if !order.iter().any(|other| other.diff_id == layer.diff_id && other.blob.digest == layer.blob.digest) {
            order.push(layer);
        }
    }
    order.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size));
    let mut fetching = JoinSet::new();
    for layer in order {
        let (work, source, layer) = (work.clone(), source.clone(), layer.clone());
        fetching.spawn_local(async move { layer::fetch(&work, &source, &layer).await });
    }
    while let Some(outcome) = fetching.join_next().await {
        // The first failure ends all: dropping the set drops the downloads, and their threads end for want of bytes.
        outcome.unwrap_or_else(|cause| Err(Error::new(format!("cannot go on: {cause}"))))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_for_another_platform_is_refused_in_words() {
        let wanted: Platform = "linux/amd64/v3".parse().unwrap();
        let config = |os: &str, architecture: &str| Config {
            os: os.into(),
            architecture: architecture.into(),
            ..Config::default()
        };
        assert_eq!(check_platform("x", &config("linux", "amd64"), &wanted).unwrap()["architecture"], "amd64");
        assert!(check_platform("x", &config("", ""), &wanted).is_ok());
        let error = check_platform("x", &config("linux", "arm64"), &wanted).unwrap_err().to_string();
        assert!(error.contains("linux/arm64") && error.contains("--platform linux/arm64"), "{error}");
    }
}
