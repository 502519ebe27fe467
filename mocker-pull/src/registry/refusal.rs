//! Why a registry does not take what is pushed, and what a person can do about it.

use super::failure::{Advice, Failure, Kind};
use super::request::{Body, Part, Request};

/// Likely cause and what to try; None where a push fails as any other request does.
pub fn diagnose(failure: &Failure, request: &Request, advice: &Advice) -> Option<(String, String)> {
    if !request.part.is_of_push() {
        return None;
    }
    let said = |code: &str| failure.said.iter().any(|line| line.contains(code));
    let is_upload = matches!(request.part, Part::Fill | Part::Chunk | Part::Close);
    let (likely, hint) = match failure.kind {
        Kind::Status(401 | 403) => {
            ("nobody is logged in there, or who is may not push to this repository", advice.login())
        }
        Kind::Status(404) if matches!(request.part, Part::Open | Part::Mount | Part::Publish) => (
            "there is no such repository, and this registry makes none by itself",
            format!("check the spelling of {}, or make it at {} first", advice.repository, advice.registry),
        ),
        Kind::Status(405) => {
            ("the registry is read-only: a mirror, or a cache of another", "push to the one that it copies".into())
        }
        Kind::Status(413) if request.part == Part::Publish => {
            ("the manifest is larger than the registry takes", "an image of fewer layers has a smaller one".into())
        }
        Kind::Status(413) => (
            "something before the registry limits the size of a request",
            "mocker-push --chunk 10M …   (or less) sends a blob in pieces".into(),
        ),
        Kind::Dropped if request.part == Part::Fill => (
            "the registry, or something on the way that limits the size of a request, closed the connection",
            "mocker-push --chunk 10M …   sends a blob in pieces".into(),
        ),
        Kind::Status(400) if said("BLOB_UNKNOWN") => {
            ("the registry has lost a blob that it said it had", "push again".into())
        }
        Kind::Status(400 | 415) if request.part == Part::Publish => return Some(foreign_type(request)),
        Kind::Status(400) if is_upload && said("DIGEST_INVALID") => (
            "the blob was right when it left: something on the way changes what passes through it",
            "push without a proxy if there is one".into(),
        ),
        Kind::Status(400 | 404 | 416) if is_upload => (
            "the registry forgets uploads: perhaps it is several servers without common storage",
            "push again; what has arrived whole is not sent again".into(),
        ),
        Kind::Status(429) => ("too many requests from this address, or by this user", failure.when()),
        _ => return None,
    };
    Some((likely.into(), hint))
}

/// A manifest that is not taken: most often its type is too new for the registry.
fn foreign_type(request: &Request) -> (String, String) {
    let media_type = match &request.body {
        Body::Manifest { media_type, .. } => media_type,
        _ => "",
    };
    match media_type.starts_with("application/vnd.oci.") {
        true => (
            "the registry does not take OCI images, only docker's older form".into(),
            "skopeo copy --format v2s2 converts one; its digest is another then".into(),
        ),
        false => (format!("the registry does not take {media_type}"), "skopeo copy --format oci converts it".into()),
    }
}
