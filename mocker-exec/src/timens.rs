//! Time namespaces: clocks that begin elsewhere. Source: time_namespaces(7); runtime-spec config-linux.md, Offset for Time
//! Namespace.

use std::fs::File;
use std::os::fd::AsFd;

use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::sched::CloneFlags;
use serde::Deserialize;

use crate::calls::files::WriteTo;
use crate::calls::process::{Join, NEW_TIME, Unshare};
use crate::plan::Namespace;

/// `linux.timeOffsets`: what is added to the host's clocks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Offsets {
    pub monotonic: Option<Offset>,
    pub boottime: Option<Offset>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Offset {
    pub secs: i64,
    pub nanosecs: u32,
}

impl Offsets {
    /// Reads and checks them.
    pub fn read(document: &Document, namespaces: &[Namespace]) -> Result<Offsets, Error> {
        let offsets: Offsets = document.view("/linux/timeOffsets")?;
        let refused = |cause: &str| Err(Error::new(format!("cannot set the container's clocks: {cause}")));
        let named = [("monotonic", offsets.monotonic), ("boottime", offsets.boottime)];
        for (clock, offset) in named.into_iter().filter_map(|(clock, offset)| Some((clock, offset?))) {
            if offset.nanosecs >= 1_000_000_000 {
                return refused(&format!("timeOffsets.{clock}.nanosecs is {}, a second or more", offset.nanosecs));
            }
            match namespaces.iter().find(|namespace| namespace.kind == "time") {
                None => return refused("time offsets specified, but the document asks for no time namespace"),
                Some(Namespace { path: Some(_), .. }) => {
                    return refused(
                        "the time namespace is joined, and those of one that has processes cannot be changed",
                    );
                }
                Some(_) => {}
            }
        }
        Ok(offsets)
    }

    fn text(&self) -> String {
        let line = |clock: &str, offset: Option<Offset>| {
            offset.map(|offset| format!("{clock} {} {}\n", offset.secs, offset.nanosecs)).unwrap_or_default()
        };
        line("monotonic", self.monotonic) + &line("boottime", self.boottime)
    }
}

/// Makes a time namespace, sets its clocks and steps into it. In the child, before it has another user: /proc/self must be
/// its own to write. Needs one thread.
///
/// A process that clone3 puts into a new one finds it in use already, and can set nothing; one that unshares is not in
/// it yet, only its children would be, so it joins what it has made.
pub fn enter_new(offsets: &Offsets) -> Result<(), Error> {
    step(Unshare(NEW_TIME))
        .because("asked for: its monotonic clock and its uptime are its own, those of the host another's")?;
    let text = offsets.text();
    if !text.is_empty() {
        let shown = "/proc/self/timens_offsets";
        let file = File::options().write(true).open(shown).map_err(failed("open", shown))?;
        step(WriteTo { file: file.as_fd(), shown, text: &text })
            .because("the clocks can be set only until a process is in there: then they must not jump any more")
            .map_err(|error| match error.errno {
                libc::ERANGE => Error { likely: "a clock would stand before 0, or beyond 146 years".into(), ..error },
                _ => error,
            })?;
    }
    let shown = "/proc/self/ns/time_for_children";
    let file = File::open(shown).map_err(failed("open", shown))?;
    step(Join { namespace: file.as_fd(), kind: "time", flag: CloneFlags::from_bits_retain(NEW_TIME.bits()), shown })
        .because("unshare leaves this process where it is; the program it becomes must already be in there")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(offsets: Value, namespaces: Value) -> Result<Offsets, Error> {
        let text = json!({"mocker": {"version": 1}, "linux": {"timeOffsets": offsets, "namespaces": namespaces}});
        let document = Document::parse(text.to_string().as_bytes()).unwrap();
        Offsets::read(&document, &document.view::<Vec<Namespace>>("/linux/namespaces").unwrap())
    }

    #[test]
    fn offsets_are_written_as_the_kernel_reads_them() {
        let both = json!({"monotonic": {"secs": -3, "nanosecs": 5}, "boottime": {"secs": 7}});
        let offsets = read(both.clone(), json!([{"type": "time"}])).unwrap();
        assert_eq!(offsets.text(), "monotonic -3 5\nboottime 7 0\n");
        assert_eq!(read(json!({}), json!([])).unwrap().text(), "");
        assert!(read(both.clone(), json!([])).is_err());
        assert!(read(both, json!([{"type": "time", "path": "/x"}])).is_err());
        assert!(read(json!({"boottime": {"nanosecs": 1_000_000_000}}), json!([{"type": "time"}])).is_err());
    }
}
