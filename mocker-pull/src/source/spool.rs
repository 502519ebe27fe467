//! An archive that comes through a pipe, or compressed, becomes a file: its parts are wanted in another order than they
//! come in (`docker save` writes the manifest last).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::store::Store;
use mocker_common::unpack::compression::{self, Compression, MAGIC};

/// Opens an archive so that it can be read at any place. `-` is standard input.
pub fn open(store: &Store, path: &Path, name: &str) -> Result<File, Error> {
    let mut file = match path.as_os_str() == "-" {
        true => File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed("read", name))?),
        false => File::open(path).map_err(failed("open", path.display()))?,
    };
    let metadata = file.metadata().map_err(failed("read", name))?;
    if metadata.is_dir() {
        return Err(Error::new(format!("cannot read {name} as an archive: it is a directory"))
            .hint(format!("oci:{}, if it is an image layout", path.display())));
    }
    // A file can be used as it is, if it is not compressed and nobody has read some of it already.
    if metadata.is_file() && file.stream_position().is_ok_and(|at| at == 0) {
        let mut first = Vec::new();
        file.by_ref().take(MAGIC as u64).read_to_end(&mut first).map_err(failed("read", name))?;
        file.rewind().map_err(failed("read", name))?;
        if compression::of(&first) == Compression::None {
            return Ok(file);
        }
    }
    spool(store, file, name)
}

fn spool(store: &Store, from: File, name: &str) -> Result<File, Error> {
    let place = store.temporary()?;
    let path = place.path().join("archive");
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = file.map_err(failed("make", path.display()))?;

    let mut input = BufReader::with_capacity(256 << 10, from);
    let compression = compression::of(input.fill_buf().map_err(failed("read", name))?);
    let mut tar = compression::reader(compression, input).map_err(failed("read", name))?;
    let copied = io::copy(&mut tar, &mut file).map_err(failed("copy", format!("{name} to {}", path.display())))?;
    if copied == 0 {
        return Err(Error::new(format!("cannot read {name}: it is empty")).likely("the command before it has failed"));
    }
    Ok(file) // its name goes with the directory, now; the file stays as long as it is open
}
