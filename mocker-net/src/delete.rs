//! `delete` and `prune`: a network is unmade from its record alone, after a failure, a kill, or a container's end alike.
//!
//! Every part may be missing already. What waits in the kernel (rules, interfaces) goes before the lock is taken, as far
//! as it is the container's own.

use mocker_common::document::ContainerId;
use mocker_common::error::Error;
use mocker_common::{stage, state as claims};

use crate::calls::{Netlink, OpenNetlink};
use crate::state::{Link, Record, State};
use crate::{TOOL, bridge, forwarding, nat, netns, on_runtime, ports, usermode, veth};
use mocker_common::step::step;

/// `delete ID…`: all are tried; the first failure is told with the others beside it.
pub fn delete_all(ids: &[ContainerId]) -> Result<(), Error> {
    let mut failures: Vec<Error> = ids.iter().filter_map(|id| delete(id).err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    let mut first = failures.remove(0);
    first.also.extend(failures.iter().map(ToString::to_string));
    Err(first)
}

/// Unmakes a container's network and forgets it. Succeeds if there is none.
pub fn delete(id: &ContainerId) -> Result<(), Error> {
    unmake(id)?;
    let state = State::open();
    let (dirs, tool) = state.claims();
    claims::release(dirs, id, tool);
    Ok(())
}

/// `prune`: the networks whose owner is gone, and bridges that nobody hangs on.
pub fn prune() -> Result<(), Error> {
    stage::prune(TOOL, delete)?;
    let state = State::open();
    let unused = |state: &State| -> Vec<String> {
        state.bridges().into_iter().filter(|bridge| state.users(bridge).is_empty()).collect()
    };
    if !unused(&state).is_empty() || state.forwarding().exists() {
        on_runtime(async {
            let host = step(OpenNetlink).because("interfaces are deleted by messages to the kernel")?;
            let _lock = state.lock()?;
            for name in unused(&state) {
                nat::delete(&name)?;
                bridge::delete(&state, &host, &name).await?;
                state.forget_bridge(&name);
                eprintln!("{TOOL}: removed bridge {name}, which nobody used");
            }
            restore_host(&state, &host).await
        })?;
    }
    if state.exists() {
        let _lock = state.lock()?;
        state.tidy();
    }
    netns::remove_directory()
}

/// Unmakes a container's network; its claim stays.
pub fn unmake(id: &ContainerId) -> Result<(), Error> {
    let state = State::open();
    match state.read_record(id.as_str())? {
        None => Ok(()),
        Some(record) => on_runtime(unmake_record(&state, &record)),
    }
}

async fn unmake_record(state: &State, record: &Record) -> Result<(), Error> {
    if let Some(stack) = &record.stack {
        usermode::unmake(stack, &record.netns)?;
        ports::release(state, &stack.ports, &record.id);
        let _lock = state.lock()?;
        return forget(state, record);
    }
    let Some(link) = &record.link else {
        netns::delete(&record.netns)?;
        let _lock = state.lock()?;
        return forget(state, record);
    };

    // The container's own. Looking without the lock is a guess; it spares the last container a transaction that waits.
    let host = step(OpenNetlink).because("interfaces are deleted by messages to the kernel")?;
    let alone = is_alone(state, record, link);
    if !alone {
        nat::withdraw(link)?;
    }
    veth::delete(&host, &record.id, &link.host_interface).await?;
    netns::delete(&record.netns)?;

    // What it shared with others.
    let _lock = state.lock()?;
    let last = is_alone(state, record, link);
    if last && state.subnet_of(&link.bridge).is_some() {
        nat::delete(&link.bridge)?;
        nat::forget(link)?;
        bridge::delete(state, &host, &link.bridge).await?;
    } else if alone {
        nat::withdraw(link)?;
    }
    // Only now: an address that is free must have no port leading to it.
    ports::release(state, &link.ports, &record.id);
    state.give_back(&state.lease(&link.bridge, link.address), &record.id);
    if last {
        state.forget_bridge(&link.bridge);
    }
    restore_host(state, &host).await?;
    forget(state, record)
}

fn forget(state: &State, record: &Record) -> Result<(), Error> {
    state.remove_record(&record.id);
    state.tidy();
    Ok(())
}

/// Whether nobody else is on the bridge.
fn is_alone(state: &State, record: &Record, link: &Link) -> bool {
    state.users(&link.bridge).iter().all(|user| *user == record.id)
}

/// When the last bridge is gone, the host's settings go back.
async fn restore_host(state: &State, host: &Netlink) -> Result<(), Error> {
    match state.bridges().is_empty() {
        true => forwarding::restore(state, host).await,
        false => Ok(()),
    }
}
