//! Where bind mounts come from: clones of the host's mounts, made before they have a place.
//!
//! Most are made by the container's first process. Those that show other owners (idmap) need the rights of the host, and
//! those of a container with a user namespace may lie behind directories that its root may not enter: both are made
//! outside, before there is a container. Source: open_tree(2); mount_setattr(2), ID-mapped mounts.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mocker_common::error::{Error, errno_text, failed};
use mocker_common::step::step;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::options::Options;
use crate::calls::mounts::{CloneTree, SetAttributes, Target};
use crate::calls::process::{Clone3, Cloned};
use crate::plan::{Mount, Plan};
use crate::rootfs::{self, whole_tree_propagation};
use crate::userns::{self, Mappings};

/// Sources that were opened outside, by the number of their mount.
#[derive(Default)]
pub struct MountSources(Vec<Option<Target>>);

impl MountSources {
    /// Opens those that must be opened outside. Before clone3, in the host's mount namespace; needs one thread.
    pub fn open(plan: &Plan) -> Result<MountSources, Error> {
        let all = plan.has_namespace("user");
        let mut opened = Vec::new();
        for (number, mount) in plan.mounts.iter().enumerate() {
            let options = Options::read(&mount.options);
            let id_map = id_map_of(mount, &options)?;
            if !is_bind(mount, &options) || options.flags.contains(MsFlags::MS_REMOUNT) || !(all || id_map.is_some()) {
                continue;
            }
            let tree = match clone(plan, mount, &options).and_then(|tree| set_apart(plan, tree)) {
                // Without root only the container's own user namespace has the right, and before Linux 5.12 nobody: it is
                // asked there again.
                Err(error) if [libc::EPERM, libc::ENOSYS].contains(&error.errno) && id_map.is_none() => continue,
                outcome => outcome?,
            };
            if let Some(recursive) = id_map {
                show_other_owners(plan, mount, &tree, recursive)?;
            }
            opened.resize_with(number, || None);
            opened.push(Some(tree));
        }
        Ok(MountSources(opened))
    }

    /// The source of this mount, if it was opened outside.
    pub fn of(&self, number: usize) -> Result<Option<Target>, Error> {
        let Some(Some(Target { descriptor, shown })) = self.0.get(number) else { return Ok(None) };
        let descriptor = descriptor.try_clone().map_err(failed("pass on", shown))?;
        Ok(Some(Target { descriptor, shown: shown.clone() }))
    }
}

/// Whether a mount shows something that is mounted already.
pub fn is_bind(mount: &Mount, options: &Options) -> bool {
    options.flags.contains(MsFlags::MS_BIND) || mount.kind == "bind"
}

/// A mount of the source, which has no place yet.
pub fn clone(plan: &Plan, mount: &Mount, options: &Options) -> Result<Target, Error> {
    let said = options.flags.intersects(MsFlags::MS_BIND | MsFlags::MS_REC);
    clone_path(&plan.bundle.join(&mount.source), options.flags.contains(MsFlags::MS_REC) || !said)
}

/// The same of a path of the host.
pub fn clone_path(path: &Path, recursive: bool) -> Result<Target, Error> {
    let descriptor = step(CloneTree::of(path, recursive))
        .because("a second mount of the source; it has no place yet, and what is done to it is done to no other")?;
    Ok(Target { descriptor, shown: path.display().to_string() })
}

/// Does to a mount of the host what is done to the container's whole tree: a clone still passes mounts on to the host.
fn set_apart(plan: &Plan, tree: Target) -> Result<Target, Error> {
    let propagation = whole_tree_propagation(rootfs::propagation(plan)?);
    if propagation.contains(MsFlags::MS_SHARED) {
        return Ok(tree);
    }
    step(SetAttributes {
        mount: tree.descriptor.as_fd(),
        shown: &tree.shown,
        set: 0,
        clear: 0,
        propagation: propagation.difference(MsFlags::MS_REC),
        recursive: true,
        user_namespace: None,
    })
    .because("it was cloned on the host, and shared with it: what the container mounts in it would appear there")?;
    Ok(tree)
}

