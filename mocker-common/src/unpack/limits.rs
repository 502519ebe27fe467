//! How much one layer may ask for. A layer comes from strangers, and a few kilobytes of tar can name a million files or
//! hold a terabyte: every bound is an option, and the error of the layer that goes over it names that option.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Args;

use super::notes::shown;
use crate::error::Error;
use crate::units::{format_size, parse_size};

/// The bounds, as options of a command line.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Limits on each layer, against hostile ones")]
pub struct Limits {
    /// All its files together, holes counted as if they were written
    #[arg(long = "max-layer-size", value_name = "SIZE", default_value = "1T", value_parser = parse_size)]
    pub total_bytes: u64,
    /// Its entries, and the directories made for them
    #[arg(long = "max-layer-entries", value_name = "N", default_value = "10000000")]
    pub entries: u64,
    /// Directories in each other
    // Removing a tree holds a descriptor for each, and a process has 1024 of them unless told otherwise.
    #[arg(long = "max-path-depth", value_name = "N", default_value = "256",
          value_parser = clap::value_parser!(u64).range(1..=900))]
    pub depth: u64,
    /// One long name or PAX header: each is read into memory whole
    #[arg(long = "max-header-size", value_name = "SIZE", default_value = "1M", value_parser = parse_size)]
    pub header_bytes: u64,
    /// Memory for the names of its directories, whiteouts and pending links
    #[arg(long = "max-names-size", value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub names_bytes: u64,
    /// How many times its compressed size it may hold (text is 4 to 10; gzip ends at 1030, zstd does not)
    #[arg(long = "max-layer-ratio", value_name = "N", default_value = "200",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub ratio: u64,
    /// Below this size the ratio does not matter: a file of zeros is honest, and so much any disk can bear
    #[arg(long = "max-ratio-from", value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub ratio_from_bytes: u64,
}

impl Default for Limits {
    /// Ten times what the largest images known have, and no more than a small machine can bear.
    fn default() -> Self {
        Limits {
            total_bytes: 1 << 40,
            entries: 10_000_000,
            depth: 256,
            header_bytes: 1 << 20,
            names_bytes: 256 << 20,
            ratio: 200,
            ratio_from_bytes: 1 << 30,
        }
    }
}

/// The layer's entry `path` goes over the limit of an option.
pub fn over_limit(path: &[u8], option: &str, limit: u64, of: &str) -> Error {
    Error::new(format!("cannot unpack '{}': it goes over the layer's limit of {limit} {of}", shown(path)))
        .why("a few kilobytes of hostile archive could otherwise fill the disk or the memory")
        .likely("the layer is hostile; no image is known that needs more")
        .hint(format!("if you trust it, a higher {option}"))
}

/// How far one layer swells: counted where it is decompressed, checked there and where its files are made, which may be
/// two threads.
#[derive(Clone, Debug)]
pub struct Expansion {
    ratio: u64,
    from_bytes: u64,
    compressed: Arc<AtomicU64>,
}

impl Expansion {
    /// Nothing is known of this layer yet.
    pub fn of(limits: &Limits) -> Self {
        Expansion { ratio: limits.ratio, from_bytes: limits.ratio_from_bytes, compressed: Arc::default() }
    }

    /// For a tar that no blob stands behind.
    pub fn unbounded() -> Self {
        Expansion { ratio: u64::MAX, from_bytes: u64::MAX, compressed: Arc::default() }
    }

    /// So many more bytes of the blob have been used.
    pub fn used(&self, bytes: usize) {
        self.compressed.fetch_add(bytes as u64, Relaxed);
    }

    /// Refuses `bytes` of content if what was used of the blob is too little for so much.
    pub fn check(&self, bytes: u64) -> Result<(), Error> {
        if bytes <= self.from_bytes {
            return Ok(());
        }
        let compressed = self.compressed.load(Relaxed);
        match bytes > compressed.saturating_mul(self.ratio) {
            true => Err(self.exceeded(bytes, compressed)),
            false => Ok(()),
        }
    }

    fn exceeded(&self, bytes: u64, compressed: u64) -> Error {
        let ratio = self.ratio;
        let (bytes, compressed) = (format_size(bytes), format_size(compressed));
        Error::new(format!(
            "cannot unpack the layer: {bytes} come out of {compressed}, more than {ratio} times as much"
        ))
        .why("a few kilobytes of hostile archive could otherwise fill the disk")
        .likely("a bomb; or nearly all of it is zeros, as in an empty disk image")
        .hint("if you trust it: --max-layer-ratio 100000, or --max-ratio-from 100G to let alone what is smaller")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn the_defaults_of_the_command_line_are_the_defaults() {
        assert_eq!(Line::try_parse_from(["x"]).map(|line| line.limits).ok(), Some(Limits::default()));
        let line = ["x", "--max-layer-size=256M", "--max-layer-ratio=7", "--max-path-depth=9", "--max-ratio-from=0"];
        let limits = Line::try_parse_from(line).map(|line| line.limits).unwrap();
        assert_eq!((limits.total_bytes, limits.ratio, limits.depth, limits.ratio_from_bytes), (256 << 20, 7, 9, 0));
        for bad in ["--max-layer-size=much", "--max-path-depth=0", "--max-path-depth=901", "--max-layer-ratio=0"] {
            assert!(Line::try_parse_from(["x", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ratio_matters_above_its_floor_only() {
        let limits = Limits { ratio: 10, ratio_from_bytes: 1000, ..Limits::default() };
        let expansion = Expansion::of(&limits);
        assert!(expansion.check(1000).is_ok() && expansion.check(1001).is_err());
        expansion.clone().used(101); // whoever has a clone counts for all
        assert!(expansion.check(1010).is_ok() && expansion.check(1011).is_err());
        assert!(Expansion::unbounded().check(u64::MAX).is_ok());
    }
}
