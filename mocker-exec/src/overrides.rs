//! The flags of docker run, written into the document: what runs afterwards is the document and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use mocker_common::document::Document;
use mocker_common::error::{Error, failed};
use mocker_common::image::read_layered;
use mocker_common::passwd;
use serde_json::{Value, json};

use crate::args::ContainerArgs;

/// Applies the flags. Pure but for `--env-file`, `NAME`-only variables and missing volume directories (made, as docker
/// makes them).
pub fn apply(document: &mut Document, args: &ContainerArgs) -> Result<(), Error> {
    if let Some(rootfs) = &args.rootfs {
        let path = fs::canonicalize(rootfs).map_err(failed("find rootfs", rootfs.display()))?;
        document.set("/root/path", utf8(&path)?);
        document.remove("/mocker/rootfs");
    }
    if args.read_only {
        document.set("/root/readonly", true);
    }
    if let Some(hostname) = &args.hostname {
        document.set("/hostname", hostname.as_str());
        set_env(document, "HOSTNAME", hostname)?;
    }
    if let Some(directory) = &args.workdir {
        if !directory.starts_with('/') {
            return Err(Error::new(format!("cannot use working directory '{directory}': it is not absolute")));
        }
        document.set("/process/cwd", directory.as_str());
    }
    if args.tty {
        document.set("/process/terminal", true);
        if !has_env(document, "TERM")? {
            set_env(document, "TERM", "xterm")?;
        }
    }
    for file in &args.env_file {
        for variable in read_env_file(file)? {
            env_flag(document, &variable)?;
        }
    }
    for variable in &args.env {
        env_flag(document, variable)?;
    }
    if let Some(user) = &args.user {
        set_user(document, user)?;
    }
    for volume in &args.volume {
        add_mount(document, &parse_volume(volume)?);
    }
    set_args(document, args)
}

/// Names become numbers by the container's own files, read beneath its root.
fn set_user(document: &mut Document, user: &str) -> Result<(), Error> {
    let places = etc_places(document)?;
    let (passwd, group) = (read_layered(&places, "etc/passwd")?, read_layered(&places, "etc/group")?);
    let identity = passwd::resolve(user, &passwd, &group)?;
    document.set("/process/user/uid", identity.uid);
    document.set("/process/user/gid", identity.gid);
    document.set("/process/user/additionalGids", identity.all_groups());
    Ok(())
}

/// Where the container's files lie before it is mounted: its layers, top first, or its root directory.
fn etc_places(document: &Document) -> Result<Vec<PathBuf>, Error> {
    let lower: Vec<PathBuf> = document.view("/mocker/rootfs/lower")?;
    match document.get("/mocker/rootfs/lower").is_none() || document.get("/mocker/rootfs/merged").is_some() {
        true => Ok(vec![document.text("/root/path").unwrap_or("rootfs").into()]),
        false => Ok(lower),
    }
}

/// `--entrypoint` replaces the image's and drops its Cmd; given arguments replace Cmd alone.
fn set_args(document: &mut Document, args: &ContainerArgs) -> Result<(), Error> {
    let own: Vec<String> = document.view("/process/args")?;
    let of_image: Vec<String> = document.view("/mocker/image/entrypoint")?;
    let run: Vec<String> = match (&args.entrypoint, args.args.is_empty()) {
        (None, true) => own,
        (None, false) => [of_image, args.args.clone()].concat(),
        (Some(entrypoint), _) if entrypoint.is_empty() => args.args.clone(),
        (Some(entrypoint), _) => [vec![entrypoint.clone()], args.args.clone()].concat(),
    };
    if run.is_empty() {
        return Err(Error::new("cannot run the container: no command is given and the image has none")
            .hint("mocker-exec … -- COMMAND"));
    }
    document.set("/process/args", run);
    Ok(())
}

fn env_flag(document: &mut Document, variable: &str) -> Result<(), Error> {
    match variable.split_once('=') {
        Some(("", _)) => Err(Error::new(format!("cannot set environment variable '{variable}': it has no name"))),
        Some((name, value)) => set_env(document, name, value),
        None => match std::env::var(variable) {
            Ok(value) => set_env(document, variable, &value),
            Err(_) => unset_env(document, variable),
        },
    }
}

fn env(document: &Document) -> Result<Vec<String>, Error> {
    document.view("/process/env")
}

fn is_named(entry: &str, name: &str) -> bool {
    entry.split('=').next() == Some(name)
}

pub fn has_env(document: &Document, name: &str) -> Result<bool, Error> {
    Ok(env(document)?.iter().any(|entry| is_named(entry, name)))
}

pub fn set_env(document: &mut Document, name: &str, value: &str) -> Result<(), Error> {
    let mut all = env(document)?;
    let entry = format!("{name}={value}");
    match all.iter_mut().find(|other| is_named(other, name)) {
        Some(present) => *present = entry,
        None => all.push(entry),
    }
    document.set("/process/env", all);
    Ok(())
}

