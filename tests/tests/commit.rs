//! mocker-images commit: the image of a container is what the container saw.

use serde_json::Value;
use tests::{Lab, Output, require};

/// A tree as lines of text: name, mode, owner, time, device, content, attributes; then which names are one file.
const WALK: &str = r#"
import hashlib, os, stat, sys
root = sys.argv[1].encode()
groups = {}
def look(path):
    name, info = os.path.relpath(path, root), os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    if info.st_nlink > 1 and kind != stat.S_IFDIR:
        groups.setdefault((info.st_dev, info.st_ino), []).append(name)
    content = b""
    if kind == stat.S_IFLNK:
        content = os.readlink(path)
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    device = info.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    keys = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = [(key, os.getxattr(path, key, follow_symlinks=False)) for key in keys]
    print((name, oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, device, content, xattrs))
    if kind == stat.S_IFDIR:
        for entry in sorted(os.listdir(path)):
            look(os.path.join(path, entry))
look(root)
for names in sorted(sorted(names) for names in groups.values() if len(names) > 1):
    print("one file:", names)
"#;

/// What a container may do to its files, by the commands that do it. $PWD is its root.
const LIVE_IN_IT: &str = r#"
    set -e
    echo new > new; ln new hard; echo again >> bin/check; rm t/second
    rm -r t/opaque; mkdir t/opaque; echo only > t/opaque/only; ln t/opaque/only t/members/linked
    rm -r t/members/a; mv t/members/b t/members/moved; rm -r t/dir-then-file; mkdir t/dir-then-file
    cp bin/busybox capable; setcap cap_net_raw+ep capable; chmod 4711 bin/busybox
    touch owner; chown 100000000:99999999 owner; chown 7 t
    mkfifo -m 600 fifo; mknod -m 620 null c 1 3; mknod disk b 259 1048575; ln disk disk2
    setfattr -n user.text -v 'a b' new; setfattr -n user.dir -v x t/opaque; setfattr -n trusted.own -v y t
    python3 -c 'import os, struct; os.setxattr("new", "system.posix_acl_access", struct.pack("<I" + "HHI" * 5, 2,
        1, 6, 0xffffffff, 2, 4, 7, 4, 4, 0xffffffff, 16, 6, 0xffffffff, 32, 4, 0xffffffff))'
    truncate -s 9M hole; printf end | dd of=hole bs=1 seek=5000000 conv=notrunc status=none
    truncate -s 3 etc/passwd; ln -s /nowhere link; ln link link2; touch -h -d '1960-01-01 00:00:00.5 UTC' link
    echo x > "$(printf 'caf\351 \n')"; long=$(printf 'n%.0s' $(seq 250)); mkdir -p "$long/$long"; echo x > "$long/$long/$long"
    rm -r usr/share; ln -s /usr/share usr/share
    mkdir -p later/sub; touch -d '2001-01-01 01:01:01.123456789 UTC' later/sub later; chmod 1777 later
    chmod 700 .; touch -d '2002-02-02 02:02:02.2 UTC' .
"#;

fn mounted(lab: &Lab, image: &str, id: &str) -> String {
    lab.sh(&format!("mocker-images get {image} | mocker-images mount --id {id} > {id}.json")).succeeds();
    lab.root().join("containers").join(id).join("rootfs").display().to_string()
}

fn walk(lab: &Lab, directory: &str) -> String {
    lab.program("python3").args(["-c", WALK, directory]).run().succeeds().stdout
}

fn inspect(lab: &Lab, image: &str) -> Value {
    lab.sh(&format!("mocker-images inspect {image}")).succeeds().json()[0].clone()
}

fn commit(lab: &Lab, args: &str) -> Output {
    lab.sh(&format!("mocker-images commit {args}"))
}

