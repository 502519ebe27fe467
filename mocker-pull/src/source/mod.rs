//! Where an image comes from: a registry, an OCI layout, an archive that `docker save` or skopeo wrote, standard input.
//!
//! All are the same to the rest of the pull: documents by digest and blobs by digest, every one checked. What differs is
//! found out here, before anything is fetched: which images there are, and what they are called.

pub mod archive;
pub mod docker;
pub mod layout;
pub mod local;
pub mod origin;
pub mod spool;

use std::sync::Arc;

use bytes::Bytes;
use mocker_common::digest::Digest;
use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::store::Store;

use self::archive::Archive;
use self::layout::Listed;
use self::local::{Local, Reading};
use self::origin::{Form, Origin, Place};
use crate::manifest::Descriptor;
use crate::progress::Progress;
use crate::registry::download::{self, Download};
use crate::registry::transport::Transport;
use crate::registry::{Document, Repository};

/// One image that is to be pulled.
pub struct Wish {
    pub source: Arc<Source>,
    /// what the source is asked for: a tag or a digest
    pub selector: String,
    /// what it will be called in the store
    pub name: Reference,
    /// where from, for people
    pub origin: String,
}

/// Gives documents and blobs by digest.
pub enum Source {
    Registry(Box<Repository>),
    Local(Local),
}

/// A blob as it comes in.
pub enum Stream<'a> {
    Registry(Box<Download<'a>>),
    Local(Reading),
}

impl Source {
    /// The manifest or index of a tag or a digest; of a local source, of a digest.
    pub async fn manifest(&self, selector: &str, why: &'static str) -> Result<Document, Error> {
        match self {
            Source::Registry(repository) => repository.manifest(selector, why).await,
            Source::Local(local) => local.document(&selector.parse()?, None),
        }
    }

    /// A small blob whole, checked: an image's config.
    pub async fn small_blob(&self, blob: &Descriptor, limit: u64, why: &'static str) -> Result<Vec<u8>, Error> {
        match self {
            Source::Registry(repository) => repository.small_blob(blob, limit, why).await,
            Source::Local(local) => local.small(&blob.digest, limit),
        }
    }

    /// Begins to read a blob from a byte on; nothing is asked for before the first [`Stream::next`].
    pub fn blob<'a>(&'a self, blob: &'a Descriptor, offset: u64, why: &'static str) -> Result<Stream<'a>, Error> {
        Ok(match self {
            Source::Registry(repository) => Stream::Registry(Box::new(repository.download(blob, offset, why))),
            Source::Local(local) => Stream::Local(local.open(&blob.digest)?.reading()),
        })
    }

    /// Whether a part that was fetched is worth keeping for the next attempt.
    pub fn is_remote(&self) -> bool {
        matches!(self, Source::Registry(_))
    }

    /// A blob could not be used: whether another place may have a better one.
    pub fn distrust(&self, blob: &Digest, error: &Error) -> bool {
        match self {
            Source::Registry(repository) => repository.distrust(blob, error),
            Source::Local(_) => false,
        }
    }

    /// The error of bytes that are not those of their digest.
    pub fn wrong_digest(&self) -> fn(&Digest, &Digest) -> Error {
        match self {
            Source::Registry(_) => download::wrong_digest,
            Source::Local(_) => local::wrong_digest,
        }
    }
}

impl Stream<'_> {
    /// Whether what has come in is worth keeping for a later attempt, after a failure.
    pub fn may_go_on(&self) -> bool {
        match self {
            Stream::Registry(download) => download.may_go_on(),
            Stream::Local(_) => false,
        }
    }

    /// The next bytes; None after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Stream::Registry(download) => download.next().await,
            Stream::Local(reading) => reading.next().await,
        }
    }
}

