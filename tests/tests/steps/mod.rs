//! Killing a tool at each of its steps.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use tests::Lab;

/// Runs `make`, a tool with `--explain=json`, again and again, killing it one step later each time; after each, `prune`
/// must leave the lab as it was. Ends when the tool is done before it is killed; `unmake` takes down that last one.
/// Returns how many steps there were.
pub fn kill_at_each(lab: &Lab, make: &str, prune: &str, unmake: &str) -> usize {
    let before = lab.snapshot();
    let mut steps = 0;
    while killed_after(lab, make, steps) && !is_done(lab) {
        lab.sh(prune).succeeds();
        lab.assert_same(&before);
        steps += 1;
    }
    lab.sh(unmake).succeeds();
    lab.assert_same(&before);
    steps
}

/// Whether a tool had come to its end when it was killed: what it made for a file is made to stay.
fn is_done(lab: &Lab) -> bool {
    lab.sh("grep -q '\"owner\":\"kept\"' $MOCKER_RUN/owners/*.json").code() == 0
}

/// Runs a command that tells its steps, and kills it when it has told more than `steps`. False if it is done before.
///
/// The narrative goes into a pipe that holds one line: the tool makes a step, tells the next one, and waits for its reader
/// before it tells another. So the kill comes at the very step.
fn killed_after(lab: &Lab, script: &str, steps: usize) -> bool {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe of one page");
    let mut run = lab.shell(&format!("{script} 2>&9 9>&- > /dev/null"));
    let descriptor = writer.as_raw_fd();
    // SAFETY: dup2 is async-signal-safe and touches no memory.
    unsafe {
        run.command().pre_exec(move || match libc::dup2(descriptor, 9) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let running = run.spawn();
    drop::<OwnedFd>(writer);
    let mut lines = std::fs::File::from(reader);
    let mut line = [0; 4096];
    let told = (0..=steps).all(|_| lines.read(&mut line).expect("the narrative") > 0);
    if told {
        std::thread::sleep(Duration::from_millis(5));
        running.signal_group(Signal::SIGKILL);
    }
    let code = running.wait().code();
    if code == 0 {
        return false;
    }
    assert_eq!(code, 137);
    true
}
