//! What mocker itself has left in the container's layer: places to mount on that the image does not have.
//!
//! Docker makes these in a layer of their own, below the container's, and commits none of them; so neither do we. Only
//! what is empty, and new, counts: an image's own /etc/hosts is not touched, nor a file that the container has filled.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::below;

const PLACES: [&[u8]; 6] = [b"dev", b"proc", b"sys", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"];

/// The paths of the upper directory that are not the container's doing.
pub fn find(upper: &Path, lower: &[PathBuf]) -> Result<BTreeSet<Vec<u8>>, Error> {
    let mut found = BTreeSet::new();
    for place in PLACES {
        if is_empty(upper, place)? && below::look(lower, place)?.is_none() {
            found.insert(place.to_vec());
        }
    }
    // /etc with nothing else in it was copied up, or made, for their sake.
    let only_places = |names: Vec<Vec<u8>>| {
        !names.is_empty() && names.iter().all(|name| found.contains(&[&b"etc/"[..], name].concat()))
    };
    if let Ok(etc) = below::open_directory(upper, b"etc")
        && only_places(names(etc.as_fd()).map_err(|errno| failed("read", upper.display())(errno.into()))?)
        && let Ok(now) = rustix::fs::fstat(&etc)
    {
        let kept = |below: Stat| (below.st_mode, below.st_uid, below.st_gid) == (now.st_mode, now.st_uid, now.st_gid);
        if below::look(lower, b"etc")?.is_none_or(kept) {
            found.insert(b"etc".to_vec());
        }
    }
    Ok(found)
}

/// The names in a directory, sorted by their bytes.
pub fn names(directory: std::os::fd::BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether an empty file or an empty directory stands there.
fn is_empty(upper: &Path, path: &[u8]) -> Result<bool, Error> {
    let wrong = |errno: Errno| failed("look into", upper.display())(errno.into());
    let (parent, name) = path
        .iter()
        .position(|byte| *byte == b'/')
        .map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
    let Ok(directory) = below::open_directory(upper, parent) else { return Ok(false) };
    let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        stat => stat.map_err(wrong)?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat.st_size == 0),
        FileType::Directory => {
            let inside = below::open_directory(upper, path).map_err(wrong)?;
            Ok(names(inside.as_fd()).map_err(wrong)?.is_empty())
        }
        _ => Ok(false),
    }
}
