//! The groups of a runtime's containers: where they stand, what is written there, what they tell, how they end. Each beside
//! runc, for the same configuration.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use tests::{Lab, Output, require};

/// A lab with a bundle whose program is a busybox, and both runtimes.
struct Bundle {
    lab: Lab,
}

const RUNTIMES: [&str; 2] = ["runc", "mocker-exec"];

/// Leaves an interactive shell's process in the container.
const SLEEP: &str = "exec sleep 1000";

impl Bundle {
    fn new(name: &str) -> Bundle {
        require("runc");
        require("busybox");
        let lab = Lab::new(name);
        lab.sh("mkdir -p bundle/rootfs/bin bundle/rootfs/proc && cp $(command -v busybox) bundle/rootfs/bin/
            for name in sh sleep head tail cat mkdir; do ln -s busybox bundle/rootfs/bin/$name; done
            cd bundle && runc spec && mv config.json base.json")
            .succeeds();
        Bundle { lab }
    }

    /// Writes config.json: a group, its resources, a piece of shell.
    fn configure(&self, path: Option<&str>, resources: &Value, script: &str) {
        let bundle = self.lab.work().join("bundle");
        let mut config: Value =
            serde_json::from_slice(&fs::read(bundle.join("base.json")).expect("a spec")).expect("JSON");
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        config["root"]["readonly"] = false.into();
        match resources {
            Value::Null => drop(config["linux"].as_object_mut().and_then(|linux| linux.remove("resources"))),
            resources => config["linux"]["resources"] = resources.clone(),
        }
        if let Some(path) = path {
            config["linux"]["cgroupsPath"] = path.into();
        }
        fs::write(bundle.join("config.json"), config.to_string()).expect("a file of the lab's");
    }

    fn call(&self, runtime: &str, words: &str) -> Output {
        // Its output to a file: a container keeps the caller's streams.
        self.lab.sh(&format!(
            "{runtime} --root $HOME/{runtime} {words} > out 2> err < /dev/null; status=$?
            cat out; cat err >&2; exit $status"
        ))
    }

    fn start(&self, runtime: &str) {
        self.call(runtime, "run --detach --bundle bundle box").succeeds();
    }

    fn delete(&self, runtime: &str) {
        self.call(runtime, "delete --force box").succeeds();
    }

    /// What the group's files say, in every hierarchy: limits, not what changes by itself.
    fn files(&self, path: &str) -> BTreeMap<String, String> {
        let script = format!(
            "cd /sys/fs/cgroup; for directory in . *; do [ ! -d $directory/{path} ] || for file in $directory/{path}/*; do
                case ${{file##*/}} in
                *usage* | *stat* | *failcnt | *procs | *tasks | *threads | *pressure* | *events* | *current | *peak | *io_serv*) ;;
                *) [ ! -f $file ] || sort $file 2>/dev/null | sed \"s,^,$file ,\" ;;
                esac
            done; done"
        );
        let text = self.lab.sh(&script).succeeds().stdout;
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (file, line) in text.lines().filter_map(|line| line.split_once(' ')) {
            *files.entry(file.to_string()).or_default() += &format!("{line}\n");
        }
        files
    }
}

/// A row: what is asked for, whether it can be had, and a word of the file in which it must be seen.
fn table() -> Vec<(&'static str, Value, bool)> {
    let memory = |value: Value| json!({ "memory": value });
    let docker = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
            {"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ],
        "memory": {"disableOOMKiller": false}, "cpu": {"shares": 0}, "blockIO": {"weight": 0},
    });
    let fuse = json!({ "devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 8, "access": "rw"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"},
    ]});
    let hole = json!({ "devices": [
        {"allow": true, "type": "c", "major": 10, "access": "rwm"},
        {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"},
    ]});
    let mib = |number: i64| number << 20;
    vec![
        ("nothing", Value::Null, true),
        ("nulls", json!({"devices": null, "memory": null, "cpu": {"cpus": ""}, "unified": null}), true),
        ("docker", docker, true),
        ("podman", json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 2048}}), true),
        ("privileged", json!({"devices": [{"allow": true, "access": "rwm"}]}), true),
        ("fuse", fuse, true),
        ("a hole", hole, false),
        ("memory", memory(json!({"limit": mib(64), "reservation": mib(32), "swap": mib(128)})), true),
        ("no limit", memory(json!({"limit": -1})), true),
        ("no swap limit", memory(json!({"limit": mib(64), "swap": -1})), true),
        ("zeros", memory(json!({"limit": 0, "swap": 0, "reservation": 0, "kernel": 0})), true),
        ("no killer", memory(json!({"limit": mib(64), "disableOOMKiller": true, "swappiness": 30})), true),
        ("old words", memory(json!({"kernel": mib(64), "useHierarchy": true, "checkBeforeUpdate": true})), true),
        ("swap below memory", memory(json!({"limit": mib(64), "swap": mib(1)})), false),
        ("too swappy", memory(json!({"swappiness": 101})), false),
        ("cpu", json!({"cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0", "mems": "0"}}), true),
        ("no quota", json!({"cpu": {"quota": -1}}), true),
        ("period", json!({"cpu": {"period": 20000}}), true),
        ("one share", json!({"cpu": {"shares": 1}}), false),
        ("too many shares", json!({"cpu": {"shares": 300_000}}), false),
        ("no such cpu", json!({"cpu": {"cpus": "4095"}}), false),
        ("pids", json!({"pids": {"limit": 40}}), true),
        ("all pids", json!({"pids": {"limit": -1}}), true),
        ("weight", json!({"blockIO": {"weight": 200}}), true),
        ("raw files", json!({"unified": {"memory.high": "1000"}}), false),
        ("no adapter", json!({"rdma": {"none": {"hcaHandles": 3}}}), false),
    ]
}

