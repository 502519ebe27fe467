//! runtime.md and bundle.md: states, operations, errors.

use std::fs;

use serde_json::{Value, json};
use tests::Runtime;

#[test]
fn a_container_is_created_then_running_then_stopped() {
    let runtime = Runtime::new("life");
    let before = runtime.lab.snapshot();
    runtime.script("one", "echo began; read line < /tmp/pipe", &[]);
    runtime.lab.sh("mkfifo rootfs/tmp/pipe").succeeds();
    runtime.create("one").succeeds();

    let state = runtime.state("one");
    assert_eq!(state["status"], "created");
    assert_eq!(runtime.text("one.out"), "", "the program ran before start");
    assert_eq!(state["id"], "one");
    assert_eq!(state["bundle"], json!(runtime.path("one")));
    let version = state["ociVersion"].as_str().unwrap();
    assert!(version.starts_with("1."), "{version}");
    let pid = runtime.pid("one");
    assert_eq!(runtime.text("one.pid"), pid.to_string());
    runtime.lab.sh(&format!("test -d /proc/{pid}")).succeeds();

    runtime.start("one").succeeds();
    assert_eq!(runtime.status("one"), "running");
    assert_eq!(runtime.pid("one"), pid);
    runtime.lab.sh("echo > rootfs/tmp/pipe").succeeds();
    assert_eq!(runtime.ended("one"), "began\n");

    runtime.call("delete one").succeeds();
    assert_ne!(runtime.call("state one").code(), 0);
    assert_eq!(runtime.left(), Vec::<String>::new());
    runtime.lab.assert_same(&before);
}

#[test]
fn an_operation_without_an_id_is_an_error() {
    let runtime = Runtime::new("no-id");
    runtime.bundle("one", &[]);
    for operation in ["state", "create --bundle one", "start", "kill", "delete"] {
        assert_ne!(runtime.call(operation).code(), 0, "{operation}");
    }
    assert_eq!(runtime.left(), Vec::<String>::new());
}

#[test]
fn an_unknown_container_is_an_error() {
    let runtime = Runtime::new("unknown");
    for operation in ["state nobody", "start nobody", "kill nobody KILL", "delete nobody"] {
        let out = runtime.call(operation);
        assert_ne!(out.code(), 0, "{operation}");
        out.says("does not exist");
    }
    // What clients count on: an end that was reached already is none.
    runtime.call("delete --force nobody").succeeds();
}

#[test]
fn an_id_that_is_taken_is_refused_and_the_first_lives_on() {
    let runtime = Runtime::new("taken");
    runtime.script("one", "sleep 1000", &[]);
    runtime.create("one").succeeds();
    let state = runtime.state("one");
    runtime.lab.sh(&runtime.line("create --bundle one one")).fails(1).says("already exists");
    assert_eq!(runtime.state("one"), state);
    runtime.start("one").succeeds();
    runtime.lab.sh(&runtime.line("create --bundle one one")).fails(1).says("already exists");
    assert_eq!(runtime.status("one"), "running");
    runtime.call("delete --force one").succeeds();
}

#[test]
fn an_id_that_is_none_is_refused() {
    let runtime = Runtime::new("bad-id");
    runtime.bundle("one", &[]);
    for id in ["../up", "a/b", "..", ".", "''", "'a b'"] {
        let out = runtime.call(&format!("create --bundle one {id}"));
        assert_ne!(out.code(), 0, "{id}");
    }
    assert_eq!(runtime.left(), Vec::<String>::new());
    runtime.lab.sh("test ! -e up && test ! -e root/../up").succeeds();
}

#[test]
fn a_bundle_without_configuration_is_refused() {
    let runtime = Runtime::new("no-bundle");
    runtime.lab.sh("mkdir empty; mkdir broken; echo '{' > broken/config.json").succeeds();
    assert_ne!(runtime.call("create --bundle nowhere one").code(), 0);
    runtime.call("create --bundle empty one").says("config.json");
    assert_ne!(runtime.call("create --bundle empty one").code(), 0);
    assert_ne!(runtime.call("create --bundle broken one").code(), 0);
    assert_eq!(runtime.left(), Vec::<String>::new());
}

#[test]
fn a_relative_root_is_relative_to_the_bundle() {
    let runtime = Runtime::new("relative");
    runtime.bundle("one", &[("/root/path", json!("inside"))]);
    runtime.lab.sh("mv rootfs one/inside").succeeds();
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    runtime.ended("one");
    runtime.call("delete one").succeeds();
}

#[test]
fn a_bundle_without_its_root_is_refused() {
    let runtime = Runtime::new("no-root");
    runtime.refuses("one", &[("/root/path", json!("missing"))]);
    runtime.refuses("two", &[("/root", Value::Null)]);
    fs::write(runtime.path("file"), "").unwrap();
    runtime.refuses("three", &[("/root/path", json!("../file"))]);
}

