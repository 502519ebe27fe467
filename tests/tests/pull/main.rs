//! mocker-pull against a real registry, and against ones that break the rules.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::scripted::{Answer, Asked, Image, Scripted};
use tests::{Lab, Output, Registry};

/// Ends the test unless the store has nothing that a failed pull could have left behind or made visible.
#[track_caller]
fn assert_nothing_visible(lab: &Lab) {
    assert_eq!(images(lab), Vec::<String>::new());
    assert_clean(lab);
}

/// Nothing is being made, and every listed image is whole.
#[track_caller]
fn assert_clean(lab: &Lab) {
    let left: Vec<_> = std::fs::read_dir(lab.root().join("tmp")).expect("tmp").flatten().collect();
    assert!(left.is_empty(), "left in tmp: {left:?}");
    lab.sh("mocker-images verify").succeeds();
}

fn images(lab: &Lab) -> Vec<String> {
    let list = lab.sh("mocker-images --json").succeeds().json();
    list.as_array().expect("an array").iter().map(|image| image["reference"].as_str().expect("text").into()).collect()
}

fn pull(lab: &Lab, reference: &str) -> Output {
    lab.tool("mocker-pull").arg(reference).run()
}

/// The part of a blob that was asked for.
fn part_of(asked: &Asked, answer: Answer) -> Answer {
    let start = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let Some(start) = start.filter(|start: &usize| *start > 0) else { return answer };
    let length = answer.body.len();
    let range = format!("bytes {start}-{}/{length}", length - 1);
    Answer { status: 206, body: answer.body[start..].to_vec(), ..answer }.with("Content-Range", range)
}

fn layer_of(image: &Image) -> (String, usize) {
    let layer = image.manifest()["layers"][0].clone();
    (layer["digest"].as_str().expect("text").into(), layer["size"].as_u64().expect("a size") as usize)
}

// What is right.

#[test]
fn every_demo_image_is_pulled_whole_and_the_store_is_an_image_layout() {
    let lab = Lab::new("all");
    let registry = lab.registry();
    for name in ["hello-world", "busybox", "debian", "nginx", "tool", "layers", "zstd", "docker2", "multi"] {
        let reference = registry.reference(name);
        let document = pull(&lab, &reference).succeeds().says("stored sha256:").json();
        assert_eq!(document["mocker"]["image"]["reference"], format!("{reference}:latest"));
        assert!(document["process"]["args"][0].is_string(), "{name}");
        let digest = document["mocker"]["image"]["manifest"].as_str().expect("text").to_string();
        let digest = digest.strip_prefix("sha256:").expect("sha256");
        lab.sh(&format!("sha256sum < $MOCKER_ROOT/image/blobs/sha256/{digest}")).succeeds().prints(digest);
        // skopeo takes no manifest of docker's form out of an image layout, whoever made it.
        if name != "docker2" {
            let raw = lab.sh(&format!("skopeo inspect --raw oci:$MOCKER_ROOT/image:{reference}:latest | sha256sum"));
            raw.succeeds().prints(digest);
        }
    }
    assert_clean(&lab);
}

#[test]
fn the_files_of_an_image_are_those_that_umoci_unpacks() {
    let lab = Lab::new("umoci");
    let registry = lab.registry();
    let reference = registry.reference("nginx");
    pull(&lab, &reference).succeeds();
    lab.sh(&format!(
        "umoci --log error unpack --image $MOCKER_ROOT/image:{reference}:latest bundle >&2
         mocker-images get {reference} | mocker-images mount --id x >/dev/null
         list() {{ (cd $1 && find . -mindepth 1 -printf '%p %y %m %U %G %T@ %l\n' | LC_ALL=C sort); }}
         list bundle/rootfs > a; list $MOCKER_ROOT/containers/x/rootfs > b
         diff --recursive --no-dereference bundle/rootfs $MOCKER_ROOT/containers/x/rootfs
         diff a b; verdict=$?
         mocker-images delete x; exit $verdict"
    ))
    .succeeds();
}

