//! The kernel calls of mocker-exec, each knowing how to print, explain and diagnose itself.

pub mod files;
pub mod mounts;
pub mod process;

/// Writes the three texts that every call has: how it prints, its aim, its source.
macro_rules! explained {
    ($call:ident $(<$life:lifetime>)?, $source:literal, |$this:ident| {
        call: $call_text:expr, aim: $aim:expr $(, by_hand: $by_hand:expr)? $(, diagnose: $diagnose:expr)? $(,)?
    }) => {
        impl $(<$life>)? std::fmt::Display for $call $(<$life>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let $this = self;
                f.write_str(AsRef::<str>::as_ref(&$call_text))
            }
        }

        impl $(<$life>)? mocker_common::step::Explained for $call $(<$life>)? {
            fn aim(&self) -> String {
                let $this = self;
                let _ = $this;
                $aim
            }
            fn source(&self) -> &'static str {
                $source
            }
            $(fn by_hand(&self) -> String {
                let $this = self;
                $by_hand
            })?
            $(fn diagnose(&self, errno: i32) -> mocker_common::step::Diagnosis {
                let $this = self;
                let _ = $this;
                #[allow(clippy::redundant_closure_call)]
                ($diagnose)(errno)
            })?
        }
    };
}
pub(crate) use explained;
