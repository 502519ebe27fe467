//! The overlay: an image's layers, read-only and shared, seen as one tree with a writable directory on top.
//!
//! Made with the mount API of file descriptors (Linux 6.8 for `lowerdir+`): the mount exists before it has a place,
//! so nobody meets it half-made. Where the kernel is older, mount(2) does the same in two more steps. Needs root, or a
//! user namespace of its own. Source: Documentation/filesystems/overlayfs.rst; mount_setattr(2) and fsopen(2).

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount as sys;

use crate::error::{Error, failed};
use crate::rootless::in_user_namespace;
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis, step};

/// The kernel stacks no more lower directories than this (OVL_MAX_STACK).
pub const MAX_LAYERS: usize = 500;

/// How the upper directory is kept: whole files only, nothing that refers into the layers below.
const PLAIN: [(&str, &str); 3] = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// Joins `lower` (top first) and the writable `upper` into one tree: a mount that is not attached anywhere yet.
///
/// `upper` and `work` must be on one file system, `work` empty and used by nobody else. An image without layers gets an
/// empty directory beside `work` to stand on. Fails, naming it, if a directory is not there.
pub fn mount(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
    let empty = [work.with_file_name("empty")];
    let lower = match lower {
        [] => {
            crate::state::ensure_private_dir(&empty[0])?;
            &empty
        }
        layers => layers,
    };
    check(lower, upper, work)?;
    match mount_by_descriptor(lower, upper, work) {
        Err(error) if is_too_old(&error) => mount_by_options(lower, upper, work),
        outcome => outcome,
    }
}

/// Gives the upper directory the mode, owner and time of the topmost layer's: it is what the container sees as its `/`.
pub fn dress_upper(lower: &[PathBuf], upper: &Path) -> Result<(), Error> {
    let Some(top) = lower.first() else { return Ok(()) };
    let below = match fs::metadata(top) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()), // `mount` refuses it, and says more
        other => other.map_err(failed("look at", top.display()))?,
    };
    let dress = || {
        std::os::unix::fs::chown(upper, Some(below.uid()), Some(below.gid()))?;
        fs::set_permissions(upper, below.permissions())?;
        fs::File::open(upper)?.set_modified(below.modified()?)
    };
    dress().map_err(failed("give the image's mode and owner to", upper.display()))
}

/// Gives a detached mount its place: from now on `target` shows it.
pub fn attach(mount: impl AsFd, target: &Path) -> Result<(), Error> {
    step(MoveMount { mount: mount.as_fd(), target })
        .because("until now the mount exists for this process alone and would vanish with it; a path makes it visible")
}

/// All that can be refused is refused before the kernel is asked: it would answer a bare EINVAL or ENOENT.
fn check(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<(), Error> {
    if lower.len() > MAX_LAYERS {
        return Err(Error::new(format!("cannot stack {} layers: overlayfs takes {MAX_LAYERS} at most", lower.len()))
            .hint("squash the image when it is built, for example from several RUN lines into one"));
    }
    for path in lower.iter().map(PathBuf::as_path).chain([upper, work]) {
        if !path.is_dir() {
            return Err(Error::new(format!("cannot stack layers: {} is not there", path.display()))
                .likely("the image was removed, or the store damaged, after the document was made")
                .hint("mocker-images verify"));
        }
    }
    Ok(())
}

fn mount_by_descriptor(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
    let context = step(OpenContext).because(
        "a file system is configured piece by piece before it exists, so hundreds of layers fit, not one page",
    )?;
    let fs = context.as_fd();
    for layer in lower {
        let layer = Named::new(layer)?;
        step(Configure { fs, key: "lowerdir+", value: layer.path() }).because(
            "an image is its layers: each goes below the ones given before, is only read, and may be shared",
        )?;
    }
    let (upper, work) = (Named::new(upper)?, Named::new(work)?);
    step(Configure { fs, key: "upperdir", value: upper.path() })
        .because("what the container writes must land somewhere of its own, or it would change the image for all")?;
    step(Configure { fs, key: "workdir", value: work.path() })
        .because("a file copied up is prepared here and renamed into upper, so no reader ever sees half of one")?;
    for (key, value) in PLAIN {
        step(Configure { fs, key, value: Path::new(value) })
            .because("upper then holds whole files; by the kernel's default it may hold references that only this stack can read")?;
    }
    step(SetFlag { fs, key: "volatile" }).because(
        "the upper layer is removed with its container; without this, its end would wait for the whole disk to be synced",
    )?;
    if in_user_namespace() {
        step(SetFlag { fs, key: "userxattr" })
            .because("in a user namespace trusted.* attributes are out of reach, so whiteouts are marked in user.*")?;
    }
    step(Create { fs }).because(
        "only now are the layers opened and checked against each other; a wrong one is named in the context's log",
    )?;
    step(Detached { fs }).because("a superblock has no tree to stand in until a mount of it is made")
}

/// The path of a directory in a form that any kernel takes: itself, or by a descriptor's short name where it is longer
/// than fsconfig's 255 bytes or holds what overlayfs would read as an escape.
struct Named {
    path: PathBuf,
    _descriptor: Option<OwnedFd>,
}

impl Named {
    fn new(path: &Path) -> Result<Self, Error> {
        const LIMIT: usize = 255;
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() <= LIMIT && !bytes.contains(&b'\\') {
            return Ok(Named { path: path.into(), _descriptor: None });
        }
        let descriptor = open_directory(path)?;
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into();
        Ok(Named { path, _descriptor: Some(descriptor) })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path.display())(errno.into()))
}

