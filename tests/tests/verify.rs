//! Damage of every kind is found, named, and repaired by the pipe with nothing fetched but what is damaged.

use std::fs;

use serde_json::Value;
use tests::scripted::{Asked, Image, Scripted};
use tests::{Lab, Output};

/// A lab with one image, from a registry that counts what it is asked for.
struct Stored {
    lab: Lab,
    server: Scripted,
    image: Image,
}

impl Stored {
    fn new(name: &str, image: &str) -> Stored {
        let lab = Lab::new(name);
        let image = Image::demo(&lab, image);
        let server = Scripted::start(&lab, &image, |_, answer| answer);
        lab.tool("mocker-pull").arg(server.reference()).run().succeeds();
        lab.sh("mocker-images verify").succeeds();
        Stored { lab, server, image }
    }

    /// Sets what the scripts below use: the store, a blob, a layer of it, its notes, the others.
    fn sh(&self, script: &str) -> Output {
        let layer = self.layer();
        let hex =
            |key: &str| layer[key].as_str().and_then(|digest| digest.rsplit(':').next()).expect("a digest").to_string();
        let manifest = self.image.manifest();
        let config = manifest["config"]["digest"].as_str().expect("a digest")[7..].to_string();
        self.lab.sh(&format!(
            "set -e; blobs=$MOCKER_ROOT/image/blobs/sha256
             blob=$blobs/{}; layer=$MOCKER_ROOT/layers/sha256/{}; manifest=$blobs/{}; config=$blobs/{config}
             {script}",
            hex("digest"),
            hex("diff_id"),
            &self.image.digest()[7..],
        ))
    }

    /// The image's second layer.
    fn layer(&self) -> Value {
        let inspected = self.lab.sh(&format!("mocker-images inspect {}", self.server.reference())).succeeds().json();
        inspected[0]["layers"][1].clone()
    }

