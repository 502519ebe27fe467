//! mocker-exec: runs the process of a container.
//!
//! In: a document. Out: nothing but what the program writes; the exit status is the program's own. Whatever happens,
//! the undo commands of the stages before (`hooks.poststop`) are run at the end: the last reader owes them.
//!
//! With a command (`create`, `start`, …) it is an OCI runtime: see `runtime`. Both ways meet in `container` (outside) and `init`
//! (inside), where a container is told in kernel order.

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
mod labels;
mod loopback;
mod memory_policy;
mod mounts;
mod namespaces;
mod netdev;
mod overrides;
mod personality;
mod plan;
mod program;
mod ranges;
mod reaper;
mod rootfs;
mod runtime;
mod scheduling;
mod seccomp;
mod supervise;
mod terminal;
mod timens;
mod userns;
mod valid;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use mocker_common::document::Document;
use mocker_common::error::{Error, MOCKER_FAILED};
use mocker_common::stage::{self, Input};
use mocker_common::{explain, hooks, rootless};

use args::{Args, Command};
use container::Settings;

/// musl asks the kernel for memory page by page; a start has better things to do.
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

const TOOL: &str = "mocker-exec";

fn main() -> ExitCode {
    // Before anything else is done twice.
    if Command::may_enter_container()
        && let Err(error) = runtime::own_binary::protect()
    {
        return stage::conclude(TOOL, Err(error));
    }
    if let Some((args, command)) = args::of_engine() {
        return runtime::main(&args, &command);
    }
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    explain::begin(args.stage.explain.explain, "exec");
    // What an engine calls is run as it is: a bundle of an ordinary user brings its own user namespace. All else needs ours.
    if matches!(args.command, None | Some(Command::Prune | Command::Unshare { .. }))
        && let Err(error) = rootless::enter()
    {
        return stage::conclude(TOOL, Err(error.status(MOCKER_FAILED)));
    }
    if let Some(command) = &args.command {
        return runtime::main(&args.runtime, command);
    }
    match run_document(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let status = if error.status == 0 { MOCKER_FAILED } else { error.status };
            stage::conclude(TOOL, Err(Error { status, ..error }))
        }
    }
}

/// Tells what is wrong with the command line. 2 could be the status of a pipeline's program, so there it is mocker's failure, as
/// in docker run; a runtime has 1.
fn refuse(error: &clap::Error) -> ExitCode {
    error.print().unwrap_or_default();
    let mut words = std::env::args().skip(1);
    match (error.use_stderr(), words.any(|word| Command::has_subcommand(&word))) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::FAILURE,
        (true, false) => ExitCode::from(MOCKER_FAILED),
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
