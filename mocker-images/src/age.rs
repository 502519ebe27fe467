//! RFC 3339 times as ages (`3 days`) and as docker prints them.

use jiff::Timestamp;

/// How long ago a time was, in the largest unit that fills once. None for what is no RFC 3339 time.
pub fn since(time: &str) -> Option<String> {
    Some(in_words(Timestamp::now().as_second() - instant(time)?.as_second()))
}

/// The same in docker's words: `3 days ago`.
pub fn ago(time: &str) -> Option<String> {
    let age = since(time)?;
    Some(if age == "now" { age } else { format!("{age} ago") })
}

/// A time as docker prints it, in UTC: `2024-02-29 12:00:00 +0000 UTC`.
pub fn docker_time(time: &str) -> Option<String> {
    Some(instant(time)?.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
}

/// The moment that `2024-02-29T12:00:00.123456789+01:00` names (RFC 3339, section 5.6).
pub fn instant(time: &str) -> Option<Timestamp> {
    time.parse().ok()
}

fn in_words(seconds: i64) -> String {
    const UNITS: [(&str, i64); 6] = [
        ("year", 31_557_600),
        ("month", 2_629_800),
        ("week", 604_800),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
    ];
    for (unit, length) in UNITS {
        match seconds / length {
            1 => return format!("1 {unit}"),
            number @ 2.. => return format!("{number} {unit}s"),
            _ => {}
        }
    }
    "now".into() // a clock that is behind gives times to come
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_fractions_and_zones() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:00:00Z", Some(1_709_208_000)),
            ("2024-02-29T12:00:00.123456789+01:00", Some(1_709_204_400)),
            ("2000-03-01T00:00:00-00:30", Some(951_870_600)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2024-13-01T00:00:00Z", None),
            ("2024-02-29", None),
            ("2024-02-29T12:00:00", None),
            ("yesterday at noon", None),
            ("2024-02-29T12:00:00é", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(instant(text).map(Timestamp::as_second), expected, "{text}");
        }
    }

    #[test]
    fn times_print_as_docker_prints_them() {
        let cases = [
            ("2024-02-29T12:00:00.9+01:00", "2024-02-29 11:00:00 +0000 UTC"),
            ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00 +0000 UTC"),
        ];
        for (time, printed) in cases {
            assert_eq!(docker_time(time).unwrap(), printed);
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let cases = [
            (-5, "now"),
            (59, "now"),
            (60, "1 minute"),
            (7199, "1 hour"),
            (3 * 86_400, "3 days"),
            (1 << 31, "68 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(in_words(seconds), words);
        }
    }
}
