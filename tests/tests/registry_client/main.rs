//! mocker-pull as a client of registries: who it is, whom it trusts, by which way it goes, and what it does when that fails.

mod credentials;
mod faults;
mod mirrors;
mod ways;

use tests::scripted::{Answer, Asked, Image};
use tests::{Lab, Output, Registry};

fn pull(lab: &Lab, reference: &str) -> Output {
    lab.tool("mocker-pull").arg(reference).run()
}

/// Nothing is being made, every listed image is whole, and it is just these.
#[track_caller]
fn assert_store(lab: &Lab, references: &[&str]) {
    let left: Vec<_> = std::fs::read_dir(lab.root().join("tmp")).expect("tmp").flatten().collect();
    assert!(left.is_empty(), "left in tmp: {left:?}");
    lab.sh("mocker-images verify").succeeds();
    let list = lab.sh("mocker-images --json").succeeds().json();
    let mut listed: Vec<&str> =
        list.as_array().expect("an array").iter().map(|image| image["reference"].as_str().expect("text")).collect();
    listed.sort_unstable();
    assert_eq!(listed, references);
}

/// Settles something about registries for the lab's user.
fn settle(lab: &Lab, toml: &str) {
    let place = lab.work().join(".config/mocker");
    std::fs::create_dir_all(&place).expect("a directory");
    std::fs::write(place.join("registries.toml"), toml).expect("a file");
}

/// The credentials of `anna` for a registry, where docker login puts them.
fn log_in(lab: &Lab, address: &str, password: &str) {
    lab.sh(&format!(
        "mkdir -p .docker; jq -n --arg a {address} --arg p 'anna:{password}' '{{auths: {{($a): {{auth: ($p | @base64)}}}}}}' > .docker/config.json"
    ))
    .succeeds();
}

/// A registry that lets in anna with the password `pass:word` only.
fn guarded(lab: &Lab, address: &str) -> Registry {
    lab.sh("mkpasswd --method=bcrypt pass:word | sed s/^/anna:/ > htpasswd").succeeds();
    let file = lab.work().join("htpasswd");
    let config =
        format!("http: {{addr: \"{address}\"}}\nauth: {{htpasswd: {{realm: r, path: \"{}\"}}}}\n", file.display());
    Registry::with_config(lab, address, &config)
}

/// A registry that wants a token, and gives `good` at /token.
fn with_tokens(asked: &Asked, answer: Answer, good: &str) -> Answer {
    if asked.path.starts_with("/token") {
        return Answer::json(&serde_json::json!({ "token": good }));
    }
    if asked.header("authorization") == Some(&format!("Bearer {good}")) {
        return answer;
    }
    let host = asked.header("host").unwrap_or_default();
    Answer::status(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
}

fn layer_of(image: &Image) -> (String, usize) {
    let layer = image.manifest()["layers"][0].clone();
    (layer["digest"].as_str().expect("text").into(), layer["size"].as_u64().expect("a size") as usize)
}
