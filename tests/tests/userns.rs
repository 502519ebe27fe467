//! User and time namespaces of bundles, beside runc on the same bundle.

use serde_json::{Value, json};
use tests::{Lab, Output, require};

/// A lab with a bundle in `bundle`: busybox, its files owned by the container's root.
fn lab(name: &str, owner: &str) -> Lab {
    require("runc");
    let lab = Lab::new(name);
    lab.sh(&format!(
        "mkdir -p bundle/rootfs/bin bundle/rootfs/tmp && cp $(command -v busybox) bundle/rootfs/bin/
        for name in $(busybox --list | grep -vx busybox); do ln -sf busybox bundle/rootfs/bin/$name; done
        chown -hR {owner} bundle/rootfs && cd bundle && runc spec"
    ))
    .succeeds();
    lab
}

/// Writes the bundle's configuration: runc's own with changes.
fn configure(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) {
    let path = lab.work().join("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["sh", "-c", script]);
    config["process"]["rlimits"] = json!([]);
    config["root"]["readonly"] = false.into();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

fn add_namespace(config: &mut Value, namespace: Value) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != namespace["type"]);
    all.push(namespace);
}

/// Ids 0 to 65535 inside are 100000 (users) and 200000 (groups) on outside.
fn map(config: &mut Value) {
    add_namespace(config, json!({"type": "user"}));
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
}

fn ours(lab: &Lab, rest: &str) -> Output {
    lab.sh(&format!("mocker-exec --root $HOME/ours {rest}"))
}