    fn findings(&self) -> Vec<Value> {
        let findings = self.lab.sh("mocker-images verify --json").json();
        let schema: Value = serde_json::from_str(include_str!("../../mocker-images/verify.schema.json")).expect("JSON");
        let schema = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> = schema.iter_errors(&findings).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {findings:#}");
        findings.as_array().expect("an array").clone()
    }

    /// Repairs by the pipe; returns the digests of the blobs, and `manifest`, that the registry was asked for.
    fn repair(&self) -> Vec<String> {
        let before = self.server.log().len();
        self.lab.sh("mocker-images verify --json | mocker-pull --repair").succeeds().says("repaired");
        let log = self.server.log().split_off(before);
        let asked = log.iter().filter(|asked| asked.path != "/v2/").map(|asked| match asked.is_manifest() {
            true => "manifest".to_string(),
            false => asked.path.rsplit('/').next().expect("a path").to_string(),
        });
        asked.collect()
    }
}

#[test]
fn damage_of_every_kind_is_named_and_only_what_is_damaged_is_fetched() {
    let stored = Stored::new("damage", "layers");
    let blob = stored.layer()["digest"].as_str().expect("a digest").to_string();
    let config = stored.image.manifest()["config"]["digest"].as_str().expect("a digest").to_string();
    let nothing: Vec<String> = Vec::new();
    let file = "file=$(find $layer -type f | sort | head -1); [ -n \"$file\" ]";
    let cases: Vec<(String, &str, &str, &str, Vec<String>)> = vec![
        // damage, what it is, what is said of it, what repairs it, what that asks the registry for
        (
            "printf x | dd of=$blob bs=1 seek=20 conv=notrunc".into(),
            "blob",
            "holds sha256:",
            "fetch",
            vec![blob.clone()],
        ),
        ("truncate -s 9 $blob".into(), "blob", "has 9 bytes, not", "fetch", vec![blob.clone()]),
        ("rm $blob".into(), "blob", "cannot be read: No such file", "fetch", vec![blob.clone()]),
        ("rm -r $layer".into(), "layer", "is not there", "unpack", nothing.clone()),
        (format!("{file}; rm $file"), "layer", "is missing", "unpack", nothing.clone()),
        (
            format!(
                "{file}; touch -r $file /run/t; cp $file /run/f; tr '\\0-\\377' '\\1-\\377\\0' < /run/f > $file; touch -r /run/t $file"
            ),
            "layer",
            "has other contents",
            "unpack",
            nothing.clone(),
        ),
        (format!("{file}; chmod 601 $file"), "layer", "has mode 601", "unpack", nothing.clone()),
        (format!("{file}; chown 7:8 $file"), "layer", "belongs to 7:8", "unpack", nothing.clone()),
        (format!("{file}; touch $file"), "layer", "is of @", "unpack", nothing.clone()),
        (
            format!("{file}; setfattr -n user.x -v y $file"),
            "layer",
            "has an attribute user.x",
            "unpack",
            nothing.clone(),
        ),
        (
            "touch -r $layer /run/t; touch $layer/more; touch -r /run/t $layer".into(),
            "layer",
            "more is not in its archive",
            "unpack",
            nothing.clone(),
        ),
        ("rm $layer.json".into(), "notes", "are not there", "unpack", nothing.clone()),
        ("echo '{' > $layer.json".into(), "notes", "do not read", "unpack", nothing.clone()),
        ("rm -r $MOCKER_ROOT/fixups/sha256/*".into(), "fixup", "is not there", "rebuild", nothing.clone()),
        (
            "touch $(echo $MOCKER_ROOT/fixups/sha256/*)/more".into(),
            "fixup",
            "more does not belong there",
            "rebuild",
            nothing.clone(),
        ),
        ("echo garbage > $MOCKER_ROOT/image/index.json".into(), "index", "does not read", "relist", nothing.clone()),
        ("rm $MOCKER_ROOT/image/index.json".into(), "index", "is not there", "relist", nothing.clone()),
        (
            "sed -i 's/\"size\":[0-9]*/\"size\":1/' $MOCKER_ROOT/image/index.json".into(),
            "index",
            "has 1 bytes, not",
            "relist",
            nothing.clone(),
        ),
        (
            "sed -i 's/\"os\":\"linux\"/\"os\":\"plan9\"/' $MOCKER_ROOT/image/index.json".into(),
            "index",
            "os is \"plan9\"",
            "relist",
            nothing.clone(),
        ),
        (
            "sed -i 's/sha256:/sha255:/' $MOCKER_ROOT/image/index.json".into(),
            "index",
            "sha255",
            "relist",
            nothing.clone(),
        ),
        ("echo '{}' > $MOCKER_ROOT/image/oci-layout".into(), "layout", "imageLayoutVersion", "write", nothing.clone()),
        ("echo '{}' > $manifest".into(), "manifest", "holds sha256:", "fetch", vec!["manifest".into()]),
        ("rm $config".into(), "config", "cannot be read", "fetch", vec![config.clone()]),
    ];
    for (damage, what, says, repair, asks) in cases {
        stored.sh(&damage).succeeds();
        let findings = stored.findings();
        let found = findings.iter().find(|finding| finding["what"] == what);
        let found = found.unwrap_or_else(|| panic!("{damage}: no {what} among {findings:#?}"));
        assert_eq!(findings.len(), 1, "{damage}: {findings:#?}");
        assert!(found["damage"].to_string().replace("\\\"", "\"").contains(says), "{damage}: {found:#}");
        assert_eq!(found["repair"], repair, "{damage}");
        let is_needed = what == "layout" || found["images"].to_string().contains(&stored.server.reference());
        assert!(is_needed, "{damage}: {found:#}");
        stored.lab.sh("mocker-images verify").fails(1).says(says);
        let asked: Vec<String> = stored.repair();
        assert_eq!(asked, asks, "{damage}");
        stored.lab.sh("mocker-images verify").succeeds();
    }
    assert_eq!(stored.lab.sh("ls -A $MOCKER_ROOT/tmp").stdout, "");
    stored.lab.sh("mocker-images verify --json | mocker-pull --repair").succeeds().says("nothing is damaged");
    assert_eq!(stored.lab.sh("mocker-images verify --json").succeeds().json(), serde_json::json!([]));
}

#[test]
fn several_damages_at_once_are_repaired_in_one_go() {
    let stored = Stored::new("several", "layers");
    stored.sh("rm $blob; rm -r $layer; rm $layer.json; rm $config; echo > $MOCKER_ROOT/image/oci-layout").succeeds();
    // What a damaged config hides comes to light when it is repaired.
    assert_eq!(stored.repair().len(), 1);
    assert_eq!(stored.findings().len(), 3);
    assert_eq!(stored.repair().len(), 1, "blob, files and notes come in one pass");
    stored.lab.sh("mocker-images verify").succeeds();
}

#[test]
fn a_quick_check_sees_what_is_missing_or_cut() {
    let stored = Stored::new("quick", "layers");
    for (damage, says) in [
        ("truncate -s 9 $blob", "has 9 bytes"),
        ("mv $layer /run/layer; mkdir -p /run/layer", "is not there"),
        ("rm $layer.json", "are not there"),
    ] {
        stored.sh(damage).succeeds();
        stored.lab.sh("mocker-images verify --quick").fails(1).says(says);
        stored.repair();
        stored.lab.sh("mocker-images verify --quick").succeeds();
    }
}

#[test]
fn a_layer_under_a_container_is_not_replaced() {
    let stored = Stored::new("inuse", "layers");
    let reference = stored.server.reference();
    stored.lab.sh(&format!("mocker-images get {reference} | mocker-images mount --id web > document")).succeeds();
    stored.sh("touch $layer/more").succeeds();
    let refused = stored.lab.sh("mocker-images verify --json | mocker-pull --repair").fails(1);
    refused.says("web stands on it").says("mocker-images delete");
    stored.sh("test -e $layer/more").succeeds();
    stored.lab.sh("mocker-images delete web").succeeds();
    // One that runs, its overlay in a mount namespace of its own.
    let mut running = stored
        .lab
        .shell(&format!("mocker-images get {reference} | mocker-exec --id db -- sh -c 'echo up; sleep 60'"))
        .spawn();
    running.wait_for("up");
    stored.lab.sh("mocker-images verify --json | mocker-pull --repair").fails(1).says("db stands on it");
    drop(running);
    stored
        .lab
        .sh("until mocker-exec prune && mocker-images prune && ! grep -q containers/db /proc/*/mountinfo; do sleep 0.1; done")
        .succeeds();
    assert_eq!(stored.repair(), Vec::<String>::new());
    stored.lab.sh("mocker-images verify").succeeds();
}

#[test]
fn what_cannot_be_repaired_says_why_and_what_to_do() {
    let stored = Stored::new("hopeless", "tool");
    let lab = &stored.lab;
    lab.sh("mocker-images verify --json >/dev/null; mocker-pull --repair < /dev/null").fails(1);
    lab.sh("echo nonsense | mocker-pull --repair").fails(1).says("cannot read the findings");
    lab.sh("mocker-pull --repair nginx < /dev/null").fails(2);
    // An image that no registry has.
    let reference = stored.server.reference();
    lab.sh(&format!("mocker-images tag {reference} localhost:1/mine && mocker-images rm {reference}")).succeeds();
    stored_damage(lab);
    let out = lab.sh("mocker-images verify --json | mocker-pull --repair").fails(1);
    out.says("cannot repair layer").says("came from an archive: mocker-images rm localhost:1/mine:latest");
    // Both the list of images and its copy are gone.
    lab.sh("echo x > $MOCKER_ROOT/image/index.json; echo x > $MOCKER_ROOT/index.copy").succeeds();
    lab.sh("mocker-images verify --json | mocker-pull --repair")
        .fails(1)
        .says("neither reads")
        .says("mocker-pull each");
    assert_eq!(fs::read_to_string(lab.root().join("image/index.json")).expect("the index"), "x\n");
}

fn stored_damage(lab: &Lab) {
    lab.sh("largest=$(ls -S $MOCKER_ROOT/image/blobs/sha256/* | head -1); truncate -s 5 $largest").succeeds();
}

#[test]
fn a_file_that_no_image_needs_is_named_if_it_is_not_what_it_says() {
    let stored = Stored::new("stray", "tool");
    stored.sh("echo x > $blobs/readme; cp $blob $blobs/$(printf %064d 7)").succeeds();
    let findings = stored.findings();
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding["what"] == "stray" && finding["repair"] == "prune"));
    stored.lab.sh("mocker-images verify --json | mocker-pull --repair").succeeds().says("mocker-images prune");
    stored.lab.sh("mocker-images prune && mocker-images verify").succeeds();
    assert_eq!(stored.server.count(Asked::is_blob), 3, "config and two layers");
}
