//! `create` and `run`: from a bundle to a container.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, failed};
use mocker_common::hooks;

use crate::args::{BundleArgs, RunArgs};
use crate::container::{self, Made, run_poststart};
use crate::init::Prepared;
use crate::plan::Plan;
use crate::runtime::console::{self, Receiver};
use crate::runtime::record::{Record, Status, check_free, parse_id};
use crate::runtime::start::{StartLine, start};
use crate::runtime::{Runtime, delete, groups};
use crate::supervise::catch_signals;
use crate::terminal::UserTerminal;
use crate::{etc, rootfs, valid};

/// A bundle that can become a container: read and checked, nothing made yet.
struct Bundle {
    document: Document,
    plan: Plan,
    prepared: Prepared,
    groups: groups::Asked,
    console: Option<Receiver>,
    pidfd: Option<Receiver>,
}

impl Bundle {
    fn read(runtime: &Runtime, args: &BundleArgs, detach: bool) -> Result<Bundle, Error> {
        let id = parse_id(&args.id)?;
        check_free(&runtime.root, &id)?;
        let document = read_config(&args.bundle, &id)?;
        valid::check(&document)?;
        let terminal = document.get("/process/terminal").is_some_and(|terminal| *terminal == true);
        match (&args.console_socket, terminal && detach) {
            (None, true) => {
                return Err(Error::new("cannot allocate tty if runc will detach without setting console socket")
                    .why("nobody would hold the other end of the container's terminal")
                    .hint("--console-socket SOCKET"));
            }
            (Some(_), false) => {
                return Err(Error::new("cannot use console socket if runc will not detach or allocate tty"));
            }
            _ => {}
        }
        let groups = groups::asked(&document, &id, runtime.systemd_cgroup)?;
        let mut plan = Plan::check(&document, &id, &args.bundle, Some(groups.describe()))?;
        plan.state = hooks::state(&document, "creating", None);
        plan.state["bundle"] = fs::canonicalize(&args.bundle).unwrap_or_default().to_string_lossy().into();
        plan.no_pivot = args.no_pivot;
        plan.no_new_keyring = args.no_new_keyring;
        plan.preserve_fds = args.preserve_fds + activation_sockets(&mut plan);
        plan.is_of_engine = true;
        plan.detached = detach;
        let prepared = container::prepare(&plan, true)?;
        let connect = |path: &Option<std::path::PathBuf>| path.as_deref().map(console::connect_to).transpose();
        let (console, pidfd) = (connect(&args.console_socket)?, connect(&args.pidfd_socket)?);
        Ok(Bundle { document, plan, prepared, groups, console, pidfd })
    }

    /// Tells of what was asked for and is not to be had, where that is no error.
    fn warn(&self, runtime: &Runtime) {
        for name in &self.prepared.missing {
            runtime
                .log
                .warning(&format!("capability {name} cannot be given: this kernel or the caller does not have it"));
        }
    }
}

/// Sockets that a service manager hands to this process are the container's (sd_listen_fds(3)): how many there are.
fn activation_sockets(plan: &mut Plan) -> u32 {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (variable("LISTEN_FDS"), variable("LISTEN_PID")) {
        (Some(count), Some(pid)) if count > 0 && pid == std::process::id() => {
            plan.process.env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".into()]);
            count
        }
        _ => 0,
    }
}

fn read_config(bundle: &Path, id: &ContainerId) -> Result<Document, Error> {
    if !bundle.is_dir() {
        return Err(Error::new(format!("chdir {}: no such file or directory", bundle.display()))
            .why("a bundle is a directory with config.json and a rootfs"));
    }
    let config = bundle.join("config.json");
    let bytes = match fs::read(&config) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(format!("JSON specification file {} not found", config.display()))
                .hint(format!("mocker-exec spec --bundle {}", bundle.display())));
        }
        other => other.map_err(failed("read", config.display()))?,
    };
    let mut document = Document::parse(&bytes)?;
    document.set("/mocker/id", id.as_str());
    Ok(document)
}

