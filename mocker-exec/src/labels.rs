//! Mandatory access control: the AppArmor profile or SELinux label that the container's program starts under.
//!
//! In: `process.apparmorProfile`, `process.selinuxLabel`, `linux.mountLabel`. Both systems take the name for the next
//! execve from a file in /proc/self/attr. It is opened while the host's /proc is still there and written at the very
//! end: hooks that init starts meanwhile are no program of the container's. A kernel without the system cannot confine
//! the container as asked, and that is an error. Source: runtime-spec config.md, Linux Process; apparmor(7), selinux(8).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::calls::files::WriteTo;
use crate::plan::{Mount, Process};

/// What a process is to run under, and where to write it.
#[derive(Default)]
pub struct Labels {
    /// path, descriptor, text
    at_execve: Vec<(&'static str, OwnedFd, String)>,
}

/// Whether the kernel has AppArmor, switched on.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether the kernel has SELinux with a policy loaded: only then is its file system mounted.
pub fn has_selinux() -> bool {
    let selinux = |path: &str| rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == 0xf97c_ff8c);
    selinux("/sys/fs/selinux") || selinux("/selinux")
}

/// Refuses what this kernel cannot do. An empty string asks for nothing.
pub fn check(process: &Process, mount_label: Option<&str>) -> Result<(), Error> {
    check_against(process, mount_label, has_apparmor(), has_selinux())
}

fn check_against(process: &Process, mount_label: Option<&str>, apparmor: bool, selinux: bool) -> Result<(), Error> {
    let unconfined = "a container must never run with less confinement than was asked for";
    if !apparmor && let Some(profile) = asked(process.apparmor_profile.as_deref()) {
        return Err(Error::new(format!(
            "cannot use the AppArmor profile {profile}: apparmor: config provided but apparmor not supported"
        ))
        .why(unconfined)
        .hint("cat /sys/module/apparmor/parameters/enabled   (or leave out process.apparmorProfile)"));
    }
    if !selinux && let Some(label) = asked(process.selinux_label.as_deref()).or(asked(mount_label)) {
        return Err(Error::new(format!(
            "cannot use the label {label}: selinux label is specified in config, but selinux is disabled or not supported"
        ))
        .why(unconfined)
        .hint("findmnt -t selinuxfs   (or leave out process.selinuxLabel and linux.mountLabel)"));
    }
    Ok(())
}

fn asked(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Opens what will be written. While /proc is the host's; the thread must be the one that calls [`Labels::apply`].
pub fn open(process: &Process) -> Result<Labels, Error> {
    let mut labels = Labels::default();
    if let Some(profile) = asked(process.apparmor_profile.as_deref()) {
        // Since 5.8 AppArmor has a directory of its own, so that it can stand beside another system.
        let own = "/proc/self/attr/apparmor/exec";
        let path = if Path::new(own).exists() { own } else { "/proc/self/attr/exec" };
        labels.at_execve.push((path, open_checked(path)?, format!("exec {profile}")));
    }
    if let Some(label) = asked(process.selinux_label.as_deref()) {
        labels.at_execve.push(("/proc/self/attr/exec", open_checked("/proc/self/attr/exec")?, label.to_string()));
    }
    Ok(labels)
}

/// Gives the keyring that is made between this and the next call of it the container's label; empty is the usual one.
pub fn label_keys(process: &Process, end: bool) -> Result<(), Error> {
    let Some(label) = asked(process.selinux_label.as_deref()) else { return Ok(()) };
    let path = "/proc/self/attr/keycreate";
    let file = open_checked(path)?;
    step(WriteTo { file: file.as_fd(), shown: path, text: if end { "" } else { label } })
        .because("the session keyring is the container's: with the host's label its program could not use it")
}

/// Gives the file systems that the container gets new the label that its program may use. What is the host's, and
/// what the kernel labels by itself, stays as it is.
pub fn label_mounts(mounts: &mut [Mount], label: Option<&str>) {
    let Some(label) = asked(label) else { return };
    let labelled = |mount: &&mut Mount| {
        !["proc", "sysfs", "mqueue", "cgroup", "cgroup2", "bind"].contains(&mount.kind.as_str())
            && !mount.options.iter().any(|option| option == "bind" || option == "rbind")
    };
    mounts.iter_mut().filter(labelled).for_each(|mount| mount.options.push(format!("context=\"{label}\"")));
}

impl Labels {
    /// From the next execve on.
    pub fn apply(&self) -> Result<(), Error> {
        self.at_execve.iter().try_for_each(|(path, file, text)| {
            step(WriteTo { file: file.as_fd(), shown: path, text }).because(
                "asked for: what the program may do is limited by the system's policy too, not by its user alone",
            )
        })
    }
}

/// A file of /proc that is redirected elsewhere would be written in its place, and the label never set
/// (CVE-2025-52881).
fn open_checked(path: &'static str) -> Result<OwnedFd, Error> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", path)(errno.into()))?;
    match rustix::fs::fstatfs(&file).is_ok_and(|stat| stat.f_type as u64 == 0x9fa0) {
        true => Ok(file),
        false => Err(Error::new(format!("cannot write {path}: it is not a file of the kernel"))
            .why("something else is mounted in its place, and would be written instead")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_systems_get_the_label_and_shared_ones_do_not() {
        let mount =
            |kind: &str, option: &str| Mount { kind: kind.into(), options: vec![option.into()], ..Mount::default() };
        let mut mounts = [mount("tmpfs", "ro"), mount("devpts", "ro"), mount("proc", "ro"), mount("", "rbind")];
        label_mounts(&mut mounts, Some(""));
        assert!(mounts.iter().all(|mount| mount.options.len() == 1));
        label_mounts(&mut mounts, Some("system_u:object_r:container_file_t:s0:c1,c2"));
        assert_eq!(mounts[0].options[1], "context=\"system_u:object_r:container_file_t:s0:c1,c2\"");
        assert_eq!(mounts.map(|mount| mount.options.len()), [2, 2, 1, 1]);
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_and_an_empty_string_asks_for_nothing() {
        let process = |apparmor: &str, selinux: &str| Process {
            apparmor_profile: Some(apparmor.into()),
            selinux_label: Some(selinux.into()),
            ..Process::default()
        };
        assert!(check_against(&process("", ""), Some(""), false, false).is_ok());
        assert!(check_against(&Process::default(), None, false, false).is_ok());
        assert!(check_against(&process("p", "l"), Some("m"), true, true).is_ok());
        let error = check_against(&process("p", ""), None, false, true).unwrap_err();
        assert!(error.what.contains("apparmor not supported"), "{error}");
        for (process, mount) in [(process("", "l"), None), (process("", ""), Some("m"))] {
            let error = check_against(&process, mount, true, false).unwrap_err();
            assert!(error.what.contains("selinux is disabled or not supported"), "{error}");
        }
    }
}
