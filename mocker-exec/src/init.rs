//! Inside: what becomes the container, from its first moment to execve.
//!
//! Reads nothing but the plan; tells a failed step home over the channel, since after pivot_root a message has nowhere
//! else to go. One thread, in namespaces of its own. The order is the kernel's: see the reasons of the steps.

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use mocker_common::error::{Error, errno_text};
use mocker_common::explain;
use mocker_common::hooks::{self, Hook};
use mocker_common::step::step;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::calls::files::MakeDir;
use crate::calls::mounts::Chdir;
use crate::calls::process::{CloseOnExec, NewSession, Prctl, SetName};
use crate::capabilities::Sets;
use crate::cgroup::Groups;
use crate::channel::{Channel, Message};
use crate::labels::Labels;
use crate::mounts::MountSources;
use crate::namespaces::{self, Joins};
use crate::plan::Plan;
use crate::rootfs::{self, Rootfs};
use crate::runtime::start::StartLine;
use crate::{devices, identity, loopback, mounts, program, reaper, scheduling, seccomp, terminal, timens, userns};

/// What the parent prepared: everything that costs memory or may be refused is done before the fork.
pub struct Prepared {
    pub joins: Joins,
    pub capabilities: Sets,
    pub filter: Option<seccomp::Program>,
    /// capabilities that were asked for and cannot be given: a warning, not an error (runtime-spec config.md, Linux Process)
    pub missing: Vec<String>,
    /// whether stdin is the caller's to pass on; else it is empty
    pub pass_stdin: bool,
}

/// The child's whole life in this program. Never returns: it becomes the container's program, or ends.
pub fn run(
    plan: &Plan,
    prepared: &Prepared,
    sources: &MountSources,
    groups: &Groups,
    channel: Channel,
    line: Option<StartLine>,
) -> ! {
    explain::speak_as("init");
    let home = Home { channel, line, waits: Cell::new(false) };
    let entered = groups.enter_own();
    let Err(error) = entered.and_then(|()| become_container(plan, prepared, sources, &home));
    home.failed(&error);
    // SAFETY: ends this process at once; nothing of the parent's is flushed twice.
    unsafe { libc::_exit(i32::from(error.exit_status())) }
}

/// Whom to tell: the tool that makes the container, and later the one that starts it.
struct Home {
    channel: Channel,
    line: Option<StartLine>,
    /// whether the tool that makes it has been told that all is done
    waits: Cell<bool>,
}

impl Home {
    fn failed(&self, error: &Error) {
        match &self.line {
            Some(line) if self.waits.get() => line.failed(error),
            _ => self.channel.failed(error),
        }
    }
}

fn become_container(
    plan: &Plan,
    prepared: &Prepared,
    sources: &MountSources,
    home: &Home,
) -> Result<Infallible, Error> {
    let channel = &home.channel;
    let own = enter_user_and_time(plan, channel)?;
    let plan = own.as_ref().unwrap_or(plan);
    stay_bound_to_parent()?;
    rustix::process::umask(rustix::fs::Mode::empty());

    // The world: what it can see.
    namespaces::join(plan, &prepared.joins)?;
    if plan.makes_namespace("network") {
        loopback::bring_up()?;
    }
    let labels = identity::prepare(plan)?;
    let rootfs = rootfs::mount(plan)?;
    mounts::make(plan, &rootfs, sources)?;
    devices::make(plan, &rootfs)?;
    let slave = plan.process.terminal.then(|| terminal::make(plan, &rootfs, channel)).transpose()?;

    // Outside: hooks, and the group of v2 if it was not born there.
    channel.ready()?;
    wait_for_go(channel)?;
    scheduling::reset_affinity(0)?;
    namespaces::unshare_cgroup(plan)?;
    mounts::make_cgroups(plan, &rootfs, sources)?;
    identity::set_sysctls(plan, &rootfs)?;
    mounts::guard_kernel_files(plan, &rootfs)?;
    set_names(plan)?;
    run_hooks("createContainer", &plan.hooks.create_container, plan, "creating")?;

    // The move: from here on no path leads to the host.
    finish_root(plan, rootfs)?;
    enter_working_directory(&plan.process.cwd)?;
    become_user(plan, prepared, &labels, channel, slave)?;
    if let Some(line) = &home.line {
        wait_for_start(plan, home, line)?;
    }
    run_hooks("startContainer", &plan.hooks.start_container, plan, "created")?;
    program::execute(&plan.process)
}

