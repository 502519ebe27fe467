//! mocker-push against a real registry, and against ones that break the rules.

mod server;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use server::{Answer, Asked, Server, Turn};
use tests::{Lab, Output, Registry};

fn push(lab: &Lab, arguments: &[&str]) -> Output {
    lab.tool("mocker-push").args(arguments).run()
}

/// A second registry, which is not where the images of the lab came from.
fn elsewhere(lab: &Lab) -> Registry {
    Registry::with_config(lab, "127.0.0.1:5001", "http: {addr: \"127.0.0.1:5001\"}\n")
}

/// The stored manifest of an image, and its bytes.
fn manifest(lab: &Lab, name: &str) -> (Value, Vec<u8>) {
    let inspected = lab.sh(&format!("mocker-images inspect {name}")).succeeds().json();
    let digest = inspected[0]["digest"].as_str().expect("a digest").to_string();
    let bytes = std::fs::read(blob_file(lab, &digest)).expect("a manifest");
    (serde_json::from_slice(&bytes).expect("JSON"), bytes)
}

fn blob_file(lab: &Lab, digest: &str) -> std::path::PathBuf {
    lab.root().join("image/blobs/sha256").join(digest.strip_prefix("sha256:").expect("a digest"))
}

fn blobs(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().expect("layers").iter();
    layers.chain([&manifest["config"]]).map(|blob| blob["digest"].as_str().expect("text").into()).collect()
}

/// Ends the test unless the server has the image with every byte of it, and nothing half done.
#[track_caller]
fn assert_whole(lab: &Lab, server: &Server, name: &str, at: &str) {
    let (json, bytes) = manifest(lab, name);
    for digest in blobs(&json) {
        let stored = std::fs::read(blob_file(lab, &digest)).expect("a blob");
        assert!(server.blob(&digest).is_some_and(|sent| sent == stored), "{digest}");
    }
    let (media_type, sent) = server.manifest(at).expect("its manifest");
    assert_eq!(media_type, json["mediaType"]);
    assert_eq!(sent, bytes);
    assert_eq!(server.unfinished(), 0);
}

// What is right.

#[test]
fn every_demo_image_arrives_as_it_was_pulled() {
    let lab = Lab::new("round");
    let (source, target) = (lab.registry(), elsewhere(&lab));
    for name in ["hello-world", "nginx", "layers", "zstd", "docker2", "multi"] {
        let from = source.reference(name);
        lab.sh(&format!("mocker-pull {from} > pulled")).succeeds();
        let to = format!("{}/mine/{name}:v1", target.address());
        let pushed = push(&lab, &[&from, &to]).succeeds().says("pushed sha256:");
        let digest = lab.sh("jq -r .mocker.image.manifest pulled").stdout.trim().to_string();
        assert_eq!(pushed.stdout, format!("{}/mine/{name}@{digest}\n", target.address()));

        // Others find the same image there.
        lab.sh(&format!("skopeo inspect --tls-verify=false --raw docker://{to} | sha256sum"))
            .succeeds()
            .prints(&digest[7..]);
        lab.sh(&format!(
            "MOCKER_ROOT=$PWD/fresh mocker-pull {to} > again && MOCKER_ROOT=$PWD/fresh mocker-images verify
             jq -e --slurpfile a pulled '.mocker.image.config == $a[0].mocker.image.config' again"
        ))
        .succeeds();
    }
}

#[test]
fn what_is_there_is_not_sent_again() {
    let lab = Lab::new("twice");
    lab.images(&["nginx", "debian"]);
    let server = Server::start(&lab, |_| Turn::Usual);
    let to = format!("{}/a/web", server.address);
    push(&lab, &["nginx", &to]).succeeds().says("sent");
    assert_whole(&lab, &server, "nginx", "a/web:latest");
    let before = server.count(|asked| asked.method != "HEAD");
    push(&lab, &["nginx", &to]).succeeds().says("is there already");
    // This server names no digests: it cannot say that the name leads there, so it is told once more.
    assert_eq!(server.count(|asked| asked.method != "HEAD"), before + 1);

    // Another image that shares its lowest layer brings only what is its own.
    let sent = server.count(Asked::brings_blob);
    push(&lab, &["debian", &to]).succeeds().says("is there already");
    assert_eq!(server.count(Asked::brings_blob), sent + 1, "its config alone");
}

