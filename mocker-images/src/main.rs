//! mocker-images: the images in the store, and the document that runs one.
//!
//! `get` begins a pipeline, `mount` is a stage of one; the rest is housekeeping. Everything here reads and writes files:
//! the one kernel feature is the overlay, in `mount`.

mod age;
mod args;
mod calls;
mod contents;
mod get;
mod inspect;
mod list;
mod mount;
mod remove;
mod table;
mod tag;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use mocker_common::store::Store;
use mocker_common::{explain, stage};

use args::{Args, Command};

/// The name that errors, records and hooks carry.
const TOOL: &str = "mocker-images";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.explain.explain, "images");
    let command = args.command.unwrap_or(Command::List { json: args.json });
    let result = Store::open().and_then(|store| match command {
        Command::List { json } => list::list(&store, json || args.json),
        Command::Get { reference } => get::get(&store, &reference),
        Command::Inspect { references } => inspect::inspect(&store, &references),
        Command::Tag { source, new } => tag::tag(&store, &source, &new),
        Command::Rm { references } => remove::remove(&store, &references),
        Command::Prune => remove::prune(&store),
        Command::Verify { references, options } => verify::verify(&store, &references, options),
        Command::Mount { stage } => mount::mount(&store, &stage),
        Command::Delete { ids } => mount::delete_all(&store, &ids),
    });
    stage::conclude(TOOL, result)
}
