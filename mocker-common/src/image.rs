//! An image in the store, and the document that runs it.
//!
//! The conversion follows image-spec, conversion.md: Entrypoint and Cmd become `process.args`, Env, WorkingDir and
//! User their fields, the rest annotations.

use std::fs;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;

use crate::digest::{DiffId, Digest};
use crate::document::Document;
use crate::error::{Error, failed};
use crate::passwd;
use crate::store::{Entry, Store};

/// What mocker reads of an image's config (image-spec, config.md).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    pub architecture: String,
    pub os: String,
    pub created: Option<String>,
    pub author: Option<String>,
    pub config: Option<Execution>,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootFs {
    pub diff_ids: Vec<String>,
}

/// The execution parameters. Docker writes null where OCI leaves a key out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Execution {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub labels: Option<serde_json::Map<String, Value>>,
    pub stop_signal: Option<String>,
    pub exposed_ports: Option<serde_json::Map<String, Value>>,
}

/// An image of the store with its manifest and config read.
pub struct Image {
    pub entry: Entry,
    pub config_digest: Digest,
    pub config: Config,
    /// bottom first
    pub layers: Vec<DiffId>,
    /// of the layers as they are sent, in bytes
    pub compressed_bytes: u64,
}

impl Image {
    pub fn read(store: &Store, entry: Entry) -> Result<Image, Error> {
        let broken = |cause: &str| {
            Error::new(format!("cannot use image {}: {cause}", entry.reference)).hint("mocker-images verify")
        };
        let manifest = store.read_json(&entry.manifest)?;
        let config_digest: Digest = manifest["config"]["digest"].as_str().unwrap_or("").parse()?;
        let config: Config = serde_json::from_value(store.read_json(&config_digest)?)
            .map_err(|error| broken(&format!("its config does not read: {error}")))?;
        let layers: Vec<DiffId> = config.rootfs.diff_ids.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let sent = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if sent.len() != layers.len() {
            return Err(broken(&format!("its manifest lists {} layers, its config {}", sent.len(), layers.len())));
        }
        let compressed_bytes = sent.iter().filter_map(|layer| layer["size"].as_u64()).sum();
        Ok(Image { config_digest, config, layers, compressed_bytes, entry })
    }

    /// The layer directories in overlayfs' order: top first, a fix-up above them all where the image needs one.
    pub fn lower(&self, store: &Store) -> Result<Vec<PathBuf>, Error> {
        let fixup = self.chain_id().map(|chain_id| store.fixup(&chain_id)).filter(|path| path.is_dir());
        let layers = self.layers.iter().rev().map(|diff_id| store.layer(diff_id));
        let mut lower: Vec<PathBuf> = fixup.into_iter().chain(layers).collect();
        // The same layer may come twice (an empty one often does). Below itself it shows nothing that it does not
        // show above, and overlayfs refuses a directory that it already has (ELOOP).
        let mut known = std::collections::HashSet::new();
        lower.retain(|path| known.insert(path.clone()));
        match lower.iter().find(|path| !path.is_dir()) {
            None => Ok(lower),
            Some(missing) => Err(Error::new(format!(
                "cannot use image {}: its layer {} is not there",
                self.entry.reference,
                missing.display()
            ))
            .hint(format!("mocker-pull {}", self.entry.reference))),
        }
    }

