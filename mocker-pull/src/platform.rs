//! Platforms: what this machine is, and which image of an index is for it.
//!
//! Names are Go's (`amd64`, not `x86_64`), as in the image specification. Source: image-spec, image-index.md,
//! Platform Variants.

use std::fmt;
use std::str::FromStr;

use mocker_common::error::Error;
use serde_json::Value;

/// `linux/arm/v7`: an operating system, an architecture, and how new a processor it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this runs on.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            other => other,
        };
        let mut platform = Platform::new("linux", architecture, None);
        if platform.architecture == "amd64" {
            platform.variant = Some(format!("v{}", amd64_level()));
        }
        platform
    }

    /// What an index or a config says; None where it names no architecture.
    pub fn of_json(json: &Value) -> Option<Self> {
        let architecture = json["architecture"].as_str().filter(|text| !text.is_empty())?;
        let os = json["os"].as_str().filter(|text| !text.is_empty()).unwrap_or("linux");
        Some(Platform::new(os, architecture, json["variant"].as_str().filter(|text| !text.is_empty())))
    }

    /// Brings the spellings in use to the one of the specification.
    fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "armhf" | "armv7l" | "armv7" => ("arm", Some("v7")),
            "armel" | "armv6l" | "armv6" => ("arm", Some("v6")),
            "i386" | "i686" | "x86" => ("386", None),
            "powerpc64le" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            "riscv64gc" => ("riscv64", None),
            other => (other, None),
        };
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.or(implied).map(str::to_string) }
    }

    /// The level of the variant: 3 for `v3`. What is implied without one: v1 for amd64, v7 for arm, v8 for arm64.
    fn level(&self) -> Option<u32> {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => variant.strip_prefix('v')?.split('.').next()?.parse().ok(),
            (None, "arm") => Some(7),
            (None, "arm64") => Some(8),
            (None, _) => Some(1),
        }
    }

    /// How well an image for `offered` runs on this platform: None if not at all; the newest that runs is the best.
    fn runs(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        match (self.level(), offered.level()) {
            (Some(own), Some(needed)) => (needed <= own).then_some(needed),
            _ => (self.variant == offered.variant).then_some(0),
        }
    }

    /// Whether a config says it is for this operating system and architecture.
    pub fn has_architecture_of(&self, config: &Platform) -> bool {
        self.os == config.os && self.architecture == config.architecture
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        match (&parts[..], parts.iter().all(legal)) {
            ([os, architecture], true) => Ok(Platform::new(os, architecture, None)),
            ([os, architecture, variant], true) => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(Error::new(format!("cannot read platform '{text}'"))
                .hint("linux/amd64, linux/arm64 and linux/arm/v7 are platforms")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Picks the descriptor of an index that runs best on `wanted`; of equals, the first.
///
/// Entries of `unknown/unknown` are attestations about images, not images. One that names no platform is taken only
/// where nothing else fits: its config decides later.
pub fn choose<'a>(descriptors: &'a [Value], wanted: &Platform) -> Option<&'a Value> {
    let mut best: Option<(u32, &Value)> = None;
    for descriptor in descriptors {
        let runs = Platform::of_json(&descriptor["platform"]).and_then(|offered| wanted.runs(&offered));
        if let Some(score) = runs
            && best.is_none_or(|(other, _)| score > other)
        {
            best = Some((score, descriptor));
        }
    }
    let unnamed = || descriptors.iter().find(|descriptor| descriptor["platform"].is_null());
    best.map(|(_, descriptor)| descriptor).or_else(unnamed)
}

/// The platforms that an index has, for the error that says it has not the right one.
pub fn offered(descriptors: &[Value]) -> String {
    let mut all: Vec<String> = descriptors
        .iter()
        .filter_map(|descriptor| Platform::of_json(&descriptor["platform"]))
        .filter(|platform| platform.os != "unknown")
        .map(|platform| platform.to_string())
        .collect();
    all.dedup();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// The level of x86-64 this processor has: v2 since 2009, v3 (AVX2) since 2013, v4 (AVX-512). Source: the x86-64 psABI.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma") && has!("lzcnt");
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v3 && avx512) {
        (_, _, true) => 4,
        (_, true, _) => 3,
        (true, _, _) => 2,
        _ => 1,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index(platforms: &[&str]) -> Vec<Value> {
        let describe = |text: &&str| match text.parse::<Platform>() {
            Ok(platform) => json!({ "digest": text, "platform": {
                "os": platform.os, "architecture": platform.architecture, "variant": platform.variant } }),
            Err(_) => json!({ "digest": text }),
        };
        platforms.iter().map(describe).collect()
    }

    #[test]
    fn the_newest_image_that_this_machine_runs_is_picked() {
        let cases: [(&str, &[&str], &str); 15] = [
            ("linux/amd64", &["linux/arm64", "linux/amd64"], "linux/amd64"),
            ("linux/arm64", &["linux/arm64/v8", "linux/amd64"], "linux/arm64/v8"),
            ("linux/arm64/v8", &["linux/arm64"], "linux/arm64"),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
            ("linux/arm", &["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
            ("linux/arm/v6", &["linux/arm/v7"], ""),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"],
                "linux/amd64/v3",
            ),
            ("linux/amd64/v2", &["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
            ("linux/amd64", &["linux/amd64/v2"], ""),
            ("linux/amd64", &["windows/amd64", "unknown/unknown"], ""),
            ("linux/amd64", &["linux/386", "-"], "-"),
            ("linux/amd64", &["-", "linux/amd64"], "linux/amd64"),
            ("linux/amd64", &["linux/x86_64"], "linux/x86_64"),
            ("linux/arm", &["linux/armhf"], "linux/armhf"),
            ("linux/s390x", &[], ""),
        ];
        for (wanted, offered, expected) in cases {
            let index = index(offered);
            let picked = choose(&index, &wanted.parse().unwrap()).map_or("", |entry| entry["digest"].as_str().unwrap());
            assert_eq!(picked, expected, "{wanted} of {offered:?}");
        }
    }

    #[test]
    fn attestations_are_not_platforms() {
        assert_eq!(offered(&index(&["linux/arm64/v8", "unknown/unknown", "-"])), "linux/arm64/v8");
        assert_eq!(offered(&[]), "none");
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/amd64/v3/x", "linux/a b", "linux//v7"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!("linux/aarch64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
    }
}
