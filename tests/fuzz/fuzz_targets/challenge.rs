//! The WWW-Authenticate header: whatever a server writes there gives challenges or none, and never a scheme that is not
//! in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mocker_pull::registry::challenge::parse;

fuzz_target!(|header: &str| {
    for challenge in parse(header) {
        assert!(header.to_ascii_lowercase().contains(&challenge.scheme), "{header:?}: {:?}", challenge.scheme);
        challenge.get("realm");
    }
});
