//! Who owns what was made for a container, so that `prune` finds what nobody owns any more.
//!
//! One small file a container and tool, `$RUN/owners/ID.TOOL.json`, written *before* anything is made. It names the
//! command that unmakes it and its owner, and ownership follows the document:
//!
//! - while a tool makes things, they are the tool's (pid and start time: a pid alone is reused);
//! - handed over through a pipe, they belong to whoever holds that pipe; the next stage takes them over;
//! - written to a terminal or a file, they were made to stay: nobody's, kept until `TOOL delete ID`.
//!
//! So a stage killed at any point leaves records without a living owner, and `prune` runs their undo commands.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::document::ContainerId;
use crate::error::{Error, failed};
use crate::hooks::Hook;
use crate::lock::Lock;

/// Where mocker keeps what lasts (`root`) and what dies with a reboot (`run`).
#[derive(Clone, Debug)]
pub struct Directories {
    pub root: PathBuf,
    pub run: PathBuf,
}

impl Directories {
    /// `$MOCKER_ROOT` and `$MOCKER_RUN`, else the system's for root and the user's for anybody else.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let superuser = rustix::process::geteuid().is_root();
        let asked = variable("MOCKER_ROOT");
        let run = match (variable("MOCKER_RUN"), &asked, superuser) {
            (Some(run), _, _) => run,
            (None, Some(root), _) => root.join("run"),
            (None, None, true) => "/run/mocker".into(),
            (None, None, false) => match variable("XDG_RUNTIME_DIR") {
                Some(own) => own.join("mocker"),
                // A directory that all write to: each user needs a name of his own there.
                None => std::env::temp_dir().join(format!("mocker-{}", rustix::process::geteuid().as_raw())),
            },
        };
        let root = match (asked, superuser) {
            (Some(root), _) => root,
            (None, true) => "/var/lib/mocker".into(),
            (None, false) => {
                let home = || variable("HOME").unwrap_or_else(|| "/".into()).join(".local/share");
                variable("XDG_DATA_HOME").unwrap_or_else(home).join("mocker")
            }
        };
        Directories { root, run }
    }

    fn owners(&self) -> PathBuf {
        self.run.join("owners")
    }
}

/// Makes a directory and its parents, for the owner alone. Succeeds if it is there.
pub fn ensure_private_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make directory", path.display()))
}

/// Makes a directory and its parents, readable by all. Succeeds if it is there.
pub fn ensure_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make directory", path.display()))
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// clock ticks after boot: field 22 of /proc/PID/stat
    pub start: u64,
}

impl Process {
    pub fn this() -> Result<Self, Error> {
        Process::of(std::process::id() as i32).ok_or_else(|| Error::new("cannot read /proc/self/stat"))
    }

    /// The process that has this number now. None if there is none, or a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Process { pid, start })
    }

    pub fn is_alive(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }
}

/// State and start time from /proc/PID/stat. The command's name, in brackets, may hold anything, brackets too.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    Process(Process),
    /// inode of the pipe that carries the document
    Pipe(u64),
    Kept,
}

/// What a tool made for a container, as it stands in the state directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub tool: String,
    owner: Owner,
    boot: String,
    pub undo: Hook,
    #[serde(skip)]
    path: PathBuf,
}

impl Record {
    fn write(&self) -> Result<(), Error> {
        let temporary = self.path.with_extension(format!("{}.new", std::process::id()));
        let text = serde_json::to_vec(self).unwrap_or_default(); // strings and numbers always serialise
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &self.path))
            .map_err(failed("write", self.path.display()))
    }

    fn read(path: &Path) -> Option<Self> {
        let mut record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        record.path = path.to_path_buf();
        Some(record)
    }

    /// Whether nobody owns it any more.
    fn is_orphan(&self) -> bool {
        if self.boot != boot_id() {
            return true; // a reboot took the processes, and most of what they made
        }
        match &self.owner {
            Owner::Process(process) => !process.is_alive(),
            Owner::Pipe(inode) => !pipe_is_held(*inode),
            Owner::Kept => false,
        }
    }
}

/// The right to make things for a container, and the duty to unmake them.
#[derive(Debug)]
pub struct Claim {
    own: PathBuf,
    /// the tool's own record and those taken over from the stages before, as they were found
    records: Vec<(Record, Option<Record>)>,
}

/// Records, before anything is made, that `tool` makes things for `id` and how they are unmade. With `inherit`, takes
/// over what the stages before made: their document has been read.
///
/// Fails if the tool has already made something for this id.
pub fn claim(dirs: &Directories, id: &ContainerId, tool: &str, undo: Hook, inherit: bool) -> Result<Claim, Error> {
    let owners = dirs.owners();
    ensure_private_dir(&owners)?;
    let _lock = Lock::exclusive(&owners.join("lock"))?;
    let own = owners.join(format!("{id}.{tool}.json"));
    if own.exists() {
        return Err(Error::new(format!("cannot make {id} with {tool}: it exists already"))
            .why("one id, one of each thing: a second would take the first one's name")
            .hint(format!("{tool} delete {id}   (or mocker prune, if what made it was killed)")));
    }

    let owner = Owner::Process(Process::this()?);
    let record = Record {
        id: id.to_string(),
        tool: tool.into(),
        owner: owner.clone(),
        boot: boot_id(),
        undo,
        path: own.clone(),
    };
    record.write()?;
    let mut records = vec![(record, None)];
    if inherit {
        for found in records_of(&owners, Some(id)).filter(|found| found.path != own) {
            let taken = Record { owner: owner.clone(), ..found.clone() };
            taken.write()?;
            records.push((taken, Some(found)));
        }
    }
    Ok(Claim { own, records })
}

