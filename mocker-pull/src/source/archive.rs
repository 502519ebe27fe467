//! A tar that holds an image: where each of its files lies, found by reading headers alone.
//!
//! Layers are files of such an archive, and may be gigabytes: their bytes are passed over here and read once, later,
//! when they are unpacked. So the archive must be a file that can be read at any place ([`super::spool`] sees to that).
//! Source: pax(1) of POSIX, GNU tar manual "Tar Internals".

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use mocker_common::error::{Error, failed};

use super::local::Slice;

const BLOCK: u64 = 512;
/// The largest long name or PAX header that is read.
const HEADER_LIMIT: u64 = 1 << 20;
/// An image has some hundred files; a layer has more, and is no archive of images.
const MEMBERS: usize = 1_000_000;

/// The files of an archive, by path.
pub struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// docker before 25 writes a layer that stands twice in an image as a link to the first
    Link(String),
}

/// What extended headers say of the member that follows.
#[derive(Default)]
struct Extension {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Archive {
    /// Reads all headers. `name` is for errors.
    pub fn read(file: File, name: &str) -> Result<Archive, Error> {
        let file = Arc::new(file);
        let mut members = HashMap::new();
        let end = file.metadata().map_err(failed("read", name))?.len();
        let broken = |cause: io::Error| {
            Error::new(format!("cannot read {name} as an archive: {cause}"))
                .likely("it is no tar, or only a part of one")
                .hint("tar --list --file FILE")
        };
        let (mut at, mut extension) = (0, Extension::default());
        while let Some(header) = header(&file, at, end).map_err(broken)? {
            let own_size = header.entry_size().map_err(broken)?;
            let flag = header.as_old().linkflag[0];
            let size = match flag {
                b'x' | b'g' | b'L' | b'K' => own_size,
                _ => extension.size.unwrap_or(own_size),
            };
            let (data, next) = (at + BLOCK, place_after(at, size).filter(|next| *next <= end.next_multiple_of(BLOCK)));
            let next = next.ok_or_else(|| broken(io::Error::other("it ends in the middle of a file")))?;
            match flag {
                b'x' | b'g' | b'L' | b'K' => extension.take(flag, &file, data, size).map_err(broken)?,
                _ => {
                    let extension = std::mem::take(&mut extension);
                    let text = |bytes: std::borrow::Cow<'_, [u8]>| String::from_utf8_lossy(&bytes).into_owned();
                    let path = clean(&extension.path.unwrap_or_else(|| text(header.path_bytes())));
                    let link = extension.link.or_else(|| header.link_name_bytes().map(text)).unwrap_or_default();
                    match flag {
                        b'0' | 0 | b'7' => drop(members.insert(path, Member::File { at: data, size })),
                        b'1' => drop(members.insert(path, Member::Link(clean(&link)))),
                        b'2' => {
                            let target = clean(&format!("{}/{link}", path.rsplit_once('/').map_or("", |(dir, _)| dir)));
                            members.insert(path, Member::Link(target));
                        }
                        _ => {}
                    }
                }
            }
            if members.len() > MEMBERS {
                return Err(broken(io::Error::other(format!("it has more than {MEMBERS} files"))));
            }
            at = next;
        }
        Ok(Archive { file, members })
    }

    /// A file of the archive; links are followed.
    pub fn open(&self, path: &str) -> Option<Slice> {
        let mut path = clean(path);
        for _ in 0..8 {
            match self.members.get(&path)? {
                Member::File { at, size } => {
                    return Some(Slice::Of { file: self.file.clone(), at: *at, end: at + size });
                }
                Member::Link(target) => path = target.clone(),
            }
        }
        None
    }

    /// Every file directly in a directory, `blobs/sha256`: its name and its bytes.
    pub fn files_in<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a str, Slice)> {
        let names = self.members.keys().filter_map(move |path| path.strip_prefix(directory)?.strip_prefix('/'));
        names.filter_map(move |name| Some((name, self.open(&format!("{directory}/{name}"))?)))
    }
}

impl Extension {
    fn take(&mut self, flag: u8, file: &File, at: u64, size: u64) -> io::Result<()> {
        if size > HEADER_LIMIT {
            return Err(io::Error::other("a name in it is longer than a megabyte"));
        }
        let mut content = vec![0; size as usize];
        file.read_exact_at(&mut content, at)?;
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
        };
        match flag {
            b'L' => self.path = Some(text(&content)),
            b'K' => self.link = Some(text(&content)),
            b'x' => {
                for record in tar::PaxExtensions::new(&content) {
                    let record = record?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.path = Some(text(value)),
                        b"linkpath" => self.link = Some(text(value)),
                        b"size" => self.size = text(value).parse().ok(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The header at a place; None at the archive's end: two blocks of zeros, or nothing more.
fn header(file: &File, at: u64, end: u64) -> io::Result<Option<tar::Header>> {
    if at >= end {
        return Ok(None);
    }
    let mut header = tar::Header::new_old();
    file.read_exact_at(header.as_mut_bytes(), at)?;
    let bytes = header.as_bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    match header.cksum() {
        Ok(cksum) if cksum == sum => Ok(Some(header)),
        _ => Err(io::Error::other("a header's checksum is wrong")),
    }
}

/// Where the next header stands.
fn place_after(at: u64, size: u64) -> Option<u64> {
    at.checked_add(BLOCK)?.checked_add(size.checked_next_multiple_of(BLOCK)?)
}

/// `./a//b/../c` is `a/c`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn archive(entries: &[(&str, u8, &str)]) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, flag, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().linkflag[0] = *flag;
            match flag {
                b'0' => {
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
                }
                _ => {
                    header.set_size(0);
                    builder.append_link(&mut header, path, content).unwrap();
                }
            }
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&builder.into_inner().unwrap()).unwrap();
        file
    }

    fn read(archive: &Archive, path: &str) -> Option<String> {
        let mut text = String::new();
        archive.open(path)?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn files_are_found_by_name_long_or_linked() {
        let long = format!("{}/layer.tar", "d".repeat(200));
        let entries = [
            ("manifest.json", b'0', "[]"),
            (&long, b'0', "long"),
            ("a/layer.tar", b'0', "layer"),
            ("b/layer.tar", b'2', "../a/layer.tar"),
            ("c/layer.tar", b'1', "b/layer.tar"),
            ("loop", b'2', "loop"),
        ];
        let file = archive(&entries);
        let archive = Archive::read(file.reopen().unwrap(), "x").unwrap();
        let expected = [("manifest.json", "[]"), (&long, "long"), ("./b/layer.tar", "layer"), ("c/layer.tar", "layer")];
        for (path, content) in expected {
            assert_eq!(read(&archive, path).as_deref(), Some(content), "{path}");
        }
        assert_eq!(read(&archive, "loop"), None);
        assert_eq!(archive.files_in("a").map(|(name, _)| name).collect::<Vec<_>>(), ["layer.tar"]);
    }

    #[test]
    fn what_is_no_archive_or_half_of_one_is_refused() {
        let whole = archive(&[("a", b'0', &"x".repeat(2000))]);
        let bytes = std::fs::read(whole.path()).unwrap();
        for part in [&b"hello, this is text"[..], &bytes[..700], &bytes[..2000], &[7; 512]] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(part).unwrap();
            assert!(Archive::read(file.reopen().unwrap(), "x").is_err(), "{} bytes", part.len());
        }
    }
}