/// Whether a kernel before 6.8 answered: no such call, or an option it does not know. Then the log says so or nothing.
fn is_too_old(error: &Error) -> bool {
    let unknown = error.said.is_empty() || error.said.iter().any(|line| line.contains("Unknown parameter"));
    error.errno == libc::ENOSYS || (error.errno == libc::EINVAL && unknown)
}

/// The same with mount(2): all options in one page, hence directories named by the digits of their descriptors,
/// relative to /proc/self/fd. It mounts at a path at once, so the mount is cloned from there and the path let go.
fn mount_by_options(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
    let layers = lower.iter().map(|path| open_directory(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work_descriptor) = (open_directory(upper)?, open_directory(work)?);
    let digits: Vec<String> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={}", digits.join(":"), upper.as_raw_fd(), work_descriptor.as_raw_fd());
    if in_user_namespace() {
        options += ",userxattr";
    }
    let plain = PLAIN.map(|(key, value)| format!(",{key}={value}")).concat();
    let volatile = format!("{plain},volatile"); // since 5.10

    let target = std::path::absolute(work.with_file_name("mounting")).map_err(failed("find", work.display()))?;
    crate::state::ensure_private_dir(&target)?;
    let here = open_directory(Path::new("."))?;
    let mounted = std::env::set_current_dir("/proc/self/fd").map_err(failed("enter", "/proc/self/fd")).and_then(|()| {
        let mount = |options: String| {
            step(MountOverlay { target: &target, options })
                .because("this kernel takes an overlay's layers only as one page of options; short names make many fit")
        };
        let too_new = |error: &Error| error.errno == libc::EINVAL;
        mount(format!("{options}{volatile}"))
            .or_else(|error| if too_new(&error) { mount(format!("{options}{plain}")) } else { Err(error) })
            .or_else(|error| if too_new(&error) { mount(options.clone()) } else { Err(error) }) // before 4.19
    });
    rustix::process::fchdir(&here).map_err(|errno| failed("return to", "the working directory")(errno.into()))?;
    let detached = mounted.and_then(|()| {
        let detached = step(CloneTree { path: &target })
            .because("the mount must be movable to its real place by descriptor, as one made by fsmount is");
        step(Detach { path: &target })
            .because("the clone stands for itself; the first place was only needed to be born in")?;
        detached
    });
    fs::remove_dir(&target).unwrap_or_default(); // it goes with the container's directory otherwise
    detached
}

/// fsopen: a file system to be.
struct OpenContext;

/// fsconfig with a string.
struct Configure<'a> {
    fs: BorrowedFd<'a>,
    key: &'static str,
    value: &'a Path,
}

/// fsconfig with a switch.
struct SetFlag<'a> {
    fs: BorrowedFd<'a>,
    key: &'static str,
}

/// fsconfig FSCONFIG_CMD_CREATE: makes the superblock.
struct Create<'a> {
    fs: BorrowedFd<'a>,
}

/// fsmount: a mount without a place.
struct Detached<'a> {
    fs: BorrowedFd<'a>,
}

/// move_mount from a descriptor to a path.
struct MoveMount<'a> {
    mount: BorrowedFd<'a>,
    target: &'a Path,
}

/// mount(2) with everything in its options.
struct MountOverlay<'a> {
    target: &'a Path,
    options: String,
}

/// open_tree with OPEN_TREE_CLONE.
struct CloneTree<'a> {
    path: &'a Path,
}

/// umount2 with MNT_DETACH.
struct Detach<'a> {
    path: &'a Path,
}

/// Adds to a failure what the context's log holds: reading it gives one message a read, until ENODATA.
fn with_log(fs: BorrowedFd<'_>, errno: rustix::io::Errno) -> Cause {
    let mut cause = Cause::from(errno);
    let mut line = [0u8; 1024];
    while let Ok(length @ 1..) = rustix::io::read(fs, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        cause = cause.said(text.trim_end().trim_start_matches("e ").to_string());
    }
    cause
}

