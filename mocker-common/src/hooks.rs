//! Hooks: commands that a document carries, run at fixed moments of a container's life.
//!
//! mocker uses `poststop` for undo: each stage adds the command that unmakes what it made. Source: runtime-spec
//! config.md, POSIX-platform Hooks; runtime.md, Lifecycle.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::document::{ContainerId, Document};
use crate::error::{Error, failed};

/// One entry of `hooks.*`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    /// absolute
    pub path: String,
    /// with args[0]; empty means the path alone
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// the whole environment: a hook inherits nothing
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// seconds
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// Where this program's file lies, if the program knows better than /proc/self/exe.
static OWN_PATH: OnceLock<PathBuf> = OnceLock::new();

/// Tells where this program's file lies: mocker-exec runs from a mount that is attached nowhere.
pub fn set_own_path(path: PathBuf) {
    OWN_PATH.set(path).unwrap_or_default(); // told once
}

impl Hook {
    /// The command that makes this very tool unmake what it made for a container: `TOOL delete ID`.
    pub fn own(verb: &str, id: &ContainerId) -> Result<Hook, Error> {
        let own = match OWN_PATH.get() {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(failed("find", "this program's own path"))?,
        };
        let path = own.to_string_lossy().trim_end_matches(" (deleted)").to_string();
        let env = ["MOCKER_ROOT", "MOCKER_RUN", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "HOME", "PATH"]
            .iter()
            .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
            .collect();
        let name = path.rsplit('/').next().unwrap_or(&path).to_string();
        Ok(Hook { args: vec![name, verb.into(), id.to_string()], path, env, timeout: Some(30) })
    }

    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null) // strings and a number always serialise
    }

    /// Runs the hook with the container's state on its stdin. Fails if it cannot start, fails, or takes too long.
    pub fn run(&self, state: &Value) -> Result<(), Error> {
        let refused = |cause: String| Error::new(format!("cannot run hook {}: {cause}", self.path));
        if !self.path.starts_with('/') {
            return Err(refused("its path is not absolute".into()));
        }
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env_clear().envs(self.env.iter().filter_map(|entry| entry.split_once('=')));
        // Its own process group: a Ctrl-C meant for the container must not cut its clean-up short.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(failed("run hook", &self.path))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A hook need not read its stdin.
            stdin.write_all(state.to_string().as_bytes()).unwrap_or_default();
        }

        if !wait_for_end(&child, self.timeout.map(Duration::from_secs))? {
            // It leads a process group: what it has started goes with it.
            let group = nix::unistd::Pid::from_raw(child.id() as i32);
            killpg(group, Signal::SIGKILL).map_err(|errno| failed("kill hook", &self.path)(errno.into()))?;
            child.wait().map_err(failed("wait for hook", &self.path))?;
            return Err(refused(format!("it took longer than {} s", self.timeout.unwrap_or(0))));
        }
        match child.wait().map_err(failed("wait for hook", &self.path))? {
            status if status.success() => Ok(()),
            status => Err(refused(status.to_string())),
        }
    }
}

/// Runs the hooks of one moment (`createRuntime`, …) in their order. The first that fails stops the rest; the error says which.
pub fn run_all(moment: &str, hooks: &[Hook], state: &Value) -> Result<(), Error> {
    hooks.iter().enumerate().try_for_each(|(number, hook)| {
        hook.run(state).map_err(|error| error.while_doing(format!("error running {moment} hook #{number}")))
    })
}

/// Waits until a child has ended, at most this long. Whether it has. Source: pidfd_open(2).
fn wait_for_end(child: &Child, limit: Option<Duration>) -> Result<bool, Error> {
    let refused = |errno: rustix::io::Errno| failed("wait for hook", child.id())(errno.into());
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return Ok(true) };
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(refused)?;
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().unwrap_or(None); // centuries are as good as for ever
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// The state that hooks read on stdin (runtime-spec runtime.md, State).
pub fn state(document: &Document, status: &str, pid: Option<i32>) -> Value {
    let mut state = json!({
        "ociVersion": document.text("/ociVersion").unwrap_or("1.3.0"),
        "id": document.text("/mocker/id").unwrap_or(""),
        "status": status,
        "bundle": std::env::current_dir().unwrap_or_else(|_| "/".into()),
    });
    if let Some(pid) = pid {
        state["pid"] = pid.into();
    }
    if let Some(annotations) = document.get("/annotations") {
        state["annotations"] = annotations.clone();
    }
    state
}

/// Runs every `poststop` hook of a document. One that fails does not stop the others; all failures are returned.
pub fn run_poststop(document: &Document) -> Vec<Error> {
    let hooks = match document.poststop() {
        Ok(hooks) => hooks,
        Err(error) => return vec![error],
    };
    let state = state(document, "stopped", None);
    hooks.iter().filter_map(|hook| hook.run(&state).err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], ..Hook::default() }
    }

    #[test]
    fn a_hook_reads_the_state_and_inherits_no_environment() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("out");
        let mut hook = shell(&format!("cat > {0}; echo \"[$HOME|$A]\" >> {0}", file.display()));
        hook.env = vec!["A=b".into()];
        hook.run(&json!({"id": "x"})).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "{\"id\":\"x\"}[|b]\n");
    }

    #[test]
    fn a_hook_that_fails_or_hangs_is_reported() {
        assert!(shell("exit 3").run(&json!({})).unwrap_err().what.contains("exit status: 3"));
        let mut slow = shell("sleep 9");
        slow.timeout = Some(0);
        assert!(slow.run(&json!({})).unwrap_err().what.contains("longer than 0 s"));
        assert!(Hook { path: "bin/sh".into(), ..Hook::default() }.run(&json!({})).is_err());
    }
}
