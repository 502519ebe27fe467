//! mocker-exec: runs the process of a container.
//!
//! In: a document. Out: nothing but what the program writes; the exit status is the program's own. Whatever happens,
//! the undo commands of the stages before (`hooks.poststop`) are run at the end: the last reader owes them.

mod args;
mod calls;
mod capabilities;
mod cgroup;
mod channel;
mod container;
mod devices;
mod etc;
mod host_devices;
mod identity;
mod init;
mod loopback;
mod mounts;
mod namespaces;
mod overrides;
mod plan;
mod program;
mod reaper;
mod rootfs;
mod seccomp;
mod supervise;
mod terminal;
mod timens;
mod userns;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, MOCKER_FAILED, failed};
use mocker_common::stage::{self, Input};
use mocker_common::state::{self, Directories};
use mocker_common::store::Store;
use mocker_common::{explain, hooks};

use args::{Args, Command};
use container::Settings;

const TOOL: &str = "mocker-exec";

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            error.print().unwrap_or_default();
            // 2 could be the program's own status: a wrong command line is mocker's failure, as in docker run.
            return if error.use_stderr() { ExitCode::from(MOCKER_FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let told = match &args.command {
        Some(Command::Run { explain, .. }) => explain.explain.or(args.stage.explain.explain),
        _ => args.stage.explain.explain,
    };
    explain::begin(told, "exec");

    let outcome = match &args.command {
        None => run_document(&args),
        Some(Command::Run { bundle, id, .. }) => run_bundle(bundle, id),
        Some(Command::Delete { ids }) => return stage::conclude(TOOL, ids.iter().try_for_each(delete)),
        Some(Command::Prune) => return stage::conclude(TOOL, stage::prune(TOOL, delete)),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let status = if error.status == 0 { MOCKER_FAILED } else { error.status };
            stage::conclude(TOOL, Err(Error { status, ..error }))
        }
    }
}

/// Runs the document of the pipeline.
fn run_document(args: &Args) -> Result<u8, Error> {
    let signals = supervise::catch_signals()?;
    if args.with_parent {
        supervise::end_with_parent()?;
    }
    let input = Input::read(&args.stage)?;
    let settings = Settings {
        bundle: Path::new("."),
        init: args.container.init,
        interactive: args.container.interactive,
        pass_stdin: !input.inherited || args.stage.document_fd.is_some(),
        inherited: input.inherited,
    };
    let mut document = input.document;
    let outcome = (|| {
        let id = document.ensure_id(args.stage.id.as_ref())?;
        if let Some(name) = &args.stage.name {
            document.set("/mocker/name", name.as_str());
        }
        overrides::apply(&mut document, &args.container)?;
        container::run(&document, &id, &settings, &signals)
    })();
    undo_stages(&document, outcome)
}

/// Runs a plain OCI bundle: `mocker-exec run --bundle DIR ID`.
fn run_bundle(bundle: &Path, id: &ContainerId) -> Result<u8, Error> {
    let signals = supervise::catch_signals()?;
    let config = bundle.join("config.json");
    let bytes = std::fs::read(&config).map_err(failed("read", config.display()))?;
    let mut document = Document::parse(&bytes)?;
    document.set("/mocker/id", id.as_str());
    let settings = Settings { bundle, init: false, interactive: true, pass_stdin: true, inherited: false };
    let outcome = container::run(&document, id, &settings, &signals);
    undo_stages(&document, outcome)
}

/// Runs the undo commands that the document carries. What they cannot undo is told, and changes no exit status.
fn undo_stages(document: &Document, outcome: Result<u8, Error>) -> Result<u8, Error> {
    let failures = hooks::run_poststop(document);
    match outcome {
        Ok(status) => {
            failures.iter().for_each(|failure| eprintln!("{TOOL}: {failure}"));
            Ok(status)
        }
        Err(mut error) => {
            error.also.extend(failures.iter().map(ToString::to_string));
            Err(error)
        }
    }
}

/// Removes what is left of a container. Succeeds if nothing is.
fn delete(id: &ContainerId) -> Result<(), Error> {
    let dirs = Directories::from_env();
    // Where `mocker-images mount` made the container's directory, its mount lies in there, and it is not ours to remove.
    if !state::is_claimed(&dirs, id, "mocker-images") {
        etc::remove(&Store::open()?.container(id))?;
    }
    state::release(&dirs, id, TOOL);
    Ok(())
}
