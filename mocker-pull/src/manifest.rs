//! Manifests: what a registry answers when asked for an image.
//!
//! Either an index (one image for each platform) or one image's manifest (its config and its layers), in OCI's form
//! or in docker's, which differ by name only. Pure functions on the bytes as received; a digest is always theirs.
//! Source: image-spec, manifest.md and image-index.md; distribution, manifest-v2-2.

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::Error;
use mocker_common::image::Config;
use serde_json::Value;

/// All that mocker reads, asked for at once: who leaves out the indexes is sent one platform's image, or a 404.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Which of the two a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Index,
    Image,
}

/// A part of an image, by digest (image-spec, descriptor.md). Its `urls` are not even read: they would send us, and
/// once sent others with their passwords, to any host a manifest's author likes (CVE-2020-15157).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// An image's manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub media_type: &'static str,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A layer as it is sent and as it is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub blob: Descriptor,
    pub diff_id: DiffId,
}

/// Decides what a document is. The type it gives itself must be the one it was announced with: one that reads as both
/// an index and an image could be checked as the one and run as the other (CVE-2021-41190).
pub fn kind(content_type: Option<&str>, document: &Value) -> Result<Kind, Error> {
    let announced =
        content_type.and_then(|text| text.split(';').next()).map(str::trim).filter(|text| is_specific(text));
    let own = document["mediaType"].as_str();
    if document["schemaVersion"] == 1 || [announced, own].into_iter().flatten().any(is_schema1) {
        return Err(Error::new("cannot use the manifest: it is of docker's schema 1")
            .likely("the image was pushed before 2016; servers and clients have dropped that format")
            .hint("pull and push it again with docker 19 to 25, which still converts it"));
    }
    if !document["layers"].is_null() && !document["manifests"].is_null() {
        return Err(Error::new("cannot use the manifest: it lists both layers and manifests")
            .why("it could be checked as the one and used as the other (CVE-2021-41190)")
            .likely("the registry or whoever pushed this is hostile"));
    }
    if let (Some(announced), Some(own)) = (announced, own)
        && !announced.eq_ignore_ascii_case(own)
    {
        return Err(Error::new(format!("cannot use the manifest: sent as {announced}, it calls itself {own}"))
            .why("what a document is must not depend on whom one believes (CVE-2021-41190)")
            .likely("a broken registry or proxy"));
    }
    match own.or(announced) {
        Some(OCI_INDEX | DOCKER_LIST) => Ok(Kind::Index),
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => Ok(Kind::Image),
        Some(other) => Err(Error::new(format!("cannot use the manifest: {} is no image", printable(other)))
            .hint("mocker-pull reads OCI indexes and manifests and docker's schema 2")),
        None if document["manifests"].is_array() => Ok(Kind::Index),
        None if document["config"].is_object() => Ok(Kind::Image),
        None => Err(Error::new("cannot use the manifest: it is neither an index nor an image")
            .likely("another kind of server answers at this address")),
    }
}

/// Types that web servers give to any JSON say nothing.
fn is_specific(media_type: &str) -> bool {
    let generic = ["application/json", "application/octet-stream", "text/plain", "binary/octet-stream", ""];
    !generic.contains(&media_type.to_ascii_lowercase().as_str())
}

fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

impl Descriptor {
    pub fn read(json: &Value) -> Result<Self, Error> {
        Ok(Descriptor {
            digest: json["digest"].as_str().unwrap_or_default().parse()?,
            size: json["size"].as_u64().ok_or_else(|| Error::new("cannot use a descriptor: it has no size"))?,
            media_type: json["mediaType"].as_str().unwrap_or_default().into(),
        })
    }
}