#[test]
fn a_real_registry_is_only_asked_the_second_time() {
    let lab = Lab::new("unchanged");
    lab.images(&["busybox"]);
    let target = elsewhere(&lab);
    let to = format!("{}/a/b", target.address());
    push(&lab, &["busybox", &to]).succeeds().says("sent");
    let again = push(&lab, &["--explain", "busybox", &to]).succeeds().says("unchanged sha256:");
    assert!(!again.stderr.contains("] PUT ") && !again.stderr.contains("] POST "), "{again}");
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    let lab = Lab::new("mount");
    let registry = lab.registry();
    let from = registry.reference("nginx");
    lab.sh(&format!("mocker-pull {from} >/dev/null")).succeeds();
    let to = format!("{}/other/place:x", registry.address());
    let told = push(&lab, &["--explain", &from, &to]).succeeds().says("mounted from library/nginx");
    assert!(!told.stderr.contains("MiB sent"), "{told}");
    lab.sh(&format!("skopeo inspect --tls-verify=false docker://{to}")).succeeds();

    // Of two destinations the second lends from the first; the next push remembers both.
    let target = elsewhere(&lab);
    let [one, two, three] = ["one", "two", "three"].map(|name| format!("{}/{name}/web", target.address()));
    let told = push(&lab, &[&from, &one, &two]).succeeds().says("MiB sent").says("mounted from one/web");
    assert_eq!(told.stdout.lines().count(), 2);
    push(&lab, &[&from, &three]).succeeds().says("mounted from two/web");
}

#[test]
fn a_mount_that_is_refused_is_sent_instead_by_an_access_to_both() {
    let lab = Lab::new("unmounted");
    let server = Server::start(&lab, |asked| {
        let denied = asked.path.contains("mount=") && asked.earlier == 0;
        if denied { Turn::Answer(Answer::error(403, "DENIED")) } else { with_tokens(asked) }
    });
    lab.images(&["busybox"]);
    let lender = format!("{}/lender/box", server.address);
    lab.sh(&format!("mocker-images tag busybox {lender}")).succeeds();
    push(&lab, &["busybox", &format!("{}/a/b", server.address)]).succeeds().says("sent");
    assert_whole(&lab, &server, "busybox", "a/b:latest");
    let scopes = "scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Alender%2Fbox%3Apull";
    assert_eq!(server.count(|asked| asked.path.contains(scopes)), 1);
}

#[test]
fn an_image_by_digest_goes_by_digest_and_a_promise_is_kept() {
    let lab = Lab::new("digest");
    lab.images(&["busybox"]);
    let server = Server::start(&lab, |_| Turn::Usual);
    let name = format!("{}/a/b", server.address);
    let pinned = push(&lab, &["busybox", &name]).succeeds().stdout.trim().to_string();
    let digest = pinned.split_once('@').expect("a digest").1;
    push(&lab, &["busybox", &pinned]).succeeds();
    assert!(server.manifest(&format!("a/b:{digest}")).is_some());
    let zeros = "0".repeat(64);
    push(&lab, &["busybox", &format!("{name}@sha256:{zeros}")]).fails(1).says("its digest is another").says(digest);
    push(&lab, &["nothing"]).fails(1).says("cannot push nothing: no such image here");
}

#[test]
fn two_pushes_at_once_both_arrive() {
    let lab = Lab::new("both");
    lab.images(&["tool", "busybox"]);
    let target = elsewhere(&lab);
    let to = |tag: &str| format!("{}/a/b:{tag}", target.address());
    let start = |image: &str, tag: &str| lab.tool("mocker-push").args([image, &to(tag)]).spawn();
    let running = [start("tool", "x"), start("tool", "y"), start("busybox", "z")];
    for run in running {
        run.wait().succeeds();
    }
    for tag in ["x", "y", "z"] {
        lab.sh(&format!("MOCKER_ROOT=$PWD/{tag} mocker-pull {} >/dev/null", to(tag))).succeeds();
        lab.sh(&format!("MOCKER_ROOT=$PWD/{tag} mocker-images verify")).succeeds();
    }
}

