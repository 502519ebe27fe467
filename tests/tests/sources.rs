//! mocker-pull from where no registry is: layouts, archives of docker and skopeo, standard input; and several at once.

use std::fs;

use serde_json::Value;
use tests::{Lab, Output, project, require};

/// The layout of a demo image, and in the lab's directory the archives that skopeo makes of it.
fn lab(name: &str) -> Lab {
    require("skopeo");
    let lab = Lab::new(name);
    drop(lab.registry()); // the demo images are there from now on
    lab
}

fn layout(name: &str) -> String {
    project().join("target/images").join(name).display().to_string()
}

/// Pulls, and returns what was printed: a document a line.
fn documents(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect()
}

fn manifest_of(document: &Value) -> String {
    document["mocker"]["image"]["manifest"].as_str().expect("a digest").to_string()
}

/// Everything that a walk of the mounted image shows, content included.
fn walk(lab: &Lab, reference: &str) -> String {
    let script = format!(
        "set -e; mocker-images get {reference} | mocker-images mount --id walk >/dev/null
         cd $MOCKER_ROOT/containers/walk/rootfs
         find . -printf '%P %y %m %U %G %T@ %l\\n' | sort; find . -type f -printf '%i %p\\n' | sort -k2 | sort -suk1,1 | cut -d' ' -f2 | sort | xargs -r sha256sum
         cd /; mocker-images delete walk"
    );
    lab.sh(&script).succeeds().stdout
}

#[test]
fn a_layout_and_both_kinds_of_archive_give_the_same_files_as_the_registry() {
    let lab = lab("same");
    let registry = lab.registry();
    let reference = registry.reference("layers");
    lab.sh(&format!("mocker-pull -q {reference} >/dev/null")).succeeds();
    let expected = walk(&lab, &reference);
    assert!(expected.lines().count() > 10, "{expected}");

    let from = layout("layers");
    lab.sh(&format!(
        "skopeo copy -q oci:{from}:latest oci-archive:o.tar:v1 && skopeo copy -q oci:{from}:latest docker-archive:d.tar:me/it:v2"
    ))
    .succeeds();
    let cases = [
        (format!("oci:{from}"), "localhost/layers"),
        ("oci-archive:o.tar".into(), "localhost/o:v1"),
        ("oci-archive:o.tar:v1".into(), "localhost/o:v1"),
        ("docker-archive:d.tar".into(), "me/it:v2"),
        ("docker-archive:d.tar:me/it:v2".into(), "me/it:v2"),
        ("--as piped - <d.tar".into(), "piped"),
        ("--as piped:2 - <o.tar".into(), "piped:2"),
    ];
    for (place, name) in cases {
        // A store of its own each time: what is there already would not be read.
        let own =
            lab.sh("own=$(mktemp -d) && mount -t tmpfs none $own && echo $own").succeeds().stdout.trim().to_string();
        lab.sh(&format!("export MOCKER_ROOT={own}; mocker-pull -q {place} > doc && mocker-images verify")).succeeds();
        let sub = format!("export MOCKER_ROOT={own}; ");
        let script = format!(
            "{sub}set -e; mocker-images get {name} | mocker-images mount --id walk >/dev/null
             cd $MOCKER_ROOT/containers/walk/rootfs
             find . -printf '%P %y %m %U %G %T@ %l\\n' | sort; find . -type f -printf '%i %p\\n' | sort -k2 | sort -suk1,1 | cut -d' ' -f2 | sort | xargs -r sha256sum
             cd /; mocker-images delete walk; umount {own}; rmdir {own}"
        );
        let seen = lab.sh(&script).succeeds().stdout;
        assert_eq!(seen, expected, "{place}");
    }
}

#[test]
fn digests_are_kept_from_layouts_and_made_from_docker_archives() {
    let lab = lab("digests");
    let from = layout("tool");
    let document = lab.sh(&format!("mocker-pull -q oci:{from}")).succeeds().json();
    let own = fs::read(format!("{from}/index.json")).expect("the layout's index");
    let index: Value = serde_json::from_slice(&own).expect("JSON");
    assert_eq!(manifest_of(&document), index["manifests"][0]["digest"].as_str().expect("a digest"));

    // docker's image id is the config's digest: it must survive, whatever carries the image.
    lab.sh(&format!("skopeo copy -q oci:{from}:latest docker-archive:d.tar:tool:x")).succeeds();
    let saved = lab.sh("mocker-pull -q docker-archive:d.tar").succeeds().json();
    let id = lab.sh("tar xOf d.tar manifest.json | jq -r .[0].Config").succeeds().stdout;
    let config = saved["mocker"]["image"]["config"].as_str().expect("a digest");
    assert_eq!(format!("{}.json", config.trim_start_matches("sha256:")), id.trim());
    // And what was made is an image for others: skopeo reads it from the store.
    lab.sh("skopeo inspect oci:$MOCKER_ROOT/image:docker.io/library/tool:x | jq -r .Architecture")
        .succeeds()
        .prints("amd64");
}