/// Makes a container whose program waits for `start`.
pub fn create(runtime: &Runtime, args: &BundleArgs) -> Result<(), Error> {
    let mut bundle = Bundle::read(runtime, args, true)?;
    bundle.warn(runtime);
    let (record, made) = make(runtime, args, &mut bundle, true)?;
    let handed = hand_over(args, &mut bundle, &made);
    undo_if_failed(&record, handed)
}

/// Makes a container, starts it, waits for its end and deletes it; detached, it only starts it.
pub fn run(runtime: &Runtime, run: &RunArgs) -> Result<u8, Error> {
    let args = &run.bundle;
    if run.detach {
        let mut bundle = Bundle::read(runtime, args, true)?;
        bundle.warn(runtime);
        let (record, made) = make(runtime, args, &mut bundle, true)?;
        let started = hand_over(args, &mut bundle, &made)
            .and_then(|()| start(&record))
            .and_then(|()| run_poststart(&bundle.plan, made.running.pid));
        return undo_if_failed(&record, started).map(|()| 0);
    }
    let signals = catch_signals()?;
    let mut bundle = Bundle::read(runtime, args, false)?;
    bundle.warn(runtime);
    let user = bundle.plan.process.terminal.then(UserTerminal::open).transpose()?;
    let (record, made) = make(runtime, args, &mut bundle, false)?;
    let outcome = hand_over(args, &mut bundle, &made).and_then(|()| made.supervise(&bundle.plan, user, true, &signals));
    if run.keep && outcome.is_ok() {
        return outcome;
    }
    let removed = delete::remove(&record);
    outcome.and_then(|status| removed.map(|()| status))
}

/// Record, groups, container. If one fails the others are gone again.
fn make(runtime: &Runtime, args: &BundleArgs, bundle: &mut Bundle, waits: bool) -> Result<(Record, Made), Error> {
    let mut record = Record::begin(&runtime.root, &bundle.document, &bundle.plan, &args.bundle, true)?;
    let made = (|| {
        etc::prepare_directory(&bundle.plan, &bundle.document)?;
        rootfs::prepare(&bundle.plan)?;
        etc::prepare(&mut bundle.plan)?;
        bundle.plan.cgroup = bundle.groups.make().inspect_err(|_| record.made_groups = false)?;
        record.cgroup = bundle.plan.cgroup.clone();
        let line = waits.then(|| StartLine::make(&record.directory)).transpose()?;
        container::make(&bundle.plan, &bundle.prepared, &mut record, line, None)
    })();
    undo_if_failed(&record, made).map(|made| (record, made))
}

/// Gives the engine what it asked for: the terminal, the process's number and descriptor.
fn hand_over(args: &BundleArgs, bundle: &mut Bundle, made: &Made) -> Result<(), Error> {
    if let (Some(console), Some(master)) = (bundle.console.take(), &made.master) {
        console.send(master.as_fd(), "/dev/ptmx")?;
    }
    if let Some(receiver) = bundle.pidfd.take() {
        receiver.send(made.running.pidfd.as_fd(), "pidfd")?;
    }
    args.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, made.running.pid))
}

/// Digits and nothing else, complete by rename: engines watch for the file and read it at once.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed("write pid file", path.display()))
}

/// Nothing half made stays: an engine whose create has failed does not ask for the pieces to be removed.
fn undo_if_failed<T>(record: &Record, outcome: Result<T, Error>) -> Result<T, Error> {
    outcome.map_err(|mut error| {
        error.also.extend(delete::remove(record).err().map(|also| also.to_string()));
        error
    })
}

/// The poststart hooks of a container that `start` has started. If one fails the container ends (runtime-spec, Lifecycle 9).
pub fn poststart(record: &Record) -> Result<(), Error> {
    let document = record.document()?;
    if document.get("/hooks/poststart").is_none() {
        return Ok(());
    }
    let hooks: Vec<hooks::Hook> = document.view("/hooks/poststart")?;
    let state = record.state(Status::Running);
    undo_if_failed(record, hooks::run_all("poststart", &hooks, &state))
}
