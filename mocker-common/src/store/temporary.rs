//! `tmp/`: what is being made or taken away. Each directory there has an owner; one without is swept.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Store;
use crate::error::{Error, failed};
use crate::lock::Lock;
use crate::state::{Process, ensure_private_dir};

/// A directory in `tmp/`, removed when dropped.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    /// Its owner's, as long as that lives: a process number means nothing in another PID namespace.
    _lock: Lock,
}

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap_or_default(); // what stays is swept later
    }
}

impl Store {
    /// A fresh directory for something that is being made, removed when dropped. Its name carries its owner, so that
    /// [`Store::sweep`] finds what a killed process left.
    pub fn temporary(&self) -> Result<Temporary, Error> {
        let owner = Process::this()?;
        let parent = self.root.join("tmp");
        ensure_private_dir(&parent)?;
        for number in 0u32.. {
            let path = parent.join(format!("{}.{}.{number}", owner.pid, owner.start));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("make directory", path.display())(error)),
            }
            // Somebody may have swept it before it was locked.
            match Lock::try_directory(&path) {
                Ok(Some(lock)) if lock.is_of(&path) => return Ok(Temporary { path, _lock: lock }),
                Err(error) if error.errno != libc::ENOENT => return Err(error),
                _ => continue,
            }
        }
        Err(Error::new("cannot find a free name for a temporary directory"))
    }

    /// Removes what is being made by nobody any more: temporary directories whose owner is gone, and files that were
    /// never renamed into place. Returns how many.
    pub fn sweep(&self) -> Result<usize, Error> {
        let mut removed = self.sweep_files()? + self.sweep_partial()?;
        for path in self.temporaries() {
            match abandoned(&path)? {
                Some(_lock) => match fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(failed("remove", path.display())(error));
                    }
                    _ => removed += 1,
                },
                None => continue,
            }
        }
        Ok(removed)
    }

    /// Files that were written to be renamed: `.NAME.PID.new`, and the index's copy to be, `tmp/index.PID`.
    fn sweep_files(&self) -> Result<usize, Error> {
        let _lock = self.lock("index")?; // who writes the index holds it
        let mut removed = 0;
        for directory in ["", "image", "tmp"].map(|part| self.root.join(part)) {
            for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if writer_of(&path).is_some_and(|pid| Process::of(pid).is_none()) {
                    fs::remove_file(&path).map_err(failed("remove", path.display()))?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Parts of blobs that no pull is going on with.
    fn sweep_partial(&self) -> Result<usize, Error> {
        let mut removed = 0;
        for entry in fs::read_dir(self.root.join("partial")).into_iter().flatten().flatten() {
            if let Some(_lock) = self.try_lock(&entry.file_name().to_string_lossy())? {
                fs::remove_file(entry.path()).map_err(failed("remove", entry.path().display()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// The temporary directories that the next [`Store::sweep`] removes.
    pub fn abandoned(&self) -> HashSet<PathBuf> {
        let temporaries = self.temporaries().into_iter();
        temporaries.filter(|path| abandoned(path).is_ok_and(|lock| lock.is_some())).collect()
    }

    /// The directories in `tmp/` that carry an owner's name.
    pub(super) fn temporaries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| owner_of(path).is_some()).collect()
    }
}

/// The lock on a temporary directory whose owner is gone; None if it lives.
pub(super) fn abandoned(path: &Path) -> Result<Option<Lock>, Error> {
    if owner_of(path).is_some_and(|owner| owner.is_alive()) {
        return Ok(None); // an older mocker locks nothing
    }
    match Lock::try_directory(path) {
        Err(error) if error.errno == libc::ENOENT => Ok(None), // its owner has just removed it
        outcome => outcome,
    }
}

fn writer_of(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    let hidden =
        name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")).and_then(|name| name.rsplit_once('.'));
    hidden.map(|(_, pid)| pid).or(name.strip_prefix("index."))?.parse().ok()
}

fn owner_of(path: &Path) -> Option<Process> {
    let name = path.file_name()?.to_str()?;
    let mut parts = name.split('.').map(str::parse::<u64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(pid)), Some(Ok(start))) => Some(Process { pid: i32::try_from(pid).ok()?, start }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeping_leaves_what_a_living_process_is_making() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        store.ensure().unwrap();
        let alive = store.temporary().unwrap();
        fs::create_dir(scratch.path().join("tmp/999999999.1.0")).unwrap();
        for half_written in ["image/.index.json.999999999.new", ".version.999999999.new", "tmp/index.999999999"] {
            fs::write(scratch.path().join(half_written), "").unwrap();
        }
        assert_eq!(store.sweep().unwrap(), 4);
        assert!(alive.path().is_dir() && store.index().is_file());
    }

    #[test]
    fn an_owner_in_another_pid_namespace_is_known_by_its_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        store.ensure().unwrap();
        let foreign = scratch.path().join("tmp/999999999.1.0");
        fs::create_dir(&foreign).unwrap();
        let held = Lock::try_directory(&foreign).unwrap().unwrap();
        assert_eq!(store.sweep().unwrap(), 0);
        drop(held);
        assert_eq!(store.sweep().unwrap(), 1);
    }
}
