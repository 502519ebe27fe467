//! A tar being written: the inverse of [`mocker_common::unpack::member`], which reads one.
//!
//! Headers are ustar's. What does not fit in one (long names, large ids, fractions of a second, extended attributes)
//! stands in PAX records before it, which every reader of images knows. Nothing in it depends on when or where it was
//! written: the same members are the same bytes. Source: pax(1) of POSIX.

use std::io::{self, Write};

use mocker_common::unpack::member::{BLOCK, Kind, Member, Time};

/// The largest numbers that a field of 8 and of 12 bytes holds, in octal digits and a NUL.
const IN_8: u64 = 0o7_777_777;
const IN_12: u64 = 0o77_777_777_777;

/// A tar on its way out.
pub struct Pack<W> {
    out: W,
    /// of the member being written: data that has not come yet, and what fills its last block
    left: u64,
    padding: usize,
}

impl<W: Write> Pack<W> {
    pub fn new(out: W) -> Self {
        Pack { out, left: 0, padding: 0 }
    }

    /// Begins a member. A file's `size` bytes must follow, by [`Pack::data`]. Pieces of a sparse file are not for here.
    pub fn member(&mut self, member: &Member) -> io::Result<()> {
        self.end_member()?;
        let records = records(member);
        if !records.is_empty() {
            let name = b"PaxHeaders.0/x".to_vec();
            let extension = Member { size: records.len() as u64, ..plain(name, Kind::File, 0o644) };
            self.out.write_all(header(&extension, b'x').as_bytes())?;
            self.out.write_all(&records)?;
            self.out.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        self.out.write_all(header(member, type_flag(member.kind)).as_bytes())?;
        if member.kind == Kind::File {
            (self.left, self.padding) = (member.size, padding(member.size));
        }
        Ok(())
    }

    /// A whole small file.
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.member(&Member { size: bytes.len() as u64, ..plain(path.into(), Kind::File, 0o644) })?;
        self.data(bytes)
    }

    /// The next bytes of the member. More than were announced would be taken for a header.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("more data than size"))?;
        self.out.write_all(bytes)
    }

    /// That many zeros: a hole.
    pub fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while count > 0 {
            let some = count.min(ZEROS.len() as u64);
            self.data(&ZEROS[..some as usize])?;
            count -= some;
        }
        Ok(())
    }

    /// How much of the member's data has not come yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Ends the archive: two empty blocks. Returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_member()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("less data than size"));
        }
        self.out.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])
    }
}