#[test]
fn the_files_of_a_group_are_as_runc_writes_them() {
    let bundle = Bundle::new("group-files");
    let v1 = bundle.lab.sh("test -d /sys/fs/cgroup/memory").code() == 0;
    if !v1 {
        return; // runc 1.1 has other words for v2: those are tables in the unit tests
    }
    let before = bundle.lab.snapshot();
    for (name, resources, possible) in table() {
        bundle.configure(Some("/engine/box"), &resources, SLEEP);
        let [theirs, ours] = RUNTIMES.map(|runtime| {
            let outcome = bundle.call(runtime, "create --bundle bundle box");
            assert_eq!(outcome.code() == 0, possible, "{name}: {outcome}");
            let files = bundle.files("engine/box");
            bundle.delete(runtime);
            assert!(bundle.files("engine/box").is_empty(), "{name}: {runtime} leaves its group");
            files
        });
        assert_eq!(ours, theirs, "{name}");
        assert_eq!(ours.is_empty(), !possible, "{name}");
    }
    bundle.lab.sh("rmdir /sys/fs/cgroup/*/engine; rm -rf runc mocker-exec /run/runc").says("");
    bundle.lab.assert_same(&before);
}

#[test]
fn a_group_stands_below_the_root_or_below_the_callers_own() {
    let bundle = Bundle::new("group-place");
    // The caller sits in a group of its own in one hierarchy.
    let enter = "for own in /sys/fs/cgroup/pids /sys/fs/cgroup; do
        [ ! -f $own/cgroup.procs ] || { mkdir -p $own/caller; echo $$ > $own/caller/cgroup.procs; break; }
    done";
    for path in [None, Some("/engine/box"), Some("mine/box"), Some("../../up"), Some("/a/../b/./box")] {
        bundle.configure(path, &json!({}), SLEEP);
        let [theirs, ours] = RUNTIMES.map(|runtime| {
            let groups = bundle.lab.sh(&format!(
                "{enter}
                {runtime} --root $HOME/state create --bundle bundle --pid-file pid box > /dev/null < /dev/null || exit
                cat /proc/$(cat pid)/cgroup
                {runtime} --root $HOME/state delete --force box"
            ));
            groups.succeeds().stdout
        });
        assert_eq!(ours, theirs, "{path:?}");
        assert!(ours.lines().count() > 0);
    }
    bundle.configure(Some("/"), &json!({}), SLEEP);
    bundle.call("mocker-exec", "create --bundle bundle box").fails(1).says("the root of all groups");
    bundle.configure(Some("system.slice:engine:box"), &json!({}), SLEEP);
    bundle
        .call("mocker-exec", "--systemd-cgroup create --bundle bundle box")
        .fails(1)
        .says("systemd not running on this host, cannot use systemd cgroups manager");
}

