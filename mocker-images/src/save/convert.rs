//! Docker's manifest as OCI's: the same lists with other type names.
//!
//! Readers of image layouts (umoci, skopeo before 1.10) take OCI's types only. Config and layers stay what they are, to
//! the digest; the manifest's own changes, as it does in `skopeo copy docker://… oci:…`.
//! Source: image-spec, media-types.md, Compatibility Matrix.

use mocker_common::digest::{Digest, sha256};
use mocker_common::error::Error;
use serde_json::{Value, json};

use super::selection::{Blob, Saved, Selection};
use crate::TOOL;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Docker's names and OCI's.
const TYPES: [(&str, &str); 6] = [
    ("application/vnd.docker.distribution.manifest.v2+json", OCI_MANIFEST),
    ("application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"),
    ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
];

/// Gives each image that has docker's types OCI's, and says that its manifest has another digest then.
pub fn to_oci(selection: &mut Selection) -> Result<(), Error> {
    for image in &mut selection.images {
        if image.descriptor["mediaType"] == TYPES[0].0 {
            convert(image)?;
            let name = image.names.first().map_or("", |name| name);
            eprintln!("{TOOL}: note: {name} has docker's types; in OCI's its digest is {}", image.manifest.digest);
        }
    }
    Ok(())
}

fn convert(image: &mut Saved) -> Result<(), Error> {
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes)
        .map_err(|cause| Error::new(format!("cannot read manifest {}: {cause}", image.manifest.digest.short())))?;
    manifest["mediaType"] = OCI_MANIFEST.into();
    rename(&mut manifest["config"]["mediaType"]);
    for layer in manifest["layers"].as_array_mut().into_iter().flatten() {
        rename(&mut layer["mediaType"]);
    }
    let bytes = manifest.to_string().into_bytes();
    image.manifest = Blob { digest: Digest::from_bytes(&sha256(&bytes)), bytes };
    image.descriptor["mediaType"] = OCI_MANIFEST.into();
    image.descriptor["digest"] = image.manifest.digest.to_string().into();
    image.descriptor["size"] = json!(image.manifest.bytes.len());
    Ok(())
}

/// A type that is in no table stays: it is OCI's already, or nobody knows it.
fn rename(media_type: &mut Value) {
    if let Some((_, oci)) = TYPES.iter().find(|(docker, _)| *media_type == *docker) {
        *media_type = (*oci).into();
    }
}