impl fmt::Display for OpenContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fsopen(\"overlay\", FSOPEN_CLOEXEC)")
    }
}

impl Explained for OpenContext {
    fn aim(&self) -> String {
        "begin an overlay".into()
    }
    fn source(&self) -> &'static str {
        "fsopen(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENODEV => diagnosis("the kernel has no overlayfs", "modprobe overlay"),
            libc::EPERM => diagnosis("mounting needs root, or a user namespace", "sudo, or unshare -Urm"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for OpenContext {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        Ok(sys::fsopen("overlay", sys::FsOpenFlags::FSOPEN_CLOEXEC)?)
    }
}

impl fmt::Display for Configure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fs, key, value) = (self.fs.as_raw_fd(), self.key, self.value.display());
        write!(f, "fsconfig({fs}, FSCONFIG_SET_STRING, \"{key}\", \"{value}\", 0)")
    }
}

impl Explained for Configure<'_> {
    fn aim(&self) -> String {
        format!("set the overlay's {} to {}", self.key, self.value.display())
    }
    fn source(&self) -> &'static str {
        "fsconfig(2); Documentation/filesystems/overlayfs.rst"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        diagnose_directory(errno)
    }
}

impl KernelCall for Configure<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        sys::fsconfig_set_string(self.fs, self.key, self.value).map_err(|errno| with_log(self.fs, errno))
    }
}

impl fmt::Display for SetFlag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fsconfig({}, FSCONFIG_SET_FLAG, \"{}\", NULL, 0)", self.fs.as_raw_fd(), self.key)
    }
}

impl Explained for SetFlag<'_> {
    fn aim(&self) -> String {
        format!("set the overlay's {}", self.key)
    }
    fn source(&self) -> &'static str {
        "fsconfig(2); Documentation/filesystems/overlayfs.rst, User xattr"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EINVAL => diagnosis("overlays in a user namespace need Linux 5.11", "run as root"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for SetFlag<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        sys::fsconfig_set_flag(self.fs, self.key).map_err(|errno| with_log(self.fs, errno))
    }
}

impl fmt::Display for Create<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fsconfig({}, FSCONFIG_CMD_CREATE, NULL, NULL, 0)", self.fs.as_raw_fd())
    }
}

impl Explained for Create<'_> {
    fn aim(&self) -> String {
        "make the overlay".into()
    }
    fn source(&self) -> &'static str {
        "fsconfig(2); Documentation/filesystems/overlayfs.rst"
    }
    fn by_hand(&self) -> String {
        "mount -t overlay overlay -o lowerdir=TOP:…:BOTTOM,upperdir=UPPER,workdir=WORK MERGED".into()
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        diagnose_directory(errno)
    }
}

impl KernelCall for Create<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        sys::fsconfig_create(self.fs).map_err(|errno| with_log(self.fs, errno))
    }
}

impl fmt::Display for Detached<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fsmount({}, FSMOUNT_CLOEXEC, 0)", self.fs.as_raw_fd())
    }
}

impl Explained for Detached<'_> {
    fn aim(&self) -> String {
        "make a mount of the overlay".into()
    }
    fn source(&self) -> &'static str {
        "fsmount(2)"
    }
}

impl KernelCall for Detached<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let (flags, attributes) = (sys::FsMountFlags::FSMOUNT_CLOEXEC, sys::MountAttrFlags::empty());
        sys::fsmount(self.fs, flags, attributes).map_err(|errno| with_log(self.fs, errno))
    }
}

impl fmt::Display for MoveMount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mount, target) = (self.mount.as_raw_fd(), self.target.display());
        write!(f, "move_mount({mount}, \"\", AT_FDCWD, \"{target}\", MOVE_MOUNT_F_EMPTY_PATH)")
    }
}

impl Explained for MoveMount<'_> {
    fn aim(&self) -> String {
        format!("attach the overlay at {}", self.target.display())
    }
    fn source(&self) -> &'static str {
        "move_mount(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOENT => diagnosis("the place to mount at is not there", "mkdir -p it first"),
            libc::ENOSPC => diagnosis(
                "no space is short: the mount namespace has as many mounts as it may",
                "cat /proc/sys/fs/mount-max; wc -l /proc/self/mountinfo",
            ),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for MoveMount<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(sys::move_mount(self.mount, "", CWD, self.target, sys::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }
}

impl fmt::Display for MountOverlay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount(\"overlay\", \"{}\", \"overlay\", 0, \"{}\")", self.target.display(), self.options)
    }
}

impl Explained for MountOverlay<'_> {
    fn aim(&self) -> String {
        format!("mount an overlay at {}", self.target.display())
    }
    fn source(&self) -> &'static str {
        "mount(2); Documentation/filesystems/overlayfs.rst"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        diagnose_directory(errno)
    }
}

