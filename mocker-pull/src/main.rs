//! mocker-pull: fetches images from a registry, a layout or an archive into the store.
//!
//! In: references and places. Out: the document of each, for the next stage. A pull makes nothing that needs undoing: what it
//! leaves is complete and in the store, and `mocker-images rm` removes it.

mod args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use mocker_common::document::Document;
use mocker_common::error::Error;
use mocker_common::image::Image;
use mocker_common::stage::HeldSignals;
use mocker_common::store::Store;
use mocker_common::{explain, rootless, stage};
use mocker_pull::layer::Work;
use mocker_pull::platform::Platform;
use mocker_pull::progress::Progress;
use mocker_pull::registry::transport::Transport;
use mocker_pull::{cli, pull, repair, source};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use args::Args;

const TOOL: &str = "mocker-pull";
/// How many images are asked for at once; their layers have a limit of their own (`--jobs`).
const IMAGES: usize = 16;

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.explain.explain, "pull");
    stage::conclude(TOOL, rootless::enter().and_then(|()| recipe(&args)))
}

fn recipe(args: &Args) -> Result<(), Error> {
    let store = Store::open()?;
    // Findings first: the check before us in the pipe is still reading what `ensure` would put right.
    let findings = if args.repair { Some(repair::read()?) } else { None };
    store.ensure()?;
    let signals = HeldSignals::hold()?;

    // One thread waits for the network; others, made where they are needed, hash and write.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::new(format!("cannot start: {cause}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, async {
        tokio::select! {
            result = pull_all(args, &store, findings) => result,
            error = cli::interrupted(&signals) => Err(error),
        }
    });

    // Dropped, downloads end; then the threads that fed on them, and what they were making is removed.
    drop(local);
    drop(runtime);
    signals.die_if_any();
    result
}

/// Pulls all images at once: they share connections, and each layer that several have is fetched once.
async fn pull_all(args: &Args, store: &Store, findings: Option<Vec<repair::Finding>>) -> Result<(), Error> {
    let transport = Arc::new(Transport::new(args.timeout));
    let progress = Arc::new(Progress::new(args.quiet));
    let work = Work::new(store.clone(), progress.clone(), args.limits.clone(), args.jobs)?;
    if let Some(findings) = findings {
        return repair::repair(&Arc::new(work), &transport, &findings).await;
    }
    let platform = Arc::new(args.platform.clone().unwrap_or_else(Platform::of_this_machine));
    let mut wishes = Vec::new();
    for origin in &args.origins {
        wishes.extend(source::open(store, &transport, &progress, origin, args.name.as_ref()).await?);
    }

    if args.name.is_some() && wishes.len() > 1 {
        return Err(Error::new(format!("cannot give one name to {} images", wishes.len())).hint("a command each"));
    }

    let work = Arc::new(work);
    let at_once = Arc::new(Semaphore::new(IMAGES));
    let mut pulling = JoinSet::new();
    let count = wishes.len();
    for (place, wish) in wishes.into_iter().enumerate() {
        let (work, platform, at_once) = (work.clone(), platform.clone(), at_once.clone());
        pulling.spawn_local(async move {
            let _turn = at_once.acquire().await;
            (place, pull::pull(&work, &wish, &platform).await)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = pulling.join_next().await {
        outcomes.push(outcome.map_err(|cause| Error::new(format!("cannot go on: {cause}")))?);
    }
    outcomes.sort_by_key(|(place, _)| *place);
    hand_on(args, store, outcomes.into_iter().map(|(_, image)| image), count == 1)
}

/// Prints the documents of what was pulled, in the order of the command line. One that failed does not keep the others
/// from being there; the command has failed all the same.
fn hand_on(
    args: &Args,
    store: &Store,
    images: impl Iterator<Item = Result<Image, Error>>,
    is_single: bool,
) -> Result<(), Error> {
    let mut failure: Option<Error> = None;
    for image in images {
        match (image, &mut failure) {
            (Ok(image), _) if args.document || !std::io::stdout().is_terminal() => {
                let document = image.document(store)?;
                if is_single { stage::write(&document)? } else { write_line(&document)? }
            }
            (Ok(_), _) => {}
            (Err(error), Some(first)) => first.also.push(error.to_string()),
            (Err(error), None) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// A document on one line, so that several can follow each other.
fn write_line(document: &Document) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{}", document.json())
        .map_err(|cause| Error::new(format!("cannot hand the document on: {cause}")))
}
