//! Sizes and times as people write them, and as tables print them.

use crate::error::Error;

/// Reads `256M`, `1.5G`, `1GiB`, `4096`: bytes, binary multiples, as docker's `--memory`.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let refused =
        || Error::new(format!("cannot read size '{text}'")).hint("256M, 1.5G, 1GiB and 4096 (bytes) are sizes");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(refused()),
    };
    let scale = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(refused);
    }
    let value = number.parse::<f64>().map_err(|_| refused())? * scale as f64;
    match value.is_finite() && value < 2f64.powi(63) {
        true => Ok(value as u64),
        false => Err(refused()),
    }
}

/// `153.9MiB`: one decimal, binary multiples, as in the seed's table.
pub fn format_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_docker_reads_them() {
        let cases = [
            ("4096", 4096),
            ("256M", 256 << 20),
            ("256mb", 256 << 20),
            ("1.5G", 3 << 29),
            ("1GiB", 1 << 30),
            ("0", 0),
            ("1k", 1024),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "M", "-1", "1X", "1..5G", "99999999999P", "1e3", "256 M B"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print_as_in_the_seed() {
        assert_eq!(format_size(161_375_846), "153.9MiB");
        assert_eq!(format_size(12), "12B");
        assert_eq!(format_size(0), "0B");
    }
}
