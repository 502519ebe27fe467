//! The time of day as images and the store write it: RFC 3339, in UTC.

use std::time::SystemTime;

use jiff::Timestamp;

/// `2026-11-24T13:38:18Z`: to the second, which is what docker and the registries write at least.
pub fn rfc3339(time: SystemTime) -> String {
    let whole = Timestamp::try_from(time).and_then(|time| Timestamp::from_second(time.as_second()));
    whole.unwrap_or_default().to_string()
}

/// `2026-11-24T13:38:18.000000005Z`: the time at which a container was made, as runc writes it.
pub fn rfc3339_nanoseconds(time: SystemTime) -> String {
    format!("{:.9}", Timestamp::try_from(time).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_print_as_date_does() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_527_498, "2026-11-24T13:38:18Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            let time = UNIX_EPOCH + Duration::new(seconds, 5);
            assert_eq!(rfc3339(time), text);
            assert_eq!(rfc3339_nanoseconds(time), text.replace('Z', ".000000005Z"));
        }
    }
}
