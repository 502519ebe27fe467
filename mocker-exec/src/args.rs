//! The command line of mocker-exec: a stage of a pipeline, or, with a subcommand, an OCI runtime.
//!
//! The runtime's flags are runc's, since engines (podman, buildah, containerd, docker) call every runtime with those.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mocker_common::stage::StageArgs;

/// Runs the process of a container, and undoes everything when it ends.
///
/// Reads a document (an OCI runtime configuration, from the stages before), makes the namespaces, mounts the layers
/// and the rest of the file system, moves into it with pivot_root, drops capabilities, loads the seccomp filter and
/// executes the program. Its exit status is the program's own: 128+n if signal n killed it, 127 if there is no such
/// program, 126 if it cannot be executed, 125 if mocker itself failed.
///
/// With a command it is an OCI runtime, as runc is: podman --runtime mocker-exec, and so on.
#[derive(Parser, Debug)]
#[command(name = "mocker-exec", version = VERSION, after_help = EXAMPLES, subcommand_help_heading = "Commands of an OCI runtime")]
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
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// As runc says it: dockerd takes what stands behind ` version ` in the first line, and behind `commit:`.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\ncommit: none\nspec: 1.3.0");

const EXAMPLES: &str = "\
Examples:
  mocker-images get nginx | mocker-net -p 8080:80 | mocker-cgroup --memory 256M | mocker-exec
  mocker-exec --rootfs /srv/debian -- sh -c 'echo $$'      a shell in a bare directory; prints 1
  mocker-exec run --bundle . web                           a plain OCI bundle
  podman --runtime $(command -v mocker-exec) run alpine    an engine's containers";

/// The command line of an engine, if it is one of the few that engines call all the time. A parser for one command is made in a
/// fraction of the time that one for all takes, and a container's life is three calls. None: it is another, or help is
/// asked for, or an explanation, or something is wrong with it: then all of [`Args`] is read, which has the words.
pub fn of_engine() -> Option<(RuntimeArgs, Command)> {
    if std::env::var_os("MOCKER_EXPLAIN").is_some() {
        return None;
    }
    let words: Vec<String> = std::env::args_os().map(OsString::into_string).collect::<Result<_, _>>().ok()?;
    let mut rest = words.iter().skip(1).map(String::as_str);
    let name = loop {
        match rest.next()? {
            "--root" | "--log" | "--log-format" | "--rootless" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            name => break name,
        }
    };
    match name {
        "create" => one("create", &words, Command::Create),
        "start" => one("start", &words, Command::Start),
        "state" => one("state", &words, Command::State),
        "kill" => one("kill", &words, Command::Kill),
        "delete" => one("delete", &words, Command::Delete),
        "exec" => one("exec", &words, |args| Command::Exec(Box::new(args))),
        _ => None,
    }
}

fn one<T: ClapArgs>(name: &'static str, words: &[String], command: fn(T) -> Command) -> Option<(RuntimeArgs, Command)> {
    let parser = RuntimeArgs::augment_args(clap::Command::new("mocker-exec"));
    let parser = parser.subcommand(T::augment_args(clap::Command::new(name)));
    let matches = parser.try_get_matches_from(words).ok()?;
    let args = T::from_arg_matches(matches.subcommand_matches(name)?).ok()?;
    Some((RuntimeArgs::from_arg_matches(&matches).ok()?, command(args)))
}

impl Args {
    /// Reads the command line. The pipeline's flags mean nothing to the commands of a runtime: together they are refused.
    pub fn read() -> Result<Self, clap::Error> {
        let mut command = Args::command();
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        let args = Args::from_arg_matches(&matches)?;
        let of_stage = [
            "new",
            "id",
            "name",
            "document_fd",
            "rootfs",
            "env",
            "env_file",
            "volume",
            "workdir",
            "user",
            "interactive",
            "tty",
            "hostname",
            "entrypoint",
            "read_only",
            "init",
            "with_parent",
            "args",
        ];
        let given = |name: &&&str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        match of_stage.iter().find(given) {
            Some(flag) if args.command.is_some() => {
                let text = format!("--{} is for pipelines, not for the commands of a runtime", flag.replace('_', "-"));
                Err(command.error(clap::error::ErrorKind::ArgumentConflict, text))
            }
            _ => Ok(args),
        }
    }
}