#[test]
fn of_an_index_this_platform_s_image_is_picked_and_another_on_request() {
    let lab = Lab::new("multi");
    let registry = lab.registry();
    let reference = registry.reference("multi");
    let own = pull(&lab, &reference).succeeds().json();
    let architecture = std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64");
    assert_eq!(own["annotations"]["org.opencontainers.image.architecture"], architecture);
    let with = |platform: &str| lab.tool("mocker-pull").args(["--platform", platform, &reference]).run();
    let other = with("linux/arm/v7").succeeds().json();
    assert_eq!(other["annotations"]["org.opencontainers.image.architecture"], "arm");
    with("linux/s390x")
        .fails(1)
        .says("there is none for linux/s390x")
        .says("linux/amd64, linux/arm64/v8, linux/arm/v7");
    assert_eq!(images(&lab).len(), 1);

    // A bare manifest says nothing about platforms; its config does.
    let nginx = registry.reference("nginx");
    let bare = lab.tool("mocker-pull").args(["--platform", "linux/s390x", &nginx]).run();
    bare.fails(1).says("there is none for linux/s390x").says("--platform linux/");
    assert_clean(&lab);
}

#[test]
fn an_image_by_digest_is_the_one_asked_for_and_found_again() {
    let lab = Lab::new("digest");
    let registry = lab.registry();
    let tagged = pull(&lab, &registry.reference("busybox")).succeeds().json();
    let digest = tagged["mocker"]["image"]["manifest"].as_str().expect("text");
    let pinned = format!("{}@{digest}", registry.reference("busybox"));
    pull(&lab, &pinned).succeeds().says("here already");
    lab.sh(&format!("mocker-images get {pinned}")).succeeds();
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let lab = Lab::new("again");
    let image = Image::demo(&lab, "tool");
    let server = Scripted::start(&lab, &image, |_, answer| answer);
    pull(&lab, &server.reference()).succeeds().says("done");
    let blobs = server.count(Asked::is_blob);
    pull(&lab, &server.reference()).succeeds().says("here already").says("unchanged");
    assert_eq!(server.count(Asked::is_blob), blobs);

    // The files are gone but the blob is not: unpacked from there. A damaged blob: fetched anew.
    let (digest, _) = layer_of(&image);
    let blob = lab.root().join("image/blobs/sha256").join(&digest[7..]);
    let lose = "mv $MOCKER_ROOT/layers .; mkdir -p $MOCKER_ROOT/layers/sha256";
    lab.sh(lose).succeeds();
    pull(&lab, &server.reference()).succeeds().says("unpacked");
    assert_eq!(server.count(Asked::is_blob), blobs);
    lab.sh("rm -r layers").succeeds();
    lab.sh(lose).succeeds();
    let mut bytes = std::fs::read(&blob).expect("the blob");
    bytes[1000] ^= 1;
    std::fs::write(&blob, bytes).expect("the blob");
    pull(&lab, &server.reference()).succeeds().says("damaged in the store");
    assert_eq!(server.count(Asked::is_blob), blobs + 1);

    // The blob alone is gone: fetched, checked, not unpacked.
    std::fs::remove_file(&blob).expect("the blob");
    pull(&lab, &server.reference()).succeeds();
    assert_eq!(server.count(Asked::is_blob), blobs + 2);
    assert_clean(&lab);
}

#[test]
fn two_pulls_at_once_do_the_work_once() {
    let lab = Lab::new("twice");
    let image = Image::demo(&lab, "nginx");
    let server = Scripted::start(&lab, &image, |asked, answer| Answer {
        pause: Duration::from_millis(if asked.is_blob() { 200 } else { 0 }),
        ..answer
    });
    let start = || lab.tool("mocker-pull").arg(server.reference()).spawn();
    let (first, second) = (start(), start());
    let (first, second) = (first.wait().succeeds(), second.wait().succeeds());
    assert_eq!(first.json(), second.json());
    for layer in image.manifest()["layers"].as_array().expect("layers") {
        let digest = layer["digest"].as_str().expect("text");
        assert_eq!(server.count(|asked| asked.path.ends_with(digest)), 1, "{digest}");
    }
    assert_clean(&lab);
}

