//! `tag`: another name for an image.

use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::store::Store;

use crate::get;

/// Lists an image under `new` as well. What had that name before loses it.
pub fn tag(store: &Store, source: &Reference, new: &Reference) -> Result<(), Error> {
    if new.digest.is_some() {
        return Err(Error::new(format!(
            "cannot tag an image {new}: a digest is not given, it follows from the content"
        ))
        .hint("give a name and a tag, such as nginx:mine"));
    }
    get::find(store, source)?; // before anything is made in a store that is not there
    let _lock = store.hold_contents()?;
    store.list_image(new, get::find(store, source)?.descriptor).map(drop)
}
