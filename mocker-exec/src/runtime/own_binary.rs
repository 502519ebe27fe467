//! This program's own file, out of the container's reach.
//!
//! A process that enters a container has this file as its /proc/PID/exe. A program inside that gets it executed there (an
//! image whose entrypoint is `#!/proc/self/exe`) could open it for writing and so replace the runtime on the host
//! (CVE-2019-5736). So before anything else the program executes itself again, from a mount of its own that is read-only
//! and attached nowhere; where that cannot be had, from a sealed copy in memory.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use mocker_common::error::{Error, failed};
use mocker_common::hooks;
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// Tells the second execution where its file lies: from a mount that is attached nowhere, /proc/self/exe cannot.
const OWN_PATH: &str = "_MOCKER_EXEC_PATH";

/// Makes sure of it. Returns in the second execution, or at once where the file is out of reach already.
pub fn protect() -> Result<(), Error> {
    let own = "/proc/self/exe";
    let second = std::env::var_os(OWN_PATH);
    if let Some(path) = &second {
        // SAFETY: the process has one thread.
        unsafe { std::env::remove_var(OWN_PATH) };
        hooks::set_own_path(path.into());
        rustix::thread::set_name(c"mocker-exec").unwrap_or_default();
    }
    if is_out_of_reach(own) {
        return Ok(());
    }
    if second.is_some() {
        return Err(Error::new("cannot protect this program's own file: it can still be written to")
            .why("a container could replace it on the host (CVE-2019-5736)"));
    }
    let path = std::env::current_exe().map_err(failed("find", own))?;
    let file = read_only_mount(own).or_else(|_| sealed_copy(own)).map_err(failed("protect", path.display()))?;
    let error = execute_again(&file, path.into_os_string());
    Err(failed("execute again", own)(error))
}

/// On a read-only mount, or sealed.
fn is_out_of_reach(own: &str) -> bool {
    let read_only = rustix::fs::statvfs(own).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only
        || File::open(own)
            .is_ok_and(|file| rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

/// open_tree(2), mount_setattr(2): 0.02 ms, and no copy.
fn read_only_mount(own: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, own, flags)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: an empty path means the descriptor itself; the kernel reads the structure during the call only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

/// memfd_create(2): for callers who may not mount.
fn sealed_copy(own: &str) -> io::Result<OwnedFd> {
    let copy = rustix::fs::memfd_create(c"mocker-exec", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(own)?, &mut copy)?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(copy.into())
}

/// execveat(2) of a descriptor, with the same arguments. Returns only if it failed.
fn execute_again(file: &OwnedFd, path: OsString) -> io::Error {
    let text = |text: OsString| CString::new(text.into_vec()).unwrap_or_default();
    let arguments: Vec<CString> = std::env::args_os().map(text).collect();
    let joined = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    let mut environment: Vec<CString> =
        std::env::vars_os().map(|entry| CString::new(joined(entry)).unwrap_or_default()).collect();
    environment.push(CString::new(joined((OWN_PATH.into(), path))).unwrap_or_default());
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both lists end in a null pointer, and their strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}
