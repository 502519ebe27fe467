//! Making what is complete visible, in an order that survives a power cut.
//!
//! Written data may stay in memory for half a minute, while a rename is on disk at once: after a cut a layer could be
//! there, full of empty files. So everything is forced to disk first, and what others look for is renamed last.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, failed};
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis, step};

/// Forces a whole file system to disk, the data of files that no descriptor is open for included.
pub struct SyncFs<'a>(pub &'a Path);

impl fmt::Display for SyncFs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "syncfs(\"{}\")", self.0.display())
    }
}

impl Explained for SyncFs<'_> {
    fn aim(&self) -> String {
        format!("bring {} to disk", self.0.display())
    }
    fn source(&self) -> &'static str {
        "syncfs(2)"
    }
    fn by_hand(&self) -> String {
        format!("sync --file-system {}", self.0.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for SyncFs<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let file = File::open(self.0)?;
        Ok(rustix::fs::syncfs(file.as_fd())?)
    }
}

/// Gives a complete thing the name under which others look for it.
pub struct Rename<'a> {
    pub from: &'a Path,
    pub to: &'a Path,
}

impl fmt::Display for Rename<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rename(\"{}\", \"{}\")", self.from.display(), self.to.display())
    }
}

impl Explained for Rename<'_> {
    fn aim(&self) -> String {
        format!("put {} into the store", self.to.display())
    }
    fn source(&self) -> &'static str {
        "rename(2)"
    }
    fn by_hand(&self) -> String {
        format!("mv --no-target-directory {} {}", self.from.display(), self.to.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EXDEV => {
                diagnosis("a part of the store is mounted from elsewhere", "findmnt --submounts /var/lib/mocker")
            }
            libc::ENOTEMPTY | libc::EEXIST => {
                diagnosis("another program has put something there", "mocker-images verify; mocker-images prune")
            }
            _ => of_the_disk(errno),
        }
    }
}

impl KernelCall for Rename<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(std::fs::rename(self.from, self.to)?)
    }
}

fn of_the_disk(errno: i32) -> Diagnosis {
    match errno {
        libc::ENOSPC | libc::EDQUOT => diagnosis(
            "the disk (or the quota) is full",
            "df -h; df -i   (mocker-images prune frees what no image holds)",
        ),
        libc::EIO => diagnosis("the disk is failing", "dmesg | tail"),
        _ => Diagnosis::default(),
    }
}

/// Brings a finished layer to disk before anybody can see it.
pub fn to_disk(place: &Path) -> Result<(), Error> {
    step(SyncFs(place))
        .because("a rename outlives a power cut before the data does: the layer would be full of empty files")
}

/// Puts a blob where the image layout has it.
pub fn blob(from: &Path, to: &Path) -> Result<(), Error> {
    step(Rename { from, to })
        .because("under its digest a blob appears complete or not at all; a reader never sees half of it")
}

/// Puts a layer where images look for it, its notes before it.
pub fn layer(notes: (&Path, &Path), directory: (&Path, &Path)) -> Result<(), Error> {
    step(Rename { from: notes.0, to: notes.1 })
        .because("the notes must be there before the layer is: an image with both is complete")?;
    step(Rename { from: directory.0, to: directory.1 })
        .because("from this moment other pulls find the layer and do not fetch it again")
}

/// Makes renames in a directory durable, before the index names what they brought.
pub fn to_disk_by_name(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(failed("bring to disk", directory.display()))
}
