//! The number of the store's layout, so that an older mocker does not tread on what a newer one has made.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, failed};
use crate::state::write_atomically;
use crate::unpack::tree::Form;

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
        Some(Ok(number)) if number <= LAYOUT => check_form(root, words.nth(1)),
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

/// The third word: how layers are unpacked there, none where root does it.
fn word(form: Form) -> Option<&'static str> {
    match form {
        Form::Root => None,
        Form::Mapped => Some("user-namespace"),
        Form::OneId => Some("one-id"),
    }
}

/// Refuses a store whose layers this process would see otherwise than they were meant: the marks of overlayfs have other
/// names, or their owners no id in here. One without a word may be an ordinary user's of before there was one.
fn check_form(root: &Path, made_in: Option<&str>) -> Result<(), Error> {
    let form = Form::of_this_process();
    let own = word(form);
    let owner = || fs::metadata(root).map(|metadata| metadata.uid());
    let is_own = || owner().is_ok_and(|uid| uid == rustix::process::geteuid().as_raw());
    let fits = match made_in {
        None => form == Form::Root || is_own(),
        Some("one-id") => form != Form::Root,
        made_in => made_in == own,
    };
    if fits {
        return Ok(());
    }
    let refused = Error::new(format!("cannot use the store {}: it is another kind of user's", root.display()));
    Err(match (made_in, own) {
        (None, _) => refused
            .why("root's layers carry marks that an overlay of an ordinary user does not see")
            .hint("leave MOCKER_ROOT unset: an ordinary user has a store of his own"),
        (_, None) => refused
            .why("its layers carry marks that root's overlay does not see: what they hide would show")
            .hint("run mocker as the user whose store it is"),
        _ => refused
            .why("its files belong to ids that this user has no more: they could be neither changed nor removed")
            .hint("grep \"$(id -un)\" /etc/subuid /etc/subgid; command -v newuidmap newgidmap"),
    })
}

/// Marks a store as made by this mocker.
pub fn mark(root: &Path) -> Result<(), Error> {
    check(root)?;
    let path = root.join(FILE);
    match path.exists() {
        true => Ok(()),
        false => {
            let form = word(Form::of_this_process()).map(|word| format!(" {word}")).unwrap_or_default();
            let text = format!("{LAYOUT} {}{form}\n", env!("CARGO_PKG_VERSION"));
            write_atomically(&path, 0o644, text.as_bytes())
        }
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
