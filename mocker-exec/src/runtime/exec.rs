//! `exec`: one more process in a container that is there.
//!
//! It enters the container's groups first, before it can fork; then all its namespaces in one call, through
//! the first process's pidfd; then it becomes a user and a program as the first process did.
//! Source: setns(2), pidfd_open(2); runc(8), exec.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::explain;
use mocker_common::image::read_layered;
use mocker_common::passwd;
use mocker_common::step::step;
use nix::sched::CloneFlags;
use rustix::process::PidfdFlags;
use serde_json::{Value, json};

use crate::args::ExecArgs;
use crate::calls::process::{Cloned, JoinAll};
use crate::channel::{Channel, Message};
use crate::container;
use crate::init::{self, Prepared};
use crate::plan::Plan;
use crate::runtime::Runtime;
use crate::runtime::console::{self, Receiver};
use crate::runtime::create::write_pid_file;
use crate::runtime::record::{Record, Status};
use crate::supervise::{Running, Terminals, catch_signals};
use crate::terminal::{self, UserTerminal};
use crate::{cgroup, identity, namespaces, program, scheduling, seccomp, userns};

/// Runs a process in a container. Returns its exit status; detached, 0 as soon as it runs.
pub fn exec(runtime: &Runtime, args: &ExecArgs) -> Result<u8, Error> {
    let failing = |error: Error| error.while_doing("exec failed");
    let record = Record::find(&runtime.root, &args.id).map_err(failing)?;
    let refused = match record.status() {
        Status::Created | Status::Running => None,
        Status::Paused if args.ignore_paused => None,
        Status::Paused => Some("cannot exec in a paused container (use --ignore-paused to override)"),
        Status::Stopped | Status::Creating => Some("cannot exec in a stopped container"),
    };
    if let Some(words) = refused {
        return Err(Error::new(words));
    }
    let process = Process::read(&record, args)?;
    process.run(&record, args).map_err(failing)
}

/// A process that can be run: read and checked.
struct Process {
    plan: Plan,
    prepared: Prepared,
    console: Option<Receiver>,
    /// groups below the container's own
    below: Vec<String>,
}

impl Process {
    fn read(record: &Record, args: &ExecArgs) -> Result<Process, Error> {
        let mut document = record.document()?;
        let process = match &args.process {
            Some(path) => with_defaults(read_process(path)?, &document),
            None => process_of_flags(&document, args)?,
        };
        document.set("/process", process);
        let terminal = args.tty || document.get("/process/terminal").is_some_and(|terminal| *terminal == true);
        document.set("/process/terminal", terminal);
        match (&args.console_socket, terminal && args.detach) {
            (None, true) => {
                return Err(Error::new("cannot allocate tty if runc will detach without setting console socket"));
            }
            (Some(_), false) => {
                return Err(Error::new("cannot use console socket if runc will not detach or allocate tty"));
            }
            _ => {}
        }
        let id = record.id.parse()?;
        let mut plan = Plan::of_process(&document, &id, record.cgroup.clone())?;
        plan.preserve_fds = args.preserve_fds;
        plan.is_of_engine = true;
        plan.detached = args.detach;
        let prepared = container::prepare(&plan, true)?;
        let console = args.console_socket.as_deref().map(console::connect_to).transpose()?;
        Ok(Process { plan, prepared, console, below: args.cgroup.clone() })
    }

    fn run(mut self, record: &Record, args: &ExecArgs) -> Result<u8, Error> {
        let signals = (!args.detach).then(catch_signals).transpose()?;
        let user = (self.plan.process.terminal && !args.detach).then(UserTerminal::open).transpose()?;
        let (running, master) = self.start(record)?;
        if let (Some(console), Some(master)) = (self.console.take(), &master) {
            console.send(master.as_fd(), "/dev/ptmx")?;
        }
        if let Some(socket) = &args.pidfd_socket {
            console::connect_to(socket)?.send(running.pidfd.as_fd(), "pidfd")?;
        }
        if let Some(path) = &args.pid_file {
            write_pid_file(path, running.pid)?;
        }
        match signals {
            Some(signals) => {
                let terminals = master.map(|master| Terminals { master, user, interactive: true });
                running.supervise(&signals, terminals)
            }
            None => Ok(0),
        }
    }

