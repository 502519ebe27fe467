//! mocker-pull: fetches images from a registry into the store.
//!
//! In: references. Out: the document of each, for the next stage. A pull makes nothing that needs undoing: what it
//! leaves is complete and in the store, and `mocker-images rm` removes it.

mod args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use mocker_common::document::Document;
use mocker_common::error::Error;
use mocker_common::stage::HeldSignals;
use mocker_common::store::{Claim, Store};
use mocker_common::{explain, stage};
use mocker_pull::platform::Platform;
use mocker_pull::progress::Progress;
use mocker_pull::pull;
use mocker_pull::registry::transport::Transport;
use mocker_pull::repair;

use args::Args;

const TOOL: &str = "mocker-pull";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.explain.explain, "pull");
    stage::conclude(TOOL, recipe(&args))
}

fn recipe(args: &Args) -> Result<(), Error> {
    let store = Store::open()?;
    store.ensure()?;
    let findings = if args.repair { Some(repair::read()?) } else { None };
    let signals = HeldSignals::hold()?;

    // One thread waits for the network; others, made where they are needed, hash and write.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::new(format!("cannot start: {cause}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, async {
        tokio::select! {
            result = work(args, &store, findings) => result,
            error = interrupted(&signals) => Err(error),
        }
    });

    // Dropped, downloads end; then the threads that fed on them, and what they were making is removed.
    drop(local);
    drop(runtime);
    signals.die_if_any();
    result
}

async fn work(args: &Args, store: &Store, findings: Option<Vec<repair::Finding>>) -> Result<(), Error> {
    let transport = Arc::new(Transport::new(args.timeout));
    let progress = Arc::new(Progress::new(args.quiet));
    if let Some(findings) = findings {
        return repair::repair(store, &transport, &progress, &findings).await;
    }
    let platform = args.platform.clone().unwrap_or_else(Platform::of_this_machine);
    let claim = Claim::begin(store)?; // nothing that we rely on is pruned until the last document is written
    for reference in &args.references {
        let image = pull::pull(store, &claim, &transport, &progress, reference, &platform).await?;
        if args.document || !std::io::stdout().is_terminal() {
            let document = image.document(store)?;
            if args.references.len() == 1 { stage::write(&document)? } else { write_line(&document)? }
        }
    }
    Ok(())
}

/// A document on one line, so that several can follow each other.
fn write_line(document: &Document) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{}", document.json())
        .map_err(|cause| Error::new(format!("cannot hand the document on: {cause}")))
}

/// Returns when a signal that ends a program has come: it is held back until nothing half-made is left.
async fn interrupted(signals: &HeldSignals) -> Error {
    loop {
        if let Some(signal) = signals.pending() {
            return Error::new(format!("interrupted by {signal}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