#[test]
fn a_group_that_was_there_is_taken_if_nobody_is_in_it() {
    let bundle = Bundle::new("group-reuse");
    let pids = "for pids in /sys/fs/cgroup/pids /sys/fs/cgroup; do [ ! -f $pids/cgroup.procs ] || break; done";
    bundle.configure(Some("/engine/box"), &json!({"pids": {"limit": 9}}), SLEEP);
    bundle.lab.sh(&format!("{pids}; mkdir -p $pids/engine/box && echo 7 > $pids/engine/box/pids.max")).succeeds();
    bundle.start("mocker-exec");
    bundle.lab.sh(&format!("{pids}; cat $pids/engine/box/pids.max")).prints("9\n");

    bundle
        .call("mocker-exec", "run --detach --bundle bundle other")
        .fails(1)
        .says("container's cgroup is not empty: 1 process(es) found");
    bundle.call("mocker-exec", "state box").succeeds().prints("\"running\"");
    bundle.delete("mocker-exec");
    // The group goes, as runc's does, and those above it stay.
    bundle.lab.sh(&format!("{pids}; test -d $pids/engine && ! test -e $pids/engine/box")).succeeds();
}

#[test]
fn update_writes_what_is_asked_for_and_leaves_the_rest() {
    let bundle = Bundle::new("group-update");
    let resources = json!({"memory": {"limit": 64 << 20, "swap": 128 << 20}, "pids": {"limit": 50}});
    bundle.configure(Some("/engine/box"), &resources, SLEEP);
    let docker = r#"{"memory":{"limit":33554432,"reservation":0,"swap":33554432,"kernel":0},
        "cpu":{"shares":0,"quota":50000,"period":100000},"pids":{"limit":40},"blockIO":{"weight":0}}"#;
    let updates = [
        (0, format!("printf '%s' '{docker}' | RUNTIME update --resources - box")),
        (
            0,
            "RUNTIME update --memory 256m --memory-swap 512m --cpu-share 300 --cpu-quota -1 --cpuset-cpus 0 box".into(),
        ),
        (0, "RUNTIME update --pids-limit -1 --memory-reservation 100m --cpuset-mems 0 box".into()),
        (0, "RUNTIME update --cpu-period 50000 box; RUNTIME update --cpu-quota 25000 box".into()),
        (0, "RUNTIME update --cpu-quota 5000 --cpu-period 10000 box".into()),
        (0, "RUNTIME update --memory 128m --memory-swap 128m box".into()),
        (0, "RUNTIME update --memory -1 box".into()),
        (0, "printf '{}' > file; RUNTIME update --resources=file box".into()),
        (0, "printf '{\"devices\":[{\"allow\":true,\"access\":\"rwm\"}]}' | RUNTIME update -r - box".into()),
        (1, "RUNTIME update --memory lots box".into()),
        (1, "RUNTIME update --memory 100m --memory-swap 50m box".into()),
        (1, "RUNTIME update --cpuset-cpus 4095 box".into()),
        (1, "RUNTIME update --memory 100m nobody".into()),
    ];
    let [theirs, ours] = RUNTIMES.map(|runtime| {
        bundle.start(runtime);
        let seen = updates.clone().map(|(status, line)| {
            bundle.lab.sh(&line.replace("RUNTIME", &format!("{runtime} --root $HOME/{runtime}"))).fails(status);
            bundle.files("engine/box")
        });
        bundle.delete(runtime);
        seen
    });
    // One that is refused is refused whole, where runc may have written half of it.
    let done = updates.iter().zip(ours.iter().zip(&theirs)).filter(|((status, _), _)| *status == 0);
    for ((_, line), (ours, theirs)) in done {
        assert_eq!(ours, theirs, "{line}");
    }
    assert!(ours[9..].iter().all(|files| *files == ours[8]), "an update that failed has left something");
}

