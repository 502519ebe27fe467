//! The filter: every action beside runc's, flags, and calls that a process outside decides.

use std::path::PathBuf;

use tests::Lab;

use crate::agent::{Agent, ENOMEDIUM};
use crate::bundle::{configure, lab, run, same_as_runc};

fn profile(rule: &str) -> String {
    format!(r#".linux.seccomp = {{ defaultAction: "SCMP_ACT_ALLOW", syscalls: [{rule}] }}"#)
}

#[test]
fn each_action_is_runcs() {
    let lab = lab("seccomp-actions");
    let script = "mkdir /tmp/new; echo status $?";
    for rule in [
        r#""SCMP_ACT_ALLOW""#,
        r#""SCMP_ACT_ERRNO""#,
        r#""SCMP_ACT_ERRNO", errnoRet: 100"#,
        r#""SCMP_ACT_KILL""#,
        r#""SCMP_ACT_KILL_PROCESS""#,
        r#""SCMP_ACT_KILL_THREAD""#,
        r#""SCMP_ACT_TRAP""#,
        r#""SCMP_ACT_TRACE""#,
        r#""SCMP_ACT_LOG""#,
    ] {
        for nnp in [true, false] {
            let rule = profile(&format!(r#"{{ names: ["mkdir", "mkdirat"], action: {rule} }}"#));
            let filter = format!("{rule} | .process.noNewPrivileges = {nnp} | .process.rlimits = []");
            same_as_runc(&lab, &filter, script).prints("status ");
            std::fs::remove_dir(lab.work().join("bundle/rootfs/tmp/new")).unwrap_or_default();
        }
    }
    let default = r#".linux.seccomp = { defaultAction: "SCMP_ACT_ERRNO", defaultErrnoRet: 6, syscalls: [
        { names: ["mkdir", "swapon"], action: "SCMP_ACT_ERRNO" },
        { names: ["execve", "brk", "arch_prctl", "exit_group", "write", "read", "open", "openat", "mmap", "munmap", "prctl",
                  "getuid", "setuid", "setgid", "set_tid_address", "uname", "readlink", "mprotect", "ioctl", "fcntl",
                  "rt_sigaction", "rt_sigprocmask", "getppid", "getpid", "stat", "fstat", "newfstatat", "close", "dup2", "fork",
                  "clone", "wait4", "rt_sigreturn", "capset", "capget", "setresuid", "setresgid", "setgroups", "chdir", "futex",
                  "set_robust_list", "rseq", "getrandom", "prlimit64", "epoll_pwait", "nanosleep", "getdents64", "faccessat2",
                  "fstatfs", "statfs", "umask", "setsid", "poll", "recvmsg", "sendmsg", "shutdown", "sigaltstack", "fchownat",
                  "epoll_ctl", "close_range", "tgkill", "gettid", "getcwd", "execveat", "vfork", "dup3", "writev"],
          action: "SCMP_ACT_ALLOW" }] }"#;
    same_as_runc(&lab, default, "mkdir /tmp/new; sync; link /script /tmp/x; echo $?").prints("\n");
}

#[test]
fn conditions_are_runcs() {
    let lab = lab("seccomp-conditions");
    // chmod's second argument is the mode; busybox uses chmod(2).
    let script = "for mode in 644 600 700; do chmod $mode /tmp && echo $mode; done; true";
    for (op, value, two) in [
        ("EQ", 0o644, 0),
        ("NE", 0o644, 0),
        ("LT", 0o644, 0),
        ("LE", 0o644, 0),
        ("GT", 0o644, 0),
        ("GE", 0o644, 0),
        ("MASKED_EQ", 0o100, 0o100),
    ] {
        let argument = format!(r#"{{ index: 1, value: {value}, valueTwo: {two}, op: "SCMP_CMP_{op}" }}"#);
        let rule = format!(r#"{{ names: ["chmod"], action: "SCMP_ACT_ERRNO", args: [{argument}] }}"#);
        same_as_runc(&lab, &profile(&rule), script).succeeds();
    }
}

/// A profile that leaves calls to the agent at `path`.
fn notifying(names: &str, path: &str) -> String {
    format!(
        r#".linux.seccomp = {{ defaultAction: "SCMP_ACT_ALLOW", listenerPath: "{path}", listenerMetadata: "told",
            syscalls: [{{ names: [{names}], action: "SCMP_ACT_NOTIFY" }}] }}"#
    )
}

fn socket(lab: &Lab) -> PathBuf {
    lab.work().join("agent.sock")
}

#[test]
fn a_process_outside_decides_what_the_filter_leaves_open() {
    let lab = lab("seccomp-notify");
    let before = lab.snapshot();
    let agent = Agent::start(&socket(&lab));
    let path = socket(&lab).display().to_string();
    for nnp in [true, false] {
        let filter = format!(
            r#"{} | .process.noNewPrivileges = {nnp} | .annotations = {{ a: "b" }}"#,
            notifying(r#""mkdir""#, &path)
        );
        let out = run(&lab, &filter, "mkdir /tmp/new; ls /proc/self/fd | wc -l; grep ^Seccomp: /proc/self/status");
        out.succeeds().says("No medium found").prints("4\n").prints("Seccomp:\t2\n");
        let told = agent.next_state();
        assert_eq!(told["fds"], serde_json::json!(["seccompFd"]), "{told}");
        assert_eq!((&told["metadata"], &told["state"]["id"]), (&"told".into(), &"one".into()), "{told}");
        assert_eq!(told["state"]["annotations"]["a"], "b", "{told}");
        assert_eq!(told["state"]["status"], "creating", "{told}");
        assert!(told["pid"] == told["state"]["pid"] && told["pid"].as_i64() > Some(1), "{told}");
        assert!(told["ociVersion"].is_string() && told["state"]["ociVersion"].is_string(), "{told}");
    }
    assert_eq!(agent.answered(libc::SYS_mkdir), [ENOMEDIUM, ENOMEDIUM]);
    drop(agent);
    lab.assert_same(&before);
}

/// Calls by which the tool itself goes on after the filter is loaded.
#[test]
fn the_tools_own_calls_may_be_among_them() {
    let lab = lab("seccomp-own-calls");
    let agent = Agent::start(&socket(&lab));
    let path = socket(&lab).display().to_string();
    let names = r#""execve", "openat", "open", "read", "close", "sendmsg", "recvmsg", "poll", "ppoll", "futex", "mmap", "munmap",
        "sched_yield", "nanosleep", "clock_nanosleep", "setsid", "setresuid", "setresgid", "setgroups", "capset", "prctl""#;
    for nnp in [true, false] {
        let filter = format!("{} | .process.noNewPrivileges = {nnp}", notifying(names, &path));
        run(&lab, &filter, "echo done").succeeds().prints("done\n");
    }
    assert!(!agent.answered(libc::SYS_execve).is_empty());
}

#[test]
fn without_an_agent_the_container_does_not_run() {
    let lab = lab("seccomp-no-agent");
    let before = lab.snapshot();
    for (filter, words) in [
        (notifying(r#""mkdir""#, "/no/such.sock"), "failed to connect with seccomp agent"),
        (notifying(r#""mkdir""#, "@abstract"), "not an absolute path"),
        (notifying(r#""mkdir""#, ""), "listenerMetadata is set and listenerPath is not"),
        (notifying(r#""write""#, "/no/such.sock"), "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
    ] {
        let out = run(&lab, &filter, "echo ran").says(words);
        assert_eq!((out.code() == 0, out.stdout.as_str()), (false, ""), "{out}");
        assert!(!out.stderr.contains("No such file"), "an engine would look for the program: {out}");
    }
    // A listener that nothing is left to is ignored.
    let unused = r#".linux.seccomp = { defaultAction: "SCMP_ACT_ALLOW", listenerPath: "/no/such.sock" }"#;
    run(&lab, unused, "echo ran").succeeds().prints("ran\n");
    lab.assert_same(&before);
}

#[test]
fn an_agent_that_goes_away_leaves_calls_that_do_not_exist() {
    let lab = lab("seccomp-agent-gone");
    let agent = Agent::start(&socket(&lab));
    let path = socket(&lab).display().to_string();
    configure(&lab, &notifying(r#""mkdir""#, &path), "mkdir /tmp/a; echo first; read line; mkdir /tmp/b");
    let mut running = lab.shell("mocker-exec run --bundle bundle one").open_stdin().spawn();
    running.wait_for("first");
    drop(agent);
    running.write(b"go on\n");
    running.wait_for("Function not implemented");
    let out = running.wait();
    assert_eq!(out.code(), 1, "{out}");
}
