//! What a container sees mounted, and which devices: the same bundle under runc and under mocker-exec, from inside. Where
//! runc 1.1 lacks what the specification asks, what must be seen is written down.

use std::fs;

use serde_json::{Value, json};
use tests::{Lab, Output, require};

/// A lab with a bundle's root file system in `image`, and some directories to be mounted.
fn lab(name: &str) -> Lab {
    require("runc");
    let lab = Lab::new(name);
    lab.sh("mkdir -p image/bin image/etc image/tmp image/old image/deep/er && cp $(command -v busybox) image/bin/
            for name in sh cat stat awk ls touch find sort sed id mount; do ln -s busybox image/bin/$name; done
            chmod 1777 image/tmp; chmod 750 image/old; echo kept > image/old/file; echo x > image/etc/taken
            ln -s /deep image/link; ln -s ../deep/er image/etc/up; ln -s /no/where image/dangling
            ln -s nofile image/etc/dangling
            mkdir -p host/below host/none; echo host > host/file; echo below > host/below/file
            mkdir -p strict; mount -t tmpfs -o nosuid,nodev,noexec,mode=755 strict strict; mkdir strict/sub
            mount -t tmpfs -o mode=755 below host/below
            mkdir -p peers; mount -t tmpfs peers peers; mount --make-shared peers")
        .succeeds();
    lab
}

/// `runc spec`, without what a test of mounts does not need: masks, a terminal, the groups.
fn plain(lab: &Lab) -> Value {
    let mut config = lab.sh("rm -rf spec; mkdir spec; cd spec; runc spec; cat config.json").succeeds().json();
    config["process"]["terminal"] = false.into();
    config["root"]["readonly"] = false.into();
    config["linux"]["maskedPaths"] = json!([]);
    config["linux"]["readonlyPaths"] = json!([]);
    config["linux"]["resources"] = json!({});
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "cgroup");
    config
}

/// What the container's program prints: its mounts, the nodes of /dev, then what a case wants to know.
const LOOK: &str =
    "cat /proc/self/mountinfo; cd /dev; for node in * ; do stat -c '%N %F %a %u:%g %t:%T' $node; done; cd /;
    awk '$5 != \"/\" { print $5 }' /proc/self/mountinfo | while read place; do stat -c '%n %F %a %u:%g' $place; done";

/// Runs a bundle of its own; the image is copied, since mount points are made in it.
fn run(lab: &Lab, config: &Value, runtime: &str, prepare: &str) -> Output {
    lab.sh("rm -rf bundle; mkdir bundle; cp -a image bundle/rootfs").succeeds();
    fs::write(lab.work().join("bundle/config.json"), config.to_string()).unwrap();
    let start = match runtime {
        "runc" => "runc --root $HOME/runc run --bundle bundle",
        _ => "mocker-exec run --bundle bundle",
    };
    lab.sh(&format!("({prepare}) || exit 99; {start} seen-{runtime}"))
}

/// Numbers of mounts, of peer groups and of devices differ from run to run, and with /dev/core the machine's kernel.
fn normal(output: &Output) -> String {
    output.stdout.lines().map(normal_line).collect::<Vec<_>>().join("\n")
}

fn normal_line(line: &str) -> String {
    let Some((mount, system)) = line.split_once(" - ") else { return line.into() };
    let mut fields: Vec<String> = mount.split(' ').skip(3).map(str::to_string).collect();
    for field in fields.iter_mut().skip(3) {
        *field = field.split(':').next().unwrap().into();
    }
    // Without a group for devices nodes of the root are closed off: see ARCHITECTURE.md.
    if fields[0].contains("/rootfs") {
        fields[2] = fields[2].replace("nodev,", "");
    }
    // A mask of mocker-exec's has no room for files. runc changes a tmpfs's mode after it is mounted, mocker-exec mounts it with that mode: `stat` tells that it is the same.
    let chosen = |option: &&str| !option.starts_with("mode=") && !["size=0k", "nr_inodes=1"].contains(option);
    // runc makes the file system of a read-only tmpfs read-only, mocker-exec the mount: nobody can write either way.
    let system = match system.starts_with("tmpfs ") {
        true => system.replacen(" ro", " rw", 1).split(',').filter(chosen).collect::<Vec<_>>().join(","),
        false => system.into(),
    };
    format!("{} - {system}", fields.join(" "))
}

