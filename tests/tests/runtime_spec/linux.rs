//! config.md, mounts, and config-linux.md: namespaces, devices, groups, sysctls, paths.

use serde_json::{Value, json};
use tests::Runtime;

/// Every kind and its file in /proc/PID/ns.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("user", "user"),
    ("time", "time"),
];

fn of_lab(runtime: &Runtime, file: &str) -> String {
    runtime.lab.sh(&format!("readlink /proc/self/ns/{file}")).succeeds().stdout
}

#[test]
fn listed_namespaces_are_new_and_others_the_runtimes() {
    let runtime = Runtime::new("namespaces");
    let script = "for kind in pid net mnt ipc uts cgroup; do readlink /proc/self/ns/$kind; done";
    let all = json!([{"type": "pid"}, {"type": "network"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}]);
    let out = runtime.live("one", script, &[("/linux/namespaces", all)]);
    for (kind, file) in &KINDS[..6] {
        assert!(!out.contains(of_lab(&runtime, file).as_str()), "{kind} is the runtime's: {out}");
    }
    let few = json!([{"type": "pid"}, {"type": "mount"}]);
    let out = runtime.live("two", script, &[("/linux/namespaces", few), ("/hostname", Value::Null)]);
    for file in ["net", "ipc", "uts", "cgroup"] {
        assert!(out.contains(of_lab(&runtime, file).as_str()), "{file} is not the runtime's: {out}");
    }
}

#[test]
fn a_namespace_with_a_path_is_joined() {
    let runtime = Runtime::new("join");
    runtime.script("first", "exec sleep 1000", &[("/linux/namespaces/-", json!({"type": "cgroup"}))]);
    runtime.create("first").succeeds();
    runtime.start("first").succeeds();
    let pid = runtime.pid("first");
    for (kind, file) in KINDS.iter().filter(|(kind, _)| !["mount", "user", "time"].contains(kind)) {
        let joined = json!([{"type": "mount"}, {"type": kind, "path": format!("/proc/{pid}/ns/{file}")}]);
        let there = runtime.lab.sh(&format!("readlink /proc/{pid}/ns/{file}")).succeeds().stdout;
        // Mounts that need what is not listed (sysfs needs a network of its own) are left out.
        let mounts = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        let changes = [
            ("/linux/namespaces", joined),
            ("/mounts", mounts),
            ("/hostname", Value::Null),
            ("/linux/maskedPaths", Value::Null),
            ("/linux/readonlyPaths", Value::Null),
        ];
        let here = runtime.live("second", &format!("readlink /proc/self/ns/{file}"), &changes);
        assert_eq!(here, there, "{kind}");
    }
    runtime.call("delete --force first").succeeds();
}

#[test]
fn a_namespace_path_that_is_wrong_is_an_error() {
    let runtime = Runtime::new("wrong-path");
    let cases = ["/proc/self/ns/net", "/no/such/namespace", "/etc/passwd"];
    for path in cases {
        runtime.refuses("one", &[("/linux/namespaces/3/path", json!(path))]);
    }
    runtime.refuses("two", &[("/linux/namespaces/1/path", json!("proc/self/ns/net"))]);
}

#[test]
fn a_namespace_listed_twice_is_an_error() {
    let runtime = Runtime::new("twice");
    for (kind, _) in KINDS {
        let list = json!([{"type": "mount"}, {"type": "pid"}, {"type": kind}, {"type": kind}]);
        runtime.refuses("one", &[("/linux/namespaces", list), ("/hostname", Value::Null)]);
    }
}

#[test]
fn mounts_are_made_in_the_listed_order() {
    let runtime = Runtime::new("mount-order");
    runtime.lab.sh("mkdir -p a/sub b && echo a > a/file && echo b > b/file").succeeds();
    let bind = |from: &str, to: &str, option: &str| json!({"destination": to, "source": runtime.path(from), "options": [option]});
    let later = [("/mounts/-", bind("a", "/data", "bind")), ("/mounts/-", bind("b", "/data/sub", "rbind"))];
    assert_eq!(runtime.live("one", "cat /data/file /data/sub/file", &later), "a\nb\n");
    let earlier = [("/mounts/-", bind("b", "/data/sub", "bind")), ("/mounts/-", bind("a", "/data", "bind"))];
    let out = runtime.live("two", "cat /data/file; cat /data/sub/file || echo hidden", &earlier);
    assert!(out.starts_with("a\nhidden\n"), "{out}");
}

