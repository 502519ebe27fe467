//! mocker-images save: what others read of it.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::{Lab, Running, require};

/// A lab with these demo images in its store.
fn lab(name: &str, images: &[&str]) -> Lab {
    let lab = Lab::new(name);
    lab.images(images);
    lab
}

fn digest(lab: &Lab, image: &str) -> String {
    let image = lab.sh(&format!("mocker-images inspect {image}")).succeeds().json();
    image[0]["digest"].as_str().expect("text").into()
}

fn save(lab: &Lab, args: &str) {
    lab.sh(&format!("mocker-images save {args}")).succeeds().says("saved docker.io/library/");
}

/// The digest of the manifest that skopeo finds there.
fn found(lab: &Lab, source: &str) -> String {
    let manifest = lab.sh(&format!("skopeo inspect --raw {source} | sha256sum")).succeeds().stdout;
    format!("sha256:{}", manifest.split(' ').next().expect("a digest"))
}

/// The uncompressed layers that skopeo finds there.
fn diff_ids(lab: &Lab, source: &str) -> Value {
    lab.sh(&format!("skopeo inspect --config {source}")).succeeds().json()["rootfs"]["diff_ids"].clone()
}

#[test]
fn skopeo_reads_every_form_and_the_digests_are_kept() {
    require("skopeo");
    let lab = lab("skopeo", &["busybox", "layers", "zstd"]);
    for image in ["busybox", "layers", "zstd"] {
        save(&lab, &format!("{image} -o plain.tar"));
        save(&lab, &format!("{image} -o oci-archive:oci.tar"));
        save(&lab, &format!("{image} -o oci-archive:tag.tar:v1.2"));
        save(&lab, &format!("{image} -o docker-archive:docker.tar"));
        save(&lab, &format!("{image} --output oci:layout"));
        save(&lab, &format!("{image} --output oci:layout:v1"));
        lab.sh(&format!("mocker-images save {image} > pipe.tar && cmp pipe.tar plain.tar")).succeeds();
        lab.sh(&format!("mocker-images save {image} -o - | cmp - plain.tar")).succeeds();

        let own = lab.sh(&format!("mocker-images inspect {image}")).succeeds().json()[0].clone();
        let name = format!("docker.io/library/{image}:latest");
        for source in [
            "oci-archive:plain.tar".into(),
            "oci-archive:plain.tar:latest".into(),
            "oci-archive:oci.tar".into(),
            format!("oci-archive:oci.tar:{name}"),
            "oci-archive:tag.tar:v1.2".into(),
            "oci:layout:v1".into(),
            format!("oci:layout:{name}"),
        ] {
            assert_eq!(found(&lab, &source), own["digest"], "{source}");
        }
        for source in ["docker-archive:plain.tar", "docker-archive:docker.tar", "oci:layout:v1", "oci-archive:oci.tar"]
        {
            assert_eq!(diff_ids(&lab, source), own["config"]["rootfs"]["diff_ids"], "{source}");
            lab.sh(&format!("rm -rf copy; skopeo copy -q {source} dir:copy")).succeeds();
        }
        lab.sh(&format!("skopeo inspect docker-archive:plain.tar:{image}:latest")).succeeds();
    }
    let list = lab.sh("jq -r '.manifests[].annotations[\"org.opencontainers.image.ref.name\"]' layout/index.json");
    let names =
        "docker.io/library/busybox:latest\ndocker.io/library/layers:latest\ndocker.io/library/zstd:latest\nv1\n";
    assert_eq!(list.succeeds().stdout, names, "an image of the same name is replaced, others stay");
    lab.sh("find layout -name '.*' | grep .").fails(1);
}

#[test]
fn umoci_unpacks_a_layout_also_of_an_image_with_docker_s_types() {
    require("umoci");
    let lab = lab("umoci", &["docker2", "busybox"]);
    lab.sh("mocker-images save docker2 busybox -o oci:layout").succeeds().says("docker2:latest has docker's types");
    for name in ["docker2", "busybox"] {
        lab.sh(&format!("umoci --log error unpack --image layout:docker.io/library/{name}:latest {name}")).succeeds();
        assert_eq!(found(&lab, &format!("oci:layout:docker.io/library/{name}:latest")).len(), 71);
    }
    lab.sh("diff -r docker2/rootfs busybox/rootfs").succeeds();
    // Docker's own form keeps them as they are.
    save(&lab, "docker2 -o plain.tar");
    let index = lab.sh("tar xOf plain.tar index.json").succeeds().json();
    assert_eq!(index["manifests"][0]["digest"], digest(&lab, "docker2"));
}

