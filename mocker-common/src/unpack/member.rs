//! A tar stream, member by member: headers and their extensions in, plain facts and the bytes out.
//!
//! Only this file knows the format: ustar, GNU (long names, base-256 numbers, sparse), PAX. The `tar` crate gives the
//! layout of a header. Its own iterator is not used: it reads a long name of two gigabytes into memory, and it does
//! not let a PAX `size` decide where the next header stands, so that a hostile archive would show other tools other
//! files than us. Where implementations differ, docker's (Go's archive/tar) decides: images are made for it.
//! Source: pax(1) of POSIX, GNU tar manual "Tar Internals".

use std::io::Read;

use crate::error::{Error, failed};

use super::notes::shown;
use super::sparse::{self, Piece};

/// The unit of a tar: headers fill one, data is padded to whole ones.
pub const BLOCK: usize = 512;

/// What is read at once: small enough to be still in the processor's cache when it is written, large enough to save
/// system calls. (256 KiB took a quarter more time.)
const BUFFER: usize = 64 * 1024;

/// The names of a file's attributes fit in 64 KiB (listxattr(2)); looking for doubles among more would only take time.
const MAX_XATTRS: usize = 1000;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Character,
    Block,
    Fifo,
    /// A socket, a volume label: nothing that an image could use.
    Nothing,
}

/// Seconds since 1970 and nanoseconds above them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// One member, all extensions applied.
#[derive(Clone, Debug)]
pub struct Member {
    /// As the archive has it: not yet clean.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid, sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// The file's size, holes included.
    pub size: u64,
    pub device: (u32, u32),
    /// Names without `SCHILY.xattr.`, values of any bytes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong, for a sparse file.
    pub pieces: Option<Vec<Piece>>,
}

/// A tar stream being read.
pub struct Members<R> {
    source: Source<R>,
    /// Largest long name or PAX header accepted.
    header_limit: u64,
    /// What a global PAX header set for all that follows.
    global: Extension,
    /// Bytes of the current member's data that nobody has read yet, and the padding after them.
    data: u64,
    padding: u64,
}

impl<R: Read> Members<R> {
    pub fn new(reader: R, header_limit: u64) -> Self {
        Members {
            source: Source { reader, buffer: vec![0; BUFFER].into(), start: 0, end: 0 },
            header_limit,
            global: Extension::default(),
            data: 0,
            padding: 0,
        }
    }

