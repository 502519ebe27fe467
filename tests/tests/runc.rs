//! A document is a plain bundle for any OCI runtime: it runs under runc and crun as it does under mocker-exec.

use tests::{Lab, require};

#[test]
fn runc_and_crun_print_what_mocker_exec_prints() {
    let lab = Lab::new("runc");
    lab.images(&["tool"]);
    let before = lab.snapshot();
    let ours = lab.sh("mocker-images get tool | mocker-exec --id same").succeeds();
    assert!(ours.stdout.starts_with("argc=2\n"), "{ours}");
    for runtime in ["runc", "crun"] {
        require(runtime);
        lab.sh("mkdir -p bundle && mocker-images get tool | mocker-images mount --id same > bundle/config.json")
            .succeeds();
        let theirs = lab.sh(&format!("{runtime} --root $HOME/{runtime} run --bundle bundle same"));
        assert_eq!(theirs.stdout, ours.stdout, "{runtime}: {theirs}");
        // Its undo stood in hooks.poststop, and the runtime ran it.
        lab.sh("test ! -e $MOCKER_ROOT/containers/same").succeeds();
        lab.sh(&format!("rm -rf {runtime} bundle /run/{runtime} /run/user")).succeeds();
        lab.assert_same(&before);
    }
}

#[test]
fn a_network_and_a_group_of_ours_serve_runc() {
    let lab = Lab::new("runc-net");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    lab.sh("mkdir bundle
        mocker-images get busybox | mocker-net | mocker-cgroup --pids 77 | mocker-images mount |
            jq '.process.args = [\"sh\", \"-c\", \"ip -4 address show eth0\"]' > bundle/config.json
        runc --root $HOME/state run --bundle bundle $(jq -r .mocker.id bundle/config.json)")
        .succeeds()
        .prints("10.0.0.3/");
    lab.sh("rm -rf state bundle /run/runc").succeeds();
    lab.assert_same(&before);
}
