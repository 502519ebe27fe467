//! What mocker-exec reads of the document, checked before anything is made.
//!
//! Everything that can be refused is refused here: nothing is ever run less confined than was asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mocker_common::cgroup::place::Group;
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::Error;
use mocker_common::hooks::Hook;
use mocker_common::image::read_layered;
use mocker_common::passwd;
use mocker_common::store::Store;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::labels;
use crate::memory_policy::MemoryPolicy;
use crate::netdev::NetDevices;
use crate::personality::Personality;
use crate::scheduling::{CpuAffinity, IoPriority, Scheduler};
use crate::timens::Offsets;
use crate::userns::{self, Mapping, Mappings};

/// `process` (runtime-spec config.md, Process).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Process {
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub user: User,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<Scheduler>,
    pub io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub umask: Option<u32>,
    pub additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

/// One of `mounts` (runtime-spec config.md, Mounts).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Mount {
    pub destination: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default, rename = "uidMappings")]
    pub uid_mappings: Vec<Mapping>,
    #[serde(default, rename = "gidMappings")]
    pub gid_mappings: Vec<Mapping>,
}

/// One of `linux.namespaces`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: Option<PathBuf>,
}

/// One of `linux.devices`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Device {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: String,
    pub major: u32,
    pub minor: u32,
    pub file_mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
}

/// `hooks` without poststop, which the whole tool owes, not this container's start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
}

/// Where the container's files come from.
#[derive(Clone, Debug)]
pub enum Root {
    /// An image's layers, top first, with a writable directory of the container's own on top.
    Layers { lower: Vec<PathBuf>, directory: PathBuf },
    /// A directory that is there already.
    Directory(PathBuf),
}

/// The container's groups: those that mocker-cgroup made, `mocker.cgroup`, or the runtime's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// below the root of every hierarchy
    pub path: PathBuf,
    /// of the group in every hierarchy
    pub directories: Vec<PathBuf>,
    /// of the group in the unified hierarchy, if there is one
    pub unified: Option<PathBuf>,
    /// whether the document's device rules are enforced there
    pub devices: bool,
    /// the runtime's own, as it was made
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// All that is needed to run the container.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: ContainerId,
    /// what relative paths of the document are relative to
    pub bundle: PathBuf,
    pub root: Root,
    pub readonly: bool,
    pub process: Process,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Vec<Mount>,
    pub namespaces: Vec<Namespace>,
    /// of a user namespace that is to be made
    pub mappings: Option<Mappings>,
    pub time_offsets: Offsets,
    pub devices: Vec<Device>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub sysctl: BTreeMap<String, String>,
    pub propagation: Option<String>,
    pub capabilities: Value,
    pub seccomp: Option<Value>,
    pub personality: Option<Personality>,
    pub memory_policy: Option<MemoryPolicy>,
    pub net_devices: NetDevices,
    pub mount_label: Option<String>,
    pub cgroup: Cgroup,
    pub hooks: Hooks,
    /// what hooks read on stdin
    pub state: Value,
    /// a small init of ours at pid 1
    pub init: bool,
    /// move the root and chroot, where it cannot be pivoted to
    pub no_pivot: bool,
    /// keep the caller's session keyring
    pub no_new_keyring: bool,
    /// descriptors behind 0, 1, 2 that the program gets
    pub preserve_fds: u32,
    /// an engine asked for it, not a person
    pub is_of_engine: bool,
    /// nobody waits for its end: it must outlive this tool
    pub detached: bool,
    /// whether files of the image are ours to replace: hosts, hostname, resolv.conf
    pub network: Option<Value>,
}

/// What this tool cannot do for a container yet. Running without it would be less than was asked.
const NOT_YET: [(&str, &str); 2] = [("/linux/intelRdt", "Intel RDT"), ("/vm", "virtual machines")];

impl Plan {
    /// Reads and checks the document. `bundle` is what a relative `root.path` is relative to. `cgroup`: the groups that the
    /// runtime makes; without, those that mocker-cgroup has made.
    pub fn check(document: &Document, id: &ContainerId, bundle: &Path, cgroup: Option<Cgroup>) -> Result<Plan, Error> {
        for (pointer, what) in NOT_YET {
            let asked = document.get(pointer).is_some_and(|value| value != "" && *value != Value::Array(Vec::new()));
            if asked {
                return Err(Error::new(format!(
                    "cannot run {id}: the document asks for {what} ({}), which mocker-exec does not make",
                    pointer[1..].replace('/', ".")
                ))
                .why("a container must never run with less confinement than was asked for"));
            }
        }

        let process: Process = document.view("/process")?;
        check_process(&process)?;
        let namespaces: Vec<Namespace> = document.view("/linux/namespaces")?;
        for namespace in &namespaces {
            if !["mount", "uts", "ipc", "pid", "network", "cgroup", "user", "time"].contains(&namespace.kind.as_str()) {
                return Err(Error::new(format!("cannot run {id}: mocker-exec makes no {} namespaces", namespace.kind)));
            }
        }
        if !namespaces.iter().any(|namespace| namespace.kind == "mount" && namespace.path.is_none()) {
            return Err(Error::new(format!("cannot run {id}: it asks for no mount namespace of its own"))
                .why("without one its mounts would be made on the host"));
        }
        let mut mounts: Vec<Mount> = document.view("/mounts")?;
        userns::adapt(&mut mounts, &namespaces)?;
        labels::label_mounts(&mut mounts, document.text("/linux/mountLabel"));
        let cgroup = match cgroup {
            Some(cgroup) => cgroup,
            None => {
                let mut cgroup: Cgroup = document.view("/mocker/cgroup")?;
                cgroup.path = document.text("/linux/cgroupsPath").unwrap_or_default().into();
                check_resources(document, id, &cgroup)?;
                cgroup
            }
        };

        let root = root(document, id, bundle)?;
        userns::check_root(&root, &namespaces)?;
        let process = Process { env: with_home(&process, &root)?, ..process };

        Ok(Plan {
            id: id.clone(),
            bundle: bundle.into(),
            root,
            readonly: document.view("/root/readonly")?,
            process,
            hostname: document.text("/hostname").map(str::to_string),
            domainname: document.text("/domainname").map(str::to_string),
            mounts,
            mappings: Mappings::read(document, &namespaces)?,
            time_offsets: Offsets::read(document, &namespaces)?,
            namespaces,
            devices: document.view("/linux/devices")?,
            masked_paths: document.view("/linux/maskedPaths")?,
            readonly_paths: document.view("/linux/readonlyPaths")?,
            sysctl: document.view("/linux/sysctl")?,
            propagation: document.text("/linux/rootfsPropagation").map(str::to_string),
            capabilities: document.get("/process/capabilities").cloned().unwrap_or(Value::Null),
            seccomp: document.get("/linux/seccomp").cloned(),
            personality: document.view("/linux/personality")?,
            memory_policy: document.view("/linux/memoryPolicy")?,
            net_devices: document.view::<Option<NetDevices>>("/linux/netDevices")?.unwrap_or_default(),
            mount_label: document.text("/linux/mountLabel").map(str::to_string),
            cgroup,
            hooks: document.view("/hooks")?,
            state: Value::Null,
            init: false,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            is_of_engine: false,
            detached: false,
            network: document.get("/mocker/network").cloned(),
        })
    }

