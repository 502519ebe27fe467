//! RFC 3339 times as ages (`3 days`) and as docker prints them.

use std::time::{SystemTime, UNIX_EPOCH};

/// How long ago a time was, in the largest unit that fills once. None for what is no RFC 3339 time.
pub fn since(time: &str) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs() as i64;
    Some(in_words(now - instant(time)?.0))
}

/// The same in docker's words: `3 days ago`.
pub fn ago(time: &str) -> Option<String> {
    let age = since(time)?;
    Some(if age == "now" { age } else { format!("{age} ago") })
}

/// A time as docker prints it, in UTC: `2024-02-29 12:00:00 +0000 UTC`.
pub fn docker_time(time: &str) -> Option<String> {
    let (seconds, _) = instant(time)?;
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC"))
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

/// Seconds after 1970 and nanoseconds of `2024-02-29T12:00:00.123456789+01:00` (RFC 3339, section 5.6).
pub fn instant(time: &str) -> Option<(i64, u32)> {
    let (date, rest) = time.split_at_checked(10)?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok())?;
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let mut clock = clock.split(':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }

    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let nanoseconds = format!("{fraction:0<9}")[..9].parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let offset = number(hours)? * 3600 + number(minutes)? * 60;
            match zone.get(..1)? {
                "+" => offset,
                "-" => -offset,
                _ => return None,
            }
        }
    };
    Some((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanoseconds))
}

/// Days after 1970-01-01. The year is counted from March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse: year, month and day of a day after 1970-01-01.
fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let of_400 = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_400 + of_400 / 4 - of_400 / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    (era * 400 + of_400 + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
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
            assert_eq!(instant(text).map(|(seconds, _)| seconds), expected, "{text}");
        }
        assert_eq!(instant("1970-01-01T00:00:01.05Z"), Some((1, 50_000_000)));
        assert_eq!(instant("1970-01-01T00:00:01.1234567899Z"), Some((1, 123_456_789)));
    }

    #[test]
    fn a_day_is_the_date_it_was_made_of() {
        for day in (-800_000..800_000).step_by(37).chain([-1, 0, 59, 60, 11_016, 11_017, 19_782]) {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day, "{year}-{month}-{of_month}");
        }
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
