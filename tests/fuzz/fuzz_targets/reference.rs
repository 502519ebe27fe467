//! References: what reads must read back the same, and what it gives must be safe in paths and URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mocker_common::reference::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    let full = reference.to_string();
    assert_eq!(full.parse::<Reference>().ok().as_ref(), Some(&reference), "{text:?} is {full:?}, and that is another");
    assert_eq!(reference.familiar_name().parse::<Reference>().map(|it| it.name()).ok(), Some(reference.name()));
    let parts = [&reference.registry, &reference.repository, &reference.selector()];
    for part in parts {
        assert!(!part.is_empty() && !part.split('/').any(|name| matches!(name, "" | "." | "..")), "{text:?}: {part:?}");
        assert!(!part.contains(|c: char| c.is_control() || c.is_whitespace() || "?#%\\".contains(c)), "{text:?}: {part:?}");
    }
});