#[test]
fn archives_come_compressed_through_a_pipe_and_with_several_images() {
    let lab = lab("piped");
    let (busybox, tool) = (layout("busybox"), layout("tool"));
    lab.sh(&format!(
        "skopeo copy -q oci:{busybox}:latest docker-archive:b.tar:b:1 && skopeo copy -q oci:{tool}:latest oci:both:two &&
         skopeo copy -q oci:{busybox}:latest oci:both:one"
    ))
    .succeeds();
    for filter in ["cat", "gzip", "zstd -q", "dd bs=100 status=none"] {
        lab.sh(&format!("{filter} < b.tar | mocker-pull -q - | jq -r .mocker.image.reference"))
            .succeeds()
            .prints("docker.io/library/b:1");
    }
    lab.sh("ls $MOCKER_ROOT/tmp | wc -l").prints("0");

    let output = lab.sh("mocker-pull -q oci:both").succeeds();
    let names: Vec<_> = documents(&output).iter().map(|it| it["mocker"]["image"]["reference"].clone()).collect();
    assert_eq!(names, ["localhost/both:two", "localhost/both:one"]);
    lab.sh("mocker-pull -q --as just oci:both:one | jq -r .mocker.image.reference").prints("library/just:latest");
    lab.sh("mocker-pull -q --as just oci:both").fails(1).says("cannot give one name to 2 images").says("two, one");
    lab.sh("mocker-pull -q oci:both:three").fails(1).says("cannot find image 'three'").says("it has two, one");
    lab.sh("mocker-images verify").succeeds();
}

/// docker before 25 writes a directory a layer, and a link for one that an image has twice.
#[test]
fn what_old_dockers_write_is_read() {
    let lab = lab("old");
    lab.sh(
        r#"set -e
        mkdir -p save/aaaa save/bbbb tree/etc; echo one > tree/etc/one
        tar --create --numeric-owner --owner 0 --group 0 --mtime @1 -C tree . > save/aaaa/layer.tar
        ln -s ../aaaa/layer.tar save/bbbb/layer.tar
        diff=sha256:$(sha256sum < save/aaaa/layer.tar | cut -c-64)
        echo '{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["'$diff'","'$diff'"]}}' > config
        id=$(sha256sum < config | cut -c-64); mv config save/$id.json
        echo '[{"Config":"'$id'.json","RepoTags":["old:1","old:2"],"Layers":["aaaa/layer.tar","bbbb/layer.tar"]}]' > save/manifest.json
        echo '{"old":{"1":"bbbb"}}' > save/repositories
        tar -C save -cf old.tar ."#,
    )
    .succeeds();
    let output = lab.sh("mocker-pull -q - < old.tar").succeeds();
    assert_eq!(documents(&output).len(), 2);
    lab.sh("mocker-images verify").succeeds().prints("old:1").prints("old:2");

    // Its parts may be missing or not what they are said to be.
    lab.sh("tar --delete -f old.tar ./aaaa/layer.tar; mocker-pull -q docker-archive:old.tar")
        .fails(1)
        .says("\"aaaa/layer.tar\" is named in it, but not there");
    lab.sh("echo more >> save/aaaa/layer.tar; tar -C save -cf old.tar .; rm -r $MOCKER_ROOT; mocker-pull -q docker-archive:old.tar")
        .fails(1)
        .says("its digest is wrong");
    lab.sh("echo '[' > save/manifest.json; tar -C save -cf old.tar .; mocker-pull -q - < old.tar")
        .fails(1)
        .says("manifest.json");
    lab.sh("mocker-images --json | jq length").prints("0");
}

