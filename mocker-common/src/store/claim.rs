//! Claims: what somebody relies on though no image lists it yet.
//!
//! A pull finds a layer "here already" and lists the image that needs it minutes later. In between only its claim keeps
//! the layer: a file of paths in a temporary directory of its own, which counts as long as its owner lives. Whoever
//! removes reads the claims first and the index then, and a claim is given up after the index has the image: so at
//! every moment one of the two keeps it.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::temporary::abandoned;
use super::{Store, Temporary};
use crate::digest::{DiffId, Digest};
use crate::error::{Error, failed};
use crate::image::chain_id;

const FILE: &str = "needs";

/// What its holder relies on. Dropping it lets go.
#[derive(Debug)]
pub struct Claim {
    store: Store,
    place: Temporary,
}

impl Claim {
    pub fn begin(store: &Store) -> Result<Claim, Error> {
        Ok(Claim { store: store.clone(), place: store.temporary()? })
    }

    /// From here on these blobs are not removed. Look whether they are there only after this.
    pub fn blobs<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), Error> {
        self.paths(digests.into_iter().map(|digest| self.store.blob(digest)))
    }

    /// The same for unpacked layers, bottom first, and the fix-up of their stack.
    pub fn layers(&self, layers: &[DiffId]) -> Result<(), Error> {
        let fixup = chain_id(layers).map(|chain| self.store.fixup(&chain));
        let parts = layers.iter().flat_map(|layer| [self.store.layer(layer), self.store.layer_notes(layer)]);
        self.paths(parts.chain(fixup))
    }

    /// The same for any paths of the store.
    pub fn paths(&self, paths: impl Iterator<Item = PathBuf>) -> Result<(), Error> {
        let relative = paths.filter_map(|path| Some(path.strip_prefix(self.store.root()).ok()?.display().to_string()));
        let lines: String = relative.map(|path| path + "\n").collect();
        let file = self.place.path().join(FILE);
        let _held = self.store.hold_contents()?; // who removes has read all claims, or reads this one
        let written = OpenOptions::new().create(true).append(true).open(&file);
        written.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(failed("write", file.display()))
    }
}

impl Store {
    /// What is claimed by anybody alive. Read it under the contents' lock, and before the index.
    pub fn claimed(&self) -> Result<HashSet<PathBuf>, Error> {
        let mut claimed = HashSet::new();
        for place in self.temporaries() {
            if abandoned(&place)?.is_none() {
                let text = fs::read_to_string(place.join(FILE)).unwrap_or_default(); // most have none
                claimed.extend(text.lines().map(|line| self.root().join(Path::new(line))));
            }
        }
        Ok(claimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_counts_until_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(scratch.path());
        let digest: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let claim = Claim::begin(&store).unwrap();
        claim.blobs([&digest]).unwrap();
        claim.layers(&[DiffId(digest.clone())]).unwrap();
        let claimed = store.claimed().unwrap();
        for path in [store.blob(&digest), store.layer(&DiffId(digest.clone())), store.fixup(&digest)] {
            assert!(claimed.contains(&path), "{}", path.display());
        }
        drop(claim);
        assert!(store.claimed().unwrap().is_empty());
    }
}
