//! The container: its document, the directory that it writes to, and whether it is writing now.

use std::fs;
use std::path::PathBuf;

use mocker_common::document::{ContainerId, Document};
use mocker_common::error::{Error, failed};
use mocker_common::state::{self, Directories};
use mocker_common::store::Store;
use serde_json::Value;

use crate::TOOL;

pub struct Container {
    pub id: ContainerId,
    pub document: Document,
    /// what it has written, as overlayfs keeps it
    pub upper: PathBuf,
    /// what it stands on, top first
    pub lower: Vec<PathBuf>,
}

impl Container {
    pub fn find(store: &Store, id: &ContainerId) -> Result<Self, Error> {
        let directory = store.container(id);
        let path = directory.join("config.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::new(format!("no container {id} here"))
                    .likely("it has ended: what a container writes goes with it")
                    .hint("commit it while it runs, or give it a life of its own:\nmocker-images get IMAGE | mocker-images mount --id ID"));
            }
            bytes => bytes.map_err(failed("read", path.display()))?,
        };
        let document = Document::parse(&bytes)?;
        let lower = document.view("/mocker/rootfs/lower")?;
        let upper = directory.join("upper");
        if document.get("/mocker/image").is_none() || !upper.is_dir() {
            return Err(Error::new(format!("cannot commit {id}: it was not made from an image of this store")).why(
                "a commit is the image that a container stands on, and a layer of what the container has written",
            ));
        }
        Ok(Container { id: id.clone(), document, upper, lower })
    }

    /// The image it was made from, for people.
    pub fn image(&self) -> &str {
        self.document.text("/mocker/image/reference").unwrap_or("its image")
    }

    /// What it was started with, for the history.
    pub fn command(&self) -> String {
        let args: Vec<String> = self.document.view("/process/args").unwrap_or_default();
        args.join(" ")
    }

    /// Files are copied one after the other: of what is written meanwhile one half may be old.
    pub fn warn_if_it_runs(&self) {
        let id = &self.id;
        if !state::is_claimed(&Directories::from_env(), id, "mocker-exec") || self.is_frozen() {
            return;
        }
        let hint = match self.document.get("/mocker/cgroup") {
            Some(_) => format!("mocker-cgroup freeze {id}   first, and thaw after"),
            None => "stop writing first, or give it a group that can be frozen: … | mocker-cgroup | mocker-exec".into(),
        };
        eprintln!(
            "{TOOL}: warning: {id} is running: of what it is just writing the image may hold half\n  try     {hint}"
        );
    }

    fn is_frozen(&self) -> bool {
        let directories = self.document.get("/mocker/cgroup/directories").and_then(Value::as_array);
        directories.into_iter().flatten().filter_map(Value::as_str).any(|directory| {
            let holds = |file: &str, text: &str| {
                fs::read_to_string(format!("{directory}/{file}"))
                    .is_ok_and(|found| found.lines().any(|line| line == text))
            };
            holds("cgroup.events", "frozen 1") || holds("freezer.state", "FROZEN")
        })
    }
}
