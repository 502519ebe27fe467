//! `delete`: a container's process, groups, hooks and record go, in this order. And `prune`, of what nobody deletes.
//!
//! The record goes last: a delete that is killed can be done again.

use std::time::Duration;

use mocker_common::document::ContainerId;
use mocker_common::error::{Error, errno_text};
use mocker_common::hooks::Hook;
use mocker_common::stage;
use mocker_common::state::{self, Directories, Process};
use mocker_common::store::Store;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::runtime::record::{Record, Status, parse_id, sweep};
use crate::runtime::{Runtime, groups};
use crate::{TOOL, etc};

/// Removes what is left of a container. `force`: ends it first, and succeeds if there is none.
pub fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<(), Error> {
    let parsed = parse_id(id)?;
    match Record::find(&runtime.root, id) {
        Ok(record) => match record.status() {
            Status::Running | Status::Paused | Status::Creating if !force => {
                Err(Error::new(format!("cannot delete container {id} that is not stopped: {}", record.status().name()))
                    .hint(format!("mocker-exec kill {id} KILL, or delete --force")))
            }
            _ => remove(&record),
        },
        Err(_) if force => sweep(&runtime.root, Some(id), run_poststop).and_then(|()| delete_layer(&parsed)),
        Err(error) => Err(error),
    }
}

/// What a pipeline's container has left: its writable layer. Nothing of an engine's stands there.
fn delete_layer(id: &ContainerId) -> Result<(), Error> {
    let dirs = Directories::from_env();
    if !state::is_claimed(&dirs, id, TOOL) && !dirs.root.join("containers").join(id.as_str()).exists() {
        return Ok(());
    }
    // Where `mocker-images mount` made the container's directory, its mount lies in there, and it is not ours to remove.
    if !state::is_claimed(&dirs, id, "mocker-images") {
        etc::remove(&Store::open()?.container(id))?;
    }
    state::release(&dirs, id, TOOL);
    Ok(())
}

/// Ends a container and removes everything that was made for it, its record last.
pub fn remove(record: &Record) -> Result<(), Error> {
    end(record)?;
    if record.made_groups {
        groups::remove(&record.cgroup)?;
    }
    delete_layer(&record.id.parse()?)?;
    record.forget(run_poststop)
}

/// Kills the first process, and with it everything in its pid namespace, and waits for the end.
fn end(record: &Record) -> Result<(), Error> {
    if record.init.is_none() && record.creator != Process::this()? {
        end_process(record, record.creator)?; // its first process, which no record names yet, goes with it
    }
    let Some(init) = record.init.filter(|init| init.is_alive()) else { return Ok(()) };
    if groups::is_frozen(&record.cgroup) {
        // On v1 a frozen process takes no signal, not even SIGKILL.
        return groups::end_processes(&record.cgroup);
    }
    end_process(record, init)
}

fn end_process(record: &Record, process: Process) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let pid = rustix::process::Pid::from_raw(process.pid);
    let pidfd = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) if process.is_alive() => pidfd, // still the same: the number was not given away in between
        _ => return Ok(()),
    };
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => {
            let text = errno_text(errno.raw_os_error());
            return Err(Error::new(format!("cannot kill process {}: {text}", process.pid)));
        }
    }
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)) {
        Ok(0) => Err(Error::new(format!("cannot end {}: process {} will not die", record.id, process.pid))
            .likely("it waits inside the kernel for a device or a file server")
            .hint(format!("cat /proc/{}/stack", process.pid))),
        _ => Ok(()),
    }
}

/// The hooks of the end. One that fails is told; the others run, and the container is deleted (runtime-spec, Lifecycle 13).
fn run_poststop(record: &Record) {
    let Ok(document) = record.document() else { return };
    let hooks: Vec<Hook> = document.view("/hooks/poststop").unwrap_or_default();
    let state = record.state(Status::Stopped);
    for error in hooks.iter().filter_map(|hook| hook.run(&state).err()) {
        eprintln!("{TOOL}: {error}");
    }
}

/// Removes what killed tools have left: of pipelines, and containers whose maker or supervisor is gone.
pub fn prune(runtime: &Runtime) -> Result<(), Error> {
    stage::prune(TOOL, |id| delete(runtime, id.as_str(), true))?;
    for record in Record::all(&runtime.root)? {
        let is_left = record.status() == Status::Stopped && !record.creator.is_alive();
        if is_left && (record.supervised || record.init.is_none()) {
            remove(&record)?;
            eprintln!("{TOOL}: removed {}, whose owner is gone", record.id);
        }
    }
    sweep(&runtime.root, None, run_poststop)
}
