//! mocker-cgroup: gives a container a control group of its own, with limits.
//!
//! In: a document. Out: the same, with `linux.cgroupsPath`, `linux.resources` and `mocker.cgroup` (the group's directories).
//! Undo: `mocker-cgroup delete`, in `hooks.poststop`. The group is empty: mocker-exec puts the container's first process
//! into it before that can fork. Needs root, or a parent group that was delegated. Source: cgroups(7).

mod args;
mod delegated;
mod life;
mod stat;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use mocker_common::document::Document;
use mocker_common::error::Error;
use mocker_common::undo::Undo;
use mocker_common::{explain, rootless, stage};

use args::{Args, Command};
use mocker_common::cgroup::devices;
use mocker_common::cgroup::limits::{self, Resources, Setting};
use mocker_common::cgroup::place::Group;

/// The name that errors, records and hooks carry.
const TOOL: &str = "mocker-cgroup";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.stage.explain.explain, "cgroup");
    if let Err(error) = rootless::enter() {
        return stage::conclude(TOOL, Err(error));
    }
    let result = match &args.command {
        None => stage::run(TOOL, &args.stage, |document, undo| recipe(document, &args, undo)),
        Some(Command::Delete { ids }) => life::delete_all(ids),
        Some(Command::Prune) => stage::prune(TOOL, life::delete),
        Some(Command::Ls { json }) => stat::list(*json),
        Some(Command::Stat { id, json }) => stat::stat(id, *json),
        Some(Command::Freeze { id }) => life::freeze(id),
        Some(Command::Thaw { id }) => life::thaw(id),
    };
    stage::conclude(TOOL, result)
}

/// What can be refused is refused before anything is made; then the group, its limits, its devices.
fn recipe(document: &mut Document, args: &Args, undo: &mut Undo) -> Result<(), Error> {
    let id = document.ensure_id(None)?;
    let mut hierarchies = life::detect()?;
    args.limits.write_into(document, &hierarchies)?;
    let resources = Resources::read(document)?;
    let settings: Vec<Setting> = resources.settings(&hierarchies)?;
    // A v1 cpuset is made only where one was asked for: it holds nothing, and a new one takes no process.
    let cpuset = settings.iter().any(|setting| setting.controller == "cpuset");
    hierarchies.all.retain(|one| cpuset || one.unified || one.controllers != ["cpuset"]);
    let rootless = rootless::in_user_namespace();
    if rootless && settings.is_empty() {
        // An ordinary user has no group to make one in, and none is needed: nothing is limited.
        document.set(
            "/mocker/cgroup",
            serde_json::json!({ "directories": [], "none": "without root, and no limit asked for" }),
        );
        return Ok(());
    }
    let delegated = if rootless && args.parent == args::PARENT { delegated::parent(&hierarchies) } else { None };
    let parent = delegated.as_deref().unwrap_or(Path::new(&args.parent));
    let group = Group::new(hierarchies, parent, &id)?;

    life::create(&group, &id, &settings, undo)?;
    limits::apply(&group, &settings)?;
    // Which devices a group may open only the machine's root can say; in a user namespace no node opens that mocker has not bound.
    let devices = !rootless && devices::confine(&group, &resources.devices)?;

    group.describe(document, devices);
    Ok(())
}
