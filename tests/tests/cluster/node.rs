//! A node of a cluster: a lab that has an /etc and a /var/lib of its own, mocker-exec installed, and no runc.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Lab, Output, Running, Snapshot, binaries, require};

use crate::guide;

/// A node. What runs on it ends with it.
pub struct Node {
    pub name: &'static str,
    pub lab: Lab,
    daemons: Vec<Daemon>,
}

struct Daemon {
    name: &'static str,
    process: Running,
}

/// The node's own /etc, /var/lib and /usr/local/bin: what is written there is seen on this node only. Where Debian has runc
/// stands a program that only fails (dockerd does not start without a file of that name).
const OWN_FILES: &str = "
    hostname $0
    mkdir etc etc.work bin bin.work lib
    mount -t overlay -o lowerdir=/etc,upperdir=$PWD/etc,workdir=$PWD/etc.work overlay /etc
    mount -t overlay -o lowerdir=/usr/local/bin,upperdir=$PWD/bin,workdir=$PWD/bin.work overlay /usr/local/bin
    mount --bind lib /var/lib
    cp \"$RUNTIME\" /usr/local/bin/mocker-exec
    [ ! -e /usr/sbin/runc ] || mount --bind /bin/false /usr/sbin/runc
";

impl Node {
    /// A node without daemons.
    pub fn new(name: &'static str) -> Node {
        let lab = Lab::new(name);
        lab.shell(&format!("set -e; {OWN_FILES}")).arg(name).env("RUNTIME", runtime()).run().succeeds();
        Node { name, lab, daemons: Vec::new() }
    }

    /// Writes a file as docs/cluster.md has it.
    pub fn install(&self, path: &str) {
        self.write(path, &guide::file(path));
    }

    pub fn write(&self, path: &str, text: &str) {
        self.lab.shell("mkdir -p \"${0%/*}\" && cat > \"$0\"").arg(path).stdin(text).run().succeeds();
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.lab.sh(script)
    }

    /// What a command prints, in lines. It must succeed.
    #[track_caller]
    pub fn lines(&self, script: &str) -> Vec<String> {
        self.sh(script).succeeds().stdout.lines().map(str::to_string).collect()
    }

    /// Starts a daemon, and waits until the command `answers` succeeds. Its log is in the lab's work directory.
    pub fn start(&mut self, name: &'static str, options: &str, answers: &str) {
        require(name);
        let line = format!("exec {name} {options} >>{name}.log 2>&1");
        let process = self.lab.shell(&line).timeout(Duration::from_secs(600)).spawn();
        self.daemons.push(Daemon { name, process });
        self.until(&format!("{name} answers"), || self.sh(answers).code() == 0);
    }

    /// Asks the daemons to end, the last one first, and waits for it.
    pub fn stop(&mut self) {
        while let Some(daemon) = self.daemons.pop() {
            self.lab.sh(&format!("kill $(pidof {})", daemon.name));
            daemon.process.wait();
        }
    }

    /// Kills the daemons with all that serves a container (containerd, its shims) and nothing else, as a crash does. The
    /// shims come last: a containerd that saw one die would clean up after it.
    pub fn kill(&mut self) {
        self.sh("for name in dockerd containerd containerd-shim-runc-v2; do
                for process in /proc/[0-9]*; do
                    case $(readlink $process/exe) in */$name) kill -9 ${process#/proc/} ;; esac
                done
            done 2>/dev/null
            rm -f /run/docker.pid");
        self.daemons.drain(..).for_each(|daemon| drop(daemon.process.wait()));
    }

    /// Waits until it is so; if it never is, ends the test.
    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            if Instant::now() > deadline {
                panic!("it does not come to pass that {what}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until there is no process, mount, group or network namespace that was not there before.
    #[track_caller]
    pub fn nothing_is_left(&self, before: &Snapshot) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = self.lab.snapshot();
            let new = |subject| {
                let before = before.about(subject);
                now.about(subject).into_iter().filter(move |line| !before.contains(line) && !is_the_engines(line))
            };
            let left: Vec<&str> = ["process", "mount", "cgroup", "netns"].into_iter().flat_map(new).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left on {}:\n{}", self.name, left.join("\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The engines leave the groups that their containers were in, and a dockerd that was killed the networks it had made. No
/// runtime may remove those: they are not its own.
fn is_the_engines(line: &str) -> bool {
    line.starts_with("/sys/fs/cgroup/")
        && ["/default", "/docker", "/kubepods", "/kubepods/burstable"].iter().any(|group| line.ends_with(group))
        || line.starts_with("/run/docker/netns/")
}

impl Drop for Node {
    /// A test that fails shows the ends of the daemons' logs.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemons' logs\n{}", self.sh("tail -n 40 *.log").stdout);
        }
    }
}

/// What is installed as mocker-exec.
fn runtime() -> PathBuf {
    std::env::var_os("MOCKER_CLUSTER_RUNTIME").map_or_else(|| binaries().join("mocker-exec"), PathBuf::from)
}

/// Joins two nodes by a cable: 10.77.0.1 on the first, 10.77.0.2 on the second.
pub fn connect(first: &Node, second: &Node) {
    let namespace = |node: &Node| node.lab.pid().to_string();
    let status = Command::new("ip")
        .args(["link", "add", "cable", "netns", &namespace(first), "type", "veth"])
        .args(["peer", "name", "cable", "netns", &namespace(second)])
        .status()
        .expect("ip starts");
    assert!(status.success(), "a link between the nodes");
    for (node, address) in [(first, "10.77.0.1/24"), (second, "10.77.0.2/24")] {
        node.sh(&format!("ip address add {address} dev cable && ip link set cable up")).succeeds();
    }
}
