//! The kernel step: one call, its real arguments, and one sentence of why.
//!
//! A *call* is a small struct that knows itself: how strace would print it, what it is for, the shell line that does
//! the same by hand, its source, and what each errno usually means. A *step* is a call made for a reason:
//!
//! ```text
//! step(PivotRoot { new: ".", old: "." }).because("a chroot can be walked out of; here the old tree is moved aside")?;
//! ```
//!
//! From these two come `--explain`, the error message and the lesson; none of them is written a second time. A step
//! without its reason does not compile (`unused_must_use` is denied), and costs nothing above the bare call: text is
//! made only when somebody asked to have it explained, or when the call failed.

use std::fmt::Display;
use std::future::Future;

use crate::error::{Error, errno_text};
use crate::explain;

/// What a call can say about itself. `Display` prints it with its real arguments, as strace would.
pub trait Explained: Display {
    /// Verb and object for the error's first line, after "cannot": `make /srv/rootfs the container's root`.
    fn aim(&self) -> String;

    /// The man page or specification section that defines the call: `pivot_root(2)`.
    fn source(&self) -> &'static str;

    /// The shell line that does the same by hand; empty where no tool does.
    fn by_hand(&self) -> String {
        String::new()
    }

    /// What usually causes this errno of this call, and what to try.
    fn diagnose(&self, _errno: i32) -> Diagnosis {
        Diagnosis::default()
    }
}

/// A call the kernel answers at once.
pub trait KernelCall: Explained {
    type Output;
    fn call(&self) -> Result<Self::Output, Cause>;
}

/// A call whose answer is waited for: a netlink message.
pub trait AsyncKernelCall: Explained {
    type Output;
    fn call(&self) -> impl Future<Output = Result<Self::Output, Cause>>;
}

/// What usually causes a failure, and what to do about it. Either may be empty.
#[derive(Default)]
pub struct Diagnosis {
    pub likely: &'static str,
    pub hint: &'static str,
}

/// Shorthand for the tables in `diagnose`.
pub const fn diagnosis(likely: &'static str, hint: &'static str) -> Diagnosis {
    Diagnosis { likely, hint }
}

/// Why a call failed: an errno, or words where there is none, and what the kernel added.
#[derive(Debug, Default)]
pub struct Cause {
    pub errno: i32,
    pub words: String,
    pub said: Vec<String>,
}

impl Cause {
    pub fn words(words: impl Into<String>) -> Self {
        Cause { words: words.into(), ..Cause::default() }
    }

    pub fn errno(errno: i32) -> Self {
        Cause { errno, ..Cause::default() }
    }

    /// errno of the libc call that has just returned −1.
    pub fn last() -> Self {
        std::io::Error::last_os_error().into()
    }

    /// Adds a line the kernel gave beside the errno.
    pub fn said(mut self, line: impl Into<String>) -> Self {
        self.said.push(line.into());
        self
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Cause::errno(errno),
            None => Cause::words(error.to_string()),
        }
    }
}

impl From<nix::errno::Errno> for Cause {
    fn from(errno: nix::errno::Errno) -> Self {
        Cause::errno(errno as i32)
    }
}

impl From<rustix::io::Errno> for Cause {
    fn from(errno: rustix::io::Errno) -> Self {
        Cause::errno(errno.raw_os_error())
    }
}

/// A call that waits for its reason.
#[must_use = "a kernel step is made by giving its reason: step(…).because(\"…\")"]
pub struct Step<C>(C);

/// Begins a step: `step(call).because("reason")`.
pub fn step<C: Explained>(call: C) -> Step<C> {
    Step(call)
}

impl<C: KernelCall> Step<C> {
    /// Makes the call. `why` tells what would go wrong without it, in about twenty words.
    pub fn because(self, why: &'static str) -> Result<C::Output, Error> {
        explain::tell(&self.0, why);
        self.0.call().map_err(|cause| report(&self.0, why, cause))
    }
}

impl<C: Explained> Step<C> {
    /// The same for a netlink message: `step(message).because_async("reason").await`.
    pub async fn because_async(self, why: &'static str) -> Result<C::Output, Error>
    where
        C: AsyncKernelCall,
    {
        explain::tell(&self.0, why);
        self.0.call().await.map_err(|cause| report(&self.0, why, cause))
    }
}

/// Turns a failed step into the error a person reads.
pub fn report(call: &dyn Explained, why: &str, cause: Cause) -> Error {
    let text = if cause.words.is_empty() { errno_text(cause.errno) } else { cause.words };
    let Diagnosis { likely, hint } = call.diagnose(cause.errno);
    Error {
        call: call.to_string(),
        why: why.into(),
        said: cause.said,
        likely: likely.into(),
        hint: hint.into(),
        errno: cause.errno,
        ..Error::new(format!("cannot {}: {text}", call.aim()))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    struct Refused;

    impl fmt::Display for Refused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("refuse(\"/x\")")
        }
    }

    impl Explained for Refused {
        fn aim(&self) -> String {
            "do the impossible to /x".into()
        }
        fn source(&self) -> &'static str {
            "refuse(2)"
        }
        fn diagnose(&self, errno: i32) -> Diagnosis {
            match errno {
                libc::EPERM => diagnosis("nobody may", "ask somebody"),
                _ => Diagnosis::default(),
            }
        }
    }

    impl KernelCall for Refused {
        type Output = ();
        fn call(&self) -> Result<(), Cause> {
            Err(Cause::errno(libc::EPERM).said("no"))
        }
    }

    #[test]
    fn a_failed_step_tells_what_why_and_what_to_try() {
        let error = step(Refused).because("it must be tried").unwrap_err();
        let lines = "cannot do the impossible to /x: Operation not permitted (EPERM)\n  \
                     call    refuse(\"/x\")\n  why     it must be tried\n  said    no\n  \
                     likely  nobody may\n  try     ask somebody";
        assert_eq!(error.to_string(), lines);
        assert_eq!(error.errno, libc::EPERM);
    }
}