#[test]
fn a_bind_source_is_relative_to_the_bundle_and_a_destination_to_the_root() {
    let runtime = Runtime::new("relative-mount");
    runtime.lab.sh("mkdir -p one/own && echo mine > one/own/file").succeeds();
    let mount = json!({"destination": "data/deep", "source": "own", "options": ["rbind", "ro"]});
    let out =
        runtime.live("one", "cat /data/deep/file; echo x > /data/deep/file || echo refused", &[("/mounts/-", mount)]);
    assert!(out.starts_with("mine\nrefused\n"), "{out}");
}

#[test]
fn the_default_filesystems_are_there() {
    let runtime = Runtime::new("filesystems");
    let out = runtime.live(
        "one",
        "for at in /proc /sys /dev/pts /dev/shm; do grep \" $at \" /proc/mounts | cut -d' ' -f 2,3; done",
        &[],
    );
    assert_eq!(out, "/proc proc\n/sys sysfs\n/dev/pts devpts\n/dev/shm tmpfs\n");
}

#[test]
fn the_default_devices_and_links_are_there() {
    let runtime = Runtime::new("devices");
    let script = "for name in null zero full random urandom tty; do stat -c '%F %t:%T %a %n' /dev/$name; done
        readlink -f /dev/ptmx; readlink /dev/fd; readlink /dev/stdin; readlink /dev/stdout; readlink /dev/stderr
        echo x > /dev/null && head -c 1 /dev/zero | od -An -tx1 && head -c 4 /dev/urandom | wc -c";
    let out = runtime.live("one", script, &[]);
    let expected = "character special file 1:3 666 /dev/null
character special file 1:5 666 /dev/zero
character special file 1:7 666 /dev/full
character special file 1:8 666 /dev/random
character special file 1:9 666 /dev/urandom
character special file 5:0 666 /dev/tty
/dev/pts/ptmx
/proc/self/fd
/proc/self/fd/0
/proc/self/fd/1
/proc/self/fd/2
 00
4
";
    assert_eq!(out, expected);
}

#[test]
fn listed_devices_are_made() {
    let runtime = Runtime::new("own-devices");
    let devices = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 432, "uid": 5, "gid": 6},
        {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 99, "fileMode": 384, "uid": 0, "gid": 0},
        {"path": "/outside", "type": "c", "major": 1, "minor": 5},
        {"path": "/dev/pipe", "type": "p", "fileMode": 420, "uid": 0, "gid": 0},
        {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 7}
    ]);
    let changes =
        [("/linux/devices", devices), ("/linux/resources/devices/-", json!({"allow": true, "access": "rwm"}))];
    let out = runtime.live("one", "for path in /dev/mine /dev/deep/block /outside /dev/pipe /dev/unbuffered; do stat -c '%F %t:%T %a %u:%g %n' $path; done", &changes);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "character special file 1:3 660 5:6 /dev/mine", "{out}");
    assert_eq!(lines[1], "block special file 7:63 600 0:0 /dev/deep/block", "{out}");
    assert!(lines[2].starts_with("character special file 1:5 ") && lines[2].ends_with(" /outside"), "{out}");
    assert!(lines[3].starts_with("fifo ") && lines[3].ends_with(" /dev/pipe"), "{out}");
    assert!(lines[4].starts_with("character special file 1:7 "), "{out}");
}

#[test]
fn a_device_where_another_file_is_is_an_error() {
    let runtime = Runtime::new("device-taken");
    runtime.lab.sh("echo kept > rootfs/taken; mknod rootfs/same c 1 3").succeeds();
    let device = |path: &str| json!([{"path": path, "type": "c", "major": 1, "minor": 3}]);
    if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
        runtime.refuses("one", &[("/linux/devices", device("/taken"))]);
        assert_eq!(runtime.text("rootfs/taken"), "kept\n");
    }
    assert_eq!(runtime.live("two", "test -c /same && echo there", &[("/linux/devices", device("/same"))]), "there\n");
}

