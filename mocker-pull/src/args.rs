//! The command line. Help comes from here alone.

use std::time::Duration;

use clap::Parser;
use mocker_common::reference::Reference;
use mocker_common::stage::ExplainArgs;
use mocker_common::unpack::Limits;
use mocker_pull::cli;
use mocker_pull::platform::Platform;
use mocker_pull::source::origin::Origin;

/// Fetches images into the store, and prints the document that runs one
///
/// Every part is checked against its digest and appears in the store complete or not at all; a part that is there is not
/// fetched again. What is printed is an OCI runtime configuration, for the next tool of a pipeline. On a terminal it is
/// left out: nobody reads it.
#[derive(Parser, Debug)]
#[command(name = "mocker-pull", version, after_help = EXAMPLES)]
pub struct Args {
    /// A registry's image (nginx, quay.io/org/app:v2, localhost:5000/a/b@sha256:…), or a place
    ///
    /// oci:DIR[:TAG] is an OCI image layout, oci-archive:FILE[:TAG] the same in a tar, docker-archive:FILE[:NAME] what docker
    /// save writes, - either of the two on standard input; archives may be compressed. Without TAG or NAME all images of
    /// the place are meant. What has no name there but a tag becomes localhost/FILE:TAG.
    #[arg(value_name = "IMAGE", required_unless_present = "repair")]
    pub origins: Vec<Origin>,
    /// Store the image under another name
    #[arg(long = "as", value_name = "REF")]
    pub name: Option<Reference>,
    /// How many layers are fetched and unpacked at once [default: one more than there are processors]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Fetch or unpack again what the findings on standard input name: mocker-images verify --json | mocker-pull --repair
    #[arg(long, conflicts_with = "origins")]
    pub repair: bool,
    /// The image for another platform than this machine's: linux/arm64, linux/arm/v7
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Tell nothing on stderr but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the document on a terminal, too
    #[arg(long)]
    pub document: bool,
    /// How long a registry may be silent, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = cli::seconds)]
    pub timeout: Duration,
    #[command(flatten)]
    pub explain: ExplainArgs,
    #[command(flatten)]
    pub limits: Limits,
}

fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=64) => Ok(jobs),
        _ => Err("1 to 64".into()),
    }
}

const EXAMPLES: &str = "\
Examples:
  mocker-pull nginx                                        fetch it, show how it goes
  { mocker-images get nginx || mocker-pull nginx; } | mocker-exec     run it, pulled if need be
  mocker-pull --platform linux/arm64 debian | jq .annotations
  mocker-pull nginx redis | jq -r .mocker.image.manifest   several: a document a line, in order
  docker save app | mocker-pull -                          from docker, podman save or skopeo
  mocker-pull --as app oci:build/image:latest              from a layout, under a name of its own
  mocker-images verify --json | mocker-pull --repair       make good what is damaged in the store
  mocker-pull --explain busybox > /dev/null                see each step of the protocol

Credentials are read where docker login and podman login keep them, once a registry asks:
$REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json, else ~/.docker/config.json;
$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json. The helpers that these name
(credHelpers, credsStore) are run.

Registries are spoken to by TLS; those of the loopback, named 127.0.0.0/8, ::1 or localhost, by
plain HTTP. What is to be otherwise stands in $MOCKER_REGISTRIES, else
~/.config/mocker/registries.toml, else /etc/mocker/registries.toml:
  [registry.\"docker.io\"]
  mirrors = [\"mirror.example:5000\"]   # asked first; digests are checked whoever answers
  [registry.\"registry.lan:5000\"]
  insecure = true                     # TLS unchecked, else plain HTTP
  [registry.\"registry.example\"]
  ca = \"ca.pem\"                       # and certificate, key: files beside this one
Certificates in /etc/docker/certs.d/HOST:PORT/ are used, too. Variables: HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY, NO_PROXY; SSL_CERT_FILE, SSL_CERT_DIR: whom to trust in place of the system's
certificate authorities.

Exit status: 0 done, 1 failed, 2 a command line that makes no sense.
Images are kept in $MOCKER_ROOT, else /var/lib/mocker for root, else $XDG_DATA_HOME/mocker.";