/// Whether the mount is to show other owners, and if so whether the mounts below it are.
fn id_map_of(mount: &Mount, options: &Options) -> Result<Option<bool>, Error> {
    let refused = |cause: &str| Err(Error::new(format!("cannot mount {}: {cause}", mount.destination)));
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if options.data.iter().any(|option| option.starts_with("idmap=") || option.starts_with("ridmap=")) {
        return refused("ids are mapped by uidMappings and gidMappings of the mount, not by the option's value");
    }
    match options.id_map.or(mapped.then_some(false)) {
        None => Ok(None),
        Some(_) if !is_bind(mount, options) => refused("only a bind mount can show other owners (idmap)"),
        Some(_) if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() => {
            refused("uidMappings and gidMappings go together, and one is missing")
        }
        Some(recursive) => Ok(Some(recursive)),
    }
}

fn show_other_owners(plan: &Plan, mount: &Mount, tree: &Target, recursive: bool) -> Result<(), Error> {
    let namespace = namespace_of(plan, mount)?;
    step(SetAttributes {
        mount: tree.descriptor.as_fd(),
        shown: &tree.shown,
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: MsFlags::empty(),
        recursive,
        user_namespace: Some(namespace.as_fd()),
    })
    .because("files here belong to other ids than the container has; the mount translates, and no file is changed")
}

/// A user namespace with the mount's mappings, or the container's own.
fn namespace_of(plan: &Plan, mount: &Mount) -> Result<OwnedFd, Error> {
    if !mount.uid_mappings.is_empty() {
        return namespace_with(&Mappings { uid: mount.uid_mappings.clone(), gid: mount.gid_mappings.clone() });
    }
    if let Some(mappings) = &plan.mappings {
        return namespace_with(mappings);
    }
    let joined = plan.namespaces.iter().find(|namespace| namespace.kind == "user").and_then(|one| one.path.as_ref());
    match joined {
        Some(path) => Ok(File::open(path).map_err(failed("open namespace", path.display()))?.into()),
        None => Err(Error::new(format!("cannot mount {}: idmap without mappings", mount.destination)).why(
            "the mount has none of its own, and the container has no user namespace whose mappings could be used",
        )),
    }
}

/// A user namespace that stays while its descriptor does. A process must have stood in it: it ends at once.
fn namespace_with(mappings: &Mappings) -> Result<OwnedFd, Error> {
    let refused =
        |errno: rustix::io::Errno| Error::new(format!("cannot make a pipe: {}", errno_text(errno.raw_os_error())));
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(refused)?;
    let made = step(Clone3 { namespaces: CloneFlags::CLONE_NEWUSER, group: None }).because(
        "a mount's owners are translated by the maps of a user namespace, so one with these maps must exist",
    )?;
    let pid = match made {
        Cloned::Parent { pid, .. } => pid,
        Cloned::Child => {
            drop(writer);
            rustix::io::read(&reader, &mut [0u8; 1]).unwrap_or_default(); // until the other end is closed
            // SAFETY: ends this process at once; nothing of the parent's is flushed twice.
            unsafe { libc::_exit(0) }
        }
    };
    drop(reader);
    let path = format!("/proc/{pid}/ns/user");
    let opened = userns::write_maps(pid, mappings)
        .and_then(|()| File::open(&path).map_err(failed("open namespace", path.as_str())));
    drop(writer);
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)
        .map_err(|errno| Error::new(format!("cannot wait: {}", errno_text(errno as i32))))?;
    Ok(opened?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::Mapping;

    fn mount(kind: &str, options: &[&str], uid: usize, gid: usize) -> Mount {
        Mount {
            destination: "/x".into(),
            kind: kind.into(),
            options: options.iter().map(|text| text.to_string()).collect(),
            uid_mappings: vec![Mapping::default(); uid],
            gid_mappings: vec![Mapping::default(); gid],
            ..Mount::default()
        }
    }

    #[test]
    fn other_owners_are_asked_for_by_option_or_by_mappings() {
        let of = |mount: Mount| id_map_of(&mount, &Options::read(&mount.options));
        assert_eq!(of(mount("", &["bind"], 0, 0)), Ok(None));
        assert_eq!(of(mount("", &["bind", "idmap"], 0, 0)), Ok(Some(false)));
        assert_eq!(of(mount("", &["rbind", "ridmap"], 1, 1)), Ok(Some(true)));
        assert_eq!(of(mount("bind", &[], 1, 1)), Ok(Some(false)));
        for refused in [
            mount("tmpfs", &["idmap"], 1, 1),
            mount("", &["bind"], 1, 0),
            mount("", &["bind", "idmap"], 0, 1),
            mount("", &["bind", "idmap=uids=0-1-10"], 0, 0),
        ] {
            assert!(of(refused).is_err());
        }
    }
}
