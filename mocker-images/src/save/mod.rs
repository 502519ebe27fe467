//! `save`: images out of the store, in the forms that other tools read.
//!
//! Blobs go out as they are, so every digest stays what it was. Two exceptions: the old docker archive, which knows no
//! digests, gets its layers uncompressed; an OCI layout gets no manifest of docker's type, which its readers refuse.
//! Each blob is hashed on its way: what is damaged here must not spread.

mod archive;
mod convert;
mod destination;
mod layout;
mod selection;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use mocker_common::error::Error;
use mocker_common::reference::Reference;
use mocker_common::store::Store;

use crate::TOOL;
use destination::{Destination, Sink};
use selection::Selection;

#[derive(Args, Debug)]
pub struct SaveArgs {
    #[arg(value_name = "REF", required = true)]
    references: Vec<Reference>,
    /// Where to: FILE, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE [default: -, standard output]
    #[arg(short, long, value_name = "DEST", value_parser = OsStringValueParser::new().try_map(Destination::parse))]
    output: Option<Destination>,
}

pub const HELP: &str = "\
Destinations:
  FILE, -                  an archive that docker load, podman load, skopeo and mocker-pull read:
                           an image layout with docker's manifest.json in it, as docker save
                           has written it since version 25
  oci:DIR[:TAG]            an image layout; what DIR has already stays, an image of the same name
                           is replaced
  oci-archive:FILE[:TAG]   an image layout in one file
  docker-archive:FILE      docker's older archive: layers uncompressed, manifests without a digest;
                           every docker reads it

Without TAG an image is called by its whole name in the layout, docker.io/library/nginx:latest,
as podman save calls it. In both oci forms an image of docker's types gets OCI's, for umoci reads
no others.

Examples:
  mocker-images save nginx | docker load
  mocker-images save nginx redis:7 -o both.tar
  mocker-images save nginx -o oci:layout:v1 && umoci unpack --image layout:v1 bundle";

/// Writes the images to the destination. Each archive file appears complete or not at all.
pub fn save(store: &Store, args: &SaveArgs) -> Result<(), Error> {
    let standard_output = Destination::Archive(None);
    let destination = args.output.as_ref().unwrap_or(&standard_output);
    destination.check(args.references.len())?;
    let entries =
        args.references.iter().map(|reference| crate::get::find(store, reference)).collect::<Result<_, _>>()?;
    let _lock = store.hold_contents()?; // nothing may be removed while it is copied
    let mut selection = Selection::read(store, entries)?;
    if matches!(destination, Destination::OciDirectory(..) | Destination::OciArchive(..)) {
        convert::to_oci(&mut selection)?;
    }
    match destination {
        Destination::OciDirectory(directory, tag) => layout::write(&selection, directory, tag.as_deref())?,
        Destination::Archive(file) => {
            selection.warn_of_zstd()?;
            archive::write_for_all(&selection, Sink::open(file.as_deref())?)?;
        }
        Destination::OciArchive(file, tag) => {
            archive::write_oci(&selection, tag.as_deref(), Sink::open(file.as_deref())?)?;
        }
        Destination::DockerArchive(file) => archive::write_docker(&selection, Sink::open(file.as_deref())?)?,
    }
    if let Some(place) = destination.place() {
        let names: Vec<&str> = selection.images.iter().flat_map(|image| &image.names).map(|name| &**name).collect();
        eprintln!("{TOOL}: saved {} to {}", names.join(", "), place.display());
    }
    Ok(())
}
