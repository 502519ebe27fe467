//! The layer reader alone: any bytes are a tar or an error, and memory does not follow what headers promise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mocker_common::unpack::member::Members;

fuzz_target!(|tar: &[u8]| {
    let mut members = Members::new(tar, 1 << 20);
    let mut count = 0;
    while let Ok(Some(member)) = members.next_member() {
        count += 1;
        assert!(member.mode <= 0o7777 && member.path.len() <= 1 << 20 && member.uid != u32::MAX);
        while members.data(1 << 16).is_ok_and(|data| !data.is_empty()) {}
    }
    assert!(count <= tar.len() / 512 + 1);
});
