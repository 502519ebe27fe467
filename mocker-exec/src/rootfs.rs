//! The container's root: mounted, then moved into.
//!
//! Everything below the root is found with openat2 beneath its descriptor, so that no link in an image, however it is
//! made, leads a mount or a device to the host (CVE-2021-30465, CVE-2019-19921, CVE-2026-41579).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use mocker_common::overlay;
use mocker_common::state::ensure_private_dir;
use mocker_common::step::{KernelCall, report, step};
use mocker_common::store::Store;
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, openat, statat, statx};

use crate::calls::files::{MakeDir, MakeFile, OpenIn};
use crate::calls::mounts::{
    Attach, ChangeRoot, CloneTree, Detach, MoveOver, PivotRoot, Propagate, Remount, StepInto, Target,
};
use crate::mounts::flags_of;
use crate::plan::{Plan, Root};

/// The kernel follows no more links on one way either (path_resolution(7)).
const LINKS_AT_MOST: u32 = 40;

/// The mounted root, before it is moved into.
pub struct Rootfs {
    descriptor: OwnedFd,
    /// what the document says of it, for the end
    propagation: Option<MsFlags>,
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

/// What `linux.rootfsPropagation` says. Source: runtime-spec config-linux.md, Rootfs Mount Propagation.
pub fn propagation(plan: &Plan) -> Result<Option<MsFlags>, Error> {
    let Some(name) = plan.propagation.as_deref().filter(|name| !name.is_empty()) else { return Ok(None) };
    let (plain, recursive) = match name.strip_prefix('r') {
        Some(plain) => (plain, MsFlags::MS_REC),
        None => (name, MsFlags::empty()),
    };
    let flag = match plain {
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "private" => MsFlags::MS_PRIVATE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return Err(Error::new(format!("cannot mount the root: rootfsPropagation={name} is not supported"))),
    };
    Ok(Some(flag | recursive))
}

/// Mounts the root in the container's own mount namespace. Afterwards nothing mounted here appears on the host, unless
/// the document wants the root shared and a volume of the host with it.
pub fn mount(plan: &Plan) -> Result<Rootfs, Error> {
    let place = match &plan.root {
        Root::Layers { directory, .. } => directory.join("rootfs"),
        Root::Directory(directory) => directory.clone(),
    };
    let asked = propagation(plan)?;
    separate_from_the_host(asked, &place)?;
    let target = match &plan.root {
        Root::Layers { lower, directory } => {
            // Until the mount can be seen, `rm` and `prune` could not tell that its layers are in use.
            let _held = Store::open()?.hold_contents()?;
            let mounted = overlay::mount(lower, &directory.join("upper"), &directory.join("work"))?;
            overlay::attach(&mounted, &place)?;
            Target { descriptor: mounted, shown: place.display().to_string() }
        }
        Root::Directory(_) => {
            let below = open_place(&place)?;
            let tree = step(CloneTree { from: below.descriptor.as_fd(), path: Path::new(""), recursive: true })
                .because("pivot_root accepts only a mount point as new root; a plain directory is none")?;
            step(Attach { tree: tree.as_fd(), shown: &below.shown, target: &below })
                .because("a root needs a place in the tree from which it can be pivoted to")?;
            Target { descriptor: tree, shown: below.shown }
        }
    };
    if !plan.cgroup.devices {
        step(Remount { target: &target, flags: flags_of(&target)? | MsFlags::MS_NODEV }).because(
            "no device group stands guard here: a device node of the image, /dev/sda say, must not open the disk",
        )?;
    }
    Ok(Rootfs { descriptor: target.descriptor, propagation: asked })
}

/// What all mounts that came from the host are made, before anything is done to them.
pub fn whole_tree_propagation(asked: Option<MsFlags>) -> MsFlags {
    match asked {
        Some(flags) if flags.contains(MsFlags::MS_SHARED) => flags,
        // An unbindable tree could not be cloned to make the root of; it becomes unbindable in the end.
        Some(flags) if flags.intersects(MsFlags::MS_PRIVATE | MsFlags::MS_UNBINDABLE) => {
            MsFlags::MS_PRIVATE | MsFlags::MS_REC
        }
        _ => MsFlags::MS_SLAVE | MsFlags::MS_REC,
    }
}

/// Sets the whole tree apart, and where it stays shared the mount that the root will stand on.
fn separate_from_the_host(asked: Option<MsFlags>, place: &Path) -> Result<(), Error> {
    let flags = whole_tree_propagation(asked);
    step(Propagate { path: "/", shown: "/", flags })
        .because("the tree is a copy of the host's, and shared with it: mounts made here would appear there")?;
    if flags.contains(MsFlags::MS_SHARED) {
        let above = mount_point_of(place)?;
        let shown = above.display().to_string();
        step(Propagate { path: &shown, shown: &shown, flags: MsFlags::MS_PRIVATE }).because(
            "pivot_root refuses a root on a shared mount, and on it the host would see the container's root",
        )?;
    }
    Ok(())
}

/// The place of the mount on which a path lies; the path itself, if something is mounted there.
fn mount_point_of(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(failed("find", path.display()))?;
    for above in path.ancestors() {
        let look = statx(CWD, above, AtFlags::empty(), StatxFlags::empty());
        let look = look.map_err(|errno| failed("look at", above.display())(errno.into()))?;
        if look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(above.into());
        }
    }
    Ok(PathBuf::from("/"))
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
        self.look_up(path, false)
    }

    /// The same, where no link may be on the way: ELOOP.
    pub fn find_without_links(&self, path: &str) -> Result<Option<Target>, Error> {
        self.look_up(path, true)
    }

    fn look_up(&self, path: &str, no_links: bool) -> Result<Option<Target>, Error> {
        let open = OpenIn { root: self.descriptor.as_fd(), path, flags: OFlags::PATH, no_links };
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
        self.ensure(path, Some(mode), LINKS_AT_MOST)
    }

    /// The file at a path, made empty where it is missing, its parents too.
    pub fn ensure_file(&self, path: &str) -> Result<Target, Error> {
        self.ensure(path, None, LINKS_AT_MOST)
    }

    /// A directory with this mode, or a file.
    fn ensure(&self, path: &str, directory: Option<u32>, links: u32) -> Result<Target, Error> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        let (parent, name) = split(path);
        let above = self.ensure(parent, Some(0o755), links)?;
        // A dangling link of this name: what it points to is made, as the container's own open would.
        let link = rustix::fs::readlinkat(&above.descriptor, name, Vec::new()).ok();
        if let Some(link) = link.and_then(|link| link.into_string().ok()) {
            let target = if link.starts_with('/') { link } else { format!("{parent}/{link}") };
            return match links.checked_sub(1) {
                Some(links) if target.len() < 4096 => self.ensure(&target, directory, links),
                _ => {
                    Err(Error::new(format!("cannot make {path} in the container: too many links of the image lead on")))
                }
            };
        }
        let parent = above.descriptor.as_fd();
        match directory {
            Some(mode) => step(MakeDir { parent, name, shown: path, mode })
                .because("the image does not have it, and a mount needs a directory to stand on")?,
            None => step(MakeFile { parent, name, shown: path })
                .because("the image does not have it, and a file can only be mounted on a file")?,
        }
        self.must_find(path)
    }

    /// The directory at a path to which no link leads, made where it is missing. ELOOP if there is one on the way, ENOTDIR
    /// if it is something else.
    pub fn ensure_plain_dir(&self, path: &str) -> Result<Target, Error> {
        let found = match self.find_without_links(path)? {
            Some(found) => found,
            None => {
                self.ensure_dir(path, 0o755)?;
                self.find_without_links(path)?
                    .ok_or_else(|| Error::new(format!("cannot find {path} in the container")))?
            }
        };
        match is_dir(&found)? {
            true => Ok(found),
            false => Err(failed("use", path)(std::io::Error::from_raw_os_error(libc::ENOTDIR))),
        }
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
    pub fn pivot(self, no_pivot: bool) -> Result<(), Error> {
        step(StepInto { directory: self.descriptor.as_fd(), shown: "ROOTFS" })
            .because("both roots can then be called '.', and no directory for the old one is needed")?;
        if no_pivot {
            move_over_the_old_root()?;
        } else {
            let old = open_place(Path::new("/"))?;
            step(PivotRoot).because("a chroot can be walked out of; here the old tree itself is moved aside")?;
            step(StepInto { directory: old.descriptor.as_fd(), shown: "the old root" })
                .because("'.' is the new root still, and what comes next would hit its mounts")?;
            step(Propagate { path: ".", shown: ". (the old root)", flags: MsFlags::MS_SLAVE | MsFlags::MS_REC })
                .because("unmounting the old root here must not unmount it on the host")?;
            step(Detach(".")).because("the host's tree still lies over the new root; without it no path leads back")?;
        }
        step(crate::calls::mounts::Chdir("/"))
            .because("the working directory is still the old root's place; a relative path would start outside")?;
        match self.propagation {
            // The root alone: each mount below has what its own options say.
            Some(flags) => step(Propagate { path: "/", shown: "/", flags: flags.difference(MsFlags::MS_REC) })
                .because("asked for: which mounts made below the root later are passed on, and which way"),
            None => Ok(()),
        }
    }

    /// Makes the root read-only. After everything that is made in it.
    pub fn make_readonly(&self, nodev: bool) -> Result<(), Error> {
        let target = self.must_find("/")?;
        let nodev = if nodev { MsFlags::MS_NODEV } else { MsFlags::empty() };
        let flags = flags_of(&target)? | MsFlags::MS_RDONLY | nodev;
        step(Remount { target: &target, flags }).because("asked for: what runs in there must not change its own files")
    }
}

