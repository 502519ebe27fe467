//! The command line of mocker-exec.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use mocker_common::document::ContainerId;
use mocker_common::stage::StageArgs;

/// Runs the process of a container, and undoes everything when it ends.
///
/// Reads a document (an OCI runtime configuration, from the stages before), makes the namespaces, mounts the layers
/// and the rest of the file system, moves into it with pivot_root, drops capabilities, loads the seccomp filter and
/// executes the program. Its exit status is the program's own: 128+n if signal n killed it, 127 if there is no such
/// program, 126 if it cannot be executed, 125 if mocker itself failed.
#[derive(Parser, Debug)]
#[command(name = "mocker-exec", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub stage: StageArgs,
    #[command(flatten)]
    pub container: ContainerArgs,
    /// End with the process that started this one: when it dies, the container gets SIGTERM
    #[arg(long)]
    pub with_parent: bool,
}

const EXAMPLES: &str = "\
Examples:
  mocker-images get nginx | mocker-net -p 8080:80 | mocker-cgroup --memory 256M | mocker-exec
  mocker-exec --rootfs /srv/debian -- sh -c 'echo $$'      a shell in a bare directory; prints 1
  mocker-exec run --bundle . web                           a plain OCI bundle";

/// What docker run has flags for: each changes the document before it is run.
#[derive(ClapArgs, Debug, Default)]
pub struct ContainerArgs {
    /// Run in this directory instead of an image's layers
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Set an environment variable; NAME alone copies the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set environment variables from a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Show a file or directory of the host inside
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]")]
    pub volume: Vec<String>,
    /// Working directory; made if it is missing
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user; names are looked up in the container's own /etc/passwd
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the process a terminal of its own, joined to yours
    #[arg(short, long)]
    pub tty: bool,
    /// The container's host name [default: its id]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Run this program instead of the image's; the image's arguments are dropped too
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Let nothing be written to the root file system
    #[arg(long)]
    pub read_only: bool,
    /// Put a small init at pid 1: it passes signals on and reaps orphans
    #[arg(long)]
    pub init: bool,
    /// Command and arguments, in place of the image's
    #[arg(last = true, value_name = "COMMAND")]
    pub args: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the container of an OCI bundle, a directory with config.json
    Run {
        /// The bundle
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        bundle: PathBuf,
        /// The container's id
        id: ContainerId,
        #[command(flatten)]
        explain: mocker_common::stage::ExplainArgs,
    },
    /// Remove what a container that is gone has left (its writable layer)
    Delete {
        #[arg(required = true)]
        ids: Vec<ContainerId>,
    },
    /// Remove what killed tools have left
    Prune,
    /// Run a command in the user namespace that an ordinary user's containers live in, as root of it
    Unshare {
        /// Command and arguments [default: $SHELL]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}
