//! `diff`: what differs between the trees of two images.
//!
//! Nothing is mounted, and where the same layers show through in both images nothing is read.

mod facts;

use std::io::Write;

use clap::Args;
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::Store;
use serde_json::{Value, json};

use self::facts::Facts;
use crate::merged::{Layers, Node, Stack, join};
use crate::{get, printable};

#[derive(Args, Debug)]
pub struct DiffArgs {
    #[arg(value_name = "A")]
    old: Reference,
    #[arg(value_name = "B")]
    new: Reference,
    /// Say behind each changed path what of it differs
    #[arg(long)]
    details: bool,
    /// Print a JSON array, an object a path
    #[arg(long, conflicts_with = "details")]
    json: bool,
}

pub const FIELDS: &str = "\
Fields of --json (an array, sorted by path; schema: diff.schema.json beside this tool's source):
  path      from the root: /etc/motd
  path_hex  the bytes of a path that is not UTF-8, in hex; else absent
  change    A: added, C: changed, D: deleted
  differs   of C: kind, mode, owner, size, content, target, device, xattrs; else empty
  old, new  kind, mode, uid, gid, size, target or device, xattrs (their names); null where there is nothing

Exit status: 0, also if nothing differs or much does.";

/// A path that is not the same in both trees.
struct Change {
    /// below the root, empty for the root itself
    path: Vec<u8>,
    old: Option<Facts>,
    new: Option<Facts>,
    /// what differs, if both are there
    differs: Vec<&'static str>,
}

/// Prints the paths that differ, sorted.
pub fn diff(store: &Store, args: &DiffArgs) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let (old, new) = (get::find(store, &args.old)?, get::find(store, &args.new)?);
    let _lock = store.hold_contents()?; // no layer goes while it is read
    let mut layers = Layers::default();
    let old = layers.open(&Image::read(store, old)?.lower(store)?)?;
    let new = layers.open(&Image::read(store, new)?.lower(store)?)?;
    let changes = compare(&layers, old, new)?;

    let text: String = match args.json {
        true => format!("{:#}\n", Value::Array(changes.iter().map(Change::to_json).collect())),
        false => changes.iter().map(|change| change.to_line(args.details) + "\n").collect(),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the differences"))
}

/// What differs below two roots, sorted by path.
fn compare(layers: &Layers, old: Stack, new: Stack) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    changes.extend(change(layers, b"", b"", layers.root(&old)?.as_ref(), layers.root(&new)?.as_ref())?);
    let mut open = vec![(Vec::new(), old, new)];
    while let Some((directory, old, new)) = open.pop() {
        if old == new {
            continue; // the same directories of the same layers: whatever is below is the same
        }
        let mut before = layers.read(&old, &directory)?;
        let mut after = layers.read(&new, &directory)?;
        let names: std::collections::BTreeSet<Vec<u8>> = before.keys().chain(after.keys()).cloned().collect();
        for name in names {
            let (old, new) = (before.remove(&name), after.remove(&name));
            changes.extend(change(layers, &directory, &name, old.as_ref(), new.as_ref())?);
            let below = |node: Option<Node>| node.map(|node| node.stack).unwrap_or_default();
            open.push((join(&directory, &name), below(old), below(new)));
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// How one path differs. None if it does not: nothing else is the same file of the same layer, or all that counts is equal.
fn change(
    layers: &Layers,
    directory: &[u8],
    name: &[u8],
    old: Option<&Node>,
    new: Option<&Node>,
) -> Result<Option<Change>, Error> {
    if let (Some(old), Some(new)) = (old, new)
        && old.layer == new.layer
    {
        return Ok(None);
    }
    let facts = |node: Option<&Node>| node.map(|node| Facts::read(layers, directory, name, node)).transpose();
    let (old, new) = (facts(old)?, facts(new)?);
    let differs = match (&old, &new) {
        (Some(old), Some(new)) => old.differs(new, layers)?,
        _ => Vec::new(),
    };
    let is_same = old.is_some() == new.is_some() && differs.is_empty();
    Ok((!is_same).then(|| Change { path: join(directory, name), old, new, differs }))
}

impl Change {
    /// As docker diff has it.
    fn letter(&self) -> char {
        match (&self.old, &self.new) {
            (None, _) => 'A',
            (_, None) => 'D',
            _ => 'C',
        }
    }

    fn absolute(&self) -> Vec<u8> {
        [b"/", &self.path[..]].concat()
    }

    fn to_line(&self, details: bool) -> String {
        let line = format!("{} {}", self.letter(), printable::path(&self.absolute()));
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if details => {
                let details: Vec<String> = self.differs.iter().map(|what| old.told(new, what)).collect();
                format!("{line}  ({})", details.join(", "))
            }
            _ => line,
        }
    }

    fn to_json(&self) -> Value {
        let path = self.absolute();
        let mut object = json!({ "path": String::from_utf8_lossy(&path) });
        if std::str::from_utf8(&path).is_err() {
            object["path_hex"] = path.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        }
        object["change"] = self.letter().to_string().into();
        object["differs"] = json!(self.differs);
        object["old"] = json!(self.old.as_ref().map(Facts::to_json));
        object["new"] = json!(self.new.as_ref().map(Facts::to_json));
        object
    }
}
