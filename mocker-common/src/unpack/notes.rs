//! What a layer's tar left open, kept beside its directory as JSON.
//!
//! A layer is unpacked alone and shared by every image that has it, so it cannot know the layers below. What it would
//! have had to ask them is written down here; [`super::fixup`] answers once the stack is known.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The open questions of one layer, and its size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notes {
    /// Entries of the tar, and directories made though no entry named them.
    pub entries: u64,
    /// The files' sizes, holes included.
    pub bytes: u64,
    /// Directories that had to be there but that no entry names: mode, owner and times were invented.
    #[serde(default)]
    pub implicit: Vec<LayerPath>,
    /// Hard links whose target is in no entry of this tar: it must be in a layer below.
    #[serde(default)]
    pub links: Vec<LowerLink>,
    /// Directories that hold whiteouts. Overlayfs hides a whiteout only in a directory that it merges.
    #[serde(default)]
    pub whiteouts: Vec<LayerPath>,
    /// Some directory of the layer is opaque.
    #[serde(default)]
    pub opaque: bool,
    /// `.wh..wh..opq` stood at the top: nothing of the layers below is visible. Overlayfs knows no opaque root.
    #[serde(default)]
    pub opaque_root: bool,
    /// Extended attributes left out because the store's file system takes none of their kind.
    #[serde(default)]
    pub xattrs_left_out: u64,
    /// Device nodes left out because only the machine's root may make them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub devices_left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A hard link to a file of a lower layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LowerLink {
    pub path: LayerPath,
    pub target: LayerPath,
}

/// A path below a layer's root: no leading `/`, no `.` or `..`, any bytes but NUL; empty for the root itself.
///
/// JSON holds it as text, bytes that are not UTF-8 (and `%`) as `%XX`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LayerPath(pub Vec<u8>);

impl From<LayerPath> for String {
    fn from(path: LayerPath) -> String {
        let mut text = String::new();
        for chunk in path.0.utf8_chunks() {
            text += &chunk.valid().replace('%', "%25");
            text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
        }
        text
    }
}

impl TryFrom<String> for LayerPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (byte, rest) = part
                .split_at_checked(2)
                .and_then(|(digits, rest)| Some((u8::from_str_radix(digits, 16).ok()?, rest)))
                .ok_or_else(|| format!("'{text}' has a % without two hex digits"))?;
            bytes.push(byte);
            bytes.extend_from_slice(rest.as_bytes());
        }
        Ok(LayerPath(bytes))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A name out of a tar, safe to print: a layer must not be able to move the cursor of who reads the error.
pub fn shown(name: &[u8]) -> String {
    let escape = |c: char| -> String { if c.is_control() { c.escape_default().collect() } else { c.into() } };
    match name {
        b"" => "/".into(),
        _ => String::from_utf8_lossy(name).chars().map(escape).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_utf8_survive_the_notes() {
        for bytes in [&b""[..], b"usr/bin", b"100%", b"caf\xe9/\xff%", "é/ü".as_bytes(), b"%2F"] {
            let path = LayerPath(bytes.to_vec());
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<LayerPath>(&json).unwrap(), path, "{json}");
        }
        for bad in ["%", "%4", "%zz", "%é"] {
            assert!(LayerPath::try_from(bad.to_string()).is_err(), "{bad}");
        }
        assert_eq!(shown(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
