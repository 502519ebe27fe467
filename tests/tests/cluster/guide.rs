//! docs/cluster.md as the tests use it: the files that it tells a cluster's owner to write.

use std::fs;

use tests::project;

/// The text of the block that follows the line `<!-- file: PATH -->`.
pub fn file(path: &str) -> String {
    let guide = fs::read_to_string(project().join("docs/cluster.md")).expect("docs/cluster.md");
    block(&guide, path).unwrap_or_else(|| panic!("docs/cluster.md has no block for {path}"))
}

fn block(guide: &str, path: &str) -> Option<String> {
    let marker = format!("<!-- file: {path} -->");
    let mut lines = guide.lines().skip_while(|line| *line != marker).skip(1);
    lines.next().filter(|line| line.starts_with("```"))?;
    Some(lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect())
}

/// The value of `key: value` in a file of YAML where that key stands once.
pub fn yaml_value(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix(": ")?.to_string());
    text.lines().find_map(value)
}

#[test]
fn a_block_is_found_by_the_file_it_is_for() {
    let guide = "a\n<!-- file: /etc/x -->\n```toml\none\ntwo\n```\nb\n<!-- file: /etc/y -->\nno block\n";
    assert_eq!(block(guide, "/etc/x").as_deref(), Some("one\ntwo\n"));
    assert_eq!(block(guide, "/etc/y"), None);
    assert_eq!(block(guide, "/etc/z"), None);
}

#[test]
fn the_files_in_the_guide_are_what_their_readers_take() {
    let daemon: serde_json::Value = serde_json::from_str(&file("/etc/docker/daemon.json")).expect("JSON");
    let default = daemon["default-runtime"].as_str().expect("a default runtime");
    assert_eq!(daemon["runtimes"][default]["path"], BINARY);

    let containerd: toml::Table = file("/etc/containerd/config.toml").parse().expect("TOML");
    let class = file("runtimeclass.yaml");
    let handler = yaml_value(&class, "handler").expect("a handler");
    let runtimes = &containerd["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(runtimes[&handler]["options"]["BinaryName"].as_str(), Some(BINARY));

    let name = yaml_value(&class, "name").expect("a name");
    assert_eq!(yaml_value(&file("pod.yaml"), "runtimeClassName"), Some(name));

    let podman: toml::Table = file("/etc/containers/containers.conf").parse().expect("TOML");
    let engine = &podman["engine"];
    let default = engine["runtime"].as_str().expect("a default runtime");
    assert_eq!(engine["runtimes"][default][0].as_str(), Some(BINARY));
    let json: Vec<_> = engine["runtime_supports_json"].as_array().expect("a list").iter().collect();
    assert!(json.iter().any(|name| name.as_str() == Some("mocker-exec")), "podman goes by the file's name: {json:?}");
}

/// Where the guide installs mocker-exec.
pub const BINARY: &str = "/usr/local/bin/mocker-exec";
