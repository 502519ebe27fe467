//! A file that has no name while it is written: it appears complete, or not at all, and a killed writer leaves nothing.
//!
//! Where the file system has no O_TMPFILE (NFS) the file has a name of its own meanwhile, which a failure removes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use mocker_common::publish::Rename;
use mocker_common::step::{Cause, Explained, KernelCall, step};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// What is being written, on the file system on which it will stand.
pub struct Draft {
    file: File,
    /// beside its target, `.mocker-PID.new`
    temporary: PathBuf,
    target: PathBuf,
    named: bool,
}

impl Draft {
    pub fn begin(target: &Path) -> Result<Self, Error> {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = directory.join(format!(".mocker-{}.new", std::process::id()));
        let unnamed = step(OpenUnnamed { directory })
            .because("whoever looks into the directory meanwhile, or after a crash, must not find half a file");
        let (file, named) = match unnamed {
            Ok(file) => (file, false),
            Err(error) if matches!(error.errno, libc::EOPNOTSUPP | libc::EISDIR) => {
                (File::create(&temporary).map_err(failed("write", temporary.display()))?, true)
            }
            Err(error) => return Err(error),
        };
        Ok(Draft { file, temporary, target: target.into(), named })
    }

    /// Gives the file its name, in place of what had it before. All of it is on disk by then.
    pub fn place(mut self) -> Result<(), Error> {
        let wrong = |cause| failed("write", self.target.display())(cause);
        self.file.sync_all().map_err(wrong)?;
        if !self.named {
            fs::remove_file(&self.temporary)
                .or_else(ignore_absent)
                .map_err(failed("remove", self.temporary.display()))?;
            step(LinkIn { file: self.file.as_fd(), path: &self.temporary })
                .because("it is complete; but a link replaces nothing, so its first name is not the last one")?;
            self.named = true;
        }
        step(Rename { from: &self.temporary, to: &self.target })
            .because("a reader finds the old file or the new one, and no moment is without either")?;
        self.named = false;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.named {
            fs::remove_file(&self.temporary).unwrap_or_default();
        }
    }
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// open with O_TMPFILE: a file in no directory.
struct OpenUnnamed<'a> {
    directory: &'a Path,
}

impl fmt::Display for OpenUnnamed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open(\"{}\", O_TMPFILE|O_WRONLY|O_CLOEXEC, 0666)", self.directory.display())
    }
}

impl Explained for OpenUnnamed<'_> {
    fn aim(&self) -> String {
        format!("write in {}", self.directory.display())
    }
    fn source(&self) -> &'static str {
        "open(2), O_TMPFILE"
    }
}

impl KernelCall for OpenUnnamed<'_> {
    type Output = File;
    fn call(&self) -> Result<File, Cause> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.directory, flags, Mode::from_raw_mode(0o666))?.into())
    }
}

/// linkat of a descriptor: a first name for a file without one.
struct LinkIn<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
}

impl fmt::Display for LinkIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.file.as_raw_fd();
        let path = self.path.display();
        write!(f, "linkat(AT_FDCWD, \"/proc/self/fd/{number}\", AT_FDCWD, \"{path}\", AT_SYMLINK_FOLLOW)")
    }
}

impl Explained for LinkIn<'_> {
    fn aim(&self) -> String {
        format!("name the finished file {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "open(2), O_TMPFILE; linkat(2)"
    }
}

impl KernelCall for LinkIn<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, file, CWD, self.path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_appears_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("x");
        let names = || fs::read_dir(scratch.path()).unwrap().count();
        for text in ["first", "second"] {
            let mut draft = Draft::begin(&target).unwrap();
            draft.write_all(text.as_bytes()).unwrap();
            draft.place().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
        }
        let mut draft = Draft::begin(&target).unwrap();
        draft.write_all(b"third").unwrap();
        drop(draft);
        assert_eq!((fs::read_to_string(&target).unwrap().as_str(), names()), ("second", 1));
    }
}
