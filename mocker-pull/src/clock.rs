//! Dates: as the store writes them (RFC 3339) and as HTTP does (RFC 9110, IMF-fixdate). All in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `2026-11-24T13:38:18Z`
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = date_of(seconds / DAY);
    let rest = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers still send.
pub fn http_date(text: &str) -> Option<SystemTime> {
    let mut words = text.split_once(',')?.1.split_ascii_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 61));
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let legal = words.next() == Some("GMT") && (1..=31).contains(&day) && (1970..=9999).contains(&year) && hours < 24;
    if !legal {
        return None; // before it is reckoned with: a year of twenty digits overflows
    }
    let seconds = days_before(year, month, day)? * DAY + hours * 3600 + minutes * 60 + seconds;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day is a
/// year's last, in eras of 400 years, which all have the same number of days.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day - (153 * shifted + 2) / 5 + 1)
}

/// The inverse: days from 1970-01-01.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_and_read_as_date_does() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_527_498, "2026-11-24T13:38:18Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let example = http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(example, Some(UNIX_EPOCH + Duration::from_secs(784_111_777)));
        for bad in ["", "soon", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "x, 1 Jan 0 0:0:0 GMT"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_day_is_its_date_s_day(days in 0u64..2_900_000) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_before(year, month, day), Some(days));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".*, [0-9]{1,20} (Jan|Feb) [0-9]{1,20} [0-9:]{1,30} GMT") {
            http_date(&text);
        }
    }
}