#[test]
fn the_device_list_is_applied_in_order() {
    let runtime = Runtime::new("device-list");
    let mknod = json!(["CAP_MKNOD"]);
    let rule =
        |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 10, "minor": 229, "access": access});
    let script = "mknod /tmp/node c 10 229 && echo made; cat /tmp/node 2>&1 | grep -o 'not permitted'
        rm -f /tmp/node; echo x > /dev/null && echo null";
    let run = |id: &str, later: &[Value]| {
        let rules: Vec<Value> = [&[json!({"allow": false, "access": "rwm"})], later].concat();
        let changes = [
            ("/linux/resources/devices", json!(rules)),
            ("/process/capabilities", json!({"bounding": mknod, "effective": mknod, "permitted": mknod})),
        ];
        runtime.live(id, script, &changes)
    };
    assert_eq!(run("one", &[rule(true, "rwm")]).lines().next(), Some("made"));
    // What is taken away later is gone; the default devices stay.
    let out = run("two", &[rule(true, "rwm"), rule(false, "rw")]);
    assert_eq!(out, "made\nnot permitted\nnull\n");
}

#[test]
fn groups_are_where_the_path_says() {
    let runtime = Runtime::new("cgroups-path");
    let before = runtime.lab.snapshot();
    let groups = |id: &str| {
        let pid = runtime.pid(id);
        runtime.lab.sh(&format!("cat /proc/{pid}/cgroup")).succeeds().stdout
    };
    // Absolute: from the top of each hierarchy. Parents are made.
    runtime.script("one", "exec sleep 1000", &[("/linux/cgroupsPath", json!("/parent/deep/one"))]);
    runtime.create("one").succeeds();
    let first = groups("one");
    assert!(first.lines().all(|line| line.ends_with(":/parent/deep/one")), "{first}");
    runtime.call("delete --force one").succeeds();
    runtime.lab.sh("test ! -e /sys/fs/cgroup/pids/parent/deep/one").succeeds();
    runtime.create("one").succeeds();
    assert_eq!(groups("one"), first, "the same path is the same place");
    runtime.call("delete --force one").succeeds();
    runtime.lab.sh("rmdir /sys/fs/cgroup/*/parent/deep /sys/fs/cgroup/*/parent 2>/dev/null").code();
    // Relative and none: where the runtime likes, but always there, and gone afterwards.
    for path in [json!("some/where"), Value::Null, json!("")] {
        runtime.script("two", "exec sleep 1000", &[("/linux/cgroupsPath", path.clone())]);
        let places: Vec<String> = (0..2)
            .map(|_| {
                runtime.create("two").succeeds();
                let place = groups("two");
                runtime.call("delete --force two").succeeds();
                place
            })
            .collect();
        assert_eq!(places[0], places[1], "{path}");
        assert!(places[0].lines().filter(|line| !line.ends_with(":/")).count() > 3, "{path}: {}", places[0]);
    }
    // Below the own group, which an engine in another test may have changed: podman moves what it finds at the top to /init.
    runtime.lab.sh("find /sys/fs/cgroup -depth -type d -name some -exec rmdir {} + 2>/dev/null").code();
    runtime.lab.assert_same(&before);
    // No way out of the hierarchy: whatever is made of it, it is below the top, or refused.
    runtime.script("three", "exec sleep 1000", &[("/linux/cgroupsPath", json!("/../../three"))]);
    if runtime.create("three").code() == 0 {
        assert!(!groups("three").contains(".."), "{}", groups("three"));
        runtime.call("delete --force three").succeeds();
    }
}

#[test]
fn resources_are_set() {
    let runtime = Runtime::new("resources");
    let resources = json!({
        "memory": {"limit": 67108864},
        "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 33}
    });
    let changes = [("/linux/resources", resources), ("/linux/cgroupsPath", json!("/limited"))];
    runtime.script("one", "exec sleep 1000", &changes);
    runtime.create("one").succeeds();
    let value = |file: &str| runtime.lab.sh(&format!("cat /sys/fs/cgroup/{file}")).succeeds().stdout;
    assert_eq!(value("memory/limited/memory.limit_in_bytes"), "67108864\n");
    assert_eq!(value("cpu/limited/cpu.shares"), "512\n");
    assert_eq!(value("cpu/limited/cpu.cfs_quota_us"), "20000\n");
    assert_eq!(value("cpuset/limited/cpuset.cpus"), "0\n");
    assert_eq!(value("pids/limited/pids.max"), "33\n");
    runtime.call("delete --force one").succeeds();
}

