//! config.md, POSIX-platform hooks: which, when, where, in which order, with what on stdin, and what a failure does.

use serde_json::{Value, json};
use tests::Runtime;

/// A hook that runs shell text of the host's.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})
}

/// A hook that notes its name and the state that it is given in a file.
fn note(runtime: &Runtime, name: &str, file: &str) -> Value {
    hook(&format!("echo {name} $(cat) >> {}", runtime.path(file).display()))
}

/// The six kinds, each noting itself in a file of the host's, but for startContainer, which sees the container's only.
fn all(runtime: &Runtime) -> Value {
    let mut hooks = json!({});
    for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[name] = json!([note(runtime, name, "notes")]);
    }
    hooks["startContainer"] = json!([hook("echo startContainer $(cat) >> /tmp/notes")]);
    hooks
}

/// Names of the hooks that have noted themselves, in order.
fn names(runtime: &Runtime, file: &str) -> Vec<String> {
    runtime.text(file).lines().map(|line| line.split(' ').next().unwrap_or_default().to_string()).collect()
}

/// The state that a hook was given.
fn state_of(runtime: &Runtime, file: &str, name: &str) -> Value {
    let text = runtime.text(file);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    serde_json::from_str(line.split_once(' ').unwrap().1).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn each_hook_has_its_moment() {
    let runtime = Runtime::new("moments");
    let before = runtime.lab.snapshot();
    runtime.script("one", "echo began >> /tmp/notes; exec sleep 1000", &[("/hooks", all(&runtime))]);
    runtime.create("one").succeeds();
    assert_eq!(names(&runtime, "notes"), ["prestart", "createRuntime", "createContainer"]);
    assert_eq!(runtime.text("rootfs/tmp/notes"), "");
    runtime.start("one").succeeds();
    assert_eq!(names(&runtime, "notes"), ["prestart", "createRuntime", "createContainer", "poststart"]);
    runtime.lab.sh("until grep -q began rootfs/tmp/notes; do sleep 0.02; done").succeeds();
    assert_eq!(names(&runtime, "rootfs/tmp/notes"), ["startContainer", "began"]);
    runtime.call("kill one KILL").succeeds();
    runtime.ended("one");
    assert_eq!(names(&runtime, "notes").len(), 4);
    runtime.call("delete one").succeeds();
    assert_eq!(names(&runtime, "notes").last().unwrap(), "poststop");
    runtime.lab.assert_same(&before);
}

#[test]
fn poststart_comes_after_the_program_and_before_start_returns() {
    let runtime = Runtime::new("poststart");
    let poststart = hook(&format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); until [ -e {0}/rootfs/tmp/began ]; do sleep 0.02; done; readlink /proc/$pid/exe > {0}/seen",
        runtime.lab.work().display()
    ));
    runtime.script("one", "touch /tmp/began; exec sleep 1000", &[("/hooks", json!({"poststart": [poststart]}))]);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    assert!(runtime.text("seen").ends_with("/bin/busybox\n"), "{}", runtime.text("seen"));
    runtime.call("delete --force one").succeeds();
}

#[test]
fn hooks_of_a_kind_run_in_the_listed_order() {
    let runtime = Runtime::new("order");
    let mut hooks = json!({});
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[kind] = (1..=3).map(|number| note(&runtime, &format!("{kind}{number}"), "notes")).collect();
    }
    hooks["startContainer"] =
        (1..=3).map(|number| hook(&format!("echo startContainer{number} >> /tmp/notes"))).collect();
    runtime.live("one", "true", &[("/hooks", hooks)]);
    let expected: Vec<String> = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
        .iter()
        .flat_map(|kind| (1..=3).map(move |number| format!("{kind}{number}")))
        .collect();
    assert_eq!(names(&runtime, "notes"), expected);
    assert_eq!(runtime.text("rootfs/tmp/notes"), "startContainer1\nstartContainer2\nstartContainer3\n");
}

#[test]
fn each_hook_is_told_the_state_of_its_moment() {
    let runtime = Runtime::new("told");
    let changes = [("/hooks", all(&runtime)), ("/annotations", json!({"com.example": "kept"}))];
    runtime.script("one", "exec sleep 1000", &changes);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    let pid = runtime.pid("one");
    runtime.call("kill one KILL").succeeds();
    runtime.ended("one");
    runtime.call("delete one").succeeds();
    let moments = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    for (name, status) in moments {
        let file = if name == "startContainer" { "rootfs/tmp/notes" } else { "notes" };
        let state = state_of(&runtime, file, name);
        assert_eq!(state["id"], "one", "{name}");
        assert_eq!(state["bundle"], json!(runtime.path("one")), "{name}");
        assert_eq!(state["annotations"]["com.example"], "kept", "{name}");
        assert!(state["ociVersion"].is_string(), "{name}");
        assert_eq!(state["status"], status, "{name}");
        match name {
            // As seen by the container.
            "createContainer" | "startContainer" => assert_eq!(state["pid"], 1, "{name}"),
            "poststop" => {}
            _ => assert_eq!(state["pid"], pid, "{name}"),
        }
    }
}

