//! A host of its own: a process that holds new namespaces, in which commands are run.
//!
//! The namespaces: network (its own links, rules, sysctls), mount (its own /run and /sys; `/` is shared, as systemd has
//! it), process ids (killing the first process kills all, whatever they have become), cgroup (in every hierarchy the host
//! sees a group of ours as the root), uts and ipc. Disk, kernel and users are the real ones.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::programs::require;

pub struct Host {
    init: Child,
    /// the first process of the namespaces, by the number it has outside
    pid: u32,
    groups: Vec<PathBuf>,
    /// a script: `enter DIRECTORY PROGRAM ARG…` runs a program in here
    pub enter: PathBuf,
}

/// A cgroup hierarchy, as /proc/self/mountinfo has it.
struct Hierarchy {
    mountpoint: PathBuf,
    /// of the mount call, to mount it again; None for cgroup v2
    options: Option<String>,
}

impl Host {
    /// Starts it. `name` is for the groups, `directory` for the script.
    pub fn start(name: &str, directory: &Path) -> Host {
        assert!(nix::unistd::geteuid().is_root(), "the end-to-end tests make namespaces and mounts: run them as root");
        ["unshare", "nsenter", "ip", "nft", "findmnt"].into_iter().for_each(require);

        let hierarchies = hierarchies();
        let groups: Vec<PathBuf> = hierarchies.iter().map(|hierarchy| hierarchy.make_group(name)).collect();
        let mut init = Command::new("sh")
            .arg("-c")
            .arg(
                "groups=$1; setup=$2; shift 2
                 for group in $groups; do echo $$ > $group/cgroup.procs || exit; done
                 exec unshare --mount --net --pid --cgroup --uts --ipc --fork --kill-child sh -c \"$setup\"",
            )
            .args(["sh", &join(&groups), &setup(&hierarchies)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .die_with_the_test()
            .spawn()
            .expect("sh starts");

        let mut ready = String::new();
        let mut stdout = BufReader::new(init.stdout.take().expect("stdout is a pipe"));
        stdout.read_line(&mut ready).expect("the host's setup answers");
        if ready != "ready\n" {
            stdout.read_to_string(&mut ready).ok();
            panic!("cannot set up the lab's namespaces: see stderr {ready}");
        }
        let pid = first_child(init.id()).expect("unshare has a child");

        let procs: Vec<PathBuf> = hierarchies
            .iter()
            .zip(&groups)
            .map(|(hierarchy, group)| hierarchy.seat(group).join("cgroup.procs"))
            .collect();
        let enter = directory.join("enter");
        let script = format!(
            "#!/bin/sh\n# enter DIRECTORY PROGRAM [ARG...]: runs a program in the lab\n\
             for procs in {}; do echo $$ > \"$procs\" || exit; done\n\
             exec nsenter --target {pid} --mount --net --pid --cgroup --uts --ipc -- \
             setsid sh -c 'cd \"$0\" && exec \"$@\"' \"$@\"\n",
            join(&procs)
        );
        fs::write(&enter, script).expect("the lab's directory can be written");
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)).expect("its own file");
        Host { init, pid, groups, enter }
    }

