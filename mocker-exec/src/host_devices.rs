//! Devices in a user namespace: mknod(2) is refused there, whatever the capabilities, so the host's own nodes are bound.

use mocker_common::error::{Error, failed};
use mocker_common::rootless;
use mocker_common::step::step;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, openat};

use crate::calls::files::MakeNode;
use crate::calls::mounts::{Bind, Target};
use crate::plan::Plan;
use crate::rootfs::Rootfs;

/// Whether the container's devices must be the host's.
pub fn needed(plan: &Plan) -> bool {
    plan.has_namespace("user") || rootless::in_user_namespace()
}

/// Shows the host's node of this path in the container: it must be the very device that was asked for.
pub fn bind(path: &str, node: &MakeNode<'_>, rootfs: &Rootfs) -> Result<(), Error> {
    let source = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("find the host's device", path)(errno.into()))
        .map_err(|error| {
            error.why(WHY).hint("run the container without a user namespace, or make the node on the host")
        })?;
    let stat = fstat(&source).map_err(|errno| failed("look at", path)(errno.into()))?;
    let same = FileType::from_raw_mode(stat.st_mode) == node.kind && stat.st_rdev == makedev(node.major, node.minor);
    if !same {
        return Err(Error::new(format!("cannot give the container {path}: the host's is another device"))
            .why("a node can only be bound from the host's of the same name, and must be the one that was asked for")
            .hint(format!("ls -l {path}")));
    }
    let target = rootfs.ensure_file(path)?;
    let source = Target { descriptor: source, shown: path.into() };
    let call = Bind { source: &source.path(), source_shown: path, target: &target, recursive: false };
    step(call).because(WHY)
}

const WHY: &str =
    "a device node made in a user namespace would be a way round the host's permissions, so none can be made";
