//! mocker-push: sends an image of the store to a registry.
//!
//! In: a reference, and where it goes. Out: the names by which it can be pulled for good. It only reads the store, and a
//! registry shows an image complete or not at all: nothing needs undoing but uploads that were begun, which it cancels.

mod args;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use mocker_common::error::{Error, failed};
use mocker_common::reference::Reference;
use mocker_common::stage::HeldSignals;
use mocker_common::store::Store;
use mocker_common::{explain, rootless, stage};
use mocker_pull::cli;
use mocker_pull::lenders::Lenders;
use mocker_pull::progress::Progress;
use mocker_pull::push::{self, Stored, Way};
use mocker_pull::registry::transport::Transport;

use args::Args;

const TOOL: &str = "mocker-push";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.explain.explain, "push");
    stage::conclude(TOOL, rootless::enter().and_then(|()| recipe(&args)))
}

fn recipe(args: &Args) -> Result<(), Error> {
    let store = Store::open()?;
    let image = Stored::open(&store, &args.image)?;
    let lenders = Lenders::of_store(&store);
    let signals = HeldSignals::hold()?;

    // One thread waits for the network; others, made where they are needed, read and hash.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::new(format!("cannot start: {cause}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, push_all(args, &image, lenders, &signals));
    drop(local);
    drop(runtime);
    signals.die_if_any();
    result
}

async fn push_all(args: &Args, image: &Stored, mut lenders: Lenders, signals: &HeldSignals) -> Result<(), Error> {
    let way = Way {
        transport: Arc::new(Transport::for_uploads(args.timeout)),
        progress: Arc::new(Progress::new(args.quiet)),
        jobs: args.jobs,
        chunk: args.chunk,
    };
    // By its own name the image may stand for an index, whose digest is not its own.
    let own = Reference { digest: None, ..args.image.clone() };
    let destinations = if args.destinations.is_empty() { std::slice::from_ref(&own) } else { &args.destinations };
    for destination in destinations {
        push::push(image, destination, &way, &mut lenders, cli::interrupted(signals)).await?;
        let line = format!("{}@{}\n", destination.name(), image.digest);
        std::io::stdout().lock().write_all(line.as_bytes()).map_err(failed("write", "the name"))?;
    }
    Ok(())
}