/// Waits for the maps of its user namespace and becomes root in there; its clocks come before, while /proc/self is its own.
/// Returns the plan as it is from there on, where that differs.
fn enter_user_and_time(plan: &Plan, channel: &Channel) -> Result<Option<Plan>, Error> {
    if plan.mappings.is_some() {
        wait_for_go(channel)?;
    }
    if plan.makes_namespace("time") {
        timens::enter_new(&plan.time_offsets)?;
    }
    if !plan.has_namespace("user") {
        return Ok(None);
    }
    let own = userns::stand_in_root(plan)?;
    userns::become_root()?;
    userns::make_later(plan)?;
    Ok(own)
}

/// The container must not outlive the tool that cleans up after it.
pub fn stay_bound_to_parent() -> Result<(), Error> {
    step(Prctl { option: libc::PR_SET_PDEATHSIG, name: "PR_SET_PDEATHSIG", value: libc::SIGKILL as u64 })
        .because("if mocker-exec is killed nobody is left to stop the container or to undo what was made for it")?;
    step(Prctl { option: libc::PR_SET_DUMPABLE, name: "PR_SET_DUMPABLE", value: 0 })
        .because("until execve this is a program of the host, and /proc/1/exe would let the container reach its file")
}

/// The parent runs the hooks that are its to run. Its end before that is our end too.
pub fn wait_for_go(channel: &Channel) -> Result<(), Error> {
    match channel.receive()? {
        Message::Go => Ok(()),
        _ => Err(Error { quiet: true, ..Error::new("mocker-exec is gone") }),
    }
}

fn set_names(plan: &Plan) -> Result<(), Error> {
    if let Some(name) = plan.hostname.as_deref().filter(|_| plan.makes_namespace("uts")) {
        step(SetName { domain: false, name })
            .because("prompts and logs show it; without, they would show the host's")?;
    }
    if let Some(name) = plan.domainname.as_deref().filter(|_| plan.makes_namespace("uts")) {
        step(SetName { domain: true, name }).because("asked for: the NIS domain name of this uts namespace")?;
    }
    Ok(())
}

fn run_hooks(moment: &str, hooks: &[Hook], plan: &Plan, status: &str) -> Result<(), Error> {
    let mut state = plan.state.clone();
    state["status"] = status.into();
    state["pid"] = std::process::id().into();
    hooks::run_all(moment, hooks, &state)
}

fn finish_root(plan: &Plan, rootfs: Rootfs) -> Result<(), Error> {
    if plan.readonly {
        rootfs.make_readonly(!plan.cgroup.devices)?;
    }
    rootfs.pivot(plan.no_pivot)
}

/// The container is made and its program known to be there: whoever makes it may go, whoever starts it comes later.
fn wait_for_start(plan: &Plan, home: &Home, line: &StartLine) -> Result<(), Error> {
    program::check(&plan.process)?;
    home.channel.waiting()?;
    home.waits.set(true);
    line.wait()
}

/// Undoes [`stay_bound_to_parent`]. A tool that has died by now is missed at the next word to it.
fn outlive_parent() -> Result<(), Error> {
    step(Prctl { option: libc::PR_SET_PDEATHSIG, name: "PR_SET_PDEATHSIG", value: 0 })
        .because("the tool ends now, and what it has made stays")
}

/// Steps into process.cwd, made where it is missing, as docker does.
fn enter_working_directory(cwd: &str) -> Result<(), Error> {
    make_missing_directories(cwd)?;
    enter_existing_directory(cwd)
}