#[test]
fn sysctls_are_set_in_the_containers_namespaces_only() {
    let runtime = Runtime::new("sysctl");
    let before = runtime.lab.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced").stdout;
    let wanted = json!({"net.ipv4.ip_forward": "1", "net/core/somaxconn": "77", "kernel.shm_rmid_forced": "1"});
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(runtime.live("one", script, &[("/linux/sysctl", wanted)]), "1\n77\n1\n");
    assert_eq!(runtime.lab.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced").stdout, before);
    // One that would be the whole machine's is none of the container's.
    for name in ["kernel/printk_ratelimit", "vm.swappiness"] {
        let now = runtime.lab.sh(&format!("cat /proc/sys/{}", name.replace('.', "/"))).succeeds().stdout;
        runtime.refuses("two", &[("/linux/sysctl", json!({name: now.trim()}))]);
    }
    let shared = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]);
    runtime.refuses("three", &[("/linux/namespaces", shared), ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))]);
}

#[test]
fn masked_paths_cannot_be_read_and_readonly_paths_not_written() {
    let runtime = Runtime::new("paths");
    runtime.lab.sh("mkdir -p rootfs/secret rootfs/fixed && echo s > rootfs/secret/file && echo f > rootfs/single && echo x > rootfs/fixed/file").succeeds();
    let changes = [
        ("/linux/maskedPaths", json!(["/secret", "/single", "/proc/kcore", "/no/such/path"])),
        ("/linux/readonlyPaths", json!(["/fixed", "/proc/sys", "/no/such/path"])),
    ];
    let script = "ls /secret | wc -l; wc -c < /single; head -c 1 /proc/kcore | wc -c
        echo y > /fixed/file || echo fixed; echo y > /proc/sys/kernel/hostname || echo sys; cat /fixed/file";
    let out = runtime.live("one", script, &changes);
    assert!(out.starts_with("0\n0\n0\nfixed\nsys\nx\n"), "{out}");
}

#[test]
fn root_propagation_is_the_configured_one() {
    let runtime = Runtime::new("propagation");
    for (propagation, mark) in
        [("shared", "shared:"), ("slave", "master:"), ("private", ""), ("unbindable", "unbindable")]
    {
        let script =
            "awk '$5 == \"/\" { for (i = 7; $i != \"-\"; i++) printf \"%s \", $i; print \"\" }' /proc/self/mountinfo";
        let out = runtime.live("one", script, &[("/linux/rootfsPropagation", json!(propagation))]);
        match mark {
            "" => assert!(!out.contains("shared:") && !out.contains("unbindable"), "{propagation}: {out}"),
            mark => assert!(out.contains(mark), "{propagation}: {out}"),
        }
    }
}

#[test]
fn a_seccomp_filter_is_applied_and_a_wrong_one_refused() {
    let runtime = Runtime::new("seccomp");
    let filter = |names: Value, action: &str| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": action, "errnoRet": 38}]});
    let out = runtime.live(
        "one",
        "mkdir /tmp/x",
        &[("/linux/seccomp", filter(json!(["mkdir", "mkdirat"]), "SCMP_ACT_ERRNO"))],
    );
    assert!(out.contains("Function not implemented"), "{out}");
    if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
        runtime.refuses("two", &[("/linux/seccomp", filter(json!([]), "SCMP_ACT_ERRNO"))]);
    }
    runtime.refuses("three", &[("/linux/seccomp", filter(json!(["mkdir"]), "SCMP_ACT_NOSUCH"))]);
    let metadata = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"});
    runtime.refuses("four", &[("/linux/seccomp", metadata)]);
    // An errno with an action that has none.
    let errno = json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1});
    if std::env::var_os("MOCKER_TEST_RUNTIME").is_none() {
        runtime.refuses("five", &[("/linux/seccomp", errno)]);
    }
}

#[test]
fn intel_rdt_without_resctrl_is_an_error() {
    let runtime = Runtime::new("rdt");
    runtime.refuses("one", &[("/linux/intelRdt", json!({"closID": "class"}))]);
}
