//! Credential helpers, and podman's file.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::scripted::{Answer, Asked, Image, Scripted};
use tests::{Lab, Registry};

use crate::{guarded, pull, with_tokens};

/// Puts a program into the lab, which notes what it is asked.
fn helper(lab: &Lab, name: &str, script: &str) {
    let path = lab.work().with_file_name("bin").join(format!("docker-credential-{name}"));
    let note = lab.work().join("asked");
    let text = format!("#!/bin/sh\nserver=$(cat); echo \"$1 $server\" >> {}\n{script}\n", note.display());
    std::fs::write(&path, text).expect("the lab's directory can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its own file");
}

fn asked(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.work().join("asked")).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

fn configure(lab: &Lab, config: &serde_json::Value) {
    std::fs::create_dir_all(lab.work().join(".docker")).expect("a directory");
    std::fs::write(lab.work().join(".docker/config.json"), config.to_string()).expect("a file");
}

const ANNA: &str = r#"echo '{"ServerURL":"x","Username":"anna","Secret":"pass:word"}'"#;

#[test]
fn a_helper_is_asked_once_and_its_answer_is_shown_to_nobody() {
    let lab = Lab::new("helper");
    let registry = guarded(&lab, "127.0.0.1:5000");
    helper(&lab, "anna", ANNA);
    for config in [
        json!({ "credHelpers": { "127.0.0.1:5000": "anna" }, "credsStore": "nosuch" }),
        json!({ "credsStore": "anna", "auths": { "127.0.0.1:5000": {} } }),
    ] {
        configure(&lab, &config);
        std::fs::remove_file(lab.work().join("asked")).ok();
        let (one, two) = (registry.reference("busybox"), registry.reference("tool"));
        let both = lab.tool("mocker-pull").args(["--explain", &one, &two]).run().succeeds();
        let both = both.says("docker-credential-anna get < '127.0.0.1:5000'");
        assert!(!both.stderr.contains("pass:word") && !both.stderr.contains("YW5uYTpwYXNzOndvcmQ"), "{both}");
        assert_eq!(asked(&lab), ["get 127.0.0.1:5000"]);
        lab.sh("mocker-images rm $(mocker-images --json | jq -r '.[].reference')").succeeds();
    }

    // A registry that asks for nobody's name is told none: a key ring could open a window.
    let open = Registry::with_config(&lab, "127.0.0.1:5001", "http: {addr: \"127.0.0.1:5001\"}\n");
    configure(&lab, &json!({ "credsStore": "anna" }));
    pull(&lab, &open.reference("busybox")).succeeds();
    assert_eq!(asked(&lab).len(), 1);
}