impl Manifest {
    /// Reads an image's manifest, and refuses what is no container image.
    pub fn read(document: &Value) -> Result<Self, Error> {
        let config =
            Descriptor::read(&document["config"]).map_err(|error| error.while_doing("the manifest's config"))?;
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let own = document["artifactType"].as_str().unwrap_or(&config.media_type);
            return Err(Error::new(format!("cannot pull it: it is {}, not a container image", artifact(own)))
                .said(format!("its config's type is {}", printable(&config.media_type)))
                .why("registries keep anything; only an image has layers to run")
                .hint("the tool that made it pulls it: helm, cosign, oras, flux …"));
        }
        let layers = document["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
        let docker = document["mediaType"].as_str() == Some(DOCKER_MANIFEST)
            || (document["mediaType"].is_null() && config.media_type == DOCKER_CONFIG);
        Ok(Manifest { media_type: if docker { DOCKER_MANIFEST } else { OCI_MANIFEST }, config, layers })
    }

    /// Puts the layers and the config's diff_ids side by side.
    pub fn layers_of(&self, config: &Config) -> Result<Vec<Layer>, Error> {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            return Err(Error::new(format!(
                "cannot use the image: its manifest lists {} layers, its config {}",
                self.layers.len(),
                diff_ids.len()
            ))
            .why("each layer is checked against its diff_id, the digest of its uncompressed files")
            .likely("a broken tool has made the image"));
        }
        let pairs = self.layers.iter().zip(diff_ids);
        pairs.map(|(blob, diff_id)| Ok(Layer { blob: blob.clone(), diff_id: diff_id.parse()? })).collect()
    }
}

/// How a layer is compressed is read from its first bytes, not from its type: mislabelled ones exist. But a type that
/// is no layer's at all means that these are not files.
fn layer(json: &Value) -> Result<Descriptor, Error> {
    let layer = Descriptor::read(json).map_err(|error| error.while_doing("a layer of the manifest"))?;
    let known = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
    let refused = |cause: &str| {
        Error::new(format!("cannot use layer {}: {cause}", layer.digest.short()))
            .said(format!("its type is {}", printable(&layer.media_type)))
    };
    if layer.media_type.contains("encrypted") {
        return Err(refused("it is encrypted").hint("skopeo copy --decryption-key decrypts such images"));
    }
    match layer.media_type.is_empty() || known.iter().any(|prefix| layer.media_type.starts_with(prefix)) {
        true => Ok(layer),
        false => Err(refused("it is no layer of files").likely("this is an artifact, not a container image")),
    }
}

/// What an artifact is called by those who use it.
fn artifact(media_type: &str) -> String {
    let known = [
        ("application/vnd.cncf.helm", "a helm chart"),
        ("application/vnd.dev.cosign", "a cosign signature"),
        ("application/vnd.dev.sigstore", "a signature"),
        ("application/vnd.cncf.notary", "a notation signature"),
        ("application/vnd.in-toto", "an attestation"),
        ("application/spdx", "a bill of materials"),
        ("application/vnd.cyclonedx", "a bill of materials"),
        ("application/vnd.wasm", "a WebAssembly module"),
        ("application/vnd.docker.plugin", "a docker plugin"),
        ("application/vnd.docker.ai", "an AI model"),
        ("application/vnd.cncf.flux", "a flux source"),
    ];
    let name = known.iter().find(|(prefix, _)| media_type.starts_with(prefix)).map(|(_, name)| name.to_string());
    name.unwrap_or_else(|| format!("an artifact ({})", printable(media_type)))
}