    /// Starts it. Returns when its program has been executed.
    fn start(&self, record: &Record) -> Result<(Running, Option<OwnedFd>), Error> {
        let ended = || Error::new("cannot exec in a stopped container");
        let init = record.init.ok_or_else(ended)?;
        let pid = rustix::process::Pid::from_raw(init.pid).ok_or_else(ended)?;
        let first = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?;
        if !init.is_alive() {
            return Err(ended()); // the number belongs to another process by now
        }
        let mut groups = cgroup::open_for_exec(&self.plan, init.pid, &self.below)?;
        let kinds = userns::kinds_to_join(namespaces::kinds(&self.plan), init.pid)?;
        let kinds = userns::join_first(first.as_fd(), init.pid, kinds)?;
        if kinds.contains(CloneFlags::CLONE_NEWPID) {
            step(JoinAll { process: first.as_fd(), kinds: CloneFlags::CLONE_NEWPID, pid: init.pid })
                .because("a pid namespace takes in children only: the child that is made next is born inside")?;
        }
        if let Some(affinity) = &self.plan.process.exec_cpu_affinity {
            affinity.before_group()?;
        }
        let (outside, inside) = Channel::pair()?;
        let why = "the tool stays outside and waits; its child goes into the container and becomes the program";
        let made = groups.clone(CloneFlags::empty(), why)?;
        let running = match made {
            Cloned::Child => {
                drop(outside);
                self.become_process(first.as_fd(), init.pid, kinds, &groups, inside)
            }
            Cloned::Parent { pid, pidfd } => Running { pid, pidfd },
        };
        drop(inside);
        let limited = userns::set_limits(&self.plan, running.pid);
        match limited.and_then(|()| self.follow(record, &running, &groups, &outside)) {
            Ok(master) => Ok((running, master)),
            Err(error) => {
                running.kill();
                running.status().map(drop).unwrap_or_default(); // reaped; the first error is the one to tell
                Err(error)
            }
        }
    }

    /// The child's whole life in this program.
    fn become_process(
        &self,
        first: BorrowedFd<'_>,
        pid: i32,
        kinds: CloneFlags,
        groups: &cgroup::Groups,
        channel: Channel,
    ) -> ! {
        explain::speak_as("exec");
        let Err(error) = groups.enter_own().and_then(|()| self.enter(first, pid, kinds, &channel));
        channel.failed(&error);
        // SAFETY: ends this process at once; nothing of the parent's is flushed twice.
        unsafe { libc::_exit(i32::from(error.exit_status())) }
    }

    fn enter(
        &self,
        first: BorrowedFd<'_>,
        pid: i32,
        kinds: CloneFlags,
        channel: &Channel,
    ) -> Result<Infallible, Error> {
        init::stay_bound_to_parent()?;
        rustix::process::umask(rustix::fs::Mode::empty());
        init::wait_for_go(channel)?;
        match &self.plan.process.exec_cpu_affinity {
            Some(affinity) => affinity.in_group(0)?,
            None => scheduling::reset_affinity(0)?,
        }
        let labels = identity::prepare(&self.plan)?;
        let others = kinds.difference(CloneFlags::CLONE_NEWPID);
        if !others.is_empty() {
            step(JoinAll { process: first, kinds: others, pid })
                .because("it is to see what the container sees: its files, its network, its names, and nothing else")?;
        }
        if self.plan.has_namespace("user") {
            userns::become_root()?;
            init::stay_bound_to_parent()?;
        }
        let slave = self.plan.process.terminal.then(|| terminal::make_for_exec(&self.plan, channel)).transpose()?;
        init::enter_existing_directory(&self.plan.process.cwd)?;
        let process = with_home(&self.plan.process)?;
        init::become_user(&self.plan, &self.prepared, &labels, channel, slave)?;
        program::execute(&process)
    }

