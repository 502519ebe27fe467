//! `get`: the document that runs an image.

use mocker_common::error::Error;
use mocker_common::image::Image;
use mocker_common::reference::Reference;
use mocker_common::stage;
use mocker_common::store::{Entry, Store};

/// Prints the document. That the image is absent takes one short line, for `get X || mocker-pull X` meets it every day.
pub fn get(store: &Store, reference: &Reference) -> Result<(), Error> {
    let image = Image::read(store, find(store, reference)?)?;
    stage::write(&image.document(store)?)
}

/// The image of this reference; fails if it is not there.
pub fn find(store: &Store, reference: &Reference) -> Result<Entry, Error> {
    store.find(reference)?.ok_or_else(|| {
        let name = familiar(reference);
        Error::new(format!("no image {name} here; mocker-pull {name} gets it"))
    })
}

/// A reference as a person would type it: `nginx`, `nginx:1.27`.
pub fn familiar(reference: &Reference) -> String {
    let tag = reference.tag.as_ref().filter(|tag| *tag != "latest").map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = reference.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    format!("{}{tag}{digest}", reference.familiar_name())
}
