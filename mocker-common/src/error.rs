//! One error for all tools: what failed, on what, why that step exists, what usually causes it, what to try.
//!
//! It is plain data, so that code inside a half-made container, which has no terminal any more, can send it home
//! over a pipe and the parent can print it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit status of a tool that failed.
pub const FAILED: u8 = 1;
/// Exit status of a command line that makes no sense.
pub const USAGE: u8 = 2;
/// mocker itself failed before the container's program could run (as docker run).
pub const MOCKER_FAILED: u8 = 125;
/// The program was found in the container but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such program in the container.
pub const NOT_FOUND: u8 = 127;

/// A failure that a person can act on. Printed, it is one line that stands alone and up to six rows of help.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// Verb, object and cause, lower case, no full stop: `cannot read /x: No such file or directory (ENOENT)`.
    pub what: String,
    /// The call with its real arguments, as strace prints it.
    pub call: String,
    /// Why the step exists: what would go wrong without it.
    pub why: String,
    /// What the kernel (or nft, or a registry) said itself.
    pub said: Vec<String>,
    /// What usually causes this.
    pub likely: String,
    /// What to do about it: best a command to paste.
    pub hint: String,
    /// Failures of the clean-up that followed.
    pub also: Vec<String>,
    /// Raw errno, 0 where there is none.
    pub errno: i32,
    /// The exit status this failure calls for; 0 means [`FAILED`].
    pub status: u8,
    /// Somebody else has told the user already: print nothing.
    pub quiet: bool,
}

impl Error {
    /// A failure in words. `what` is `cannot VERB OBJECT: CAUSE`.
    pub fn new(what: impl Into<String>) -> Self {
        Error { what: what.into(), ..Error::default() }
    }

    /// The stage before us failed and has said why; only the exit status is ours to give.
    pub fn already_said() -> Self {
        Error { quiet: true, ..Error::new("the stage before failed") }
    }

    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub fn likely(mut self, likely: impl Into<String>) -> Self {
        self.likely = likely.into();
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub fn said(mut self, line: impl Into<String>) -> Self {
        self.said.push(line.into());
        self
    }

    pub fn status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The exit status, never 0.
    pub fn exit_status(&self) -> u8 {
        if self.status == 0 { FAILED } else { self.status }
    }

    /// Puts what was being done in front of a cause: `cannot list images: cannot read …`.
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Self {
        self.what = format!("{doing}: {}", self.what);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut row = |label: &str, text: &str| {
            let mut lines = text.lines();
            if let Some(first) = lines.next() {
                write!(f, "\n  {label:<7} {first}")?;
            }
            lines.try_for_each(|line| write!(f, "\n          {line}"))
        };
        row("call", &self.call)?;
        row("why", &self.why)?;
        row("said", &self.said.join("\n"))?;
        row("likely", &self.likely)?;
        row("try", &self.hint)?;
        row("also", &self.also.join("\n"))
    }
}

impl std::error::Error for Error {}

/// `Invalid argument (EINVAL)`: the words for people, the name for searching.
pub fn errno_text(errno: i32) -> String {
    let known = nix::errno::Errno::from_raw(errno);
    format!("{} ({known:?})", known.desc())
}

/// Gives an I/O error its verb and object: `read(path).map_err(failed("read", &path))`.
pub fn failed<O: fmt::Display>(verb: &str, object: O) -> impl FnOnce(std::io::Error) -> Error {
    move |cause| {
        let errno = cause.raw_os_error().unwrap_or(0);
        let text = if errno == 0 { cause.to_string() } else { errno_text(errno) };
        let mut error = Error { errno, ..Error::new(format!("cannot {verb} {object}: {text}")) };
        match errno {
            libc::ENOSPC | libc::EDQUOT => {
                error.likely = "the disk (or the quota) is full".into();
                error.hint = "df -h; df -i   (mocker-images prune frees what no image holds)".into();
            }
            libc::EACCES | libc::EPERM => {
                error.hint = "run it as root, or give MOCKER_ROOT a directory of your own".into()
            }
            libc::EROFS => error.likely = "the file system is mounted read-only".into(),
            libc::EMFILE => error.hint = "ulimit -n   (the number of open files is at its limit)".into(),
            _ => {}
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_stands_alone_and_rows_are_aligned() {
        let error = Error::new("cannot read /x: gone").why("it is needed").hint("ls /x\nls /");
        assert_eq!(error.to_string(), "cannot read /x: gone\n  why     it is needed\n  try     ls /x\n          ls /");
    }

    #[test]
    fn an_io_error_keeps_its_errno_and_names_its_object() {
        let error = failed("read", "/x")(std::io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.what, "cannot read /x: No such file or directory (ENOENT)");
        assert_eq!(error.errno, libc::ENOENT);
    }
}
