//! docs/cluster.md as the tests use it: the files that it tells a cluster's owner to write, and its commands.

use std::fs;

use tests::{demo_images, project, require};

use crate::node::Node;

/// Where the guide installs mocker-exec.
pub const BINARY: &str = "/usr/local/bin/mocker-exec";

/// The text of the block that follows the line `<!-- file: PATH -->`.
pub fn file(path: &str) -> String {
    let blocks = blocks(&text(), &format!("file: {path}"));
    assert_eq!(blocks.len(), 1, "docs/cluster.md has a block for {path}");
    blocks.concat()
}

fn text() -> String {
    fs::read_to_string(project().join("docs/cluster.md")).expect("docs/cluster.md")
}

/// The blocks that follow a line `<!-- MARK -->`, in order.
fn blocks(guide: &str, mark: &str) -> Vec<String> {
    let mark = format!("<!-- {mark} -->");
    let mut found = Vec::new();
    let mut lines = guide.lines();
    while lines.any(|line| line == mark) {
        if lines.next().is_some_and(|line| line.starts_with("```")) {
            found.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
        }
    }
    found
}

/// Runs the blocks that are marked `run on: DAEMON`.
pub fn run_blocks(node: &Node, daemon: &str) -> String {
    let scripts = blocks(&text(), &format!("run on: {daemon}"));
    assert!(!scripts.is_empty(), "docs/cluster.md has commands for {daemon}");
    scripts
        .iter()
        .map(|script| node.sh(&format!("set -e\nPATH=/usr/local/bin:$PATH\n{script}")).succeeds().stdout)
        .collect()
}

/// The value of `key: value` in a file of YAML where that key stands once.
pub fn yaml_value(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix(": ")?.to_string());
    text.lines().find_map(value)
}

#[test]
fn blocks_are_found_by_the_line_above_them() {
    let guide = "a\n<!-- x -->\n```toml\none\ntwo\n```\nb\n<!-- y -->\nno block\n<!-- x -->\n```\nthree\n```\n";
    assert_eq!(blocks(guide, "x"), ["one\ntwo\n", "three\n"]);
    assert_eq!(blocks(guide, "y"), [""; 0]);
}

#[test]
fn every_block_is_used_or_says_why_not() {
    let text = text();
    let lines: Vec<&str> = text.lines().collect();
    let opened = lines.iter().zip(&lines[1..]).filter(|(_, line)| line.starts_with("```") && line.len() > 3);
    for (above, line) in opened {
        let marked = ["<!-- file: ", "<!-- run on: ", "<!-- not run: "].iter().any(|mark| above.starts_with(mark));
        assert!(marked, "{line} below {above:?}");
    }
}

#[test]
fn the_commands_for_docker_work() {
    let mut node = Node::new("guide-docker");
    let registry = node.lab.registry();
    node.install("/etc/docker/daemon.json");
    node.start("dockerd", "", "docker version");
    node.sh(&format!("docker pull --quiet {0} && docker tag {0} busybox", registry.reference("busybox"))).succeeds();
    let said = run_blocks(&node, "dockerd");
    assert!(said.starts_with("mocker: {") && said.contains("\nmocker\n") && said.contains(" running "), "{said}");
    node.stop();
}

#[test]
fn the_commands_for_podman_and_buildah_work() {
    ["podman", "buildah"].into_iter().for_each(require);
    let node = Node::new("guide-podman");
    node.install("/etc/containers/containers.conf");
    // What a machine without systemd and without CAP_SYS_RESOURCE needs, whatever the runtime.
    node.write(
        "/etc/containers/containers.conf.d/lab.conf",
        "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         [containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=30000:30000\"]\n",
    );
    let image = demo_images(&["busybox"]).join("busybox");
    node.sh(&format!("podman pull --quiet oci:{} && podman tag $(podman images --quiet) probe", image.display()))
        .succeeds();
    let said = run_blocks(&node, "podman");
    assert!(said.starts_with(&format!("mocker-exec {BINARY}\n")), "{said}");
    assert!(said.contains("it runs\n") && said.contains("it builds\n"), "{said}");
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
