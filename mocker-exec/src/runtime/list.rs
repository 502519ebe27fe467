//! `state`, `list` and `ps`: what there is.

use std::io::Write;
use std::process::Command;

use mocker_common::cgroup::end;
use mocker_common::error::{Error, failed};
use mocker_common::stage::die_by_sigpipe;
use serde_json::{Value, json};

use crate::args::ListFormat;
use crate::runtime::record::{Record, Status};
use crate::runtime::{Runtime, groups};

/// Prints a container's state as JSON.
pub fn state(runtime: &Runtime, id: &str) -> Result<(), Error> {
    let record = Record::find(&runtime.root, id)?;
    print(&format!("{:#}\n", record.state(record.status())))
}

/// Lists the containers: a table, JSON, or ids alone.
pub fn list(runtime: &Runtime, format: ListFormat, quiet: bool) -> Result<(), Error> {
    let states: Vec<Value> = Record::all(&runtime.root)?.iter().map(|record| record.state(record.status())).collect();
    let text = |state: &Value, key: &str| match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if quiet {
        return print(&states.iter().map(|state| text(state, "id") + "\n").collect::<String>());
    }
    match format {
        ListFormat::Json if states.is_empty() => print("null\n"), // as runc: an engine's list of nothing
        ListFormat::Json => print(&format!("{}\n", Value::Array(states))),
        ListFormat::Table => {
            let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
            let keys = ["id", "pid", "status", "bundle", "created", "owner"];
            let rows = states.iter().map(|state| keys.map(|key| text(state, key)));
            print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
        }
    }
}

/// Columns as wide as their widest cell, at least 12.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(9) + 3;
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| -> String {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<String>().trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Lists a container's processes: their numbers, or the rows that ps has for them.
pub fn processes(runtime: &Runtime, id: &str, format: ListFormat, options: &[String]) -> Result<(), Error> {
    let record = Record::find(&runtime.root, id)?;
    let pids = match record.status() {
        Status::Stopped => None,
        _ => Some(end::processes(&groups::find(&record.cgroup)?)),
    };
    match (format, pids) {
        (ListFormat::Json, pids) => print(&format!("{}\n", json!(pids))),
        (ListFormat::Table, pids) => table_of_ps(&pids.unwrap_or_default(), options),
    }
}

fn table_of_ps(pids: &[i32], options: &[String]) -> Result<(), Error> {
    let default = ["-ef".to_string()];
    let options = if options.is_empty() { &default[..] } else { options };
    let out = Command::new("ps").args(options).output().map_err(failed("run", "ps"))?;
    if !out.status.success() {
        return Err(Error::new(format!("cannot list processes: ps {}", out.status))
            .said(String::from_utf8_lossy(&out.stderr).trim().to_string()));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|word| word == "PID").ok_or_else(|| {
        Error::new("cannot list processes: couldn't find PID field in ps output").hint("let ps print the column PID")
    })?;
    let is_ours = |line: &&str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok())
            .is_some_and(|pid: i32| pids.contains(&pid))
    };
    let rows: Vec<&str> = std::iter::once(head).chain(lines.filter(is_ours)).collect();
    print(&(rows.join("\n") + "\n"))
}

/// Prints to stdout. A reader that has enough ends us.
pub fn print(text: &str) -> Result<(), Error> {
    die_by_sigpipe();
    std::io::stdout().write_all(text.as_bytes()).map_err(failed("write to", "standard output"))
}
