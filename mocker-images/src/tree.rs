//! `tree`: which layers images share, as a picture.
//!
//! Images whose lowest layers are the same stand on one trunk; where their layers part, the picture branches.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use clap::Args;
use mocker_common::digest::DiffId;
use mocker_common::error::{Error, failed};
use mocker_common::image::chain_id;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, Store};
use mocker_common::units::format_size;
use serde_json::{Value, json};

use crate::summary::{Reader, Summary};
use crate::{get, printable};

#[derive(Args, Debug)]
pub struct TreeArgs {
    /// [default: all]
    #[arg(value_name = "REF")]
    references: Vec<Reference>,
    /// Print a JSON array, an object a layer and place
    #[arg(long)]
    json: bool,
    /// Show diff_ids whole
    #[arg(long)]
    no_trunc: bool,
}

pub const HELP: &str = "\
Fields of --json (an array, a layer before those above it; schema: tree.schema.json beside this tool's source):
  chain_id    of the layer and all below it: its place
  parent      chain_id of the place below; null at the bottom
  diff_id     the layer; the same one may have several places, and is stored once
  size_bytes  of the layer's files
  images      the images whose topmost layer it is";

/// A layer in its place.
struct Place {
    layer: DiffId,
    parent: Option<usize>,
    chain: String,
    size: u64,
    images: Vec<String>,
    above: Vec<usize>,
}

/// The places of all layers, each after the one it stands on.
#[derive(Default)]
struct Forest {
    places: Vec<Place>,
    bottoms: Vec<usize>,
    /// images that have no layer
    empty: Vec<String>,
}

/// Prints the layers of images, those they share once.
pub fn tree(store: &Store, args: &TreeArgs) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let mut entries = match args.references.is_empty() {
        true => store.entries()?,
        false => args.references.iter().map(|name| get::find(store, name)).collect::<Result<Vec<Entry>, Error>>()?,
    };
    entries.sort_by(|a, b| a.reference.cmp(&b.reference));
    entries.dedup();

    let mut reader = Reader::new(store);
    reader.read_ahead(&entries);
    let mut forest = Forest::default();
    for entry in entries {
        match reader.image(&entry.manifest) {
            Ok(image) => forest.add(&entry, &image, &mut reader)?,
            Err(error) => {
                let name = printable::text(&entry.reference);
                eprintln!("{}: {name} is damaged: {}", crate::TOOL, printable::text(&error.what));
            }
        }
    }
    let text = match args.json {
        true => format!("{:#}\n", forest.to_json()),
        false => forest.draw(args.no_trunc),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the tree"))
}

impl Forest {
    fn add(&mut self, entry: &Entry, image: &Summary, reader: &mut Reader) -> Result<(), Error> {
        let mut at: Option<usize> = None;
        for layer in &image.layers {
            let siblings = at.map_or(&self.bottoms, |place| &self.places[place].above);
            at = match siblings.iter().find(|place| self.places[**place].layer == *layer) {
                Some(known) => Some(*known),
                None => Some(self.grow(at, layer, reader.layer_bytes(layer)?)?),
            };
        }
        match at {
            Some(place) => self.places[place].images.push(entry.reference.clone()),
            None => self.empty.push(entry.reference.clone()),
        }
        Ok(())
    }

    fn grow(&mut self, parent: Option<usize>, layer: &DiffId, size: u64) -> Result<usize, Error> {
        let below = parent.map(|place| self.places[place].chain.parse::<DiffId>()).transpose()?;
        let stack: Vec<DiffId> = below.into_iter().chain([layer.clone()]).collect();
        let chain = chain_id(&stack).map(|chain| chain.to_string()).unwrap_or_default();
        let number = self.places.len();
        self.places.push(Place { layer: layer.clone(), parent, chain, size, images: Vec::new(), above: Vec::new() });
        match parent {
            Some(parent) => self.places[parent].above.push(number),
            None => self.bottoms.push(number),
        }
        Ok(number)
    }

    fn to_json(&self) -> Value {
        let places = self.places.iter().map(|place| {
            json!({
                "chain_id": place.chain,
                "parent": place.parent.map(|parent| &self.places[parent].chain),
                "diff_id": place.layer.to_string(),
                "size_bytes": place.size,
                "images": place.images,
            })
        });
        Value::Array(places.collect())
    }

    /// Layers that follow each other without a branch stand below each other; images and branches are indented.
    fn draw(&self, whole: bool) -> String {
        let mut picture = Picture { forest: self, whole, text: String::new(), drawn: HashSet::new() };
        for bottom in &self.bottoms {
            picture.trunk(*bottom, "", "");
        }
        for image in &self.empty {
            picture.text += &format!("{} (no layers)\n", familiar(image));
        }
        picture.text + &self.sum()
    }

    fn sum(&self) -> String {
        let images = self.empty.len() + self.places.iter().map(|place| place.images.len()).sum::<usize>();
        let once: BTreeMap<&DiffId, u64> = self.places.iter().map(|place| (&place.layer, place.size)).collect();
        let mut separate = 0u64;
        for place in &self.places {
            let mut at = Some(place);
            while let Some(below) = at {
                separate = separate.saturating_add(below.size.saturating_mul(place.images.len() as u64));
                at = below.parent.map(|parent| &self.places[parent]);
            }
        }
        let stored = once.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        let (images, layers) = (counted(images, "image"), counted(once.len(), "layer"));
        format!("{images}, {layers}: {}, {} if nothing were shared\n", format_size(stored), format_size(separate))
    }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

struct Picture<'a> {
    forest: &'a Forest,
    whole: bool,
    text: String,
    /// layers that have a place in the picture already
    drawn: HashSet<&'a DiffId>,
}

impl Picture<'_> {
    /// A layer and what stands on it. `first` stands in front of its line, `then` in front of the others.
    fn trunk(&mut self, bottom: usize, first: &str, then: &str) {
        let forest = self.forest;
        let (mut place, mut lead) = (&forest.places[bottom], first);
        loop {
            let again = if self.drawn.insert(&place.layer) { "" } else { "  (drawn above, stored once)" };
            let id = place.layer.to_string();
            let id = if self.whole { &id } else { place.layer.0.short() };
            self.text += &format!("{lead}{id}  {}{again}\n", format_size(place.size));
            match place.above[..] {
                [only] if place.images.is_empty() => (place, lead) = (&forest.places[only], then),
                _ => break,
            }
        }
        let branches = place.images.len() + place.above.len();
        for (number, image) in place.images.iter().enumerate() {
            let branch = if number + 1 == branches { "└── " } else { "├── " };
            self.text += &format!("{then}{branch}{}\n", familiar(image));
        }
        for (number, above) in place.above.iter().enumerate() {
            let is_last = place.images.len() + number + 1 == branches;
            let (branch, below) = if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
            self.trunk(*above, &format!("{then}{branch}"), &format!("{then}{below}"));
        }
    }
}

/// As a person would type it, with its tag.
fn familiar(reference: &str) -> String {
    let typed = reference.parse::<Reference>().map(|name| {
        let tag = name.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = name.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", name.familiar_name())
    });
    typed.unwrap_or_else(|_| printable::text(reference).into_owned())
}