#[test]
fn the_document_goes_to_pipes_only_one_a_line_for_several_images() {
    let lab = Lab::new("output");
    let registry = lab.registry();
    let (one, two) = (registry.reference("busybox"), registry.reference("tool"));
    let both = lab.sh(&format!("mocker-pull --quiet {one} {two}")).succeeds();
    assert_eq!(both.stderr, "");
    let lines: Vec<serde_json::Value> =
        both.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["mocker"]["image"]["reference"], format!("{two}:latest"));

    let terminal =
        |arguments: &str| lab.sh(&format!("script --quiet --return --command 'mocker-pull {arguments}' /dev/null"));
    let shown = terminal(&one).succeeds();
    assert!(shown.stdout.contains("unchanged") && !shown.stdout.contains("ociVersion"), "{shown}");
    terminal(&format!("--document {one}")).succeeds().prints("ociVersion");

    // A reader that is gone is a failure, not a crash.
    lab.sh(&format!("(mocker-pull --quiet {one}; echo $? >&2) | true")).says("1");
}

// Who we are.

const TOKEN: &str = "token-that-nobody-may-see";

/// A registry that wants a token, and gives it at /token.
fn with_tokens(address: &str, asked: &Asked, answer: Answer, good: &str) -> Answer {
    if asked.path.starts_with("/token") {
        return Answer::json(&json!({ "token": good }));
    }
    if asked.header("authorization") == Some(&format!("Bearer {good}")) {
        return answer;
    }
    let challenge =
        format!("Bearer realm=\"http://{address}/token\",service=\"s\",scope=\"repository:library/image:pull,push\"");
    Answer::status(401).with("WWW-Authenticate", challenge)
}

fn host(asked: &Asked) -> String {
    asked.header("host").unwrap_or_default().to_string()
}

#[test]
fn a_stranger_gets_one_token_for_all_parts() {
    let lab = Lab::new("token");
    let image = Image::demo(&lab, "nginx");
    let server = Scripted::start(&lab, &image, |asked, answer| with_tokens(&host(asked), asked, answer, TOKEN));
    let explained = lab.tool("mocker-pull").args(["--explain", &server.reference()]).run().succeeds().says("/token?");
    assert!(!explained.stderr.contains(TOKEN), "the narrative shows a token: {explained}");
    let tokens: Vec<Asked> = server.log().into_iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?scope=repository%3Alibrary%2Fimage%3Apull&service=s");
    assert_eq!(tokens[0].header("authorization"), None);
}

#[test]
fn a_token_that_dies_in_the_middle_is_replaced_once() {
    let lab = Lab::new("expired");
    let image = Image::demo(&lab, "nginx");
    let tokens = AtomicU32::new(0);
    let server = Scripted::start(&lab, &image, move |asked, answer| {
        // The second token replaces the first as soon as a blob is asked for.
        if asked.path.starts_with("/token") {
            tokens.fetch_add(1, SeqCst);
        }
        let good = if asked.is_blob() || tokens.load(SeqCst) > 1 { "second" } else { "first" };
        with_tokens(&host(asked), asked, answer, good)
    });
    pull(&lab, &server.reference()).succeeds();
    assert_eq!(server.count(|asked| asked.path.starts_with("/token")), 2);
}

#[test]
fn a_scope_that_is_not_enough_is_replaced_by_the_registry_s() {
    let lab = Lab::new("scope");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |asked, answer| {
        let answered =
            with_tokens(&host(asked), asked, answer.clone(), if asked.path.contains("more") { "more" } else { "less" });
        match (asked.path.starts_with("/token"), asked.header("authorization")) {
            (false, Some("Bearer more")) => answer,
            (false, _) => Answer::status(401).with(
                "WWW-Authenticate",
                format!(
                    "Bearer realm=\"http://{}/token\",scope=\"repository:more:pull\",error=\"insufficient_scope\"",
                    host(asked)
                ),
            ),
            _ => answered,
        }
    });
    pull(&lab, &server.reference()).succeeds();
}

#[test]
fn a_token_that_is_refused_is_an_error_that_names_both_readings() {
    let lab = Lab::new("denied");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |asked, answer| {
        let answer = with_tokens(&host(asked), asked, answer, TOKEN);
        match answer.status {
            200 if !asked.path.starts_with("/token") => Answer {
                status: 401,
                ..Answer::json(&json!({ "errors": [{ "code": "DENIED", "message": "requested access is denied" }] }))
            },
            _ => answer,
        }
    });
    pull(&lab, &server.reference())
        .fails(1)
        .says("401")
        .says("DENIED")
        .says("private, or there is none")
        .says("docker login");
    assert_nothing_visible(&lab);
}

