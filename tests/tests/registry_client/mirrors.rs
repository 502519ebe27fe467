//! Mirrors, and the file that names them.

use serde_json::json;
use tests::Lab;
use tests::scripted::{Answer, Asked, Image, Scripted};

use crate::{assert_store, layer_of, log_in, pull, settle, with_tokens};

fn mirrored(lab: &Lab, registry: &str, mirrors: &[&str]) {
    settle(lab, &format!("[registry.\"{registry}\"]\nmirrors = {}\n", json!(mirrors)));
}

#[test]
fn a_mirror_is_asked_in_the_registry_s_place() {
    let lab = Lab::new("mirror");
    let image = Image::demo(&lab, "nginx");
    let mirror = Scripted::start(&lab, &image, |_, answer| answer);
    // Docker Hub cannot be reached from here at all.
    mirrored(&lab, "docker.io", &[&format!("{}/hub", mirror.address)]);
    let document = pull(&lab, "nginx").succeeds().json();
    assert_eq!(document["mocker"]["image"]["reference"], "docker.io/library/nginx:latest");
    assert_eq!(mirror.log()[0].path, "/v2/hub/library/nginx/manifests/latest");
    pull(&lab, &format!("nginx@{}", image.digest())).succeeds();
    assert_eq!(lab.sh("mocker-images --json").json().as_array().expect("an array").len(), 2);
    lab.sh("mocker-images verify").succeeds();
}

#[test]
fn what_a_mirror_cannot_give_is_asked_of_the_next_and_then_of_the_registry() {
    let lab = Lab::new("fallback");
    let image = Image::demo(&lab, "busybox");
    let (layer, size) = layer_of(&image);
    let registry = Scripted::start(&lab, &image, |asked, answer| answer.part_for(asked));
    let reference = registry.reference();
    let listed = format!("{reference}:latest");
    type Script = Box<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;
    let at_layer = |change: fn(Answer) -> Answer| -> Script {
        let layer = layer.clone();
        Box::new(move |asked, answer| if asked.path.ends_with(&layer) { change(answer) } else { answer })
    };
    let cases: [(&str, Script); 9] = [
        ("404", Box::new(|_, _| Answer::status(404))),
        ("503", Box::new(|_, _| Answer::status(503))),
        ("429", Box::new(|_, _| Answer::status(429).with("Retry-After", "1"))),
        ("401", Box::new(|_, _| Answer::status(401).with("WWW-Authenticate", "Basic realm=x"))),
        ("without TLS", Box::new(|_, _| Answer::status(302).with("Location", "http://192.0.2.9/"))),
        ("404", at_layer(|_| Answer::status(404))),
        ("its descriptor says", at_layer(|answer| Answer { body: answer.body[7..].to_vec(), ..answer })),
        (
            "goes on after",
            at_layer(|mut answer| {
                answer.body.push(0);
                Answer { endless: true, ..answer }
            }),
        ),
        ("closed", at_layer(|answer| Answer { cut: Some(answer.body.len() / 2), ..answer })),
    ];
    for (says, script) in cases {
        let mirror = Scripted::start(&lab, &image, script);
        mirrored(&lab, &registry.address, &["127.0.0.1:1", &mirror.address]);
        let output = pull(&lab, &reference).succeeds();
        let lines: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("mirror ")).collect();
        assert_eq!(lines.len(), 2, "{says}: {output}");
        assert!(lines[0].contains("Connection refused"), "{output}");
        assert!(lines[0].ends_with(&format!("asking {}", mirror.address)), "{output}");
        assert!(lines[1].ends_with(&format!("asking {}", registry.address)), "{output}");
        if says != "closed" {
            assert!(lines[1].contains(says), "{says}: {output}");
        }
        assert_store(&lab, &[&listed]);
        lab.sh(&format!("mocker-images rm {listed}")).succeeds();
    }
    // The registry went on where the mirror broke off.
    let ranges: Vec<Asked> = registry.log().into_iter().filter(|asked| asked.header("range").is_some()).collect();
    let last = ranges.last().expect("the last mirror broke off");
    assert_eq!(last.header("range"), Some(&*format!("bytes={}-", size / 2)));

    // If nobody has it, the error is the registry's own.
    mirrored(&lab, &registry.address, &["127.0.0.1:1"]);
    let nosuch = pull(&lab, &format!("{}/nosuch:x", registry.address)).fails(1);
    nosuch
        .says("mirror 127.0.0.1:1: Connection refused")
        .says(&format!("cannot get the manifest of {}", registry.address));
}

