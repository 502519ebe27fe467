//! One layer: what of it is missing is brought into the store, by whoever is the first to want it.

mod blob;
pub mod pass;

use std::collections::HashMap;
use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mocker_common::digest::DiffId;
use mocker_common::error::{Error, failed};
use mocker_common::lock::Lock;
use mocker_common::publish;
use mocker_common::store::{Claim, Store, Temporary};
use mocker_common::unpack::Limits;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use self::blob::Blob;
use self::pass::{Pass, Wanted, joined};
use crate::manifest::Layer;
use crate::progress::{Bar, Progress};
use crate::source::Source;

/// What the layers of all images of one command share.
pub struct Work {
    pub store: Store,
    pub progress: Arc<Progress>,
    pub limits: Limits,
    /// all that these images rely on: nothing of it is pruned until the last document is written
    pub claim: Claim,
    /// how many layers are worked on at once
    slots: Semaphore,
    /// those that are being fetched, or were: images share layers
    underway: std::sync::Mutex<HashMap<DiffId, Arc<Mutex<()>>>>,
    /// when the last sync that is finished had begun; held during one
    synced: Mutex<Option<Instant>>,
}

impl Work {
    /// `jobs` layers are worked on at once. Each keeps up to two threads busy; one more than there are cores fills the gaps
    /// between them.
    pub fn new(store: Store, progress: Arc<Progress>, limits: Limits, jobs: Option<usize>) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let slots = Semaphore::new(jobs.unwrap_or(cores + 1));
        let claim = Claim::begin(&store)?;
        Ok(Work { store, progress, limits, claim, slots, underway: Default::default(), synced: Mutex::new(None) })
    }

    /// Held by whoever fetches a layer; another image that has it too waits for that, and uses up no slot.
    fn turn(&self, layer: &Layer) -> Arc<Mutex<()>> {
        let mut underway = self.underway.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        underway.entry(layer.diff_id.clone()).or_default().clone()
    }

    /// Brings to disk what was written until `ready`. What is ready while a sync runs shares the next one.
    pub async fn sync(&self, place: &Arc<Temporary>, ready: Instant) -> Result<(), Error> {
        let mut synced = self.synced.lock().await;
        if synced.is_some_and(|begun| begun >= ready) {
            return Ok(());
        }
        let begun = Instant::now();
        let place = place.clone();
        joined(spawn_blocking(move || publish::to_disk(place.path())).await)?;
        *synced = Some(begun);
        Ok(())
    }
}

/// Brings a layer and its blob into the store. What is there already is not fetched again; what another pull is just
/// fetching is waited for.
pub async fn fetch(work: &Work, source: &Source, layer: &Layer) -> Result<(), Error> {
    let store = &work.store;
    let bar = work.progress.layer(layer);
    if has_blob(store, layer) && has_files(store, layer) {
        bar.end("here already");
        return Ok(());
    }
    bar.state("waiting");
    let turn = work.turn(layer);
    let _turn = turn.lock().await;
    let slot = work.slots.acquire().await.map_err(|_| Error::new("cannot go on: the pull has ended"))?;
    let _locks = lock(store, layer, &bar).await?;

    // Whoever had the lock may have done it all.
    let (blob, files) = (has_blob(store, layer), has_files(store, layer));
    if blob && files {
        bar.end("here already");
        return Ok(());
    }
    let pass = persist(work, source, layer, Wanted { blob: !blob, files: !files }, &bar).await?;
    drop(slot);

    bar.state("to disk");
    work.sync(&pass.place, Instant::now()).await?;
    if pass.wanted.blob {
        publish::blob(&pass.blob(), &store.blob(&layer.blob.digest))?;
    }
    if pass.wanted.files {
        let place = pass.place.path();
        let notes_file = (&*place.join("notes"), &*store.layer_notes(&layer.diff_id));
        publish::layer(notes_file, (&place.join("files"), &store.layer(&layer.diff_id)))?;
    }
    match pass.wanted.blob {
        true => bar.done(layer.blob.size),
        false => bar.end("unpacked"),
    }
    Ok(())
}

/// Makes the pass over a layer, and once more from the beginning where what was here before turns out to be damaged: a
/// blob of the store, or the part of one that an earlier pull has left. And where a mirror has sent something else.
async fn persist<'a>(
    work: &'a Work,
    source: &'a Source,
    layer: &'a Layer,
    wanted: Wanted,
    bar: &Bar<'_>,
) -> Result<Pass<'a>, Error> {
    let begin = |wanted| Ok(Pass { work, source, layer, wanted, place: Arc::new(work.store.temporary()?) });
    let first: Pass<'_> = begin(wanted)?;
    let had_part = fs::metadata(first.blob()).is_ok_and(|part| part.len() > 0);
    let Err(error) = first.run(bar).await else { return Ok(first) };

    let forged = wanted.blob && source.distrust(&layer.blob.digest, &error);
    let is_lost = match wanted.blob {
        _ if forged => true,
        true => had_part && !first.blob().exists(), // a part is kept as long as it may be good
        false => !is_sound(&work.store, layer).await?,
    };
    if !is_lost {
        return Err(error);
    }
    if !forged {
        work.progress.say(&format!("layer {} is damaged in the store; fetching it again", layer.blob.digest.short()));
    }
    let second = begin(Wanted { blob: true, ..wanted })?;
    second.run(bar).await?;
    Ok(second)
}

fn has_blob(store: &Store, layer: &Layer) -> bool {
    fs::metadata(store.blob(&layer.blob.digest)).is_ok_and(|blob| blob.len() == layer.blob.size)
}

fn has_files(store: &Store, layer: &Layer) -> bool {
    store.layer(&layer.diff_id).is_dir() && store.layer_notes(&layer.diff_id).is_file()
}

/// Takes the locks of the blob and of the files, which are one and the same where a layer is not compressed. All take
/// them in the order of their names, so nobody waits in a circle.
pub(crate) async fn lock(store: &Store, layer: &Layer, bar: &Bar<'_>) -> Result<Vec<Lock>, Error> {
    let mut names = [layer.blob.digest.hex(), layer.diff_id.0.hex()];
    names.sort();
    let distinct = if names[0] == names[1] { &names[..1] } else { &names[..] };
    let mut locks = Vec::new();
    for name in distinct {
        // Asked for again and again rather than waited for: a wait inside the kernel could not be interrupted.
        loop {
            match store.try_lock(name)? {
                Some(lock) => break locks.push(lock),
                None => bar.state("another pull is at it"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(locks)
}

/// Whether the blob in the store still has its digest.
async fn is_sound(store: &Store, layer: &Layer) -> Result<bool, Error> {
    let (path, expected) = (store.blob(&layer.blob.digest), layer.blob.digest.clone());
    let hashed = spawn_blocking(move || {
        let file = File::open(&path).map_err(failed("open", path.display()))?;
        let mut blob = Blob::new(blob::Source::File(file, Arc::default()), None);
        blob.drain().map_err(failed("read", path.display()))?;
        Ok(blob.digest() == expected)
    });
    joined(hashed.await)
}
