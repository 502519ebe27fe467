//! Without root: where an ordinary user may make groups. Source: cgroups(7), Delegation; systemd.resource-control(5).

use std::fs;
use std::path::{Path, PathBuf};

use mocker_common::cgroup::hierarchy::Hierarchies;
use rustix::fs::{Access, access};

/// The parent of the user's groups: below the topmost of the groups that we are in that is his, as the one of
/// `user@1000.service` under systemd. None where nothing was delegated: then only v2 is looked at, for v1 cannot be.
///
/// The topmost, because a group with processes in it, such as the one we are in, can have no children with limits.
pub fn parent(hierarchies: &Hierarchies) -> Option<PathBuf> {
    let unified = hierarchies.unified().filter(|_| hierarchies.version() == "v2")?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_ours = |group: &Path| {
        let directory = unified.mount.join(group.strip_prefix("/").unwrap_or(group));
        access(directory.join("cgroup.procs"), Access::WRITE_OK).is_ok() && access(directory, Access::WRITE_OK).is_ok()
    };
    topmost(Path::new(own), is_ours).map(|group| group.join("mocker"))
}

/// The highest ancestor up to which all are ours, the group itself first.
fn topmost(own: &Path, is_ours: impl Fn(&Path) -> bool) -> Option<&Path> {
    own.ancestors().take_while(|group| is_ours(group)).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_group_that_is_ours_is_the_parent() {
        let own = Path::new("/user.slice/user-1000.slice/user@1000.service/app.slice/run.scope");
        let service = Path::new("/user.slice/user-1000.slice/user@1000.service");
        assert_eq!(topmost(own, |group| group.starts_with(service)), Some(service));
        assert_eq!(topmost(own, |group| group == Path::new("/user.slice")), None, "what lies between is another's");
    }
}
