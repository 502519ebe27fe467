//! `rm` and `prune`: taking images from the list, and from the disk what nothing needs any more.

use std::fs;

use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::state::{self, Directories};
use mocker_common::store::Store;
use mocker_common::units::format_size;

use crate::contents::{self, Needed};
use crate::{TOOL, get, mount};

/// Unlists images and frees what was theirs alone. Running containers keep the layers they stand on until they end.
pub fn remove(store: &Store, references: &[Reference]) -> Result<(), Error> {
    // All are there, or nothing is done: half a command is hard to repeat.
    let entries = references.iter().map(|reference| get::find(store, reference)).collect::<Result<Vec<_>, Error>>()?;
    let _lock = store.lock_contents()?;
    for entry in entries {
        store.unlist_image(&entry.reference)?;
        eprintln!("{TOOL}: removed {}", entry.reference);
    }
    sweep(store)
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
    let _lock = store.lock_contents()?;
    sweep(store)
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

/// Frees what no image lists and no container uses. Needs the contents' lock.
fn sweep(store: &Store) -> Result<(), Error> {
    let needed = Needed::find(store)?;
    let root = store.root();
    let mut freed = 0;
    let directories: &[&str] = match needed.has_all_layers() {
        true => &["image/blobs/sha256"],
        false => &["image/blobs/sha256", "fixups/sha256", "layers/sha256"],
    };
    for directory in directories {
        freed += contents::sweep(&root.join(directory), &needed)?;
    }
    if freed > 0 {
        eprintln!("{TOOL}: freed {}", format_size(freed));
    }
    Ok(())
}
