//! mocker-net: gives a container a network of its own.
//!
//! In: a document. Out: the same, with the network namespace's path and `mocker.network`. Undo: `mocker-net delete ID`,
//! in `hooks.poststop`. Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and one thread: a namespace is a thread's own.

mod addresses;
mod args;
mod bridge;
mod calls;
mod delete;
mod firewall;
mod forwarding;
mod list;
mod nat;
mod netns;
mod plan;
mod ports;
mod resolver;
mod route;
mod state;
mod usermode;
mod veth;

use std::process::ExitCode;

use clap::Parser;
use mocker_common::document::Document;
use mocker_common::error::{Error, USAGE};
use mocker_common::step::step;
use mocker_common::undo::Undo;
use mocker_common::{explain, rootless, stage};
use serde_json::json;

use addresses::{Mac, host_interface};
use args::{Args, Command, Mode, NetworkArgs};
use calls::{ListChains, Netlink, OpenNetlink};
use firewall::Chains;
use plan::{BridgePlan, Plan};
use resolver::Resolver;
use state::{Link, Record, State};

/// The name that errors, records and hooks carry.
const TOOL: &str = "mocker-net";

fn main() -> ExitCode {
    let args = Args::parse();
    explain::begin(args.stage.explain.explain, "net");
    if let Err(error) = rootless::enter() {
        return stage::conclude(TOOL, Err(error));
    }
    let result = match &args.command {
        Some(_) if args.is_stage() => Err(Error::new("cannot make a network and run a command at once").status(USAGE)),
        None => plan::check_options(&args.network).and_then(|()| {
            stage::run(TOOL, &args.stage, |document, undo| on_runtime(recipe(document, &args.network, undo)))
        }),
        Some(Command::Delete { ids }) => delete::delete_all(ids),
        Some(Command::Prune) => delete::prune(),
        Some(Command::Ls { json }) => list::list(*json),
        Some(Command::Inspect { id }) => list::inspect(id),
    };
    stage::conclude(TOOL, result)
}

/// The job, in kernel order.
async fn recipe(document: &mut Document, args: &NetworkArgs, undo: &mut Undo) -> Result<(), Error> {
    if args.network == Mode::Host {
        return share_the_hosts(document);
    }
    if usermode::is_needed()? {
        return usermode::recipe(document, args, undo);
    }
    let id = document.ensure_id(None)?;
    let state = State::open();
    let host =
        step(OpenNetlink).because("links, addresses and routes have no system calls: they are asked for by message")?;
    let plan = Plan::check(document, &id, args, &state, &host).await?;

    undo.push(format!("the network of {id}"), {
        let id = id.clone();
        move || delete::unmake(&id)
    });
    let (record, bridge) = match &plan.bridge {
        Some(bridge) => reserve(&state, &plan, bridge, &host).await?,
        None => (alone(&state, &plan)?, 0),
    };
    let netns = netns::create(&id)?;
    route::loopback(&netns.net).await?;
    if let Some(link) = &record.link {
        veth::create(&host, &id, bridge, &netns, link).await?;
        route::configure(&netns.net, link).await?;
        nat::publish(link)?;
    }
    describe(document, &record);
    Ok(())
}

/// Under the lock: what containers share is made if it is not there, and what each needs for itself is set aside for it.
/// Returns what is to be made, on record already, and the index of the bridge.
async fn reserve(state: &State, plan: &Plan, bridge: &BridgePlan, host: &Netlink) -> Result<(Record, u32), Error> {
    let _lock = state.lock()?;
    let chains: Chains = step(ListChains)
        .because("our rules may have been flushed, and another firewall's chain may drop what ours accept")?
        .into();
    let address = addresses::choose(state, &bridge.name, &bridge.subnet, bridge.asked)?;
    ports::check(state, &bridge.ports, bridge.subnet.gateway())?;
    let link = Link {
        bridge: bridge.name.clone(),
        subnet: bridge.subnet,
        gateway: bridge.subnet.gateway(),
        address,
        mac: Mac::from_address(address).to_string(),
        interface: "eth0".into(),
        host_interface: host_interface(&plan.id),
        mtu: bridge.mtu,
        ports: bridge.ports.clone(),
    };
    let record = Record { id: plan.id.to_string(), netns: plan.netns.clone(), link: Some(link.clone()), stack: None };

    state.write_record(&record)?;
    let index = bridge::ensure(state, host, &link).await?;
    state.take(&state.lease(&link.bridge, address), &plan.id)?;
    ports::register(state, &link.ports, &plan.id)?;
    forwarding::enable(state, host).await?;

    nat::ensure(state, &link, &chains)?;
    for warning in chains.warnings(&link.bridge) {
        eprintln!("{TOOL}: {warning}");
    }
    Ok((record, index))
}

/// `--network none`: a namespace, and nothing in it.
fn alone(state: &State, plan: &Plan) -> Result<Record, Error> {
    let _lock = state.lock()?;
    let record = Record { id: plan.id.to_string(), netns: plan.netns.clone(), link: None, stack: None };
    state.write_record(&record)?;
    Ok(record)
}

/// `--network host`: no namespace of its own.
fn share_the_hosts(document: &mut Document) -> Result<(), Error> {
    document.remove_namespace("network");
    document.set("/mocker/network", json!({ "mode": Mode::Host.word() }));
    Ok(())
}

/// Writes into the document what was made.
fn describe(document: &mut Document, record: &Record) {
    document.set_namespace("network", Some(&record.netns));
    let mut network = json!({ "mode": Mode::None.word() });
    if let Some(link) = &record.link {
        network["mode"] = Mode::Bridge.word().into();
        list::merge(&mut network, json!(link));
        network["dns"] = json!(Resolver::of_host());
    }
    document.set("/mocker/network", network);
}

/// Runs what waits for the kernel's messages, on this thread alone.
fn on_runtime<T>(job: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(|cause| Error::new(format!("cannot wait for messages: {cause}")))?.block_on(job)
}
