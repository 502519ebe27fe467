//! The same of a process that `exec` brings into a container, and what `features` promises.

use serde_json::Value;
use tests::Lab;

use crate::agent::{Agent, ENOMEDIUM};
use crate::bundle::{configure, lab};

const STATUS: &str =
    "cut -d' ' -f19,40,41 /proc/$$/stat; ionice; uname -m; head -n 1 /proc/self/numa_maps | cut -d' ' -f2";

/// Starts the container of the bundle in the background.
fn start(lab: &Lab, filter: &str) {
    configure(lab, filter, "sleep 1000");
    lab.sh("mocker-exec run --detach --bundle bundle one </dev/null >/dev/null 2>err || { cat err >&2; exit 1; }")
        .succeeds();
}

/// Runs shell text in it, with a process of its own where one is given.
fn exec(lab: &Lab, process: Option<&str>, script: &str) -> tests::Output {
    let Some(process) = process else {
        return lab.program("mocker-exec").args(["exec", "one", "sh", "-c", script]).run();
    };
    let filter = format!(r#"{{ args: ["sh", "-c", $script], cwd: "/", env: ["PATH=/bin"] }} + {process}"#);
    let made = lab.program("jq").args(["-n", "--arg", "script", script, &filter]).run().succeeds();
    std::fs::write(lab.work().join("process.json"), made.bytes).unwrap();
    lab.sh("mocker-exec exec --process process.json one")
}

#[test]
fn a_process_of_exec_has_the_containers_attributes_unless_it_has_its_own() {
    let lab = lab("exec-attributes");
    let before = lab.snapshot();
    start(
        &lab,
        r#".process.scheduler = { policy: "SCHED_BATCH", nice: 5 } | .process.oomScoreAdj = 77
           | .process.ioPriority = { class: "IOPRIO_CLASS_BE", priority: 4 } | .linux.personality = { domain: "LINUX32" }
           | .linux.memoryPolicy = { mode: "MPOL_PREFERRED", nodes: "0", flags: ["MPOL_F_RELATIVE_NODES"] }"#,
    );
    let same = "5 0 3\nbest-effort: prio 4\ni686\nprefer=relative:0\n";
    assert_eq!(exec(&lab, None, STATUS).succeeds().stdout, same);
    assert_eq!(exec(&lab, Some("{}"), STATUS).succeeds().stdout, same);
    let own = r#"{ scheduler: { policy: "SCHED_IDLE" }, ioPriority: { class: "IOPRIO_CLASS_IDLE" } }"#;
    assert_eq!(exec(&lab, Some(own), STATUS).succeeds().stdout, "0 0 5\nidle\ni686\nprefer=relative:0\n");

    let rights = "grep -E 'Cap|NoNew' /proc/self/status; cat /proc/self/limits /proc/self/oom_score_adj";
    let ours = exec(&lab, None, rights).succeeds().prints("77\n").prints("CapEff:\t0000000020000420");
    assert_eq!(exec(&lab, Some("{ noNewPrivileges: true }"), rights).succeeds().stdout, ours.stdout);
    let fewer = r#"{ noNewPrivileges: true, capabilities: { bounding: ["CAP_KILL"] } }"#;
    exec(&lab, Some(fewer), rights).succeeds().prints("CapBnd:\t0000000000000020\n");
    lab.sh("mocker-exec delete --force one").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_process_of_exec_runs_on_its_cpus() {
    let lab = lab("exec-affinity");
    let cpus = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let all = lab.sh(cpus).stdout;
    assert_ne!(all, "0\n", "this test needs two CPUs");
    start(&lab, r#".process.execCPUAffinity = { initial: "0", final: "1" }"#);
    // The first process has none; one of exec has the container's or its own, and without `final` all.
    lab.sh("grep Cpus_allowed_list /proc/$(mocker-exec state one | jq .pid)/status | cut -f2").prints(&all);
    for (process, expected) in [
        (None, "1\n"),
        (Some(r#"{ execCPUAffinity: { initial: "1", final: "0" } }"#), "0\n"),
        (Some(r#"{ execCPUAffinity: { initial: "0-1", final: "0,1" } }"#), "0-1\n"),
        (Some(r#"{ execCPUAffinity: { initial: "1" } }"#), all.as_str()),
    ] {
        assert_eq!(exec(&lab, process, cpus).succeeds().stdout, expected, "{process:?}");
    }
    let out = exec(&lab, Some(r#"{ execCPUAffinity: { final: "4000" } }"#), cpus).says("run on CPUs 4000");
    assert_ne!(out.code(), 0);
    lab.sh("mocker-exec delete --force one").succeeds();

    start(&lab, ".");
    assert_eq!(lab.sh(&format!("taskset --cpu-list 0 mocker-exec exec one sh -c \"{cpus}\"")).succeeds().stdout, all);
    lab.sh("mocker-exec delete --force one").succeeds();
}

#[test]
fn the_agent_judges_processes_of_exec_too() {
    let lab = lab("exec-notify");
    let before = lab.snapshot();
    let socket = lab.work().join("agent.sock");
    let agent = Agent::start(&socket);
    for nnp in [true, false] {
        start(
            &lab,
            &format!(
                r#".linux.seccomp = {{ defaultAction: "SCMP_ACT_ALLOW", listenerPath: "{}", syscalls: [
                       {{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }}] }} | .process.noNewPrivileges = {nnp}"#,
                socket.display()
            ),
        );
        let first = agent.next_state();
        exec(&lab, None, "mkdir /tmp/x").says("No medium found");
        let told = agent.next_state();
        assert_eq!(told["state"]["status"], "running", "{told}");
        assert_eq!(told["state"]["pid"], first["pid"], "{told}");
        assert_ne!(told["pid"], first["pid"], "{told}");
        lab.sh("mocker-exec delete --force one").succeeds();
    }
    assert_eq!(agent.answered(libc::SYS_mkdir), [ENOMEDIUM, ENOMEDIUM]);
    drop(agent);
    lab.assert_same(&before);
}

#[test]
fn features_promise_no_less_than_runc_does() {
    let lab = Lab::new("features");
    let ours = lab.sh("mocker-exec features").succeeds().json();
    let theirs = lab.sh("runc features").succeeds().json();
    assert_eq!((&ours["ociVersionMin"], &ours["ociVersionMax"]), (&"1.0.0".into(), &"1.3.0".into()));
    let list = |features: &Value, pointer: &str| -> Vec<String> {
        let list = features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
        list.iter().map(|name| name.as_str().unwrap().to_string()).collect()
    };
    // The specification wants no options here that a file system reads; runc 1.1 has two of them.
    let of_a_file_system = |name: &str| ["acl", "noacl"].contains(&name);
    for pointer in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/linux/seccomp/archs",
    ] {
        let known = list(&ours, pointer);
        let missing: Vec<String> = list(&theirs, pointer)
            .into_iter()
            .filter(|name| !known.contains(name) && !of_a_file_system(name))
            .collect();
        assert!(missing.is_empty(), "{pointer}: {missing:?}");
    }
    for pointer in ["/linux/cgroup/v1", "/linux/cgroup/v2", "/linux/seccomp/enabled", "/linux/netDevices/enabled"] {
        assert_eq!(ours.pointer(pointer), Some(&Value::Bool(true)), "{pointer}");
    }
    assert_eq!(list(&ours, "/linux/memoryPolicy/modes").len(), 7);
}
