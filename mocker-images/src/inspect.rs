//! `inspect`: what an image is made of.

use std::io::Write;

use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::Store;
use serde_json::{Value, json};

use crate::{contents, get};

/// Prints an array, an object an image: manifest and config as they are stored, and where each layer lies.
pub fn inspect(store: &Store, references: &[Reference]) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let all = references.iter().map(|reference| describe(store, reference)).collect::<Result<Vec<Value>, Error>>()?;
    writeln!(std::io::stdout(), "{:#}", Value::Array(all)).map_err(failed("write", "the description"))
}

fn describe(store: &Store, reference: &Reference) -> Result<Value, Error> {
    let image = Image::read(store, get::find(store, reference)?)?;
    let manifest = store.read_json(&image.entry.manifest)?;
    let sent = manifest["layers"].as_array().cloned().unwrap_or_default();
    let layers: Vec<Value> = image
        .layers
        .iter()
        .zip(&sent)
        .map(|(diff_id, sent)| {
            let directory = store.layer(diff_id);
            json!({
                "diff_id": diff_id.to_string(),
                "digest": sent["digest"],
                "media_type": sent["mediaType"],
                "compressed_bytes": sent["size"],
                "size_bytes": contents::size(&directory),
                "directory": directory,
            })
        })
        .collect();
    Ok(json!({
        "reference": image.entry.reference,
        "digest": image.entry.manifest.to_string(),
        "descriptor": image.entry.descriptor,
        "manifest": manifest,
        "config_digest": image.config_digest.to_string(),
        "config": store.read_json(&image.config_digest)?,
        "layers": layers,
    }))
}