#[test]
fn a_change_of_the_configuration_after_create_has_no_effect() {
    let runtime = Runtime::new("late-change");
    runtime.script("one", "echo first; hostname", &[]);
    runtime.create("one").succeeds();
    runtime.script("one", "echo second", &[("/hostname", json!("other")), ("/annotations", json!({"late": "yes"}))]);
    assert!(runtime.state("one")["annotations"].get("late").is_none());
    runtime.start("one").succeeds();
    assert_eq!(runtime.ended("one"), "first\ninner\n");
    runtime.lab.sh("rm one/config.json").succeeds();
    runtime.call("delete one").succeeds();
}

#[test]
fn a_second_start_is_an_error_and_changes_nothing() {
    let runtime = Runtime::new("start-twice");
    runtime.script("one", "echo once; exec sleep 1000", &[]);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    runtime.start("one").fails(1).says("cannot start an already running container");
    assert_eq!(runtime.status("one"), "running");
    runtime.call("kill one KILL").succeeds();
    assert_eq!(runtime.ended("one"), "once\n");
    runtime.start("one").fails(1).says("cannot start a container that has stopped");
    runtime.call("delete one").succeeds();
}

#[test]
fn kill_sends_the_signal_that_was_asked_for() {
    let runtime = Runtime::new("kill");
    for (number, signal) in ["TERM", "SIGUSR1", "12", ""].into_iter().enumerate() {
        let id = format!("c{number}");
        let script = "for name in TERM USR1 USR2; do trap \"echo got $name; exit\" $name; done; echo ready; while :; do sleep 0.05; done";
        runtime.script(&id, script, &[]);
        runtime.create(&id).succeeds();
        runtime.start(&id).succeeds();
        runtime.lab.sh(&format!("until grep -q ready {id}.out; do sleep 0.02; done")).succeeds();
        runtime.call(&format!("kill {id} {signal}")).succeeds();
        let expected = ["TERM", "USR1", "USR2", "TERM"][number];
        assert_eq!(runtime.ended(&id), format!("ready\ngot {expected}\n"));
        runtime.call(&format!("delete {id}")).succeeds();
    }
}

#[test]
fn a_created_container_can_be_killed() {
    let runtime = Runtime::new("kill-created");
    runtime.script("one", "echo never", &[]);
    runtime.create("one").succeeds();
    runtime.call("kill one KILL").succeeds();
    assert_eq!(runtime.ended("one"), "");
    runtime.call("delete one").succeeds();
}

#[test]
fn kill_of_a_stopped_container_is_an_error() {
    let runtime = Runtime::new("kill-stopped");
    runtime.bundle("one", &[]);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    runtime.ended("one");
    runtime.call("kill one KILL").fails(1).says("container not running");
    runtime.call("kill one NOSUCH").fails(1);
    assert_eq!(runtime.status("one"), "stopped");
    runtime.call("delete one").succeeds();
}

#[test]
fn delete_of_a_running_container_is_an_error() {
    let runtime = Runtime::new("delete-running");
    let before = runtime.lab.snapshot();
    runtime.script("one", "exec sleep 1000", &[]);
    runtime.create("one").succeeds();
    runtime.start("one").succeeds();
    runtime.call("delete one").fails(1).says("not stopped");
    assert_eq!(runtime.status("one"), "running");
    runtime.call("delete --force one").succeeds();
    assert_ne!(runtime.call("state one").code(), 0);
    assert_eq!(runtime.left(), Vec::<String>::new());
    runtime.lab.assert_same(&before);
}

#[test]
fn a_deleted_id_can_be_used_again() {
    let runtime = Runtime::new("again");
    let before = runtime.lab.snapshot();
    for text in ["first", "second", "third"] {
        assert_eq!(runtime.live("same", &format!("echo {text}"), &[]), format!("{text}\n"));
    }
    runtime.lab.assert_same(&before);
}