/// A member of root's, of 1970, without data.
pub fn plain(path: Vec<u8>, kind: Kind, mode: u32) -> Member {
    Member {
        path,
        kind,
        link: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        device: (0, 0),
        xattrs: Vec::new(),
        pieces: None,
    }
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

fn type_flag(kind: Kind) -> u8 {
    match kind {
        Kind::File | Kind::Nothing => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Character => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// The header as far as ustar goes. What a record says better is cut or 0 here.
fn header(member: &Member, type_flag: u8) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let or_zero = |number: u64, most: u64| if number <= most { number } else { 0 };
    header.set_mode(member.mode);
    header.set_uid(or_zero(member.uid.into(), IN_8));
    header.set_gid(or_zero(member.gid.into(), IN_8));
    let size = if type_flag == b'0' || type_flag == b'x' { member.size } else { 0 };
    header.set_size(or_zero(size, IN_12));
    header.set_mtime(or_zero(u64::try_from(member.mtime.seconds).unwrap_or(0), IN_12));
    header.set_entry_type(tar::EntryType::new(type_flag));
    copy_cut(&mut header.as_old_mut().name, &member.path);
    copy_cut(&mut header.as_old_mut().linkname, &member.link);
    if let (Kind::Character | Kind::Block, Some(ustar)) = (member.kind, header.as_ustar_mut()) {
        ustar.set_device_major(member.device.0);
        ustar.set_device_minor(member.device.1);
    }
    header.set_cksum();
    header
}

fn copy_cut(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// The PAX records of what the header cannot say; empty where it says all.
fn records(member: &Member) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    let long = |name: &[u8]| name.len() > 100;
    let names = [(&b"path"[..], &member.path), (b"linkpath", &member.link)];
    if names.iter().any(|(_, name)| long(name) && std::str::from_utf8(name).is_err()) {
        add(b"hdrcharset", b"BINARY"); // records are UTF-8 unless this says otherwise
    }
    for (key, name) in names {
        if long(name) {
            add(key, name);
        }
    }
    for (key, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if u64::from(id) > IN_8 {
            add(key, id.to_string().as_bytes());
        }
    }
    if member.kind == Kind::File && member.size > IN_12 {
        add(b"size", member.size.to_string().as_bytes());
    }
    let Time { seconds, nanoseconds } = member.mtime;
    if nanoseconds > 0 || !u64::try_from(seconds).is_ok_and(|seconds| seconds <= IN_12) {
        add(b"mtime", decimal(member.mtime).as_bytes());
    }
    for (name, value) in &member.xattrs {
        add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// `LENGTH KEY=VALUE\n`; the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A time as a decimal fraction. Nanoseconds count upwards from the second also before 1970: −2 s and 0.5 is −1.5.
fn decimal(Time { seconds, nanoseconds }: Time) -> String {
    let text = match (seconds < 0, nanoseconds) {
        (_, 0) => return seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        (true, _) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    };
    text.trim_end_matches('0').into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mocker_common::unpack::member::Members;

    fn read(archive: &[u8]) -> Vec<(Member, Vec<u8>)> {
        let mut members = Members::new(archive, 1 << 20);
        let mut all = Vec::new();
        while let Some(member) = members.next_member().unwrap() {
            let mut bytes = Vec::new();
            loop {
                match members.data(u64::MAX).unwrap() {
                    [] => break,
                    some => bytes.extend_from_slice(some),
                }
            }
            all.push((member, bytes));
        }
        all
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = |path: &[u8]| Member { size: 3, ..plain(path.to_vec(), Kind::File, 0o4755) };
        let at = |seconds, nanoseconds| Member { mtime: Time { seconds, nanoseconds }, ..file(b"time") };
        let long = [b'n'; 255];
        let deep = [&long[..], b"/caf\xe9"].concat();
        let members = [
            plain(b"./".to_vec(), Kind::Directory, 0o1777),
            file(b"etc/hosts"),
            file(&[b'x'; 100]),
            file(&[b'x'; 101]),
            file(&deep),
            file(b"caf\xe9"),
            Member { link: deep.clone(), ..plain(b"hard".to_vec(), Kind::HardLink, 0o644) },
            Member { link: long.to_vec(), ..plain(b"soft".to_vec(), Kind::Symlink, 0o777) },
            Member { device: (1, 3), ..plain(b"null".to_vec(), Kind::Character, 0o666) },
            Member { device: (259, 1_048_575), ..plain(b"disk".to_vec(), Kind::Block, 0o660) },
            plain(b"fifo".to_vec(), Kind::Fifo, 0o600),
            Member { uid: 0o7_777_777, gid: 0o10_000_000, ..file(b"owner") },
            Member { uid: 4_294_967_294, ..file(b"owner") },
            at(0, 1),
            at(1_700_000_000, 123_456_700),
            at(-2, 500_000_000),
            at(-1, 0),
            at(-1, 999_999_999),
            at(1 << 33, 0),
            at(1 << 40, 0),
            Member { xattrs: vec![(b"user.a".to_vec(), b"\0=\n".to_vec())], ..file(b"attribute") },
            Member { xattrs: vec![(b"user.b".to_vec(), vec![7; 60_000])], ..file(b"attribute") },
        ];
        let mut pack = Pack::new(Vec::new());
        for member in &members {
            pack.member(member).unwrap();
            if member.kind == Kind::File {
                pack.data(b"ab").unwrap();
                pack.zeros(1).unwrap();
            }
        }
        let archive = pack.finish().unwrap();
        assert!(archive.len().is_multiple_of(BLOCK));
        let read = read(&archive);
        assert_eq!(read.len(), members.len());
        for (written, (read, bytes)) in members.iter().zip(read) {
            assert_eq!(format!("{written:?}"), format!("{read:?}"));
            assert_eq!(bytes, if written.kind == Kind::File { &b"ab\0"[..] } else { b"" });
        }
    }

    #[test]
    fn a_size_beyond_octal_is_in_a_record_and_data_must_match_it() {
        let mut pack = Pack::new(Vec::new());
        let huge = Member { size: 1 << 34, ..plain(b"huge".to_vec(), Kind::File, 0o644) };
        pack.member(&huge).unwrap();
        assert_eq!(Members::new(&pack.out[..], 1 << 20).next_member().unwrap().unwrap().size, 1 << 34);
        assert!(pack.member(&huge).is_err(), "a member was cut short");
        let mut pack = Pack::new(Vec::new());
        pack.member(&Member { size: 2, ..huge }).unwrap();
        assert!(pack.data(b"abc").is_err());
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 88, 89, 90, 91, 985, 986, 990] {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'v'; length]);
            let text = String::from_utf8(records).unwrap();
            assert_eq!(text.split_once(' ').unwrap().0, text.len().to_string());
        }
    }
}
