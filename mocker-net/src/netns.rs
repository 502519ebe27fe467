//! The network namespace, and its name.
//!
//! A namespace lives as long as a process, a descriptor or a mount holds it. Ours is held by a mount: its file of /proc
//! on /run/netns/ID, which is where `ip netns` looks. Source: ip-netns(8), network_namespaces(7).

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use mocker_common::document::ContainerId;
use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use rustix::fs::{FlockOperation, flock};

use crate::calls::{
    BindMount, EnterNamespace, MakeFile, MakeMarkedDirectory, MakeShared, Mark, Netlink, OpenNetlink, RemoveDirectory,
    RemoveFile, Unmount, UnshareNetwork, marks,
};

const DIRECTORY: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// A namespace that was made, and a netlink socket inside it.
pub struct Namespace {
    file: File,
    pub net: Netlink,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where the namespace of a container is, or would be.
pub fn path(id: &ContainerId) -> PathBuf {
    Path::new(DIRECTORY).join(id.as_str())
}

/// Makes a namespace and names it. The thread is where it was, afterwards.
///
/// Between unshare and setns nothing may wait: another task of the runtime would run in the wrong network.
pub fn create(id: &ContainerId) -> Result<Namespace, Error> {
    let path = path(id);
    {
        let _lock = ensure_directory()?;
        step(MakeFile { path: &path })
            .because("a mount needs something to be attached to, and O_EXCL refuses a name that is taken")?;
    }
    let host = File::open(OWN).map_err(failed("open", OWN))?;
    step(UnshareNetwork)
        .because("in the host's the container would see all its traffic and could take any of its ports")?;
    let made = name_and_open(&path);
    step(EnterNamespace { namespace: host.as_fd(), whose: "the host" })
        .because("the bridge, the rules and everything after this belong to the host; only the socket stays inside")?;
    made
}

fn name_and_open(path: &Path) -> Result<Namespace, Error> {
    step(BindMount { from: Path::new(OWN), onto: path })
        .because("without a process in it the namespace would vanish; the mount keeps it, and gives it a name")?;
    let net =
        step(OpenNetlink).because("a socket stays in the namespace it was opened in: through it eth0 is set up")?;
    let file = File::open(path).map_err(failed("open", path.display()))?;
    Ok(Namespace { file, net })
}

/// Takes name and mount away; the namespace goes with its last process. Succeeds if there is none.
pub fn delete(path: &Path) -> Result<(), Error> {
    if path.symlink_metadata().is_err() {
        return remove_directory();
    }
    while step(Unmount { path }).because(
        "the mount keeps the namespace alive; detached, it goes even while another mount namespace has a copy",
    )? {}
    step(RemoveFile { path }).because("ip netns lists every file there is")?;
    remove_directory()
}

/// Makes /run/netns as `ip netns add` does, if nobody has: a shared mount. Returns it locked.
fn ensure_directory() -> Result<File, Error> {
    let path = Path::new(DIRECTORY);
    loop {
        if !path.is_dir() {
            step(MakeMarkedDirectory { path }).because(
                "ip looks for namespaces there; the attribute tells the last container to take it away again",
            )?;
        }
        let Some(lock) = lock_directory()? else { continue };
        let share = || {
            step(MakeShared { path })
                .because("a name made here must appear in mount namespaces that exist already, and disappear from them")
        };
        if !share()? {
            Mark::Mount.set(path).unwrap_or_default(); // without the mark the mount stays, as ip's would
            step(BindMount { from: path, onto: path })
                .because("only a mount point can be shared, and a plain directory is none")?;
            share()?;
        }
        return Ok(lock);
    }
}

/// The lock that ip takes too (since 6.1). None if the directory was replaced meanwhile.
fn lock_directory() -> Result<Option<File>, Error> {
    use std::os::unix::fs::MetadataExt;
    let file = match File::open(DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(failed("open", DIRECTORY))?,
    };
    let lock = || loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map_err(std::io::Error::from),
        }
    };
    lock().map_err(failed("lock", DIRECTORY))?;
    let same = |now: fs::Metadata| file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()));
    Ok(fs::metadata(DIRECTORY).is_ok_and(same).then_some(file))
}

/// Puts /run/netns back as it was, when it is empty: unmounts what we have mounted, removes what we have made.
pub fn remove_directory() -> Result<(), Error> {
    let path = Path::new(DIRECTORY);
    RemoveDirectory { path: &MakeMarkedDirectory { path }.scratch() }.remove_quietly();
    let Some(_lock) = lock_directory()? else { return Ok(()) };
    let marks = marks(path);
    let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if marks.is_empty() || !empty {
        return Ok(());
    }
    if marks.contains(&Mark::Mount) {
        step(Unmount { path }).because("the first container of mocker-net mounted it, and the last one is gone")?;
        Mark::Mount.clear(path);
    }
    if marks.contains(&Mark::Directory) {
        step(RemoveDirectory { path })
            .because("the first container of mocker-net made it, and the last one is gone")?;
    }
    Ok(())
}
