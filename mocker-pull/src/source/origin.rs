//! What a person names on the command line: `nginx`, `oci:DIR:TAG`, `docker-archive:FILE`, `-`.
//!
//! The spelling is skopeo's and podman's (containers-transports(5)).

use std::path::{Path, PathBuf};
use std::str::FromStr;

use mocker_common::error::Error;
use mocker_common::reference::Reference;

/// Where one or several images are.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    Registry(Reference),
    Local(Place),
}

/// A place on this machine, and which of its images is meant: all of them where none is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub form: Form,
    /// `-` for standard input
    pub path: PathBuf,
    pub chosen: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// a directory that is an OCI image layout
    Layout,
    /// the same in a tar
    LayoutArchive,
    /// what `docker save` writes
    DockerArchive,
    /// a tar of either kind
    AnyArchive,
}

const TRANSPORTS: [(&str, Form); 3] =
    [("oci:", Form::Layout), ("oci-archive:", Form::LayoutArchive), ("docker-archive:", Form::DockerArchive)];

impl FromStr for Origin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "-" {
            return Ok(Origin::Local(Place { form: Form::AnyArchive, path: "-".into(), chosen: None }));
        }
        if let Some((prefix, form)) = TRANSPORTS.iter().find(|(prefix, _)| text.starts_with(prefix)) {
            let (path, chosen) = split(&text[prefix.len()..], |path| path.exists());
            if path.as_os_str().is_empty() {
                return Err(Error::new(format!("cannot read '{text}': it names no place"))
                    .hint(format!("{prefix}{}", if *form == Form::Layout { "DIR[:TAG]" } else { "FILE[:NAME]" })));
            }
            return Ok(Origin::Local(Place { form: *form, path, chosen }));
        }
        let reference = text.strip_prefix("docker://").unwrap_or(text);
        reference.parse().map(Origin::Registry).map_err(|error: Error| match Path::new(text).exists() {
            true => error.hint(format!("oci:{text}, oci-archive:{text} or docker-archive:{text}, for what lies there")),
            false => error,
        })
    }
}

/// Path and image. Paths with a colon are found if they are there; else the first colon ends the path, for a name may
/// have several.
fn split(text: &str, is_there: impl Fn(&Path) -> bool) -> (PathBuf, Option<String>) {
    match text.split_once(':') {
        Some((path, chosen)) if !is_there(Path::new(text)) && !chosen.is_empty() => (path.into(), Some(chosen.into())),
        _ => (text.into(), None),
    }
}

impl Place {
    /// What an image is called here that only has a tag, or nothing at all: `localhost/` and the file's own name, as
    /// podman does it. None for standard input, which has no name.
    pub fn own_name(&self) -> Option<String> {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let stem = name.split(".tar").next().unwrap_or_default();
        let stem = [".oci", ".tgz"].iter().fold(stem, |stem, suffix| stem.strip_suffix(suffix).unwrap_or(stem));
        let clean: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let clean = clean.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        (!clean.is_empty()).then(|| format!("localhost/{clean}"))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.as_os_str() == "-" {
            return f.write_str("standard input");
        }
        let prefix = TRANSPORTS.iter().find(|(_, form)| *form == self.form).map_or("", |(prefix, _)| prefix);
        write!(f, "{prefix}{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_told_from_references() {
        let place = |form, path: &str, chosen: Option<&str>| {
            Some(Origin::Local(Place { form, path: path.into(), chosen: chosen.map(str::to_string) }))
        };
        let registry = |text: &str| Some(Origin::Registry(text.parse().unwrap()));
        let cases = [
            ("nginx", registry("nginx")),
            ("docker://quay.io/a/b:1", registry("quay.io/a/b:1")),
            ("-", place(Form::AnyArchive, "-", None)),
            ("oci:/srv/box", place(Form::Layout, "/srv/box", None)),
            ("oci:box:1.2", place(Form::Layout, "box", Some("1.2"))),
            ("oci:box:docker.io/library/box:1", place(Form::Layout, "box", Some("docker.io/library/box:1"))),
            ("oci-archive:x.tar", place(Form::LayoutArchive, "x.tar", None)),
            ("docker-archive:/x.tar:nginx:1", place(Form::DockerArchive, "/x.tar", Some("nginx:1"))),
            ("oci:", None),
            ("docker-archive::x", None),
            ("UPPER", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Origin>().ok(), expected, "{text}");
        }
        assert_eq!(split("a:b", |path| path == Path::new("a:b")), ("a:b".into(), None));
    }

    #[test]
    fn a_place_gives_a_name_to_what_has_none() {
        let cases = [
            ("/nowhere/My_Box.tar.gz", Some("localhost/my-box")),
            ("/nowhere/nginx", Some("localhost/nginx")),
            ("/nowhere/--.tar", None),
            ("-", None),
        ];
        for (path, name) in cases {
            let place = Place { form: Form::AnyArchive, path: path.into(), chosen: None };
            assert_eq!(place.own_name().as_deref(), name, "{path}");
        }
    }
}