    /// The next member; what is left of the one before is skipped. None at the end of the archive.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        let mut extension = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip(self.data)?;
            // Some tools (umoci insert) leave out what pads the last file; nothing is lost by it.
            let is_cut = !self.skip_padding()?;
            (self.data, self.padding) = (0, 0);
            let Some(header) = (if is_cut { None } else { self.header()? }) else {
                return match extended {
                    true => Err(damaged("it ends after an extended header, before the file this belongs to")),
                    false => Ok(None),
                };
            };
            let size = field(header.as_old().size.as_slice(), "size")?;
            let type_flag = header.as_old().linkflag[0];
            if matches!(type_flag, b'x' | b'X' | b'g' | b'L' | b'K') {
                let content = self.extended_header(size)?;
                extended |= type_flag != b'g';
                match type_flag {
                    b'L' => long_name = Some(until_nul(&content).to_vec()),
                    b'K' => long_link = Some(until_nul(&content).to_vec()),
                    b'g' => {
                        self.global.take(&content, true).map_err(damaged)?;
                        self.global.check_size(self.header_limit)?;
                        extension = self.global.clone();
                    }
                    _ => {
                        extension = self.global.clone();
                        extension.take(&content, false).map_err(damaged)?;
                    }
                }
                continue;
            }
            let path = long_name.or(extension.path.take());
            let link = long_link.or(extension.link.take());
            return self.member(&header, path, link, extension).map(Some);
        }
    }

    /// Makes a member of its header and extensions, and leaves the stream at the first byte of its data.
    fn member(
        &mut self,
        header: &tar::Header,
        path: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
        extension: Extension,
    ) -> Result<Member, Error> {
        let old = header.as_old();
        let path = path.unwrap_or_else(|| header_path(header));
        let named = |error: Error| error.while_doing(format_args!("'{}'", shown(&path)));
        let numeric = |bytes: &[u8], name: &str| field(bytes, name).map_err(named);

        let raw_mode = numeric(&old.mode, "mode")? as u32;
        let (kind, has_data) = kind(old.linkflag[0], raw_mode, &path).ok_or_else(|| {
            Error::new(format!(
                "cannot unpack '{}': entries of type '{}' are unknown",
                shown(&path),
                (old.linkflag[0] as char).escape_default()
            ))
            .why("skipping what is not understood would make another image than the one that was pushed")
        })?;

        let stored = match (has_data, extension.size) {
            (false, _) => 0,
            (true, Some(size)) => size,
            (true, None) => numeric(&old.size, "size")?,
        };
        self.data = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;

        let owner = |extended: Option<u64>, bytes: &[u8], name: &str| -> Result<u32, Error> {
            let id = extended.map_or_else(|| numeric(bytes, name), Ok)?;
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(Error::new(format!("cannot unpack '{}': {name} {id} is no owner", shown(&path)))
                    .likely("ids end at 4294967294; the kernel takes the next one for \"leave as it is\"")),
            }
        };
        let device = match kind {
            Kind::Character | Kind::Block => device(header).map_err(named)?,
            _ => (0, 0),
        };
        let mtime = match extension.mtime {
            Some(time) => time,
            None => Time {
                seconds: number(&old.mtime)
                    .and_then(|seconds| i64::try_from(seconds).ok())
                    .ok_or_else(|| named(damaged("the field mtime is no number")))?,
                nanoseconds: 0,
            },
        };

        let mut member = Member {
            kind,
            link: link.unwrap_or_else(|| until_nul(&old.linkname).to_vec()),
            mode: raw_mode & 0o7777,
            uid: owner(extension.uid, &old.uid, "uid")?,
            gid: owner(extension.gid, &old.gid, "gid")?,
            mtime,
            size: stored,
            device,
            xattrs: extension.xattrs,
            pieces: None,
            path,
        };
        if kind == Kind::File {
            self.sparse(header, &extension.sparse, &mut member)?;
        }
        Ok(member)
    }

    /// Reads a sparse file's map, wherever this layout keeps it.
    fn sparse(&mut self, header: &tar::Header, records: &sparse::Records, member: &mut Member) -> Result<(), Error> {
        let bytes = header.as_bytes();
        let mut pieces = Vec::new();
        let real_size = if header.as_old().linkflag[0] == b'S' {
            // Four pieces at 386, "more follow" at 482, the real size at 483.
            sparse::old_gnu(&bytes[386..482], &mut pieces).map_err(damaged)?;
            let mut more = bytes[482] != 0;
            while more {
                let block = self.source.block()?.ok_or_else(truncated)?;
                sparse::old_gnu(&block[..504], &mut pieces).map_err(damaged)?;
                more = block[504] != 0;
                if pieces.len() > sparse::MAX_PIECES {
                    return Err(damaged("a sparse map has too many pieces"));
                }
            }
            Some(field(&bytes[483..495], "real size")?)
        } else if records.major == Some(1) {
            let mut preamble = sparse::Preamble::default();
            loop {
                if self.data < BLOCK as u64 {
                    return Err(damaged("a sparse map does not end before its file does"));
                }
                self.data -= BLOCK as u64;
                let block = self.source.block()?.ok_or_else(truncated)?;
                if preamble.take(&block[..]).map_err(damaged)? {
                    break;
                }
            }
            pieces = preamble.pieces().map_err(damaged)?;
            records.real_size
        } else if records.any() {
            pieces = records.pieces().map_err(damaged)?;
            records.real_size
        } else {
            return Ok(());
        };
        if let Some(name) = &records.name {
            member.path = name.clone(); // the header's own name is a made-up one, for tools that know no sparse files
        }
        member.size = real_size.ok_or_else(|| damaged("a sparse file does not tell its real size"))?;
        sparse::check(&pieces, self.data, member.size).map_err(|cause| {
            Error::new(format!("cannot unpack '{}': {cause}", shown(&member.path)))
                .why("bytes written where a broken map says would make another file than the one that was pushed")
        })?;
        member.pieces = Some(pieces);
        Ok(())
    }

    /// The next stretch of the current member's data, at most `limit` bytes; empty when all was read.
    pub fn data(&mut self, limit: u64) -> Result<&[u8], Error> {
        let wanted = self.data.min(limit);
        if wanted == 0 {
            return Ok(&[]);
        }
        if self.source.is_empty() && !self.source.fill()? {
            return Err(truncated());
        }
        let chunk = self.source.take(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.data -= chunk.len() as u64;
        Ok(chunk)
    }

    /// Reads on to the end of the stream: padding after the end marker counts for both digests of a layer.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.source.take(usize::MAX);
        while self.source.fill()? {
            self.source.take(usize::MAX);
        }
        Ok(())
    }

    /// The next header, its checksum verified. None at the end marker (two zero blocks) or where the stream ends.
    fn header(&mut self) -> Result<Option<tar::Header>, Error> {
        let Some(block) = self.source.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return match self.source.block()? {
                Some(next) if next.iter().any(|byte| *byte != 0) => {
                    Err(damaged("an empty block stands where only the end may follow"))
                }
                _ => Ok(None),
            };
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block[..]);
        let (unsigned, signed) = checksums(header.as_bytes());
        let written = number(&header.as_old().cksum).unwrap_or(-1);
        match written == i128::from(unsigned) || written == i128::from(signed) {
            true => Ok(Some(header)),
            false => Err(damaged("a header's checksum is wrong")),
        }
    }

    /// Reads a long name or a PAX header whole: the only place where the archive decides how much memory is used.
    fn extended_header(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > self.header_limit {
            return Err(Error::new(format!(
                "cannot unpack the layer: an extended header of {size} bytes is over the limit of {}",
                self.header_limit
            ))
            .why("it is read into memory whole, so its size must not be the archive's to choose")
            .hint("if you trust it, a higher --max-header-size"));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let mut content = Vec::new();
        loop {
            let chunk = self.data(u64::MAX)?;
            if chunk.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(chunk);
        }
    }

    /// False where the stream ends before the block is full.
    fn skip_padding(&mut self) -> Result<bool, Error> {
        while self.padding > 0 {
            if self.source.is_empty() && !self.source.fill()? {
                return Ok(false);
            }
            self.padding -= self.source.take(self.padding as usize).len() as u64;
        }
        Ok(true)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Error> {
        while bytes > 0 {
            if self.source.is_empty() && !self.source.fill()? {
                return Err(truncated());
            }
            bytes -= self.source.take(usize::try_from(bytes).unwrap_or(usize::MAX)).len() as u64;
        }
        Ok(())
    }
}

/// What PAX records say about members: one of its own, or (global) all that follow.
#[derive(Clone, Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Records,
}