/// The names in a JSON value, without what is in the lists and in the kernel's own words.
fn names(value: &Value, place: &str, all: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let place = format!("{place}/{key}");
        all.push(place.clone());
        names(value, &place, all);
    }
}

#[test]
fn statistics_have_the_shape_that_libraries_read() {
    let bundle = Bundle::new("group-stats");
    let resources = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"quota": 20000}});
    let busy = "head -c 8m /dev/zero > /file; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exec sleep 1000";
    bundle.configure(Some("/engine/box"), &resources, busy);
    let [theirs, ours] = RUNTIMES.map(|runtime| {
        bundle.start(runtime);
        bundle.lab.sh("until pidof sleep | grep -q .; do sleep 0.05; done; sleep 0.5");
        let event = bundle.call(runtime, "events --stats box").succeeds().json();
        bundle.delete(runtime);
        event
    });
    let [mut our_names, mut their_names] = [Vec::new(), Vec::new()];
    names(&ours, "", &mut our_names);
    names(&theirs, "", &mut their_names);
    // What is zero is left out, and whether a disk was read or the program held back is chance.
    let steady =
        |all: &mut Vec<String>| all.retain(|name| !["/throttling/", "/blkio/"].iter().any(|part| name.contains(part)));
    steady(&mut our_names);
    steady(&mut their_names);
    assert_eq!(our_names, their_names);
    let data = &ours["data"];
    assert_eq!((&ours["type"], &ours["id"]), (&json!("stats"), &json!("box")));
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(data["pids"], json!({"current": 1, "limit": 50}));
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(1_000_000), "{data:#}");
    assert!(data["memory"]["cache"].as_u64() >= Some(1 << 20), "{data:#}");
}

#[test]
fn events_tell_of_memory_that_ran_out_and_end_with_the_container() {
    let bundle = Bundle::new("group-events");
    let before = bundle.lab.snapshot();
    let resources = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    let script = "until [ -e /now ]; do sleep 0.05; done; head -c 64m /dev/zero | tail -c 64m > /dev/null; sleep 0.5";
    bundle.configure(Some("/engine/box"), &resources, script);
    bundle.start("mocker-exec");
    let events = bundle.lab.shell("mocker-exec --root $HOME/mocker-exec events --interval 100ms box").spawn();
    bundle.lab.sh("sleep 0.3; touch bundle/rootfs/now").succeeds();
    let told = events.wait().succeeds();
    let kinds: Vec<String> = told
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is an object")["type"].to_string())
        .collect();
    assert!(kinds.iter().any(|kind| kind == "\"oom\"") && kinds.iter().any(|kind| kind == "\"stats\""), "{kinds:?}");
    bundle.call("mocker-exec", "events --stats box").fails(1).says("container with id box is not running");
    bundle.call("mocker-exec", "events --interval 0s box").fails(1).says("greater than 0");
    bundle.delete("mocker-exec");
    bundle
        .lab
        .sh("rmdir /sys/fs/cgroup/*/engine /sys/fs/cgroup/engine 2>/dev/null; rm -rf mocker-exec bundle/rootfs/now");
    bundle.lab.assert_same(&before);
}

#[test]
fn a_frozen_container_stands_and_can_be_killed() {
    let bundle = Bundle::new("group-freeze");
    bundle.configure(Some("/engine/box"), &json!({}), "while :; do echo x >> /beat; sleep 0.01; done");
    for runtime in RUNTIMES {
        bundle.start(runtime);
        bundle.call(runtime, "pause box").succeeds();
        bundle.call(runtime, "state box").succeeds().prints("\"paused\"");
        bundle.call(runtime, "pause box").fails(1).says("container not running");
        let beats = || fs::metadata(bundle.lab.work().join("bundle/rootfs/beat")).map_or(0, |file| file.len());
        let then = beats();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(beats(), then, "{runtime}: it goes on while frozen");
        bundle.call(runtime, "resume box").succeeds();
        bundle.call(runtime, "resume box").fails(1).says("container not paused");
        bundle.call(runtime, "pause box").succeeds();
        bundle.call(runtime, "kill --all box KILL").succeeds();
        bundle.lab.sh(&format!(
            "for i in $(seq 100); do {runtime} --root $HOME/{runtime} state box | grep -q stopped && exit; sleep 0.05; done; exit 1"
        ))
        .succeeds();
        bundle.call(runtime, "kill --all box KILL").succeeds();
        bundle.call(runtime, "delete box").succeeds();
    }
}