fn unset_env(document: &mut Document, name: &str) -> Result<(), Error> {
    let mut all = env(document)?;
    all.retain(|entry| !is_named(entry, name));
    document.set("/process/env", all);
    Ok(())
}

/// docker's format: a line is NAME=VALUE as it stands, no quotes; NAME alone copies the caller's; # begins a comment.
fn read_env_file(path: &Path) -> Result<Vec<String>, Error> {
    let text = fs::read_to_string(path).map_err(failed("read environment file", path.display()))?;
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_string).collect())
}

fn add_mount(document: &mut Document, mount: &Value) {
    let mut mounts = document.get("/mounts").and_then(Value::as_array).cloned().unwrap_or_default();
    mounts.retain(|other| other["destination"] != mount["destination"]);
    mounts.push(mount.clone());
    document.set("/mounts", mounts);
}

/// `HOST:CONTAINER[:ro|rw]` as an OCI bind mount.
fn parse_volume(text: &str) -> Result<Value, Error> {
    let refused = |cause: &str| {
        Error::new(format!("cannot mount volume '{text}': {cause}")).hint("-v /host/path:/container/path[:ro]")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(refused("it is not HOST:CONTAINER[:ro]")),
    };
    if !destination.starts_with('/') {
        return Err(refused("the path in the container is not absolute"));
    }
    if !source.starts_with('/') && !source.starts_with('.') {
        return Err(refused("the path on the host is not a path; named volumes are not made yet"));
    }
    let mut chosen = vec!["rbind", "rprivate"];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" | "rshared" | "rslave" | "shared" | "slave" | "private" | "rprivate" => chosen.push(option),
            "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {} // for other systems: no effect here
            _ => return Err(refused(&format!("unknown option '{option}'"))),
        }
    }
    if !Path::new(source).exists() {
        mocker_common::state::ensure_dir(Path::new(source))?;
    }
    let source = fs::canonicalize(source).map_err(failed("find", source))?;
    Ok(json!({ "destination": destination, "type": "bind", "source": utf8(&source)?, "options": chosen }))
}

fn utf8(path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_string).ok_or_else(|| {
        Error::new(format!("cannot write path {} into the document: it is not UTF-8", path.display()))
            .why("the document is JSON, and JSON is UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Document {
        let mut document = Document::new();
        document.set("/mocker/image/entrypoint", json!(["/entry"]));
        document.set("/process/args", json!(["/entry", "default"]));
        document
    }

    fn args_of(args: &ContainerArgs) -> Value {
        let mut document = image();
        apply(&mut document, args).unwrap();
        document.get("/process/args").unwrap().clone()
    }

    #[test]
    fn command_and_entrypoint_replace_as_in_docker() {
        let none = ContainerArgs::default;
        assert_eq!(args_of(&none()), json!(["/entry", "default"]));
        assert_eq!(args_of(&ContainerArgs { args: vec!["x".into()], ..none() }), json!(["/entry", "x"]));
        let entrypoint = || ContainerArgs { entrypoint: Some("sh".into()), ..none() };
        assert_eq!(args_of(&entrypoint()), json!(["sh"]), "the image's arguments go with its entrypoint");
        assert_eq!(args_of(&ContainerArgs { args: vec!["-c".into()], ..entrypoint() }), json!(["sh", "-c"]));
        let emptied = ContainerArgs { entrypoint: Some(String::new()), args: vec!["ls".into()], ..none() };
        assert_eq!(args_of(&emptied), json!(["ls"]));
        assert!(apply(&mut image(), &ContainerArgs { entrypoint: Some(String::new()), ..none() }).is_err());
    }

    #[test]
    fn variables_are_replaced_copied_and_unset() {
        let mut document = image();
        let flags = ["A=1", "A=2", "EMPTY=", "PATH=/x", "NO_SUCH_VARIABLE_HERE"].map(String::from).to_vec();
        set_env(&mut document, "NO_SUCH_VARIABLE_HERE", "of the image").unwrap();
        apply(&mut document, &ContainerArgs { env: flags, ..ContainerArgs::default() }).unwrap();
        assert_eq!(document.get("/process/env").unwrap(), &json!(["PATH=/x", "A=2", "EMPTY="]));
        let nameless = ContainerArgs { env: vec!["=1".into()], ..ContainerArgs::default() };
        assert!(apply(&mut document, &nameless).is_err());
    }

    #[test]
    fn a_volume_becomes_a_bind_mount() {
        let mount = parse_volume("/tmp:/data:ro").unwrap();
        assert_eq!(
            mount,
            json!({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind", "rprivate", "ro"]})
        );
        for bad in ["/tmp", "/tmp:data", "name:/data", "/tmp:/data:bogus", "/a:/b:ro:x"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }
}
