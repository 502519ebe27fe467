//! What the command lines of both tools share.

use std::time::Duration;

use mocker_common::error::Error;
use mocker_common::stage::HeldSignals;

/// How long a registry may be silent: `90`, `90s`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches('s').parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("1 to 86400 seconds".into()),
    }
}

/// Returns when a signal that ends a program has come: it is held back until nothing half-made is left.
pub async fn interrupted(signals: &HeldSignals) -> Error {
    loop {
        if let Some(signal) = signals.pending() {
            return Error::new(format!("interrupted by {signal}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