    /// A plan for one more process of a container that is there: its root and mounts are made already.
    pub fn of_process(document: &Document, id: &ContainerId, cgroup: Cgroup) -> Result<Plan, Error> {
        let mut document = document.clone();
        let process: Process = document.view("/process")?;
        document.set("/process/env", [process.env, vec!["HOME=/".into()]].concat());
        document.remove("/mocker/rootfs");
        document.set("/root/path", "/");
        let mut plan = Plan::check(&document, id, Path::new("/"), Some(cgroup))?;
        plan.process.env.pop();
        Ok(plan)
    }

    /// Whether the container has a namespace of this kind that is not the host's.
    pub fn has_namespace(&self, kind: &str) -> bool {
        self.namespaces.iter().any(|namespace| namespace.kind == kind)
    }

    /// Whether this kind is new: neither the host's nor one that is joined.
    pub fn makes_namespace(&self, kind: &str) -> bool {
        self.namespaces.iter().any(|namespace| namespace.kind == kind && namespace.path.is_none())
    }
}

fn root(document: &Document, id: &ContainerId, bundle: &Path) -> Result<Root, Error> {
    // An image may have no layer at all: its root is then what the container writes.
    if document.get("/mocker/rootfs/lower").is_some() && document.get("/mocker/rootfs/merged").is_none() {
        let lower: Vec<PathBuf> = document.view("/mocker/rootfs/lower")?;
        return Ok(Root::Layers { lower, directory: Store::open()?.container(id) });
    }
    let path = bundle.join(document.text("/root/path").unwrap_or("rootfs"));
    match path.is_dir() {
        true => Ok(Root::Directory(path)),
        false => Err(Error::new(format!("cannot run {id}: its rootfs {} is not a directory", path.display()))
            .hint("mocker-images get IMAGE | mocker-exec, or mocker-exec --rootfs DIR")),
    }
}

/// The environment with a HOME: the program's own, else what the *container's* passwd says, else `/`.
fn with_home(process: &Process, root: &Root) -> Result<Vec<String>, Error> {
    let mut env = process.env.clone();
    if env.iter().any(|entry| entry.len() > "HOME=".len() && entry.starts_with("HOME=")) {
        return Ok(env);
    }
    let passwd = match root {
        Root::Layers { lower, .. } => read_layered(lower, "etc/passwd")?,
        Root::Directory(directory) => read_layered(std::slice::from_ref(directory), "etc/passwd")?,
    };
    env.retain(|entry| entry != "HOME=");
    env.push(format!("HOME={}", passwd::home_of(process.user.uid, &passwd).unwrap_or_else(|| "/".into())));
    Ok(env)
}

fn check_process(process: &Process) -> Result<(), Error> {
    if process.args.is_empty() || process.args[0].is_empty() {
        return Err(Error::new("cannot run the container: process.args is empty").hint("mocker-exec … -- COMMAND"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::new(format!("cannot run the container: process.cwd '{}' is not absolute", process.cwd)));
    }
    let texts = process.args.iter().chain(&process.env);
    match texts.into_iter().find(|text| text.contains('\0')) {
        Some(text) => Err(Error::new(format!("cannot run the container: a zero byte in {text:?}"))),
        None => Ok(()),
    }
}

/// Limits are mocker-cgroup's to set. A document that has some and no cgroup has not passed through it.
fn check_resources(document: &Document, id: &ContainerId, cgroup: &Cgroup) -> Result<(), Error> {
    let resources = document.get("/linux/resources").and_then(Value::as_object);
    let asked = |value: &Value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let limits = resources.into_iter().flatten().filter(|(key, value)| *key != "devices" && asked(value));
    match limits.map(|(key, _)| key).next() {
        Some(limit) if cgroup.directories.is_empty() => {
            Err(Error::new(format!("cannot run {id}: it has a {limit} limit and no cgroup that enforces it"))
                .why("a container must never run with less confinement than was asked for")
                .hint("pipe the document through mocker-cgroup"))
        }
        _ => Ok(()),
    }
}