#[test]
fn podman_loads_one_image_and_several() {
    require("podman");
    let lab = lab("podman", &["busybox", "docker2", "layers", "zstd"]);
    let podman = "podman --root $HOME/podman --runroot $HOME/run --storage-driver vfs";
    lab.sh(&format!("mocker-images save zstd | {podman} load")).succeeds().prints("docker.io/library/zstd:latest");
    lab.sh(&format!("mocker-images save docker2 | {podman} load"))
        .succeeds()
        .prints("docker.io/library/docker2:latest");
    let all = lab.sh(&format!("mocker-images save busybox layers | {podman} load")).succeeds();
    let all = all.prints("docker.io/library/busybox:latest").prints("docker.io/library/layers:latest");
    assert!(!all.stdout.contains("localhost/"), "{all}");
    lab.sh(&format!(
        "mocker-images save layers -o docker-archive:old.tar && {podman} rmi -af && {podman} load -i old.tar && \
         m=$({podman} image mount layers) && chroot $m /bin/check"
    ))
    .succeeds()
    .prints("ok a hard link");
}

/// Docker's daemon in the lab, without a network of its own.
fn dockerd(lab: &Lab) -> Running {
    require("dockerd");
    let mut daemon = lab
        .shell(
            "mkdir -p $HOME/d; exec dockerd --data-root $HOME/d/data --exec-root $HOME/d/exec --pidfile $HOME/d/pid \
             -H unix://$HOME/d/socket --iptables=false --ip6tables=false --bridge=none",
        )
        .timeout(Duration::from_secs(120))
        .spawn();
    daemon.wait_for("API listen on");
    daemon
}

#[test]
fn docker_loads_what_is_saved_and_saves_it_again() {
    let lab = lab("docker", &["docker2", "zstd", "busybox"]);
    let daemon = dockerd(&lab);
    let docker = "docker -H unix://$HOME/d/socket";
    // What is committed here is an image there too.
    lab.sh("mocker-images get busybox | mocker-images mount --id lab > d.json && cd $MOCKER_ROOT/containers/lab/rootfs && \
            truncate -s 9M hole && rm bin/cat && ln bin/busybox second && mocker-images commit lab mine && mocker-images delete lab")
        .succeeds();
    let loaded = lab.sh(&format!("mocker-images save busybox docker2 mine | {docker} load")).succeeds();
    for name in ["busybox", "docker2", "mine"] {
        assert!(loaded.stdout.contains(&format!("Loaded image: {name}:latest")), "{loaded}");
        let config = lab.sh(&format!("mocker-images inspect {name}")).succeeds().json()[0]["config_digest"].clone();
        let id = lab.sh(&format!("{docker} image inspect -f '{{{{.Id}}}}' {name}")).succeeds().stdout;
        assert_eq!(id.trim(), config, "docker's id of an image is its config's digest");
    }
    lab.sh(&format!("{docker} save mine > again.tar && mkdir again && tar xf again.tar -C again")).succeeds();
    lab.sh("mocker-images save zstd -o zstd.tar").succeeds().says("docker before 23 cannot load");
    lab.sh(&format!("mocker-images save zstd -o docker-archive:zstd.tar && {docker} load -i zstd.tar")).succeeds();
    drop(daemon);
}

#[test]
fn several_images_share_their_layers_and_the_archive_depends_on_nothing_else() {
    let lab = lab("shared", &["busybox", "layers"]);
    lab.sh("mocker-images tag busybox mine/two:2 && mocker-images save busybox layers mine/two:2 -o a.tar").succeeds();
    let names = lab.sh("tar tf a.tar").succeeds().stdout;
    let mut unique: Vec<&str> = names.lines().collect();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.lines().count(), "{names}");
    let docker = lab.sh("tar xOf a.tar manifest.json").succeeds().json();
    let tags = serde_json::json!(["docker.io/library/busybox:latest", "docker.io/mine/two:2"]);
    assert_eq!((docker.as_array().map(Vec::len), &docker[0]["RepoTags"]), (Some(2), &tags));
    assert_eq!(docker[0]["Layers"][0], docker[1]["Layers"][0]);

    lab.sh(
        "touch $MOCKER_ROOT/image/blobs/sha256/*; mocker-images rm mine/two:2; mocker-images tag busybox mine/two:2",
    )
    .succeeds();
    lab.sh("umask 077; mocker-images save busybox layers mine/two:2 -o b.tar && cmp a.tar b.tar").succeeds();
    let modes = lab.sh("stat -c %a a.tar b.tar").succeeds().stdout;
    assert_eq!(modes, "644\n600\n", "the umask is the user's");
}

