//! What flows through the pipe is an OCI runtime configuration by the published schema, whatever stage it comes from.

use std::fs;
use std::path::Path;

use jsonschema::{Draft, Resource, Validator};
use serde_json::Value;
use tests::Lab;

/// The specification's own schema, as Debian ships it.
const SCHEMA: &str = "/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema";

fn schema() -> Validator {
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a file of the schema")).expect("the schema is JSON")
    };
    assert!(
        Path::new(SCHEMA).is_dir(),
        "{SCHEMA} is not there. Install it: apt-get install golang-github-opencontainers-specs-dev (or run scripts/test)"
    );
    let mut options = jsonschema::options().with_draft(Draft::Draft4);
    for entry in fs::read_dir(SCHEMA).expect("the schema's directory").flatten() {
        // The files name each other by relative references.
        let name = entry.file_name().into_string().expect("a plain name");
        if name.ends_with(".json") {
            let resource = Resource::from_contents(read(&entry.path())).expect("a schema");
            options = options.with_resource(format!("json-schema:///{name}"), resource);
        }
    }
    options.build(&read(&Path::new(SCHEMA).join("config-schema.json"))).expect("the schema holds together")
}

#[track_caller]
fn assert_valid(schema: &Validator, stage: &str, document: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(errors.is_empty(), "the document of {stage} is no OCI runtime configuration:\n{}", errors.join("\n"));
}

#[test]
fn the_schema_refuses_what_is_no_configuration() {
    let schema = schema();
    for wrong in [
        r#"{}"#,
        r#"{"ociVersion": 1}"#,
        r#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "args": "sh"}}"#,
        r#"{"ociVersion": "1.0.0", "linux": {"resources": {"memory": {"limit": "256M"}}}}"#,
        r#"{"ociVersion": "1.0.0", "hooks": {"poststop": [{"args": ["x"]}]}}"#,
    ] {
        assert!(!schema.is_valid(&serde_json::from_str(wrong).expect("JSON")), "{wrong}");
    }
    assert!(schema.is_valid(&serde_json::json!({"ociVersion": "1.0.0"})));
}

#[test]
fn every_stage_writes_a_valid_document() {
    let schema = schema();
    let lab = Lab::new("schema");
    lab.images(&["tool"]);
    // tee keeps what passes between the stages.
    lab.sh("mocker-images get tool | tee get.json |
        mocker-net -p 8080:80 -p 0.0.0.0:5353:53/udp --name web | tee net.json |
        mocker-cgroup --memory 256M --cpus 1.5 --pids 100 | tee cgroup.json |
        mocker-images mount > mount.json")
        .succeeds();
    for stage in ["get", "net", "cgroup", "mount"] {
        let text = fs::read(lab.work().join(format!("{stage}.json"))).expect("tee wrote it");
        assert_valid(&schema, stage, &serde_json::from_slice(&text).expect("JSON"));
    }
    lab.sh(
        "id=$(jq -r .mocker.id mount.json); mocker-images delete $id; mocker-cgroup delete $id; mocker-net delete $id",
    )
    .succeeds();
}

#[test]
fn a_stage_alone_starts_from_a_valid_document() {
    let schema = schema();
    let lab = Lab::new("alone");
    for (stage, undo) in
        [("mocker-net", "mocker-net delete lab"), ("mocker-cgroup --pids 20", "mocker-cgroup delete lab")]
    {
        let document = lab.sh(&format!("{stage} --new --id lab")).succeeds().json();
        assert_valid(&schema, stage, &document);
        lab.sh(undo).succeeds();
    }
}

#[test]
fn a_pull_writes_the_same_document_as_get() {
    let schema = schema();
    let lab = Lab::new("pulled");
    let registry = lab.registry();
    let reference = registry.reference("tool");
    let pulled = lab.sh(&format!("mocker-pull {reference} | cat")).succeeds().json();
    assert_valid(&schema, "mocker-pull", &pulled);
    assert_eq!(lab.sh(&format!("mocker-images get {reference}")).succeeds().json(), pulled);
}

#[test]
fn jq_in_the_middle_changes_nothing() {
    let lab = Lab::new("jq");
    lab.images(&["tool"]);
    let plain = lab.sh("mocker-images get tool").succeeds().json();
    assert_eq!(lab.sh("mocker-images get tool | jq .").succeeds().json(), plain);
}
