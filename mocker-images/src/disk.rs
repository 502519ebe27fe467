//! `df`: what the store occupies on the disk, and what `prune` would free of it.
//!
//! Everything is counted as du does: blocks, each file once whatever its names, mounted file systems left out. So the sum is
//! du's, and a layer that many images share counts once.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use mocker_common::error::{Error, failed};
use mocker_common::stage;
use mocker_common::state::{self, Directories};
use mocker_common::store::Store;
use mocker_common::units::format_size;
use serde_json::{Value, json};

use crate::contents::Needed;
use crate::printable;
use crate::table::{self, Column, Cut, column};

#[derive(Args, Debug)]
pub struct DfArgs {
    /// Print a JSON array, an object a row
    #[arg(long)]
    json: bool,
}

pub const HELP: &str = "\
Fields of --json (an array; schema: df.schema.json beside this tool's source):
  what         images (no size but that of what follows), layers, archives, fix-ups, containers, partial (of downloads),
               temporary, other, total
  count        how many there are; null for other and total
  bytes        on the disk
  prune_bytes  what prune would free; null where a damaged image leaves that open";

const COLUMNS: [Column; 4] = [
    column("what", Cut::End, 0),
    column("count", Cut::Never, 1),
    column("size", Cut::Never, 0),
    column("prune frees", Cut::Never, 2),
];

struct Row {
    what: &'static str,
    count: Option<u64>,
    bytes: u64,
    /// None where nobody can tell
    prune: Option<u64>,
}

/// Prints a row for each kind of thing in the store, and their sum.
pub fn df(store: &Store, args: &DfArgs) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let needed = Needed::find(store).map_err(|error| {
        let name = crate::TOOL;
        eprintln!("{name}: cannot tell what prune would free: {}", printable::text(&error.what));
    });
    let rows = Count { store, needed: needed.ok(), seen: HashSet::new() }.rows();
    let text = match args.json {
        true => format!("{:#}\n", Value::Array(rows.iter().map(Row::to_json).collect())),
        false => {
            let cells: Vec<Vec<String>> = rows.iter().map(Row::to_cells).collect();
            table::draw(&COLUMNS, &cells, table::terminal_width())
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the sizes"))
}

struct Count<'a> {
    store: &'a Store,
    needed: Option<Needed>,
    /// what is counted already, by device and inode
    seen: HashSet<(u64, u64)>,
}

impl Count<'_> {
    fn rows(&mut self) -> Vec<Row> {
        let root = self.store.root().to_path_buf();
        let dirs = Directories::from_env();
        let (owned, orphans) = (state::known_ids(&dirs), state::orphaned_ids(&dirs, crate::TOOL));
        let left = |path: &Path| !owned.contains(&name(path)) || orphans.contains(&name(path));
        let unneeded = |count: &Self, path: &Path| count.needed.as_ref().map(|needed| needed.why(path).is_none());

        let abandoned = self.store.abandoned();
        let images = self.store.entries().map_or(0, |entries| entries.len() as u64);
        let mut rows = vec![
            Row { what: "images", count: Some(images), bytes: 0, prune: Some(0) },
            self.row("layers", &root.join("layers/sha256"), unneeded),
            self.row("archives", &root.join("image/blobs/sha256"), unneeded),
            self.row("fix-ups", &root.join("fixups/sha256"), unneeded),
            self.row("containers", &root.join("containers"), |_, path| Some(left(path))),
            self.row("partial", &root.join("partial"), |_, _| Some(true)),
            self.row("temporary", &root.join("tmp"), |_, path| Some(abandoned.contains(path))),
        ];
        let counted: u64 = rows.iter().map(|row| row.bytes).sum();
        let total = self.occupied(&root) + counted;
        rows.push(Row { what: "other", count: None, bytes: total - counted, prune: Some(0) });
        let prune = rows.iter().map(|row| row.prune).sum();
        rows.push(Row { what: "total", count: None, bytes: total, prune });
        rows
    }

    /// Everything in one directory of the store. Its own block belongs to `other`, as do those above it.
    fn row(&mut self, what: &'static str, directory: &Path, is_pruned: impl Fn(&Self, &Path) -> Option<bool>) -> Row {
        let mut row = Row { what, count: Some(0), bytes: 0, prune: Some(0) };
        for path in children(directory) {
            let bytes = self.occupied(&path);
            // The notes beside a layer are part of it.
            row.count = row.count.map(|count| count + u64::from(path.extension().is_none()));
            row.bytes += bytes;
            row.prune = match is_pruned(self, &path) {
                Some(pruned) => row.prune.map(|sum| sum + if pruned { bytes } else { 0 }),
                None => None,
            };
        }
        row
    }

    /// What a tree occupies, in bytes, as far as it is not counted yet.
    fn occupied(&mut self, root: &Path) -> u64 {
        let Ok(top) = fs::symlink_metadata(root) else { return 0 };
        let mut total = self.once(&top).unwrap_or(0);
        let mut open = if top.is_dir() { vec![root.to_path_buf()] } else { Vec::new() };
        while let Some(directory) = open.pop() {
            for path in children(&directory) {
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                if metadata.dev() != top.dev() {
                    continue; // a container's mounted root: its files are those of the layers and of its upper directory
                }
                let bytes = self.once(&metadata);
                total += bytes.unwrap_or(0);
                if metadata.is_dir() && bytes.is_some() {
                    open.push(path);
                }
            }
        }
        total
    }

    /// Of a file or directory that is met for the first time, its blocks.
    fn once(&mut self, metadata: &fs::Metadata) -> Option<u64> {
        self.seen.insert((metadata.dev(), metadata.ino())).then(|| state::disk_bytes(metadata))
    }
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Row {
    fn to_json(&self) -> Value {
        json!({ "what": self.what, "count": self.count, "bytes": self.bytes, "prune_bytes": self.prune })
    }

    fn to_cells(&self) -> Vec<String> {
        let count = self.count.map_or_else(String::new, |count| count.to_string());
        let prune = self.prune.map_or_else(|| "?".into(), format_size);
        match self.what {
            "images" => vec![self.what.into(), count],
            _ => vec![self.what.into(), count, format_size(self.bytes), prune],
        }
    }
}
