//! Ways out of a container that have been real: each is first made to work against a runtime of a few lines of shell, which
//! does what the vulnerable ones did, in the same lab, and then tried on mocker-exec.
//!
//! Where the real attack writes to core_pattern or sysrq-trigger, a host name stands for it: it is a file of /proc too, and
//! belongs to the lab. Where the real attack wins a race, the moment between check and use is written out in the shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use tests::{Lab, Output};

/// A lab with an image in `image` and a bundle's document that masks nothing.
fn lab(name: &str) -> (Lab, Value) {
    let lab = Lab::new(name);
    lab.sh("mkdir -p image/bin image/proc image/sys image/etc && cp $(command -v busybox) image/bin/
            for name in sh cat stat ls echo sleep true mknod hostname; do ln -s busybox image/bin/$name; done
            mkdir victim; echo secret > victim/secret")
        .succeeds();
    let mut config = lab.sh("mkdir spec; cd spec; mocker-exec spec; cat config.json").succeeds().json();
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    config["linux"]["maskedPaths"] = json!([]);
    config["linux"]["readonlyPaths"] = json!([]);
    (lab, config)
}

/// Makes the bundle anew. `prepare` is what the attacker did to the image, run in its root.
fn bundle(lab: &Lab, config: &Value, prepare: &str) {
    lab.sh(&format!("rm -rf bundle; mkdir bundle; cp -a image bundle/rootfs; cd bundle/rootfs; {prepare}")).succeeds();
    fs::write(lab.work().join("bundle/config.json"), config.to_string()).unwrap();
}

/// Runs `script` in the bundle by mocker-exec.
fn ours(lab: &Lab, config: &Value, prepare: &str, script: &str) -> Output {
    let mut config = config.clone();
    config["process"]["args"] = json!(["sh", "-c", script]);
    bundle(lab, &config, prepare);
    lab.sh("mocker-exec run --bundle bundle attacked")
}

/// Runs shell as a runtime would be that trusts names: in a mount namespace and names of its own.
fn naive(lab: &Lab, config: &Value, prepare: &str, runtime: &str) -> Output {
    bundle(lab, config, prepare);
    lab.sh(&format!("exec unshare --mount --propagation private --uts --pid --fork sh -c '{runtime}'"))
}

fn without_mount(config: &Value, place: &str) -> Value {
    let mut config = config.clone();
    config["mounts"].as_array_mut().unwrap().retain(|mount| {
        let destination = mount["destination"].as_str().unwrap();
        destination != place && !destination.starts_with(&format!("{place}/"))
    });
    config
}

fn entries(path: PathBuf) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The runtime's own file: whoever holds it open writes to it once nobody executes it.
#[test]
fn cve_2019_5736_the_runtimes_own_file_is_out_of_reach() {
    let (lab, config) = lab("own-binary");
    // What a process in the container does that sees the runtime's process there, as number PID.
    let attack = "exec 3< /proc/$PID/exe; GO; sh -c 'echo pwned > /proc/self/fd/3'";
    let on = |start: &str, go: &str| lab.sh(&format!("{start}; {}", attack.replace("GO", go)));

    lab.sh("mkdir naive; cp $(command -v busybox) naive/busybox").succeeds();
    on("naive/busybox sleep 1 & PID=$!; sleep 0.2", "wait").succeeds();
    assert_eq!(fs::read_to_string(lab.work().join("naive/busybox")).unwrap(), "pwned\n", "the attack is none");

    // A copy: should the defence be gone, the build is not what is lost.
    lab.sh("cp $(command -v mocker-exec) runtime").succeeds();
    let before = fs::read(lab.work().join("runtime")).unwrap();
    let mut config = config;
    config["process"]["args"] = json!(["true"]);
    bundle(&lab, &config, "true");
    let out = on(
        "./runtime create --bundle bundle attacked </dev/null; PID=$(./runtime state attacked | jq .pid); sleep 0.2",
        "./runtime start attacked; while test -e /proc/$PID/root/bin/true; do sleep 0.1; done",
    );
    assert_ne!(out.code(), 0, "the runtime's file was opened for writing: {out}");
    assert!(fs::read(lab.work().join("runtime")).unwrap() == before, "the runtime was replaced");
    lab.sh("./runtime delete --force attacked").succeeds();
}

/// A directory of the host that the runtime leaves open, entered as the working directory.
#[test]
fn cve_2024_21626_no_descriptor_leads_back() {
    let (lab, config) = lab("leaked");
    let runtime = "exec 7< victim; mount --bind bundle/rootfs bundle/rootfs; cd bundle/rootfs; mount -t proc proc proc
        mkdir old; pivot_root . old; cd /proc/self/fd/7; umount -l /old; cat secret";
    naive(&lab, &config, "true", runtime).succeeds().prints("secret");

    // Descriptors that the caller has open, and those that mocker-exec itself opens, whatever their number.
    let script = "cat secret; cat ../victim/secret; ls -l /proc/self/fd /proc/1/fd";
    let mut config = config;
    config["process"]["args"] = json!(["sh", "-c", script]);
    for number in 3..24 {
        let place = format!("/proc/self/fd/{number}");
        config["process"]["cwd"] = place.as_str().into();
        bundle(&lab, &config, "true");
        let out = lab.sh("exec 7< victim 8< / 9< .; mocker-exec run --bundle bundle attacked");
        assert!(out.code() != 0 && !out.stdout.contains("secret"), "{number}: {out}");
    }
    // A link of the image does the same.
    config["process"]["cwd"] = "/way/out".into();
    bundle(&lab, &config, "mkdir way; ln -s /proc/self/fd/7 way/out");
    let out = lab.sh("exec 7< victim; mocker-exec run --bundle bundle attacked");
    assert!(out.code() != 0 && !out.stdout.contains("secret"), "{out}");

    config["process"]["cwd"] = "/".into();
    bundle(&lab, &config, "true");
    let out = lab.sh("exec 7< victim 8< / 9< .; mocker-exec run --bundle bundle attacked");
    assert!(!out.stdout.contains("victim") && !out.stdout.contains(" 7 ->") && !out.stdout.contains(" 9 ->"), "{out}");

    config["process"]["args"] = json!(["sleep", "100"]);
    bundle(&lab, &config, "true");
    lab.sh("mocker-exec run --detach --bundle bundle attacked </dev/null >/dev/null 2>&1").succeeds();
    for number in 3..24 {
        let out = lab.sh(&format!(
            "exec 7< victim 8< /; mocker-exec exec --cwd /proc/self/fd/{number} attacked sh -c '{script}'"
        ));
        assert!(out.code() != 0 && !out.stdout.contains("secret"), "{number}: {out}");
    }
    let out = lab.sh(&format!("exec 7< victim; mocker-exec exec attacked sh -c '{script}'"));
    assert!(out.stdout.contains(" 0 ->") && !out.stdout.contains("victim"), "{out}");
    lab.sh("mocker-exec delete --force attacked").succeeds();
}

/// A volume in which another container turns a directory into a link between the look at it and the mount on it.
#[test]
fn cve_2021_30465_a_mount_never_leaves_the_root() {
    let (lab, config) = lab("swapped");
    lab.sh("mkdir -p volume/real && ln -s $PWD/victim volume/other").succeeds();
    let runtime = "mount --bind volume bundle/rootfs/vol
        checked=$(realpath bundle/rootfs/vol/real); case $checked in */rootfs/*) ;; *) exit 1 ;; esac
        mv volume/real volume/was; mv volume/other volume/real
        mount -t tmpfs marker bundle/rootfs/vol/real; findmnt -no SOURCE victim";
    naive(&lab, &config, "mkdir vol", runtime).succeeds().prints("marker");
    lab.sh("mv volume/real volume/other; mv volume/was volume/real").succeeds();

    // A hook that is called in there before the move shows the whole tree, the host's part too.
    let mut config = config;
    let work = lab.work().display().to_string();
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/vol", "type": "bind", "source": format!("{work}/volume"), "options": ["bind"]}),
        json!({"destination": "/vol/real", "type": "tmpfs", "source": "marker"}),
        json!({"destination": "/vol/real/deep", "type": "bind", "source": format!("{work}/victim"), "options": ["bind", "ro"]}),
    ]);
    let look = format!("cat /proc/self/mountinfo >> {work}/seen");
    config["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", look]}]});
    let done = AtomicBool::new(false);
    let volume = lab.work().join("volume");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, volume.join("real"), CWD, volume.join("other"), RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..20 {
            ours(&lab, &config, "mkdir vol", "true"); // it may find a link and fail; it must not follow it out
        }
        done.store(true, Ordering::Relaxed);
    });
    let seen = fs::read_to_string(lab.work().join("seen")).unwrap_or_default();
    let places =
        seen.lines().filter(|line| line.contains(" - tmpfs marker")).map(|line| line.split(' ').nth(4).unwrap());
    let places: Vec<&str> = places.collect();
    assert!(!places.is_empty(), "it never came as far as that hook");
    assert!(places.iter().all(|place| place.starts_with(&format!("{work}/bundle/rootfs/"))), "{places:?}");
    assert_eq!(entries(lab.work().join("victim")), ["secret"]);
}

/// /proc is a link of the image, turned to a forged tree once procfs is mounted: what is masked there is not the real one.
#[test]
fn cve_2023_27561_and_28642_kernel_trees_are_mounted_on_no_link() {
    let (lab, mut config) = lab("proc-link");
    let prepare = "rmdir proc; mkdir real forged; echo forged > forged/timer_list; ln -s real proc";
    let runtime = "cd bundle/rootfs; mount -t proc proc proc; rm proc; ln -s forged proc
        mount --bind /dev/null proc/timer_list; exec chroot . sh -c \"cat /proc/timer_list; cat /real/timer_list\"";
    naive(&lab, &config, prepare, runtime).succeeds().prints("Timer List Version");

    config["linux"]["maskedPaths"] = json!(["/proc/timer_list"]);
    let refused = "must be mounted on ordinary directory";
    let read = "cat /proc/timer_list /real/timer_list";
    let tries = [
        prepare.to_string(),
        "rmdir proc; mkdir real; ln -s /real proc".into(),
        format!("rmdir proc; ln -s {} proc", lab.work().join("victim").display()),
        "rmdir proc; ln -s /proc/self/root proc".into(), // CVE-2019-19921 began like this
        "rmdir proc; touch proc".into(),
        "rmdir sys; mkdir real; ln -s real sys".into(),
    ];
    for prepare in tries {
        let out = ours(&lab, &config, &prepare, read);
        assert!(out.code() != 0 && out.stdout.is_empty() && out.stderr.contains(refused), "{prepare}: {out}");
    }
    ours(&lab, &config, "true", "cat /proc/timer_list").succeeds();
    assert_eq!(entries(lab.work().join("victim")), ["secret"]);
}

/// The image's /dev/null is a link to a kernel file: what is to be masked becomes that file, and open for writing.
#[test]
fn cve_2025_31133_a_mask_is_the_null_device_or_nothing() {
    let (lab, config) = lab("null-link");
    let prepare = "mkdir dev; ln -s /proc/sys/kernel/hostname dev/null";
    let runtime = "cd bundle/rootfs; mount -t proc proc proc; mount --bind dev/null proc/timer_list
        chroot . sh -c \"echo pwned > /proc/timer_list; cat /proc/sys/kernel/hostname\"";
    naive(&lab, &config, prepare, runtime).succeeds().prints("pwned");

    let mut config = without_mount(&config, "/dev");
    config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/proc/keys"]);
    let attack =
        "echo pwned > /proc/timer_list; echo pwned > /proc/keys; cat /proc/timer_list; cat /proc/sys/kernel/hostname
        stat -c '%t:%T' /proc/timer_list";
    let out = ours(&lab, &config, prepare, attack).succeeds();
    assert!(!out.stdout.contains("pwned") && out.stdout.ends_with("1:3\n"), "{out}");
    // Not there, another device, a file: masked all the same.
    for prepare in ["mkdir dev; echo forged > dev/null", "mkdir dev; mknod dev/null c 1 5", "mkdir -p dev/null"] {
        let out = ours(&lab, &config, prepare, attack);
        assert!(!out.stdout.contains("pwned") && out.stdout.ends_with("1:3\n"), "{prepare}: {out}");
    }
}

/// /dev/console, or the terminal that is shown there, is a link to a kernel file.
#[test]
fn cve_2025_52565_the_console_is_the_terminal_or_nothing() {
    let (lab, config) = lab("console-link");
    let prepare = "mkdir -p dev/pts; touch dev/console; ln -s /proc/sys/kernel/hostname dev/pts/0";
    let runtime = "cd bundle/rootfs; mount -t proc proc proc; mount --bind dev/pts/0 dev/console
        chroot . sh -c \"echo pwned > /dev/console; cat /proc/sys/kernel/hostname\"";
    naive(&lab, &config, prepare, runtime).succeeds().prints("pwned");

    let mut config = config;
    config["process"]["terminal"] = true.into();
    let on_a_terminal = |config: &Value, prepare: &str| {
        let mut config = config.clone();
        let attack =
            "echo pwned > /dev/console; echo name is $(cat /proc/sys/kernel/hostname); stat -c '%n %t:%T' /dev/console";
        config["process"]["args"] = json!(["sh", "-c", attack]);
        bundle(&lab, &config, prepare);
        let mut terminal = lab.terminal("mocker-exec run --bundle bundle attacked; echo status $?; hostname", 24, 80);
        terminal.wait_for("status ");
        terminal.wait_for("lab\r\n");
        terminal.screen()
    };
    let honest = on_a_terminal(&config, "true");
    assert!(honest.contains("status 0") && honest.contains("/dev/console 88:0"), "{honest}");
    // No tmpfs on /dev, so that what the image has there counts.
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
    let console = on_a_terminal(&config, "mkdir -p dev/pts; ln -s /proc/sys/kernel/hostname dev/console");
    assert!(!console.contains("name is") && console.contains("the image has a link there"), "{console}");
    // Without a devpts of its own there is no terminal, whatever the image has in its place.
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
    for prepare in [
        prepare,
        "mkdir -p dev/pts; ln -s /proc/sys/kernel/hostname dev/pts/ptmx",
        "mkdir -p dev/pts; mknod dev/pts/ptmx c 5 2",
    ] {
        let screen = on_a_terminal(&config, prepare);
        assert!(!screen.contains("name is pwned") && !screen.contains("status 0"), "{prepare}: {screen}");
    }
}

/// A kernel file stands where another is to be written: the value of a harmless sysctl goes into it.
#[test]
fn cve_2025_52881_a_sysctl_is_written_to_its_own_file_or_not_at_all() {
    let (lab, mut config) = lab("redirected");
    let redirect = "mount --bind ROOT/proc/sys/kernel/hostname ROOT/proc/sys/net/ipv4/ip_forward";
    let runtime = format!(
        "mount -t proc proc bundle/rootfs/proc; {}; echo 1 > bundle/rootfs/proc/sys/net/ipv4/ip_forward; hostname",
        redirect.replace("ROOT", "bundle/rootfs")
    );
    naive(&lab, &config, "true", &runtime).succeeds().prints("1\n");

    config["hostname"] = Value::Null;
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    ours(&lab, &config, "true", "cat /proc/sys/net/ipv4/ip_forward").succeeds().prints("1\n");
    // By the document: refused before.
    let mut by_document = config.clone();
    by_document["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/proc/sys/net/ipv4/ip_forward", "type": "bind", "source": "/proc/sys/kernel/hostname", "options": ["bind"]
    }));
    ours(&lab, &by_document, "true", "hostname").fails(1).says("inside /proc");
    // By somebody who is in there at the right moment, for whom a hook stands.
    let root = lab.work().join("bundle/rootfs").display().to_string();
    let script = format!(
        "nsenter -t $(jq .pid) --mount --uts --net sh -c '{}; cat /proc/sys/kernel/hostname' > {root}/../name",
        redirect.replace("ROOT", &root)
    );
    config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]});
    ours(&lab, &config, "true", "hostname").fails(1).says("it is not a file of the kernel");
    lab.sh("cat bundle/name; hostname").prints("lab\nlab\n");
}

/// The image's /dev is a link: devices, mounts and terminals are made where it leads.
#[test]
fn cve_2026_41579_and_47766_a_link_for_dev_leads_nowhere() {
    let (lab, config) = lab("dev-link");
    let up = "ln -s ../../victim dev";
    let absolute = format!("ln -s {} dev", lab.work().join("victim").display());
    let runtime = "cd bundle/rootfs; mknod -m 666 dev/null c 1 3; mkdir -p dev/shm; ls -A ../../victim";
    naive(&lab, &config, up, runtime).succeeds().prints("null\nsecret\nshm\n");
    lab.sh("rm -r victim/null victim/shm").succeeds();

    let mut asked = without_mount(&config, "/dev");
    asked["linux"]["devices"] = json!([{"path": "/dev/deep/fuse", "type": "c", "major": 10, "minor": 229}]);
    let mut deeper = config.clone();
    deeper["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/dev/made/here", "type": "bind", "source": lab.work().join("victim"), "options": ["bind", "ro"]}),
    );
    for config in [&config, &without_mount(&config, "/dev"), &asked, &deeper] {
        for prepare in [up, &absolute, "ln -s /proc/1/root/ dev", "ln -s /proc/self/cwd dev"] {
            let out = ours(&lab, config, prepare, "cat /dev/secret; true");
            assert!(!out.stdout.contains("secret"), "{prepare}: {out}");
            assert_eq!(entries(lab.work().join("victim")), ["secret"], "{prepare}: made on the host");
        }
    }
    // The same for what lies in /dev.
    let places = ["pts", "shm", "mqueue"];
    let config = {
        let mut config = config;
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
        config
    };
    for place in places {
        let prepare = format!("mkdir dev; ln -s {} dev/{place}", Path::new("../../..").join("victim").display());
        ours(&lab, &config, &prepare, "true");
        assert_eq!(entries(lab.work().join("victim")), ["secret"], "{place}");
    }
}
