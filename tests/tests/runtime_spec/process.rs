//! config.md, root, process, user, host name: what the program is and what it finds.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::net::UnixListener;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tests::Runtime;

#[test]
fn arguments_environment_and_directory_are_the_configured_ones() {
    let runtime = Runtime::new("program");
    let changes = [
        (
            "/process/args",
            json!(["sh", "-c", "echo \"$0|$1|$2\"; echo \"$EMPTY|$SPACED|$PATH\"; pwd", "zero", "", "two words"]),
        ),
        ("/process/env", json!(["PATH=/bin", "EMPTY=", "SPACED=a b=c"])),
        ("/process/cwd", json!("/tmp")),
    ];
    runtime.bundle("one", &changes);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    assert_eq!(runtime.ended("one"), "zero||two words\n|a b=c|/bin\n/tmp\n");
    runtime.call("delete one").succeeds();
    // Without a slash the program is looked for as execvp does: in the container's own PATH.
    runtime.refuses("two", &[("/process/args", json!(["sh"])), ("/process/env", json!(["PATH=/tmp"]))]);
}

#[test]
fn create_without_a_process_is_no_error_of_the_specification_but_start_is() {
    let runtime = Runtime::new("no-process");
    runtime.bundle("one", &[("/process", Value::Null)]);
    let created = runtime.create("one").code();
    if created == 0 {
        assert_ne!(runtime.start("one").code(), 0);
        runtime.call("delete --force one").succeeds();
    }
    assert_eq!(runtime.left(), Vec::<String>::new());
}

#[test]
fn standard_streams_are_the_callers() {
    let runtime = Runtime::new("streams");
    runtime.script("one", "cat; echo to-stderr >&2; ls -l /proc/self/fd 2>/dev/null | grep -c -e '->'", &[]);
    let line = runtime.line("create --bundle one one");
    runtime.lab.sh(&format!("echo given | {line} 7</dev/null 8</etc/passwd >one.out 2>one.err")).succeeds();
    runtime.start("one").succeeds();
    // 0, 1, 2; the directory that ls reads is closed when it looks.
    assert_eq!(runtime.ended("one"), "given\n3\n");
    assert_eq!(runtime.text("one.err"), "to-stderr\n");
    runtime.call("delete one").succeeds();
}

#[test]
fn descriptors_are_passed_only_where_asked_for() {
    let runtime = Runtime::new("preserve");
    runtime.script("one", "cat <&3; cat <&4 2>/dev/null || echo closed", &[]);
    let line = runtime.line("create --preserve-fds 1 --bundle one one");
    runtime
        .lab
        .sh(&format!("echo kept > three; echo lost > four; {line} 3<three 4<four </dev/null >one.out 2>one.err"))
        .succeeds();
    runtime.start("one").succeeds();
    assert_eq!(runtime.ended("one"), "kept\nclosed\n");
    runtime.call("delete one").succeeds();
}

#[test]
fn the_user_is_the_configured_one() {
    let runtime = Runtime::new("user");
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [50, 60], "umask": 63});
    let script = "grep -E '^(Uid|Gid|Groups|Umask)' /proc/self/status | tr -s '\\t ' ' '";
    let out = runtime.live("one", script, &[("/process/user", user), ("/process/capabilities", Value::Null)]);
    assert_eq!(out, "Umask: 0077\nUid: 1000 1000 1000 1000\nGid: 1001 1001 1001 1001\nGroups: 50 60 \n");
    let plain = runtime.live("two", script, &[]);
    assert!(plain.contains("Uid: 0 0 0 0\n"), "{plain}");
    let groups = plain.lines().find(|line| line.starts_with("Groups")).unwrap();
    assert_eq!(groups.trim(), "Groups:", "no group of the caller's comes along");
}

#[test]
fn limits_are_set_and_a_limit_given_twice_is_an_error() {
    let runtime = Runtime::new("rlimits");
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 2097152}
    ]);
    let out = runtime.live(
        "one",
        "grep -E 'open files|core|stack' /proc/self/limits | tr -s ' '",
        &[("/process/rlimits", limits)],
    );
    assert!(out.contains("Max open files 100 200 files"), "{out}");
    assert!(out.contains("Max core file size 0 0 bytes"), "{out}");
    assert!(out.contains("Max stack size 1048576 2097152 bytes"), "{out}");
    let one = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200});
    runtime.refuses("two", &[("/process/rlimits", json!([one.clone(), one.clone()]))]);
    runtime.refuses("three", &[("/process/rlimits", json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]))]);
    runtime.refuses("four", &[("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 2}]))]);
}

#[test]
fn capabilities_are_the_listed_ones() {
    let runtime = Runtime::new("capabilities");
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"]
    });
    // For a user that is not root the sets are what was asked for; root's program gains what the bounding set has.
    let changes = [
        ("/process/capabilities", sets),
        ("/process/user", json!({"uid": 7, "gid": 7})),
        ("/process/noNewPrivileges", json!(false)),
    ];
    let out = runtime.live("one", "grep ^Cap /proc/self/status | tr -s '\\t' ' '", &changes);
    let expected = "CapInh: 0000000000000020\nCapPrm: 0000000000000020\nCapEff: 0000000000000020\nCapBnd: 0000000000002021\nCapAmb: 0000000000000020\n";
    assert_eq!(out, expected);
    let none = runtime.live("two", "grep ^CapEff /proc/self/status", &[("/process/capabilities", json!({}))]);
    assert_eq!(none, "CapEff:\t0000000000000000\n");
}

