//! The whole unpacker, on a real directory: whatever the tar says, nothing beside the layer's directory changes.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mocker_common::unpack::{Limits, unpack};

fuzz_target!(|tar: &[u8]| {
    let scratch = std::env::temp_dir().join(format!("mocker-fuzz-{}", std::process::id()));
    let (layer, beside) = (scratch.join("layer"), scratch.join("beside"));
    fs::create_dir_all(&layer).expect("a directory");
    fs::create_dir_all(&beside).expect("a directory");
    fs::write(beside.join("canary"), "alive").expect("a file");
    let before = seen(&scratch);

    let limits = Limits { entries: 1000, total_bytes: 1 << 20, ..Limits::default() };
    if unpack(tar, &layer, &limits).is_ok() {
        assert!(layer.is_dir());
    }
    assert_eq!(seen(&scratch), before, "something beside the layer has changed");
    fs::remove_dir_all(&scratch).expect("what was unpacked can be removed");
});

/// What lies beside the layer, in all that could be changed of it.
fn seen(scratch: &Path) -> Vec<String> {
    let names = |directory: &Path| {
        let mut names: Vec<_> = fs::read_dir(directory).expect("a directory").flatten().map(|it| it.path()).collect();
        names.sort();
        names
    };
    let mut all = names(scratch);
    all.extend(names(&scratch.join("beside")));
    let told = all.iter().filter(|path| !path.ends_with("layer")).map(|path| {
        let it = fs::symlink_metadata(path).expect("it was just listed");
        let content = fs::read_to_string(path).unwrap_or_default();
        format!("{} {:o} {} {} {} {content}", path.display(), it.mode(), it.uid(), it.nlink(), it.mtime())
    });
    told.collect()
}
