//! The three files of /etc that belong to the container, not to its image: hosts, hostname, resolv.conf.
//!
//! They are written beside the container's layer and bound over the image's, as docker does, so that a commit of the
//! container does not carry this machine's addresses along. Source: hosts(5), resolv.conf(5).

use std::fs;
use std::path::Path;

use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::state::ensure_private_dir;
use serde_json::Value;

use crate::plan::{Mount, Plan, Root};

/// Writes the files and adds their mounts to the plan. Only for an image: a bare directory is left as it is.
pub fn prepare(plan: &mut Plan) -> Result<(), Error> {
    let Root::Layers { directory, .. } = &plan.root else { return Ok(()) };
    let network = plan.network.clone().unwrap_or(Value::Null);
    let hostname = plan.hostname.clone().unwrap_or_default();
    let mut files = vec![("hosts", hosts(&network, &hostname)), ("hostname", format!("{hostname}\n"))];
    if let Some(text) = resolv_conf(plan, &network)? {
        files.push(("resolv.conf", text));
    }
    let mut mounts = Vec::new();
    for (name, text) in files {
        let destination = format!("/etc/{name}");
        if plan.mounts.iter().any(|mount| mount.destination == destination) {
            continue; // the user mounts one of his own
        }
        let path = directory.join(name);
        fs::write(&path, text).map_err(failed("write", path.display()))?;
        mounts.push(Mount {
            destination,
            kind: "bind".into(),
            source: path.to_string_lossy().into_owned(),
            options: ["bind", "rprivate"].map(String::from).to_vec(),
            ..Mount::default()
        });
    }
    plan.mounts.extend(mounts);
    Ok(())
}

/// Makes the container's directory and writes its document there: mocker-images reads which layers are in use. The
/// directory must be new: what lies there belongs to another container of this id.
pub fn prepare_directory(plan: &Plan, document: &Document) -> Result<(), Error> {
    let Root::Layers { directory, .. } = &plan.root else { return Ok(()) };
    ensure_private_dir(directory.parent().unwrap_or(Path::new("/")))?;
    fs::create_dir(directory).map_err(failed("make directory", directory.display())).map_err(|error| {
        error.why("a container's own layer must start empty").hint(format!("mocker-exec delete {}", plan.id))
    })?;
    let path = directory.join("config.json");
    fs::write(&path, document.to_bytes()).map_err(failed("write", path.display()))
}

fn hosts(network: &Value, hostname: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let Some(address) = network["address"].as_str().filter(|_| !hostname.is_empty()) {
        let address = address.split('/').next().unwrap_or(address);
        text += &format!("{address}\t{hostname}\n");
    }
    text
}

/// What the network stage found usable from inside; the host's own file where the container shares its network.
fn resolv_conf(plan: &Plan, network: &Value) -> Result<Option<String>, Error> {
    if !plan.has_namespace("network") {
        return match fs::read_to_string("/etc/resolv.conf") {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", "/etc/resolv.conf")(error)),
        };
    }
    let dns = &network["dns"];
    let words = |key: &str| -> Vec<String> {
        let list = dns[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_string).collect()
    };
    let mut text: String = words("nameservers").iter().map(|server| format!("nameserver {server}\n")).collect();
    for key in ["search", "options"] {
        let list = words(key);
        if !list.is_empty() {
            text += &format!("{key} {}\n", list.join(" "));
        }
    }
    Ok(Some(text))
}

/// Removes what the container has written, and everything else that stands in its directory. Succeeds if it is gone.
pub fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", directory.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_finds_itself_by_name() {
        let text = hosts(&json!({"address": "10.0.0.3/24"}), "web");
        assert!(text.ends_with("10.0.0.3\tweb\n") && text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(!hosts(&Value::Null, "web").contains("web"), "no address, no line");
    }
}
