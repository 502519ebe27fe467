//! The container's root: mounted, then moved into.
//!
//! Everything below the root is found with openat2 beneath its descriptor, so that no link in an image, however it is
//! made, leads a mount or a device to the host (CVE-2021-30465, CVE-2019-19921, CVE-2026-41579).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::overlay;
use mocker_common::state::ensure_private_dir;
use mocker_common::step::{KernelCall, report, step};
use mocker_common::store::Store;
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};

use crate::calls::files::{MakeDir, MakeFile, OpenIn};
use crate::calls::mounts::{Bind, Detach, PivotRoot, Propagate, Remount, StepInto, Target};
use crate::plan::{Plan, Root};

/// The mounted root, before it is moved into.
pub struct Rootfs {
    descriptor: OwnedFd,
}

/// Makes the directories that the container's own layer needs. Outside, before there is a container.
pub fn prepare(plan: &Plan) -> Result<(), Error> {
    if let Root::Layers { directory, lower } = &plan.root {
        for part in ["upper", "work", "rootfs"] {
            ensure_private_dir(&directory.join(part))?;
        }
        let upper = directory.join("upper");
        std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(failed("open up", upper.display()))?;
        overlay::dress_upper(lower, &upper)?;
    }
    Ok(())
}

/// Mounts the root in the container's own mount namespace. Afterwards nothing mounted here appears on the host.
pub fn mount(plan: &Plan) -> Result<Rootfs, Error> {
    let propagation = match plan.propagation.as_deref() {
        Some("shared" | "rshared") => MsFlags::MS_SHARED,
        Some("private" | "rprivate") => MsFlags::MS_PRIVATE,
        _ => MsFlags::MS_SLAVE,
    };
    step(Propagate { path: "/", shown: "/", flags: propagation | MsFlags::MS_REC })
        .because("the tree is a copy of the host's, and shared with it: mounts made here would appear there")?;

    let place = match &plan.root {
        Root::Layers { lower, directory } => {
            let merged = directory.join("rootfs");
            // Until the mount can be seen, `rm` and `prune` could not tell that its layers are in use.
            let _held = Store::open()?.hold_contents()?;
            let mounted = overlay::mount(lower, &directory.join("upper"), &directory.join("work"))?;
            overlay::attach(&mounted, &merged)?;
            merged
        }
        Root::Directory(directory) => {
            let target = open_place(directory)?;
            let shown = directory.display().to_string();
            let bind = Bind { source: &target.path(), source_shown: &shown, target: &target, recursive: true };
            step(bind).because("pivot_root accepts only a mount point as new root; a plain directory is none")?;
            directory.clone()
        }
    };
    let target = open_place(&place)?;
    if matches!(plan.root, Root::Directory(_)) {
        let flags = MsFlags::MS_PRIVATE;
        step(Propagate { path: &target.path(), shown: &target.shown, flags })
            .because("pivot_root refuses a new root whose mounts are passed on to others")?;
    }
    if !plan.cgroup.devices {
        step(Remount { target: &target, flags: MsFlags::MS_NODEV }).because(
            "no device group stands guard here: a device node of the image, /dev/sda say, must not open the disk",
        )?;
    }
    Ok(Rootfs { descriptor: target.descriptor })
}

fn open_place(place: &Path) -> Result<Target, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = openat(CWD, place, flags, Mode::empty())
        .map_err(|errno| failed("open rootfs", place.display())(errno.into()))?;
    Ok(Target { descriptor, shown: place.display().to_string() })
}

impl Rootfs {
    /// Finds a path as the container would: links lead inside, never out. None if it is not there.
    pub fn find(&self, path: &str) -> Result<Option<Target>, Error> {
        let open = OpenIn { root: self.descriptor.as_fd(), path, flags: OFlags::PATH };
        // Told only when it fails: one look-up a mount would drown the narrative.
        match open.call() {
            Ok(descriptor) => Ok(Some(Target { descriptor, shown: path.into() })),
            Err(cause) if cause.errno == libc::ENOENT || cause.errno == libc::ENOTDIR => Ok(None),
            Err(cause) => {
                let why = "a link of the image must lead inside the container, never to a file of the host";
                Err(report(&open, why, cause))
            }
        }
    }