impl Claim {
    /// Hands everything to whoever reads `stdout`. Call it *before* writing: the next stage may be quick.
    pub fn hand_over(&self, stdout: BorrowedFd<'_>) -> Result<(), Error> {
        let owner = match pipe_inode(stdout) {
            Some(inode) if reader_is_parent(inode) => Owner::Process(parent()?),
            Some(inode) => Owner::Pipe(inode),
            None => Owner::Kept,
        };
        for (record, _) in &self.records {
            Record { owner: owner.clone(), ..record.clone() }.write()?;
        }
        Ok(())
    }

    /// Gives up the tool's own record once everything it made is unmade; what it took over stays as it is now.
    pub fn release(&self) {
        fs::remove_file(&self.own).unwrap_or_default(); // gone already is as good
    }
}

/// Forgets that `tool` made something for `id`: called when `delete` has unmade it. Succeeds if there is no record.
pub fn release(dirs: &Directories, id: &ContainerId, tool: &str) {
    fs::remove_file(dirs.owners().join(format!("{id}.{tool}.json"))).unwrap_or_default();
}

/// Whether `tool` has a record for `id`.
pub fn is_claimed(dirs: &Directories, id: &ContainerId, tool: &str) -> bool {
    dirs.owners().join(format!("{id}.{tool}.json")).exists()
}

/// Every id that has a record, sorted, each once.
pub fn known_ids(dirs: &Directories) -> Vec<String> {
    let mut ids: Vec<String> = records_of(&dirs.owners(), None).map(|record| record.id).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The ids for which `tool` has a record, sorted.
pub fn ids_of(dirs: &Directories, tool: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        records_of(&dirs.owners(), None).filter(|record| record.tool == tool).map(|record| record.id).collect();
    ids.sort();
    ids
}

/// The ids whose records of `tool` nobody owns at this moment: what [`take_orphans`] would take if that stays so.
pub fn orphaned_ids(dirs: &Directories, tool: &str) -> Vec<String> {
    let orphans = records_of(&dirs.owners(), None).filter(|record| record.tool == tool && record.is_orphan());
    orphans.map(|record| record.id).collect()
}

/// Takes over and returns this tool's records that nobody owns. A document may be between two pipes for a moment
/// (in `jq`, say): what looks abandoned is looked at again after a second, unless a dead process says it all.
pub fn take_orphans(dirs: &Directories, tool: &str) -> Result<Vec<Record>, Error> {
    let owners = dirs.owners();
    let orphans = |tool: &str| -> Vec<Record> {
        records_of(&owners, None).filter(|record| record.tool == tool && record.is_orphan()).collect()
    };
    remove_half_written(&owners);
    let first = orphans(tool);
    if first.is_empty() {
        return Ok(first);
    }
    let fresh = |record: &Record| matches!(record.owner, Owner::Pipe(_)) && age(&record.path) < Duration::from_secs(1);
    if first.iter().any(fresh) {
        std::thread::sleep(Duration::from_secs(1));
    }
    let _lock = Lock::exclusive(&owners.join("lock"))?;
    let owner = Owner::Process(Process::this()?);
    let mut taken = orphans(tool);
    for record in &mut taken {
        record.owner = owner.clone();
        record.boot = boot_id();
        record.write()?;
    }
    Ok(taken)
}

/// Removes records that were never renamed into place, `ID.TOOL.PID.new`, and whose writer is gone.
fn remove_half_written(owners: &Path) {
    for entry in fs::read_dir(owners).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".new"));
        let writer = stem.and_then(|stem| stem.rsplit_once('.')?.1.parse().ok());
        if writer.is_some_and(|pid| Process::of(pid).is_none()) {
            fs::remove_file(entry.path()).unwrap_or_default(); // gone already is as good
        }
    }
}