#[test]
fn in_pieces_a_blob_arrives_whole() {
    let lab = Lab::new("chunk");
    lab.images(&["busybox"]);
    let target = elsewhere(&lab);
    let to = format!("{}/a/b", target.address());
    push(&lab, &["--chunk", "100K", "--explain", "busybox", &to]).succeeds().says("Content-Range: 102400-204799");
    lab.sh(&format!(
        "MOCKER_ROOT=$PWD/fresh mocker-pull {to} >/dev/null && MOCKER_ROOT=$PWD/fresh mocker-images verify"
    ))
    .succeeds();

    // A registry may want larger ones.
    let server = Server::start(&lab, |asked| match asked.is("POST", "/uploads/") {
        true => Turn::Then(Box::new(|answer| answer.with("OCI-Chunk-Min-Length", "300000"))),
        false => Turn::Usual,
    });
    push(&lab, &["--chunk", "100K", "busybox", &format!("{}/a/b", server.address)]).succeeds();
    assert_whole(&lab, &server, "busybox", "a/b:latest");
    let pieces: Vec<usize> = server.log().iter().filter(|asked| asked.method == "PATCH").map(Asked::length).collect();
    assert!(pieces.len() > 1 && pieces[..pieces.len() - 1].iter().all(|length| *length == 300_000), "{pieces:?}");
}

// Who we are.

const TOKEN: &str = "token-that-nobody-may-see";

/// Wants a token, and gives it at /token.
fn with_tokens(asked: &Asked) -> Turn {
    with_token(asked, TOKEN)
}

fn with_token(asked: &Asked, good: &str) -> Turn {
    if asked.path.starts_with("/token") {
        return Turn::Answer(Answer { body: json!({ "token": good }).to_string(), ..Answer::status(200) });
    }
    if asked.header("authorization") == Some(&format!("Bearer {good}")) {
        return Turn::Usual;
    }
    let host = asked.header("host").unwrap_or_default();
    let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a/b:pull,push\"");
    Turn::Answer(Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
}

#[test]
fn a_token_that_dies_in_the_middle_is_replaced() {
    let lab = Lab::new("expired");
    lab.images(&["nginx"]);
    let tokens = AtomicU32::new(0);
    let server = Server::start(&lab, move |asked| {
        if asked.path.starts_with("/token") {
            tokens.fetch_add(1, SeqCst);
        }
        // The second token replaces the first as soon as bytes come.
        let late = asked.brings_blob() || tokens.load(SeqCst) > 1;
        with_token(asked, if late { "second" } else { "first" })
    });
    let told = push(&lab, &["--explain", "nginx", &format!("{}/a/b", server.address)]).succeeds();
    assert_whole(&lab, &server, "nginx", "a/b:latest");
    assert_eq!(server.count(|asked| asked.path.starts_with("/token")), 2);
    assert!(!told.stderr.contains("Bearer first") && !told.stderr.contains("Bearer second"), "{told}");
    assert!(server.log().iter().any(|asked| asked.path.contains("scope=repository%3Aa%2Fb%3Apull%2Cpush")));
}

/// The credentials of `anna` for a registry, where docker login puts them.
fn log_in(lab: &Lab, address: &str, password: &str) {
    lab.sh(&format!(
        "mkdir -p .docker; jq -n --arg a {address} --arg p 'anna:{password}' '{{auths: {{($a): {{auth: ($p | @base64)}}}}}}' > .docker/config.json"
    ))
    .succeeds();
}

#[test]
fn a_registry_with_passwords_takes_the_right_one_alone() {
    let lab = Lab::new("basic");
    lab.images(&["busybox"]);
    lab.sh("mkpasswd --method=bcrypt pass:word | sed s/^/anna:/ > htpasswd").succeeds();
    let address = "127.0.0.1:5002";
    let config = format!(
        "http: {{addr: \"{address}\"}}\nauth: {{htpasswd: {{realm: r, path: \"{}\"}}}}\n",
        lab.work().join("htpasswd").display()
    );
    let _registry = Registry::with_config(&lab, address, &config);
    let to = format!("{address}/a/b");
    push(&lab, &["busybox", &to])
        .fails(1)
        .says("401 Unauthorized")
        .says("UNAUTHORIZED: authentication required")
        .says("nobody is logged in there")
        .says("docker login 127.0.0.1:5002");
    log_in(&lab, address, "wrong");
    push(&lab, &["busybox", &to]).fails(1).says("401").says("password of anna from");
    log_in(&lab, address, "pass:word");
    let told = push(&lab, &["--explain", "busybox", &to]).succeeds().says("sent").says("Authorization: Basic …");
    assert!(!told.stderr.contains("pass:word") && !told.stderr.contains("YW5uYTpwYXNzOndvcmQ"), "{told}");
}

