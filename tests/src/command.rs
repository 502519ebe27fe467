//! Running a program in a lab, and what came of it.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::host::first_child;

/// A program to be run. It gets a session of its own in the lab, with everything it starts.
#[must_use]
pub struct Run {
    line: Vec<OsString>,
    command: Command,
    stdin: Input,
    timeout: Duration,
}

enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Open,
    As(Stdio),
}

impl Run {
    pub(crate) fn new(enter: &Path, directory: &Path, program: &OsStr) -> Run {
        let mut command = Command::new(enter);
        command.arg(directory).arg(program);
        Run { line: vec![program.into()], command, stdin: Input::Nothing, timeout: Duration::from_secs(60) }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.line.push(arg.as_ref().into());
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        for arg in args {
            self = self.arg(arg);
        }
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    pub fn env_remove(mut self, name: &str) -> Run {
        self.command.env_remove(name);
        self
    }

    /// What it reads on stdin. Without this: /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// A pipe on stdin that stays open until [`Running::close_stdin`].
    pub fn open_stdin(mut self) -> Run {
        self.stdin = Input::Open;
        self
    }

    /// A file or a terminal as stdin.
    pub fn stdin_from(mut self, stdin: impl Into<Stdio>) -> Run {
        self.stdin = Input::As(stdin.into());
        self
    }

    /// How long it may take [60 s]. Then it is killed and the test ends.
    pub fn timeout(mut self, timeout: Duration) -> Run {
        self.timeout = timeout;
        self
    }

    /// The command as the standard library has it, for what is not foreseen here (terminals).
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Running {
        let (stdin, bytes) = match self.stdin {
            Input::Nothing => (Stdio::null(), None),
            Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Input::Open => (Stdio::piped(), None),
            Input::As(stdin) => (stdin, None),
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let line = printable(&self.line);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let mut stdin = child.stdin.take();
        if let Some(bytes) = bytes {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // A program that ends without reading is no failure of the test.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = Reading::of(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Reading::of(child.stderr.take().expect("stderr is a pipe"));
        Running { line, child, stdin, stdout, stderr, deadline: Instant::now() + self.timeout, killed: Cell::new(None) }
    }
}

/// A started program. Dropping it kills its process group.
pub struct Running {
    line: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Reading,
    stderr: Reading,
    deadline: Instant,
    /// the process group that was sent SIGKILL
    killed: Cell<Option<Pid>>,
}

impl Running {
    /// Sends a signal to the program and all that it has started, as the terminal does on Ctrl-C.
    pub fn signal_group(&self, signal: Signal) {
        // Our child is nsenter, which waits for the program and gives back its status. The program leads a group.
        if let Some(program) = first_child(self.child.id()) {
            let group = Pid::from_raw(program as i32);
            killpg(group, signal).unwrap_or_default(); // it may have ended
            if signal == Signal::SIGKILL {
                self.killed.set(Some(group));
            }
        }
    }

    fn kill(&mut self) {
        self.signal_group(Signal::SIGKILL);
        killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL).unwrap_or_default();
        self.child.wait().ok();
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("open_stdin() was asked for").write_all(bytes).expect("it reads");
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has written `text` to stdout or stderr.
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let ended = self.has_ended();
            if self.stdout.so_far().contains(text) || self.stderr.so_far().contains(text) {
                return;
            }
            if ended || Instant::now() > self.deadline {
                let line = self.line.clone();
                let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
                self.kill();
                panic!("{line} has not written {text:?}\n--- stdout\n{out}\n--- stderr\n{err}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// What it has written to stdout and to stderr until now.
    pub fn output_so_far(&self) -> (String, String) {
        (self.stdout.so_far(), self.stderr.so_far())
    }

    /// Waits for its end. Of output that others still hold open after it (what it left in the background), one second's
    /// worth is waited for.
    pub fn wait(mut self) -> Output {
        self.stdin = None;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                break status;
            }
            if Instant::now() > self.deadline {
                self.kill();
                let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
                panic!("{} takes too long and was killed\n--- stdout\n{out}\n--- stderr\n{err}", self.line);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let patience = Instant::now() + Duration::from_secs(1);
        while self.killed.get().is_some_and(|group| killpg(group, None).is_ok()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1)); // a process that was killed in a system call ends it first
        }
        self.stdout.finish(patience);
        self.stderr.finish(patience);
        Output {
            line: self.line.clone(),
            status,
            bytes: self.stdout.bytes(),
            stdout: self.stdout.so_far(),
            stderr: self.stderr.so_far(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// A thread that reads a pipe to its end.
struct Reading {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Reading {
    fn of(mut pipe: impl Read + Send + 'static) -> Reading {
        let bytes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let shared = bytes.clone();
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 65536];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                shared.lock().expect("no reader panics").extend_from_slice(&chunk[..length]);
            }
        });
        Reading { bytes, thread }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no reader panics").clone()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn finish(&self, patience: Instant) {
        while !self.thread.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a program did.
pub struct Output {
    line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// stdout as it came
    pub bytes: Vec<u8>,
}

impl Output {
    /// The exit status as a shell has it: 128+n for signal n.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Ends the test unless it succeeded.
    #[track_caller]
    pub fn succeeds(self) -> Output {
        self.fails(0)
    }

    /// Ends the test unless it exited with this status.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        assert!(self.code() == code, "status {}, not {code}, of {self}", self.code());
        self
    }

    /// Ends the test unless stderr has `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}: {self}");
        self
    }

    /// Ends the test unless stdout has `text`.
    #[track_caller]
    pub fn prints(self, text: &str) -> Output {
        assert!(self.stdout.contains(text), "stdout lacks {text:?}: {self}");
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n--- {}", self.line, self.status)?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}---", self.stdout, self.stderr)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn printable(line: &[OsString]) -> String {
    let words: Vec<String> = line
        .iter()
        .map(|word| {
            let text = PathBuf::from(word).display().to_string();
            match text.contains(['\n', ' ', '\'', '"']) {
                true => format!("'{text}'"),
                false => text,
            }
        })
        .collect();
    words.join(" ")
}
