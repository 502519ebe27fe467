//! One image, from the store to a name at a registry. The mirror of `pull.rs`: blobs first, the name last.
//!
//! What is sent are the bytes that are stored: a digest never changes on the way, so what others have pinned stays good.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mocker_common::digest::{Digest, sha256};
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::reference::Reference;
use mocker_common::store::{INDEX_DIGEST, Store};
use mocker_common::units::format_size;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::lenders::Lenders;
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::registry::Repository;
use crate::registry::body::Source;
use crate::registry::request::Body;
use crate::registry::retry::{Attempts, random};
use crate::registry::transport::Transport;
use crate::registry::upload::{Outcome, Published, Uploads};

/// An image of the store with every file of it open: it can be removed meanwhile, and is pushed all the same.
pub struct Stored {
    pub digest: Digest,
    bytes: Bytes,
    path: PathBuf,
    manifest: Manifest,
    /// each blob once, the largest first: whoever is last should not have the longest way
    sources: Vec<Arc<Source>>,
    /// the name it has in the store belongs to an index of several platforms
    is_one_of_many: bool,
}

/// How to push.
pub struct Way {
    pub transport: Arc<Transport>,
    pub progress: Arc<Progress>,
    /// how many blobs at once
    pub jobs: usize,
    /// send blobs in pieces of so many bytes
    pub chunk: Option<u64>,
}

impl Stored {
    /// Opens an image, and refuses one that is not whole.
    pub fn open(store: &Store, reference: &Reference) -> Result<Stored, Error> {
        let entry = store.find(reference)?.ok_or_else(|| {
            Error::new(format!("cannot push {}: no such image here", reference.familiar()))
                .hint("mocker-images   (lists what is here)")
        })?;
        let unusable = |error: Error| Error {
            what: format!("cannot push {}: {}", reference.familiar(), error.what),
            hint: "mocker-images verify   (names what is damaged; mocker-pull gets it again)".into(),
            ..error
        };
        let path = store.blob(&entry.manifest);
        let bytes = std::fs::read(&path).map_err(failed("read", path.display())).map_err(unusable)?;
        if Digest::from_bytes(&sha256(&bytes)) != entry.manifest {
            return Err(unusable(Error::new(format!("its manifest {} is damaged", entry.manifest.short()))));
        }
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|cause| unusable(Error::new(format!("its manifest is no JSON: {cause}"))))?;
        let manifest = Manifest::read(&json)?;
        let mut sources: Vec<Arc<Source>> = Vec::new();
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if sources.iter().all(|other| other.blob.digest != blob.digest) {
                sources.push(Arc::new(Source::open(blob, store.blob(&blob.digest)).map_err(unusable)?));
            }
        }
        sources.sort_by_key(|source| std::cmp::Reverse(source.blob.size));
        let is_one_of_many = entry.descriptor["annotations"][INDEX_DIGEST].is_string();
        Ok(Stored { digest: entry.manifest, bytes: bytes.into(), path, manifest, sources, is_one_of_many })
    }
}

/// Pushes an image under a name. If it cannot be done, or `stop` ends first, the registry is told to forget what was begun.
pub async fn push(
    image: &Stored,
    to: &Reference,
    way: &Way,
    lenders: &mut Lenders,
    stop: impl Future<Output = Error>,
) -> Result<(), Error> {
    if let Some(wanted) = to.digest.as_ref().filter(|wanted| **wanted != image.digest) {
        return Err(Error::new(format!("cannot push it as {}: its digest is another", to.familiar()))
            .said(format!("wanted {wanted}"))
            .said(format!("it has {}", image.digest))
            .why("a name with a digest is a promise of these very bytes"));
    }
    let repository =
        Repository::for_push(&to.registry, &to.repository, way.transport.clone(), way.progress.clone()).await?;
    let uploads = Arc::new(Uploads::new(repository, way.chunk));
    let outcome = tokio::select! {
        outcome = send(image, to, way, lenders, &uploads) => outcome,
        error = stop => Err(error),
    };
    match &outcome {
        Ok(()) => lenders.remember(to, &image.digest, &image.manifest),
        Err(_) => uploads.cancel().await,
    }
    outcome
}

