//! Archives for the tests, well-formed and otherwise.

/// A tar being written, header by header.
#[derive(Clone, Default)]
pub struct Archive {
    pub bytes: Vec<u8>,
}

/// The header of a plain root-owned entry: type flag, path, mode.
pub fn header(flag: u8, path: &[u8], mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkflag[0] = flag;
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

/// One PAX record, its length counting itself.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..10).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

impl Archive {
    pub fn new() -> Self {
        Archive::default()
    }

    /// Adds a header as it is, its checksum put right, and data padded to whole blocks.
    pub fn raw(mut self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.blocks(data)
    }

    pub fn blocks(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn with(self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_size(data.len() as u64);
        self.raw(header, data)
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.with(header(b'0', path.as_bytes(), 0o644), content)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(header(b'5', path.as_bytes(), mode), b"")
    }

    fn link(self, flag: u8, path: &str, target: &str) -> Self {
        let mut header = header(flag, path.as_bytes(), 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(b'2', path, target)
    }

    pub fn hard(self, path: &str, target: &str) -> Self {
        self.link(b'1', path, target)
    }

    pub fn node(self, flag: u8, path: &str, device: (u32, u32)) -> Self {
        let mut header = header(flag, path.as_bytes(), 0o620);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        self.raw(header, b"")
    }

    /// A PAX header (`x`, or `g` for all that follow).
    pub fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
        self.with(header(flag, b"PaxHeaders/x", 0o644), &content)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}