#[test]
fn an_upload_at_another_host_gets_no_credentials() {
    let lab = Lab::new("leak");
    lab.images(&["busybox"]);
    let storage = Server::start(&lab, |_| Turn::Usual);
    let place = storage.address.clone();
    let server = Server::start(&lab, move |asked| {
        let place = place.clone();
        match with_tokens(asked) {
            Turn::Usual if asked.is("POST", "/uploads/") => Turn::Answer(
                Answer::status(202).with("Location", format!("http://{place}/v2/x/blobs/uploads/signed?signature=s")),
            ),
            turn => turn,
        }
    });
    // The storage knows no such upload and says so; what matters is with what it was asked.
    push(&lab, &["busybox", &format!("{}/a/b", server.address)]).fails(1);
    let asked = storage.log();
    assert!(asked.iter().any(Asked::brings_blob));
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
    assert!(asked.iter().filter(|asked| asked.brings_blob()).all(|asked| asked.path.contains("?signature=s&digest=")));
}

// What goes wrong.

#[test]
fn an_upload_that_breaks_goes_on_where_it_broke() {
    let lab = Lab::new("cut");
    lab.images(&["nginx"]);
    // Every connection that brings more than a mebibyte breaks there.
    const LIMIT: usize = 1 << 20;
    let server = Server::start(&lab, |asked| match asked.brings_blob() && asked.length() > LIMIT {
        true => Turn::Cut(LIMIT),
        false => Turn::Usual,
    });
    lab.tool("mocker-push")
        .args(["nginx", &format!("{}/a/b", server.address)])
        .timeout(Duration::from_secs(120))
        .run()
        .succeeds()
        .says("asking again in");
    assert_whole(&lab, &server, "nginx", "a/b:latest");
    let begun = server.count(|asked| asked.is("POST", "/uploads/"));
    assert_eq!(begun, blobs(&manifest(&lab, "nginx").0).len(), "no upload was begun a second time");
}

#[test]
fn an_upload_that_was_forgotten_is_begun_anew() {
    let lab = Lab::new("forgot");
    lab.images(&["busybox"]);
    let server = Server::start(&lab, |asked| match (asked.method.as_str(), asked.brings_blob()) {
        (_, true) if asked.earlier == 0 => Turn::Cut(1000),
        ("GET", _) => Turn::Answer(Answer::error(404, "BLOB_UPLOAD_UNKNOWN")),
        _ => Turn::Usual,
    });
    push(&lab, &["--jobs", "1", "busybox", &format!("{}/a/b", server.address)]).succeeds();
    assert_whole(&lab, &server, "busybox", "a/b:latest");
    assert_eq!(server.count(|asked| asked.method == "DELETE"), 1);
}

#[test]
fn an_upload_whose_last_answer_was_lost_is_not_sent_again() {
    let lab = Lab::new("lost");
    lab.images(&["busybox"]);
    let server = Server::start(&lab, |asked| match asked.brings_blob() && asked.earlier == 0 {
        true => Turn::Then(Box::new(|_| Answer::status(502))),
        false => Turn::Usual,
    });
    push(&lab, &["--jobs", "1", "busybox", &format!("{}/a/b", server.address)]).succeeds();
    assert_whole(&lab, &server, "busybox", "a/b:latest");
    assert_eq!(server.count(Asked::brings_blob), 2, "each of the two blobs once");
}

