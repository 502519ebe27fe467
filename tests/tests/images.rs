//! mocker-images: what is listed, given out, removed, found damaged and mounted.
//!
//! The store is made by hand, with tar, gzip and sha256sum: nothing here depends on what mocker-pull makes of an archive.

use std::fs;

use serde_json::Value;
use tests::{Lab, Running, require};

mod steps;

/// Three images: `base` of one layer, `motd:1` of that and another, `localhost:5000/team/none` of none.
const MAKE_STORE: &str = r#"
    set -e
    mkdir -p $MOCKER_ROOT; cd $MOCKER_ROOT
    mkdir -p image/blobs/sha256 layers/sha256 fixups/sha256 containers tmp locks
    blob() { digest=$(sha256sum < $1); digest=${digest%% *}; size=$(stat -c %s $1); mv $1 image/blobs/sha256/$digest; }
    layer() { # of the tree $1
        tar --create --numeric-owner --owner 0 --group 0 --sort name --mtime @1700000000 -C $1 . > layer.tar
        diff=$(sha256sum < layer.tar); diff=${diff%% *}
        mkdir layers/sha256/$diff; tar --extract --preserve-permissions -C layers/sha256/$diff < layer.tar
        echo '{"entries":1,"bytes":1}' > layers/sha256/$diff.json
        gzip --no-name layer.tar; blob layer.tar.gz; rm -r $1
        layers="$layers,{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$digest\",\"size\":$size}"
        diffs="$diffs,\"sha256:$diff\""
    }
    image() { # reference, created, config
        echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"created\":$2,\"config\":$3,\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${diffs#,}]}}" > config
        blob config
        echo "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size},\"layers\":[${layers#,}]}" > manifest
        blob manifest
        entries="$entries,{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size,\"annotations\":{\"org.opencontainers.image.ref.name\":\"$1\",\"dev.mocker.stored\":\"2026-01-02T03:04:05Z\"}}"
    }
    image localhost:5000/team/none:latest null '{"Cmd":["/x"]}'
    mkdir -m 755 -p base base/bin base/etc base/proc base/sys base/dev base/run; mkdir -m 1777 base/tmp
    cp /bin/busybox base/bin/busybox
    for name in sh cat hostname mount; do ln base/bin/busybox base/bin/$name; done
    echo root:x:0:0::/root:/bin/sh > base/etc/passwd; echo base > base/etc/motd
    layer base
    image docker.io/library/base:latest '"2025-12-30T00:00:00Z"' '{"Cmd":["sh"]}'
    mkdir -p top/etc; echo hello > top/etc/motd; mknod top/etc/passwd c 0 0
    rm top/etc/passwd
    layer top
    image docker.io/library/motd:1 '"2024-01-01T00:00:00Z"' '{"Entrypoint":["cat"],"Cmd":["/etc/motd"],"Env":["A=b"],"WorkingDir":"/tmp"}'
    echo '{"imageLayoutVersion":"1.0.0"}' > image/oci-layout
    echo "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[${entries#,}]}" > image/index.json
"#;

fn lab(name: &str) -> Lab {
    require("busybox");
    let lab = Lab::new(name);
    lab.sh(MAKE_STORE).succeeds();
    lab
}

fn list(lab: &Lab) -> Vec<Value> {
    lab.sh("mocker-images --json").succeeds().json().as_array().expect("an array").clone()
}

fn layers(lab: &Lab) -> usize {
    let entries = fs::read_dir(lab.root().join("layers/sha256")).expect("the layers").flatten();
    entries.filter(|entry| entry.path().is_dir()).count()
}

#[test]
fn the_table_has_the_seeds_columns_and_fits_the_terminal() {
    let lab = lab("table");
    let table = lab.sh("mocker-images").succeeds().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("+--") && lines[0] == lines[2] && lines[0] == lines[lines.len() - 1], "{table}");
    let heading: Vec<&str> = lines[1].split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(heading, ["name", "version", "size", "digest", "age"]);
    let names: Vec<&str> = lines[3..6].iter().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    assert_eq!(names, ["base", "motd", "localhost:5000/team/none"]);

    let mut terminal = lab.terminal("mocker-images; echo end", 24, 60);
    let shown = {
        terminal.wait_for("end\r");
        terminal.screen()
    };
    let widest = shown.lines().map(|line| line.trim_end().chars().count()).max();
    assert!(widest <= Some(60), "{widest:?}: {shown}");
}

#[test]
fn an_empty_store_is_an_empty_list_and_is_not_made() {
    let lab = Lab::new("empty");
    assert_eq!(lab.sh("mocker-images --json").succeeds().stdout, "[]\n");
    lab.sh("mocker-images && mocker-images prune && mocker-images verify").succeeds();
    lab.sh("mocker-images get nginx").fails(1);
    assert!(!lab.root().exists());
}

