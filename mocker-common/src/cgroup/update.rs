//! New limits for a group that lives: what is asked for is written, what is not stays as it is.
//!
//! Engines send zeros for what they do not mean (docker update), so a zero changes nothing. Devices are never changed here:
//! others (of graphics cards, say) may have added to the group's list meanwhile, and other runtimes leave it alone as well.

use std::fs;

use serde_json::Value;

use crate::cgroup::limits;
use crate::cgroup::place::Group;
use crate::cgroup::resources::Resources;
use crate::error::Error;

/// Writes the limits in `new`. Returns the resources that hold now, for whoever keeps them. A failure may leave some
/// limits written; then what stood before is written again.
pub fn update(group: &Group, old: &Value, new: &Value) -> Result<Value, Error> {
    let merged = merge(old, new);
    let resources = completed(Resources::parse(Some(new))?, &Resources::parse(Some(&merged))?);
    if resources.memory.check_before_update == Some(true) {
        check_memory(&resources, number(group, "memory.current"))?;
    }
    let current = limits::memory_limit(group);
    let settings = resources.settings_over(&group.hierarchies, current)?;
    limits::apply(group, &settings).inspect_err(|_| restore(group, old))?;
    Ok(merged)
}

/// What belongs together in one line of v2, or is a difference there, is needed whole. v1 has a file for each.
fn completed(mut new: Resources, merged: &Resources) -> Resources {
    let is_set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    let is_period_set = |value: Option<u64>| value.is_some_and(|value| value != 0);
    if is_set(new.cpu.quota) != is_period_set(new.cpu.period) {
        (new.cpu.quota, new.cpu.period) = (merged.cpu.quota, merged.cpu.period);
    }
    if is_set(new.memory.swap) && !is_set(new.memory.limit) {
        new.memory.limit = merged.memory.limit;
    }
    new
}

fn restore(group: &Group, old: &Value) {
    let current = limits::memory_limit(group);
    let settings = Resources::parse(Some(old)).and_then(|old| old.settings_over(&group.hierarchies, current));
    if let Ok(settings) = settings {
        limits::apply(group, &settings).unwrap_or_default(); // the failure before is the one to tell
    }
}

fn number(group: &Group, file: &str) -> Option<u64> {
    fs::read_to_string(group.of("memory")?.join(file)).ok()?.trim().parse().ok()
}

/// v2 would kill to get below a new limit, where v1 refuses it.
fn check_memory(resources: &Resources, usage: Option<u64>) -> Result<(), Error> {
    let Some(usage) = usage else { return Ok(()) };
    let below = |limit: Option<i64>| limit.filter(|limit| *limit > 0 && limit.unsigned_abs() <= usage);
    let refused = |what: &str, limit: i64| {
        Error::new(format!("rejecting {what} limit {limit} <= usage {usage}"))
            .why("memory.checkBeforeUpdate asks for it: the kernel would kill to get below the limit")
    };
    match (below(resources.memory.swap), below(resources.memory.limit)) {
        (Some(swap), _) => Err(refused("memory+swap", swap)),
        (_, Some(limit)) => Err(refused("memory", limit)),
        _ => Ok(()),
    }
}

/// The old resources with what is new in their place. Null, zero, empty and devices change nothing.
fn merge(old: &Value, new: &Value) -> Value {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut merged = old.clone();
            for (key, value) in new.iter().filter(|(key, _)| *key != "devices") {
                let present = merged.get(key).unwrap_or(&Value::Null);
                let value = merge(present, value);
                if !value.is_null() {
                    merged.insert(key.clone(), value);
                }
            }
            Value::Object(merged)
        }
        (_, Value::Object(new)) => merge(&Value::Object(Default::default()), &Value::Object(new.clone())),
        (old, Value::Null) => old.clone(),
        (old, Value::Number(number)) if number.as_f64() == Some(0.0) => old.clone(),
        (old, Value::String(text)) if text.is_empty() => old.clone(),
        (old, Value::Array(list)) if list.is_empty() => old.clone(),
        (_, new) => new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cgroup::hierarchy::{Hierarchies, Hierarchy};
    use crate::cgroup::limits::lines;

    #[test]
    fn zeros_change_nothing_and_the_rest_is_kept() {
        let old = json!({"memory": {"limit": 100, "swap": 200}, "pids": {"limit": 7}, "devices": [{"allow": false}]});
        let new = json!({
            "memory": {"limit": 50, "reservation": 0, "swap": 0, "kernel": 0}, "cpu": {"shares": 0, "quota": 5000, "cpus": ""},
            "pids": null, "blockIO": {"weight": 0}, "devices": [{"allow": true}],
        });
        let expected = json!({
            "memory": {"limit": 50, "swap": 200}, "pids": {"limit": 7}, "devices": [{"allow": false}],
            "cpu": {"quota": 5000}, "blockIO": {},
        });
        assert_eq!(merge(&old, &new), expected);
        assert_eq!(merge(&Value::Null, &json!({"pids": {"limit": 1}})), json!({"pids": {"limit": 1}}));
    }

    #[test]
    fn one_half_of_a_line_of_v2_is_completed_with_what_stands() {
        let controllers = ["cpu", "memory"].map(String::from).to_vec();
        let v2 = Hierarchies { all: vec![Hierarchy { controllers, ..Hierarchy::at("/sys/fs/cgroup", true) }] };
        let old = json!({"cpu": {"quota": 5000, "period": 20000}, "memory": {"limit": 100, "swap": 150}});
        for (new, expected) in [
            (json!({"cpu": {"quota": 7000}}), &["cpu.max=7000 20000"][..]),
            (json!({"cpu": {"period": 50000}}), &["cpu.max=5000 50000"]),
            (json!({"memory": {"swap": 130}}), &["memory.max=100", "memory.swap.max=30"]),
            (json!({"memory": {"limit": 90}}), &["memory.max=90"]),
        ] {
            let merged = Resources::parse(Some(&merge(&old, &new))).unwrap();
            let resources = completed(Resources::parse(Some(&new)).unwrap(), &merged);
            assert_eq!(lines(&resources.settings(&v2).unwrap()), expected, "{new}");
        }
    }

    #[test]
    fn memory_in_use_refuses_a_lower_limit_where_asked() {
        let resources = Resources::parse(Some(&json!({"memory": {"limit": 100, "swap": 300}}))).unwrap();
        assert!(
            check_memory(&resources, Some(100)).unwrap_err().what.contains("rejecting memory limit 100 <= usage 100")
        );
        assert!(check_memory(&resources, Some(400)).unwrap_err().what.contains("memory+swap"));
        assert!(check_memory(&resources, Some(99)).is_ok() && check_memory(&resources, None).is_ok());
    }
}
