//! Credential helpers: programs that keep passwords for docker, `docker-credential-NAME`.
//!
//! `get` reads the registry's address on stdin and prints `{"Username": …, "Secret": …}`, or says that it has none. It is
//! a stranger's program: its answer has a limit, and so has the time it may take. Source: docker-credential-helpers,
//! README, "Development of a credential helper".

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mocker_common::error::Error;
use mocker_common::explain;
use mocker_common::step::{Cause, Explained, report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::credentials::{Credentials, Secret};
use crate::manifest::printable;

/// The largest answer that is read, and the most of what it complains.
const LIMIT: usize = 64 << 10;
const WHY: &str =
    "the password is not in docker's file: that leaves it to this program, which asks a key ring or a cloud";

/// A helper to be asked about one registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Helper {
    /// `docker-credential-pass`
    pub program: String,
    /// docker's key for the registry: `https://index.docker.io/v1/`, `quay.io`
    pub server: String,
}

/// What it has printed until its end.
struct Answer {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// Asks a helper, at most so long. None means that it has nothing for this registry. Dropped meanwhile, it ends the helper.
pub async fn ask(helper: Helper, patience: Duration) -> Result<Option<Credentials>, Error> {
    let dropped = EndWhenDropped(Arc::default());
    let end = dropped.0.clone();
    let asked = tokio::task::spawn_blocking(move || helper.ask(patience, &end)).await;
    asked.unwrap_or_else(|cause| Err(Error::new(format!("cannot go on: a thread of this program ended: {cause}"))))
}

struct EndWhenDropped(Arc<AtomicBool>);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Helper {
    fn ask(&self, patience: Duration, end: &AtomicBool) -> Result<Option<Credentials>, Error> {
        explain::tell(self, WHY);
        let refused = |words: String, said: Vec<String>| report(self, WHY, Cause { errno: 0, words, said });
        if self.program.contains('/') {
            return Err(refused("its name has a slash".into(), Vec::new()));
        }
        let child = Command::new(&self.program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => refused("there is no such program on the PATH".into(), Vec::new()),
            _ => report(self, WHY, cause.into()),
        })?;
        let talked = self.talk(&mut child, Instant::now() + patience, end);
        if talked.is_err() {
            child.kill().unwrap_or_default(); // it may have ended by itself
            child.wait().map(drop).unwrap_or_default();
        }
        let answer = talked.map_err(|words| refused(words, Vec::new()))?;
        let said = complaint(&answer);
        if !answer.status.success() {
            return match said.iter().any(|line| line.to_ascii_lowercase().contains("credentials not found")) {
                true => Ok(None),
                false => Err(refused(answer.status.to_string(), said)),
            };
        }
        read(&answer.out).map_err(|cause| refused(cause.into(), told(&answer.err)))
    }

    /// Says for which registry, and reads until the helper ends. Whoever it has started may keep its pipes open: they are
    /// not waited for.
    fn talk(&self, child: &mut Child, deadline: Instant, end: &AtomicBool) -> Result<Answer, String> {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.server.as_bytes()).unwrap_or_default(); // one that does not read may know without
        }
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("it has no pipes".into());
        };
        let pid = Pid::from_raw(child.id() as i32).ok_or("it has no process id")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| errno.to_string())?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut out_open, mut err_open) = (true, true);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || end.load(Relaxed) {
                return Err("it takes too long; it was ended".into());
            }
            // A pipe at its end is always ready: in its place the process is looked at twice.
            let out_fd = if out_open { stdout.as_fd() } else { pidfd.as_fd() };
            let err_fd = if err_open { stderr.as_fd() } else { pidfd.as_fd() };
            let mut ready = [out_fd, err_fd, pidfd.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            // In small parts: an interrupted pull does not wait for a helper.
            let part = Timespec::try_from(left.min(Duration::from_millis(50))).ok();
            match poll(&mut ready, part.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.to_string()),
            }
            let [out_ready, err_ready, ended] = ready.map(|one| !one.revents().is_empty());
            if out_open && out_ready {
                out_open = take(&mut stdout, &mut out)?;
            }
            if err_open && err_ready {
                err_open = take(&mut stderr, &mut err)?;
            }
            if out.len() > LIMIT || err.len() > LIMIT {
                return Err(format!("it prints more than {LIMIT} bytes"));
            }
            if ended && !(out_open && out_ready) && !(err_open && err_ready) {
                let status = child.wait().map_err(|cause| cause.to_string())?;
                return Ok(Answer { status, out, err });
            }
        }
    }
}

/// Reads what is there. Whether more may come.
fn take(pipe: &mut impl Read, into: &mut Vec<u8>) -> Result<bool, String> {
    let mut part = [0; 4096];
    let count = pipe.read(&mut part).map_err(|cause| cause.to_string())?;
    into.extend_from_slice(&part[..count]);
    Ok(count > 0)
}

/// What a helper that failed says: docker's own say it on stdout, where nothing secret is then.
fn complaint(answer: &Answer) -> Vec<String> {
    match answer.status.success() {
        true => Vec::new(),
        false => [told(&answer.out), told(&answer.err)].concat(),
    }
}

fn told(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).map(printable).collect()
}

/// Reads an answer. The user `<token>` stands for a refresh token in the secret's place.
fn read(out: &[u8]) -> Result<Option<Credentials>, &'static str> {
    // Of an answer that does not read nothing is shown: a part of it may be the password.
    let answer: Value = serde_json::from_slice(out).map_err(|_| "what it prints is no JSON")?;
    let text = |key: &str| answer[key].as_str().map(str::to_string);
    let (Some(user), Some(secret)) = (text("Username"), text("Secret")) else {
        return Err("its answer has no Username and Secret");
    };
    Ok(match (user.as_str(), secret.as_str()) {
        ("", "") => None,
        ("<token>", _) => {
            Some(Credentials { user: String::new(), password: Secret(String::new()), identity: Some(Secret(secret)) })
        }
        _ => Some(Credentials { user, password: Secret(secret), identity: None }),
    })
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} get < '{}'", self.program, self.server)
    }
}

impl Explained for Helper {
    fn aim(&self) -> String {
        format!("get the password for {} from {}", self.server, self.program)
    }
    fn source(&self) -> &'static str {
        "docker-credential-helpers, README"
    }
    fn by_hand(&self) -> String {
        format!("echo {} | {} get", self.server, self.program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_and_what_is_none_shows_nothing_of_itself() {
        let shown = |text: &str| match read(text.as_bytes()) {
            Ok(Some(it)) => format!("{}={} {:?}", it.user, it.password.0, it.identity.map(|secret| secret.0)),
            Ok(None) => "-".into(),
            Err(cause) => cause.into(),
        };
        let cases = [
            (r#"{"ServerURL":"x","Username":"u","Secret":"s"}"#, "u=s None"),
            (r#"{"Username":"<token>","Secret":"t"}"#, "= Some(\"t\")"),
            (r#"{"Username":"","Secret":""}"#, "-"),
            (r#"{"Username":"u"}"#, "its answer has no Username and Secret"),
            ("hunter2", "what it prints is no JSON"),
            ("", "what it prints is no JSON"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text}");
        }
    }
}
