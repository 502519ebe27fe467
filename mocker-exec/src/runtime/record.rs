//! What is known of a container between two calls of the tool: a directory of its own below the state root.
//!
//!     ROOT/ID/state.json    this record, complete by rename
//!     ROOT/ID/config.json   the configuration as it was at create; later changes to the bundle have no effect
//!     ROOT/ID/go, outcome   two fifos between `start` and the waiting first process (see start.rs)
//!     ROOT/ID/lock          held by whoever changes the container
//!
//! The record says who the first process is and where its groups are. Whether it runs is never written down, since that
//! could be a lie a moment later: it is asked of the kernel each time. Source: runtime-spec runtime.md, State.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mocker_common::clock;
use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, failed};
use mocker_common::state::{Directories, Process, ensure_private_dir};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::container;
use crate::plan::{Cgroup, Plan};
use crate::runtime::{groups, start};

/// A container's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    /// absolute
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339 with nanoseconds
    pub created: String,
    pub owner: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Value>,
    /// who makes it, until there is a first process
    pub creator: Process,
    /// whether the creator stays, and deletes it at its end
    pub supervised: bool,
    /// the container's first process
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Process>,
    pub cgroup: Cgroup,
    /// whether the groups are this runtime's to remove
    pub made_groups: bool,
    #[serde(skip)]
    pub directory: PathBuf,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// The state root: `--root`, else beside mocker's other state.
pub fn state_root(asked: Option<&Path>) -> PathBuf {
    asked.map(PathBuf::from).unwrap_or_else(|| Directories::from_env().run.join("exec"))
}

impl Record {
    /// Takes the id: makes its directory and writes the record and the configuration. Fails if the id is taken.
    pub fn begin(
        root: &Path,
        document: &Document,
        plan: &Plan,
        bundle: &Path,
        made_groups: bool,
    ) -> Result<Record, Error> {
        let id = &plan.id;
        let bundle = fs::canonicalize(bundle).map_err(failed("find bundle", bundle.display()))?;
        let rootfs = container::rootfs_of(plan);
        let record = Record {
            oci_version: document.text("/ociVersion").unwrap_or("1.0.2").to_string(),
            id: id.to_string(),
            rootfs: fs::canonicalize(&rootfs).unwrap_or_else(|_| bundle.join(rootfs)),
            bundle,
            created: clock::rfc3339_nanoseconds(SystemTime::now()),
            owner: rustix::process::geteuid().as_raw(),
            annotations: document.get("/annotations").cloned(),
            creator: Process::this()?,
            supervised: !plan.detached,
            init: None,
            cgroup: plan.cgroup.clone(),
            made_groups,
            directory: root.join(format!(".{id}.{}.new", std::process::id())),
        };
        ensure_private_dir(root)?;
        let taken = record.take_id(root, document);
        if taken.is_err() {
            forget(&record.directory)?;
        }
        taken
    }

