//! `inspect`: what an image is made of.

use std::io::Write;

use clap::Args;
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, STORED_AT, Store};
use serde_json::{Value, json};

use crate::format::{self, Template};
use crate::get;
use crate::summary::Reader;

#[derive(Args, Debug)]
pub struct InspectArgs {
    #[arg(value_name = "REF", required = true)]
    references: Vec<Reference>,
    /// Print each image by a template: '{{.Architecture}}', '{{json .Config.Env}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub const HELP: &str = "\
Fields (an array, an object an image):
  reference, digest, descriptor        as index.json of the store has it
  names                                all references of this digest
  created, author, os, architecture, variant   as the config says; null where it does not
  stored_at                            when it was stored here
  size_bytes, compressed_bytes         of the files in all layers; of the layers as they are sent
  manifest, config_digest, config      as they were sent, whole
  layers                               bottom first: diff_id, digest, media_type, compressed_bytes, size_bytes, directory
  fixup                                the directory above the layers that settles what they left open; null without one
A template has these too, and docker's and skopeo's: Id, Name, RepoTags, RepoDigests, Digest, Created, Author, Os,
Architecture, Size, Config, RootFS, Labels, Env.";

/// Prints an array, an object an image: manifest and config as they are stored, and where each layer lies.
pub fn inspect(store: &Store, args: &InspectArgs) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let entries = store.entries()?;
    let describe = |reference| describe(store, &get::find(store, reference)?, &entries);
    let all: Vec<Value> = args.references.iter().map(describe).collect::<Result<_, Error>>()?;
    let text = match &args.format {
        Some(template) => {
            let all: Vec<Value> = all.into_iter().map(with_docker_names).collect();
            let known = all.first().and_then(Value::as_object).into_iter().flat_map(|first| first.keys());
            Template::parse(template, &known.map(String::as_str).collect::<Vec<_>>())?.print(&all)
        }
        None => format!("{:#}\n", Value::Array(all)),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the description"))
}

fn describe(store: &Store, entry: &Entry, entries: &[Entry]) -> Result<Value, Error> {
    let image = Image::read(store, entry.clone())?;
    let manifest = store.read_json(&entry.manifest)?;
    let config = store.read_json(&image.config_digest)?;
    let sent = manifest["layers"].as_array().cloned().unwrap_or_default();
    let mut reader = Reader::new(store);
    let mut size_bytes = 0u64;
    let mut layers = Vec::new();
    for (diff_id, sent) in image.layers.iter().zip(&sent) {
        let bytes = reader.layer_bytes(diff_id).ok(); // a damaged image is what people inspect
        size_bytes = size_bytes.saturating_add(bytes.unwrap_or(0));
        layers.push(json!({
            "diff_id": diff_id.to_string(),
            "digest": sent["digest"],
            "media_type": sent["mediaType"],
            "compressed_bytes": sent["size"],
            "size_bytes": bytes,
            "directory": store.layer(diff_id),
        }));
    }
    let names = entries.iter().filter(|other| other.manifest == entry.manifest).map(|other| &other.reference);
    let fixup = image.chain_id().map(|chain_id| store.fixup(&chain_id)).filter(|path| path.is_dir());
    Ok(json!({
        "reference": entry.reference,
        "names": names.collect::<Vec<_>>(),
        "digest": entry.manifest.to_string(),
        "descriptor": entry.descriptor,
        "created": config["created"],
        "author": config["author"],
        "os": config["os"],
        "architecture": config["architecture"],
        "variant": config["variant"],
        "stored_at": entry.descriptor["annotations"][STORED_AT],
        "size_bytes": size_bytes,
        "compressed_bytes": image.compressed_bytes,
        "manifest": manifest,
        "config_digest": image.config_digest.to_string(),
        "config": config,
        "layers": layers,
        "fixup": fixup,
    }))
}

/// The same under the names that docker's and skopeo's inspect give it.
fn with_docker_names(image: Value) -> Value {
    let parsed = |name: &Value| name.as_str().and_then(|name| name.parse::<Reference>().ok());
    let names: Vec<Reference> = image["names"].as_array().into_iter().flatten().filter_map(parsed).collect();
    let tags = names.iter().filter_map(|name| Some(format!("{}:{}", name.familiar_name(), name.tag.as_ref()?)));
    let digest = image["digest"].as_str().unwrap_or_default();
    let mut digests: Vec<String> = names.iter().map(|name| format!("{}@{digest}", name.familiar_name())).collect();
    digests.dedup();
    let docker = json!({
        "Id": image["config_digest"],
        "Name": parsed(&image["reference"]).map(|name| name.name()),
        "RepoTags": tags.collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Digest": image["digest"],
        "Created": image["created"],
        "Author": image["author"],
        "Os": image["os"],
        "Architecture": image["architecture"],
        "Size": image["size_bytes"],
        "Config": image["config"]["config"],
        "RootFS": { "Type": "layers", "Layers": image["config"]["rootfs"]["diff_ids"] },
        "Labels": image["config"]["config"]["Labels"],
        "Env": image["config"]["config"]["Env"],
    });
    format::with(docker, image)
}
