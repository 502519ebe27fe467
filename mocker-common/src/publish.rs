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

/// Puts a thing in another one's place: at no moment is there nothing under the name.
pub struct Exchange<'a> {
    pub from: &'a Path,
    pub to: &'a Path,
}

impl fmt::Display for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "renameat2(\"{}\", \"{}\", RENAME_EXCHANGE)", self.from.display(), self.to.display())
    }
}

impl Explained for Exchange<'_> {
    fn aim(&self) -> String {
        format!("replace {} in the store", self.to.display())
    }
    fn source(&self) -> &'static str {
        "renameat2(2)"
    }
    fn by_hand(&self) -> String {
        format!("mv --exchange --no-copy {} {}", self.from.display(), self.to.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EINVAL => diagnosis(
                "the store's file system cannot exchange two names",
                "mocker-images rm IMAGE; mocker-pull IMAGE",
            ),
            libc::EXDEV => {
                diagnosis("a part of the store is mounted from elsewhere", "findmnt --submounts /var/lib/mocker")
            }
            _ => of_the_disk(errno),
        }
    }
}

impl KernelCall for Exchange<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, self.from, CWD, self.to, RenameFlags::EXCHANGE)?)
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

/// Puts a layer's notes beside its place.
pub fn notes(from: &Path, to: &Path) -> Result<(), Error> {
    step(Rename { from, to }).because("the notes must be there before the layer is: an image with both is complete")
}

/// Puts a layer where images look for it, its notes before it.
pub fn layer(notes: (&Path, &Path), directory: (&Path, &Path)) -> Result<(), Error> {
    self::notes(notes.0, notes.1)?;
    step(Rename { from: directory.0, to: directory.1 })
        .because("from this moment other pulls find the layer and do not fetch it again")
}

/// Puts a sound directory in a damaged one's place, which is then at `from`; or where there is none.
pub fn replacement(from: &Path, to: &Path) -> Result<(), Error> {
    if to.symlink_metadata().is_err() {
        return step(Rename { from, to })
            .because("the images that list it have missed it; it appears complete or not at all");
    }
    step(Exchange { from, to })
        .because("images list it: between removing the damaged one and naming the sound one they would lack it")
}

/// Makes renames in a directory durable, before the index names what they brought.
pub fn to_disk_by_name(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(failed("bring to disk", directory.display()))
}
