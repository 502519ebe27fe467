//! podman, buildah, containerd and docker on mocker-exec: each command beside the same one on runc, with the same output
//! and the same status, and nothing left by either.

mod bench;
mod buildah;
mod containerd;
mod docker;
mod podman;