#[test]
fn the_image_of_a_container_is_what_the_container_saw() {
    for program in ["setcap", "setfattr", "python3", "umoci", "skopeo"] {
        require(program);
    }
    let lab = Lab::new("same");
    lab.images(&["layers"]); // whiteouts, links into lower layers, directories that a tar does not name: a fix-up
    let rootfs = mounted(&lab, "layers", "lab");
    lab.sh(&format!("cd {rootfs}; {LIVE_IN_IT}")).succeeds();
    let seen = walk(&lab, &rootfs);
    let reference = commit(&lab, "lab mine:1").succeeds().stdout;
    let upper = lab.root().join("containers/lab/upper");
    assert!(walk(&lab, &rootfs) == seen && upper.join("t/opaque/only").is_file(), "the container was changed");

    // The same overlay, and the store is sound.
    lab.sh("mocker-images verify mine:1").succeeds();
    let mine = mounted(&lab, reference.trim(), "mine");
    same(&walk(&lab, &mine), &seen);

    // The same where others unpack it, from our layout and by way of skopeo. Only the times of directories that the
    // base's layers do not name are umoci's own.
    let named = |walk: &str| -> String {
        let unnamed = ["run", "run/lock", "usr", "usr/share"].map(|name| format!("(b'{name}', "));
        walk.lines()
            .filter(|line| !unnamed.iter().any(|name| line.starts_with(name)))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    lab.sh("mocker-images save mine:1 -o oci:ours:v1 && skopeo copy -q oci:ours:v1 oci:theirs:v1").succeeds();
    for layout in ["ours", "theirs"] {
        lab.sh(&format!("umoci --log error unpack --image {layout}:v1 {layout}.bundle")).succeeds();
        same(&named(&walk(&lab, &format!("{layout}.bundle/rootfs"))), &named(&seen));
    }

    // An image of the image's container: nothing gets lost on the way.
    lab.sh(&format!("cd {mine}; rm -r later; echo 2 > new")).succeeds();
    let seen = walk(&lab, &mine);
    commit(&lab, "mine mine:2").succeeds();
    same(&walk(&lab, &mounted(&lab, "mine:2", "second")), &seen);
    lab.sh("mocker-images delete lab mine second && mocker-images verify").succeeds();
}

#[track_caller]
fn same(found: &str, expected: &str) {
    let lines = |one: &str, other: &str| {
        let other: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).collect::<Vec<_>>().join("\n")
    };
    let (more, less) = (lines(found, expected), lines(expected, found));
    assert!(found == expected, "\n--- found\n{more}\n--- expected\n{less}");
}

