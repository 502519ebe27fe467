//! Digests: `sha256:` and 64 lower-case hex digits, checked before one is ever used as a file name.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// SHA-256 of a small text. (Blobs and layers are hashed as they stream, by mocker-pull.)
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The digest of a blob as it is stored and sent (image-spec, descriptor.md, Digests).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    hex: String,
}

/// The digest of a layer's *uncompressed* tar (image-spec, config.md, `rootfs.diff_ids`). It is a type of its own
/// because a layer has both, they look alike, and taking one for the other finds nothing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiffId(pub Digest);

impl Digest {
    /// The 64 hex digits, safe as a file name.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, as docker shows them.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }

    /// From the 32 bytes a SHA-256 ends with.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Digest { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |cause: &str| {
            Error::new(format!("cannot use digest '{text}': {cause}"))
                .why("digests become file names in the store; anything but plain hex could name another file")
                .hint("a digest is sha256: and 64 digits of 0-9a-f")
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| refused("it names no algorithm"))?;
        match algorithm {
            "sha256" => {}
            "sha512" | "sha384" | "blake3" => return Err(refused("only sha256 is supported")),
            _ => return Err(refused("unknown algorithm")),
        }
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return Err(refused("not 64 lower-case hex digits"));
        }
        Ok(Digest { hex: hex.into() })
    }
}

impl FromStr for DiffId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(DiffId(text.parse()?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_name_another_file_is_refused() {
        let good = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        let upper = format!("sha256:{}", "A1".repeat(32));
        for bad in ["", "a1", "sha256:", "sha256:../../etc/passwd", "md5:00", &good[..70], &upper, "sha256:é"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
