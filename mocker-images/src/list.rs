//! `list`: the images as a table, or as JSON.

use std::collections::HashMap;
use std::io::Write;

use mocker_common::digest::{DiffId, Digest};
use mocker_common::error::{Error, failed};
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, STORED_AT, Store};
use mocker_common::units::format_size;
use serde_json::{Value, json};

use crate::{age, contents, table};

/// What is told of an image.
struct Row {
    entry: Entry,
    image: Result<Image, Error>,
    size_bytes: u64,
}

/// Prints every image, by name. One that is damaged is listed too, and said to be.
pub fn list(store: &Store, as_json: bool) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let mut sizes = Sizes { store, known: HashMap::new() };
    let mut rows = Vec::new();
    for entry in store.entries()? {
        let image = Image::read(store, entry.clone());
        let size_bytes = match &image {
            Ok(image) => image.layers.iter().map(|layer| sizes.of(layer)).sum(),
            Err(_) => 0,
        };
        rows.push(Row { entry, image, size_bytes });
    }
    rows.sort_by(|a, b| a.entry.reference.cmp(&b.entry.reference));

    let text = match as_json {
        true => format!("{:#}\n", Value::Array(rows.iter().map(Row::to_json).collect())),
        false => {
            let cells: Vec<Vec<String>> = rows.iter().map(Row::to_cells).collect();
            table::draw(&["name", "version", "size", "digest", "age"], &cells, terminal_width())
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the list"))?;
    for row in &rows {
        if let Err(error) = &row.image {
            eprintln!("{}: {} is damaged: {}", crate::TOOL, row.entry.reference, error.what);
        }
    }
    Ok(())
}

impl Row {
    fn to_json(&self) -> Value {
        let (name, tag, _) = parts(&self.entry);
        let image = self.image.as_ref().ok();
        let layers: Vec<String> =
            image.map(|image| image.layers.iter().map(ToString::to_string).collect()).unwrap_or_default();
        json!({
            "reference": self.entry.reference,
            "name": name,
            "tag": tag,
            "digest": self.entry.manifest.to_string(),
            "config_digest": image.map(|image| image.config_digest.to_string()),
            "created": image.and_then(|image| image.config.created.clone()),
            "stored_at": self.entry.descriptor["annotations"][STORED_AT],
            "size_bytes": self.size_bytes,
            "compressed_bytes": image.map_or(0, |image| image.compressed_bytes),
            "layers": layers,
            "damaged": self.image.as_ref().err().map(|error| error.what.clone()),
        })
    }

    fn to_cells(&self) -> Vec<String> {
        let (name, tag, _) = parts(&self.entry);
        let version = tag.unwrap_or_else(|| "-".into());
        let (size, created) = match &self.image {
            Ok(image) => (format_size(self.size_bytes), image.config.created.as_deref()),
            Err(_) => ("damaged".into(), None),
        };
        let age = created.and_then(age::since).unwrap_or_else(|| "-".into());
        vec![name, version, size, self.entry.manifest.short().into(), age]
    }
}

/// Name for people, tag and digest of an image's reference. One that another tool wrote may not read as ours.
fn parts(entry: &Entry) -> (String, Option<String>, Option<Digest>) {
    match entry.reference.parse::<Reference>() {
        Ok(reference) => (reference.familiar_name(), reference.tag, reference.digest),
        Err(_) => (entry.reference.clone(), None, None),
    }
}

/// The sizes of layers, each measured once however many images share it.
struct Sizes<'a> {
    store: &'a Store,
    known: HashMap<DiffId, u64>,
}

impl Sizes<'_> {
    fn of(&mut self, layer: &DiffId) -> u64 {
        let store = self.store;
        *self.known.entry(layer.clone()).or_insert_with(|| contents::size(&store.layer(layer)))
    }
}

/// None off a terminal: what is piped is never cut.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}
