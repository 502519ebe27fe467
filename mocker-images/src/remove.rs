//! `rm` and `prune`: taking images from the list, and from the disk what nothing needs any more.
//!
//! A name goes from the list at once. What was behind it is freed under the contents' lock, which every tool holds for
//! moments only: pulls and checks, which take long, say in a claim what they rely on and hold no lock. So neither waits
//! for the other, and if some tool does hold the lock for seconds, the next `prune` frees what this one could not.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;

use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::state::{self, Directories};
use mocker_common::store::Store;
use mocker_common::units::format_size;

use crate::contents::{self, Kept, Needed};
use crate::{TOOL, get, mount};

/// Unlists images and frees what was theirs alone. Running containers keep the layers they stand on until they end.
pub fn remove(store: &Store, references: &[Reference]) -> Result<(), Error> {
    // All are there, or nothing is done: half a command is hard to repeat.
    let entries = references.iter().map(|reference| get::find(store, reference)).collect::<Result<Vec<_>, Error>>()?;
    let names: Vec<String> = entries.iter().map(|entry| entry.reference.clone()).collect();
    let paths = entries.into_iter().filter_map(|entry| contents::paths_of(store, entry.descriptor).ok()).flatten();
    let theirs: HashSet<PathBuf> = paths.collect();
    if let Some(absent) = store.unlist_images(&names)? {
        return Err(Error::new(format!("no image {absent} here; somebody else has just removed it")));
    }
    for name in &names {
        eprintln!("{TOOL}: removed {name}");
    }
    // The images are gone from the list: what cannot be freed now is no failure of this command.
    if let Err(error) = free(store, Some(&theirs)) {
        eprintln!("{TOOL}: nothing is freed: {error}");
    }
    Ok(())
}

/// Removes what killed processes and removed images left behind.
pub fn prune(store: &Store) -> Result<(), Error> {
    stage::prune(TOOL, |id| mount::delete(store, id))?;
    if !store.root().exists() {
        return Ok(());
    }
    let temporaries = store.sweep()?;
    if temporaries > 0 {
        eprintln!("{TOOL}: removed {temporaries} half-made things whose maker is gone");
    }
    prune_containers(store)?;
    free(store, None)
}

/// Directories of containers that no tool has a record of: what a reboot or a lost state directory left.
fn prune_containers(store: &Store) -> Result<(), Error> {
    let known = state::known_ids(&Directories::from_env());
    for entry in fs::read_dir(store.containers()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(id) = name.parse()
            && !known.contains(&name)
        {
            mount::delete(store, &id)?;
            eprintln!("{TOOL}: removed what container {id} had written");
        }
    }
    Ok(())
}

/// Frees what no image lists, no container stands on and no running pull claims. Tells what, and why what was `asked`
/// for stays.
fn free(store: &Store, asked: Option<&HashSet<PathBuf>>) -> Result<(), Error> {
    let Some(lock) = store.lock_contents()? else {
        eprintln!("{TOOL}: freed later: another tool is at work in the store; mocker-images prune does it then");
        return Ok(());
    };
    let needed = Needed::find(store)?;
    if let Some(user) = needed.in_use().unknown().first() {
        eprintln!("{TOOL}: keeping all layers: the overlay of {user} does not say which are its own");
    }
    let away = store.temporary()?;
    let mut counts = [0; 3];
    let parts = ["image/blobs/sha256", "fixups/sha256", "layers/sha256"];
    let place = |part: &str| away.path().join(part.replace('/', "-"));
    for (count, part) in counts.iter_mut().zip(parts) {
        state::ensure_private_dir(&place(part))?;
        *count = contents::take_out(&store.root().join(part), &place(part), |path| needed.why(path).is_some())?;
    }
    drop(lock); // what is out of the way can be removed at leisure

    let freed: u64 = parts.iter().map(|part| contents::size(&place(part))).sum();
    let [blobs, _, layers] = counts;
    match asked {
        _ if freed > 0 => eprintln!("{TOOL}: freed {}: {}", format_size(freed), counted(blobs, layers / 2)),
        Some(_) => eprintln!("{TOOL}: freed nothing: all of it is needed still"),
        None => {}
    }
    tell_what_stays(&needed, asked);
    drop(away);
    Ok(())
}

fn counted(blobs: usize, layers: usize) -> String {
    let of = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", of(layers, "layer"), of(blobs, "blob"))
}

/// Why something of the removed images stays though no image lists it.
fn tell_what_stays(needed: &Needed, asked: Option<&HashSet<PathBuf>>) {
    let asked = || asked.into_iter().flatten().filter(|path| path.exists());
    let users: BTreeSet<String> = asked()
        .filter(|path| needed.why(path) == Some(Kept::InUse))
        .flat_map(|path| needed.in_use().users(path))
        .collect();
    if !users.is_empty() {
        let users: Vec<String> = users.into_iter().collect();
        eprintln!(
            "{TOOL}: kept what containers stand on: {}; mocker-images prune frees it once they have ended",
            users.join(", ")
        );
    }
    if asked().any(|path| needed.why(path) == Some(Kept::Claimed)) {
        eprintln!("{TOOL}: kept what a running pull or check relies on; mocker-images prune frees what it leaves");
    }
}
