//! An OCI image layout: a directory, or the same in a tar. Source: image-spec, image-layout.md.

use std::collections::HashMap;
use std::fs::File;

use mocker_common::digest::Digest;
use mocker_common::error::{Error, failed};
use mocker_common::reference::Reference;
use mocker_common::store::REF_NAME;
use serde_json::Value;

use super::archive::Archive;
use super::local::{Blobs, Local, MANIFEST_LIMIT, Slice};
use super::origin::Place;
use crate::manifest::Descriptor;

/// Where docker and containerd write the full name; `REF_NAME` is then the tag alone.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// One image of a local place: its manifest or index, and what it is called.
#[derive(Clone, Debug)]
pub struct Listed {
    pub descriptor: Descriptor,
    /// None where nothing names it
    pub name: Option<Reference>,
    /// as it is written there, to be chosen by
    pub labels: Vec<String>,
}

/// Opens a directory.
pub fn of_directory(place: &Place) -> Result<(Local, Vec<Listed>), Error> {
    let path = place.path.join("index.json");
    let index = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(format!("cannot read {place}: it has no index.json"))
            .why("an image layout lists its images there (image-spec, image-layout.md)")
            .hint("oci-archive:FILE or docker-archive:FILE, if it is an archive"),
        _ => failed("open", path.display())(error),
    })?;
    let index = Slice::whole(index).map_err(failed("read", path.display()))?;
    let local = Local { name: place.to_string(), blobs: Blobs::Directory(place.path.clone()) };
    Ok((local, listed(index, place)?))
}

/// Opens an archive; None if it holds no layout.
pub fn of_archive(archive: &Archive, place: &Place) -> Result<Option<(Local, Vec<Listed>)>, Error> {
    let Some(index) = archive.open("index.json").filter(|_| archive.open("oci-layout").is_some()) else {
        return Ok(None);
    };
    let blobs = archive.files_in("blobs/sha256");
    let blobs: HashMap<Digest, Slice> =
        blobs.filter_map(|(hex, slice)| Some((format!("sha256:{hex}").parse().ok()?, slice))).collect();
    let local = Local { name: place.to_string(), blobs: Blobs::Slices(blobs) };
    Ok(Some((local, listed(index, place)?)))
}

fn listed(index: Slice, place: &Place) -> Result<Vec<Listed>, Error> {
    let broken = |cause: String| Error::new(format!("cannot read index.json of {place}: {cause}"));
    let bytes = index.small(MANIFEST_LIMIT).map_err(|cause| broken(cause.to_string()))?;
    let index: Value = serde_json::from_slice(&bytes).map_err(|cause| broken(cause.to_string()))?;
    let descriptors = index["manifests"].as_array().ok_or_else(|| broken("it lists no manifests".into()))?;
    let images = descriptors.iter().filter(|descriptor| descriptor["platform"]["architecture"] != "unknown");
    images
        .map(|json| {
            let annotation = |key: &str| json["annotations"][key].as_str().map(str::to_string);
            let (full, short) = (annotation(IMAGE_NAME), annotation(REF_NAME));
            Ok(Listed {
                descriptor: Descriptor::read(json).map_err(|error| error.while_doing("index.json"))?,
                name: name(full.as_deref(), short.as_deref(), place.own_name().as_deref()),
                labels: full.into_iter().chain(short).collect(),
            })
        })
        .collect()
}

/// What an image of a layout is called: by its full name where there is one; a tag alone belongs to the place's own name.
fn name(full: Option<&str>, short: Option<&str>, place: Option<&str>) -> Option<Reference> {
    let is_name = |text: &&str| text.contains(['/', ':', '@']);
    let written = full.into_iter().chain(short.filter(is_name)).find_map(|text| text.parse().ok());
    written.or_else(|| format!("{}:{}", place?, short.unwrap_or("latest")).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_name_wins_and_a_bare_tag_belongs_to_the_place() {
        let cases = [
            (Some("docker.io/library/a:1"), Some("1"), Some("localhost/x"), Some("docker.io/library/a:1")),
            (None, Some("quay.io/b:2"), Some("localhost/x"), Some("quay.io/b:2")),
            (None, Some("a:2"), Some("localhost/x"), Some("docker.io/library/a:2")),
            (None, Some("v2"), Some("localhost/x"), Some("localhost/x:v2")),
            (None, None, Some("localhost/x"), Some("localhost/x:latest")),
            (Some("NOT A NAME"), Some("v2"), Some("localhost/x"), Some("localhost/x:v2")),
            (None, Some("v2"), None, None),
            (None, Some("not a tag"), Some("localhost/x"), None),
        ];
        for (full, short, place, expected) in cases {
            let name = name(full, short, place).map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{full:?} {short:?} {place:?}");
        }
    }
}