#[test]
fn whatever_lives_in_a_group_goes_with_the_container() {
    let bundle = Bundle::new("group-end");
    let before = bundle.lab.snapshot();
    let own = "find /sys/fs/cgroup -type d -path '*engine/box'";
    // A bomb in the host's pid namespace: its processes do not end with the first one. And groups below, one of them frozen.
    let bomb = "bomb() { bomb | bomb & }; while :; do bomb; sleep 0.01; done 2>/dev/null";
    bundle.configure(Some("/engine/box"), &json!({"pids": {"limit": 300}}), bomb);
    bundle.lab.sh("cd bundle && jq '.linux.namespaces |= map(select(.type != \"pid\"))' config.json > new && mv new config.json").succeeds();
    bundle.start("mocker-exec");
    bundle
        .lab
        .sh(&format!(
        "for i in $(seq 200); do [ $(cat $({own} | head -1)/cgroup.procs | wc -l) -lt 100 ] || break; sleep 0.05; done
        for group in $({own}); do mkdir -p $group/below/deep; done
        sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! | tee $({own} | sed 's,$,/below/cgroup.procs,') > /dev/null
        freezer=$({own} | grep freezer) && echo FROZEN > $freezer/below/freezer.state || true"
    ))
        .succeeds();
    bundle.delete("mocker-exec");
    assert_eq!(bundle.lab.sh(own).stdout, "");
    bundle.lab.sh("rmdir /sys/fs/cgroup/*/engine /sys/fs/cgroup/engine 2>/dev/null; rm -rf mocker-exec bundle/new");
    bundle.lab.assert_same(&before);
}

#[test]
fn one_more_process_enters_the_groups_or_some_below_them() {
    let bundle = Bundle::new("group-exec");
    bundle.configure(Some("/engine/box"), &json!({}), SLEEP);
    let [theirs, ours] = RUNTIMES.map(|runtime| {
        bundle.start(runtime);
        bundle.lab.sh("for group in /sys/fs/cgroup/*/engine/box /sys/fs/cgroup/engine/box; do
            [ ! -d $group ] || mkdir $group/below
        done
        cpuset=/sys/fs/cgroup/cpuset/engine/box
        [ ! -d $cpuset ] || for file in cpuset.cpus cpuset.mems; do cat $cpuset/$file > $cpuset/below/$file; done");
        let seen = ["", "--cgroup below", "--cgroup pids,memory:/below"].map(|flags| {
            let out = bundle.call(runtime, &format!("exec {flags} box cat /proc/self/cgroup"));
            out.stdout.lines().map(str::to_string).collect::<Vec<_>>()
        });
        for bad in ["--cgroup a --cgroup b", "--cgroup pids:a --cgroup pids:b", "--cgroup nowhere"] {
            bundle.call(runtime, &format!("exec {bad} box cat /proc/self/cgroup")).fails(255);
        }
        bundle.delete(runtime);
        seen
    });
    assert_eq!(ours, theirs);
    assert!(ours.iter().all(|lines| !lines.is_empty()), "{ours:?}");
}

#[test]
fn a_limit_that_cannot_be_had_stops_the_container() {
    let bundle = Bundle::new("group-limit");
    let before = bundle.lab.snapshot();
    bundle.configure(Some("/engine/box"), &json!({"pids": {"limit": 5}}), SLEEP);
    // Read-only, as in most containers.
    let read_only = "unshare --mount sh -c 'for mount in $(findmnt -rno TARGET -t cgroup,cgroup2); do
        mount -o remount,bind,ro $mount; done; mocker-exec --root $HOME/state create --bundle bundle box > /dev/null < /dev/null'";
    bundle.lab.sh(read_only).fails(1).says("mounted read-only");
    bundle.lab.sh("rm -rf state");
    bundle.lab.assert_same(&before);
}
