//! The command line. Help comes from here alone.

use std::time::Duration;

use clap::Parser;
use mocker_common::reference::Reference;
use mocker_common::stage::ExplainArgs;
use mocker_common::units::parse_size;
use mocker_pull::cli;

/// Sends an image of the store to a registry
///
/// Blobs that are there are not sent again, those that another repository of the registry has are mounted from it. What is
/// sent are the bytes that are stored: the image has the same digest at both ends. Prints `REGISTRY/REPOSITORY@DIGEST`,
/// the name by which it can be pulled for good.
#[derive(Parser, Debug)]
#[command(name = "mocker-push", version, after_help = EXAMPLES)]
pub struct Args {
    /// The image, as mocker-images lists it
    #[arg(value_name = "REF")]
    pub image: Reference,
    /// Where it goes [default: to its own name]
    #[arg(value_name = "DESTINATION")]
    pub destinations: Vec<Reference>,
    /// How many blobs are sent at once
    #[arg(long, short, value_name = "COUNT", default_value = "4", value_parser = jobs)]
    pub jobs: usize,
    /// Send blobs in pieces of this size, for registries behind something that limits the size of a request
    #[arg(long, value_name = "SIZE", value_parser = chunk)]
    pub chunk: Option<u64>,
    /// Tell nothing on stderr but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// How long a registry may be silent, in seconds; five times as long once it has the whole of a blob
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = cli::seconds)]
    pub timeout: Duration,
    #[command(flatten)]
    pub explain: ExplainArgs,
}

fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=64) => Ok(jobs),
        _ => Err("1 to 64".into()),
    }
}

fn chunk(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(size @ 1024..) => Ok(size),
        Ok(_) => Err("1K at least: each piece is a request of its own".into()),
        Err(error) => Err(error.hint),
    }
}

const EXAMPLES: &str = "\
Examples:
  mocker-push quay.io/org/app:v2                        to where its name says
  mocker-push debian localhost:5000/debian              to a registry of one's own
  mocker-push app quay.io/org/app:v2 quay.io/org/app    one image, two names: sent once
  mocker-pull $(mocker-push app quay.io/org/app:v2)     what was pushed, whatever the tag says later
  mocker-push --chunk 10M app registry.example/app      past a proxy that takes no large requests
  mocker-push --explain busybox localhost:5000/busybox  see each step of the protocol

Credentials are read where docker login and podman login keep them: $REGISTRY_AUTH_FILE, else
$DOCKER_CONFIG/config.json, else ~/.docker/config.json; $XDG_RUNTIME_DIR/containers/auth.json.

Registries are spoken to by TLS; those of the loopback, named 127.0.0.0/8, ::1 or localhost, by
plain HTTP. Variables: HTTPS_PROXY, NO_PROXY; SSL_CERT_FILE, SSL_CERT_DIR: whom to trust in place
of the system's certificate authorities.

Exit status: 0 done, 1 failed, 2 a command line that makes no sense.
Images are kept in $MOCKER_ROOT, else /var/lib/mocker for root, else $XDG_DATA_HOME/mocker.";
