//! The new image's config and manifest: the base's, with a layer, a line of history and the changes.
//!
//! What the base has and mocker does not know stays. The types of its parts stay its own: docker's if it is docker's.
//! Source: image-spec, config.md and manifest.md; moby, image/spec/v1.2.md.

use std::fs;
use std::path::Path;

use mocker_common::digest::{DiffId, Digest, sha256};
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::publish;
use mocker_common::store::{Entry, Store};
use serde_json::{Map, Value, json};

use super::change::Change;
use super::container::Container;
use super::layer::Layer;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The image that the container stands on.
pub struct Base {
    manifest: Value,
    config: Value,
    layers: Vec<DiffId>,
}

/// What the history tells.
pub struct About {
    pub created: String,
    pub created_by: String,
    pub author: Option<String>,
    pub comment: Option<String>,
}

/// An image whose manifest and config are not in the store yet.
pub struct Derived {
    /// bottom first
    pub layers: Vec<DiffId>,
    pub manifest: (Digest, Vec<u8>),
    config: (Digest, Vec<u8>),
    media_type: &'static str,
    platform: Value,
}

impl Base {
    /// Reads the image by the digest in the container's document: its name may mean another by now.
    pub fn read(store: &Store, container: &Container) -> Result<Self, Error> {
        let document = &container.document;
        let digest: Digest = document.text("/mocker/image/manifest").unwrap_or_default().parse()?;
        let name = container.image();
        let gone = |error: Error| {
            Error { hint: format!("mocker-pull {name}"), ..error }
                .while_doing(format_args!("cannot commit {}: its image {name} is not here any more", container.id))
        };
        let entry = Entry { reference: name.into(), manifest: digest.clone(), descriptor: json!({}) };
        let manifest = store.read_json(&digest).map_err(gone)?;
        let image = Image::read(store, entry).map_err(gone)?;
        let config = store.read_json(&image.config_digest)?;

        // The layer says what was changed; on top of other layers it would say something else.
        let hex = |path: &std::path::PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_layer =
            |path: &&std::path::PathBuf| !path.parent().is_some_and(|parent| parent.ends_with("fixups/sha256"));
        let own: Vec<_> = container.lower.iter().filter(is_layer).filter_map(hex).collect();
        let expected: Vec<_> = image.lower(store)?.iter().filter(is_layer).filter_map(hex).collect();
        if own != expected {
            return Err(Error::new(format!(
                "cannot commit {}: it does not stand on the layers of {name}",
                container.id
            ))
            .likely("its document was changed by hand")
            .why("a layer holds what differs from those below; above others it makes another tree"));
        }
        Ok(Base { manifest, config, layers: image.layers })
    }

    /// The image with the layer on top. Without one only its settings and its history are new.
    pub fn derive(&self, layer: Option<&Layer>, changes: &[Change], about: &About) -> Result<Derived, Error> {
        let layers: Vec<DiffId> = self.layers.iter().cloned().chain(layer.map(|layer| layer.diff_id.clone())).collect();
        let config = self.config(&layers, layer.is_none(), changes, about)?;
        let platform = platform(&config);
        let config = bytes(&config);

        let docker = self.is_docker();
        let mut manifest = self.manifest.clone();
        manifest["config"]["digest"] = config.0.to_string().into();
        manifest["config"]["size"] = config.1.len().into();
        if let (Some(layer), Some(list)) = (layer, manifest["layers"].as_array_mut()) {
            let media_type = if docker { DOCKER_LAYER } else { OCI_LAYER };
            list.push(json!({ "mediaType": media_type, "digest": layer.digest.to_string(), "size": layer.size }));
        }
        if let Some(manifest) = manifest.as_object_mut() {
            manifest.shift_remove("annotations"); // they tell of the base: its version, its source
            if let Some(config) = manifest.get_mut("config").and_then(Value::as_object_mut) {
                config.shift_remove("data");
            }
        }
        let media_type = if docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        Ok(Derived { layers, manifest: bytes(&manifest), config, media_type, platform })
    }

    /// A manifest without a type is what its config says.
    fn is_docker(&self) -> bool {
        match self.manifest["mediaType"].as_str() {
            Some(own) => own == DOCKER_MANIFEST,
            None => self.manifest["config"]["mediaType"] == DOCKER_CONFIG,
        }
    }

    fn config(&self, layers: &[DiffId], empty: bool, changes: &[Change], about: &About) -> Result<Value, Error> {
        let mut config = self.config.clone();
        let broken = || Error::new("cannot commit: the image's config is no JSON object");
        let object = config.as_object_mut().ok_or_else(broken)?;
        for of_another_container in ["container", "container_config", "id", "parent", "docker_version"] {
            object.shift_remove(of_another_container);
        }
        let mut line = json!({ "created": about.created, "created_by": about.created_by });
        for (key, text) in [("author", &about.author), ("comment", &about.comment)] {
            if let Some(text) = text {
                line[key] = text.as_str().into();
            }
        }
        if empty {
            line["empty_layer"] = true.into();
        }
        object.insert("created".into(), about.created.as_str().into());
        if let Some(author) = &about.author {
            object.insert("author".into(), author.as_str().into());
        }
        if !object.get("config").is_some_and(Value::is_object) {
            object.insert("config".into(), Map::new().into());
        }
        if let Some(execution) = object.get_mut("config").and_then(Value::as_object_mut) {
            Change::apply_all(changes, execution)?;
        }
        let diff_ids: Vec<String> = layers.iter().map(ToString::to_string).collect();
        object.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        let history = object.entry("history").or_insert_with(|| json!([]));
        if !history.is_array() {
            *history = json!([]);
        }
        if let Some(history) = history.as_array_mut() {
            history.push(line);
        }
        Ok(config)
    }
}

impl Derived {
    /// Writes both beside the layer, so that one sync brings all to disk.
    pub fn stage(&self, place: &Path) -> Result<(), Error> {
        [&self.manifest, &self.config].into_iter().try_for_each(|(digest, bytes)| {
            let path = place.join(digest.hex());
            fs::write(&path, bytes).map_err(failed("write", path.display()))
        })
    }

    pub fn publish(&self, store: &Store, place: &Path) -> Result<(), Error> {
        [&self.config, &self.manifest]
            .into_iter()
            .try_for_each(|(digest, _)| publish::blob(&place.join(digest.hex()), &store.blob(digest)))
    }

    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.manifest.0.to_string(),
            "size": self.manifest.1.len(),
            "platform": self.platform,
        })
    }
}

fn bytes(json: &Value) -> (Digest, Vec<u8>) {
    let bytes = json.to_string().into_bytes();
    (Digest::from_bytes(&sha256(&bytes)), bytes)
}

fn platform(config: &Value) -> Value {
    let text = |key: &str, default: &'static str| {
        config[key].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_string()
    };
    let mut platform = json!({ "os": text("os", "linux"), "architecture": text("architecture", "amd64") });
    if let Some(variant) = config["variant"].as_str() {
        platform["variant"] = variant.into();
    }
    platform
}