    /// The first process, by its number outside: `/proc/PID/root/…` shows the host's own mounts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs `job` on a thread in this host's network, or in one that is named there (`ip netns`). A socket made there
    /// stays there, wherever it is used.
    pub fn in_network<T: Send>(&self, name: Option<&str>, job: impl FnOnce() -> T + Send) -> T {
        let path = match name {
            Some(name) => format!("/proc/{}/root/run/netns/{name}", self.pid),
            None => format!("/proc/{}/ns/net", self.pid),
        };
        let network = fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(network.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering the lab's network namespace");
                job()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Kills everything in it and removes its groups. Returns what could not be removed.
    pub fn stop(&mut self) -> Vec<String> {
        self.init.kill().ok(); // --kill-child takes the first process along, the kernel all others
        self.init.wait().ok();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut left = Vec::new();
        for group in &self.groups {
            while let Err(error) = remove_group(group) {
                if Instant::now() > deadline {
                    left.push(format!("{}: {error}", group.display()));
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        left
    }
}

trait DieWithTheTest {
    fn die_with_the_test(&mut self) -> &mut Self;
}

impl DieWithTheTest for Command {
    /// A test that is killed cannot clean up; so that at least no process survives it, the kernel kills them.
    fn die_with_the_test(&mut self) -> &mut Command {
        // SAFETY: prctl is async-signal-safe and touches nothing but this process.
        unsafe { self.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)) }
    }
}

/// The script that the first process runs, before it sleeps. SIGCHLD ignored: the kernel reaps its orphans.
fn setup(hierarchies: &[Hierarchy]) -> String {
    let mut script = "set -e
        # Other people's networks and containers are not this host's; they come and go.
        findmnt -rno TARGET,FSTYPE | awk '$1 ~ \"^/run/\" || ($2 ~ /nsfs|overlay/ && $1 != \"/\") { print $1 }' |
            sort -r | while read -r mount; do umount -l \"$mount\"; done
        mount --make-rshared /
        mount -t proc proc /proc
        mount -t sysfs sysfs /sys
        mount -t tmpfs -o mode=755 tmpfs /run
        ip link set lo up
        echo 0 > /proc/sys/net/ipv4/ip_forward      # a new network namespace has the machine's settings
        hostname lab
    "
    .to_string();
    if hierarchies.iter().all(|hierarchy| hierarchy.mountpoint != Path::new("/sys/fs/cgroup")) {
        script += "mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n";
    }
    for hierarchy in hierarchies {
        let at = hierarchy.mountpoint.display();
        script += &match &hierarchy.options {
            Some(options) => format!("mkdir -p {at}; mount -t cgroup -o {options} cgroup {at}\n"),
            None => format!("mkdir -p {at}; mount -t cgroup2 cgroup2 {at}; echo 0 > {at}/{SEAT}/cgroup.procs\n"),
        };
    }
    script + "echo ready; exec env --ignore-signal=CHLD sleep infinity >/dev/null"
}

/// On cgroup v2 a group with processes has no children with controllers. So those of the lab sit in a leaf.
const SEAT: &str = "init";

impl Hierarchy {
    fn seat(&self, group: &Path) -> PathBuf {
        if self.options.is_some() { group.into() } else { group.join(SEAT) }
    }

    /// Makes a group that can have children with limits, right below the top.
    fn make_group(&self, name: &str) -> PathBuf {
        let group = self.mountpoint.join(name);
        if self.options.is_none() {
            for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                // One that is not there or not allowed: the tests of that limit will say so.
                fs::write(self.mountpoint.join("cgroup.subtree_control"), format!("+{controller}")).ok();
            }
        }
        fs::create_dir_all(self.seat(&group))
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", group.display()));
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // On v1 a new cpuset is empty, and nothing can enter it.
            if self.options.is_some() && group.join(file).exists() {
                let inherited = fs::read(self.mountpoint.join(file)).expect("the top group's cpuset");
                fs::write(group.join(file), inherited).expect("a new group's cpuset");
            }
        }
        group
    }
}

fn hierarchies() -> Vec<Hierarchy> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let mut found: Vec<Hierarchy> = mountinfo.lines().filter_map(parse_hierarchy).collect();
    found.sort_by(|one, other| one.mountpoint.cmp(&other.mountpoint));
    found.dedup_by(|one, other| one.mountpoint == other.mountpoint);
    found
}

/// `36 32 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`
fn parse_hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mountpoint = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    let options = match fields.next()? {
        "cgroup2" => None,
        "cgroup" => {
            let chosen = |option: &&str| !["rw", "ro", "xattr", "clone_children"].contains(option);
            let options: Vec<&str> = fields.nth(1)?.split(',').filter(chosen).collect();
            let named = options.iter().all(|option| option.contains('='));
            Some(format!("{}{}", if named { "none," } else { "" }, options.join(",")))
        }
        _ => return None,
    };
    Some(Hierarchy { mountpoint, options })
}

/// Removes a group and those in it, the innermost first. Succeeds if it is not there.
fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The first process that `parent` has started, if there is one.
pub fn first_child(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split(' ').next()?.parse().ok()
}

fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}