async fn send(
    image: &Stored,
    to: &Reference,
    way: &Way,
    lenders: &Lenders,
    uploads: &Arc<Uploads>,
) -> Result<(), Error> {
    let name = to.familiar();
    way.progress.say(&format!("{name}: pushing to {}", to.registry));
    if image.is_one_of_many {
        way.progress
            .say(&format!("{name}: of the platforms that its name stands for, only the one that is here is pushed"));
    }
    let selector = to.tag.clone().unwrap_or_else(|| image.digest.to_string());
    let is_named = uploads.has_manifest(&selector, &image.digest).await?;
    let mut attempts = Attempts::default();
    loop {
        let outcomes = send_blobs(image, to, way, lenders, uploads).await?;
        if is_named && outcomes.iter().all(|outcome| *outcome == Outcome::WasThere) {
            way.progress.say(&format!("{name}: unchanged {}", image.digest));
            return Ok(());
        }

        // Everything is there. The manifest comes last: from then on the image can be pulled by its name.
        let (bytes, media_type, path) = (image.bytes.clone(), image.manifest.media_type, image.path.clone());
        let manifest = Body::Manifest { bytes, media_type, path };
        let Published::Lacking(error) = uploads.publish(&selector, &image.digest, manifest).await? else { break };

        // docker-registry on a disk says so while another push is just writing down the same blob.
        let wait = attempts.wait(None, random()).ok_or(error)?;
        way.progress.say(&format!("{name}: the registry misses a blob that it said it had; looking again"));
        tokio::time::sleep(wait).await;
    }
    way.progress.say(&format!("{name}: pushed {}", image.digest));
    Ok(())
}

/// Brings the blobs there, several at once.
async fn send_blobs(
    image: &Stored,
    to: &Reference,
    way: &Way,
    lenders: &Lenders,
    uploads: &Arc<Uploads>,
) -> Result<Vec<Outcome>, Error> {
    // A narrative of several uploads at once could not be followed.
    let jobs = Arc::new(Semaphore::new(if explain::on() { 1 } else { way.jobs }));
    let mut sending = JoinSet::new();
    for source in &image.sources {
        let (jobs, uploads, progress) = (jobs.clone(), uploads.clone(), way.progress.clone());
        let (source, from) = (source.clone(), lenders.find(to, &source.blob.digest));
        let is_layer = source.blob.digest != image.manifest.config.digest;
        sending.spawn_local(async move {
            let _turn = jobs.acquire().await;
            let sent = uploads.send(&source, from.as_deref());
            if is_layer { shown(&progress, &source, sent).await } else { sent.await }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = sending.join_next().await {
        // The first failure ends all: dropping the set drops the uploads, and the threads that read for them end.
        outcomes.push(outcome.unwrap_or_else(|cause| Err(Error::new(format!("cannot go on: {cause}"))))?);
    }
    Ok(outcomes)
}

/// Shows a layer's way, and in the end how it came to be there.
async fn shown(
    progress: &Progress,
    source: &Source,
    sent: impl Future<Output = Result<Outcome, Error>>,
) -> Result<Outcome, Error> {
    let bar = progress.blob(&source.blob);
    let mut sent = std::pin::pin!(sent);
    let outcome = loop {
        match tokio::time::timeout(Duration::from_millis(200), &mut sent).await {
            Ok(outcome) => break outcome?,
            Err(_) => bar.set(source.position()),
        }
    };
    match &outcome {
        Outcome::WasThere => bar.end("is there already"),
        Outcome::Mounted(from) => bar.end(&format!("mounted from {from}")),
        Outcome::Sent => bar.end(&format!("{} sent", format_size(source.blob.size))),
    }
    Ok(outcome)
}
