//! Locks between processes: `flock` on a file beside the thing, never unlinked while others may wait for it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, errno_text, failed};

/// A held lock; dropping it (or the process's end) lets go. The descriptor is close-on-exec: a container must not
/// inherit the lock and hold it for life.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits until nobody else holds the lock.
    pub fn exclusive(path: &Path) -> Result<Lock, Error> {
        Lock::take(path, FlockOperation::LockExclusive)
    }

    /// Waits until nobody holds the lock exclusively.
    pub fn shared(path: &Path) -> Result<Lock, Error> {
        Lock::take(path, FlockOperation::LockShared)
    }

    /// The lock if it is free, None if somebody else holds it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Lock>, Error> {
        Lock::attempt(path, open(path)?)
    }

    /// The lock if it is free within this time. Asked for again and again: a wait inside the kernel has no end.
    pub fn exclusive_within(path: &Path, patience: Duration) -> Result<Option<Lock>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            match Lock::try_exclusive(path)? {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                outcome => return Ok(outcome),
            }
        }
    }

    /// The lock on a directory itself, if it is free: it needs no file beside it, and goes when the directory goes.
    pub fn try_directory(path: &Path) -> Result<Option<Lock>, Error> {
        Lock::attempt(path, File::open(path).map_err(failed("open", path.display()))?)
    }

    fn attempt(path: &Path, file: File) -> Result<Option<Lock>, Error> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(refused(path, errno)),
        }
    }

    /// Whether the path still names what was locked: it may have been removed between open and flock.
    pub fn is_of(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(held) = self.0.metadata() else { return false };
        std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()))
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Lock, Error> {
        let file = open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(refused(path, errno)),
            }
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(failed("open lock", path.display()))
}

fn refused(path: &Path, errno: rustix::io::Errno) -> Error {
    Error::new(format!("cannot lock {}: {}", path.display(), errno_text(errno.raw_os_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let held = Lock::exclusive(&path).unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }
}
