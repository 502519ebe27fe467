//! `mount`: the image's tree on the host, so that what follows is a plain bundle for any runtime.

use std::fs;
use std::path::PathBuf;

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, failed};
use mocker_common::overlay;
use mocker_common::stage::{self, StageArgs};
use mocker_common::state::{self, Directories};
use mocker_common::step::step;
use mocker_common::store::Store;
use mocker_common::undo::Undo;

use crate::TOOL;
use crate::calls::{MakeDirectory, Unmount};

/// The stage: document in, its layers mounted, document out.
pub fn mount(store: &Store, args: &StageArgs) -> Result<(), Error> {
    stage::run(TOOL, args, |document, undo| {
        let lower = layers(document)?;
        store.ensure()?;
        let id = document.ensure_id(None)?;
        let directory = store.container(&id);
        let _held = store.hold_contents()?; // until the mount can be seen, nobody could tell that its layers are in use
        let rootfs = create(store, &id, &lower, undo)?;
        document.set("/root/path", rootfs.to_string_lossy());
        for (key, name) in [("upper", "upper"), ("work", "work"), ("merged", "rootfs")] {
            document.set(&format!("/mocker/rootfs/{key}"), directory.join(name).to_string_lossy());
        }
        // Tells rm and prune which layers are in use; the document itself may go anywhere.
        state::write_atomically(&directory.join("config.json"), 0o600, &document.to_bytes())
    })
}

/// The layers of the document, top first. An image may have none; a document must say so.
fn layers(document: &Document) -> Result<Vec<PathBuf>, Error> {
    if document.get("/mocker/rootfs/lower").is_none() {
        return Err(Error::new("cannot mount: the document names no layers")
            .hint("mocker-images get IMAGE | mocker-images mount"));
    }
    if let Some(merged) = document.text("/mocker/rootfs/merged") {
        return Err(Error::new(format!("cannot mount: the document's layers are mounted already, at {merged}")));
    }
    document.view("/mocker/rootfs/lower")
}

/// Makes the container's directories and mounts `lower` and its own upper one there. Returns where.
fn create(store: &Store, id: &ContainerId, lower: &[PathBuf], undo: &mut Undo) -> Result<PathBuf, Error> {
    let directory = store.container(id);
    step(MakeDirectory { path: &directory, mode: 0o700 })
        .because("what a container writes may be secret, and setuid: other users of the machine must not reach it")?;
    undo.push(format!("the directories of {id}"), {
        let (store, id) = (store.clone(), id.clone());
        move || unmake(&store, &id)
    });

    let [upper, work, rootfs] = ["upper", "work", "rootfs"].map(|name| directory.join(name));
    step(MakeDirectory { path: &upper, mode: 0o755 })
        .because("everything the container writes lands here, and its mode and owner are those of the container's /")?;
    overlay::dress_upper(lower, &upper)?;
    step(MakeDirectory { path: &work, mode: 0o700 })
        .because("overlayfs prepares copies here and renames them into upper; both must be on one file system")?;
    step(MakeDirectory { path: &rootfs, mode: 0o755 }).because("a mount needs a directory to be attached to")?;
    let mount = overlay::mount(lower, &upper, &work)?;
    overlay::attach(mount, &rootfs)?;
    Ok(rootfs)
}

/// `delete ID…`: unmounts and removes. All are tried; the first failure is told with the others beside it.
pub fn delete_all(store: &Store, ids: &[ContainerId]) -> Result<(), Error> {
    let mut failures: Vec<Error> = ids.iter().filter_map(|id| delete(store, id).err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    let mut first = failures.remove(0);
    first.also.extend(failures.iter().map(ToString::to_string));
    Err(first)
}

/// Unmakes what `mount` made for a container. Succeeds if there is nothing; leaves alone what another tool made.
pub fn delete(store: &Store, id: &ContainerId) -> Result<(), Error> {
    let dirs = Directories::from_env();
    let ours = state::is_claimed(&dirs, id, TOOL);
    let anybodys = state::known_ids(&dirs).iter().any(|known| known == id.as_str());
    if ours || !anybodys {
        unmake(store, id)?;
    }
    state::release(&dirs, id, TOOL);
    Ok(())
}

fn unmake(store: &Store, id: &ContainerId) -> Result<(), Error> {
    let directory = store.container(id);
    if !directory.exists() {
        return Ok(());
    }
    // The second is where an older kernel's overlay stands for a moment.
    for place in ["rootfs", "mounting"].map(|name| directory.join(name)).iter().filter(|place| place.exists()) {
        step(Unmount { path: place })
            .because("while it is mounted, removing what lies below would remove it through the mount")?;
    }
    fs::remove_dir_all(&directory).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()), // another undo of the same thing was faster
        _ => Err(failed("remove", directory.display())(error)),
    })
}
