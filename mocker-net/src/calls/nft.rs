//! nft: rules are handed to the kernel as one transaction, which happens as a whole or not at all.

use std::fmt;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// Runs one transaction.
pub struct Nft<'a> {
    pub script: &'a str,
}

impl fmt::Display for Nft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nft -f - <<'.'\n{}.", self.script)
    }
}

impl Explained for Nft<'_> {
    fn aim(&self) -> String {
        "change the rules for address translation".into()
    }
    fn source(&self) -> &'static str {
        "nft(8)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        missing(errno)
    }
}

impl KernelCall for Nft<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let mut child = start(&["-f", "-"])?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let mut cause = Cause::words(format!("nft refused ({})", output.status));
        for line in text.lines().take(6) {
            cause = cause.said(line);
        }
        if let Some(module) = missing_module(&text) {
            cause = cause.said(format!("the kernel lacks a module for this: modprobe {module}"));
        }
        Err(cause)
    }
}

/// nft's text for a missing module is that of a missing file.
fn missing_module(text: &str) -> Option<&'static str> {
    let missing = text.contains("No such file or directory") || text.contains("Operation not supported");
    let words =
        [("masquerade", "nft_masq"), ("dnat", "nft_nat"), ("fib", "nft_fib_ipv4"), ("type nat", "nft_chain_nat")];
    words.iter().find(|(word, _)| missing && text.contains(word)).map(|(_, module)| *module)
}

fn missing(errno: i32) -> Diagnosis {
    match errno {
        libc::ENOENT => diagnosis(
            "nft is not installed (Debian, Fedora, Arch, Alpine: package nftables)",
            "apt-get install nftables",
        ),
        libc::EPERM | libc::EACCES => diagnosis("rules are root's (CAP_NET_ADMIN)", "run it as root"),
        _ => Diagnosis::default(),
    }
}

/// Starts nft, in a process group of its own: a Ctrl-C meant for the pipeline must not cut a transaction short.
fn start(args: &[&str]) -> std::io::Result<Child> {
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).spawn()
    };
    // A hook's or an ordinary user's PATH may lack the directories of the administrator's programs.
    match run("nft") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => run("/usr/sbin/nft"),
        outcome => outcome,
    }
}
