//! Outside: one container, from its plan to the moment when its program may run.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;
use mocker_common::hooks::{self, Hook};
use mocker_common::state::{self, Directories, Process};
use nix::sys::signalfd::SignalFd;

use crate::calls::process::Cloned;
use crate::capabilities::Sets;
use crate::channel::{Channel, Message};
use crate::init::{self, Prepared};
use crate::mounts::MountSources;
use crate::plan::{Plan, Root};
use crate::runtime::record::{Record, state_root};
use crate::runtime::start::StartLine;
use crate::supervise::{self, Running, Terminals};
use crate::terminal::UserTerminal;
use crate::{TOOL, cgroup, etc, identity, namespaces, netdev, rootfs, seccomp, userns};

/// How the tool was called, where that is not in the document.
pub struct Settings<'a> {
    /// what a relative `root.path` is relative to
    pub bundle: &'a Path,
    pub init: bool,
    pub interactive: bool,
    /// whether stdin is the container's: not where the document came through it
    pub pass_stdin: bool,
    /// whether stages before have made things for this id
    pub inherited: bool,
}

/// Runs a pipeline's container: makes it, waits for its end, removes what was made for it here. Returns the program's
/// exit status.
pub fn run(document: &Document, id: &ContainerId, settings: &Settings, signals: &SignalFd) -> Result<u8, Error> {
    let mut plan = Plan::check(document, id, settings.bundle, None)?;
    plan.init = settings.init;
    plan.state = hooks::state(document, "creating", None);
    if settings.interactive && !settings.pass_stdin && !plan.process.terminal {
        return Err(Error::new("cannot pass standard input on: the document came through it")
            .why("a pipe carries one thing: the document, or what the container is to read")
            .hint("… | mocker-exec -i --document-fd 3 3<&0 0<&4   with your own stdin kept before as 4: exec 4<&0"));
    }
    let prepared = prepare(&plan, settings.pass_stdin)?;
    for name in &prepared.missing {
        eprintln!("{TOOL}: warning: capability {name} cannot be given: this kernel or the caller does not have it");
    }
    let user = plan.process.terminal.then(UserTerminal::open).transpose()?;

    let dirs = Directories::from_env();
    let claim = state::claim(&dirs, id, TOOL, undo_hook(id)?, settings.inherited)?;
    let outcome = etc::prepare_directory(&plan, document).and_then(|()| {
        let mut record = Record::begin(&state_root(None), document, &plan, settings.bundle, false)?;
        let outcome = rootfs::prepare(&plan).and_then(|()| etc::prepare(&mut plan)).and_then(|()| {
            let made = make(&plan, &prepared, &mut record, None, Some(signals))?;
            made.supervise(&plan, user, settings.interactive, signals)
        });
        let forgotten = record.forget(|_| ());
        outcome.and_then(|status| forgotten.map(|()| status))
    });
    let removed = match &plan.root {
        Root::Layers { directory, .. } => etc::remove(directory),
        Root::Directory(_) => Ok(()),
    };
    if removed.is_ok() {
        claim.release();
    }
    match (outcome, removed) {
        (Ok(status), Err(error)) => {
            eprintln!("{TOOL}: {error}");
            Ok(status)
        }
        (Err(mut error), Err(also)) => {
            error.also.push(also.to_string());
            Err(error)
        }
        (outcome, Ok(())) => outcome,
    }
}

/// The command that removes what a killed tool has left of a container: it succeeds if nothing is.
pub fn undo_hook(id: &ContainerId) -> Result<Hook, Error> {
    let mut hook = Hook::own("delete", id)?;
    hook.args.insert(2, "--force".into());
    Ok(hook)
}

/// All that may be refused or costs memory, before anything is made.
pub fn prepare(plan: &Plan, pass_stdin: bool) -> Result<Prepared, Error> {
    identity::check(plan)?;
    let (mut capabilities, unknown) = Sets::from_document(&plan.capabilities)?;
    // In a user namespace of its own a process has them all, whatever the caller has.
    let owns = plan.has_namespace("user");
    let missing =
        capabilities.limit_to(if owns { crate::capabilities::bounding() } else { crate::capabilities::available()? });
    let missing = unknown.into_iter().chain(missing).collect();
    let mut sets = capabilities;
    if !plan.cgroup.devices {
        sets = sets.without("CAP_MKNOD");
    }
    let filter = plan.seccomp.as_ref().map(seccomp::from_document).transpose()?;
    Ok(Prepared { joins: namespaces::open(plan)?, capabilities: sets, filter, missing, pass_stdin })
}

