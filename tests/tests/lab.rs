//! The test bench itself: a lab is a host of its own, and notices what is left in it.

use tests::Lab;

#[test]
fn a_lab_is_the_same_as_long_as_nobody_changes_it() {
    let lab = Lab::new("same");
    let before = lab.snapshot();
    lab.sh("ip link; sleep 0.1").succeeds();
    lab.assert_same(&before);
}

#[test]
fn whatever_is_left_in_a_lab_is_noticed() {
    let lab = Lab::new("left");
    let before = lab.snapshot();
    for (make, unmake) in [
        ("ip link add left type bridge", "ip link del left"),
        ("ip netns add left", "ip netns del left; umount /run/netns; rmdir /run/netns"),
        ("nft add table ip left", "nft delete table ip left"),
        ("mkdir /run/left && mount -t tmpfs left /run/left", "umount /run/left; rmdir /run/left"),
        (
            "mkdir $(find /sys/fs/cgroup -name cgroup.procs -printf %h -quit)/left",
            "find /sys/fs/cgroup -type d -name left -exec rmdir {} +",
        ),
        ("echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 0 > /proc/sys/net/ipv4/ip_forward"),
        ("sleep 1000 >/dev/null 2>&1 &", "kill $(pgrep -x sleep | grep -vx 1)"),
        ("mkdir -p $MOCKER_ROOT/containers/left", "rm -r $MOCKER_ROOT"),
    ] {
        lab.sh(make).succeeds();
        assert_ne!(lab.snapshot(), before, "{make} goes unnoticed");
        lab.sh(unmake).succeeds();
        lab.assert_same(&before);
    }
}

#[test]
fn a_registry_serves_the_demo_images_in_a_lab() {
    let lab = Lab::new("registry");
    let registry = lab.registry();
    lab.sh(&format!("curl --silent --fail http://{}/v2/library/busybox/tags/list", registry.address()))
        .succeeds()
        .prints("latest");
}

#[test]
fn orphans_are_reaped() {
    let lab = Lab::new("orphans");
    let out = lab.sh("(sleep 0.1 &); sleep 0.3; ps -e -o stat=").succeeds();
    assert!(!out.stdout.contains('Z'), "{out}");
}