impl Extension {
    /// Takes in the records of a PAX header. A global one sets owners, times and attributes; a path or a size for
    /// *all* files is nonsense that docker does not believe either.
    fn take(&mut self, content: &[u8], global: bool) -> Result<(), &'static str> {
        let mut rest = content;
        while let Some((key, value, behind)) = record(rest)? {
            rest = behind;
            let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| bytes.to_vec());
            let number = |bytes: &[u8]| match bytes {
                b"" => Ok(None), // an empty value takes a record back
                _ => sparse::decimal(bytes).map(Some).ok_or("a PAX record is not a number"),
            };
            match key {
                b"uid" => self.uid = number(value)?,
                b"gid" => self.gid = number(value)?,
                b"mtime" if value.is_empty() => self.mtime = None,
                b"mtime" => self.mtime = Some(time(value).ok_or("the PAX record mtime is no time")?),
                _ if key.starts_with(b"SCHILY.xattr.") => {
                    let name = &key[b"SCHILY.xattr.".len()..];
                    self.xattrs.retain(|(other, _)| other != name);
                    if self.xattrs.len() >= MAX_XATTRS {
                        return Err("one entry has more extended attributes than a file can");
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
                _ if global => {}
                b"path" => self.path = some(value),
                b"linkpath" => self.link = some(value),
                b"size" => self.size = number(value)?,
                _ => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        self.sparse.take(key, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check_size(&self, limit: u64) -> Result<(), Error> {
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        match bytes as u64 > limit {
            true => Err(Error::new(format!(
                "cannot unpack the layer: its global headers hold {bytes} bytes of attributes, the limit is {limit}"
            ))
            .hint("if you trust it, a higher --max-header-size")),
            false => Ok(()),
        }
    }
}

/// The reader and its buffer.
struct Source<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Source<R> {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Up to `limit` bytes of what is buffered.
    fn take(&mut self, limit: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from.saturating_add(limit));
        &self.buffer[from..self.start]
    }

    /// Reads once, behind what is buffered. False at the end of the stream.
    fn fill(&mut self) -> Result<bool, Error> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(bytes) => {
                    self.end += bytes;
                    return Ok(bytes > 0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Whoever feeds us may have a whole story to tell: it passes as it is.
                    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
                    return Err(told.unwrap_or_else(|| failed("read", "the layer's tar")(error)));
                }
            }
        }
    }

    /// The next whole block; None where the stream ends on a block's edge.
    fn block(&mut self) -> Result<Option<&[u8; BLOCK]>, Error> {
        while self.end - self.start < BLOCK {
            if !self.fill()? {
                return if self.is_empty() { Ok(None) } else { Err(truncated()) };
            }
        }
        Ok(self.take(BLOCK).first_chunk())
    }
}

fn damaged(cause: &str) -> Error {
    Error::new(format!("cannot unpack the layer: its tar is damaged: {cause}"))
        .likely("it was made by a broken tool, or it is hostile")
        .hint("tar -tvf LAYER   shows how far another tool gets")
}

fn truncated() -> Error {
    Error::new("cannot unpack the layer: its tar ends in the middle of an entry")
        .likely("the layer was cut off when it was pushed or while it was fetched")
}

/// The kind of a type flag, and whether data follows the header. None for a flag that nobody defined.
fn kind(flag: u8, mode: u32, path: &[u8]) -> Option<(Kind, bool)> {
    const SOCKET: u32 = 0o140000; // the mode field should not hold a file type, but some tools write one
    Some(match flag {
        b'0' | 0 | b'7' | b'S' if mode & 0o170000 == SOCKET => (Kind::Nothing, true),
        0 if path.ends_with(b"/") => (Kind::Directory, true), // older than the flag for directories
        b'0' | 0 | b'7' | b'S' => (Kind::File, true),
        b'1' => (Kind::HardLink, false),
        b'2' => (Kind::Symlink, false),
        b'3' => (Kind::Character, false),
        b'4' => (Kind::Block, false),
        b'5' => (Kind::Directory, false),
        b'6' => (Kind::Fifo, false),
        b'D' => (Kind::Directory, true), // GNU's incremental dump: a directory and the list of its names
        b'V' => (Kind::Nothing, true),   // a volume label
        _ => return None,
    })
}

/// A numeric header field that must not be negative.
fn field(bytes: &[u8], name: &str) -> Result<u64, Error> {
    number(bytes)
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value <= i64::MAX as u64)
        .ok_or_else(|| damaged(&format!("the field {name} is no number")))
}

