//! Images in one tar: an OCI layout, docker's own form, or both at once.
//!
//! What lists comes before what is listed, so a reader of a pipe knows what each blob is when it comes. All in one
//! pass, in memory that does not grow; the order follows from the images alone, and no time is written.
//! Source: image-spec, image-layout.md; moby, image/spec/v1.2.md, Combined Image JSON.

use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::unpack::member::{Kind, Member};
use serde_json::{Value, json};

use super::destination::{Sink, written};
use super::layout::{LAYOUT, Naming, descriptors, index};
use super::selection::{Saved, Selection};
use crate::pack::{Pack, plain};

/// The layout with docker's manifest.json beside it: docker load and podman load read the one or the other.
pub fn write_for_all(selection: &Selection, sink: Sink) -> Result<(), Error> {
    let images = selection.images.iter().map(|image| {
        let layers = image.layers.iter().map(|layer| blob_path(layer.digest.hex())).collect();
        docker_entry(image, blob_path(image.config.digest.hex()), layers)
    });
    write_layout(selection, &Naming::AsDocker, Some(images.collect()), sink)
}

/// The layout alone.
pub fn write_oci(selection: &Selection, tag: Option<&str>, sink: Sink) -> Result<(), Error> {
    write_layout(selection, &Naming::of(tag), None, sink)
}

fn write_layout(selection: &Selection, naming: &Naming, docker: Option<Value>, sink: Sink) -> Result<(), Error> {
    let mut pack = Pack::new(sink);
    pack.file("oci-layout", LAYOUT.as_bytes()).map_err(written)?;
    pack.file("index.json", &index(None, descriptors(selection, naming))).map_err(written)?;
    if let Some(docker) = docker {
        pack.file("manifest.json", docker.to_string().as_bytes()).map_err(written)?;
    }
    for directory in ["blobs/", "blobs/sha256/"] {
        pack.member(&plain(directory.into(), Kind::Directory, 0o755)).map_err(written)?;
    }
    for blob in selection.small_blobs() {
        pack.file(&blob_path(blob.digest.hex()), &blob.bytes).map_err(written)?;
    }
    for layer in selection.layers() {
        pack.member(&sized(blob_path(layer.digest.hex()), layer.size)).map_err(written)?;
        selection.copy(layer, |bytes| pack.data(bytes).map_err(written))?;
    }
    pack.finish().map_err(written)?.finish()
}

/// Docker's archive as skopeo and older dockers write it. A layer's size stands before it, so each is read twice.
pub fn write_docker(selection: &Selection, sink: Sink) -> Result<(), Error> {
    let tar_path = |hex: &str| format!("{hex}.tar");
    let images = selection.images.iter().map(|image| {
        let layers = image.layers.iter().map(|layer| tar_path(layer.diff_id.0.hex())).collect();
        docker_entry(image, format!("{}.json", image.config.digest.hex()), layers)
    });
    let manifest: Value = images.collect();

    let mut pack = Pack::new(sink);
    pack.file("manifest.json", manifest.to_string().as_bytes()).map_err(written)?;
    let mut known = std::collections::HashSet::new();
    for image in &selection.images {
        if known.insert(image.config.digest.hex()) {
            pack.file(&format!("{}.json", image.config.digest.hex()), &image.config.bytes).map_err(written)?;
        }
    }
    for layer in selection.layers() {
        if !known.insert(layer.diff_id.0.hex()) {
            continue; // the same files, compressed in two ways
        }
        pack.member(&sized(tar_path(layer.diff_id.0.hex()), selection.measure(layer)?)).map_err(written)?;
        selection.copy_uncompressed(layer, |bytes| pack.data(bytes).map_err(written))?;
    }
    pack.finish().map_err(written)?.finish()
}

fn blob_path(hex: &str) -> String {
    format!("blobs/sha256/{hex}")
}

fn sized(path: String, size: u64) -> Member {
    Member { size, ..plain(path.into_bytes(), Kind::File, 0o644) }
}

/// An image's entry in manifest.json.
fn docker_entry(image: &Saved, config: String, layers: Vec<String>) -> Value {
    let tags: Vec<&String> = image.names.iter().filter(|name| has_tag(name)).collect();
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    json!({ "Config": config, "RepoTags": tags, "Layers": layers })
}

/// Whether the image has more of a name than its digest. Names are written whole: podman takes a short one for its own.
fn has_tag(name: &str) -> bool {
    name.parse::<Reference>().is_ok_and(|reference| reference.tag.is_some() && reference.digest.is_none())
}
