//! What mocker-net remembers, in `$RUN/net`: enough that `delete ID` and `prune` need nothing but an id.
//!
//! ```text
//! containers/ID.json        what was made for a container, written before it is made
//! bridges/BRIDGE/subnet     a bridge of ours
//! bridges/BRIDGE/10.0.0.3   a lease: the id that has the address
//! ports/tcp-8080-127.0.0.1  a published port: the id that has it
//! forwarding.json           the settings that the last container puts back
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use mocker_common::document::ContainerId;
use mocker_common::error::{Error, failed};
use mocker_common::lock::Lock;
use mocker_common::state::{self, Directories, ensure_private_dir};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::TOOL;
use crate::addresses::Subnet;
use crate::ports::{self, Port};
use crate::usermode::Stack;

/// What was made for a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub netns: PathBuf,
    /// none with `--network none`
    pub link: Option<Link>,
    /// without root: the network of a program in user space
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
}

/// How a container hangs on its bridge. The document shows it as `mocker.network`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub bridge: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    pub address: Ipv4Addr,
    pub mac: String,
    /// inside
    pub interface: String,
    /// on the host
    pub host_interface: String,
    pub mtu: u32,
    pub ports: Vec<Port>,
}

const PARTS: [&str; 3] = ["containers", "bridges", "ports"];

/// The state directory.
#[derive(Clone, Debug)]
pub struct State {
    dirs: Directories,
    dir: PathBuf,
}

impl State {
    pub fn open() -> Self {
        let dirs = Directories::from_env();
        State { dir: dirs.run.join("net"), dirs }
    }

    /// The file that stands for a container's network namespace where there is no root, and no /run/netns.
    pub fn user_netns(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("netns").join(id.as_str())
    }

    /// Whether anything was ever made with it.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// One at a time chooses addresses and ports, makes and unmakes what containers share.
    pub fn lock(&self) -> Result<Lock, Error> {
        ensure_private_dir(&self.dir)?;
        let lock = Lock::exclusive(&self.dir.join("lock"))?;
        for part in PARTS {
            ensure_private_dir(&self.dir.join(part))?;
        }
        Ok(lock)
    }

    /// Removes files that were never renamed into place, and directories that are empty. Needs the lock.
    pub fn tidy(&self) {
        let parts = PARTS.map(|part| self.dir.join(part));
        for directory in parts.iter().chain([&self.dir]) {
            let half_written = names(directory).into_iter().filter(|name| name.ends_with(".new"));
            half_written.for_each(|name| remove(&directory.join(name)));
        }
        parts.iter().for_each(|part| fs::remove_dir(part).unwrap_or_default()); // not empty: in use
    }

    /// What a bridge's alias says, so that another state directory leaves it alone.
    pub fn signature(&self) -> String {
        let text = format!("mocker {}", self.dirs.run.display());
        text.chars().take(200).collect()
    }

    pub fn claims(&self) -> (&Directories, &'static str) {
        (&self.dirs, TOOL)
    }

    // Records