#[test]
fn a_capability_that_cannot_be_given_is_a_warning() {
    let runtime = Runtime::new("no-capability");
    runtime.script("one", "echo works", &[("/process/capabilities/bounding/-", json!("CAP_NO_SUCH"))]);
    runtime.create("one").succeeds().says("CAP_NO_SUCH");
    runtime.call("delete --force one").succeeds();
    let line = runtime.line("--log log --log-format json create --bundle one one");
    runtime.lab.sh(&format!("{line} </dev/null >one.out 2>one.err")).succeeds();
    assert!(runtime.text("log").contains("CAP_NO_SUCH"), "{}", runtime.text("log"));
    runtime.call("delete --force one").succeeds();
}

#[test]
fn no_new_privileges_is_set_where_asked_for() {
    let runtime = Runtime::new("nnp");
    for (asked, value) in [(true, "1"), (false, "0")] {
        let out =
            runtime.live("one", "grep NoNewPrivs /proc/self/status", &[("/process/noNewPrivileges", json!(asked))]);
        assert_eq!(out, format!("NoNewPrivs:\t{value}\n"));
    }
}

#[test]
fn the_oom_score_is_set_where_asked_for_and_else_the_callers() {
    let runtime = Runtime::new("oom");
    assert_eq!(runtime.live("one", "cat /proc/self/oom_score_adj", &[("/process/oomScoreAdj", json!(300))]), "300\n");
    runtime.script("two", "cat /proc/self/oom_score_adj", &[]);
    let line = runtime.line("create --bundle two two");
    runtime.lab.sh(&format!("echo 123 > /proc/self/oom_score_adj; {line} </dev/null >two.out 2>two.err")).succeeds();
    runtime.start("two").succeeds();
    assert_eq!(runtime.ended("two"), "123\n");
    runtime.call("delete two").succeeds();
}

#[test]
fn the_root_is_read_only_where_asked_for() {
    let runtime = Runtime::new("readonly");
    let script = "echo x > /tmp/file && echo written; echo x > /dev/shm/file && echo shm";
    let out = runtime.live("one", script, &[("/root/readonly", json!(true))]);
    assert!(out.contains("Read-only file system") && out.contains("shm") && !out.contains("written"), "{out}");
    assert!(runtime.live("two", script, &[("/root/readonly", json!(false))]).contains("written"));
}

#[test]
fn host_and_domain_name_are_set_inside_only() {
    let runtime = Runtime::new("names");
    let changes = [("/hostname", json!("mine.example")), ("/domainname", json!("nis.example"))];
    assert_eq!(
        runtime.live("one", "hostname; cat /proc/sys/kernel/domainname", &changes),
        "mine.example\nnis.example\n"
    );
    runtime.lab.sh("hostname").succeeds().prints("lab\n");
    // In the runtime's own uts namespace the name is not the container's to set.
    let shared = [("/linux/namespaces/3", json!({"type": "cgroup"})), ("/hostname", json!("stolen"))];
    runtime.script("two", "hostname", &shared);
    if runtime.create("two").code() == 0 {
        runtime.call("delete --force two").succeeds();
    }
    runtime.lab.sh("hostname").succeeds().prints("lab\n");
}

#[test]
fn a_terminal_has_the_size_and_the_devices() {
    let runtime = Runtime::new("terminal");
    let before = runtime.lab.snapshot();
    let changes = [("/process/terminal", json!(true)), ("/process/consoleSize", json!({"height": 33, "width": 99}))];
    let script =
        "stty size; tty; test -c /dev/console && echo console; test -t 0 -a -t 1 -a -t 2 && echo all; ls -l /dev/ptmx";
    runtime.script("one", script, &changes);
    let listener = UnixListener::bind(runtime.path("socket")).unwrap();
    runtime.create_with("one", "--console-socket socket").succeeds();
    let mut master = receive(&listener);
    runtime.start("one").succeeds();
    let mut text = Vec::new();
    // A terminal that nobody holds open any more is EIO, not an end.
    master.read_to_end(&mut text).unwrap_err();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    assert!(text.starts_with("33 99\n/dev/pts/0\nconsole\nall\n"), "{text}");
    runtime.ended("one");
    runtime.call("delete one").succeeds();
    std::fs::remove_file(runtime.path("socket")).unwrap();
    runtime.lab.assert_same(&before);
}

/// The terminal that a runtime sends along a console socket.
fn receive(listener: &UnixListener) -> File {
    let (connection, _) = listener.accept().unwrap();
    let (mut byte, mut space) = ([0; 64], [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&connection, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    File::from(descriptor.expect("a descriptor comes along"))
}

#[test]
fn a_console_size_without_a_terminal_is_ignored() {
    let runtime = Runtime::new("console-size");
    let changes = [("/process/consoleSize", json!({"height": 33, "width": 99}))];
    assert_eq!(
        runtime.live("one", "test -t 1 || echo none; test -e /dev/console || echo no console", &changes),
        "none\nno console\n"
    );
}