#[test]
fn a_container_with_mapped_ids_is_what_runc_makes_of_it() {
    let lab = lab("userns", "100000:200000");
    let script = "id; cat /proc/self/uid_map /proc/self/gid_map; grep -E '^(Cap|Groups|NoNewPrivs)' /proc/self/status
        stat -c '%n %F %a %u:%g %t:%T' / /bin /dev /dev/* /proc/self/ns | grep -v mqueue
        touch /tmp/new && chown 7:8 /tmp/new && stat -c '%u:%g' /tmp/new && rm /tmp/new
        cut -d' ' -f5,6 /proc/self/mountinfo | grep -v cgroup | sort
        echo x > /dev/null && head -c 1 /dev/zero | wc -c
        mknod /tmp/disk b 8 0 2>&1; echo 1 > /proc/sys/kernel/panic; hostname";
    configure(&lab, script, |config| {
        map(config);
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"});
        config["process"]["oomScoreAdj"] = 100.into();
    });
    let before = lab.snapshot();
    let theirs = lab.sh("runc --root $HOME/theirs run --bundle bundle one").succeeds();
    lab.sh("rm -rf theirs").succeeds();
    let run = ours(&lab, "run --bundle bundle one").succeeds();
    assert_eq!(run.stdout, theirs.stdout);
    run.prints("0     100000      65536").prints("/dev/null character special file 666 65534:65534 1:3");
    lab.sh("rm -rf ours; rmdir /sys/fs/cgroup/*/one 2>/dev/null; true").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_process_of_exec_has_the_containers_ids() {
    let lab = lab("userns-exec", "100000:200000");
    configure(&lab, "exec sleep 100", map);
    ours(&lab, "run --detach --bundle bundle one </dev/null >/dev/null 2>&1").succeeds();
    let script = "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; touch /tmp/of-exec";
    let out = ours(&lab, &format!("exec one sh -c '{script}'")).succeeds();
    out.prints("0\n         0     100000      65536\n").prints("CapEff:\t0000000020000420");
    lab.sh("stat -c %u:%g bundle/rootfs/tmp/of-exec").succeeds().prints("100000:200000");
    ours(&lab, "exec --user 5:6 one id").succeeds().prints("uid=5 gid=6");

    // A second container in the first one's namespaces: a go-between joins what the host owns and what it does not.
    let pid = ours(&lab, "state one").succeeds().json()["pid"].to_string();
    configure(&lab, "id -u; cat /proc/self/uid_map; ps | grep -c 'sleep 100'; hostname", |config| {
        for kind in ["user", "network", "ipc", "pid", "uts"] {
            let file = match kind {
                "network" => "net",
                kind => kind,
            };
            add_namespace(config, json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        }
        config["hostname"] = Value::Null;
        config["linux"].as_object_mut().unwrap().remove("uidMappings");
        config["linux"].as_object_mut().unwrap().remove("gidMappings");
    });
    let out = ours(&lab, "run --bundle bundle two").succeeds();
    out.prints("0\n         0     100000      65536\n");
    ours(&lab, "delete --force one").succeeds();
}

#[test]
fn a_network_of_the_hosts_is_joined_before_the_user_namespace() {
    let lab = lab("userns-join", "100000:200000");
    lab.sh("ip netns add made && ip -n made link add of-host type dummy 2>/dev/null ||
            ip -n made link add of-host type veth peer name other")
        .succeeds();
    configure(&lab, "id -u; ls /sys/class/net 2>/dev/null; ip link | grep -o of-host", |config| {
        map(config);
        add_namespace(config, json!({"type": "network", "path": "/run/netns/made"}));
        // A sysfs of a network that the container's root does not own cannot be mounted.
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "sysfs" && mount["type"] != "cgroup");
    });
    ours(&lab, "run --bundle bundle one").succeeds().prints("0\n").prints("of-host");
}

#[test]
fn what_the_mapped_root_cannot_reach_is_opened_for_it() {
    let lab = lab("userns-reach", "100000:200000");
    lab.sh("chmod 700 bundle && mkdir -m 700 secret && echo inside > secret/file && chmod 644 secret/file").succeeds();
    let source = lab.work().join("secret/file").display().to_string();
    configure(&lab, "cat /tmp/file; cat /tmp/../etc/none 2>/dev/null; id -u", |config| {
        map(config);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/tmp/file", "type": "bind", "source": source, "options": ["bind", "ro"]}));
    });
    ours(&lab, "run --bundle bundle one").succeeds().prints("inside\n0\n");
}

#[test]
fn mappings_that_make_no_sense_are_refused_by_name() {
    let lab = lab("userns-refused", "0:0");
    for (change, word) in [
        (json!({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}), "no user namespace"),
        (json!({"namespaces": [{"type": "mount"}, {"type": "user"}]}), "linux.uidMappings is empty"),
        (json!({"timeOffsets": {"monotonic": {"secs": 1}}}), "no time namespace"),
    ] {
        configure(&lab, "true", |config| {
            for (key, value) in change.as_object().unwrap() {
                config["linux"][key] = value.clone();
            }
        });
        ours(&lab, "run --bundle bundle one").fails(1).says(word);
        lab.sh("cd bundle && rm config.json && runc spec").succeeds();
    }
}

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    let lab = lab("timens", "0:0");
    for with_user in [false, true] {
        configure(
            &lab,
            "cat /proc/uptime /proc/self/timens_offsets; readlink /proc/self/ns/time; exec sleep 60",
            |config| {
                add_namespace(config, json!({"type": "time"}));
                config["linux"]["timeOffsets"] =
                    json!({"monotonic": {"secs": 86_400, "nanosecs": 7}, "boottime": {"secs": 1_000_000}});
                if with_user {
                    map(config);
                }
            },
        );
        let mut run = lab.shell("mocker-exec --root $HOME/ours run --bundle bundle one").spawn();
        run.wait_for("time:[");
        let out = run.output_so_far().0;
        let uptime: f64 = out.split('.').next().unwrap().parse().unwrap();
        assert!(uptime > 1_000_000.0, "{out}");
        assert!(out.contains("monotonic       86400         7\nboottime      1000000         0\n"), "{out}");

        // exec is in it too, and so is a container that joins it by its path.
        ours(&lab, "exec one cat /proc/self/timens_offsets").succeeds().prints("boottime      1000000");
        let pid = ours(&lab, "state one").succeeds().json()["pid"].to_string();
        if !with_user {
            configure(&lab, "cat /proc/self/timens_offsets", |config| {
                config["linux"]["timeOffsets"] = Value::Null;
                add_namespace(config, json!({"type": "time", "path": format!("/proc/{pid}/ns/time")}));
            });
            ours(&lab, "run --bundle bundle two").succeeds().prints("boottime      1000000");
        }
        ours(&lab, "kill one KILL").succeeds();
        run.wait().fails(137);
        lab.sh("cd bundle && rm config.json && runc spec && chown -hR 100000:200000 rootfs").succeeds();
    }
}

#[test]
fn an_ordinary_user_runs_a_rootless_bundle() {
    require("setpriv");
    let lab = lab("userns-rootless", "12345:12345");
    lab.sh("cd bundle && rm config.json && runc spec --rootless").succeeds();
    // The bundle's maps name the user; the lab's user is another.
    configure(&lab, "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; ls /dev | wc -l", |config| {
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 12_345, "size": 1}]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 12_345, "size": 1}]);
    });
    lab.sh("mkdir state && chown 12345:12345 state bundle").succeeds();
    let as_user = "setpriv --reuid 12345 --regid 12345 --clear-groups";
    let theirs = lab.sh(&format!("{as_user} runc --root $HOME/state/theirs run --bundle bundle one")).succeeds();
    let run = lab.sh(&format!("{as_user} mocker-exec --root $HOME/state/ours run --bundle bundle one")).succeeds();
    assert_eq!(run.stdout, theirs.stdout);

    configure(&lab, "exec sleep 100", |_| ());
    let ours = |rest: &str| lab.sh(&format!("{as_user} mocker-exec --root $HOME/state/ours {rest}"));
    ours("run --detach --bundle bundle one </dev/null >/dev/null 2>&1").succeeds();
    ours("exec one id -u").succeeds().prints("0\n");
    ours("delete --force one").succeeds();
}
