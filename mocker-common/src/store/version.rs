//! The number of the store's layout, so that an older mocker does not tread on what a newer one has made.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, failed};
use crate::state::write_atomically;

/// Raised when an older mocker would misread the store. The first layout had no mark; it reads as this one.
const LAYOUT: u32 = 1;

const FILE: &str = "version";

/// Refuses a store that a newer mocker has made. One that is not there, or has no mark, is fine.
pub fn check(root: &Path) -> Result<(), Error> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(failed("read", path.display())(error)),
    };
    let refused = |cause: String| Error::new(format!("cannot use the store {}: {cause}", root.display()));
    let mut words = text.split_whitespace();
    match words.next().map(str::parse::<u32>) {
        Some(Ok(number)) if number <= LAYOUT => Ok(()),
        Some(Ok(number)) => {
            let maker = words.next().map(|version| format!(" {version}")).unwrap_or_default();
            Err(refused(format!("mocker{maker} has made it in layout {number}, and this one knows layout {LAYOUT}"))
                .why("read by the wrong rules, images could be taken for leftovers and removed")
                .hint(format!(
                    "a mocker as new as that one, or a store of its own: MOCKER_ROOT={}-{LAYOUT}",
                    root.display()
                )))
        }
        _ => Err(refused(format!("{} holds no number", path.display()))
            .why("it says by which rules the store is read")
            .hint(format!("if nothing but this mocker has used the store: rm {}", path.display()))),
    }
}

/// Marks a store as made by this mocker.
pub fn mark(root: &Path) -> Result<(), Error> {
    check(root)?;
    let path = root.join(FILE);
    match path.exists() {
        true => Ok(()),
        false => write_atomically(&path, 0o644, format!("{LAYOUT} {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_an_older_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(check(&scratch.path().join("absent")).is_ok());
        mark(scratch.path()).unwrap();
        assert!(check(scratch.path()).is_ok());
        for (text, word) in
            [("2 9.9.9\n", "mocker 9.9.9 has made it in layout 2"), ("7", "layout 7"), ("x", "no number")]
        {
            fs::write(scratch.path().join(FILE), text).unwrap();
            let error = mark(scratch.path()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