    fn record(&self, id: &str) -> PathBuf {
        self.dir.join("containers").join(format!("{id}.json"))
    }

    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        replace(&self.record(&record.id), &serde_json::to_vec(record).unwrap_or_default()) // plain data always serialises
    }

    /// What was made for this id, if anything was.
    pub fn read_record(&self, id: &str) -> Result<Option<Record>, Error> {
        let path = self.record(id);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path.display())(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
                Error::new(format!("cannot read {}: {cause}", path.display()))
                    .likely("another version of mocker-net wrote it")
            }),
        }
    }

    /// Every record, sorted by id. One that cannot be read is left out.
    pub fn records(&self) -> Vec<Record> {
        let names = names(&self.dir.join("containers"));
        names.iter().filter_map(|name| self.read_record(name.strip_suffix(".json")?).ok().flatten()).collect()
    }

    pub fn remove_record(&self, id: &str) {
        remove(&self.record(id));
    }

    // Leases and ports: files that hold an id

    pub fn lease(&self, bridge: &str, address: Ipv4Addr) -> PathBuf {
        self.bridge(bridge).join(address.to_string())
    }

    pub fn port(&self, file: &str) -> PathBuf {
        self.dir.join("ports").join(file)
    }

    /// Who has it. Nobody does if the owner is gone: no claim, no record, no namespace.
    pub fn owner_of(&self, path: &Path) -> Option<String> {
        let owner = fs::read_to_string(path).ok()?;
        self.is_known(&owner).then_some(owner)
    }

    fn is_known(&self, id: &str) -> bool {
        let Ok(id) = id.parse::<ContainerId>() else { return false };
        state::is_claimed(&self.dirs, &id, TOOL)
            || self.record(id.as_str()).exists()
            || crate::netns::path(&id).exists()
    }

    /// Gives it to `id`. Needs the lock; fails if somebody has it.
    pub fn take(&self, path: &Path, id: &ContainerId) -> Result<(), Error> {
        if fs::exists(path).unwrap_or(false) && self.owner_of(path).is_none() {
            remove(path);
        }
        // Made aside and renamed, so that there is no file without an owner in it.
        let aside = aside(path);
        let take = || {
            fs::write(&aside, id.as_str())?;
            Ok(renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE)?)
        };
        take().map_err(failed("take", path.display()))
    }

    /// Takes it from `id`; what is somebody else's stays.
    pub fn give_back(&self, path: &Path, id: &str) {
        if fs::read_to_string(path).is_ok_and(|owner| owner == id) {
            remove(path);
        }
    }

    /// Every published port of every bridge, with its owner.
    pub fn taken_ports(&self) -> Result<Vec<(Port, String)>, Error> {
        let directory = self.dir.join("ports");
        let known = |name: &String| Some((ports::parse_file(name)?, self.owner_of(&directory.join(name))?));
        Ok(names(&directory).iter().filter_map(known).collect())
    }

    // Bridges

    fn bridge(&self, name: &str) -> PathBuf {
        self.dir.join("bridges").join(name)
    }

    /// The subnet of a bridge of ours.
    pub fn subnet_of(&self, bridge: &str) -> Option<Subnet> {
        fs::read_to_string(self.bridge(bridge).join("subnet")).ok()?.parse().ok()
    }

    pub fn remember_bridge(&self, bridge: &str, subnet: &Subnet) -> Result<(), Error> {
        ensure_private_dir(&self.bridge(bridge))?;
        replace(&self.bridge(bridge).join("subnet"), subnet.to_string().as_bytes())
    }

    /// The containers on a bridge.
    pub fn users(&self, bridge: &str) -> Vec<String> {
        let directory = self.bridge(bridge);
        let leases = names(&directory).into_iter().filter(|name| name.parse::<Ipv4Addr>().is_ok());
        leases.filter_map(|name| self.owner_of(&directory.join(name))).collect()
    }

    pub fn bridges(&self) -> Vec<String> {
        names(&self.dir.join("bridges"))
    }

    pub fn forget_bridge(&self, bridge: &str) {
        fs::remove_dir_all(self.bridge(bridge)).unwrap_or_default(); // gone already is as good
    }

    // Forwarding

    pub fn forwarding(&self) -> PathBuf {
        self.dir.join("forwarding.json")
    }
}

/// Writes a file complete or not at all. No fsync: nothing here outlives the kernel's own objects.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = aside(path);
    let write = || fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    write().map_err(failed("write", path.display()))
}

/// Where a file is written before it is renamed into place.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Removes a file; gone already is as good.
pub fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_default();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses;

    fn scratch() -> (tempfile::TempDir, State) {
        let scratch = tempfile::tempdir().unwrap();
        let dirs = Directories { root: scratch.path().into(), run: scratch.path().join("run") };
        (scratch, State { dir: dirs.run.join("net"), dirs })
    }

    fn lives(state: &State, id: &str) -> ContainerId {
        state.write_record(&Record { id: id.into(), netns: "/none".into(), link: None, stack: None }).unwrap();
        id.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_next_and_a_dead_owners_is_free() {
        let (_scratch, state) = scratch();
        let _lock = state.lock().unwrap();
        let subnet: Subnet = "10.1.0.0/29".parse().unwrap();
        state.remember_bridge("b", &subnet).unwrap();
        let take = |id: &str| {
            let id = lives(&state, id);
            let address = addresses::choose(&state, "b", &subnet, None)?;
            state.take(&state.lease("b", address), &id)?;
            Ok::<_, Error>(address.to_string())
        };
        assert_eq!(take("test-a").unwrap(), "10.1.0.3");
        assert_eq!(take("test-b").unwrap(), "10.1.0.4");
        state.remove_record("test-a");
        assert_eq!(take("test-c").unwrap(), "10.1.0.3", "nobody has the record, the claim or the namespace of test-a");
        assert_eq!(state.users("b"), ["test-c", "test-b"]);
        assert_eq!((take("test-d").unwrap(), take("test-e").unwrap()), ("10.1.0.5".into(), "10.1.0.6".into()));
        assert!(take("test-f").unwrap_err().what.contains("every one of 10.1.0.0/29"));
        assert!(addresses::choose(&state, "b", &subnet, Some(Ipv4Addr::new(10, 1, 0, 4))).is_err());
    }

    #[test]
    fn what_is_somebody_elses_is_not_given_back() {
        let (_scratch, state) = scratch();
        let _lock = state.lock().unwrap();
        let (path, id) = (state.port("tcp-80-0.0.0.0"), lives(&state, "test-a"));
        state.take(&path, &id).unwrap();
        assert!(state.take(&path, &lives(&state, "test-b")).is_err());
        state.give_back(&path, "test-b");
        assert_eq!(state.owner_of(&path).as_deref(), Some("test-a"));
        assert_eq!(state.taken_ports().unwrap().len(), 1);
        state.give_back(&path, "test-a");
        assert_eq!(state.owner_of(&path), None);
    }
}
