//! mocker-images: the images in the store, and the document that runs one.
//!
//! `get` begins a pipeline, `mount` is a stage of one; the rest is housekeeping. Everything here reads and writes files:
//! the one kernel feature is the overlay, in `mount`.

mod age;
mod args;
mod calls;
mod commit;
mod contents;
mod diff;
mod disk;
mod draft;
mod filter;
mod format;
mod get;
mod history;
mod inspect;
mod list;
mod merged;
mod mount;
mod pack;
mod printable;
mod remove;
mod save;
mod summary;
mod table;
mod tag;
mod tree;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use mocker_common::store::Store;
use mocker_common::{explain, rootless, stage};

use args::{Args, Command};

/// The name that errors, records and hooks carry.
const TOOL: &str = "mocker-images";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.explain.explain, "images");
    if let Err(error) = args.check() {
        return stage::conclude(TOOL, Err(error));
    }
    let result =
        rootless::enter().and_then(|()| Store::open()).and_then(|store| match args.command.unwrap_or_default() {
            Command::List { name, flags } => list::list(&store, &flags.and(args.list), name.as_deref()),
            Command::Get { reference } => get::get(&store, &reference),
            Command::Inspect(args) => inspect::inspect(&store, &args),
            Command::History(history) => history::history(&store, &history),
            Command::Tree(tree) => tree::tree(&store, &tree),
            Command::Df(df) => disk::df(&store, &df),
            Command::Diff(diff) => diff::diff(&store, &diff),
            Command::Tag { source, new } => tag::tag(&store, &source, &new),
            Command::Save(args) => save::save(&store, &args),
            Command::Commit(args) => commit::commit(&store, &args),
            Command::Rm { references } => remove::remove(&store, &references),
            Command::Prune => remove::prune(&store),
            Command::Verify { references, options } => verify::verify(&store, &references, options),
            Command::Mount { stage } => mount::mount(&store, &stage),
            Command::Delete { ids } => mount::delete_all(&store, &ids),
        });
    stage::conclude(TOOL, result)
}