#[test]
fn delete_leaves_what_the_container_did_not_make() {
    let runtime = Runtime::new("not-ours");
    runtime
        .lab
        .sh("mkdir -p data /sys/fs/cgroup/pids/parent/other && echo kept > data/file && ip netns add there")
        .succeeds();
    let before = runtime.lab.snapshot();
    let changes = [
        ("/mounts/-", json!({"destination": "/data", "source": runtime.path("data"), "options": ["bind"]})),
        ("/linux/cgroupsPath", json!("/parent/one")),
        ("/linux/namespaces/1/path", json!("/run/netns/there")),
    ];
    assert_eq!(runtime.live("one", "cat /data/file", &changes), "kept\n");
    assert_eq!(runtime.text("data/file"), "kept\n");
    runtime.lab.sh("ip netns exec there true && test -d /sys/fs/cgroup/pids/parent/other").succeeds();
    runtime.lab.sh("rmdir /sys/fs/cgroup/*/parent 2>/dev/null; test -d /sys/fs/cgroup/pids/parent").succeeds();
    drop(before);
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let runtime = Runtime::new("failed-create");
    let before = runtime.lab.snapshot();
    let missing = json!({"destination": "/data", "source": "/no/such/source", "options": ["bind"]});
    let cases: [(&str, Value); 6] = [
        ("/process/args/0", json!("/no/such/program")),
        ("/mounts/-", missing),
        ("/linux/sysctl", json!({"kernel.no_such_sysctl": "1"})),
        ("/hooks", json!({"createRuntime": [{"path": "/bin/false"}]})),
        ("/hooks", json!({"createContainer": [{"path": "/bin/false"}]})),
        ("/process/rlimits/-", json!({"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1})),
    ];
    for (pointer, value) in cases {
        runtime.refuses("one", &[(pointer, value)]);
        assert_eq!(runtime.left(), Vec::<String>::new(), "{pointer}");
        runtime.lab.assert_same(&before);
    }
    runtime.lab.sh("rmdir rootfs/data 2>/dev/null").code();
    assert_eq!(runtime.live("one", "echo works", &[]), "works\n");
}

#[test]
fn annotations_are_told_in_the_state() {
    let runtime = Runtime::new("annotations");
    let annotations = json!({"com.example.key": "value", "empty": "", "org.opencontainers.image.os": "linux", "org.example.unknown": "x"});
    runtime.bundle("one", &[("/annotations", annotations.clone())]);
    runtime.create("one").succeeds();
    let state = runtime.state("one");
    for (key, value) in annotations.as_object().unwrap() {
        assert_eq!(state["annotations"][key], *value, "{key}");
    }
    runtime.call("delete --force one").succeeds();
    for broken in [json!({"key": 1}), json!(["list"]), json!({"": "empty key"})] {
        if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
            runtime.refuses("two", &[("/annotations", broken)]);
        }
    }
}

#[test]
fn unknown_properties_are_ignored() {
    let runtime = Runtime::new("unknown-fields");
    let changes = [
        ("/unknown", json!({"a": [1, 2]})),
        ("/process/unknown", json!("x")),
        ("/process/user/unknown", json!(1)),
        ("/linux/unknown", json!(true)),
        ("/linux/resources/unknown", json!({})),
        ("/linux/namespaces/0/unknown", json!(1)),
        ("/mounts/0/unknown", json!(1)),
        ("/root/unknown", json!(1)),
        ("/hooks", json!({"unknown": [{"path": "/bin/false"}]})),
        ("/windows", json!({"layerFolders": []})),
        ("/solaris", json!({})),
    ];
    assert_eq!(runtime.live("one", "echo works", &changes), "works\n");
}

#[test]
fn values_of_the_wrong_kind_are_errors() {
    let runtime = Runtime::new("wrong-values");
    let cases: [(&str, Value); 9] = [
        ("/process/args", json!([])),
        ("/process/args", json!("true")),
        ("/process/cwd", json!("relative")),
        ("/process/cwd", Value::Null),
        ("/process/user/uid", json!("root")),
        ("/mounts/0/options", json!("ro")),
        ("/linux/namespaces/0/type", json!("nosuch")),
        ("/linux/rootfsPropagation", json!("nosuch")),
        ("/ociVersion", json!(1)),
    ];
    for (pointer, value) in cases {
        runtime.refuses("one", &[(pointer, value)]);
    }
}

#[test]
fn versions_of_the_specification_are_told_apart() {
    let runtime = Runtime::new("versions");
    for version in ["1.0.0", "1.0.2-dev", "1.1.0+x", "1.2.1", "1.3.0"] {
        assert_eq!(runtime.live("one", "echo works", &[("/ociVersion", json!(version))]), "works\n");
    }
    for broken in ["", "one", "2.0.0"] {
        if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
            runtime.refuses("two", &[("/ociVersion", json!(broken))]);
        }
    }
}

#[test]
fn features_accepts_what_it_lists() {
    let runtime = Runtime::new("features");
    let features = runtime.call("features").succeeds().json();
    let version = |name: &str| features[name].as_str().unwrap().to_string();
    for name in ["ociVersionMin", "ociVersionMax"] {
        assert_eq!(runtime.live("one", "echo works", &[("/ociVersion", json!(version(name)))]), "works\n");
    }
    let numbers =
        |text: String| text.split(['.', '-', '+']).take(3).map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert!(numbers(version("ociVersionMin")) <= numbers(version("ociVersionMax")));
    let hooks: Vec<&str> = features["hooks"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert!(hooks.contains(&hook), "{hook}");
    }
    // Every mount option that it claims to know is one that a mount takes.
    let options: Vec<&str> = features["mountOptions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for option in options.iter().filter(|option| {
        !["remount", "idmap", "ridmap", "tmpcopyup", "acl", "noacl", "mand", "nomand"].contains(option)
    }) {
        let kind = if option.ends_with("bind") { "none" } else { "tmpfs" };
        let mount =
            json!({"destination": "/tmp", "type": kind, "source": runtime.path("rootfs/etc"), "options": [option]});
        assert_eq!(runtime.live("one", "echo works", &[("/mounts/-", mount)]), "works\n", "{option}");
    }
}
