//! `history`: what made an image, step by step.

use std::io::Write;

use clap::Args;
use mocker_common::error::{Error, failed};
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::Store;
use mocker_common::units::format_size;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::format::{self, Template};
use crate::summary::Reader;
use crate::table::{self, Column, Cut, column};
use crate::{age, get, printable};

#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[arg(value_name = "REF")]
    reference: Reference,
    /// Print a JSON array, an object a step
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    json: bool,
    /// Print each step by a template: '{{.CreatedBy}}', 'table {{.Size}}\t{{.Comment}}', json
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "quiet")]
    format: Option<String>,
    /// Cut nothing, however narrow the terminal, and show diff_ids whole
    #[arg(long)]
    no_trunc: bool,
    /// Print the layers' diff_ids only
    #[arg(short, long)]
    quiet: bool,
}

pub const HELP: &str = "\
Fields of --json (an array, newest step first; schema: history.schema.json beside this tool's source):
  diff_id      of the layer that the step made; null where it made none
  created      RFC 3339; null where the image does not say
  created_by   the command; null where the image does not say
  comment, author   null where there is none
  empty_layer  the step changed no file
  size_bytes   of the layer's files; 0 without one
A template has these too, and docker's: ID, CreatedAt, CreatedSince, CreatedBy, Size, Comment.";

const COLUMNS: [Column; 5] = [
    column("layer", Cut::Never, 2),
    column("age", Cut::Never, 1),
    column("created by", Cut::End, 0),
    column("size", Cut::Never, 0),
    column("comment", Cut::End, 3),
];

const FIELDS: [&str; 13] = [
    "ID",
    "CreatedAt",
    "CreatedSince",
    "CreatedBy",
    "Size",
    "Comment",
    "diff_id",
    "created",
    "created_by",
    "comment",
    "author",
    "empty_layer",
    "size_bytes",
];

/// A step as the config tells it (image-spec, config.md, `history`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Told {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    author: Option<String>,
    empty_layer: Option<bool>,
}

struct Step {
    told: Told,
    /// the layer it made, and the size of its files
    layer: Option<(String, u64)>,
}

/// Prints the steps, newest first.
pub fn history(store: &Store, args: &HistoryArgs) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let template = args.format.as_deref().filter(|format| *format != "table");
    let template = template.map(|text| Template::parse(text, &FIELDS)).transpose()?;
    let steps = steps(store, &args.reference)?;

    let text = match template {
        Some(template) => {
            template.print(&steps.iter().map(|step| step.to_fields(args.no_trunc)).collect::<Vec<Value>>())
        }
        None if args.json => format!("{:#}\n", Value::Array(steps.iter().map(Step::to_json).collect())),
        None if args.quiet => {
            let layers = steps.iter().filter(|step| step.layer.is_some());
            layers.map(|step| step.id(args.no_trunc) + "\n").collect()
        }
        None => {
            let cells: Vec<Vec<String>> = steps.iter().map(|step| step.to_cells(args.no_trunc)).collect();
            table::draw(&COLUMNS, &cells, table::terminal_width().filter(|_| !args.no_trunc))
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the history"))
}

fn steps(store: &Store, reference: &Reference) -> Result<Vec<Step>, Error> {
    let entry = get::find(store, reference)?;
    let mut reader = Reader::new(store);
    let image = reader
        .image(&entry.manifest)
        .map_err(|error| error.while_doing(format_args!("cannot use image {}", entry.reference)))?;
    let config = store.read_json(&image.config_digest)?;
    let told: Option<Vec<Told>> = Deserialize::deserialize(&config["history"]).map_err(|error| {
        Error::new(format!("cannot use image {}: its history does not read: {error}", entry.reference))
    })?;
    let layers = image.layers.iter().map(|layer| Ok((layer.to_string(), reader.layer_bytes(layer)?)));
    Ok(pair(told.unwrap_or_default(), layers.collect::<Result<_, Error>>()?))
}

/// Each step with its layer, newest first. A history may be short, or missing: then layers stand for themselves.
fn pair(told: Vec<Told>, layers: Vec<(String, u64)>) -> Vec<Step> {
    let mut layers = layers.into_iter();
    let mut steps: Vec<Step> = told
        .into_iter()
        .map(|told| Step { layer: if told.empty_layer == Some(true) { None } else { layers.next() }, told })
        .collect();
    steps.extend(layers.map(|layer| Step { told: Told::default(), layer: Some(layer) }));
    steps.reverse();
    steps
}

impl Step {
    fn id(&self, whole: bool) -> String {
        match &self.layer {
            None => "-".into(),
            Some((diff_id, _)) if whole => diff_id.clone(),
            Some((diff_id, _)) => diff_id.trim_start_matches("sha256:").chars().take(12).collect(),
        }
    }

    fn size(&self) -> u64 {
        self.layer.as_ref().map_or(0, |(_, size)| *size)
    }

    fn to_json(&self) -> Value {
        json!({
            "diff_id": self.layer.as_ref().map(|(diff_id, _)| diff_id),
            "created": self.told.created,
            "created_by": self.told.created_by,
            "comment": self.told.comment,
            "author": self.told.author,
            "empty_layer": self.layer.is_none(),
            "size_bytes": self.size(),
        })
    }

    fn to_fields(&self, whole: bool) -> Value {
        let created = self.told.created.as_deref();
        let docker = json!({
            "ID": self.id(whole),
            "CreatedAt": created.and_then(age::docker_time),
            "CreatedSince": created.and_then(age::ago),
            "CreatedBy": self.told.created_by.as_deref().unwrap_or_default(),
            "Size": format_size(self.size()),
            "Comment": self.told.comment.as_deref().unwrap_or_default(),
        });
        format::with(docker, self.to_json())
    }

    fn to_cells(&self, whole: bool) -> Vec<String> {
        let text = |text: &Option<String>, absent: &str| {
            let text = text.as_deref().filter(|text| !text.is_empty()).unwrap_or(absent);
            printable::text(text).into_owned()
        };
        let age = self.told.created.as_deref().and_then(age::since).unwrap_or_else(|| "-".into());
        let (created_by, comment) = (text(&self.told.created_by, "-"), text(&self.told.comment, ""));
        vec![self.id(whole), age, created_by, format_size(self.size()), comment]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(command: &str, empty: bool) -> Told {
        Told { created_by: Some(command.into()), empty_layer: empty.then_some(true), ..Told::default() }
    }

    #[test]
    fn steps_and_layers_are_paired_also_where_one_list_is_short() {
        let layers = || vec![("a".to_string(), 1), ("b".to_string(), 2)];
        let shown = |told: Vec<Told>| -> Vec<String> {
            let shown = |step: &Step| format!("{} {}", step.told.created_by.as_deref().unwrap_or("?"), step.id(true));
            pair(told, layers()).iter().map(shown).collect()
        };
        assert_eq!(shown(vec![told("ADD", false), told("CMD", true), told("RUN", false)]), ["RUN b", "CMD -", "ADD a"]);
        assert_eq!(shown(vec![told("ADD", false)]), ["? b", "ADD a"]);
        assert_eq!(shown(vec![]), ["? b", "? a"]);
        let more = vec![told("ADD", false), told("RUN", false), told("more", false)];
        assert_eq!(shown(more), ["more -", "RUN b", "ADD a"]);
        let fields = pair(vec![], layers())[0].to_fields(false);
        assert_eq!(fields.as_object().unwrap().keys().collect::<Vec<_>>(), FIELDS.iter().collect::<Vec<_>>());
    }
}