#[test]
fn hooks_run_in_the_namespaces_that_are_theirs() {
    let runtime = Runtime::new("namespaces");
    let look = |name: &str, file: &str| {
        hook(&format!("echo {name} $(for kind in mnt net uts; do readlink /proc/self/ns/$kind; done) >> {file}"))
    };
    let notes = runtime.path("notes").display().to_string();
    let hooks = json!({
        "prestart": [look("prestart", &notes)],
        "createRuntime": [look("createRuntime", &notes)],
        "createContainer": [look("createContainer", &notes)],
        "startContainer": [look("startContainer", "/tmp/notes")],
        "poststart": [look("poststart", &notes)],
        "poststop": [look("poststop", &notes)],
    });
    let inside = runtime.live(
        "one",
        "echo $(for kind in mnt net uts; do readlink /proc/self/ns/$kind; done)",
        &[("/hooks", hooks)],
    );
    let outside = runtime.lab.sh("echo $(for kind in mnt net uts; do readlink /proc/self/ns/$kind; done)").stdout;
    let text = runtime.text("notes") + &runtime.text("rootfs/tmp/notes");
    for line in text.lines() {
        let (name, seen) = line.split_once(' ').unwrap();
        let expected = if ["createContainer", "startContainer"].contains(&name) { &inside } else { &outside };
        assert_eq!(seen, expected.trim_end(), "{name}");
    }
    assert_eq!(text.lines().count(), 6, "{text}");
}

#[test]
fn hooks_before_the_pivot_see_the_mounts_made() {
    let runtime = Runtime::new("pivot");
    let rootfs = runtime.path("rootfs").display().to_string();
    // The path is the host's, the mounts are the container's.
    let hooks = json!({"createContainer": [hook(&format!("grep -c ' {rootfs}/proc ' /proc/self/mountinfo > {}", runtime.path("seen").display()))]});
    runtime.live("one", "true", &[("/hooks", hooks)]);
    assert_eq!(runtime.text("seen"), "1\n");
    // createRuntime finds the namespaces by the pid.
    let hooks = json!({"createRuntime": [hook(&format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link add made type bridge && echo $? > {}",
        runtime.path("made").display()
    ))]});
    assert!(runtime.live("two", "ls /sys/class/net", &[("/hooks", hooks)]).contains("made"));
}

#[test]
fn a_hook_has_its_own_arguments_and_environment() {
    let runtime = Runtime::new("hook-env");
    let out = runtime.path("notes").display().to_string();
    let with = json!({"path": "/bin/sh", "args": ["renamed", "-c", format!("tr '\\0' ' ' < /proc/$$/environ > {out}; echo \"$0 $1\" >> {out}"), "zero", "one"], "env": ["ONLY=this"]});
    runtime.live("one", "true", &[("/hooks", json!({"createRuntime": [with]}))]);
    let text = runtime.text("notes");
    assert!(text.starts_with("ONLY=this "), "{text}");
    assert!(text.ends_with("zero one\n"), "{text}");
    assert!(!text.contains("HOME="), "the runtime's own environment: {text}");
}

#[test]
fn a_hook_that_fails_before_start_ends_the_creation() {
    let runtime = Runtime::new("failing");
    let before = runtime.lab.snapshot();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let hooks = json!({kind: [note(&runtime, "first", "notes"), hook("exit 3"), note(&runtime, "third", "notes")], "poststop": [note(&runtime, "poststop", "notes")]});
        runtime.refuses("one", &[("/hooks", hooks)]);
        let noted = names(&runtime, "notes");
        assert_eq!(noted.first().unwrap(), "first", "{kind}");
        assert!(!noted.contains(&"third".to_string()), "{kind}: {noted:?}");
        if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
            assert_eq!(noted, ["first", "poststop"], "{kind}: step 13 of the life cycle");
        }
        assert_eq!(runtime.left(), Vec::<String>::new(), "{kind}");
        runtime.lab.sh("rm notes").succeeds();
        runtime.lab.assert_same(&before);
    }
}

