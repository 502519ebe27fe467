//! `ls` and `inspect`: what the records say, and what of it is there.

use std::io::Write;
use std::path::Path;

use mocker_common::document::ContainerId;
use mocker_common::error::{Error, failed};
use serde_json::{Value, json};

use crate::nat;
use crate::state::{Record, State};

/// `ls`: a table, or a JSON array.
pub fn list(as_json: bool) -> Result<(), Error> {
    let records = State::open().records();
    if as_json {
        return print(&format!("{:#}\n", Value::Array(records.iter().map(describe).collect())));
    }
    let mut rows = vec![["ID", "BRIDGE", "ADDRESS", "PORTS"].map(String::from)];
    rows.extend(records.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        let [a, b, c] = widths;
        format!("{:a$}  {:b$}  {:c$}  {}", row[0], row[1], row[2], row[3]).trim_end().to_string() + "\n"
    };
    print(&rows.iter().map(line).collect::<String>())
}

fn row(record: &Record) -> [String; 4] {
    match &record.link {
        None => [record.id.clone(), "none".into(), String::new(), String::new()],
        Some(link) => [
            record.id.clone(),
            link.bridge.clone(),
            format!("{}/{}", link.address, link.subnet.prefix()),
            link.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ],
    }
}

/// `inspect`: one of them.
pub fn inspect(id: &ContainerId) -> Result<(), Error> {
    match State::open().read_record(id.as_str())? {
        Some(record) => print(&format!("{:#}\n", describe(&record))),
        None => Err(Error::new(format!("cannot inspect {id}: it has no network of mocker-net")).hint("mocker-net ls")),
    }
}

fn describe(record: &Record) -> Value {
    let mut value = json!({ "id": record.id, "netns": record.netns });
    let mut missing = Vec::new();
    if !record.netns.exists() {
        missing.push("netns");
    }
    if let Some(link) = &record.link {
        merge(&mut value, serde_json::to_value(link).unwrap_or_default()); // plain data always serialises
        let there = |name: &str| Path::new("/sys/class/net").join(name).exists();
        missing.extend((!there(&link.host_interface)).then_some("host_interface"));
        missing.extend((!there(&link.bridge)).then_some("bridge"));
        missing.extend((!nat::is_there(&link.bridge).unwrap_or(false)).then_some("rules"));
    }
    value["missing"] = json!(missing);
    value
}

/// Adds the keys of one object to another.
pub fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(failed("write", "standard output"))
}