    /// The directory at a path, made with its parents where it is missing.
    pub fn ensure_dir(&self, path: &str, mode: u32) -> Result<Target, Error> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        let (parent, name) = split(path);
        let above = self.ensure_dir(parent, 0o755)?;
        step(MakeDir { parent: above.descriptor.as_fd(), name, shown: path, mode })
            .because("the image does not have it, and a mount needs a directory to stand on")?;
        self.must_find(path)
    }

    /// The file at a path, made empty where it is missing, its parents too.
    pub fn ensure_file(&self, path: &str) -> Result<Target, Error> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        let (parent, name) = split(path);
        let above = self.ensure_dir(parent, 0o755)?;
        // A dangling link of this name: what it points to is made, as the container's own open would.
        let link = rustix::fs::readlinkat(&above.descriptor, name, Vec::new()).ok();
        if let Some(link) = link.and_then(|link| link.into_string().ok()) {
            let target = if link.starts_with('/') { link } else { format!("{parent}/{link}") };
            if target != path && target.len() < 4096 {
                return self.ensure_file(&target);
            }
        }
        step(MakeFile { parent: above.descriptor.as_fd(), name, shown: path })
            .because("the image does not have it, and a file can only be mounted on a file")?;
        self.must_find(path)
    }

    fn must_find(&self, path: &str) -> Result<Target, Error> {
        self.find(path)?.ok_or_else(|| {
            Error::new(format!("cannot find {path} in the container just after making it"))
                .likely("a link of the image leads somewhere else")
        })
    }

    /// Makes this the process's root and lets go of the host's tree.
    ///
    /// Needs a mount namespace of its own and one thread. Afterwards the working directory is the new `/`.
    /// Source: pivot_root(2), NOTES.
    pub fn pivot(self) -> Result<(), Error> {
        step(StepInto { directory: self.descriptor.as_fd(), shown: "ROOTFS" })
            .because("both roots can then be called '.', and no directory for the old one is needed")?;
        step(PivotRoot).because("a chroot can be walked out of; here the old tree itself is moved aside")?;
        step(Propagate { path: ".", shown: ". (the old root)", flags: MsFlags::MS_SLAVE | MsFlags::MS_REC })
            .because("unmounting the old root here must not unmount it on the host")?;
        step(Detach(".")).because("the host's tree still lies over the new root; without it no path leads back")?;
        step(crate::calls::mounts::Chdir("/"))
            .because("the working directory is still the old root's place; a relative path would start outside")
    }

    /// Makes the root read-only. After everything that is made in it.
    pub fn make_readonly(&self, nodev: bool) -> Result<(), Error> {
        let target = self.must_find("/")?;
        let flags = if nodev { MsFlags::MS_NODEV | MsFlags::MS_RDONLY } else { MsFlags::MS_RDONLY };
        step(Remount { target: &target, flags }).because("asked for: what runs in there must not change its own files")
    }
}

/// Whether the target is a directory.
pub fn is_dir(target: &Target) -> Result<bool, Error> {
    let stat = statat(&target.descriptor, "", AtFlags::EMPTY_PATH)
        .map_err(|errno| failed("look at", &target.shown)(errno.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// `/dev/pts` → (`/dev`, `pts`).
fn split(path: &str) -> (&str, &str) {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rootfs(path: &Path) -> Rootfs {
        Rootfs { descriptor: open_place(path).unwrap().descriptor }
    }

    #[test]
    fn links_of_the_image_lead_inside() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        let root = scratch.path().join("root");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("dev")).unwrap();
        std::os::unix::fs::symlink("../../../../run/x/hosts", root.join("etc/hosts")).unwrap();

        let rootfs = rootfs(&root);
        assert!(rootfs.find("/dev/null").unwrap().is_none());
        rootfs.ensure_file("/etc/hosts").unwrap();
        assert!(root.join("run/x/hosts").is_file());
        assert!(rootfs.ensure_dir("/../../etc/new/er", 0o755).is_ok());
        assert!(root.join("etc/new/er").is_dir());
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
    }

    #[test]
    fn paths_split_into_parent_and_name() {
        let cases = [("/dev/pts", ("/dev", "pts")), ("/dev", ("/", "dev")), ("/a/b/", ("/a", "b")), ("x", ("/", "x"))];
        for (path, parts) in cases {
            assert_eq!(split(path), parts);
        }
    }
}