#[test]
fn a_real_registry_that_dies_in_the_middle_is_pushed_to_again() {
    let lab = Lab::new("dies");
    lab.images(&["nginx"]);
    let target = elsewhere(&lab);
    let to = format!("{}/a/b", target.address());
    // A proxy in front of it breaks the first three connections after 2 MiB.
    std::fs::write(lab.work().join("proxy.py"), PROXY).expect("a file");
    let mut proxy = lab.program("python3").args(["proxy.py", "5009", target.address()]).spawn();
    proxy.wait_for("ready");
    push(&lab, &["--chunk", "1M", "nginx", "127.0.0.1:5009/a/b"]).succeeds().says("asking again");
    lab.sh(&format!(
        "MOCKER_ROOT=$PWD/fresh mocker-pull {to} >/dev/null && MOCKER_ROOT=$PWD/fresh mocker-images verify"
    ))
    .succeeds();
}

const PROXY: &str = r#"
import socket, sys, threading
host, port = sys.argv[2].split(":")
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", file=sys.stderr, flush=True)
breaks = [3]
def pipe(a, b, limit):
    try:
        while data := a.recv(65536):
            b.sendall(data)
            limit -= len(data)
            if limit < 0:
                breaks[0] -= 1
                break
    except OSError:
        pass
    for s in (a, b):
        try: s.shutdown(socket.SHUT_RDWR)
        except OSError: pass
while True:
    client, _ = listener.accept()
    server = socket.create_connection((host, int(port)))
    limit = 2 << 20 if breaks[0] > 0 else 1 << 40
    threading.Thread(target=pipe, args=(client, server, limit), daemon=True).start()
    threading.Thread(target=pipe, args=(server, client, 1 << 40), daemon=True).start()
"#;

#[test]
fn a_registry_in_trouble_is_asked_again_and_its_wish_to_wait_respected() {
    let lab = Lab::new("trouble");
    lab.images(&["busybox"]);
    let server = Server::start(&lab, |asked| match (asked.method.as_str(), asked.earlier) {
        ("HEAD", 0) => Turn::Answer(Answer::status(429).with("Retry-After", "1")),
        ("POST", 0 | 1) => Turn::Answer(Answer::status(503)),
        ("PUT", 0) if asked.is("PUT", "/manifests/") => Turn::Answer(Answer::status(500)),
        _ => Turn::Usual,
    });
    push(&lab, &["busybox", &format!("{}/a/b", server.address)]).succeeds().says("429").says("503").says("500");
    assert_whole(&lab, &server, "busybox", "a/b:latest");

    let closed = Server::start(&lab, |_| Turn::Answer(Answer::status(429).with("Retry-After", "7200")));
    push(&lab, &["busybox", &format!("{}/a/b", closed.address)])
        .fails(1)
        .says("429")
        .says("the registry wants to be asked again at");
}

#[test]
fn a_blob_that_the_registry_has_lost_is_brought_again() {
    let lab = Lab::new("misses");
    lab.images(&["busybox"]);
    let server = Server::start(&lab, |asked| match asked.is("PUT", "/manifests/") && asked.earlier == 0 {
        true => Turn::Answer(Answer::error(400, "MANIFEST_BLOB_UNKNOWN")),
        false if asked.is("HEAD", "/blobs/") && asked.earlier == 2 => Turn::Answer(Answer::status(404)),
        false => Turn::Usual,
    });
    push(&lab, &["busybox", &format!("{}/a/b", server.address)]).succeeds().says("misses a blob");
    assert_whole(&lab, &server, "busybox", "a/b:latest");
    assert_eq!(server.count(Asked::brings_blob), 3, "two blobs, and one of them again");
}

#[test]
fn a_refusal_is_explained() {
    let lab = Lab::new("refused");
    lab.images(&["busybox"]);
    let cases: [(&str, &str, u16, &str, &str); 8] = [
        ("POST", "/uploads/", 403, "DENIED", "who is may not push to this repository"),
        ("POST", "/uploads/", 404, "NAME_UNKNOWN", "this registry makes none by itself"),
        ("POST", "/uploads/", 405, "UNSUPPORTED", "the registry is read-only"),
        ("PUT", "/uploads/", 413, "SIZE_INVALID", "--chunk 10M"),
        ("PUT", "/uploads/", 400, "DIGEST_INVALID", "changes what passes through it"),
        ("PUT", "/manifests/", 415, "UNSUPPORTED", "does not take OCI images"),
        ("PUT", "/manifests/", 400, "MANIFEST_INVALID", "skopeo copy --format v2s2"),
        ("PUT", "/manifests/", 400, "MANIFEST_BLOB_UNKNOWN", "has lost a blob"),
    ];
    for (method, part, status, code, text) in cases {
        let server = Server::start(&lab, move |asked| match asked.is(method, part) {
            true => Turn::Answer(Answer::error(status, code)),
            false => Turn::Usual,
        });
        push(&lab, &["--jobs", "1", "busybox", &format!("{}/a/b", server.address)])
            .fails(1)
            .says(&status.to_string())
            .says(&format!("{code}: no"))
            .says(text);
        assert!(server.manifest("a/b:latest").is_none());
        assert_eq!(server.unfinished(), 0, "{code}");
    }
}