/// The credentials of `anna` for a registry, where docker login puts them.
fn log_in(lab: &Lab, address: &str, password: &str) {
    lab.sh(&format!(
        "mkdir -p .docker; jq -n --arg a {address} --arg p 'anna:{password}' '{{auths: {{($a): {{auth: ($p | @base64)}}}}}}' > .docker/config.json"
    ))
    .succeeds();
}

#[test]
fn a_registry_that_wants_a_password_gets_it_from_docker_s_file() {
    let lab = Lab::new("basic");
    lab.sh("mkpasswd --method=bcrypt pass:word | sed s/^/anna:/ > htpasswd").succeeds();
    let config = format!(
        "http: {{addr: \"127.0.0.1:5000\"}}\nauth: {{htpasswd: {{realm: r, path: \"{}\"}}}}\n",
        lab.work().join("htpasswd").display()
    );
    let registry = Registry::with_config(&lab, "127.0.0.1:5000", &config);
    let reference = registry.reference("busybox");
    pull(&lab, &reference).fails(1).says("401 Unauthorized").says("docker login 127.0.0.1:5000");
    log_in(&lab, "127.0.0.1:5000", "wrong");
    pull(&lab, &reference).fails(1).says("401").says("password of anna from");
    assert_nothing_visible(&lab);
    log_in(&lab, "http://127.0.0.1:5000/v2/", "pass:word");
    let explained = lab.tool("mocker-pull").args(["--explain", &reference]).run().succeeds();
    assert!(
        !explained.stderr.contains("pass:word") && !explained.stderr.contains("YW5uYTpwYXNzOndvcmQ"),
        "{explained}"
    );
}

#[test]
fn credentials_stay_with_the_registry_that_asked() {
    let lab = Lab::new("leak");
    let image = Image::demo(&lab, "busybox");
    let storage = Scripted::start(&lab, &image, |_, answer| answer);
    let elsewhere = storage.address.clone();
    let server = Scripted::start(&lab, &image, move |asked, answer| {
        let answer = with_tokens(&host(asked), asked, answer, TOKEN);
        match asked.is_blob() && answer.status == 200 {
            true => Answer::status(307).with("Location", format!("http://{elsewhere}{}", asked.path)),
            false => answer,
        }
    });
    log_in(&lab, &server.address, "secret");
    pull(&lab, &server.reference()).succeeds();
    let basic: Vec<Asked> = server
        .log()
        .into_iter()
        .filter(|asked| asked.header("authorization").is_some_and(|value| value.starts_with("Basic")))
        .collect();
    assert!(basic.iter().all(|asked| asked.path.starts_with("/token")) && basic.len() == 1, "{basic:?}");
    assert_eq!(storage.count(Asked::is_blob), 2);
    assert_eq!(storage.count(|asked| asked.header("authorization").is_some()), 0, "{:?}", storage.log());
}

#[test]
fn the_host_of_a_redirect_cannot_ask_for_the_password() {
    let lab = Lab::new("harvest");
    let image = Image::demo(&lab, "busybox");
    let storage = Scripted::start(&lab, &image, |asked, answer| with_tokens(&host(asked), asked, answer, TOKEN));
    let elsewhere = storage.address.clone();
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.is_blob() {
        true => Answer::status(307).with("Location", format!("http://{elsewhere}{}", asked.path)),
        false => answer,
    });
    log_in(&lab, &server.address, "secret");
    pull(&lab, &server.reference()).fails(1).says("401");
    assert_eq!(storage.count(|asked| asked.path.starts_with("/token")), 0, "{:?}", storage.log());
}

#[test]
fn a_token_server_or_a_redirect_without_tls_is_refused() {
    let lab = Lab::new("downgrade");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |_, _| {
        Answer::status(401).with("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token\"")
    });
    log_in(&lab, &server.address, "secret");
    pull(&lab, &server.reference()).fails(1).says("its token server http://192.0.2.1/token is without TLS");
    let server = Scripted::start(&lab, &image, |_, _| Answer::status(302).with("Location", "http://192.0.2.1/"));
    pull(&lab, &server.reference()).fails(1).says("redirects to http://192.0.2.1/, without TLS");
    let server = Scripted::start(&lab, &image, |asked, _| Answer::status(302).with("Location", asked.path.clone()));
    pull(&lab, &server.reference()).fails(1).says("more than 5 redirects");
    assert_nothing_visible(&lab);
}