#[test]
fn a_start_container_hook_that_fails_ends_the_container() {
    let runtime = Runtime::new("start-fails");
    runtime.script("one", "echo never", &[("/hooks", json!({"startContainer": [hook("exit 3")]}))]);
    runtime.create("one").succeeds();
    assert_ne!(runtime.start("one").code(), 0);
    assert_eq!(runtime.text("one.out"), "");
    runtime.call("delete --force one").succeeds();
    assert_eq!(runtime.left(), Vec::<String>::new());
}

#[test]
fn a_poststart_hook_that_fails_ends_the_container() {
    let runtime = Runtime::new("poststart-fails");
    let before = runtime.lab.snapshot();
    runtime.script(
        "one",
        "exec sleep 1000",
        &[("/hooks", json!({"poststart": [hook("exit 3"), note(&runtime, "second", "notes")]}))],
    );
    runtime.create("one").succeeds();
    assert_ne!(runtime.start("one").code(), 0, "runtime-spec 1.3, life cycle, step 9");
    assert_eq!(runtime.text("notes"), "");
    let state = runtime.call("state one");
    assert!(state.code() != 0 || state.json()["status"] == "stopped", "{state}");
    runtime.call("delete --force one").succeeds();
    runtime.lab.assert_same(&before);
}

#[test]
fn a_poststop_hook_that_fails_is_a_warning() {
    let runtime = Runtime::new("poststop-fails");
    let before = runtime.lab.snapshot();
    let hooks = json!({"poststop": [hook("exit 3"), note(&runtime, "second", "notes")]});
    runtime.bundle("one", &[("/hooks", hooks)]);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    runtime.ended("one");
    let out = runtime.call("delete one").succeeds();
    assert_ne!(out.stderr, "", "a warning is told");
    assert_eq!(names(&runtime, "notes"), ["second"]);
    assert_eq!(runtime.left(), Vec::<String>::new());
    runtime.lab.assert_same(&before);
}

#[test]
fn poststop_runs_when_the_container_is_gone() {
    let runtime = Runtime::new("poststop");
    let program = std::env::var("MOCKER_TEST_RUNTIME").unwrap_or_else(|_| "mocker-exec".into());
    let look = hook(&format!(
        "PATH={}; {program} --root {} state one > /dev/null 2>&1; echo $? > {}; find /sys/fs/cgroup -name one >> {2}",
        std::env::join_paths([tests::binaries(), "/usr/sbin".into(), "/usr/bin".into(), "/bin".into()])
            .unwrap()
            .to_string_lossy(),
        runtime.path("root").display(),
        runtime.path("seen").display()
    ));
    runtime.live("one", "true", &[("/hooks", json!({"poststop": [look]}))]);
    let seen = runtime.text("seen");
    assert!(seen.starts_with('1') && !seen.contains("/one"), "{seen}");
    // Killed or never started: the container is deleted all the same.
    for force in [false, true] {
        runtime.script("two", "true", &[("/hooks", json!({"poststop": [note(&runtime, "poststop", "notes")]}))]);
        runtime.create("two").succeeds();
        runtime.call(&format!("delete {} two", if force { "--force" } else { "" })).succeeds();
    }
    assert_eq!(names(&runtime, "notes"), ["poststop", "poststop"]);
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let runtime = Runtime::new("timeout");
    let before = runtime.lab.snapshot();
    let slow = json!({"path": "/bin/sleep", "args": ["sleep", "3021"], "timeout": 1});
    runtime.refuses("one", &[("/hooks", json!({"createRuntime": [slow.clone()]}))]);
    runtime.lab.sh("! pgrep -f '[s]leep 3021'").succeeds();
    runtime.bundle("two", &[("/hooks", json!({"poststop": [slow]}))]);
    runtime.create("two").succeeds();
    runtime.call("delete --force two").succeeds();
    runtime.lab.assert_same(&before);
}

#[test]
fn a_hook_that_is_none_is_refused() {
    let runtime = Runtime::new("no-hook");
    runtime.refuses("one", &[("/hooks", json!({"createRuntime": [{"path": "/no/such/hook"}]}))]);
    if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
        runtime.refuses("two", &[("/hooks", json!({"createRuntime": [{"path": "bin/true"}]}))]);
        runtime.refuses("three", &[("/hooks", json!({"poststop": [{"path": "true"}]}))]);
        runtime.refuses("four", &[("/hooks", json!({"createRuntime": [{"path": "/bin/true", "timeout": 0}]}))]);
        runtime.refuses("five", &[("/hooks", json!({"createRuntime": [{"path": "/bin/true", "timeout": -1}]}))]);
    }
}