/// Whether the target is a directory.
pub fn is_dir(target: &Target) -> Result<bool, Error> {
    let stat = statat(&target.descriptor, "", AtFlags::EMPTY_PATH)
        .map_err(|errno| failed("look at", &target.shown)(errno.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// The permission bits of a file, sticky and the like included.
pub fn mode_of(target: &Target) -> Result<u32, Error> {
    let stat = statat(&target.descriptor, "", AtFlags::EMPTY_PATH)
        .map_err(|errno| failed("look at", &target.shown)(errno.into()))?;
    Ok(stat.st_mode & 0o7777)
}

/// Where pivot_root is refused (an initramfs): the new root is moved over the old one, which stays below.
///
/// Every whole procfs and sysfs of the host is taken away first: what lies below could still be reached, and the kernel
/// would let a container mount new ones because of it.
fn move_over_the_old_root() -> Result<(), Error> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed("read", "/proc/self/mountinfo"))?;
    let inside = rustix::process::getcwd(Vec::new()).map_err(|errno| failed("name", "the rootfs")(errno.into()))?;
    let inside = inside.to_string_lossy();
    let whole = mountinfo.lines().filter_map(whole_kernel_tree).filter(|place| !Path::new(place).starts_with(&*inside));
    // The innermost first: with /sys everything on it goes, and the rest is not found any more.
    for place in whole.collect::<Vec<_>>().into_iter().rev() {
        step(Propagate { path: &place, shown: &place, flags: MsFlags::MS_SLAVE | MsFlags::MS_REC })
            .because("taking it away here must not take it away on the host")?;
        step(Detach(&place)).because("the old root stays below the new one; its view of the kernel must not")?;
    }
    step(MoveOver).because("pivot_root was not to be used; so the new root covers the old one")?;
    step(ChangeRoot).because("the process's root is still the tree below")
}

/// The mount point of a line of mountinfo that shows all of a procfs or sysfs. Source: proc_pid_mountinfo(5).
fn whole_kernel_tree(line: &str) -> Option<String> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    let kind = system.split(' ').next()?;
    (root == "/" && ["proc", "sysfs"].contains(&kind)).then(|| place.replace("\\040", " "))
}

/// `/dev/pts` → (`/dev`, `pts`).
pub fn split(path: &str) -> (&str, &str) {
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
        Rootfs { descriptor: open_place(path).unwrap().descriptor, propagation: None }
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
