//! Manifests and indexes: any JSON is either refused or gives descriptors whose digests are safe as file names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mocker_common::image::Config;
use mocker_pull::manifest::{Manifest, kind};
use mocker_pull::platform::{Platform, choose, offered};
use serde_json::Value;

// The first line is the Content-Type, the rest the document.
fuzz_target!(|input: &[u8]| {
    let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (content_type, bytes) = input.split_at(line);
    let content_type = std::str::from_utf8(content_type).ok().filter(|text| !text.is_empty());
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return };
    let _ = kind(content_type, &json);
    if let Some(descriptors) = json["manifests"].as_array() {
        let wanted = Platform::of_this_machine();
        assert!(choose(descriptors, &wanted).is_none_or(|picked| descriptors.contains(picked)));
        offered(descriptors);
    }
    let Ok(manifest) = Manifest::read(&json) else { return };
    for part in manifest.layers.iter().chain([&manifest.config]) {
        assert!(part.digest.hex().len() == 64 && part.digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        let _ = manifest.layers_of(&config);
    }
});
