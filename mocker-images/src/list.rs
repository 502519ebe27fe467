//! `list`: the images as a table, as JSON, or as a template has it.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use mocker_common::error::{Error, failed};
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, STORED_AT, Store};
use mocker_common::units::format_size;
use serde_json::{Value, json};

use crate::filter::Filters;
use crate::format::{self, Template};
use crate::summary::{Reader, Summary};
use crate::table::{self, Column, Cut, column};
use crate::{age, printable};

/// How the images are listed.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct ListFlags {
    /// Print a JSON array, an object an image (its fields: mocker-images list --help)
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    pub json: bool,
    /// Print each image by a template: '{{.Repository}}:{{.Tag}} {{.Size}}', 'table {{.ID}}\t{{.Tag}}', json
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "quiet")]
    pub format: Option<String>,
    /// List only some: reference=GLOB, label=NAME[=VALUE], before=IMAGE, since=IMAGE (built before, after); repeatable
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Show digests whole
    #[arg(long)]
    pub digests: bool,
    /// Cut nothing, however narrow the terminal
    #[arg(long)]
    pub no_trunc: bool,
    /// Print ids only, each once: what rm, get and the others take in place of a name
    #[arg(short, long)]
    pub quiet: bool,
}

impl ListFlags {
    /// These flags and those: some may stand in front of the command, some behind.
    pub fn and(self, other: ListFlags) -> ListFlags {
        ListFlags {
            json: self.json || other.json,
            format: self.format.or(other.format),
            filter: [self.filter, other.filter].concat(),
            digests: self.digests || other.digests,
            no_trunc: self.no_trunc || other.no_trunc,
            quiet: self.quiet || other.quiet,
        }
    }
}

/// An image of the list. One that is damaged is listed too, and said to be.
pub struct Row {
    pub entry: Entry,
    pub image: Result<Arc<Summary>, Error>,
}

/// Digest and age are left out, in this order, where the terminal is too narrow for them.
const COLUMNS: [Column; 5] = [
    column("name", Cut::Start, 0),
    column("version", Cut::End, 0),
    column("size", Cut::Never, 0),
    column("digest", Cut::Never, 2),
    column("age", Cut::Never, 1),
];

/// The fields of a template: docker's, then ours.
const FIELDS: [&str; 18] = [
    "ID",
    "Repository",
    "Tag",
    "Digest",
    "CreatedAt",
    "CreatedSince",
    "Size",
    "reference",
    "name",
    "tag",
    "digest",
    "config_digest",
    "created",
    "stored_at",
    "size_bytes",
    "compressed_bytes",
    "layers",
    "damaged",
];