/// A container whose program runs, or waits for `start`.
pub struct Made {
    pub running: Running,
    /// of the container's terminal
    pub master: Option<OwnedFd>,
}

/// Makes the container. With a start line its program waits there; without, it is running when this returns. If it cannot be
/// made, its process is gone.
pub fn make(
    plan: &Plan,
    prepared: &Prepared,
    record: &mut Record,
    line: Option<StartLine>,
    signals: Option<&SignalFd>,
) -> Result<Made, Error> {
    let mut groups = cgroup::open(plan)?;
    let sources = MountSources::open(plan)?;
    if let Some(signals) = signals {
        supervise::stop_if_asked(signals)?;
    }
    let (outside, inside) = Channel::pair()?;
    let running = match namespaces::clone_init(plan, &prepared.joins, &mut groups)? {
        Cloned::Child => {
            drop(outside);
            init::run(plan, prepared, &sources, &groups, inside, line)
        }
        Cloned::Parent { pid, pidfd } => Running { pid, pidfd },
    };
    drop(inside);
    drop(line);

    // A process that has ended already has no start time; its failure comes through the channel.
    record.init = Process::of(running.pid);
    let mapped = record.write().and_then(|()| userns::map(plan, running.pid, &outside));
    match mapped.and_then(|()| follow(plan, prepared, &running, &groups, &outside)) {
        Ok(master) => Ok(Made { running, master }),
        Err(error) => {
            running.kill();
            running.status().map(drop).unwrap_or_default(); // reaped; the first error is the one to tell
            Err(error)
        }
    }
}

/// Follows the container's making until its program runs or waits. Returns the master of its terminal, if it has one.
fn follow(
    plan: &Plan,
    prepared: &Prepared,
    running: &Running,
    groups: &cgroup::Groups,
    channel: &Channel,
) -> Result<Option<OwnedFd>, Error> {
    groups.enter(running.pid)?;
    let mut state = plan.state.clone();
    state["pid"] = running.pid.into();
    let mut master = None;
    loop {
        match channel.receive()? {
            Message::Terminal(descriptor) => master = Some(descriptor),
            Message::Listener(descriptor) => {
                seccomp::listener::hand_over(prepared.filter.as_ref(), descriptor, running.pid, &state)?;
                channel.go()?;
            }
            Message::Ready => {
                netdev::move_into(&plan.net_devices, running.pid)?;
                hooks::run_all("prestart", &plan.hooks.prestart, &state)?;
                hooks::run_all("createRuntime", &plan.hooks.create_runtime, &state)?;
                channel.go()?;
            }
            Message::Failed(error) => return Err(*error),
            Message::Waiting | Message::Closed => return Ok(master),
            Message::Go => {}
        }
    }
}

/// The hooks of the moment just after the program was started. If one fails the container has to end, and the hooks after
/// it are not run (runtime-spec 1.3, Lifecycle 9).
pub fn run_poststart(plan: &Plan, pid: i32) -> Result<(), Error> {
    let mut state = plan.state.clone();
    state["pid"] = pid.into();
    state["status"] = "running".into();
    hooks::run_all("poststart", &plan.hooks.poststart, &state)
}

impl Made {
    /// Stays with the container until its end. Returns the program's exit status.
    pub fn supervise(
        self,
        plan: &Plan,
        user: Option<UserTerminal>,
        interactive: bool,
        signals: &SignalFd,
    ) -> Result<u8, Error> {
        if let Err(error) = run_poststart(plan, self.running.pid) {
            self.running.kill();
            self.running.status().map(drop).unwrap_or_default(); // reaped; the hook's failure is the one to tell
            return Err(error);
        }
        let terminals = self.master.map(|master| Terminals { master, user, interactive });
        self.running.supervise(signals, terminals)
    }
}

/// Where the root will be, for people and engines.
pub fn rootfs_of(plan: &Plan) -> PathBuf {
    match &plan.root {
        Root::Layers { directory, .. } => directory.join("rootfs"),
        Root::Directory(directory) => directory.clone(),
    }
}
