//! Outside: one container from its plan to its exit status.

use std::path::Path;

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;
use mocker_common::hooks::{self, Hook};
use mocker_common::state::{self, Directories};
use nix::sys::signalfd::SignalFd;

use crate::calls::process::Cloned;
use crate::capabilities::Sets;
use crate::channel::{Channel, Message};
use crate::init::{self, Prepared};
use crate::mounts::MountSources;
use crate::plan::{Plan, Root};
use crate::supervise::{self, Running, Terminals};
use crate::terminal::UserTerminal;
use crate::{TOOL, cgroup, etc, identity, namespaces, rootfs, seccomp, userns};

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

/// Makes the container, waits for its end, removes what was made for it here. Returns the program's exit status.
pub fn run(document: &Document, id: &ContainerId, settings: &Settings, signals: &SignalFd) -> Result<u8, Error> {
    let mut plan = Plan::check(document, id, settings.bundle, settings.init)?;
    plan.state = hooks::state(document, "creating", None);
    let prepared = prepare(&plan, settings)?;
    let user = plan.process.terminal.then(UserTerminal::open).transpose()?;

    let dirs = Directories::from_env();
    let claim = state::claim(&dirs, id, TOOL, Hook::own("delete", id)?, settings.inherited)?;
    let outcome = etc::prepare_directory(&plan, document).and_then(|()| {
        rootfs::prepare(&plan)?;
        etc::prepare(&mut plan)?;
        start_and_wait(&plan, &prepared, settings, user, signals)
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

/// All that may be refused or costs memory, before anything is made.
fn prepare(plan: &Plan, settings: &Settings) -> Result<Prepared, Error> {
    if settings.interactive && !settings.pass_stdin && !plan.process.terminal {
        return Err(Error::new("cannot pass standard input on: the document came through it")
            .why("a pipe carries one thing: the document, or what the container is to read")
            .hint("… | mocker-exec -i --document-fd 3 3<&0 0<&4   with your own stdin kept before as 4: exec 4<&0"));
    }
    plan.process.rlimits.iter().try_for_each(|limit| identity::limit_number(&limit.kind).map(drop))?;
    let (mut capabilities, unknown) = Sets::from_document(&plan.capabilities)?;
    let missing = capabilities.limit_to(crate::capabilities::available()?);
    // Unknown or ungrantable capabilities are a warning, not an error (runtime-spec config.md, Linux Process).
    for name in unknown.iter().chain(&missing) {
        eprintln!("{TOOL}: warning: capability {name} cannot be given: this kernel or the caller does not have it");
    }
    let mut sets = capabilities;
    if !plan.cgroup.devices {
        sets = sets.without("CAP_MKNOD");
    }
    let filter = plan.seccomp.as_ref().map(seccomp::from_document).transpose()?;
    Ok(Prepared { joins: namespaces::open(plan)?, capabilities: sets, filter, pass_stdin: settings.pass_stdin })
}

fn start_and_wait(
    plan: &Plan,
    prepared: &Prepared,
    settings: &Settings,
    user: Option<UserTerminal>,
    signals: &SignalFd,
) -> Result<u8, Error> {
    let groups = cgroup::open(plan)?;
    let sources = MountSources::open(plan)?;
    supervise::stop_if_asked(signals)?;
    let (outside, inside) = Channel::pair()?;
    let running = match namespaces::clone_init(plan, &prepared.joins)? {
        Cloned::Child => {
            drop(outside);
            init::run(plan, prepared, &sources, inside)
        }
        Cloned::Parent { pid, pidfd } => Running { pid, pidfd },
    };
    drop(inside);

    let mapped = plan.mappings.as_ref().map_or(Ok(()), |maps| userns::write_maps(running.pid, maps).and_then(|()| outside.go()));
    let started = mapped.and_then(|()| start(plan, &running, &groups, &outside));
    let master = match started {
        Ok(master) => master,
        Err(error) => {
            running.kill();
            running.status().map(drop).unwrap_or_default(); // reaped; the first error is the one to tell
            return Err(error);
        }
    };
    let terminals = master.map(|master| Terminals { master, user, interactive: settings.interactive });
    running.supervise(signals, terminals)
}

/// Follows the container's start until its program runs. Returns the master of its terminal, if it has one.
fn start(
    plan: &Plan,
    running: &Running,
    groups: &cgroup::Groups,
    channel: &Channel,
) -> Result<Option<std::os::fd::OwnedFd>, Error> {
    // Meanwhile the child makes its mounts: the first write to a cgroup.procs may wait for several milliseconds.
    groups.enter(running.pid)?;
    let mut state = plan.state.clone();
    state["pid"] = running.pid.into();
    let mut master = None;
    loop {
        match channel.receive()? {
            Message::Terminal(descriptor) => master = Some(descriptor),
            Message::Ready => {
                for hook in plan.hooks.prestart.iter().chain(&plan.hooks.create_runtime) {
                    hook.run(&state)?;
                }
                channel.go()?;
            }
            Message::Failed(error) => return Err(*error),
            Message::Closed => break,
            Message::Go => {}
        }
    }
    state["status"] = "running".into();
    for hook in &plan.hooks.poststart {
        if let Err(error) = hook.run(&state) {
            eprintln!("{TOOL}: {error}"); // runtime-spec: logged, the container runs on
        }
    }
    Ok(master)
}
