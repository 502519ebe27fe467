//! mocker-cgroup: limits that hold, groups that go whatever lives in them.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::Lab;

mod steps;

/// Puts the shell into the group `lab`, in every hierarchy that has it.
const ENTER: &str = "for procs in /sys/fs/cgroup/mocker/lab/cgroup.procs /sys/fs/cgroup/*/mocker/lab/cgroup.procs; do
    [ ! -f $procs ] || echo $$ > $procs || exit 99
done\n";

fn stat(lab: &Lab) -> Value {
    lab.sh("mocker-cgroup stat lab --json").succeeds().json()
}

/// Makes the group `lab`, runs a piece of shell in it, returns what came of it.
fn run_in_group(lab: &Lab, flags: &str, script: &str) -> tests::Output {
    lab.sh(&format!("mocker-cgroup --new --id lab {flags} > document.json")).succeeds();
    lab.sh(&format!("{ENTER}{script}"))
}

#[test]
fn limits_stand_in_the_document_and_in_the_kernel() {
    let lab = Lab::new("limits");
    let before = lab.snapshot();
    let flags = "--memory 64M --memory-reservation 32M --cpus 0.5 --cpu-shares 512 --pids-limit 20 --cpuset-cpus 0";
    let document = lab.sh(&format!("mocker-cgroup --new --id lab {flags}")).succeeds().json();
    let resources = &document["linux"]["resources"];
    assert_eq!(document["linux"]["cgroupsPath"], "/mocker/lab");
    assert_eq!(resources["memory"]["limit"], 64 << 20);
    assert_eq!(resources["cpu"]["quota"], 50_000);
    assert_eq!(resources["pids"]["limit"], 20);

    let numbers = stat(&lab);
    assert_eq!(numbers["memory"]["limit_bytes"], 64 << 20);
    assert_eq!(numbers["pids"]["limit"], 20);
    assert_eq!(numbers["cpu"]["quota_us"], 50_000);
    let directories = document["mocker"]["cgroup"]["directories"].as_array().expect("an array").clone();
    assert!(directories.len() > 5 || document["mocker"]["cgroup"]["version"] == "v2", "{directories:?}");
    lab.sh("cat /sys/fs/cgroup/cpuset/mocker/lab/cpuset.cpus || cat /sys/fs/cgroup/mocker/lab/cpuset.cpus")
        .succeeds()
        .prints("0\n");
    lab.sh("mocker-cgroup ls").prints("lab  0          0B      64.0MiB");
    lab.sh("mocker-cgroup delete lab; mocker-cgroup delete lab").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_flag_wins_over_the_document_and_the_rest_of_it_is_kept() {
    let lab = Lab::new("merge");
    let text =
        r#"{"ociVersion":"1.3.0","x":[1.10],"linux":{"resources":{"memory":{"limit":33554432},"pids":{"limit":7}}}}"#;
    let run = lab.tool("mocker-cgroup").args(["--id", "lab", "--pids", "9"]).stdin(text).run().succeeds();
    assert!(run.stdout.contains("1.10"), "{run}");
    assert_eq!(stat(&lab)["pids"]["limit"], 9);
    assert_eq!(stat(&lab)["memory"]["limit_bytes"], 32 << 20);
}

#[test]
fn a_program_cannot_fork_past_its_limit() {
    let lab = Lab::new("pids");
    let script = "for number in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo all of them";
    let out = run_in_group(&lab, "--pids 8", script);
    assert!(out.stderr.contains("fork") && !out.stdout.contains("all of them"), "{out}");
}

#[test]
fn a_program_past_its_memory_is_killed_and_counted() {
    let lab = Lab::new("memory");
    let out = run_in_group(&lab, "--memory 16M --memory-swap 16M", "head -c 64M /dev/zero | tail -c 64M | wc -c");
    assert!(!out.stdout.contains("67108864"), "{out}");
    assert!(stat(&lab)["memory"]["oom_kills"].as_u64() >= Some(1), "{}", stat(&lab));
}

#[test]
fn a_busy_program_is_held_back_at_its_quota() {
    let lab = Lab::new("cpu");
    run_in_group(&lab, "--cpus 0.2", "timeout 1 sh -c 'while :; do :; done'").fails(124);
    let cpu = &stat(&lab)["cpu"];
    assert!(cpu["throttled_periods"].as_u64() >= Some(3), "{cpu}");
    assert!(cpu["usage_us"].as_u64() < Some(500_000), "{cpu}");
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    let lab = Lab::new("devices");
    let script = "mknod kmsg c 1 11 && mknod null c 1 3 && echo x > null && echo null opens; : < kmsg";
    let out = run_in_group(&lab, "", script).prints("null opens");
    assert!(out.code() != 0 && out.stderr.contains("not permitted"), "{out}");
    let document: Value = serde_json::from_slice(&std::fs::read(lab.work().join("document.json")).unwrap()).unwrap();
    assert_eq!(document["mocker"]["cgroup"]["devices"], true);
    lab.sh(": < kmsg").succeeds(); // outside the group it can
}

#[test]
fn a_group_full_of_forking_processes_goes_however_fast_it_forks() {
    let lab = Lab::new("bomb");
    let before = lab.snapshot();
    lab.sh("mocker-cgroup --new --id lab --pids 400 > /dev/null").succeeds();
    let bomb = format!("{ENTER}bomb() {{ bomb | bomb & }}; while :; do bomb; sleep 0.01; done 2>/dev/null");
    let running = lab.shell(&bomb).spawn();
    let deadline = Instant::now() + Duration::from_secs(10);
    while stat(&lab)["pids"]["current"].as_u64() < Some(300) {
        assert!(Instant::now() < deadline, "the bomb does not go off: {}", stat(&lab)["pids"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.sh("mocker-cgroup delete lab").succeeds();
    drop(running);
    lab.assert_same(&before);
}

#[test]
fn groups_that_the_container_made_and_a_frozen_one_go_too() {
    let lab = Lab::new("nested");
    let before = lab.snapshot();
    let script = "for group in /sys/fs/cgroup/*/mocker/lab /sys/fs/cgroup/mocker/lab; do
        [ ! -d $group ] || mkdir -p $group/a/b
    done
    echo $$ > /sys/fs/cgroup/pids/mocker/lab/a/b/cgroup.procs 2>/dev/null
    echo ready; exec sleep 60";
    lab.sh("mocker-cgroup --new --id lab > /dev/null").succeeds();
    let mut running = lab.shell(&format!("{ENTER}{script}")).spawn();
    running.wait_for("ready");
    lab.sh("mocker-cgroup freeze lab && mocker-cgroup stat lab").succeeds().prints("frozen");
    lab.sh("mocker-cgroup delete lab").succeeds();
    assert_eq!(running.wait().code(), 137);
    lab.assert_same(&before);
}

#[test]
fn a_frozen_program_stands_still_until_it_is_thawed() {
    let lab = Lab::new("freeze");
    lab.sh("mocker-cgroup --new --id lab > /dev/null").succeeds();
    let mut running = lab.shell(&format!("{ENTER}echo ready; while :; do echo x >> beat; sleep 0.01; done")).spawn();
    running.wait_for("ready");
    let beats = || std::fs::metadata(lab.work().join("beat")).map_or(0, |metadata| metadata.len());
    lab.sh("mocker-cgroup freeze lab").succeeds();
    let then = beats();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(beats(), then, "it goes on while frozen");
    lab.sh("mocker-cgroup thaw lab").succeeds();
    std::thread::sleep(Duration::from_millis(200));
    assert!(beats() > then, "it does not go on when thawed");
}

#[test]
fn a_parent_that_somebody_else_made_stays() {
    let lab = Lab::new("parent");
    let other = lab.sh("d=$(dirname $(find /sys/fs/cgroup -name pids.max | head -1)); \
                        for g in /sys/fs/cgroup/pids /sys/fs/cgroup; do [ ! -f $g/cgroup.procs ] || { mkdir $g/theirs; break; }; done");
    other.succeeds();
    let before = lab.snapshot();
    lab.sh("mocker-cgroup --new --id one --parent /theirs > /dev/null && mocker-cgroup --new --id two --parent /theirs >/dev/null")
        .succeeds();
    lab.sh("mocker-cgroup delete one two").succeeds();
    lab.assert_same(&before);
}

#[test]
fn bad_input_is_answered_with_what_is_possible() {
    let lab = Lab::new("bad");
    let before = lab.snapshot();
    for (flags, says) in [
        ("--memory 0", "at least 6.0MiB"),
        ("--memory -1", "256M, 1.5G"),
        ("--memory lots", "256M, 1.5G"),
        ("--memory 10M --memory-swap 8M", "at least --memory"),
        ("--memory-swap 8M", "--memory must be given"),
        ("--cpus 0", "0.01 to"),
        ("--cpus -2", "0.01 to"),
        ("--cpus 4096", "there are"),
        ("--cpus many", "0.01 to"),
        ("--pids 0", "1 to 4194304"),
        ("--pids -7", "-1 for no limit"),
        ("--cpu-shares 1", "2 to 262144"),
        ("--cpuset-cpus x", "0-2,4"),
    ] {
        lab.sh(&format!("mocker-cgroup --new --id lab {flags}")).fails(2).says(says);
    }
    lab.sh("mocker-cgroup --new --id lab --parent ../x").fails(1).says("not a plain path");
    lab.sh("mocker-cgroup --new --id lab --cpuset-cpus 0-4095").fails(1).says("cpuset.cpus");
    lab.sh("mocker-cgroup stat lab").fails(1).says("no cgroup of container lab");
    lab.tool("mocker-cgroup")
        .stdin(r#"{"linux":{"resources":{"memory":{"kernel":1}}}}"#)
        .run()
        .fails(1)
        .says("linux.resources.memory.kernel");
    lab.assert_same(&before);
}

#[test]
fn an_id_is_given_once_and_the_first_group_stays_as_it_is() {
    let lab = Lab::new("twice");
    lab.sh("mocker-cgroup --new --id lab --pids 5 > /dev/null").succeeds();
    lab.sh("mocker-cgroup --new --id lab --pids 6").fails(1).says("exists already");
    assert_eq!(stat(&lab)["pids"]["limit"], 5);
}

#[test]
fn killed_after_any_step_prune_leaves_the_machine_as_it_was() {
    let lab = Lab::new("killed");
    let make = "exec mocker-cgroup --new --id lab --memory 64M --cpuset-cpus 0 --parent /a/b --explain=json";
    let steps = steps::kill_at_each(&lab, make, "mocker-cgroup prune", "mocker-cgroup delete lab");
    assert!(steps > 20, "only {steps} steps were seen");
}