#[test]
fn others_than_the_loopback_must_prove_who_they_are() {
    let lab = Lab::new("tls");
    lab.sh("ip address add 192.0.2.1/32 dev lo
         openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=registry \
             -addext subjectAltName=IP:192.0.2.1 -addext basicConstraints=critical,CA:FALSE 2>&1")
        .succeeds();
    let at = |name: &str| lab.work().join(name).display().to_string();
    let config = format!(
        "http: {{addr: \"192.0.2.1:5443\", tls: {{certificate: \"{}\", key: \"{}\"}}}}\n",
        at("cert.pem"),
        at("key.pem")
    );
    let registry = Registry::with_config(&lab, "192.0.2.1:5443", &config);
    let reference = registry.reference("busybox");
    pull(&lab, &reference).fails(1).says("certificate").says("SSL_CERT_FILE=");
    assert_nothing_visible(&lab);
    lab.tool("mocker-pull").env("SSL_CERT_FILE", at("cert.pem")).arg(&reference).run().succeeds();

    // Plain HTTP is not tried with them, even if that is all they speak.
    let plain = Registry::with_config(&lab, "192.0.2.1:5080", "http: {addr: \"192.0.2.1:5080\"}\n");
    pull(&lab, &plain.reference("busybox")).fails(1).says("does not speak TLS");
}

// What breaks on the way.

#[test]
fn a_download_goes_on_where_the_connection_broke() {
    let lab = Lab::new("resume");
    let image = Image::demo(&lab, "nginx");
    let (digest, size) = layer_of(&image);
    let cut = digest.clone();
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&cut) {
        true if asked.earlier < 2 => Answer { cut: Some(size / 3), ..part_of(asked, answer) },
        true => part_of(asked, answer),
        false => answer,
    });
    pull(&lab, &server.reference()).succeeds().says("asking again");
    let ranges: Vec<_> = server.log().into_iter().filter(|asked| asked.path.ends_with(&digest)).collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[1].header("range"), Some(&*format!("bytes={}-", size / 3)));
    assert_clean(&lab);
}

#[test]
fn a_registry_that_begins_anew_instead_of_going_on_is_understood() {
    let lab = Lab::new("anew");
    let image = Image::demo(&lab, "nginx");
    let (digest, size) = layer_of(&image);
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&digest) {
        true if asked.earlier == 0 => Answer { cut: Some(size / 2), ..answer },
        _ => answer,
    });
    pull(&lab, &server.reference()).succeeds();
    assert_clean(&lab);
}

#[test]
fn another_part_than_the_one_asked_for_is_refused() {
    let lab = Lab::new("range");
    let image = Image::demo(&lab, "nginx");
    let (digest, size) = layer_of(&image);
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&digest) {
        true if asked.earlier == 0 => Answer { cut: Some(size / 2), ..answer },
        true => Answer { status: 206, ..answer }.with("Content-Range", format!("bytes 7-{}/{size}", size - 1)),
        false => answer,
    });
    pull(&lab, &server.reference()).fails(1).says("another part than was asked for");
    assert_nothing_visible(&lab);
}

#[test]
fn a_registry_in_trouble_is_asked_again_as_it_wishes_and_not_for_ever() {
    let lab = Lab::new("busy");
    let image = Image::demo(&lab, "busybox");
    let busy = Scripted::start(&lab, &image, |asked, answer| match asked.earlier {
        0 if asked.is_manifest() => Answer::status(503),
        0 if asked.is_blob() => Answer::status(429).with("Retry-After", "1"),
        _ => answer,
    });
    let begun = Instant::now();
    pull(&lab, &busy.reference()).succeeds().says("503").says("429");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());

    let limit = Scripted::start(&lab, &image, |_, _| Answer::status(429).with("Retry-After", "7200"));
    let begun = Instant::now();
    pull(&lab, &limit.reference()).fails(1).says("429").says("wants to be asked again at 20");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(limit.log().len(), 1);

    let down = Scripted::start(&lab, &image, |_, _| Answer::status(500));
    pull(&lab, &down.reference()).fails(1).says("500").says("tried 5 times").says("in trouble");
    assert_eq!(down.log().len(), 5);
}

