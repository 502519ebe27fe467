//! What every stage of the pipeline does alike: document in, job, document out; on failure, undo.
//!
//! ```text
//! stage::run(TOOL, &args.stage, |document, undo| { … })
//! ```
//!
//! Ctrl-C reaches every stage at once. So the signals that end a tool are held back from the first byte read to the
//! last one written; one that came meanwhile makes the stage undo its work, and then die by that very signal, so that
//! the shell stops too.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use clap::Args;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::document::{ContainerId, Document};
use crate::error::{Error, failed};
use crate::explain;
use crate::hooks::{self, Hook};
use crate::state::{self, Directories};
use crate::undo::Undo;

/// The options that every stage has.
#[derive(Args, Clone, Debug, Default)]
pub struct StageArgs {
    /// Start from the default document instead of reading one
    #[arg(long)]
    pub new: bool,
    /// The container's id, for the first stage of a pipeline [default: 12 random hex digits]
    #[arg(long, value_name = "ID")]
    pub id: Option<ContainerId>,
    /// A name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Read the document from this file descriptor instead of standard input
    #[arg(long, value_name = "FD")]
    pub document_fd: Option<i32>,
    #[command(flatten)]
    pub explain: ExplainArgs,
}

/// `--explain`, which every command has.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct ExplainArgs {
    /// Tell every kernel step on stderr: the call, why it is made, the same by hand
    #[arg(long, global = true, env = "MOCKER_EXPLAIN", value_name = "FORM", num_args = 0..=1, require_equals = true,
          default_missing_value = "text", hide_env = true)]
    pub explain: Option<explain::Mode>,
}

/// Runs a stage: reads the document, claims its id for `tool`, does `job`, and writes the document with the undo
/// command `TOOL delete ID` added. If anything fails, undoes the job, then what the stages before had made.
pub fn run(
    tool: &'static str,
    args: &StageArgs,
    job: impl FnOnce(&mut Document, &mut Undo) -> Result<(), Error>,
) -> Result<(), Error> {
    let signals = HeldSignals::hold()?;
    let dirs = Directories::from_env();
    let mut input = Input::read(args)?;
    let mut undo = Undo::new();
    let result = make(tool, args, &dirs, &mut input, &mut undo, &signals, job);
    let result = result.map_err(|mut error| {
        error.also.extend(undo.run().iter().map(ToString::to_string));
        input.unmake(&mut error);
        error
    });
    signals.die_if_any();
    result
}

fn make(
    tool: &'static str,
    args: &StageArgs,
    dirs: &Directories,
    input: &mut Input,
    undo: &mut Undo,
    signals: &HeldSignals,
    job: impl FnOnce(&mut Document, &mut Undo) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut document = input.document.clone();
    let id = document.ensure_id(args.id.as_ref())?;
    if let Some(name) = &args.name {
        document.set("/mocker/name", name.as_str());
    }
    let hook = Hook::own("delete", &id)?;
    let claim = state::claim(dirs, &id, tool, hook.clone(), input.inherited)?;
    undo.push(format!("the claim on {id}"), {
        let (dirs, id) = (dirs.clone(), id.clone());
        move || {
            state::release(&dirs, &id, tool);
            Ok(())
        }
    });

    job(&mut document, undo)?;
    document.undo_with(&hook);
    if let Some(signal) = signals.pending() {
        return Err(Error::new(format!("interrupted by {signal}")));
    }
    // A pipe's reader may be quick: it owns what it reads. A file keeps nothing until the document is in it.
    let piped = stdout_is_pipe();
    if piped {
        state::hand_over_to_stdout(&claim)?;
    }
    write(&document)?;
    wait_until_read(signals)?;
    if !piped {
        state::hand_over_to_stdout(&claim)?;
    }
    undo.disarm();
    Ok(())
}

fn stdout_is_pipe() -> bool {
    rustix::fs::fstat(std::io::stdout())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo)
}

/// Waits until the next stage has taken the whole document. A write to a pipe succeeds as long as a reader is there and
/// its 64 KiB are not full; a next stage that ends without reading (a wrong flag, say) would take over nothing, and
/// nobody would undo what was made. Source: pipe(7), Pipe capacity; `FIONREAD` counts what is still unread.
fn wait_until_read(signals: &HeldSignals) -> Result<(), Error> {
    let stdout = std::io::stdout();
    let is_pipe = stdout_is_pipe();
    let unread = || rustix::io::ioctl_fionread(&stdout).unwrap_or(0) > 0;
    let pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    while is_pipe && unread() {
        // Asked for no event, poll still tells that the last reader is gone.
        let mut reader = [PollFd::new(&stdout, PollFlags::empty())];
        let gone = poll(&mut reader, Some(&pause)).is_ok_and(|_| reader[0].revents().contains(PollFlags::ERR));
        if gone && unread() {
            return Err(not_taken("nobody has read it"));
        }
        if let Some(signal) = signals.pending() {
            return Err(Error::new(format!("interrupted by {signal}")));
        }
    }
    Ok(())
}

