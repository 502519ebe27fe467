//! Mirrors: other registries that have a registry's repositories, too, and are asked before it.
//!
//! A mirror is asked once; what fails there is asked of the next, at last of the registry itself. It is a registry of its own,
//! with its own credentials: those of the registry that it mirrors are never sent to it. What it answers is held against
//! the digest, where there is one: only where a tag points is taken on trust.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use mocker_common::digest::Digest;
use mocker_common::error::Error;

use super::failure::{Failure, Kind};
use super::settings::split_mirror;
use super::transport::Transport;
use super::{Document, Repository};
use crate::progress::Progress;

/// A repository at a mirror.
pub struct Mirror {
    repository: Repository,
    /// it has failed so that nothing more is expected of it
    given_up: AtomicBool,
}

/// Which mirror gave a blob, and whether it was found out to be another.
pub type Given = Mutex<HashMap<Digest, (String, bool)>>;

impl Mirror {
    pub async fn all_of(
        registry: &str,
        name: &str,
        transport: &Arc<Transport>,
        progress: &Arc<Progress>,
    ) -> Result<Vec<Mirror>, Error> {
        let settings = transport.session.settings()?;
        let mut mirrors = Vec::new();
        for mirror in settings.of(registry).iter().flat_map(|entry| &entry.mirrors) {
            let (host, path) = split_mirror(mirror).map_err(Error::new)?;
            let name = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            let repository = Repository::alone(host, &name, transport.clone(), progress.clone()).await?;
            let repository = Repository { is_mirror: true, ..repository };
            mirrors.push(Mirror { repository, given_up: AtomicBool::new(false) });
        }
        Ok(mirrors)
    }
}

impl Repository {
    /// Who is asked, one after the other: the mirrors, then the registry itself.
    pub(super) fn sources(&self) -> Vec<&Repository> {
        let mirrors = self.mirrors.iter().filter(|mirror| !mirror.given_up.load(Relaxed));
        mirrors.map(|mirror| &mirror.repository).chain([self]).collect()
    }

    /// The same for a blob. One that a mirror has forged is asked of the registry alone.
    pub(super) fn sources_of(&self, blob: &Digest) -> Vec<&Repository> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get(blob).is_some_and(|(_, forged)| *forged) { vec![self] } else { self.sources() }
    }

    /// A mirror gives a blob, or a part of it.
    pub(super) fn note_giver(&self, blob: &Digest, mirror: &Repository) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.entry(blob.clone()).or_insert_with(|| (mirror.registry.clone(), false));
    }

    /// A blob could not be used. Whether it came from a mirror, so that the registry itself may have a better one: it is
    /// asked alone then.
    pub fn distrust(&self, blob: &Digest, error: &Error) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mirror, forged)) = given.get_mut(blob).filter(|(_, forged)| !forged && error.errno == 0) else {
            return false;
        };
        *forged = true;
        self.progress.say(&format!("mirror {mirror}: {}; asking {}", error.what, self.registry));
        true
    }

    /// A mirror has failed: tells whom is asked instead. It is not asked again, unless it lacks a single blob only.
    pub(super) fn pass_over(&self, mirror: &Repository, failure: &Failure, lacks_one: bool) {
        for known in self.mirrors.iter().filter(|known| std::ptr::eq(&known.repository, mirror)) {
            known.given_up.store(!(lacks_one && failure.kind == Kind::Status(404)), Relaxed);
        }
        let next = self.sources();
        let after = next.iter().position(|source| std::ptr::eq(*source, mirror)).map_or(0, |at| at + 1);
        let next = next.get(after).map_or(&self.registry, |source| &source.registry);
        self.progress.say(&format!("mirror {}: {}; asking {next}", mirror.registry, failure.summary()));
    }

    /// Gets a manifest from the first that has it.
    pub async fn manifest(&self, selector: &str, why: &'static str) -> Result<Document, Error> {
        for source in self.sources() {
            match source.manifest_here(selector, why).await {
                Ok(document) => return Ok(document),
                Err(failure) if source.is_mirror => self.pass_over(source, &failure, false),
                Err(failure) => {
                    let request = self.manifest_request(selector)?;
                    return Err(self.explain(failure, &request, why));
                }
            }
        }
        Err(Error::new(format!("cannot ask anybody for {}/{}", self.registry, self.name)))
    }
}