/// One bundle: its name, mounts beside the usual ones, other changes by JSON pointer, shell before, shell inside.
struct Case {
    name: &'static str,
    mounts: Value,
    set: &'static [(&'static str, &'static str)],
    prepare: &'static str,
    look: &'static str,
}

fn case(name: &'static str, mounts: Value) -> Case {
    Case { name, mounts, set: &[], prepare: "true", look: "true" }
}

impl Case {
    fn set(self, set: &'static [(&'static str, &'static str)]) -> Case {
        Case { set, ..self }
    }
    fn prepare(self, prepare: &'static str) -> Case {
        Case { prepare, ..self }
    }
    fn look(self, look: &'static str) -> Case {
        Case { look, ..self }
    }

    fn config(&self, lab: &Lab, plain: &Value) -> Value {
        let work = lab.work().display().to_string();
        let mut config = plain.clone();
        let more: Value = serde_json::from_str(&self.mounts.to_string().replace("WORK", &work)).unwrap();
        config["mounts"].as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
        for (pointer, text) in self.set {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let value = serde_json::from_str(&text.replace("WORK", &work)).unwrap();
            match config.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
                object => object[key] = value,
            }
        }
        config["process"]["args"] = json!(["sh", "-c", format!("{LOOK}; {}; true", self.look)]);
        config
    }
}

fn bind(options: &[&str]) -> Value {
    json!([{"destination": "/x", "type": "bind", "source": "WORK/host", "options": options}])
}

fn strict(options: &[&str]) -> Value {
    json!([{"destination": "/x", "type": "bind", "source": "WORK/strict", "options": options}])
}

fn peers(options: &[&str]) -> Value {
    json!([{"destination": "/x", "type": "bind", "source": "WORK/peers", "options": options}])
}

