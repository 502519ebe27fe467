//! `get`: the document that runs an image.

use mocker_common::error::Error;
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, Store};

use crate::summary::Reader;

/// Prints the document. That the image is absent takes one short line, for `get X || mocker-pull X` meets it every day.
pub fn get(store: &Store, reference: &Reference) -> Result<(), Error> {
    let image = Image::read(store, find(store, reference)?)?;
    stage::write(&image.document(store)?)
}

/// The image of this reference, or of an id as `list --quiet` prints it; fails if it is not there.
pub fn find(store: &Store, reference: &Reference) -> Result<Entry, Error> {
    let named = store.find(reference)?;
    let found = match named {
        None => id(reference).map(|id| find_by_id(store, id)).transpose()?.flatten(),
        named => named,
    };
    found.ok_or_else(|| {
        let name = reference.familiar();
        Error::new(format!("no image {name} here; mocker-pull {name} gets it"))
    })
}

/// The digits, if a reference reads as an id: twelve or more of a digest, all of them after `sha256:`. A name may look like
/// that too, so names come first, and fewer digits are no id.
fn id(reference: &Reference) -> Option<&str> {
    let is_hex = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let name = reference.repository.strip_prefix("library/").filter(|_| reference.registry == "docker.io")?;
    match (name, reference.tag.as_deref()?) {
        ("sha256", tag) if tag.len() == 64 => Some(tag).filter(is_hex),
        (name, "latest") if name.len() >= 12 => Some(name).filter(is_hex),
        _ => None,
    }
}

/// The image whose config's or manifest's digest begins so. Of its names the first will do.
fn find_by_id(store: &Store, id: &str) -> Result<Option<Entry>, Error> {
    let mut reader = Reader::new(store);
    let mut is_meant = |entry: &Entry| {
        let config = reader.image(&entry.manifest).map(|image| image.config_digest.clone());
        entry.manifest.hex().starts_with(id) || config.is_ok_and(|config| config.hex().starts_with(id))
    };
    let mut found: Vec<Entry> = store.entries()?;
    found.retain(|entry| is_meant(entry));
    found.sort_by(|a, b| (&a.manifest, &a.reference).cmp(&(&b.manifest, &b.reference)));
    found.dedup_by(|a, b| a.manifest == b.manifest);
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Error::new(format!("{id} could be {} or {}", found[0].reference, found[1].reference))
            .hint("more digits, or the name")),
    }
}