fn records_of(owners: &Path, id: Option<&ContainerId>) -> impl Iterator<Item = Record> + use<> {
    let id = id.map(ToString::to_string);
    let entries = fs::read_dir(owners).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter_map(|entry| Record::read(&entry.path()))
        .filter(move |record| id.as_ref().is_none_or(|id| record.id == *id))
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// The kernel's random name for this boot (random(4)).
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

fn pipe_inode(descriptor: BorrowedFd<'_>) -> Option<u64> {
    let stat = rustix::fs::fstat(descriptor).ok()?;
    let is_pipe = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
    is_pipe.then_some(stat.st_ino)
}

fn parent() -> Result<Process, Error> {
    let pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    Process::of(pid).ok_or_else(|| Error::new("cannot hand the document over: the parent process is gone"))
}

/// A script that captures the document, `DOC=$(mocker-net --new)`, reads the pipe itself and lives on.
fn reader_is_parent(inode: u64) -> bool {
    rustix::process::getppid().is_some_and(|pid| holds_pipe(&format!("/proc/{}/fd", pid.as_raw_nonzero()), inode))
}

/// Whether any process still has this pipe open.
fn pipe_is_held(inode: u64) -> bool {
    let own = std::process::id().to_string();
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let is_process =
            name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && name != own);
        is_process && holds_pipe(&entry.path().join("fd").to_string_lossy(), inode)
    })
}

fn holds_pipe(descriptors: &str, inode: u64) -> bool {
    let target = format!("pipe:[{inode}]");
    fs::read_dir(descriptors)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == target.as_str()))
}

/// Writes a file complete or not at all: temporary beside it, fsync, rename, fsync of the directory.
pub fn write_atomically(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|cause| {
        fs::remove_file(&temporary).unwrap_or_default(); // nothing half-written stays
        failed("write", path.display())(cause)
    })
}

/// Size in bytes of what a file occupies on disk.
pub fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Stdout as a borrowed descriptor.
pub fn hand_over_to_stdout(claim: &Claim) -> Result<(), Error> {
    claim.hand_over(std::io::stdout().as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Directories) {
        let scratch = tempfile::tempdir().unwrap();
        let dirs = Directories { root: scratch.path().into(), run: scratch.path().join("run") };
        (scratch, dirs)
    }

    fn id(text: &str) -> ContainerId {
        text.parse().unwrap()
    }

    #[test]
    fn the_start_time_is_found_behind_any_command_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
    }

    #[test]
    fn a_living_owner_is_left_alone_and_a_dead_one_is_not() {
        let (_scratch, dirs) = scratch();
        claim(&dirs, &id("a"), "tool", Hook::default(), false).unwrap();
        assert!(take_orphans(&dirs, "tool").unwrap().is_empty());

        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Process { pid: child.id() as i32, start: 1 };
        child.wait().unwrap();
        let record = Record::read(&dirs.owners().join("a.tool.json")).unwrap();
        Record { owner: Owner::Process(dead), ..record }.write().unwrap();
        assert_eq!(take_orphans(&dirs, "tool").unwrap().len(), 1);
    }

    #[test]
    fn what_is_handed_to_a_pipe_lives_as_long_as_the_pipe() {
        let (_scratch, dirs) = scratch();
        let claim = claim(&dirs, &id("a"), "tool", Hook::default(), false).unwrap();
        let mut reader = std::process::Command::new("sleep");
        let mut reader = reader.arg("60").stdin(std::process::Stdio::piped()).spawn().unwrap();
        claim.hand_over(reader.stdin.as_ref().unwrap().as_fd()).unwrap();
        drop(reader.stdin.take());
        assert!(take_orphans(&dirs, "tool").unwrap().is_empty());

        reader.kill().unwrap();
        reader.wait().unwrap();
        assert_eq!(take_orphans(&dirs, "tool").unwrap().len(), 1);
    }

    #[test]
    fn a_record_that_was_never_finished_goes_with_its_writer() {
        let (_scratch, dirs) = scratch();
        ensure_private_dir(&dirs.owners()).unwrap();
        let of = |pid: u32| dirs.owners().join(format!("a.tool.{pid}.new"));
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(of(dead.id()), "{").unwrap();
        fs::write(of(std::process::id()), "{").unwrap();
        assert!(take_orphans(&dirs, "tool").unwrap().is_empty());
        assert_eq!((of(dead.id()).exists(), of(std::process::id()).exists()), (false, true));
    }

    #[test]
    fn what_goes_to_a_file_was_made_to_stay() {
        let (scratch, dirs) = scratch();
        let claim = claim(&dirs, &id("a"), "tool", Hook::default(), false).unwrap();
        claim.hand_over(fs::File::create(scratch.path().join("out")).unwrap().as_fd()).unwrap();
        assert!(take_orphans(&dirs, "tool").unwrap().is_empty());
        assert!(super::claim(&dirs, &id("a"), "tool", Hook::default(), false).is_err(), "one id, one of each thing");
    }

    #[test]
    fn a_stage_takes_over_what_the_stages_before_made() {
        let (_scratch, dirs) = scratch();
        claim(&dirs, &id("a"), "first", Hook::default(), false).unwrap();
        claim(&dirs, &id("b"), "first", Hook::default(), false).unwrap();
        let second = claim(&dirs, &id("a"), "second", Hook::default(), true).unwrap();
        assert_eq!(second.records.len(), 2);
        second.release();
        assert!(is_claimed(&dirs, &id("a"), "first") && !is_claimed(&dirs, &id("a"), "second"));
    }
}
