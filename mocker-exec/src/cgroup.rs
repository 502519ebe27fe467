//! Into the group: the container's first process enters what mocker-cgroup made, before it can fork.

use std::fs::File;
use std::os::fd::AsFd;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;

use crate::calls::files::WriteTo;
use crate::plan::Plan;

/// The cgroup.procs files of the container's group, one a hierarchy, open for writing.
pub struct Groups(Vec<(File, String)>);

/// Opens them all. Before the container is made: a group that is not there must stop the start.
pub fn open(plan: &Plan) -> Result<Groups, Error> {
    let open = |directory: &std::path::PathBuf| {
        let path = directory.join("cgroup.procs");
        let file =
            File::options().write(true).open(&path).map_err(failed("open", path.display())).map_err(|error| {
                error
                    .why("the limits in the document hold only for processes in this group")
                    .hint("mocker-cgroup ls   (has it been deleted meanwhile?)")
            })?;
        Ok((file, path.display().to_string()))
    };
    plan.cgroup.directories.iter().map(open).collect::<Result<_, _>>().map(Groups)
}

impl Groups {
    /// Puts a process into the group of every hierarchy, back to back: the kernel waits for a grace period once, not
    /// once each. From outside, while the process waits before its first program.
    pub fn enter(&self, pid: i32) -> Result<(), Error> {
        let text = pid.to_string();
        for (file, shown) in &self.0 {
            step(WriteTo { file: file.as_fd(), shown, text: &text })
                .because("limits hold for a group; outside it the process would run without any")?;
        }
        Ok(())
    }
}