/// Text from outside, fit for a terminal.
pub fn printable(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(300).collect();
    if clean.is_empty() { "(none)".into() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", "ab".repeat(32)), "size": 3 })
    }

    #[test]
    fn a_document_is_what_both_it_and_the_registry_say() {
        let image = json!({ "schemaVersion": 2, "config": {}, "layers": [] });
        let with = |media_type: &str| json!({ "schemaVersion": 2, "mediaType": media_type, "layers": [] });
        let cases: [(Option<&str>, Value, Result<Kind, &str>); 16] = [
            (Some(OCI_INDEX), json!({ "manifests": [] }), Ok(Kind::Index)),
            (Some(DOCKER_LIST), json!({ "manifests": [], "mediaType": DOCKER_LIST }), Ok(Kind::Index)),
            (Some(OCI_MANIFEST), image.clone(), Ok(Kind::Image)),
            (Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), with(OCI_MANIFEST), Ok(Kind::Image)),
            (Some("Application/vnd.oci.image.manifest.v1+JSON"), with(OCI_MANIFEST), Ok(Kind::Image)),
            (Some("application/json"), with(DOCKER_MANIFEST), Ok(Kind::Image)),
            (Some("application/json"), json!({ "manifests": [] }), Ok(Kind::Index)),
            (None, image.clone(), Ok(Kind::Image)),
            (None, json!({}), Err("neither")),
            (Some("text/html"), json!({}), Err("text/html is no image")),
            (Some(OCI_INDEX), with(OCI_MANIFEST), Err("it calls itself")),
            (Some(OCI_MANIFEST), with(DOCKER_MANIFEST), Err("it calls itself")),
            (Some(OCI_MANIFEST), json!({ "layers": [], "manifests": [] }), Err("both layers and manifests")),
            (None, json!({ "schemaVersion": 1 }), Err("schema 1")),
            (Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), json!({}), Err("schema 1")),
            (Some("application/json\u{1b}[2J"), json!({}), Err("application/json?[2J is no image")),
        ];
        for (content_type, document, expected) in cases {
            match (kind(content_type, &document), expected) {
                (Ok(kind), Ok(expected)) => assert_eq!(kind, expected, "{content_type:?} {document}"),
                (Err(error), Err(part)) => assert!(error.what.contains(part), "{error}"),
                (outcome, _) => panic!("{content_type:?} {document}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_image_is_called_by_its_name() {
        let cases = [
            ("application/vnd.cncf.helm.config.v1+json", "a helm chart"),
            ("application/vnd.oci.empty.v1+json", "an artifact (application/vnd.oci.empty.v1+json)"),
            ("", "an artifact ((none))"),
        ];
        for (media_type, name) in cases {
            let error = Manifest::read(&json!({ "config": descriptor(media_type), "layers": [] })).unwrap_err();
            assert!(error.what.contains(name), "{error}");
        }
        let layer = |media_type: &str| {
            Manifest::read(&json!({ "config": descriptor(OCI_CONFIG), "layers": [descriptor(media_type)] }))
        };
        assert!(layer("application/vnd.oci.image.layer.v1.tar+zstd").is_ok());
        assert!(layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip").is_ok());
        assert!(layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").unwrap_err().what.contains("encrypted"));
        assert!(layer("application/vnd.in-toto+json").is_err());
    }

    #[test]
    fn each_layer_needs_its_diff_id() {
        let document = json!({ "config": descriptor(DOCKER_CONFIG), "layers": [descriptor("")] });
        let manifest = Manifest::read(&document).unwrap();
        assert_eq!(manifest.media_type, DOCKER_MANIFEST);
        let mut config = Config::default();
        assert!(manifest.layers_of(&config).unwrap_err().what.contains("lists 1 layers, its config 0"));
        config.rootfs.diff_ids = vec!["sha256:../../etc".into()];
        assert!(manifest.layers_of(&config).is_err());
        config.rootfs.diff_ids = vec![format!("sha256:{}", "cd".repeat(32))];
        assert_eq!(manifest.layers_of(&config).unwrap()[0].blob.size, 3);
    }

    proptest::proptest! {
        #[test]
        fn no_document_makes_the_reader_panic(text in r#"[{}\[\]":,a-z0-9]{0,60}"#) {
            if let Ok(document) = serde_json::from_str::<Value>(&text) {
                drop(kind(None, &document));
                drop(Manifest::read(&document));
            }
        }
    }
}
