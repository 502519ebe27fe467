//! How a layer is compressed: read from its first bytes, whatever its type says.

use std::io::{BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::limits::Expansion;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// recognised, but no layer may be compressed so
    Foreign(&'static str),
}

/// How many bytes decide.
pub const MAGIC: usize = 6;

/// Tells the compression by the first bytes of a blob; there may be fewer than [`MAGIC`].
pub fn of(first: &[u8]) -> Compression {
    match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd, // a skippable frame comes first
        [b'B', b'Z', b'h', ..] => Compression::Foreign("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Foreign("xz"),
        _ => Compression::None,
    }
}

/// Reads what a blob holds, uncompressed, to its end. Gzip may have many members (pigz and eStargz write such) and zstd
/// many frames: a decoder that stops after the first would lose files without an error.
pub fn reader<'a>(compression: Compression, blob: impl BufRead + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    match compression {
        Compression::None => Ok(Box::new(blob)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(blob))),
        Compression::Zstd => Ok(Box::new(zstd::stream::read::Decoder::with_buffer(blob)?)),
        Compression::Foreign(name) => Err(std::io::Error::other(format!("it is compressed with {name}"))),
    }
}

/// The same for a blob of strangers: reading fails with an [`crate::error::Error`] where it swells too much.
pub fn bounded<'a>(
    compression: Compression,
    blob: impl BufRead + 'a,
    expansion: &Expansion,
) -> std::io::Result<Box<dyn Read + 'a>> {
    let content = reader(compression, Counted { blob, expansion: expansion.clone() })?;
    Ok(Box::new(Bounded { content, bytes: 0, expansion: expansion.clone() }))
}

/// A blob whose bytes are counted as they are used.
struct Counted<B> {
    blob: B,
    expansion: Expansion,
}

impl<B: BufRead> Read for Counted<B> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.blob.read(out).inspect(|count| self.expansion.used(*count))
    }
}

impl<B: BufRead> BufRead for Counted<B> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.blob.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.blob.consume(count);
        self.expansion.used(count);
    }
}

/// What comes out of it, up to where that is too much.
struct Bounded<R> {
    content: R,
    bytes: u64,
    expansion: Expansion,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.content.read(out)?;
        self.bytes += count as u64;
        self.expansion.check(self.bytes).map_err(std::io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(blob: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader(of(&blob[..blob.len().min(MAGIC)]), blob)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn every_member_and_every_frame_is_read() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..]].concat();
        let cases = [
            ("", b"".to_vec()),
            ("tar", b"tar".to_vec()),
            ("ab", [gzip(b"a"), gzip(b""), gzip(b"b")].concat()),
            ("ab", [zstd(b"a"), zstd(b"b")].concat()),
            ("ab", [skippable.clone(), zstd(b"a"), skippable.clone(), zstd(b"b"), skippable].concat()),
        ];
        for (expected, blob) in cases {
            assert_eq!(read(&blob).unwrap(), expected.as_bytes(), "{blob:?}");
        }
    }

    #[test]
    fn what_swells_too_much_is_an_error_before_it_is_there() {
        let zeros = vec![0; 8 << 20];
        let text: Vec<u8> = (0..2_000_000u32).flat_map(u32::to_le_bytes).collect();
        let limits = Limits { ratio: 200, ratio_from_bytes: 2 << 20, ..Limits::default() };
        let all = |blob: &[u8], limits: &Limits| {
            std::io::copy(&mut bounded(of(blob), blob, &Expansion::of(limits))?, &mut std::io::sink())
        };
        for bomb in [gzip(&zeros), zstd::encode_all(&zeros[..], 1).unwrap()] {
            let error = all(&bomb, &limits).unwrap_err().downcast::<crate::error::Error>().unwrap();
            assert!(error.what.contains("2.0MiB come out of"), "stopped late: {error}");
            // Its twins: below the floor, and trusted.
            assert_eq!(
                all(&bomb, &Limits { ratio_from_bytes: 8 << 20, ..limits.clone() }).unwrap(),
                zeros.len() as u64
            );
            assert_eq!(all(&bomb, &Limits { ratio: 1_000_000, ..limits.clone() }).unwrap(), zeros.len() as u64);
        }
        for honest in [gzip(&text), zstd::encode_all(&text[..], 1).unwrap(), text.clone()] {
            assert_eq!(all(&honest, &limits).unwrap(), text.len() as u64);
        }
    }

    #[test]
    fn what_ends_early_or_is_foreign_is_an_error() {
        let whole = gzip(&[7; 1000]);
        assert!(read(&whole[..whole.len() - 9]).is_err());
        assert!(read(b"\xfd7zXZ\0...").unwrap_err().to_string().contains("xz"));
        assert!(read(b"BZh9").is_err());
    }
}