impl KernelCall for MountOverlay<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let options = std::ffi::CString::new(self.options.as_str()).map_err(|_| Cause::errno(libc::EINVAL))?;
        Ok(sys::mount("overlay", self.target, "overlay", sys::MountFlags::empty(), options.as_c_str())?)
    }
}

impl fmt::Display for CloneTree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open_tree(AT_FDCWD, \"{}\", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)", self.path.display())
    }
}

impl Explained for CloneTree<'_> {
    fn aim(&self) -> String {
        format!("clone the mount at {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "open_tree(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOSYS => diagnosis("mounts by descriptor need Linux 5.2", "uname -r"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for CloneTree<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let flags = sys::OpenTreeFlags::OPEN_TREE_CLONE | sys::OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(sys::open_tree(CWD, self.path, flags)?)
    }
}

impl fmt::Display for Detach<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "umount2(\"{}\", MNT_DETACH)", self.path.display())
    }
}

impl Explained for Detach<'_> {
    fn aim(&self) -> String {
        format!("unmount {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "umount2(2)"
    }
    fn by_hand(&self) -> String {
        format!("umount -l {}", self.path.display())
    }
}

impl KernelCall for Detach<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(sys::unmount(self.path, sys::UnmountFlags::DETACH)?)
    }
}

fn diagnose_directory(errno: i32) -> Diagnosis {
    match errno {
        libc::EINVAL => diagnosis(
            "the store lies on a file system that cannot be upper or lower: an overlay itself, NFS, or two file systems",
            "findmnt -T STORE; MOCKER_ROOT=/a/directory/on/ext4/or/xfs",
        ),
        libc::ENOENT => diagnosis("a layer was removed meanwhile", "mocker-images verify"),
        libc::ELOOP => diagnosis("work or upper is in use by another overlay", "findmnt -t overlay"),
        libc::EBUSY => diagnosis("upper or work is in use by another overlay", "findmnt -t overlay"),
        libc::EPERM => diagnosis("mounting needs root, or a user namespace", "sudo, or unshare -Urm"),
        libc::ENODEV => diagnosis("the kernel has no overlayfs", "modprobe overlay"),
        _ => Diagnosis::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Way = fn(&[PathBuf], &Path, &Path) -> Result<OwnedFd, Error>;

    /// Three layers, the lowest two in a directory whose path is too long for fsconfig and full of special letters.
    fn layers(scratch: &Path) -> Vec<PathBuf> {
        let deep = scratch.join(format!("a:b,c\\d/{}", "x".repeat(250)));
        let lower = vec![scratch.join("top"), deep.join("middle"), deep.join("bottom")];
        for (number, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join("who"), number.to_string()).unwrap();
            fs::write(layer.join(format!("only-{number}")), "").unwrap();
        }
        lower
    }

    fn shows_all_layers_and_keeps_writes_apart(way: Way) {
        if !rustix::process::geteuid().is_root() {
            return; // mounting is root's; tests/ run as root
        }
        let scratch = tempfile::tempdir().unwrap();
        let lower = layers(scratch.path());
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scratch.path().join(name));
        for directory in [&upper, &work, &merged] {
            fs::create_dir(directory).unwrap();
        }
        let mount = way(&lower, &upper, &work).unwrap();
        attach(&mount, &merged).unwrap();
        assert_eq!(fs::read_to_string(merged.join("who")).unwrap(), "0", "the top layer wins");
        assert!((0..3).all(|number| merged.join(format!("only-{number}")).exists()));
        fs::write(merged.join("who"), "container").unwrap();
        assert_eq!(fs::read_to_string(lower[0].join("who")).unwrap(), "0", "the layer is untouched");
        assert_eq!(fs::read_to_string(upper.join("who")).unwrap(), "container");
        step(Detach { path: &merged }).because("the test is over").unwrap();
    }

    #[test]
    fn layers_are_stacked_by_descriptor() {
        shows_all_layers_and_keeps_writes_apart(mount_by_descriptor);
    }

    #[test]
    fn layers_are_stacked_by_options_where_the_kernel_is_old() {
        shows_all_layers_and_keeps_writes_apart(mount_by_options);
    }

    #[test]
    fn an_image_without_layers_stands_on_an_empty_directory() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let [upper, work] = ["upper", "work"].map(|name| scratch.path().join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        mount(&[], &upper, &work).unwrap();
    }

    #[test]
    fn a_missing_layer_is_named_before_the_kernel_is_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let error = mount(&["/nowhere/layer".into()], scratch.path(), scratch.path()).unwrap_err();
        assert_eq!(error.what, "cannot stack layers: /nowhere/layer is not there");
    }
}