    /// Follows the process into the container until its program runs. Returns the master of its terminal, if it has one.
    fn follow(
        &self,
        record: &Record,
        running: &Running,
        groups: &cgroup::Groups,
        channel: &Channel,
    ) -> Result<Option<OwnedFd>, Error> {
        groups.enter(running.pid)?;
        channel.go()?;
        let mut master = None;
        loop {
            match channel.receive()? {
                Message::Terminal(descriptor) => master = Some(descriptor),
                Message::Listener(descriptor) => {
                    let state = record.state(Status::Running);
                    seccomp::listener::hand_over(self.prepared.filter.as_ref(), descriptor, running.pid, &state)?;
                    channel.go()?;
                }
                Message::Failed(error) => return Err(*error),
                Message::Closed => return Ok(master),
                _ => {}
            }
        }
    }
}

/// HOME from the container's own passwd, read inside.
fn with_home(process: &crate::plan::Process) -> Result<crate::plan::Process, Error> {
    let mut process = process.clone();
    if !process.env.iter().any(|entry| entry.len() > "HOME=".len() && entry.starts_with("HOME=")) {
        let passwd = read_layered(&["/".into()], "etc/passwd").unwrap_or_default();
        process.env.retain(|entry| entry != "HOME=");
        let home = passwd::home_of(process.user.uid, &passwd).unwrap_or_else(|| "/".into());
        process.env.push(format!("HOME={home}"));
    }
    Ok(process)
}

fn read_process(path: &Path) -> Result<Value, Error> {
    let bytes = std::fs::read(path).map_err(failed("read process", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|cause| Error::new(format!("cannot read process {}: {cause}", path.display())))
}

/// What confines the container's own process confines one that says nothing of it, as in runc.
fn with_defaults(mut process: Value, document: &Document) -> Value {
    let keys = [
        "capabilities",
        "rlimits",
        "oomScoreAdj",
        "scheduler",
        "ioPriority",
        "execCPUAffinity",
        "apparmorProfile",
        "selinuxLabel",
    ];
    for key in keys {
        let says_nothing = match process.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if let Some(own) = document.get(&format!("/process/{key}")).filter(|_| says_nothing && process.is_object()) {
            process[key] = own.clone();
        }
    }
    process
}

/// The container's own process with what the flags change.
fn process_of_flags(document: &Document, args: &ExecArgs) -> Result<Value, Error> {
    if args.args.is_empty() {
        return Err(Error::new("process args cannot be empty").hint("mocker-exec exec ID COMMAND [ARG…]"));
    }
    let mut process = document.get("/process").cloned().unwrap_or_else(|| json!({}));
    process["args"] = json!(args.args);
    process["terminal"] = args.tty.into();
    process["consoleSize"] = Value::Null;
    if let Some(cwd) = &args.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = label.as_str().into();
    }
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = true.into();
    }
    let mut env: Vec<Value> = process["env"].as_array().cloned().unwrap_or_default();
    env.extend(args.env.iter().map(|entry| entry.as_str().into()));
    process["env"] = env.into();
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| -> Result<u32, Error> {
            text.parse().map_err(|_| Error::new(format!("cannot use user '{user}': UID[:GID] are numbers")))
        };
        process["user"]["uid"] = number(uid)?.into();
        if let Some(gid) = gid {
            process["user"]["gid"] = number(gid)?.into();
        }
    }
    let mut gids: Vec<Value> = process["user"]["additionalGids"].as_array().cloned().unwrap_or_default();
    gids.extend(args.additional_gids.iter().map(|gid| Value::from(*gid)));
    process["user"]["additionalGids"] = gids.into();
    for set in ["bounding", "effective", "permitted"] {
        if !args.cap.is_empty() {
            let mut names: Vec<Value> = process["capabilities"][set].as_array().cloned().unwrap_or_default();
            names.extend(args.cap.iter().map(|name| name.as_str().into()));
            process["capabilities"][set] = names.into();
        }
    }
    Ok(process)
}