/// Finds out which images an origin has. `name`, if given, is what its only image will be called.
pub async fn open(
    store: &Store,
    transport: &Arc<Transport>,
    progress: &Arc<Progress>,
    origin: &Origin,
    name: Option<&Reference>,
) -> Result<Vec<Wish>, Error> {
    match origin {
        Origin::Registry(reference) => {
            let (registry, repository) = (&reference.registry, &reference.repository);
            let repository = Repository::new(registry, repository, transport.clone(), progress.clone()).await?;
            Ok(vec![Wish {
                source: Arc::new(Source::Registry(Box::new(repository))),
                selector: reference.selector(),
                name: name.unwrap_or(reference).clone(),
                origin: registry.clone(),
            }])
        }
        Origin::Local(place) => {
            let (local, listed) = look_into(store, place)?;
            let chosen = choose(listed, place)?;
            let source = Arc::new(Source::Local(local));
            if name.is_some() && chosen.len() > 1 {
                return Err(Error::new(format!("cannot give one name to {} images", chosen.len()))
                    .said(format!("{place} has {}", names(&chosen)))
                    .hint(format!("mocker-pull --as NAME {place}:ONE-OF-THEM")));
            }
            let wish = |listed: Listed| {
                let name = name.cloned().or(listed.name).ok_or_else(|| {
                    Error::new(format!("cannot store an image of {place}: nothing says what it is called"))
                        .hint("mocker-pull --as NAME …")
                })?;
                let selector = listed.descriptor.digest.to_string();
                Ok(Wish { source: source.clone(), selector, name, origin: place.to_string() })
            };
            chosen.into_iter().map(wish).collect()
        }
    }
}

fn look_into(store: &Store, place: &Place) -> Result<(Local, Vec<Listed>), Error> {
    if place.form == Form::Layout {
        return layout::of_directory(place);
    }
    let name = place.to_string();
    let archive = Archive::read(spool::open(store, &place.path, &name)?, &name)?;
    let layout = || layout::of_archive(&archive, place);
    let docker = || docker::of_archive(&archive, place);
    let found = match place.form {
        Form::DockerArchive => docker()?,
        Form::LayoutArchive => layout()?,
        _ => layout()?.map_or_else(docker, |found| Ok(Some(found)))?,
    };
    found.ok_or_else(|| {
        let (lacks, hint) = match place.form {
            Form::DockerArchive => ("manifest.json", "oci-archive:FILE, if it is an OCI archive"),
            Form::LayoutArchive => ("oci-layout", "docker-archive:FILE, if docker save has made it"),
            _ => ("oci-layout or manifest.json", "tar --list shows what is in it"),
        };
        Error::new(format!("cannot find images in {place}: it has no {lacks}")).hint(hint)
    })
}

/// The image that was asked for, or all there are.
fn choose(listed: Vec<Listed>, place: &Place) -> Result<Vec<Listed>, Error> {
    let Some(wanted) = &place.chosen else {
        return match listed.is_empty() {
            false => Ok(listed),
            true => Err(Error::new(format!("cannot pull from {place}: it lists no image"))),
        };
    };
    let full = wanted.parse::<Reference>().ok();
    let is_it = |image: &&Listed| {
        image.labels.contains(wanted)
            || (full.is_some() && image.name == full)
            || image.descriptor.digest.to_string() == *wanted
    };
    match listed.iter().find(is_it) {
        Some(image) => Ok(vec![image.clone()]),
        None => {
            Err(Error::new(format!("cannot find image '{wanted}' in {place}"))
                .said(format!("it has {}", names(&listed))))
        }
    }
}

fn names(listed: &[Listed]) -> String {
    let name = |image: &Listed| {
        let label = image.labels.first().cloned().or_else(|| image.name.as_ref().map(ToString::to_string));
        label.unwrap_or_else(|| image.descriptor.digest.to_string())
    };
    let mut names: Vec<String> = listed.iter().map(name).take(10).collect();
    names.extend((listed.len() > 10).then(|| format!("{} more", listed.len() - 10)));
    if names.is_empty() { "none".into() } else { crate::manifest::printable(&names.join(", ")) }
}