/// Steps into a working directory, and makes sure that it is the container's.
pub fn enter_existing_directory(cwd: &str) -> Result<(), Error> {
    step(Chdir(cwd)).because("the program expects to start here; relative paths in its configuration count on it")?;

    // A directory of the host that was left open would show here as a path that leads nowhere (CVE-2024-21626).
    let real = rustix::process::getcwd(Vec::new()).map_err(|errno| {
        Error::new(format!("cannot name the working directory: {}", errno_text(errno.raw_os_error())))
    })?;
    match real.to_bytes().starts_with(b"/") {
        true => Ok(()),
        false => Err(Error::new(format!("cannot start in {cwd}: it lies outside the container"))),
    }
}

fn make_missing_directories(cwd: &str) -> Result<(), Error> {
    let mut place = String::new();
    for name in cwd.split('/').filter(|name| !name.is_empty()) {
        place = format!("{place}/{name}");
        if rustix::fs::stat(&place).is_ok() {
            continue;
        }
        let made = step(MakeDir { parent: rustix::fs::CWD, name: &place, shown: &place, mode: 0o755 })
            .because("the working directory is not in the image");
        match made {
            Err(error) if error.errno == libc::EROFS => break, // chdir will say that it is not there
            other => other?,
        }
    }
    Ok(())
}

/// Descriptors, identity, session, terminal: all but the program.
pub fn become_user(
    plan: &Plan,
    prepared: &Prepared,
    labels: &Labels,
    channel: &Channel,
    slave: Option<OwnedFd>,
) -> Result<(), Error> {
    step_aside()?;
    if slave.is_none() && !prepared.pass_stdin {
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| Error::new(format!("cannot open /dev/null: {}", errno_text(errno.raw_os_error()))))?;
        terminal::standard_descriptors(null.as_fd(), "/dev/null", 0..1)?;
    }
    step(CloseOnExec { from: 3 + plan.preserve_fds })
        .because("a descriptor of the host that stays open is a way out of the container (CVE-2024-21626)")?;

    if plan.detached {
        outlive_parent()?;
    }
    if !plan.init {
        begin_session(plan, slave.as_ref())?;
    }
    let (capabilities, filter) = (&prepared.capabilities, prepared.filter.as_ref());
    identity::assume(plan, &identity::Prepared { capabilities, filter, labels }, channel)?;
    // Between the change of user and the step after it a parent that died sent nothing: look whether it is there.
    if channel.is_closed() {
        return Err(Error { quiet: true, ..Error::new("mocker-exec is gone") });
    }
    if plan.init {
        reaper::become_init()?;
        begin_session(plan, slave.as_ref())?;
    }
    Ok(())
}

/// A session of its own, on its own terminal, with no signal held back. Before the filter, which may forbid the calls for it.
fn begin_session(plan: &Plan, slave: Option<&OwnedFd>) -> Result<(), Error> {
    step(NewSession).because("the caller's terminal and its job control stay the caller's")?;
    if let Some(slave) = slave {
        terminal::adopt(slave)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(plan.process.user.umask.unwrap_or(0o022)));
    reset_signals()
}

/// Keeps the narrative on the caller's stderr when 2 becomes the container's terminal.
fn step_aside() -> Result<(), Error> {
    if !explain::on() {
        return Ok(());
    }
    let copy =
        std::io::stderr().as_fd().try_clone_to_owned().map_err(mocker_common::error::failed("copy", "stderr"))?;
    explain::write_to(std::os::fd::IntoRawFd::into_raw_fd(copy)); // open until execve closes it
    Ok(())
}

/// Default actions and no signal held back: both survive execve, and Rust starts with SIGPIPE ignored, which would
/// break `yes | head` in the container (signal(7)).
fn reset_signals() -> Result<(), Error> {
    crate::calls::process::default_dispositions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| Error::new(format!("cannot let signals through: {}", errno_text(errno as i32))))
}
