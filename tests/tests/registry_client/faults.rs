//! Registries that break off, stall, refuse and lie: a pull ends right or with a clear error, and never with a bad store.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests::Lab;
use tests::scripted::{Answer, Asked, Image, Scripted};

use crate::{assert_store, layer_of, pull};

const MIB: usize = 1 << 20;

#[test]
fn a_registry_that_cuts_every_connection_after_a_mebibyte() {
    let lab = Lab::new("cut");
    let image = Image::demo(&lab, "nginx");
    let server = Scripted::start(&lab, &image, |asked, answer| {
        let answer = answer.part_for(asked);
        Answer { cut: (answer.body.len() > MIB).then_some(MIB), ..answer }
    });
    let reference = server.reference();
    pull(&lab, &reference).succeeds().says("asking again");
    assert_store(&lab, &[&format!("{reference}:latest")]);
    let (layer, size) = layer_of(&image);
    assert_eq!(server.count(|asked| asked.path.ends_with(&layer)), size.div_ceil(MIB));
}

#[test]
fn errors_at_random_are_outlasted() {
    let lab = Lab::new("random");
    let image = Image::demo(&lab, "layers");
    for seed in 1..4u64 {
        let state = Mutex::new(seed);
        // One answer of four is an error, by a generator that gives the same row each time (xorshift).
        let server = Scripted::start(&lab, &image, move |_, answer| {
            let mut state = state.lock().expect("no panic");
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            match *state % 4 {
                0 => Answer::status([500, 502, 503, 504][(*state >> 8) as usize % 4]),
                _ => answer,
            }
        });
        let reference = server.reference();
        pull(&lab, &reference).succeeds();
        assert_store(&lab, &[&format!("{reference}:latest")]);
        lab.sh(&format!("mocker-images rm {reference}; mocker-images prune")).succeeds();
    }
}

#[test]
fn bytes_that_drip_are_no_progress() {
    let lab = Lab::new("drip");
    let image = Image::demo(&lab, "busybox");
    let (layer, size) = layer_of(&image);
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&layer) {
        true => Answer { cut: Some(2), ..answer.part_for(asked) },
        false => answer,
    });
    pull(&lab, &server.reference())
        .fails(1)
        .says(&format!("the connection broke after 10 of {size} bytes (tried 5 times)"));
    assert_store(&lab, &[]);
}

#[test]
fn a_body_that_stalls_is_gone_on_with_from_where_it_stopped() {
    let lab = Lab::new("stall");
    let image = Image::demo(&lab, "busybox");
    let (layer, size) = layer_of(&image);
    let stalls = layer.clone();
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&stalls) {
        true if asked.earlier == 0 => Answer { pause: Duration::from_secs(30), ..answer },
        _ => answer.part_for(asked),
    });
    let reference = server.reference();
    lab.tool("mocker-pull").args(["--timeout", "1", &reference]).run().succeeds().says("no answer in time");
    let asked: Vec<Asked> = server.log().into_iter().filter(|asked| asked.path.ends_with(&layer)).collect();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some(&*format!("bytes={}-", size / 2)));
    assert_store(&lab, &[&format!("{reference}:latest")]);

    // One that stalls each time is given up.
    let stalls = layer.clone();
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&stalls) {
        true => Answer { pause: Duration::from_secs(60), cut: Some(10), ..answer },
        false => answer,
    });
    lab.sh(&format!("mocker-images rm {reference}; mocker-images prune")).succeeds();
    lab.tool("mocker-pull")
        .args(["--timeout", "1", &server.reference()])
        .run()
        .fails(1)
        .says("(tried 5 times)")
        .says("--timeout");
    assert_store(&lab, &[]);
}

