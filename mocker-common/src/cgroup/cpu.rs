//! Numbers of cpus, time slices and weights: the arithmetic of the cpu controller.

use crate::error::{Error, USAGE};

/// The span over which `--cpus` is counted, as docker's: 100 ms.
pub const PERIOD_US: i64 = 100_000;

/// Microseconds of cpu time a period for `--cpus 1.5`. More than the machine has is refused: it would be no limit.
pub fn quota_us(text: &str) -> Result<i64, Error> {
    let available = std::thread::available_parallelism().map_or(1, |number| number.get());
    let online = online_cpus().unwrap_or(available);
    let refused = |cause: String| Error::new(format!("cannot use --cpus {text}: {cause}")).status(USAGE);
    let range = format!("0.01 to {online} are possible on this machine");
    let cpus: f64 = text.parse().map_err(|_| refused(format!("not a number of cpus; {range}")))?;
    match cpus {
        _ if !cpus.is_finite() || cpus < 0.01 => Err(refused(range)),
        _ if cpus > online as f64 => Err(refused(format!("there are {online} cpus; {range}"))),
        _ => Ok((cpus * PERIOD_US as f64).round() as i64),
    }
}

/// How many cpus are online, whatever this process itself may use.
fn online_cpus() -> Option<usize> {
    count(&std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?)
}

/// How many a list names: `0-2,4` names 4 (cpuset(7), List format).
fn count(list: &str) -> Option<usize> {
    list.trim()
        .split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| last - first + 1)
        })
        .sum()
}

/// Refuses what is no list of numbers.
pub fn check_list(text: &str) -> Result<(), &'static str> {
    count(text).map(drop).ok_or("it is no list of numbers, such as 0-2,4")
}

/// v1 shares (2 to 262144) as a v2 weight (1 to 10000), so that 1024, what everybody has on v1, becomes 100, what
/// everybody has on v2. The formula is that of runc 1.3.2 and crun 1.23.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_share_becomes_the_usual_weight() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((3..262_144).step_by(97).all(|shares| weight(shares) <= weight(shares + 97)), "more never weighs less");
    }

    #[test]
    fn cpu_lists_are_counted() {
        for (list, number) in
            [("0", Some(1)), ("0-2,4\n", Some(4)), ("2-1", None), ("", None), ("a", None), ("0,", None)]
        {
            assert_eq!(count(list), number, "{list}");
        }
    }

    #[test]
    fn cpus_beyond_the_machine_or_none_are_refused_with_what_is_possible() {
        assert_eq!(quota_us("0.5").unwrap(), 50_000);
        for bad in ["0", "-1", "1000000", "nan", "inf", "two", ""] {
            let error = quota_us(bad).unwrap_err();
            assert!(error.what.contains("0.01 to"), "{}", error.what);
        }
    }
}