/// Writes the document to stdout in one go.
pub fn write(document: &Document) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&document.to_bytes()).and_then(|()| stdout.flush()).map_err(not_taken)
}

fn not_taken(cause: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot hand the document on: {cause}"))
        .likely("the next stage of the pipeline has ended already, and has said why")
}

/// The document a stage works on, and whether it came from a stage before.
pub struct Input {
    pub document: Document,
    /// read from a stage before: what it describes is ours to unmake if we fail
    pub inherited: bool,
}

impl Input {
    /// Reads the document to its end. "No document" means that `--new` was given or that stdin is a terminal or
    /// /dev/null; an *empty* one means that the stage before has failed and said why.
    pub fn read(args: &StageArgs) -> Result<Input, Error> {
        if args.new || (args.document_fd.is_none() && nobody_writes_stdin()) {
            return Ok(Input { document: Document::new(), inherited: false });
        }
        let mut bytes = Vec::new();
        let outcome = match args.document_fd {
            None => std::io::stdin().lock().read_to_end(&mut bytes),
            Some(number) => descriptor(number)?.read_to_end(&mut bytes),
        };
        outcome.map_err(failed("read", "the document"))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::already_said());
        }
        Ok(Input { document: Document::parse(&bytes)?, inherited: true })
    }

    /// Runs the undo commands of the document that was read; their failures are added to `error`.
    pub fn unmake(&self, error: &mut Error) {
        if self.inherited {
            error.also.extend(hooks::run_poststop(&self.document).iter().map(ToString::to_string));
        }
    }
}

/// A terminal or /dev/null hands nobody a document: no stage of a pipeline stands there.
fn nobody_writes_stdin() -> bool {
    let is_device = |stat: rustix::fs::Stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
    };
    rustix::fs::fstat(std::io::stdin()).is_ok_and(is_device)
}

fn descriptor(number: i32) -> Result<File, Error> {
    let refused = |cause: &str| Error::new(format!("cannot read the document from descriptor {number}: {cause}"));
    // SAFETY: fcntl on any number is harmless; it says whether the descriptor is open.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(refused("it is not open").hint("mocker-exec --document-fd 3 3<document.json"));
    }
    // SAFETY: it is open, and the caller named it for this use alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// The signals that end a tool, held back while it works.
pub struct HeldSignals {
    before: SigSet,
}

const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

impl HeldSignals {
    pub fn hold() -> Result<Self, Error> {
        let mut before = SigSet::empty();
        // One that is ignored (nohup, a background job of sh) was not meant for us, and would wait for ever.
        let held: SigSet = ENDING.into_iter().filter(|signal| !is_ignored(*signal)).collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&held), Some(&mut before))
            .map_err(|errno| Error::new(format!("cannot hold back signals: {errno}")))?;
        Ok(HeldSignals { before })
    }

    /// A signal that came and waits.
    pub fn pending(&self) -> Option<Signal> {
        // SAFETY: sigpending only fills the set it is given.
        let waiting = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigpending(&mut set);
            SigSet::from_sigset_t_unchecked(set)
        };
        ENDING.into_iter().find(|signal| waiting.contains(*signal) && !self.before.contains(*signal))
    }

    /// Dies by the signal that waits, if one does; else lets signals through again.
    pub fn die_if_any(&self) {
        let signal = self.pending();
        let restored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
        // A pending signal has ended us by now, unless it is ignored or handled; then it was not meant to.
        if restored.is_err()
            && let Some(signal) = signal
        {
            kill(nix::unistd::Pid::this(), signal).unwrap_or_default();
        }
    }
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: without a new disposition sigaction only fills the old one, for which all zeros is a valid value.
    unsafe {
        let mut disposition: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as i32, std::ptr::null(), &mut disposition) == 0
            && disposition.sa_sigaction == libc::SIG_IGN
    }
}

/// Runs a tool's command: prints its error as `TOOL: …` and turns it into the exit status.
pub fn conclude(tool: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.quiet {
                eprintln!("{tool}: {error}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// Unmakes what this tool's dead owners left behind: `TOOL prune`. Says on stderr what went.
pub fn prune(tool: &'static str, delete: impl Fn(&ContainerId) -> Result<(), Error>) -> Result<(), Error> {
    let dirs = Directories::from_env();
    let mut failures = Vec::new();
    for orphan in state::take_orphans(&dirs, tool)? {
        let outcome = orphan.id.parse().and_then(|id| delete(&id));
        match outcome {
            Ok(()) => eprintln!("{tool}: removed {}, whose owner is gone", orphan.id),
            Err(error) => failures.push(error),
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error {
            also: failures.iter().map(ToString::to_string).collect(),
            ..Error::new("cannot remove everything that was left behind")
        }),
    }
}

/// Lets a listing end quietly when its reader does (`mocker-images | head -1`): Rust starts with SIGPIPE ignored.
pub fn die_by_sigpipe() {
    // SAFETY: restoring a default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
