//! The command line. Help comes from here alone; the limits' flags are docker's.

use clap::{Args as ClapArgs, Parser, Subcommand};
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;
use mocker_common::stage::StageArgs;
use mocker_common::units::{format_size, parse_size};

use mocker_common::cgroup::cpu;
use mocker_common::cgroup::hierarchy::Hierarchies;

/// Where groups are made unless another parent is named.
pub const PARENT: &str = "/mocker";

/// Gives the container of the document on standard input a control group with limits
///
/// Makes the group PARENT/ID in every cgroup hierarchy that limits or the container's life need, on cgroup v1, hybrid
/// and v2. Limits that the document has already (linux.resources) are kept; a flag wins over them.
#[derive(Parser, Debug)]
#[command(name = "mocker-cgroup", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub limits: LimitArgs,
    /// The group to make the container's group in
    #[arg(long, value_name = "PATH", default_value = PARENT)]
    pub parent: String,
    #[command(flatten)]
    pub stage: StageArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  mocker-images get nginx | mocker-cgroup --memory 256M --cpus 1.5 --pids 100 | mocker-exec
  mocker-cgroup --new --id lab --pids 20 > lab.json     a group for anything: echo $$ > …/mocker/lab/cgroup.procs
  mocker-cgroup stat lab; mocker-cgroup delete lab

The document says where the group is: mocker.cgroup.directories, one for each hierarchy.
Exit status: 0 done, 1 failed, 2 a command line that makes no sense.";

/// The limits that have a flag. Those that have none can be given in the document.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct LimitArgs {
    /// Memory, and as much swap again: 256M, 1.5G
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory and swap together; the same as --memory: no swap; -1: as much swap as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that is not taken away as long as others can give some
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Time on so many cpus: 0.5, 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Share of the cpus when they are wanted by all; others have 1024
    #[arg(short, long, value_name = "SHARES", allow_hyphen_values = true)]
    pub cpu_shares: Option<String>,
    /// Run on these cpus only: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Take memory from these nodes only: 0
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads together; -1: no limit
    #[arg(long, visible_alias = "pids-limit", value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Kill what is left in groups and remove them; succeeds if there is nothing
    Delete {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<ContainerId>,
    },
    /// Remove the groups whose owner is gone
    Prune,
    /// List the groups
    Ls {
        /// Print a JSON array, an object a group, as `stat --json` prints it
        #[arg(long)]
        json: bool,
    },
    /// Show what a group uses and may use
    Stat {
        #[arg(value_name = "ID")]
        id: ContainerId,
        /// Print a JSON object; what has no limit is null
        #[arg(long)]
        json: bool,
    },
    /// Stop every process of a group where it stands; they do not notice
    Freeze {
        #[arg(value_name = "ID")]
        id: ContainerId,
    },
    /// Let a frozen group run on
    Thaw {
        #[arg(value_name = "ID")]
        id: ContainerId,
    },
}

/// docker's: a process needs some memory to start at all.
const LEAST_MEMORY: u64 = 6 << 20;

impl LimitArgs {
    /// Writes the flags over what the document has in `linux.resources`. Refuses what no machine, or not this one, can do.
    pub fn write_into(&self, document: &mut Document, hierarchies: &Hierarchies) -> Result<(), Error> {
        let mut set = |pointer: &str, value: i64| document.set(&format!("/linux/resources/{pointer}"), value);

        if let Some(text) = &self.memory {
            let bytes = memory("--memory", text)?;
            set("memory/limit", bytes);
            // As docker: as much swap again. Where swap is not accounted for, there is nothing to say.
            if self.memory_swap.is_none() && hierarchies.accounts_swap() {
                set("memory/swap", bytes.saturating_mul(2));
            }
        }
        match (self.memory_swap.as_deref(), &self.memory) {
            (None, _) => {}
            (Some(text), None) => {
                return Err(refused(
                    "--memory-swap",
                    text,
                    "it holds memory and swap together, so --memory must be given too",
                ));
            }
            (Some("-1"), _) => set("memory/swap", -1),
            (Some(text), Some(limit)) => {
                let (both, limit) = (memory("--memory-swap", text)?, memory("--memory", limit)?);
                if both < limit {
                    return Err(refused(
                        "--memory-swap",
                        text,
                        "it holds memory and swap together, so it is at least --memory",
                    ));
                }
                set("memory/swap", both);
            }
        }
        if let Some(text) = &self.memory_reservation {
            set("memory/reservation", memory("--memory-reservation", text)?);
        }
        if let Some(text) = &self.cpus {
            set("cpu/quota", cpu::quota_us(text)?);
            set("cpu/period", cpu::PERIOD_US);
        }
        if let Some(text) = &self.cpu_shares {
            let shares = text.parse().ok().filter(|shares| (2..=262_144).contains(shares));
            set(
                "cpu/shares",
                shares.ok_or_else(|| {
                    refused("--cpu-shares", text, "2 to 262144 are possible, 1024 is what others have")
                })?,
            );
        }
        if let Some(text) = &self.pids {
            let pids = text.parse().ok().filter(|pids| *pids == -1 || (1..=4_194_304).contains(pids));
            set(
                "pids/limit",
                pids.ok_or_else(|| refused("--pids", text, "1 to 4194304 are possible, and -1 for no limit"))?,
            );
        }
        for (list, flag, key) in
            [(&self.cpuset_cpus, "--cpuset-cpus", "cpus"), (&self.cpuset_mems, "--cpuset-mems", "mems")]
        {
            if let Some(text) = list {
                let part = format!("/linux/resources/cpu/{key}");
                cpu::check_list(text).map_err(|cause| refused(flag, text, cause))?;
                document.set(&part, text.as_str());
            }
        }
        Ok(())
    }
}

fn memory(flag: &str, text: &str) -> Result<i64, Error> {
    let bytes = parse_size(text).map_err(|error| refused(flag, text, &error.hint))?;
    match i64::try_from(bytes) {
        Ok(bytes) if bytes >= LEAST_MEMORY as i64 => Ok(bytes),
        Ok(_) => {
            Err(refused(flag, text, &format!("at least {} are needed to start anything", format_size(LEAST_MEMORY))))
        }
        Err(_) => Err(refused(flag, text, "no machine has that much")),
    }
}

fn refused(flag: &str, text: &str, cause: &str) -> Error {
    Error::new(format!("cannot use {flag} {text}: {cause}")).status(mocker_common::error::USAGE)
}
