//! README's examples are run as they stand there, in order, on a machine where Docker Hub is a registry of ours.
//!
//! Every block marked `sh` is run, unless the line above it is `<!-- not run: REASON -->`. A block must succeed.

use std::fs;

use tests::{Hub, Lab, project};

/// The blocks of shell in a text: the line each begins on, and what it says. Those not to be run are left out.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut above = "";
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```").filter(|_| !line[3..].contains('`')) {
            let body: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let excused = above.starts_with("<!-- not run: ") && above.ends_with(" -->");
            if language == "sh" && !excused {
                blocks.push((number + 2, body.join("\n") + "\n"));
            }
        }
        above = line;
    }
    blocks
}

#[test]
fn blocks_of_shell_are_found_unless_excused() {
    let text = "a\n```sh\none\n```\n<!-- not run: it is slow -->\n```sh\ntwo\n```\n```json\n{}\n```\n\n```sh\nthree\nfour\n```\n";
    assert_eq!(blocks(text), [(3, "one\n".to_string()), (14, "three\nfour\n".to_string())]);
}

#[test]
fn the_examples_of_the_readme_work_in_order() {
    let lab = Lab::new("readme");
    let _hub = Hub::start(&lab);
    let readme = fs::read_to_string(project().join("README.md")).expect("README.md");
    let blocks = blocks(&readme);
    assert!(blocks.len() >= 5, "README.md has examples");
    let before = lab.snapshot();
    for (line, script) in blocks {
        let out = lab.sh(&script);
        assert!(out.code() == 0, "README.md:{line} fails: {out}");
    }
    lab.sh("mocker prune").succeeds();
    lab.assert_same(&before);
}
