//! `oci:DIR`: images into an image layout, a new one or one that is there.
//!
//! The index comes last and in one rename: whoever reads the layout meanwhile finds the images that were there, or
//! those and the new ones. Source: image-spec, image-layout.md and annotations.md.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use mocker_common::digest::Digest;
use mocker_common::error::{Error, failed};
use mocker_common::reference::Reference;
use mocker_common::state::write_atomically;
use mocker_common::store::REF_NAME;
use serde_json::{Value, json};

use super::selection::Selection;
use crate::draft::Draft;

pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The annotation in which containerd, buildkit and docker keep a whole name; podman reads it too.
const FULL_NAME: &str = "io.containerd.image.name";

/// What an image is called in the index.
pub enum Naming {
    /// by its tag alone, `latest`, with the whole name in containerd's annotation
    AsDocker,
    /// by its whole name
    AsPodman,
    /// by the tag that was asked for
    Tag(String),
}

impl Naming {
    pub fn of(tag: Option<&str>) -> Self {
        tag.map_or(Naming::AsPodman, |tag| Naming::Tag(tag.into()))
    }

    fn annotations(&self, name: &str) -> Value {
        let reference: Option<Reference> = name.parse().ok();
        let own_tag = reference.and_then(|reference| reference.tag.filter(|_| reference.digest.is_none()));
        let mut annotations = json!({});
        if own_tag.is_some() {
            annotations[FULL_NAME] = name.into();
        }
        match (self, own_tag) {
            (Naming::AsDocker, Some(tag)) => annotations[REF_NAME] = tag.into(),
            (Naming::AsDocker, None) => {}
            (Naming::AsPodman, _) => annotations[REF_NAME] = name.into(),
            (Naming::Tag(tag), _) => annotations[REF_NAME] = tag.as_str().into(),
        }
        annotations
    }
}

/// The descriptors of the images, one a name.
pub fn descriptors(selection: &Selection, naming: &Naming) -> Vec<Value> {
    let mut all = Vec::new();
    for image in &selection.images {
        for name in &image.names {
            let mut descriptor = image.descriptor.clone();
            descriptor["annotations"] = naming.annotations(name);
            all.push(descriptor);
        }
    }
    all
}

/// An index with these images in place of those of the same name; what else `before` has stays.
pub fn index(before: Option<Value>, new: Vec<Value>) -> Vec<u8> {
    let mut index = before.unwrap_or_else(
        || json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] }),
    );
    let name = |descriptor: &Value| descriptor["annotations"][REF_NAME].as_str().map(str::to_string);
    let names: Vec<_> = new.iter().filter_map(name).collect();
    let mut manifests = index["manifests"].as_array().cloned().unwrap_or_default();
    manifests.retain(|old| name(old).is_none_or(|name| !names.contains(&name)));
    manifests.extend(new);
    index["manifests"] = manifests.into();
    index.to_string().into_bytes()
}

/// Adds the images to the layout in `directory`, which is made if it is not there.
pub fn write(selection: &Selection, directory: &Path, tag: Option<&str>) -> Result<(), Error> {
    let own = selection.store.root().join("image");
    if fs::canonicalize(directory).is_ok_and(|path| fs::canonicalize(own).is_ok_and(|own| own == path)) {
        return Err(Error::new("cannot save into the store's own layout").hint("mocker-images tag REF NEW"));
    }
    let blobs = directory.join("blobs/sha256");
    check_layout(directory)?;
    fs::create_dir_all(&blobs).map_err(failed("make directory", blobs.display()))?;
    for blob in selection.small_blobs() {
        put(&blobs, &blob.digest, blob.bytes.len() as u64, |out| {
            out.write_all(&blob.bytes).map_err(failed("write", blobs.display()))
        })?;
    }
    for layer in selection.layers() {
        put(&blobs, &layer.digest, layer.size, |out| {
            selection.copy(layer, |bytes| out.write_all(bytes).map_err(failed("write", blobs.display())))
        })?;
    }
    mocker_common::publish::to_disk_by_name(&blobs)?;

    // Two of us at once must not each write the index without the other's image.
    let lock = File::open(directory).map_err(failed("open", directory.display()))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| failed("lock", directory.display())(errno.into()))?;
    let layout = directory.join("oci-layout");
    if !layout.exists() {
        write_atomically(&layout, 0o644, LAYOUT.as_bytes())?;
    }
    let path = directory.join("index.json");
    let before = match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|cause| broken(directory, &cause.to_string()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read", path.display())(error)),
    };
    write_atomically(&path, 0o644, &index(before, descriptors(selection, &Naming::of(tag))))
}

/// A directory with other things in it is somebody's; an index that does not read is not ours to replace.
fn check_layout(directory: &Path) -> Result<(), Error> {
    let Ok(mut entries) = fs::read_dir(directory) else { return Ok(()) };
    let Ok(text) = fs::read(directory.join("oci-layout")) else {
        return match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::new(format!(
                "cannot save to {}: it is neither empty nor an image layout",
                directory.display()
            ))
            .why("blobs would be strewn among files that mean something else")),
        };
    };
    let version = serde_json::from_slice::<Value>(&text).unwrap_or_default();
    match version["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        _ => Err(broken(directory, "its oci-layout names no version 1")),
    }
}

fn broken(directory: &Path, cause: &str) -> Error {
    Error::new(format!("cannot save to {}: it is no image layout that reads: {cause}", directory.display()))
}

/// Puts a blob in its place, unless one of this size is there: its name says what it holds.
fn put(
    blobs: &Path,
    digest: &Digest,
    size: u64,
    write: impl FnOnce(&mut std::io::BufWriter<&mut Draft>) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = blobs.join(digest.hex());
    if File::open(&path).and_then(|file| file.metadata()).is_ok_and(|there| there.len() == size) {
        return Ok(());
    }
    let mut draft = Draft::begin(&path)?;
    let mut out = std::io::BufWriter::with_capacity(256 << 10, &mut draft);
    write(&mut out)?;
    out.flush().map_err(failed("write", path.display()))?;
    drop(out);
    draft.place()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_as_the_form_has_it() {
        let full = "docker.io/library/nginx:1";
        let digest = format!("docker.io/library/nginx@sha256:{}", "ab".repeat(32));
        let cases = [
            (Naming::AsDocker, full, json!({ FULL_NAME: full, REF_NAME: "1" })),
            (Naming::AsDocker, &digest, json!({})),
            (Naming::AsPodman, full, json!({ FULL_NAME: full, REF_NAME: full })),
            (Naming::AsPodman, &digest, json!({ REF_NAME: digest })),
            (Naming::Tag("v".into()), full, json!({ FULL_NAME: full, REF_NAME: "v" })),
        ];
        for (naming, name, expected) in cases {
            assert_eq!(naming.annotations(name), expected);
        }
    }

    #[test]
    fn an_index_keeps_what_it_has_and_replaces_by_name() {
        let named = |name: &str, digest: &str| json!({ "digest": digest, "annotations": { REF_NAME: name } });
        let before = json!({
            "schemaVersion": 2,
            "manifests": [named("a", "1"), { "digest": "2" }, named("b", "3")],
            "annotations": { "x": "y" },
        });
        let after: Value = serde_json::from_slice(&index(Some(before), vec![named("a", "4")])).unwrap();
        let digests: Vec<_> = after["manifests"].as_array().unwrap().iter().map(|one| one["digest"].clone()).collect();
        assert_eq!(digests, ["2", "3", "4"]);
        assert_eq!(after["annotations"]["x"], "y");
        assert_eq!(after["mediaType"], Value::Null);
    }
}