#[test]
fn a_registry_that_falls_silent_is_not_waited_for_for_ever() {
    let lab = Lab::new("silent");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |asked, answer| match asked.is_blob() && asked.earlier == 0 {
        true => Answer { pause: Duration::from_secs(30), ..answer },
        false => part_of(asked, answer),
    });
    let begun = Instant::now();
    lab.tool("mocker-pull").args(["--timeout", "1", &server.reference()]).run().succeeds().says("no answer in time");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_thrown_away() {
    let lab = Lab::new("damaged");
    let registry = lab.registry();
    let image = Image::demo_running(&registry, "nginx");
    let (digest, _) = layer_of(&image);
    pull(&lab, &registry.reference("busybox")).succeeds();
    for (name, change, says) in [
        ("a bit", (|bytes| bytes[5000] ^= 1) as fn(&mut Vec<u8>), "its digest is wrong"),
        ("the end", |bytes| bytes.truncate(bytes.len() - 5), "its descriptor says"),
        ("the beginning", |bytes| bytes[..4].fill(0), "its digest is wrong"),
        ("more", |bytes| bytes.extend([0; 4]), "its descriptor says"),
    ] {
        let whole = std::fs::read(registry.blob(&digest)).expect("the blob");
        registry.corrupt(&digest, change);
        let output = pull(&lab, &registry.reference("nginx")).fails(1).says(says).says(&digest[7..19]);
        assert_eq!(output.stdout, "", "{name}");
        registry.corrupt(&digest, |bytes| *bytes = whole);
        assert_eq!(images(&lab).len(), 1, "{name}");
        assert_clean(&lab);
    }
    pull(&lab, &registry.reference("nginx")).succeeds();
}

#[test]
fn a_blob_that_never_ends_and_one_that_ends_early_are_refused() {
    let lab = Lab::new("length");
    let image = Image::demo(&lab, "busybox");
    let (digest, size) = layer_of(&image);
    let longer = digest.clone();
    let server = Scripted::start(&lab, &image, move |asked, mut answer| {
        answer.endless = asked.path.ends_with(&longer);
        if answer.endless {
            answer.body.resize(size + 5_000_000, 0);
        }
        answer
    });
    pull(&lab, &server.reference()).fails(1).says("goes on after");
    let server = Scripted::start(&lab, &image, move |asked, mut answer| {
        answer.endless = asked.path.ends_with(&digest);
        if answer.endless {
            answer.body.truncate(1000);
        }
        answer
    });
    pull(&lab, &server.reference()).fails(1).says(&format!("it ended after 1000 of {size} bytes"));
    assert_nothing_visible(&lab);
}

#[test]
fn what_is_no_image_or_is_forged_is_refused_in_words() {
    let lab = Lab::new("forged");
    let image = Image::demo(&lab, "busybox");
    let manifest = image.manifest();
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        manifest
    };
    let cases = [
        (changed(|it| it["manifests"] = json!([])), "lists both layers and manifests"),
        (
            changed(|it| it["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json")),
            "it calls itself",
        ),
        (
            changed(|it| it["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")),
            "a helm chart, not a container image",
        ),
        (changed(|it| it["layers"][0]["mediaType"] = json!("application/vnd.in-toto+json")), "no layer of files"),
        (changed(|it| it["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")), "not 64 lower-case hex digits"),
        (changed(|it| it["layers"][0]["digest"] = it["config"]["digest"].clone()), "its descriptor says"),
        (changed(|it| it["layers"] = json!([])), "lists 0 layers, its config 1"),
        (changed(|it| it["config"]["size"] = json!(1 << 30)), "more than the 8388608"),
        (changed(|it| it["schemaVersion"] = json!(1)), "schema 1"),
        (json!({ "filler": "x".repeat(5 << 20) }), "larger than 4194304 bytes"),
    ];
    for (forged, says) in cases {
        let server = Scripted::start(&lab, &image, move |asked, answer| match asked.is_manifest() {
            true => Answer { body: forged.to_string().into_bytes(), ..answer },
            false => answer,
        });
        pull(&lab, &server.reference()).fails(1).says(says);
        assert_nothing_visible(&lab);
    }

    // Asked for by digest, a manifest has to be that one.
    let server = Scripted::start(&lab, &image, |_, mut answer| {
        answer.body.push(b' ');
        answer
    });
    let pinned = format!("{}@{}", server.reference(), image.digest());
    pull(&lab, &pinned).fails(1).says("the digest is wrong");
    assert_nothing_visible(&lab);
}