    /// Names the whole stack of layers (image-spec, config.md, Layer ChainID). None for an image without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        chain_id(&self.layers)
    }

    /// The document that runs this image: the default one with the image's own settings.
    pub fn document(&self, store: &Store) -> Result<Document, Error> {
        let mut document = Document::new();
        let execution = self.config.config.clone().unwrap_or_default();
        let lower = self.lower(store)?;

        // What to run. Lists are exec form already: no shell, no splitting.
        let entrypoint = execution.entrypoint.unwrap_or_default();
        let cmd = execution.cmd.unwrap_or_default();
        let args: Vec<&String> = entrypoint.iter().chain(&cmd).collect();
        document.set("/process/args", json!(args));
        if let Some(directory) = execution.working_dir.filter(|directory| !directory.is_empty()) {
            document.set("/process/cwd", directory);
        }

        // Its environment: the image's own, and a PATH if it has none.
        let mut env = execution.env.unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.insert(0, format!("PATH={}", crate::defaults::PATH));
        }
        document.set("/process/env", env);

        // Who runs it: names by the image's own files.
        let user = execution.user.unwrap_or_default();
        let identity =
            passwd::resolve(&user, &read_layered(&lower, "etc/passwd")?, &read_layered(&lower, "etc/group")?)
                .map_err(|error| error.while_doing(format_args!("image {}", self.entry.reference)))?;
        document.set("/process/user", json!({ "uid": identity.uid, "gid": identity.gid }));
        document.set("/process/user/additionalGids", identity.all_groups());

        document.set("/annotations", self.annotations());
        document.set(
            "/mocker/image",
            json!({
                "reference": self.entry.reference,
                "manifest": self.entry.manifest.to_string(),
                "config": self.config_digest.to_string(),
                "entrypoint": entrypoint,
                "cmd": cmd,
                "user": user,
            }),
        );
        document.set("/mocker/rootfs", json!({ "lower": lower }));
        Ok(document)
    }

    /// Labels and the implied annotations (image-spec, conversion.md, Annotation Fields).
    fn annotations(&self) -> Value {
        let execution = self.config.config.clone().unwrap_or_default();
        let mut annotations = serde_json::Map::new();
        let ports: Vec<String> = execution.exposed_ports.unwrap_or_default().keys().cloned().collect();
        let implied = [
            ("os", Some(self.config.os.clone())),
            ("architecture", Some(self.config.architecture.clone())),
            ("author", self.config.author.clone()),
            ("created", self.config.created.clone()),
            ("stopSignal", execution.stop_signal),
            ("exposedPorts", Some(ports.join(","))),
        ];
        for (key, value) in implied {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                annotations.insert(format!("org.opencontainers.image.{key}"), value.into());
            }
        }
        // Explicit labels win over implied annotations.
        for (key, value) in execution.labels.unwrap_or_default() {
            annotations.insert(key, value);
        }
        Value::Object(annotations)
    }
}

/// The chain id of layers, bottom first: the digest of "chain id so far, space, next diff_id".
pub fn chain_id(layers: &[DiffId]) -> Option<Digest> {
    let (first, rest) = layers.split_first()?;
    let chained =
        |chain: Digest, next: &DiffId| Digest::from_bytes(&crate::digest::sha256(format!("{chain} {next}").as_bytes()));
    Some(rest.iter().fold(first.0.clone(), chained))
}

/// Reads a file as the overlay of `lower` (top first) would show it; empty where the image has none.
///
/// Symlinks resolve inside each layer, never outside it. A file that a link leads out of its layer for reads as absent.
pub fn read_layered(lower: &[PathBuf], path: &str) -> Result<String, Error> {
    for layer in lower {
        // A whiteout or an opaque parent here hides the layers below.
        let file = openat2(
            CWD,
            layer,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::empty(),
        )
        .and_then(|root| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
        });
        match file {
            Ok(file) => {
                let mut file = fs::File::from(file);
                let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
                let mut bytes = Vec::new();
                if is_file {
                    const LIMIT: u64 = 8 << 20;
                    Read::by_ref(&mut file).take(LIMIT).read_to_end(&mut bytes).map_err(failed("read", path))?;
                }
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(rustix::io::Errno::NXIO) => return Ok(String::new()), // a whiteout: a device without a driver
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                if hides_below(layer, path) {
                    return Ok(String::new());
                }
            }
            Err(errno) => return Err(failed("read", format!("{}/{path}", layer.display()))(errno.into())),
        }
    }
    Ok(String::new())
}

/// Whether a layer's whiteout or opaque directory stands on the way to `path`.
fn hides_below(layer: &std::path::Path, path: &str) -> bool {
    let mut place = layer.to_path_buf();
    for part in path.split('/') {
        place.push(part);
        let Ok(metadata) = fs::symlink_metadata(&place) else { return false };
        let mut mark = [0u8; 1];
        let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"]
            .iter()
            .any(|name| rustix::fs::lgetxattr(&place, *name, &mut mark[..]).is_ok_and(|_| mark == *b"y"));
        if !metadata.is_dir() || opaque {
            return true;
        }
    }
    false
}