/// What stands before the command of a runtime.
#[derive(ClapArgs, Clone, Debug, Default)]
#[command(next_help_heading = "Options of an OCI runtime")]
pub struct RuntimeArgs {
    /// Where the state of containers is kept
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append errors to this file too
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// As lines of text or of JSON
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
    /// Log more than errors
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the control groups
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Accepted for runc's sake: whether the caller is root is seen from the caller
    #[arg(long, value_name = "WHETHER", hide = true)]
    pub rootless: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

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

/// How a bundle becomes a container: of `create` and of `run`.
#[derive(ClapArgs, Debug, Default)]
pub struct BundleArgs {
    /// The bundle, a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Send the master of the container's terminal to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the container's first process to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Write the number of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Where the root cannot be pivoted to (a ramdisk): move it, and chroot
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass on so many descriptors behind 0, 1 and 2
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub preserve_fds: u32,
    /// The container's id
    pub id: String,
}

#[derive(ClapArgs, Debug)]
pub struct IdArgs {
    /// The container's id
    pub id: String,
}

#[derive(ClapArgs, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Do not wait for the end
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete it at the end
    #[arg(long)]
    pub keep: bool,
    /// Accepted for runc's sake: orphans are the container's own business
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
}

#[derive(ClapArgs, Debug)]
pub struct KillArgs {
    /// To every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container's id
    pub id: String,
    /// Its name or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    pub signal: String,
}

#[derive(ClapArgs, Debug)]
pub struct DeleteArgs {
    /// End them first; succeed if there is none
    #[arg(short, long)]
    pub force: bool,
    /// The containers' ids
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a container from an OCI bundle; its program waits for start
    Create(BundleArgs),
    /// Execute the program of a created container
    Start(IdArgs),
    /// Create, start, wait for the end, delete
    Run(RunArgs),
    /// Print a container's state as JSON
    State(IdArgs),
    /// Send a signal to the first process of a container, or to all
    Kill(KillArgs),
    /// Remove what is left of containers that have ended
    Delete(DeleteArgs),
    /// Run one more process in a container
    Exec(Box<ExecArgs>),
    /// List the processes of a container
    Ps {
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        id: String,
        /// Options of ps
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// List the containers
    List {
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        /// Print their ids alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Stop every process of a container between two instructions
    Pause { id: String },
    /// Let them go on
    Resume { id: String },
    /// Change a container's limits
    Update(Box<UpdateArgs>),
    /// Tell about use and shortage of memory, as lines of JSON
    Events {
        /// Time between two lines: 5s, 1m
        #[arg(long, value_name = "TIME", default_value = "5s")]
        interval: String,
        /// Print the use once
        #[arg(long)]
        stats: bool,
        id: String,
    },
    /// Print what this runtime can do, as JSON
    Features,
    /// Write a config.json to begin with
    Spec {
        /// The directory
        #[arg(short, long, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// For a caller who is not root
        #[arg(long)]
        rootless: bool,
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

impl Command {
    /// Whether a process of this program may come to be in a container, within reach of what runs there: seen from the words of
    /// the command line, before they are read.
    pub fn may_enter_container() -> bool {
        const OUTSIDE: [&str; 14] = [
            "start", "state", "kill", "delete", "ps", "list", "pause", "resume", "update", "events", "features",
            "spec", "prune", "help",
        ];
        let words: Vec<_> = std::env::args_os().skip(1).collect();
        let is = |names: &[&str]| words.iter().any(|word| names.iter().any(|name| word == name));
        is(&["create", "run", "exec"]) || !is(&OUTSIDE)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum ListFormat {
    #[default]
    Table,
    Json,
}

/// `exec`: the process is described by a file, or by flags and the container's own process.
#[derive(ClapArgs, Debug, Default)]
pub struct ExecArgs {
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// A file with the `process` object
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    #[arg(long)]
    pub no_new_privs: bool,
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub preserve_fds: u32,
    /// A group below the container's own, or CONTROLLERS:GROUP
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Also into a paused container: it begins when that goes on
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container's id
    pub id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// `update`: from a file, or a flag a limit.
#[derive(ClapArgs, Debug, Default)]
pub struct UpdateArgs {
    /// A file with the `resources` object; -: standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    #[arg(long, value_name = "NUMBER")]
    pub blkio_weight: Option<u16>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_burst: Option<u64>,
    #[arg(long, value_name = "NUMBER")]
    pub cpu_share: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<u64>,
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<i64>,
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The container's id
    pub id: String,
}
