//! A person at a keyboard: a program on a pseudo-terminal whose other end the test holds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use crate::command::Run;

/// A program on a terminal. Dropping it hangs up.
pub struct Terminal {
    program: Child,
    master: File,
    /// kept open, so that the terminal's settings can be read after the program has ended
    slave: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// how much of the screen has been waited for already
    seen: usize,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Terminal {
    pub(crate) fn start(mut run: Run, rows: u16, columns: u16) -> Terminal {
        let OpenptyResult { master, slave } = openpty(&size(rows, columns), None).expect("a pseudo-terminal");
        let (master, slave) = (File::from(master), File::from(slave));
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let program = run.command().stdin(end()).stdout(end()).stderr(end()).spawn().expect("the lab's enter script");

        let screen = Arc::new(Mutex::new(Vec::new()));
        let (shared, mut output) = (screen.clone(), master.try_clone().expect("a descriptor"));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut chunk) {
                shared.lock().expect("no reader panics").extend_from_slice(&chunk[..length]);
            }
        });
        Terminal { program, master, slave, screen, seen: 0 }
    }

    /// Types.
    pub fn write(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits for a text to appear after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "the terminal does not show {text:?}, but:\n{screen}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that was ever shown.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no reader panics")).into_owned()
    }

    /// Drags the window to another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        // SAFETY: TIOCSWINSZ reads a winsize, which outlives the call.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size(rows, columns)) };
        assert_eq!(set, 0, "the window's size");
    }

    /// The terminal's settings: echo, raw or not, ….
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("the terminal's settings")
    }

    /// Waits for the program to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "the program on the terminal does not end:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.program.kill().ok(); // what it has started dies with the lab
        self.program.wait().ok();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