#[test]
fn a_registry_that_knows_no_ranges_or_wrong_ones_is_asked_for_the_whole() {
    let lab = Lab::new("ranges");
    let image = Image::demo(&lab, "busybox");
    let (layer, size) = layer_of(&image);
    type Rest = fn(Answer, usize) -> Answer;
    let cases: [(&str, Rest); 4] = [
        ("416", |_, size| Answer::status(416).with("Content-Range", format!("bytes */{size}"))),
        ("another start", |answer, size| {
            Answer { status: 206, ..answer }.with("Content-Range", format!("bytes 7-{}/{size}", size - 1))
        }),
        ("no range", |answer, _| Answer { status: 206, ..answer }),
        ("the whole", |answer, _| answer),
    ];
    for (name, rest) in cases {
        let layer = layer.clone();
        let server = Scripted::start(&lab, &image, move |asked, answer| {
            match (asked.path.ends_with(&layer), asked.header("range")) {
                (true, Some(_)) => rest(answer, size),
                (true, None) if asked.earlier == 0 => Answer { cut: Some(size / 2), ..answer },
                _ => answer,
            }
        });
        let reference = server.reference();
        let output = pull(&lab, &reference);
        assert_eq!(output.code(), 0, "{name}: {output}");
        assert_store(&lab, &[&format!("{reference}:latest")]);
        lab.sh(&format!("mocker-images rm {reference}; mocker-images prune")).succeeds();
    }
}

#[test]
fn a_blob_that_is_another_s_is_refused() {
    let lab = Lab::new("swapped");
    let image = Image::demo(&lab, "nginx");
    let layers = image.manifest()["layers"].clone();
    let digest = |at: usize| layers[at]["digest"].as_str().expect("text").to_string();
    let (first, second) = (digest(0), digest(1));
    let bytes = image.blob(&first).expect("a blob");
    let length = layers[1]["size"].as_u64().expect("a size") as usize;
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.path.ends_with(&second) {
        // The right length, the wrong bytes; and a registry that says that they are right.
        true => Answer { body: bytes[..length].to_vec(), ..answer }.with("Docker-Content-Digest", second.clone()),
        false => answer,
    });
    pull(&lab, &server.reference()).fails(1).says("its digest is wrong").says(&digest(1)[7..19]);
    assert_store(&lab, &[]);
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, so many seconds from now.
fn http_date(lab: &Lab, seconds: u64) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + seconds;
    lab.sh(&format!("date --utc --date @{at} '+%a, %d %b %Y %T GMT'")).succeeds().stdout.trim().into()
}

#[test]
fn a_wish_to_wait_is_heeded_as_a_date_too() {
    let lab = Lab::new("date");
    let image = Image::demo(&lab, "busybox");
    let soon = http_date(&lab, 3);
    let server = Scripted::start(&lab, &image, move |asked, answer| match asked.earlier {
        0 if asked.is_manifest() => Answer::status(429).with("Retry-After", soon.clone()),
        _ => answer,
    });
    let begun = Instant::now();
    pull(&lab, &server.reference()).succeeds().says("429 Too Many Requests; asking again in");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());

    let late = http_date(&lab, 7200);
    let server = Scripted::start(&lab, &image, move |_, _| Answer::status(503).with("Retry-After", late.clone()));
    pull(&lab, &server.reference()).fails(1).says("503").says("wants to be asked again at 20");
    assert_eq!(server.log().len(), 1);
}

#[test]
fn a_limit_that_is_reached_is_told_with_whose_and_what_to_do() {
    let lab = Lab::new("limit");
    let image = Image::demo(&lab, "busybox");
    let server = Scripted::start(&lab, &image, |_, _| {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        Answer { body: body.to_vec(), ..Answer::status(429) }
            .with("RateLimit-Limit", "100;w=21600")
            .with("RateLimit-Remaining", "0;w=21600")
            .with("Docker-RateLimit-Source", "192.0.2.7")
    });
    pull(&lab, &server.reference())
        .fails(1)
        .says("TOOMANYREQUESTS: You have reached your pull rate limit.")
        .says("100 pulls within 6 h are given to strangers from this address, counted as 192.0.2.7; 0 are left")
        .says(&format!("docker login {}", server.address))
        .says("mirrors = [");
    // What is used up for six hours does not come back in seconds.
    assert_eq!(server.log().len(), 1);
    assert_store(&lab, &[]);
}
