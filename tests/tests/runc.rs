//! A document is a plain bundle for any OCI runtime: it runs under runc and crun as it does under mocker-exec.

use tests::{Lab, require};

#[test]
fn runc_and_crun_print_what_mocker_exec_prints() {
    let lab = Lab::new("runc");
    lab.images(&["tool"]);
    let before = lab.snapshot();
    let ours = lab.sh("mocker-images get tool | mocker-exec --id same").succeeds();
    assert!(ours.stdout.starts_with("argc=2\n"), "{ours}");
    // Debian 12's crun knows no version above 1.0 and no hybrid of cgroup v1 and v2: it is shown neither.
    let unified_hidden = "unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"' sh";
    for (runtime, shown, through) in [("runc", ".", ""), ("crun", ".ociVersion = \"1.0.2\"", unified_hidden)] {
        require(runtime);
        lab.sh(&format!(
            "mkdir -p bundle
            mocker-images get tool | mocker-images mount --id same | jq '{shown}' > bundle/config.json"
        ))
        .succeeds();
        let theirs = lab.sh(&format!("{through} {runtime} --root $HOME/{runtime} run --bundle bundle same"));
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
    // runc makes the group in every hierarchy, and of those that we do not use it leaves the parent.
    lab.sh("rm -rf state bundle /run/runc; rmdir /sys/fs/cgroup/*/mocker").says("");
    lab.assert_same(&before);
}
