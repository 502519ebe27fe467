//! What the image below has at a path, as the overlay would show it.

use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

/// Looks a path up in the layers, top first. None where they have nothing there, or have removed it.
///
/// A directory that a layer began anew is not told from a merged one, so now and then something is found that cannot
/// be seen any more.
pub fn look(lower: &[PathBuf], path: &[u8]) -> Result<Option<Stat>, Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for layer in lower {
        let wrong = |errno: Errno| failed("look into", layer.display())(errno.into());
        let root = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        // By name alone, as overlayfs joins directories: a link on the way is an end, not a way.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(root.map_err(wrong)?, path, flags, Mode::empty(), resolve) {
            Ok(found) => {
                let stat = fstat(found).map_err(wrong)?;
                return Ok((!is_whiteout(&stat)).then_some(stat));
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(wrong(errno)),
        }
    }
    Ok(None)
}

/// Whether overlayfs takes it for "removed": a character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A directory of the upper layer by its path; links are not followed.
pub fn open_directory(root: &Path, path: &[u8]) -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    match path {
        b"" => Ok(root),
        _ => openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS),
    }
}
