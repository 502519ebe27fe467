//! An OCI runtime: the commands by which engines (podman, buildah, containerd, docker) make and end containers.
//!
//! Between two calls a container is its directory in the state root ([`record`]) and the kernel's own objects; there is no
//! daemon. Names, flags, statuses and the words of errors are runc's where engines rely on them.
//! Source: runtime-spec runtime.md, Operations; runc(8).

pub mod console;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod groups;
pub mod list;
pub mod log;
pub mod own_binary;
pub mod record;
pub mod signal;
pub mod spec;
pub mod start;
pub mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use mocker_common::cgroup::freeze;
use mocker_common::error::Error;

use crate::args::{Command, RuntimeArgs};
use log::Log;
use record::{Record, Status, state_root};

/// What every command needs to know.
pub struct Runtime {
    /// where the state of containers is kept
    pub root: PathBuf,
    /// whether systemd is to make the groups
    pub systemd_cgroup: bool,
    pub log: Log,
}

/// Runs a command. The exit status is 1 for a failure, as of runc; `exec` has 255, `run` and `exec` else the program's own.
pub fn main(args: &RuntimeArgs, command: &Command) -> ExitCode {
    let runtime = match Log::open(args) {
        Ok(log) => Runtime { root: state_root(args.root.as_deref()), systemd_cgroup: args.systemd_cgroup, log },
        Err(error) => {
            eprintln!("mocker-exec: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.debug {
        let words: Vec<String> = std::env::args().collect();
        runtime.log.debug(&words.join(" "));
    }
    let outcome = runtime.run(command);
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !error.quiet {
                runtime.log.error(&error);
            }
            match command {
                Command::Exec(_) => ExitCode::from(255),
                Command::Unshare { .. } => ExitCode::from(error.exit_status()),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

impl Runtime {
    fn run(&self, command: &Command) -> Result<u8, Error> {
        let done = match command {
            Command::Run(args) => return create::run(self, args),
            Command::Exec(args) => return exec::exec(self, args),
            Command::Create(bundle) => create::create(self, bundle),
            Command::Start(args) => self.start(&args.id),
            Command::State(args) => list::state(self, &args.id),
            Command::Kill(args) => signal::kill(self, args),
            Command::Delete(args) => args.ids.iter().try_for_each(|id| delete::delete(self, id, args.force)),
            Command::Ps { format, id, options } => list::processes(self, id, *format, options),
            Command::List { format, quiet } => list::list(self, *format, *quiet),
            Command::Pause { id } => self.pause(id),
            Command::Resume { id } => self.resume(id),
            Command::Update(args) => update::update(self, args),
            Command::Events { interval, stats, id } => events::events(self, id, interval, *stats),
            Command::Features => features::print(),
            Command::Spec { bundle, rootless } => spec::spec(bundle.as_deref(), *rootless),
            Command::Unshare { command } => return crate::userns::unshare(command),
            Command::Prune => delete::prune(self),
        };
        done.map(|()| 0)
    }

    fn start(&self, id: &str) -> Result<(), Error> {
        let record = Record::find(&self.root, id)?;
        start::start(&record)?;
        create::poststart(&record)
    }

    fn pause(&self, id: &str) -> Result<(), Error> {
        let record = Record::find(&self.root, id)?;
        match record.status() {
            Status::Created | Status::Running => freeze::freeze(&groups::find(&record.cgroup)?),
            _ => Err(not_running(&record)),
        }
    }

    fn resume(&self, id: &str) -> Result<(), Error> {
        let record = Record::find(&self.root, id)?;
        match record.status() {
            Status::Paused => freeze::thaw(&groups::find(&record.cgroup)?),
            _ => Err(Error::new("container not paused")),
        }
    }
}

/// The words by which engines know that a container has ended.
pub fn not_running(record: &Record) -> Error {
    Error::new("container not running").said(format!("{} is {}", record.id, record.status().name()))
}