/// A number as a header holds it: octal digits among blanks and NULs, or base-256 (first bit set, big-endian, two's
/// complement below it) for what octal has no room for. An empty field is zero.
pub fn number(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = i128::from(if negative { first | 0x80 } else { first & 0x7f } as i8);
        return bytes[1..].iter().try_fold(start, |value, byte| {
            let shifted = value.checked_mul(256)?;
            Some(shifted | i128::from(*byte))
        });
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let from = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let digits = &bytes[from..];
    let digits = &digits[..digits.iter().position(blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0i128, |value, byte| match byte {
        b'0'..=b'7' => Some(value * 8 + i128::from(byte - b'0')),
        _ => None,
    })
}

/// A PAX time: decimal seconds, perhaps negative, perhaps with a fraction (of which nanoseconds are kept).
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(sparse::decimal(whole)?).ok()?;
    let nine: Vec<u8> = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
    let nanoseconds = u32::try_from(sparse::decimal(&nine)?).ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        // Nanoseconds always count upwards: -1.25 is -2 and three quarters.
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// The first PAX record: its key, its value, and what stands behind it. `LENGTH KEY=VALUE\n`, LENGTH counting itself:
/// a value may hold any byte, newlines too.
#[expect(clippy::type_complexity)]
fn record(content: &[u8]) -> Result<Option<(&[u8], &[u8], &[u8])>, &'static str> {
    const BROKEN: &str = "a PAX record does not read";
    if content.iter().all(|byte| *byte == 0) {
        return Ok(None); // some writers pad inside the header
    }
    let space = content.iter().take(20).position(|byte| *byte == b' ').ok_or(BROKEN)?;
    let length = sparse::decimal(&content[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(BROKEN)?;
    if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
        return Err(BROKEN);
    }
    let pair = &content[space + 1..length - 1];
    let equals = pair.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
    Ok(Some((&pair[..equals], &pair[equals + 1..], &content[length..])))
}

/// The path in the header itself: POSIX splits a long one into prefix and name.
fn header_path(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    let bytes = header.as_bytes();
    let prefix = match header.as_ustar() {
        Some(_) if &bytes[508..] == b"tar\0" => until_nul(&bytes[345..476]), // star keeps times behind it
        Some(ustar) => until_nul(&ustar.prefix),
        None => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn device(header: &tar::Header) -> Result<(u32, u32), Error> {
    let bytes = header.as_bytes();
    let read = |range: std::ops::Range<usize>, name: &str| {
        u32::try_from(field(&bytes[range], name)?).map_err(|_| damaged(&format!("the field {name} is too large")))
    };
    Ok((read(329..337, "devmajor")?, read(337..345, "devminor")?))
}

/// The sum of a header's bytes, its checksum field counted as blanks; old tools summed signed bytes.
fn checksums(bytes: &[u8; BLOCK]) -> (u32, i32) {
    let outside = |from: usize, to: usize| bytes[from..to].iter();
    let unsigned: u32 = outside(0, 148).chain(outside(156, BLOCK)).map(|byte| u32::from(*byte)).sum();
    let signed: i32 = outside(0, 148).chain(outside(156, BLOCK)).map(|byte| i32::from(*byte as i8)).sum();
    (unsigned + 8 * 32, signed + 8 * 32)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_octal_or_base_256() {
        let cases: [(&[u8], Option<i128>); 9] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", None),
            (b"644x", None),
            (b"\x80\0\0\0\0\x20\0\0", Some(0x20_0000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", Some(-256)),
            (b"-1", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(number(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn times_read_with_fractions_and_below_zero() {
        let time_of = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        let cases: [(&[u8], Option<Time>); 8] = [
            (b"0", time_of(0, 0)),
            (b"1700000000.123456789", time_of(1_700_000_000, 123_456_789)),
            (b"1.5", time_of(1, 500_000_000)),
            (b"1.1234567899", time_of(1, 123_456_789)),
            (b"-1", time_of(-1, 0)),
            (b"-1.25", time_of(-2, 750_000_000)),
            (b"99999999999999999999", None),
            (b"1e3", None),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text), expected, "{}", shown(text));
        }
    }

    #[test]
    fn a_pax_value_may_hold_newlines_and_nuls() {
        let content = b"14 a=b\nc\0d\nef\n6 x=y\n";
        let (key, value, rest) = record(content).unwrap().unwrap();
        assert_eq!((key, value), (&b"a"[..], &b"b\nc\0d\nef"[..]));
        assert_eq!(record(rest).unwrap().unwrap().0, b"x");
        for bad in [&b"5 a=b\n"[..], b"99 a=b\n", b"0 a=b\n", b"5 ab=\n ", b"7 abcd\n", b" a=b\n", b"6a=bcd\n", b"1 \n"]
        {
            assert!(record(bad).is_err(), "{}", shown(bad));
        }
    }
}
