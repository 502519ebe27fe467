//! Network devices of the host that move into the container.

use crate::bundle::{lab, run};

#[test]
fn a_network_device_moves_with_its_lasting_addresses_and_comes_up() {
    let lab = lab("netdev");
    lab.sh("ip link add v0 type veth peer name v1; ip link add w0 type veth peer name w1; ip link add x0 type veth peer name x1
            ip address add 10.9.0.2/24 broadcast 10.9.0.255 dev v0; ip address add 10.9.0.3/24 dev v0
            ip address add 10.8.0.1/24 scope link dev v0; ip address add 10.7.0.1/24 valid_lft 300 preferred_lft 300 dev v0
            ip address add fd00:9::5/64 nodad dev v0; ip link set v0 mtu 1400 address 02:00:00:00:09:05 up")
        .succeeds();
    let devices = r#".linux.netDevices = { v0: { name: "web0" }, w0: { name: "web%d" }, x0: {} }"#;
    let out = run(&lab, devices, "ip -o link; ip -o address").succeeds();
    for part in [
        "inet 10.9.0.2/24 brd 10.9.0.255 scope global web0",
        "inet 10.9.0.3/24 scope global secondary web0",
        "inet6 fd00:9::5/64 scope global",
        "link/ether 02:00:00:00:09:05",
        "mtu 1400",
        "web1@",
        "x0@",
    ] {
        assert!(out.stdout.contains(part), "{part:?} is not in {out}");
    }
    for part in ["10.8.0.1", "10.7.0.1", "v0", "w0"] {
        assert!(!out.stdout.contains(part), "{part:?} is in {out}");
    }
    for device in ["web0", "web1", "x0"] {
        let line = out.stdout.lines().find(|line| line.contains(&format!(" {device}@"))).unwrap_or_default();
        assert!(line.contains(",UP"), "{device} is down: {out}");
    }
}

#[test]
fn a_device_that_cannot_move_stays_and_the_container_does_not_run() {
    let lab = lab("netdev-refused");
    lab.sh("ip link add v0 type veth peer name v1; ip link add w0 type veth peer name w1").succeeds();
    let before = lab.snapshot();
    for (filter, words) in [
        (r#".linux.netDevices = { v0: { name: "lo" } }"#, "the container has a device lo"),
        (r#".linux.netDevices = { v0: { name: "x" }, w0: { name: "x" } }"#, "the container has a device x"),
        (r#".linux.netDevices = { v0: {}, nope: {} }"#, "there is no such device"),
        (r#".linux.netDevices = { v0: { name: "a/b" } }"#, "invalid network device name 'a/b'"),
        (
            r#".linux.netDevices = { v0: {} } | del(.linux.namespaces[] | select(.type == "network"))"#,
            "unable to move network devices without a NET namespace",
        ),
    ] {
        let out = run(&lab, filter, "echo ran").says(words);
        assert_eq!((out.code() == 0, out.stdout.as_str()), (false, ""), "{out}");
        lab.assert_same(&before);
    }
}

#[test]
fn a_device_moves_into_a_namespace_with_a_name_too() {
    let lab = lab("netdev-named");
    lab.sh("ip netns add other; ip link add v0 type veth peer name v1; ip address add 10.9.0.2/24 dev v0").succeeds();
    let filter = r#".linux.netDevices = { v0: {} }
        | (.linux.namespaces[] | select(.type == "network")).path = "/run/netns/other""#;
    run(&lab, filter, "ip address show dev v0").succeeds().prints("10.9.0.2/24");
    // The namespace outlives the container, and so does the device in it.
    lab.sh("ip -n other address show dev v0; ip netns delete other").succeeds().prints("10.9.0.2/24");
}