#[test]
fn what_is_no_image_is_refused_with_what_to_try() {
    let lab = lab("refused");
    lab.sh("mkdir empty; seq 1000 > text; tar cf plain.tar text; head -c 700 plain.tar > cut.tar").succeeds();
    let cases = [
        ("oci:empty", "it has no index.json"),
        ("oci:absent", "it has no index.json"),
        ("oci-archive:plain.tar", "it has no oci-layout"),
        ("docker-archive:plain.tar", "it has no manifest.json"),
        ("- < plain.tar", "it has no oci-layout or manifest.json"),
        ("- < /dev/null", "it is empty"),
        ("- < text", "as an archive"),
        ("oci-archive:cut.tar", "it ends in the middle of a file"),
        ("oci-archive:empty", "it is a directory"),
        ("docker-archive:absent.tar", "No such file or directory"),
    ];
    for (place, says) in cases {
        lab.sh(&format!("mocker-pull {place}")).fails(1).says(says);
    }
    lab.sh("mocker-pull oci:").fails(2).says("DIR[:TAG]");
    lab.sh("mocker-pull ./text").fails(2).says("docker-archive:./text");

    // A layout that lost a part, and one whose part was changed.
    let from = layout("busybox");
    lab.sh(&format!("cp -r {from} lost; cd lost/blobs/sha256; rm $(ls -S | head -1)")).succeeds();
    lab.sh("mocker-pull oci:lost").fails(1).says("cannot find blob").says("oci:lost");
    lab.sh(&format!("cp -r {from} bad; cd bad/blobs/sha256; echo x >> $(ls -S | head -1)")).succeeds();
    lab.sh("mocker-pull oci:bad").fails(1).says("digest is wrong").says("damaged on its way here");
    lab.sh("mocker-images --json | jq length; ls $MOCKER_ROOT/tmp $MOCKER_ROOT/partial | grep -c .").prints("0\n2");
}

#[test]
fn several_images_are_pulled_at_once_and_a_layer_they_share_once() {
    let lab = Lab::new("several");
    let registry = lab.registry();
    let [debian, nginx, busybox] = ["debian", "nginx", "busybox"].map(|name| registry.reference(name));
    let output = lab.sh(&format!("mocker-pull {nginx} {debian} {busybox}")).succeeds();
    let names: Vec<_> = documents(&output).iter().map(|it| it["mocker"]["image"]["reference"].clone()).collect();
    assert_eq!(names, [nginx.clone(), debian.clone(), busybox.clone()].map(|name| format!("{name}:latest")));
    // nginx stands on debian: the layer that both have came once.
    let base = lab.sh(&format!("mocker-images inspect {debian} | jq -r .[0].layers[0].digest")).stdout;
    let short = base.trim().trim_start_matches("sha256:").get(..12).expect("a digest");
    let done = output.stderr.lines().filter(|line| line.contains(short) && line.ends_with("done")).count();
    assert_eq!(done, 1, "{}", output.stderr);
    assert!(output.stderr.contains(&format!("{short} here already")), "{}", output.stderr);

    // One that fails does not take the others with it.
    let output = lab
        .sh(&format!("mv $MOCKER_ROOT $MOCKER_ROOT.before; mocker-pull --jobs 1 {busybox} {busybox}:nosuch {debian}"));
    assert_eq!(documents(&output).len(), 2);
    output.fails(1).says("nosuch");
    lab.sh("mocker-images verify").succeeds();
}

/// A connection that breaks for good leaves what came; the next pull asks for the rest only, and checks the whole.
#[test]
fn a_blob_that_broke_off_goes_on_in_the_next_pull() {
    let lab = Lab::new("goes-on");
    let registry = lab.registry();
    let reference = registry.reference("busybox");
    let digest = lab
        .sh(&format!(
            "skopeo inspect --raw --tls-verify=false docker://{reference} | jq -r '.layers|max_by(.size).digest'"
        ))
        .succeeds()
        .stdout
        .trim()
        .to_string();
    let hex = digest.trim_start_matches("sha256:");
    let blob = fs::read(registry.blob(&digest)).expect("the blob");

    // As a killed pull leaves it.
    let place = |bytes: &[u8]| {
        fs::remove_dir_all(lab.root()).ok();
        fs::create_dir_all(lab.root().join("partial")).expect("the store");
        fs::write(lab.root().join("partial").join(hex), bytes).expect("the store");
    };
    let pull = || lab.sh(&format!("mocker-pull --explain {reference} >/dev/null"));
    place(&blob[..blob.len() - 1000]);
    pull().succeeds().says(&format!("Range: bytes={}-", blob.len() - 1000));
    lab.sh("mocker-images verify; ls $MOCKER_ROOT/partial | grep -c .").prints("ok\n0");

    // All of it is there; only the digest has to be checked.
    place(&blob);
    let output = pull().succeeds();
    assert!(!output.stderr.contains(&format!("blobs/{digest}")), "{}", output.stderr);

    // What was left may be damaged: then all of it comes again.
    let mut damaged = blob[..blob.len() / 2].to_vec();
    damaged[1000] ^= 1;
    for bytes in [&damaged[..], &vec![0; blob.len() + 7][..]] {
        place(bytes);
        pull().succeeds();
        lab.sh("mocker-images verify; ls $MOCKER_ROOT/partial | grep -c .").prints("ok\n0");
    }
}