fn tmpfs(place: &str, options: &[&str]) -> Value {
    json!([{"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}])
}

fn to(place: &str, source: &str) -> Value {
    json!([{"destination": place, "type": "bind", "source": format!("WORK/{source}"), "options": ["bind"]}])
}

/// Binds, their flags and where they go.
fn binds() -> Vec<Case> {
    vec![
        case("bind", bind(&["bind"])).look("ls /x/below"),
        case("rbind", bind(&["rbind"])).look("ls /x/below"),
        case("ro behind", bind(&["rbind", "ro"])).look("touch /x/new 2>&1; touch /x/below/new 2>&1"),
        case("ro in front", bind(&["ro", "rbind", "rprivate"])).look("touch /x/new 2>&1"),
        case("both binds", bind(&["bind", "rbind"])),
        case("rw", bind(&["rbind", "rw"])),
        case("ro, then rw", bind(&["bind", "ro", "rw"])),
        case("all that confines", bind(&["bind", "nosuid", "nodev", "noexec", "ro"])),
        case("noatime", bind(&["bind", "noatime"])),
        case("nodiratime", bind(&["bind", "nodiratime", "relatime"])),
        case("strictatime", bind(&["bind", "strictatime"])),
        case("sync is the file system's", bind(&["bind", "sync", "dirsync", "mand"])),
        case("a strict source", strict(&["bind"])),
        case("a strict source, ro", strict(&["bind", "ro"])),
        case("a strict source, its own flags", strict(&["bind", "nosuid", "nodev", "noexec", "ro"])),
        case("defaults", bind(&["bind", "defaults"])),
        case("data of a bind is nobody's", bind(&["bind", "size=5", "nonsense"])),
        case("no type", json!([{"destination": "/x", "source": "WORK/host", "options": ["bind"]}])),
        case("type none", json!([{"destination": "/x", "type": "none", "source": "WORK/host", "options": ["rbind"]}])),
        case("rro", bind(&["rbind", "rro"])).look("touch /x/below/new 2>&1"),
        case("recursive flags", bind(&["rbind", "rnosuid", "rnodev", "rnoexec"])),
        case("recursive times", bind(&["rbind", "rnoatime", "rnodiratime"])),
        case("ro, then rrw", bind(&["rbind", "ro", "rrw"])),
        case("rstrictatime", bind(&["rbind", "rstrictatime"])),
        case("rrelatime", bind(&["rbind", "noatime", "rrelatime"])),
        case("private", peers(&["bind", "private"])),
        case("slave", peers(&["bind", "slave"])),
        case("shared", peers(&["bind", "shared"])),
        case("rshared", bind(&["rbind", "rshared"])),
        case("rslave", bind(&["rbind", "rslave"])),
        case("unbindable", peers(&["bind", "unbindable"])),
        case("runbindable", bind(&["rbind", "runbindable"])),
        case("a file, made", to("/new/dir/file", "host/file")).look("cat /new/dir/file; stat -c %a /new /new/dir"),
        case("a file on a file", to("/etc/taken", "host/file")).look("cat /etc/taken"),
        case("a file on a link to a file", to("/etc/up/../../etc/taken", "host/file")).look("cat /etc/taken"),
        case("a file on a dangling link", to("/etc/dangling", "host/file")).look("cat /etc/nofile"),
        case("a directory on an absolute link", to("/link", "host")).look("cat /deep/file"),
        case("a directory on a relative link", to("/etc/up", "host")).look("cat /deep/er/file"),
        case("below a dangling link", to("/dangling/sub", "host")).look("cat /no/where/sub/file"),
        case("a relative destination", to("rel/at/ive", "host")).look("cat /rel/at/ive/file"),
        case("a destination with a slash behind", to("/deep/er/", "host")),
        case("out of the root and in again", to("/../../deep/../x", "host")).look("cat /x/file"),
        case("a relative source", json!([{"destination": "/x", "type": "bind", "source": "rel", "options": ["bind"]}]))
            .prepare("mkdir bundle/rel; echo rel > bundle/rel/file")
            .look("cat /x/file"),
        case(
            "in the order of the document",
            json!([
                {"destination": "/a", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
                {"destination": "/a/b", "type": "bind", "source": "WORK/host", "options": ["bind"]},
                {"destination": "/a/b/none", "type": "tmpfs", "source": "inner"},
                {"destination": "/a", "type": "tmpfs", "source": "again"},
            ]),
        ),
    ]
}

/// File systems of their own.
fn file_systems() -> Vec<Case> {
    let remount = |options: &[&str]| {
        json!([
            {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=64k"]},
            {"destination": "/t", "type": "tmpfs", "source": "t", "options": options},
        ])
    };
    vec![
        case("tmpfs", tmpfs("/new", &[])),
        case("tmpfs keeps 1777", tmpfs("/tmp", &["nosuid"])),
        case("tmpfs keeps 750", tmpfs("/old", &[])).look("ls -A /old"),
        case("tmpfs with a mode", tmpfs("/new", &["mode=711"])),
        case("tmpfs with an owner", tmpfs("/old", &["uid=7", "gid=8", "size=64k", "nr_inodes=20"])),
        case("tmpfs, ro", tmpfs("/old", &["ro", "noexec"])).look("touch /old/new 2>&1"),
        case(
            "in a tmpfs that is ro",
            json!([
                {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro"]},
                {"destination": "/t/in", "type": "bind", "source": "WORK/host", "options": ["bind"]},
            ]),
        ),
        case("tmpcopyup", tmpfs("/old", &["tmpcopyup"]))
            .prepare("cd bundle/rootfs/old; mkdir d; echo x > d/f; chown 3:4 d/f; chmod 4755 d/f; ln -s f d/l")
            .look("cd /old; find . | sort | while read f; do stat -c '%N %F %a %u:%g %s' $f; done; cat file d/f"),
        case("tmpcopyup of nothing", tmpfs("/new", &["tmpcopyup", "mode=755"])),
        case("proc, hidepid", json!([])).set(&[("/mounts/0/options", r#"["hidepid=2", "nosuid", "noexec"]"#)]),
        case(
            "proc, subset",
            json!([{"destination": "/p", "type": "proc", "source": "proc", "options": ["subset=pid"]}]),
        )
        .look("ls /p/cpuinfo 2>&1"),
        case("sysfs, rw", json!([])).set(&[("/mounts/5/options", r#"["nosuid"]"#)]),
        case("devpts without gid", json!([]))
            .set(&[("/mounts/2/options", r#"["newinstance", "ptmxmode=0666", "mode=0600"]"#)]),
        case("no shm, no queues", json!([]))
            .set(&[("/mounts/3/destination", r#""/shm""#), ("/mounts/4/destination", r#""/mq""#)]),
        case("lazytime, iversion", tmpfs("/t", &["lazytime", "iversion", "silent", "loud"])),
        case("remount of a file system", remount(&["remount", "size=128k", "nosuid"])),
        case(
            "nothing of its own on /proc",
            json!([{"destination": "/proc/uptime", "type": "bind", "source": "WORK/host/file", "options": ["bind"]}]),
        )
        .look("cat /proc/uptime"),
    ]
}

/// The root, and /dev.
fn roots_and_devices() -> Vec<Case> {
    vec![
        case("root, ro", json!([])).set(&[("/root/readonly", "true")]).look("touch /new 2>&1; touch /dev/shm/new"),
        case("root, slave", json!([])).set(&[("/linux/rootfsPropagation", r#""slave""#)]),
        case("root, rslave", peers(&["bind", "rslave"])).set(&[("/linux/rootfsPropagation", r#""rslave""#)]),
        case("root, private", json!([])).set(&[("/linux/rootfsPropagation", r#""private""#)]),
        case("root, rprivate", json!([])).set(&[("/linux/rootfsPropagation", r#""rprivate""#)]),
        case("/dev, ro", json!([]))
            .set(&[("/mounts/1/options", r#"["ro", "nosuid", "mode=755"]"#)])
            .look("touch /dev/x 2>&1"),
        case("no /dev", json!([])).set(&[("/mounts/1/destination", r#""/other""#)]),
        case("the host's /dev", json!([]))
            .set(&[(
                "/mounts/1",
                r#"{"destination": "/dev", "type": "bind", "source": "WORK/dev", "options": ["rbind"]}"#,
            )])
            .prepare("rm -rf dev; mkdir -p dev/pts dev/shm dev/mqueue; chmod 1777 dev/shm; mknod dev/null c 1 3"),
        case("devices", json!([]))
            .set(&[(
                "/linux/devices",
                r#"[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 5, "gid": 6},
                {"path": "/dev/loop7", "type": "b", "major": 7, "minor": 7, "fileMode": 25008},
                {"path": "/dev/pipe", "type": "p", "fileMode": 384},
                {"path": "/dev/deep/er/u", "type": "u", "major": 1, "minor": 5},
                {"path": "/node", "type": "c", "major": 1, "minor": 3, "fileMode": 256}]"#,
            )])
            .look("stat -c '%n %F %a %u:%g %t:%T' /dev/deep/er/u /node"),
        case("a default device of another mode", json!([])).set(&[(
            "/linux/devices",
            r#"[{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 384, "uid": 9, "gid": 9},
                {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 438}]"#,
        )]),
        case("nodes of the image", json!([])).set(&[("/mounts/1/destination", r#""/other""#)]).prepare(
            "mkdir -p bundle/rootfs/dev; cd bundle/rootfs/dev; mknod -m 600 null c 1 3; echo x > zero; mkfifo p",
        ),
        case("the usual guards", json!([])).set(&[
            ("/linux/readonlyPaths", r#"["/proc/sys", "/proc/irq", "/proc/nothing"]"#),
            ("/linux/maskedPaths", r#"["/proc/nothing", "/nothing/at/all"]"#),
        ]),
        case("guards of the image's own files", json!([]))
            .set(&[("/linux/readonlyPaths", r#"["/etc", "/etc/up"]"#), ("/linux/maskedPaths", r#"["/deep"]"#)])
            .look("touch /etc/new 2>&1; ls -A /deep; touch /deep/new 2>&1 | sed s/Permission.*/x/"),
    ]
}

#[track_caller]
fn compare(lab: &Lab, plain: &Value, case: &Case) -> Option<String> {
    let config = case.config(lab, plain);
    let [theirs, ours] = ["runc", "mocker"].map(|runtime| run(lab, &config, runtime, case.prepare));
    let (their, our) = (normal(&theirs), normal(&ours));
    (theirs.code() != ours.code() || theirs.code() != 0 || their != our).then(|| {
        let only = |one: &str, other: &str| {
            one.lines()
                .filter(|line| !other.lines().any(|same| same == *line))
                .map(|line| format!("    {line}\n"))
                .collect::<String>()
        };
        format!(
            "{}: runc {}, mocker-exec {}\n  runc alone:\n{}  mocker-exec alone:\n{}  {}{}",
            case.name,
            theirs.code(),
            ours.code(),
            only(&their, &our),
            only(&our, &their),
            theirs.stderr,
            ours.stderr
        )
    })
}

#[track_caller]
fn all_alike(name: &str, cases: &[Case]) {
    let lab = lab(name);
    let plain = plain(&lab);
    let different: Vec<String> = cases.iter().filter_map(|case| compare(&lab, &plain, case)).collect();
    assert!(different.is_empty(), "{} of {} differ:\n{}", different.len(), cases.len(), different.join("\n"));
}

#[test]
fn binds_are_seen_as_under_runc() {
    all_alike("binds", &binds());
}

#[test]
fn file_systems_are_seen_as_under_runc() {
    all_alike("file-systems", &file_systems());
}

#[test]
fn the_root_and_its_devices_are_seen_as_under_runc() {
    all_alike("root-devices", &roots_and_devices());
}

/// What runc 1.1 does not do, or does another way: written down as the container must see it.
#[test]
fn what_the_newer_specification_asks_is_there() {
    let lab = lab("newer");
    let plain = plain(&lab);
    let own = |look: &str, case: Case| {
        let mut config = case.config(&lab, &plain);
        config["process"]["args"] = json!(["sh", "-c", look]);
        run(&lab, &config, "mocker", case.prepare).succeeds().stdout
    };
    let at_x = |case: Case| own("grep ' /x' /proc/self/mountinfo | sed 's/.* \\/x/\\/x/'", case);
    lab.sh("ln -s busybox image/bin/grep").succeeds();
    let has = |seen: String, wanted: &str| assert!(seen.contains(wanted), "{wanted:?} is not in {seen:?}");

    has(at_x(case("the last one wins", bind(&["rbind", "rro", "rrw"]))), "/x rw,relatime");
    has(at_x(case("nosymfollow", bind(&["bind", "nosymfollow"]))), "/x rw,relatime,nosymfollow");
    has(at_x(case("rnosymfollow", bind(&["rbind", "rnosymfollow"]))), "/x/below rw,relatime,nosymfollow");
    has(at_x(case("ratime", bind(&["rbind", "noatime", "ratime"]))), "/x rw,relatime");
    has(at_x(case("a strict source, without", strict(&["bind", "dev", "exec", "suid"]))), "/x rw,relatime");
    has(at_x(case("a strict source, with one less", strict(&["bind", "exec"]))), "/x rw,nosuid,nodev,relatime");
    let explicit = case("its own mode", tmpfs("/old", &["mode=711"]));
    has(own("stat -c %a /old", explicit), "711");
    let fifo = case("tmpcopyup of anything", tmpfs("/old", &["tmpcopyup"])).prepare(
        "cd bundle/rootfs/old; mkfifo p; mknod c c 1 3; touch -d @1000000000 file; chown 5:6 .; chmod 755 .; ln -s /etc/x l",
    );
    has(
        own("cd /old; stat -c '%N %F %u:%g %t:%T' . p c l; stat -c %Y file", fifo),
        ". directory 5:6 0:0\np fifo 0:0 0:0\nc character special file 0:0 1:3\n'l' -> '/etc/x' symbolic link 0:0 0:0\n1000000000",
    );
    for (name, seen) in [("shared", "shared"), ("rshared", "shared"), ("unbindable", "unbindable"), ("slave", "master")]
    {
        let mut config = plain.clone();
        config["linux"]["rootfsPropagation"] = name.into();
        config["process"]["args"] = json!(["sh", "-c", "awk '$5 == \"/\"' /proc/self/mountinfo"]);
        has(run(&lab, &config, "mocker", "true").succeeds().stdout, seen);
    }
}

#[test]
fn files_of_an_id_mapped_mount_belong_to_other_ids() {
    let lab = lab("idmap");
    let plain = plain(&lab);
    lab.sh("mkdir -p owned/below; mount -t tmpfs o owned; mkdir owned/below; mount -t tmpfs o owned/below
            touch owned/zero owned/one owned/below/zero; chown 1:1 owned/one")
        .succeeds();
    let maps = json!([{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 5, "size": 1}]);
    let mount = |options: &[&str], maps: &Value| {
        json!([{"destination": "/x", "type": "bind", "source": "WORK/owned", "options": options,
                "uidMappings": maps, "gidMappings": maps}])
    };
    let look = |mounts: Value, in_user_namespace: bool| {
        let mut config = case("", mounts).config(&lab, &plain);
        config["process"]["args"] =
            json!(["sh", "-c", "cd /x; stat -c '%n %u:%g' zero one below/zero; touch new && stat -c '%n %u:%g' new"]);
        if in_user_namespace {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (maps.clone(), maps);
        }
        run(&lab, &config, "mocker", "chown -R 100000:100000 bundle; rm -f owned/new")
    };
    let plain_one = look(mount(&["bind", "idmap"], &maps), false);
    assert!(plain_one.stdout.starts_with("zero 1000:1000\none 5:5\n"), "{plain_one}");
    let top = look(mount(&["rbind", "idmap"], &maps), false);
    assert!(top.stdout.contains("below/zero 0:0\n"), "only the mount itself: {top}");
    let all = look(mount(&["rbind", "ridmap"], &maps), false);
    assert!(all.stdout.contains("below/zero 1000:1000\n"), "and those below: {all}");

    let own = json!([{"destination": "/x", "type": "bind", "source": "WORK/owned", "options": ["rbind", "ridmap"]}]);
    let seen = look(own.clone(), true).succeeds();
    assert_eq!(seen.stdout, "zero 0:0\none 1:1\nbelow/zero 0:0\nnew 0:0\n", "the container's own maps");
    lab.sh("stat -c %u owned/new").succeeds().prints("0\n");
    look(own, false).fails(1).says("idmap without mappings");
    let half = json!([{"destination": "/x", "source": "WORK/owned", "options": ["bind"], "uidMappings": maps}]);
    look(half, false).fails(1).says("uidMappings and gidMappings go together");
    look(json!([{"destination": "/x", "type": "tmpfs", "source": "x", "options": ["idmap"]}]), false)
        .fails(1)
        .says("only a bind mount");
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let lab = lab("refused");
    let plain = plain(&lab);
    let says = |mounts: Value, prepare: &'static str, text: &str| {
        let config = case("", mounts).prepare(prepare).config(&lab, &plain);
        run(&lab, &config, "mocker", prepare).fails(1).says(text);
        assert_ne!(run(&lab, &config, "runc", prepare).code(), 0, "runc does it: {text}");
    };
    says(to("/x", "nowhere"), "true", "nowhere");
    says(to("/etc/taken", "host"), "true", "not a directory");
    says(to("/deep", "host/file"), "true", "not a directory");
    says(json!([{"destination": "/x", "type": "nofs", "source": "x"}]), "true", "no such file system");
    says(tmpfs("/x", &["nonsense=1"]), "true", "an option that this file system does not know");
    says(to("/proc/sys/kernel", "host"), "true", "inside /proc");
    says(to("/proc", "host"), "true", "not of type proc");
    says(json!([]), "rm -r bundle/rootfs; touch bundle/rootfs", "is not a directory");
    says(json!([]), "rm -r bundle/rootfs", "is not a directory");
    says(
        json!([]),
        "mkdir bundle/rootfs/inner; ln -s inner bundle/rootfs/proc",
        "must be mounted on ordinary directory",
    );
    says(json!([]), "touch bundle/rootfs/sys", "must be mounted on ordinary directory");
    let node = |prepare: &'static str| {
        let device = r#"[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]"#;
        let mut config = case("", json!([])).config(&lab, &plain);
        config["linux"]["devices"] = serde_json::from_str(device).unwrap();
        config["mounts"].as_array_mut().unwrap().remove(1);
        run(&lab, &config, "mocker", prepare)
    };
    node("mkdir bundle/rootfs/dev; mknod bundle/rootfs/dev/x c 1 3").succeeds();
    node("mkdir bundle/rootfs/dev; mknod bundle/rootfs/dev/x c 1 5").fails(1).says("it is not this device");
    node("mkdir bundle/rootfs/dev; ln -s null bundle/rootfs/dev/x").fails(1).says("it is not this device");
}

/// What `awk` prints of the lines of mountinfo for /sys/fs/cgroup: place, flags and which groups, in alphabetical order.
const GROUPS: &str = "awk '$5 ~ \"^/sys/fs/cgroup\" { print $5, $6, $4, $NF }' /proc/self/mountinfo | sort;
    ls -l /sys/fs/cgroup | sed 's/.* [0-9]*:[0-9]* //'; cat /sys/fs/cgroup/pids/cgroup.procs | head -1;
    mkdir /sys/fs/cgroup/pids/new 2>&1; touch /sys/fs/cgroup/x 2>&1; true";

#[test]
fn groups_are_seen_as_under_runc() {
    let lab = lab("groups");
    lab.sh("ln -s busybox image/bin/mkdir; ln -s busybox image/bin/head; ln -s busybox image/bin/mountpoint")
        .succeeds();
    let plain = plain(&lab);
    let mount = |options: &[&str]| json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}]);
    let usual = ["nosuid", "noexec", "nodev", "relatime"];
    let [read_only, writable] = [mount(&[&usual[..], &["ro"]].concat()), mount(&usual)];
    let mut on_it = read_only.clone();
    on_it
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/sys/fs/cgroup/pids", "type": "tmpfs", "source": "on", "options": ["mode=755"]}));
    for (name, mounts, cgroup_namespace) in [
        ("ro", &read_only, false),
        ("ro in a namespace", &read_only, true),
        ("rw", &writable, false),
        ("rw in a namespace", &writable, true),
        ("something on it", &on_it, true),
    ] {
        let mut config = case(name, mounts.clone()).config(&lab, &plain);
        config["process"]["args"] = json!(["sh", "-c", GROUPS]);
        config["linux"]["cgroupsPath"] = "/some/where/seen".into();
        if cgroup_namespace {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
        }
        let [theirs, ours] = ["runc", "mocker"].map(|runtime| {
            // runc leaves the small tmpfs of a read-only mount writable.
            let seen = run(&lab, &config, runtime, "true")
                .succeeds()
                .stdout
                .replace("/sys/fs/cgroup ro,", "/sys/fs/cgroup rw,");
            seen.lines().filter(|line| !line.contains("touch: ")).collect::<Vec<_>>().join("\n")
        });
        assert_eq!(ours, theirs, "{name}");
        assert!(ours.contains("/sys/fs/cgroup/memory"), "{ours}");
    }
    lab.sh("rmdir /sys/fs/cgroup/*/some/where /sys/fs/cgroup/*/some 2>/dev/null; true").succeeds();
}

#[test]
fn controllers_that_share_a_hierarchy_are_found_by_name() {
    let lab = lab("shared-hierarchy");
    lab.sh("ln -s busybox image/bin/mkdir").succeeds();
    let plain = plain(&lab);
    // The lab's own mounts give way to one that has a name as systemd's machines have it.
    lab.sh("umount /sys/fs/cgroup/cpu /sys/fs/cgroup/cpuacct 2>/dev/null
            mkdir -p /sys/fs/cgroup/cpu,cpuacct && mount --bind /sys/fs/cgroup/pids /sys/fs/cgroup/cpu,cpuacct")
        .succeeds();
    let groups = json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}]);
    let mut config = case("", groups).config(&lab, &plain);
    let group = "/sys/fs/cgroup/cpu,cpuacct/shared-seen";
    config["mocker"] = json!({"version": 1, "cgroup": {"directories": [group], "devices": false}});
    config["process"]["args"] =
        json!(["sh", "-c", "ls -l /sys/fs/cgroup | sed 's/.*[0-9] //'; stat -c %F /sys/fs/cgroup/cpu/"]);
    lab.sh(&format!("mkdir {group}; rm -rf bundle; cp -a image bundle-rootfs")).succeeds();
    config["root"]["path"] = lab.work().join("bundle-rootfs").to_str().unwrap().into();
    let out = lab.program("mocker-exec").stdin(config.to_string()).run().succeeds();
    assert!(
        out.stdout.contains("cpu -> cpu,cpuacct\n") && out.stdout.contains("cpuacct -> cpu,cpuacct\ndirectory\n"),
        "{out}"
    );
    lab.sh(&format!("rmdir {group}; umount /sys/fs/cgroup/cpu,cpuacct")).succeeds();
}

#[test]
fn without_pivot_root_the_container_sees_the_same() {
    let lab = lab("no-pivot");
    let plain = plain(&lab);
    let look = format!("{LOOK}; cat /proc/1/mountinfo | sed 's/ - .*//' | awk '$5 ~ /proc|sys$/ {{ print $5 }}'; ls /");
    let mut config = case("", bind(&["rbind", "ro"])).config(&lab, &plain);
    config["process"]["args"] = json!(["sh", "-c", look]);
    let start = |runtime: &str| {
        lab.sh("rm -rf bundle; mkdir bundle; cp -a image bundle/rootfs").succeeds();
        fs::write(lab.work().join("bundle/config.json"), config.to_string()).unwrap();
        lab.sh(&format!("{runtime} run --no-pivot --bundle bundle seen"))
    };
    let [theirs, ours] = ["runc --root $HOME/runc", "mocker-exec"].map(|runtime| normal(&start(runtime).succeeds()));
    assert_eq!(ours, theirs);
    assert_eq!(ours.matches("\n/proc\n").count(), 1, "the host's is gone: {ours}");
}

#[test]
fn in_a_user_namespace_mounts_and_devices_are_seen_as_under_runc() {
    let lab = lab("user-namespace");
    // Its parent is closed to the container's root: only one who opens it outside gets there.
    lab.sh("mkdir -p closed/open; echo seen > closed/open/file; chmod 700 closed; chmod 755 .").succeeds();
    let plain = plain(&lab);
    let mut config = case(
        "",
        json!([
            {"destination": "/x", "type": "bind", "source": "WORK/host", "options": ["rbind", "ro"]},
            {"destination": "/old", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]},
        ]),
    )
    .config(&lab, &plain);
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps;
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    config["linux"]["devices"] = json!([{"path": "/dev/pipe", "type": "p", "fileMode": 384}]);
    let own = "chown -R 100000:100000 bundle";
    let mut compared = config.clone();
    compared["process"]["args"] = json!(["sh", "-c", format!("{LOOK}; cat /old/file")]);
    compared["linux"]["devices"] = json!([]);
    let [theirs, ours] = ["runc", "mocker"].map(|runtime| {
        // Message queues that belong to the namespace's own group, where runc leaves them to the host's.
        let seen = normal(&run(&lab, &compared, runtime, own).succeeds())
            .replace("mqueue directory 1777 0:65534", "mqueue directory 1777 0:0");
        let mut lines: Vec<String> = seen.lines().map(str::to_string).collect();
        lines.sort();
        lines.join("\n")
    });
    assert_eq!(ours, theirs);

    // runc 1.1 fails at flags that are locked; they are kept.
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/c", "type": "bind", "source": lab.work().join("closed/open"), "options": ["bind"]}),
        json!({"destination": "/strict", "type": "bind", "source": lab.work().join("strict"), "options": ["bind", "ro"]}),
    ]);
    let look = "awk '$5 == \"/strict\" { print $6 }' /proc/self/mountinfo; cat /c/file; stat -c '%F %a' /dev/pipe; echo x > /dev/null; stat -c %t:%T /dev/zero";
    config["process"]["args"] = json!(["sh", "-c", look]);
    let out = run(&lab, &config, "mocker", own).succeeds();
    assert_eq!(out.stdout, "ro,nosuid,nodev,noexec,relatime\nseen\nfifo 600\n1:5\n");

    // The host's network: sysfs may not be mounted anew, so the host's is shown.
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    config["process"]["args"] =
        json!(["sh", "-c", "awk '$5 == \"/sys\" { print $6, $9 }' /proc/self/mountinfo; ls /sys/class/net"]);
    let out = run(&lab, &config, "mocker", own).succeeds();
    assert!(out.stdout.starts_with("ro,nosuid,nodev,noexec") && out.stdout.contains("lo\n"), "{out}");
}

#[test]
fn what_is_mounted_inside_reaches_the_host_only_where_it_is_asked_for() {
    let lab = lab("propagation");
    lab.sh("mkdir peers/in; ln -s busybox image/bin/umount").succeeds();
    let plain = plain(&lab);
    let mounts = || lab.sh("findmnt -rno TARGET,SOURCE,PROPAGATION | sort").succeeds().stdout;
    let before = mounts();
    let maps = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    for (root, options, user_namespace, arrives) in [
        (None, ["rbind", "rw"], false, false),
        (None, ["rbind", "rshared"], false, false),
        (None, ["rbind", "rw"], true, false),
        (Some("rslave"), ["rbind", "rslave"], false, false),
        (Some("private"), ["rbind", "rshared"], false, false),
        (Some("rshared"), ["rbind", "rprivate"], false, false),
        (Some("rshared"), ["rbind", "rshared"], false, true),
        (Some("shared"), ["rbind", "shared"], false, true),
    ] {
        let mut config = case("", peers(&options)).config(&lab, &plain);
        config["linux"]["rootfsPropagation"] = root.map_or(Value::Null, Value::from);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push("CAP_SYS_ADMIN".into());
        }
        if user_namespace {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (maps.clone(), maps.clone());
        }
        config["process"]["args"] = json!(["sh", "-c", "mount -t tmpfs inner /x/in && stat /x/in"]);
        run(&lab, &config, "mocker", "true").succeeds();
        let seen = mounts();
        assert_eq!(seen.contains(" inner "), arrives, "{root:?} {options:?} {user_namespace}: {seen}");
        if arrives {
            lab.sh("umount peers/in").succeeds();
        }
        assert_eq!(mounts(), before, "{root:?} {options:?}: the host's mounts are others now");
    }
}