#[test]
fn a_mirror_s_bytes_are_held_against_the_digest() {
    let lab = Lab::new("forger");
    let image = Image::demo(&lab, "busybox");
    let (layer, _) = layer_of(&image);
    let registry = Scripted::start(&lab, &image, |_, answer| answer);
    let reference = registry.reference();
    let forger = Scripted::start(&lab, &image, |asked, mut answer| {
        if asked.is_manifest() {
            answer.body.push(b' ');
        }
        answer
    });
    mirrored(&lab, &registry.address, &[&forger.address]);
    let pinned = format!("{reference}@{}", image.digest());
    pull(&lab, &pinned).succeeds().says(&format!("mirror {}: cannot use the manifest", forger.address));
    assert_store(&lab, &[&pinned]);
    lab.sh(&format!("mocker-images rm {pinned}; mocker-images prune")).succeeds();

    let forger = Scripted::start(&lab, &image, move |asked, mut answer| {
        if asked.path.ends_with(&layer) {
            answer.body[5000] ^= 1;
        }
        answer
    });
    mirrored(&lab, &registry.address, &[&forger.address]);
    pull(&lab, &reference).succeeds().says(&format!("mirror {}: ", forger.address)).says("its digest is wrong");
    assert_store(&lab, &[&format!("{reference}:latest")]);
}

#[test]
fn the_registry_s_password_is_never_sent_to_its_mirror() {
    let lab = Lab::new("apart");
    let image = Image::demo(&lab, "busybox");
    let mirror = Scripted::start(&lab, &image, |asked, answer| match asked.is_blob() {
        true => Answer::status(404),
        false => with_tokens(asked, answer, "mirrors-token"),
    });
    let registry = Scripted::start(&lab, &image, |asked, answer| with_tokens(asked, answer, "registrys-token"));
    log_in(&lab, &registry.address, "secret");
    mirrored(&lab, &registry.address, &[&mirror.address]);
    pull(&lab, &registry.reference()).succeeds();
    let sent = |server: &Scripted| {
        let log = server.log().into_iter();
        let mut sent: Vec<String> = log.filter_map(|asked| Some(asked.header("authorization")?.to_string())).collect();
        sent.dedup();
        sent
    };
    assert_eq!(sent(&mirror), ["Bearer mirrors-token"]);
    assert_eq!(sent(&registry), ["Basic YW5uYTpzZWNyZXQ=", "Bearer registrys-token"]);
}

#[test]
fn a_mistake_in_the_file_is_an_error_with_its_line() {
    let lab = Lab::new("typo");
    settle(&lab, "[registry.\"127.0.0.1:1\"]\ninsecur = true\n");
    pull(&lab, "127.0.0.1:1/x").fails(1).says(
        "/.config/mocker/registries.toml: line 2: unknown field `insecur`, expected one of `mirrors`, `insecure`",
    );
    lab.sh("MOCKER_REGISTRIES=nosuch.toml mocker-pull 127.0.0.1:1/x")
        .fails(1)
        .says("cannot read the settings of registries in nosuch.toml: No such file or directory (ENOENT)");
    // Of several files the first alone counts.
    lab.sh("echo > good.toml; MOCKER_REGISTRIES=good.toml mocker-pull 127.0.0.1:1/x").fails(1).says("ECONNREFUSED");
}