#[test]
fn the_json_list_is_what_its_schema_says() {
    let lab = lab("schema");
    let schema: Value = serde_json::from_str(include_str!("../../mocker-images/list.schema.json")).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let images = list(&lab);
    assert_eq!(images.len(), 3);
    assert!(images[1]["size_bytes"].as_u64() > images[0]["size_bytes"].as_u64(), "{images:#?}");
    lab.sh("mv $(ls -d $MOCKER_ROOT/image/blobs/sha256/* | head -1) /run/; mocker-images list --json").succeeds();
    for list in [Value::Array(images), Value::Array(list(&lab))] {
        let errors: Vec<String> = schema.iter_errors(&list).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert!(!schema.is_valid(&serde_json::json!([{ "name": "x" }])), "the schema asks for nothing");
}

#[test]
fn get_prints_the_document_or_one_line() {
    let lab = lab("get");
    let document = lab.sh("mocker-images get motd:1").succeeds().json();
    assert_eq!(document["process"]["args"], serde_json::json!(["cat", "/etc/motd"]));
    assert_eq!(document["process"]["cwd"], "/tmp");
    assert_eq!(document["mocker"]["rootfs"]["lower"].as_array().map(Vec::len), Some(2));
    let absent = lab.sh("mocker-images get nginx").fails(1);
    assert_eq!(absent.stderr, "mocker-images: no image nginx here; mocker-pull nginx gets it\n");
    assert_eq!(absent.stdout, "");

    lab.sh("rm -r $MOCKER_ROOT/layers/sha256/*").succeeds();
    let broken = lab.sh("mocker-images get motd:1").fails(1).says("is not there");
    assert!(broken.stderr.contains("mocker-pull"), "{broken}");
    assert_eq!(broken.stdout, "");
}

#[test]
fn a_removed_image_takes_along_only_what_no_other_needs() {
    let lab = lab("rm");
    lab.sh("mocker-images tag base mine/copy:2 && mocker-images get mine/copy:2 > /dev/null").succeeds();
    lab.sh("mocker-images rm motd:1 nginx").fails(1).says("no image nginx");
    assert_eq!(list(&lab).len(), 4, "half of a command was done");
    lab.sh("mocker-images rm motd:1 base").succeeds().says("freed");
    assert_eq!(layers(&lab), 1, "the copy needs it");
    lab.sh("mocker-images verify").succeeds();
    lab.sh("mocker-images rm mine/copy:2 localhost:5000/team/none").succeeds();
    lab.sh("ls $MOCKER_ROOT/layers/sha256 $MOCKER_ROOT/image/blobs/sha256 | grep -E '[0-9a-f]{9}'").fails(1);
}

#[test]
fn verify_names_what_is_damaged() {
    let lab = lab("verify");
    lab.sh("mocker-images verify").succeeds().prints("docker.io/library/motd:1 ok");
    let motd = lab.sh("mocker-images inspect motd:1").succeeds().json();
    let layer = &motd[0]["layers"][1];
    let directory = layer["directory"].as_str().expect("a path");
    let blob = layer["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
    let blob = format!("$MOCKER_ROOT/image/blobs/sha256/{blob}");
    for (damage, says, repair) in [
        (
            format!("cp {blob} /run/blob; printf x | dd of={blob} bs=1 seek=20 conv=notrunc"),
            "holds sha256:",
            format!("cp /run/blob {blob}"),
        ),
        (format!("truncate -s 9 {blob}"), "has 9 bytes", format!("cp /run/blob {blob}")),
        (format!("rm {blob}"), "No such file", format!("cp /run/blob {blob}")),
        (format!("mv {directory} /run/layer"), "is not there", format!("mv /run/layer {directory}")),
        (
            format!("echo HELLO > {directory}/etc/motd"),
            "etc/motd",
            format!("echo hello > {directory}/etc/motd; touch -d @1700000000 {directory}/etc/motd"),
        ),
        (format!("chmod 600 {directory}/etc/motd"), "etc/motd", format!("chmod 644 {directory}/etc/motd")),
        (
            format!("touch {directory}/etc/more"),
            "etc/more",
            format!("rm {directory}/etc/more; touch -d @1700000000 {directory}/etc"),
        ),
    ] {
        lab.sh(&damage).succeeds();
        let out = lab.sh("mocker-images verify").fails(1).says(says);
        assert!(out.stderr.contains("docker.io/library/motd:1") && out.stdout.contains("base:latest ok"), "{out}");
        lab.sh(&repair).succeeds();
        lab.sh("mocker-images verify motd:1").succeeds();
    }
}

#[test]
fn prune_takes_what_nothing_needs_and_leaves_what_is_being_made() {
    let lab = lab("prune");
    let before = lab.snapshot();
    lab.sh("cd $MOCKER_ROOT; mkdir -p layers/sha256/0000/x tmp/999999999.1.0/y containers/left/upper; echo > image/blobs/sha256/1111").succeeds();
    let mut holder: Running = lab
        .shell(
            "exec 9>>$MOCKER_ROOT/locks/contents; flock --shared 9; echo held; sleep 1; ls $MOCKER_ROOT/layers/sha256",
        )
        .spawn();
    holder.wait_for("held");
    lab.sh("mocker-images prune").succeeds().says("freed");
    assert!(holder.wait().stdout.contains("0000"), "removed while a pull held the contents");
    lab.assert_same(&before);
    assert_eq!(layers(&lab), 2);
    assert!(!lab.root().join("image/blobs/sha256/1111").exists());
    lab.sh("mocker-images verify").succeeds();
}

#[test]
fn a_mounted_image_runs_under_another_runtime_and_goes_without_a_trace() {
    require("runc");
    let lab = lab("mount");
    let before = lab.snapshot();
    lab.sh("mkdir bundle && mocker-images get motd:1 | mocker-images mount --id lab > bundle/config.json").succeeds();
    assert_eq!(layers(&lab), 2);
    // The layers of a mounted image stay, whatever is removed.
    lab.sh("mocker-images rm motd:1 base").succeeds();
    assert_eq!(layers(&lab), 2);
    lab.sh("runc --root $PWD/runc run --bundle bundle one").succeeds().prints("hello\n");
    // runc has run the poststop hook: the mount has gone with the container.
    lab.assert_same(&before);
    lab.sh("mocker-images delete lab; mocker-images unmount lab").succeeds();
    lab.sh("mocker-images prune").succeeds();
    assert_eq!(layers(&lab), 0);
}

#[test]
fn what_is_written_stays_out_of_the_layers() {
    let lab = lab("write");
    lab.sh("for id in one two; do mocker-images get base | mocker-images mount --id $id > $id.json; done").succeeds();
    lab.sh("echo one > $MOCKER_ROOT/containers/one/rootfs/etc/motd; cat $MOCKER_ROOT/containers/two/rootfs/etc/motd")
        .succeeds()
        .prints("base\n");
    lab.sh("mocker-images get base | mocker-images mount --id one").fails(1).says("exists already");
    lab.sh("mocker-images delete one two && mocker-images verify").succeeds();
}

#[test]
fn a_mount_that_fails_undoes_itself_and_what_came_before() {
    let lab = lab("fail");
    let before = lab.snapshot();
    lab.sh("mocker-images mount --new").fails(1).says("names no layers");
    lab.sh("mocker-images get motd:1 > d.json; rm -r $MOCKER_ROOT/layers/sha256/*; mocker-images mount < d.json")
        .fails(1)
        .says("is not there");
    lab.sh("mocker-images get nginx | mocker-images mount").fails(1);
    lab.assert_same(&before);
}

#[test]
fn an_image_without_layers_is_mounted_empty() {
    let lab = lab("none");
    lab.sh("mocker-images get localhost:5000/team/none | mocker-images mount --id lab > d.json").succeeds();
    lab.sh("ls -A $MOCKER_ROOT/containers/lab/rootfs; mocker-images delete lab").succeeds();
}

#[test]
fn a_mount_killed_after_any_step_is_pruned() {
    let lab = lab("killed");
    lab.sh("mocker-images get motd:1 > d.json").succeeds();
    let make = "exec mocker-images mount --id lab --explain=json < d.json";
    let steps = steps::kill_at_each(&lab, make, "mocker-images prune", "mocker-images delete lab");
    assert!(steps > 12, "only {steps} steps were seen");
    lab.sh("mocker-images verify").succeeds();
}

#[test]
fn what_mocker_pull_unpacks_passes_verify_and_goes_without_a_rest() {
    let lab = Lab::new("pulled");
    lab.images(&["busybox", "layers", "zstd", "docker2"]); // a fix-up, whiteouts, hard links, zstd, docker's own types
    lab.sh("mocker-images verify").succeeds();
    lab.sh("mocker-images get layers | mocker-images mount --id lab > /dev/null; mocker-images delete lab").succeeds();
    lab.sh("mocker-images verify").succeeds(); // mounted and written, the layers are what they were
    lab.sh("mocker-images rm busybox layers zstd docker2").succeeds();
    let left = lab.sh("cd $MOCKER_ROOT && find . -type f ! -path './locks/*'").succeeds().stdout;
    let mut left: Vec<&str> = left.lines().collect();
    left.sort_unstable();
    assert_eq!(left, ["./image/index.json", "./image/oci-layout", "./index.copy", "./version"]);
}