#[test]
fn settings_and_history_are_the_base_s_and_what_was_changed() {
    let lab = Lab::new("settings");
    lab.images(&["busybox", "docker2", "zstd"]);
    for (base, manifest_type, layer_type) in [
        ("busybox", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "docker2",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ] {
        let rootfs = mounted(&lab, base, "lab");
        lab.sh(&format!("echo x > {rootfs}/x")).succeeds();
        let out = commit(
            &lab,
            "lab mine -m 'x added' -a Ada -c 'CMD [\"cat\", \"/x\"]' -c 'ENV A=b PATH=$PATH:/y' -c 'USER 5'",
        );
        let reference =
            out.succeeds().says(&format!("docker.io/library/{base}:latest and a layer of 2 entries")).stdout;
        let (before, after) = (inspect(&lab, base), inspect(&lab, "mine"));
        assert_eq!(
            reference.trim(),
            format!("docker.io/library/mine:latest@{}", after["digest"].as_str().expect("text"))
        );

        assert_eq!(after["descriptor"]["mediaType"], manifest_type);
        assert_eq!(after["manifest"]["mediaType"], before["manifest"]["mediaType"]);
        assert_eq!(after["manifest"]["layers"][0], before["manifest"]["layers"][0]);
        assert_eq!(after["manifest"]["layers"][1]["mediaType"], layer_type);
        let (before, after) = (&before["config"], &after["config"]);
        assert_eq!(after["rootfs"]["diff_ids"][0], before["rootfs"]["diff_ids"][0]);
        assert_eq!(after["architecture"], before["architecture"]);
        let line = after["history"].as_array().and_then(|history| history.last()).expect("a line of history");
        assert_eq!(
            (&line["comment"], &line["author"], &after["author"]),
            (&"x added".into(), &"Ada".into(), &"Ada".into())
        );
        assert_eq!(line["created"], after["created"]);
        assert!(line["created_by"].is_string() && line["empty_layer"].is_null(), "{line}");
        assert_eq!(after["config"]["User"], "5");
        lab.pipeline(&["mocker-images get mine", "mocker-exec"]).succeeds().prints("x\n");
        let env = lab.pipeline(&["mocker-images get mine", "jq -r '.process.env[]'"]).succeeds().stdout;
        assert!(env.contains("A=b\n") && env.contains(":/y\n") && !env.contains("$PATH"), "{env}");
        lab.sh("mocker-images delete lab; mocker-images rm mine").succeeds();
    }
}

#[test]
fn what_mocker_mounts_on_is_not_committed() {
    let lab = Lab::new("places");
    lab.images(&["busybox"]); // without /etc/hosts, /proc and /sys
    let run = "mocker-images get busybox | mocker-exec --id lab -- sh -c";
    let mut idle = lab.shell(&format!("{run} 'echo ready; sleep 60'")).spawn();
    idle.wait_for("ready");
    lab.sh("ls -d $MOCKER_ROOT/containers/lab/upper/etc/hosts $MOCKER_ROOT/containers/lab/upper/proc").succeeds();
    commit(&lab, "lab same -c 'USER 5'").succeeds().says("lab is running").says("has written nothing");
    let (before, after) = (inspect(&lab, "busybox"), inspect(&lab, "same"));
    assert_eq!(after["manifest"]["layers"], before["manifest"]["layers"]);
    assert_eq!(after["config"]["history"][1]["empty_layer"], true);
    drop(idle);

    let mut busy =
        lab.shell(&format!("{} 'echo hi > /etc/hi; echo ready; sleep 60'", run.replace("lab", "two"))).spawn();
    busy.wait_for("ready");
    commit(&lab, "two more").succeeds().says("and a layer of 3 entries");
    let digest = inspect(&lab, "more")["layers"][1]["digest"].as_str().expect("text").replace("sha256:", "");
    let names = lab.sh(&format!("tar tzf $MOCKER_ROOT/image/blobs/sha256/{digest}")).succeeds().stdout;
    assert_eq!(names, "./\netc/\netc/hi\n");
}

#[test]
fn a_frozen_container_is_committed_without_a_warning() {
    let lab = Lab::new("frozen");
    lab.images(&["busybox"]);
    let mut run = lab
        .shell("mocker-images get busybox | mocker-cgroup --id lab | mocker-exec -- sh -c 'echo x > /x; echo ready; sleep 60'")
        .spawn();
    run.wait_for("ready");
    commit(&lab, "lab one").succeeds().says("lab is running").says("mocker-cgroup freeze lab");
    lab.sh("mocker-cgroup freeze lab").succeeds();
    let quiet = commit(&lab, "lab two").succeeds();
    assert!(!quiet.stderr.contains("running"), "{quiet}");
    lab.sh("mocker-cgroup thaw lab").succeeds();
    assert_eq!(inspect(&lab, "one")["manifest"]["layers"], inspect(&lab, "two")["manifest"]["layers"]);
}

#[test]
fn what_no_layer_can_hold_is_left_out_by_name() {
    require("python3");
    let lab = Lab::new("left-out");
    lab.images(&["busybox"]);
    let rootfs = mounted(&lab, "busybox", "lab");
    lab.sh(&format!(
        "cd {rootfs}; echo x > x; echo x > .wh.x; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'"
    ))
    .succeeds();
    commit(&lab, "lab mine").succeeds().says(".wh.x: left out").says("socket: left out");
    lab.sh(&format!("test -e {}/x", mounted(&lab, "mine", "mine"))).succeeds();
    lab.sh("mocker-images delete lab mine").succeeds();
}

#[test]
fn what_cannot_be_committed_is_refused_and_nothing_is_left() {
    let lab = Lab::new("refused");
    lab.images(&["busybox"]);
    let rootfs = mounted(&lab, "busybox", "lab");
    lab.sh(&format!("echo x > {rootfs}/x")).succeeds();
    let before = lab.snapshot();
    let list = lab.sh("mocker-images --json").succeeds().stdout;
    commit(&lab, "nobody mine").fails(1).says("no container nobody here");
    commit(&lab, &format!("lab mine@sha256:{}", "ab".repeat(32))).fails(1).says("a digest is not given");
    commit(&lab, "lab mine -c 'RUN x'").fails(2).says("'RUN' changes no setting");
    commit(&lab, "lab 'no name'").fails(2);
    // Too deep for anybody to unpack.
    lab.sh(&format!("cd {rootfs}; for i in $(seq 300); do mkdir d; cd d; done")).succeeds();
    commit(&lab, "lab mine").fails(1).says("depth");
    lab.sh(&format!("rm -r {rootfs}/d")).succeeds();
    // Its image is gone, and not by `rm`, which keeps what a container stands on.
    lab.sh("cp -a $MOCKER_ROOT/image $MOCKER_ROOT/../kept; mocker-images rm busybox").succeeds();
    commit(&lab, "lab mine").succeeds();
    lab.sh("mocker-images rm mine; rm $MOCKER_ROOT/image/blobs/sha256/*").succeeds();
    let gone = commit(&lab, "lab mine").fails(1).says("busybox:latest is not here any more").says("mocker-pull");
    assert_eq!(gone.stdout, "");
    lab.sh("rm -r $MOCKER_ROOT/image; mv $MOCKER_ROOT/../kept $MOCKER_ROOT/image").succeeds();
    lab.assert_same(&before);
    assert_eq!(lab.sh("mocker-images --json").succeeds().stdout, list);
}

#[test]
fn a_commit_that_is_killed_or_finds_the_disk_full_leaves_a_sound_store() {
    let lab = Lab::new("killed");
    lab.images(&["busybox"]);
    let rootfs = mounted(&lab, "busybox", "lab");
    lab.sh(&format!(
        "cd {rootfs}; mkdir d; for i in $(seq 300); do echo $i > d/$i; done; head -c 3M /dev/urandom > noise"
    ))
    .succeeds();
    for milliseconds in (0..200).step_by(20) {
        lab.sh(&format!("timeout -s KILL 0.{milliseconds:03} mocker-images commit lab mine; true"));
        lab.sh("mocker-images verify && mocker-images prune").succeeds();
        assert_eq!(lab.sh("ls $MOCKER_ROOT/tmp").succeeds().stdout, "");
    }
    // What is left is there, or not: the next one is whole either way.
    let before = lab.snapshot();
    let full = "unshare -m sh -c 'mount -t tmpfs -o size=2M none $MOCKER_ROOT/tmp; mocker-images commit lab full'";
    lab.sh(full).fails(1).says("No space left on device");
    lab.sh("mocker-images get full").fails(1);
    lab.assert_same(&before);
    commit(&lab, "lab mine").succeeds();
    lab.sh("mocker-images verify mine").succeeds();
}

#[test]
fn the_same_files_are_the_same_layer() {
    let lab = Lab::new("layer");
    lab.images(&["busybox"]);
    for id in ["one", "two"] {
        let rootfs = mounted(&lab, "busybox", id);
        lab.sh(&format!("cd {rootfs}; echo z > z; echo a > a; touch -d @1 z a .")).succeeds();
        commit(&lab, &format!("{id} {id}")).succeeds();
    }
    let (one, two) = (inspect(&lab, "one"), inspect(&lab, "two"));
    assert_eq!(one["manifest"]["layers"], two["manifest"]["layers"]);
    lab.sh("mocker-images rm one && mocker-images verify two && mocker-images delete one two").succeeds();
}