#[test]
fn what_is_not_there_is_said_with_what_to_try() {
    let lab = Lab::new("absent");
    let registry = lab.registry();
    let busybox = registry.reference("busybox");
    pull(&lab, &format!("{busybox}:nosuch"))
        .fails(1)
        .says("404")
        .says("no such tag, or no such repository")
        .says("tags/list");
    pull(&lab, &registry.reference("nosuch")).fails(1).says("404").says("private");
    pull(&lab, "127.0.0.1:1/x")
        .fails(1)
        .says("Connection refused (ECONNREFUSED)")
        .says("curl -v http://127.0.0.1:1/v2/");
    pull(&lab, "nosuch.invalid/x").fails(1).says("nosuch.invalid").says("name is misspelt");
    pull(&lab, "-").fails(2);
    pull(&lab, "A:b:c").fails(2).says("cannot read image reference");
    registry.stop();
    pull(&lab, &busybox).fails(1).says("Connection refused");
    assert_nothing_visible(&lab);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_what_was_there() {
    let lab = Lab::new("full");
    let registry = lab.registry();
    lab.sh("mkdir -p $MOCKER_ROOT && mount -t tmpfs -o size=16m none $MOCKER_ROOT").succeeds();
    pull(&lab, &registry.reference("busybox")).succeeds();
    pull(&lab, &registry.reference("nginx"))
        .fails(1)
        .says("No space left on device (ENOSPC)")
        .says("the disk (or the quota) is full");
    lab.sh("ls $MOCKER_ROOT/tmp | wc -l").prints("0\n");
    lab.sh("mocker-images --json | jq -r '.[].reference'; mocker-images verify").succeeds().prints("busybox");
    lab.sh("umount $MOCKER_ROOT").succeeds();
}

#[test]
fn interrupted_a_pull_dies_by_the_signal_and_leaves_nothing() {
    let lab = Lab::new("interrupted");
    let image = Image::demo(&lab, "nginx");
    let server = Scripted::start(&lab, &image, |asked, answer| Answer {
        pause: Duration::from_secs(if asked.is_blob() && answer.body.len() > 100_000 { 30 } else { 0 }),
        ..answer
    });
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let before = server.count(Asked::is_blob);
        let mut pulling = lab.tool("mocker-pull").arg(server.reference()).spawn();
        while server.count(Asked::is_blob) < before + 2 && !pulling.has_ended() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        pulling.signal_group(signal);
        let begun = Instant::now();
        pulling.wait().fails(128 + signal as i32);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_nothing_visible(&lab);
    }

    // Killed outright, it leaves a directory that the next `prune` finds; the next pull is not in its way.
    let mut pulling = lab.tool("mocker-pull").arg(server.reference()).spawn();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!pulling.has_ended());
    pulling.signal_group(Signal::SIGKILL);
    pulling.wait().fails(128 + 9);
    assert_eq!(images(&lab), Vec::<String>::new());
    lab.sh("mocker-images prune").succeeds();
    assert_nothing_visible(&lab);
    let registry = lab.registry();
    pull(&lab, &registry.reference("nginx")).succeeds();
    assert_clean(&lab);
}

#[test]
fn memory_does_not_grow_with_the_image() {
    let lab = Lab::new("memory");
    let registry = lab.registry();
    let reference = registry.reference("nginx");
    let measured = lab.sh(&format!(
        "/usr/bin/env python3 -c '
import resource, subprocess, sys
subprocess.run([\"mocker-pull\", \"--quiet\", \"{reference}\"], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'"
    ));
    let peak: u64 = measured.succeeds().stdout.trim().parse().expect("a number of KiB");
    assert!(peak < 40 << 10, "{peak} KiB");
}