#[test]
fn what_is_damaged_does_not_leave() {
    let lab = lab("damaged", &["busybox", "docker2"]);
    let image = lab.sh("mocker-images inspect busybox").succeeds().json()[0].clone();
    let path = |digest: &Value| {
        format!("$MOCKER_ROOT/image/blobs/sha256/{}", digest.as_str().expect("text").trim_start_matches("sha256:"))
    };
    let [layer, config, manifest] =
        [&image["manifest"]["layers"][0]["digest"], &image["config_digest"], &image["digest"]].map(path);
    save(&lab, "docker2 -o oci:before");
    for (part, damage) in [
        (&layer, "printf x | dd of=$blob bs=1 seek=9000 conv=notrunc status=none"),
        (&layer, "truncate -s -1 $blob"),
        (&layer, "rm $blob"),
        (&config, "printf ' ' >> $blob"),
        (&manifest, "printf ' ' >> $blob"),
    ] {
        lab.sh(&format!("blob={part}; cp $blob kept; {damage}")).succeeds();
        for form in ["plain.tar", "oci:new", "oci-archive:o.tar", "docker-archive:d.tar"] {
            let out = lab.sh(&format!("mocker-images save busybox -o {form}")).fails(1).says("cannot save");
            let out = out.says("mocker-images verify");
            assert!(!out.stderr.contains("saved"), "{out}");
        }
        let piped = lab.sh("mocker-images save busybox > pipe.tar").fails(1);
        assert!(piped.stderr.contains("cannot save"), "{piped}");
        lab.sh("ls -A . new/blobs/sha256 2>/dev/null | grep -e '[.]tar' -e index | grep -v pipe.tar").fails(1);
        lab.sh(&format!("cp kept {part}; rm -rf new")).succeeds();
    }
    // A layout that was there is what it was.
    lab.sh(&format!(
        "printf x | dd of={layer} bs=1 seek=9000 conv=notrunc status=none; cp before/index.json kept.json"
    ))
    .succeeds();
    lab.sh("rm before/blobs/sha256/$(jq -r .layers[0].digest before/blobs/sha256/$(jq -r .manifests[0].digest before/index.json | cut -c8-) | cut -c8-)")
        .succeeds();
    lab.sh("mocker-images save busybox -o oci:before").fails(1);
    lab.sh("cmp before/index.json kept.json").succeeds();
}

#[test]
fn a_reader_that_leaves_and_a_full_disk_are_said_in_a_line_and_nothing_half_stays() {
    let lab = lab("full", &["debian"]);
    let out = lab.sh("(mocker-images save debian; echo status $? >&2) | head -c 100000 > /dev/null");
    assert_eq!(out.stderr, "mocker-images: cannot write the archive: Broken pipe (EPIPE)\nstatus 1\n");
    lab.sh("mkdir small && mount -t tmpfs -o size=3M none small && echo old > small/there.tar").succeeds();
    for form in ["small/new.tar", "small/there.tar", "oci-archive:small/new.tar", "docker-archive:small/new.tar"] {
        lab.sh(&format!("mocker-images save debian -o {form}")).fails(1).says("No space left on device");
        assert_eq!(lab.sh("ls -A small; cat small/there.tar").succeeds().stdout, "there.tar\nold\n", "{form}");
    }
    lab.sh("mocker-images save debian -o oci:small/layout").fails(1).says("No space left on device");
    lab.sh("ls -A small/layout/blobs/sha256 | grep -v '^[0-9a-f]\\{64\\}$'; test -e small/layout/index.json").fails(1);
    lab.sh("timeout -s KILL 0.05 mocker-images save debian -o killed.tar; ls -A | grep killed").fails(1);
    lab.sh("umount small").succeeds();
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let lab = lab("refused", &["hello-world"]);
    lab.sh("mkdir full && touch full/file real.tar; ln -s real.tar link.tar").succeeds();
    for (args, says) in [
        ("nosuch -o x.tar", "no image nosuch here"),
        ("hello-world nosuch -o x.tar", "no image nosuch here"),
        ("hello-world -o full", "it is a directory"),
        ("hello-world -o nowhere/x.tar", "nowhere"),
        ("hello-world -o oci:full", "neither empty nor an image layout"),
        ("hello-world -o oci:$MOCKER_ROOT/image", "the store's own layout"),
    ] {
        lab.sh(&format!("mocker-images save {args}")).fails(1).says(says);
    }
    for (args, says) in
        [("-o x", "REF"), ("hello-world -o docker://x", "no form"), ("hello-world -o oci:x:-", "cannot name")]
    {
        lab.sh(&format!("mocker-images save {args}")).fails(2).says(says);
    }
    lab.sh("ls -A | grep x").fails(1);
    let mut terminal = lab.terminal("mocker-images save hello-world; echo end", 24, 80);
    terminal.wait_for("end\r");
    assert!(terminal.screen().contains("cannot save to a terminal"), "{}", terminal.screen());

    // A link's target is replaced, not the link; a fifo is written into.
    save(&lab, "hello-world -o link.tar");
    assert!(fs::symlink_metadata(lab.work().join("link.tar")).expect("it is there").is_symlink());
    lab.sh("test -s real.tar && mkfifo fifo && (cmp real.tar fifo & mocker-images save hello-world -o fifo; wait $!)")
        .succeeds();
}