    /// The directory is filled under another name first: a container that can be found has its record.
    fn take_id(&self, root: &Path, document: &Document) -> Result<Record, Error> {
        let new = &self.directory;
        fs::DirBuilder::new().mode(0o711).create(new).map_err(failed("make directory", new.display()))?;
        self.write()?;
        fs::write(new.join("config.json"), document.to_bytes()).map_err(failed("write", new.display()))?;
        let place = root.join(&self.id);
        match renameat_with(CWD, new, CWD, &place, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Record { directory: place, ..self.clone() }),
            Err(rustix::io::Errno::EXIST) => Err(taken(&self.id)),
            Err(errno) => Err(failed("make directory", place.display())(errno.into())),
        }
    }

    /// Writes it, complete or not at all. Nothing is synced: after a reboot there is no container.
    pub fn write(&self) -> Result<(), Error> {
        let text = serde_json::to_vec(self).unwrap_or_default(); // strings and numbers always serialise
        let (path, new) = (self.directory.join("state.json"), self.directory.join("state.json.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed("write", path.display()))
    }

    /// The container of this id. Fails with the words engines look for.
    pub fn find(root: &Path, id: &str) -> Result<Record, Error> {
        let id: ContainerId = parse_id(id)?;
        Record::read(&root.join(id.as_str()))?.ok_or_else(|| {
            Error::new("container does not exist")
                .said(format!("{} is not in {}", id, root.display()))
                .hint("mocker-exec list; --root DIR if it was made with another")
        })
    }

    /// The record in a directory. None if it has none: there is no container, or its making has only just begun.
    pub fn read(directory: &Path) -> Result<Option<Record>, Error> {
        let path = directory.join("state.json");
        let bytes = match fs::read(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            other => other.map_err(failed("read", path.display()))?,
        };
        let mut record: Record = serde_json::from_slice(&bytes)
            .map_err(|cause| Error::new(format!("cannot read {}: {cause}", path.display())))?;
        record.directory = directory.to_path_buf();
        Ok(Some(record))
    }

    /// Every container of a state root, by id.
    pub fn all(root: &Path) -> Result<Vec<Record>, Error> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read directory", root.display()))?,
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| !is_hidden(path)); // half made or half removed
        paths.sort();
        let records = paths.iter().map(|path| Record::read(path));
        records.filter_map(Result::transpose).collect()
    }

    /// The configuration it was made from.
    pub fn document(&self) -> Result<Document, Error> {
        let path = self.directory.join("config.json");
        Document::parse(&fs::read(&path).map_err(failed("read", path.display()))?)
    }

    /// What the kernel says: the process is there or not, waits or not, stands frozen or not.
    pub fn status(&self) -> Status {
        match self.init {
            None if self.creator.is_alive() => Status::Creating,
            None => Status::Stopped,
            Some(init) if !init.is_alive() => Status::Stopped,
            // Asked for first: a paused container may be one that waits.
            Some(_) if groups::is_frozen(&self.cgroup) => Status::Paused,
            Some(_) if start::is_waiting(&self.directory) => Status::Created,
            Some(_) => Status::Running,
        }
    }

    /// The state as hooks and engines read it.
    pub fn state(&self, status: Status) -> Value {
        let pid = self.init.map(|init| init.pid).filter(|_| status != Status::Stopped).unwrap_or(0);
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": pid,
            "status": status.name(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": owner_name(self.owner),
        });
        if let Some(annotations) = &self.annotations {
            state["annotations"] = annotations.clone();
        }
        state
    }

    /// Gives the id back, runs `last` when the container cannot be found any more, and removes the directory. Under another
    /// name first: what can be found has its record to the last. Of many at once one runs `last`; if it is killed, `sweep`
    /// does it again.
    pub fn forget(&self, last: impl FnOnce(&Record)) -> Result<(), Error> {
        let gone = self.directory.with_file_name(format!(".{}.{}.gone", self.id, std::process::id()));
        match fs::rename(&self.directory, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", self.directory.display())(error)),
            Ok(()) => {
                last(&Record { directory: gone.clone(), ..self.clone() });
                forget(&gone)
            }
        }
    }
}

/// Refuses an id that is taken before anything else is looked at: its group is not empty either, and says less.
pub fn check_free(root: &Path, id: &ContainerId) -> Result<(), Error> {
    match root.join(id.as_str()).exists() {
        true => Err(taken(id.as_str())),
        false => Ok(()),
    }
}

fn taken(id: &str) -> Error {
    Error::new(format!("cannot make container {id}: container with given ID already exists"))
        .hint(format!("mocker-exec list; mocker-exec delete {id}"))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Removes the directories that killed tools have left half made or half removed: of one id, or of all. Of those half removed
/// `last` is run first.
pub fn sweep(root: &Path, id: Option<&str>, last: impl Fn(&Record)) -> Result<(), Error> {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // .ID.PID.new, .ID.PID.gone
        let mut parts = name.rsplitn(3, '.').skip(1);
        let (pid, owner) = (parts.next().and_then(|pid| pid.parse().ok()), parts.next());
        let is_left = pid.is_some_and(|pid| Process::of(pid).is_none());
        let is_asked =
            owner.and_then(|owner| owner.strip_prefix('.')).is_some_and(|owner| id.is_none_or(|id| id == owner));
        if is_left && is_asked {
            if let Some(record) = Record::read(&entry.path())?.filter(|_| name.ends_with(".gone")) {
                last(&record);
            }
            forget(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory. Succeeds if it is gone.
fn forget(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", directory.display())(error)),
        _ => Ok(()),
    }
}

/// The id, or the words engines look for.
pub fn parse_id(id: &str) -> Result<ContainerId, Error> {
    match id {
        "" => Err(Error::new("container id cannot be empty")),
        _ => id.parse().map_err(|error: Error| error.while_doing("invalid container ID format")),
    }
}

/// A user's name for `list`, or the number.
fn owner_name(uid: u32) -> String {
    match uid {
        0 => "root".into(),
        _ => uid.to_string(),
    }
}
