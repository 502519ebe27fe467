//! Where an image is saved to, in skopeo's spelling.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};

use crate::draft::Draft;

/// A form and a place. No file means standard output.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    Archive(Option<PathBuf>),
    OciArchive(Option<PathBuf>, Option<String>),
    DockerArchive(Option<PathBuf>),
    OciDirectory(PathBuf, Option<String>),
}

impl Destination {
    pub fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let file = |bytes: &[u8]| (bytes != b"-").then(|| PathBuf::from(OsStr::from_bytes(bytes)));
        let named = |what: &str, bytes: &[u8]| match bytes {
            b"" | b":" => Err(format!("{what} needs the name of a file or directory")),
            _ => split_tag(bytes),
        };
        if let Some(rest) = bytes.strip_prefix(b"oci:") {
            let (place, tag) = named("oci:", rest)?;
            return Ok(Destination::OciDirectory(PathBuf::from(OsString::from_vec(place)), tag));
        }
        if let Some(rest) = bytes.strip_prefix(b"oci-archive:") {
            let (place, tag) = named("oci-archive:", rest)?;
            return Ok(Destination::OciArchive(file(&place), tag));
        }
        if let Some(rest) = bytes.strip_prefix(b"docker-archive:") {
            return match named("docker-archive:", rest)? {
                (place, None) => Ok(Destination::DockerArchive(file(&place))),
                (_, Some(_)) => Err("an image is saved under its own name; mocker-images tag gives it another".into()),
            };
        }
        let others = ["docker://", "containers-storage:", "docker-daemon:", "dir:", "docker:"];
        match others.iter().find(|other| bytes.starts_with(other.as_bytes())) {
            Some(other) => {
                Err(format!("{other} is no form that save writes (oci:, oci-archive:, docker-archive:, FILE)"))
            }
            None if bytes.is_empty() => Err("a file needs a name".into()),
            None => Ok(Destination::Archive(file(bytes))),
        }
    }

    /// Refuses what cannot work, before anything is read.
    pub fn check(&self, images: usize) -> Result<(), Error> {
        if let (Destination::OciArchive(_, Some(tag)) | Destination::OciDirectory(_, Some(tag)), 2..) = (self, images) {
            return Err(Error::new(format!("cannot save {images} images under the one tag {tag}"))
                .hint("leave the tag out: each keeps its own name"));
        }
        match self.place() {
            None if io::stdout().is_terminal() => Err(Error::new("cannot save to a terminal: an archive is no text")
                .hint("mocker-images save … -o FILE, or > FILE, or | docker load")),
            Some(place) if !matches!(self, Destination::OciDirectory(..)) && place.is_dir() => {
                Err(Error::new(format!("cannot save to {}: it is a directory", place.display()))
                    .hint(format!("-o oci:{} writes an image layout into it", place.display())))
            }
            _ => Ok(()),
        }
    }

    /// The file or directory; None for standard output.
    pub fn place(&self) -> Option<&Path> {
        match self {
            Destination::Archive(file) | Destination::OciArchive(file, _) | Destination::DockerArchive(file) => {
                file.as_deref()
            }
            Destination::OciDirectory(directory, _) => Some(directory),
        }
    }
}

/// `DIR:TAG`: the first colon ends the path, as skopeo has it, so a tag may have colons of its own.
fn split_tag(bytes: &[u8]) -> Result<(Vec<u8>, Option<String>), String> {
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return Ok((bytes.to_vec(), None)) };
    let (place, tag) = (&bytes[..colon], &bytes[colon + 1..]);
    let tag = std::str::from_utf8(tag).map_err(|_| "the tag is not UTF-8")?;
    match is_name(tag) {
        true => Ok((place.to_vec(), Some(tag.into()))),
        false => {
            Err(format!("'{tag}' cannot name an image in a layout (letters, digits and - . _ : @ / + between them)"))
        }
    }
}

/// The grammar of `org.opencontainers.image.ref.name` (image-spec, annotations.md).
fn is_name(tag: &str) -> bool {
    let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let component = |part: &str| {
        word(part.bytes().next())
            && word(part.bytes().last())
            && part.bytes().all(|byte| word(Some(byte)) || b"-._:@+".contains(&byte))
    };
    tag.split('/').all(component)
}

/// Where an archive's bytes go.
pub enum Sink {
    Stdout(BufWriter<io::Stdout>),
    /// a pipe or a device that has a name
    Stream(BufWriter<File>),
    /// a file that appears when all of it is there
    Draft(BufWriter<Draft>),
}

const BUFFER: usize = 256 << 10;

impl Sink {
    pub fn open(file: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = file else { return Ok(Sink::Stdout(BufWriter::with_capacity(BUFFER, io::stdout()))) };
        let is_stream = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        if is_stream {
            let file = OpenOptions::new().write(true).open(path).map_err(failed("write", path.display()))?;
            return Ok(Sink::Stream(BufWriter::with_capacity(BUFFER, file)));
        }
        // Through a link the file that it leads to is replaced, not the link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        Ok(Sink::Draft(BufWriter::with_capacity(BUFFER, Draft::begin(&path)?)))
    }

    /// The archive is complete: now it may be seen.
    pub fn finish(self) -> Result<(), Error> {
        match self {
            Sink::Stdout(mut out) => out.flush().map_err(written),
            Sink::Stream(mut out) => out.flush().map_err(written),
            Sink::Draft(out) => out.into_inner().map_err(|error| written(error.into_error()))?.place(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Stdout(out) => out.write(bytes),
            Sink::Stream(out) => out.write(bytes),
            Sink::Draft(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout(out) => out.flush(),
            Sink::Stream(out) => out.flush(),
            Sink::Draft(out) => out.flush(),
        }
    }
}

/// What went wrong with the archive's bytes.
pub fn written(cause: io::Error) -> Error {
    failed("write", "the archive")(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_skopeo_reads_them() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            ("x.tar", Ok(Destination::Archive(path("x.tar")))),
            ("a:b.tar", Ok(Destination::Archive(path("a:b.tar")))),
            ("-", Ok(Destination::Archive(None))),
            ("oci:d", Ok(Destination::OciDirectory("d".into(), None))),
            ("oci:/d/e:v1.2", Ok(Destination::OciDirectory("/d/e".into(), Some("v1.2".into())))),
            (
                "oci:d:docker.io/library/nginx:1",
                Ok(Destination::OciDirectory("d".into(), Some("docker.io/library/nginx:1".into()))),
            ),
            ("oci-archive:x.tar", Ok(Destination::OciArchive(path("x.tar"), None))),
            ("oci-archive:x.tar:v1", Ok(Destination::OciArchive(path("x.tar"), Some("v1".into())))),
            ("oci-archive:-", Ok(Destination::OciArchive(None, None))),
            ("docker-archive:x.tar", Ok(Destination::DockerArchive(path("x.tar")))),
            ("docker-archive:x.tar:nginx", Err("its own name")),
            ("oci:", Err("needs the name")),
            ("oci:d:", Err("cannot name")),
            ("oci:d:a b", Err("cannot name")),
            ("oci:d:-x", Err("cannot name")),
            ("docker://nginx", Err("no form")),
            ("dir:x", Err("no form")),
            ("", Err("needs a name")),
        ];
        for (text, expected) in cases {
            match (Destination::parse(text.into()), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (outcome, _) => panic!("{text}: {outcome:?}"),
            }
        }
    }
}