/// Prints every image that fits the filters, by name. Only those called `name`, a reference or a pattern, if one is given.
pub fn list(store: &Store, flags: &ListFlags, name: Option<&str>) -> Result<(), Error> {
    stage::die_by_sigpipe();
    let template = flags.format.as_deref().filter(|format| *format != "table");
    let template = template.map(|text| Template::parse(text, &FIELDS)).transpose()?;
    let filters = Filters::parse(store, &flags.filter, name)?;

    let mut reader = Reader::new(store);
    let entries = store.entries()?;
    reader.read_ahead(&entries);
    let all = entries.into_iter().map(|entry| Row { image: reader.image(&entry.manifest), entry });
    let mut rows: Vec<Row> = all.filter(|row| filters.fits(row)).collect();
    rows.sort_by(|a, b| a.entry.reference.cmp(&b.entry.reference));

    let text = match template {
        Some(template) => template.print(&rows.iter().map(|row| row.to_fields(flags)).collect::<Vec<Value>>()),
        None if flags.json => format!("{:#}\n", Value::Array(rows.iter().map(Row::to_json).collect())),
        None if flags.quiet => ids(&rows, flags.no_trunc),
        None => {
            let cells: Vec<Vec<String>> = rows.iter().map(|row| row.to_cells(flags)).collect();
            table::draw(&COLUMNS, &cells, table::terminal_width().filter(|_| !flags.no_trunc))
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write", "the list"))?;
    for row in &rows {
        if let Err(error) = &row.image {
            let name = printable::text(&row.entry.reference);
            eprintln!("{}: {name} is damaged: {}", crate::TOOL, printable::text(&error.what));
        }
    }
    std::mem::forget((rows, reader)); // the process ends: to free each of their texts takes longer than to print them
    Ok(())
}

fn ids(rows: &[Row], whole: bool) -> String {
    let mut known = std::collections::HashSet::new();
    rows.iter().map(|row| row.id(whole) + "\n").filter(|id| known.insert(id.clone())).collect()
}

impl Row {
    fn to_json(&self) -> Value {
        let (name, tag) = parts(&self.entry);
        let image = self.image.as_ref().ok();
        let layers: Vec<String> =
            image.map(|image| image.layers.iter().map(ToString::to_string).collect()).unwrap_or_default();
        json!({
            "reference": self.entry.reference,
            "name": name,
            "tag": tag,
            "digest": self.entry.manifest.to_string(),
            "config_digest": image.map(|image| image.config_digest.to_string()),
            "created": image.and_then(|image| image.created.clone()),
            "stored_at": self.entry.descriptor["annotations"][STORED_AT],
            "size_bytes": image.map_or(0, |image| image.size_bytes),
            "compressed_bytes": image.map_or(0, |image| image.compressed_bytes),
            "layers": layers,
            "damaged": self.image.as_ref().err().map(|error| error.what.clone()),
        })
    }

    /// What a template can show: docker's fields, then those of --json.
    fn to_fields(&self, flags: &ListFlags) -> Value {
        let (name, tag) = parts(&self.entry);
        let docker = json!({
            "ID": self.id(flags.no_trunc),
            "Repository": name,
            "Tag": tag.unwrap_or_else(|| "<none>".into()),
            "Digest": self.entry.manifest.to_string(),
            "CreatedAt": self.created().and_then(age::docker_time),
            "CreatedSince": self.created().and_then(age::ago),
            "Size": self.image.as_ref().map_or_else(|_| "damaged".into(), |image| format_size(image.size_bytes)),
        });
        format::with(docker, self.to_json())
    }

    fn to_cells(&self, flags: &ListFlags) -> Vec<String> {
        let (name, tag) = parts(&self.entry);
        let size = self.image.as_ref().map_or_else(|_| "damaged".into(), |image| format_size(image.size_bytes));
        let digest = match flags.digests || flags.no_trunc {
            true => self.entry.manifest.to_string(),
            false => self.entry.manifest.short().into(),
        };
        let age = self.created().and_then(age::since).unwrap_or_else(|| "-".into());
        vec![printable::text(&name).into_owned(), tag.unwrap_or_else(|| "-".into()), size, digest, age]
    }

    fn created(&self) -> Option<&str> {
        self.image.as_ref().ok()?.created.as_deref()
    }

    /// Docker's image id: the digest of the config. Of a damaged image only the manifest's is known.
    fn id(&self, whole: bool) -> String {
        let digest = self.image.as_ref().map_or(&self.entry.manifest, |image| &image.config_digest);
        if whole { digest.to_string() } else { digest.short().into() }
    }
}

/// Name for people and tag of an image's reference. One that another tool wrote may not read as ours.
fn parts(entry: &Entry) -> (String, Option<String>) {
    match entry.reference.parse::<Reference>() {
        Ok(reference) => (reference.familiar_name(), reference.tag),
        Err(_) => (entry.reference.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_template_are_those_it_may_name() {
        let descriptor = json!({ "digest": "" });
        let manifest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let row = Row { entry: Entry { reference: "x".into(), manifest, descriptor }, image: Err(Error::new("gone")) };
        let fields = row.to_fields(&ListFlags::default());
        let names: Vec<&String> = fields.as_object().unwrap().keys().collect();
        assert_eq!(names, FIELDS.iter().collect::<Vec<_>>());
    }
}