#[test]
fn a_helper_that_has_no_password_or_fails() {
    let lab = Lab::new("nohelp");
    let registry = guarded(&lab, "127.0.0.1:5000");
    let reference = registry.reference("busybox");
    let with_password = json!({ "127.0.0.1:5000": { "auth": "YW5uYTpwYXNzOndvcmQ=" } });
    helper(&lab, "empty", "echo credentials not found in native keychain; exit 1");
    helper(&lab, "locked", "echo the key ring is locked >&2; exit 3");
    helper(&lab, "nonsense", "echo hunter2");
    helper(&lab, "endless", "exec yes");
    helper(&lab, "slow", "sleep 30 & exec sleep 30");

    // It has none: the file may.
    configure(&lab, &json!({ "credHelpers": { "127.0.0.1:5000": "empty" } }));
    pull(&lab, &reference).fails(1).says("401").says("docker-credential-empty, which").says("has no password for it");
    configure(&lab, &json!({ "credHelpers": { "127.0.0.1:5000": "empty" }, "auths": with_password }));
    pull(&lab, &reference).succeeds();
    lab.sh(&format!("mocker-images rm {reference}")).succeeds();

    // The one for all registries fails: the pull goes on, and says so.
    for (name, says) in [("nosuch", "there is no such program on the PATH"), ("locked", "the key ring is locked")] {
        configure(&lab, &json!({ "credsStore": name }));
        pull(&lab, &reference).fails(1).says("going on without a password").says(says).says("401 Unauthorized");
        configure(&lab, &json!({ "credsStore": name, "auths": with_password }));
        pull(&lab, &reference).succeeds().says(says);
        lab.sh(&format!("mocker-images rm {reference}")).succeeds();
    }

    // The registry's own fails: that is an error.
    for (name, says) in [
        ("nosuch", "there is no such program on the PATH"),
        ("locked", "the key ring is locked"),
        ("nonsense", "what it prints is no JSON"),
        ("endless", "prints more than 65536 bytes"),
        ("slow", "takes too long"),
        ("../bin/sh", "its name has a slash"),
    ] {
        configure(&lab, &json!({ "credHelpers": { "127.0.0.1:5000": name }, "auths": with_password }));
        let output = lab.tool("mocker-pull").args(["--timeout", "2", &reference]).run().fails(1);
        let output = output.says("cannot get the password for 127.0.0.1:5000 from docker-credential-").says(says);
        assert!(!output.stderr.contains("hunter2"), "{output}");
    }

    // Nor is a helper waited for once the pull is interrupted.
    configure(&lab, &json!({ "credHelpers": { "127.0.0.1:5000": "slow" } }));
    std::fs::remove_file(lab.work().join("asked")).expect("they were asked");
    let pulling = lab.tool("mocker-pull").arg(&reference).spawn();
    while asked(&lab).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    lab.sh("kill -TERM $(pidof mocker-pull)").succeeds(); // the pull alone, not the helper beside it
    pulling.wait().fails(128 + Signal::SIGTERM as i32);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_helper_s_token_is_traded_not_sent_as_a_password() {
    let lab = Lab::new("identity");
    let image = Image::demo(&lab, "busybox");
    helper(&lab, "cloud", r#"echo '{"Username":"<token>","Secret":"refresh-me"}'"#);
    let server = Scripted::start(&lab, &image, |asked, answer| with_tokens(asked, answer, "good"));
    configure(&lab, &json!({ "credHelpers": { server.address.as_str(): "cloud" } }));
    let output = lab.tool("mocker-pull").args(["--explain", &server.reference()]).run().succeeds();
    assert!(!output.stderr.contains("refresh-me"), "{output}");
    let traded: Vec<Asked> = server.log().into_iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(traded.len(), 1);
    let form = String::from_utf8_lossy(&traded[0].body).into_owned();
    assert!(form.contains("grant_type=refresh_token&refresh_token=refresh-me"), "{form}");
}

#[test]
fn podman_s_files_are_read_and_one_that_is_named_is_the_only_one() {
    let lab = Lab::new("podman");
    let registry = guarded(&lab, "127.0.0.1:5000");
    let reference = registry.reference("busybox");
    // podman writes it itself.
    lab.sh(
        "podman login --tls-verify=false --authfile .config/containers/auth.json -u anna -p pass:word 127.0.0.1:5000",
    )
    .succeeds();
    pull(&lab, &reference).succeeds();
    lab.sh(&format!("mocker-images rm {reference}; mv .config/containers/auth.json mine.json")).succeeds();
    pull(&lab, &reference).fails(1);
    lab.sh(&format!("REGISTRY_AUTH_FILE=mine.json mocker-pull {reference}")).succeeds();
    lab.sh(&format!("mocker-images rm {reference}; mv mine.json .config/containers/auth.json")).succeeds();
    lab.sh(&format!("echo '{{}}' > empty.json; REGISTRY_AUTH_FILE=empty.json mocker-pull {reference}"))
        .fails(1)
        .says("empty.json has no password for it");
}

#[test]
fn a_token_that_dies_after_a_few_requests_is_fetched_once_for_all() {
    let lab = Lab::new("dying");
    let image = Image::demo(&lab, "layers");
    // Each token is good for five requests.
    let state = std::sync::Mutex::new((0, 5));
    let server = Scripted::start(&lab, &image, move |asked, answer| {
        let mut state = state.lock().expect("no panic");
        if asked.path.starts_with("/token") {
            *state = (state.0 + 1, 0);
            return with_tokens(asked, answer, &format!("token-{}", state.0));
        }
        let answer = with_tokens(asked, answer, &format!("token-{}", state.0));
        if answer.status == 200 {
            state.1 += 1;
            if state.1 > 5 {
                return with_tokens(asked, Answer::status(401), "none is good any more");
            }
        }
        answer
    });
    pull(&lab, &server.reference()).succeeds();
    let good = server.count(|asked| !asked.path.starts_with("/token"));
    let tokens = server.count(|asked| asked.path.starts_with("/token"));
    // A manifest, a config and ten layers by fives: three tokens.
    assert_eq!(tokens, 3, "{good} requests");
}

#[test]
fn two_tags_of_a_repository_share_a_token() {
    let lab = Lab::new("shared");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |asked, answer| with_tokens(asked, answer, "good"));
    let pinned = format!("{}@{}", server.reference(), image.digest());
    lab.tool("mocker-pull").args([&server.reference(), &pinned]).run().succeeds();
    assert_eq!(server.count(|asked| asked.path.starts_with("/token")), 1);
}