#[test]
fn a_damaged_blob_never_leaves_the_machine() {
    let lab = Lab::new("damaged");
    lab.images(&["nginx"]);
    let (json, _) = manifest(&lab, "nginx");
    let layer = json["layers"][0]["digest"].as_str().expect("a digest").to_string();
    let file = blob_file(&lab, &layer);
    let whole = std::fs::read(&file).expect("a blob");
    let server = Server::start(&lab, |_| Turn::Usual);
    let to = format!("{}/a/b", server.address);

    // Of the right length: found out while it is sent, before the last of it has left.
    for place in [0, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        std::fs::write(&file, &bytes).expect("a blob");
        for arguments in [vec!["nginx", &to], vec!["--jobs", "1", "--chunk", "2M", "nginx", &to]] {
            push(&lab, &arguments)
                .fails(1)
                .says(&format!("cannot send blob {}: it is damaged in the store", &layer[7..19]))
                .says("mocker-images verify");
        }
        assert_eq!(server.blob(&layer), None);
    }
    assert_eq!(server.count(|asked| asked.method == "DELETE"), 6);

    // Of another length, or not there: found out before anybody is asked.
    let before = server.log().len();
    std::fs::write(&file, &whole[1..]).expect("a blob");
    push(&lab, &["nginx", &to]).fails(1).says("is damaged in the store").says("mocker-images verify");
    std::fs::remove_file(&file).expect("a blob");
    push(&lab, &["nginx", &to]).fails(1).says(&layer[7..]).says("mocker-images verify");
    assert_eq!(server.log().len(), before);
    assert!(server.manifest("a/b:latest").is_none());
}

#[test]
fn a_slow_registry_is_waited_for_and_a_silent_one_is_not() {
    let lab = Lab::new("slow");
    lab.images(&["nginx"]);
    // In all longer than it may be silent.
    let server = Server::start(&lab, |asked| match asked.brings_blob() {
        true => Turn::Slow(Duration::from_millis(600)),
        false => Turn::Usual,
    });
    let told = push(&lab, &["--timeout", "3", "nginx", &format!("{}/a/b", server.address)]).succeeds();
    assert!(!told.stderr.contains("asking again"), "{told}");
    assert_whole(&lab, &server, "nginx", "a/b:latest");

    let stalled = Server::start(&lab, |asked| match asked.brings_blob() {
        true => Turn::Stall(Duration::from_secs(600)),
        false => Turn::Usual,
    });
    lab.tool("mocker-push")
        .args(["--jobs", "1", "--timeout", "1", "nginx", &format!("{}/a/b", stalled.address)])
        .timeout(Duration::from_secs(120))
        .run()
        .fails(1)
        .says("no answer in time (tried 5 times)");
    assert_eq!(stalled.unfinished(), 0);
}

#[test]
fn interrupted_it_cancels_what_it_has_begun() {
    let lab = Lab::new("signal");
    lab.images(&["nginx"]);
    let server = Server::start(&lab, |asked| match asked.brings_blob() {
        true => Turn::Slow(Duration::from_secs(2)),
        false => Turn::Usual,
    });
    let to = format!("{}/a/b", server.address);
    let mut run = lab.tool("mocker-push").args(["--explain", "nginx", &to]).spawn();
    run.wait_for("] PUT ");
    run.signal_group(Signal::SIGINT);
    run.wait().fails(130);
    assert!(server.count(|asked| asked.method == "DELETE") > 0);
    assert!(server.manifest("a/b:latest").is_none());
}
