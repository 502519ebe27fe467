//! A machine of its own for one test.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::{Output, Run};
use crate::host::Host;
use crate::programs::{self, binaries, project};
use crate::registry::Registry;
use crate::snapshot::Snapshot;
use crate::terminal::Terminal;

/// A host with a store, a state directory and the tools; see the crate's documentation. Dropping it takes everything down.
pub struct Lab {
    host: Host,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl Lab {
    /// A new lab. Its files are on the disk that $TMPDIR, else /var/tmp, is on.
    pub fn new(name: &str) -> Lab {
        Lab::below(name, &PathBuf::from(std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into())))
    }

    /// A new lab whose files are in `parent`: a small file system that fills up, for instance.
    pub fn below(name: &str, parent: &Path) -> Lab {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mocker-lab-{}-{number}-{name}", std::process::id());
        let directory = parent.join(&name);
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
        let host = Host::start(&name, &directory);
        fs::create_dir(directory.join("work")).expect("its own directory");
        let lab = |place: &str| directory.join(place).display().to_string();
        let environment = vec![
            (
                "PATH".into(),
                format!("{}:{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", lab("bin"), binaries().display()),
            ),
            ("HOME".into(), lab("work")),
            ("LC_ALL".into(), "C".into()),
            ("TERM".into(), "xterm".into()),
            ("MOCKER_ROOT".into(), lab("store")),
            ("MOCKER_RUN".into(), lab("run")),
        ];
        // Beside the tools stands the wrapper, where an installation would have it.
        fs::create_dir(directory.join("bin")).expect("its own directory");
        std::os::unix::fs::symlink(project().join("scripts/mocker"), directory.join("bin/mocker")).expect("a link");
        Lab { host, directory, environment }
    }

    /// The store, $MOCKER_ROOT.
    pub fn root(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// The state directory, $MOCKER_RUN.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The working directory of the lab's commands, empty at first. Files may be put there from outside.
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Where a path of the lab's host (its /run, /sys, mounts) is seen from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.host.pid()))
    }

    /// The lab's first process, by its number outside.
    pub fn pid(&self) -> u32 {
        self.host.pid()
    }

    /// One of the tools, to be run in the lab.
    pub fn tool(&self, name: &str) -> Run {
        self.program(programs::tool(name))
    }

    /// Any program, to be run in the lab.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Run {
        let mut run = Run::new(&self.host.enter, &self.work(), program.as_ref());
        run.command().env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        run
    }

    /// Runs a piece of shell with the tools on its PATH.
    pub fn sh(&self, script: &str) -> Output {
        self.shell(script).run()
    }

    /// The same, not yet started.
    pub fn shell(&self, script: &str) -> Run {
        self.program("sh").arg("-c").arg(script)
    }

    /// Runs commands joined by pipes; the status is the last one's.
    pub fn pipeline(&self, stages: &[&str]) -> Output {
        self.sh(&stages.join(" | "))
    }

    /// Starts the registry with the demo images on the lab's loopback, 127.0.0.1:5000, as `library/NAME:latest`.
    pub fn registry(&self) -> Registry {
        Registry::start(self, 5000)
    }

    /// Pulls demo images, so that they are in the store as if they came from Docker Hub: by their short names.
    pub fn images(&self, names: &[&str]) {
        let registry = self.registry();
        for name in names {
            let reference = registry.reference(name);
            self.sh(&format!(
                "mocker-pull {reference} >/dev/null && mocker-images tag {reference} {name} && mocker-images rm {reference}"
            ))
            .succeeds();
        }
    }

    /// A socket that listens on the lab's loopback, for a server that a test writes itself.
    pub fn listener(&self) -> TcpListener {
        self.listener_at("127.0.0.1:0")
    }

    /// The same at an address of the lab's.
    pub fn listener_at(&self, address: &str) -> TcpListener {
        self.host.in_network(None, || TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    /// Runs `job`, which makes sockets, in a network namespace of the lab that has a name (`ip netns add NAME`).
    pub fn in_network<T: Send>(&self, name: &str, job: impl FnOnce() -> T + Send) -> T {
        self.host.in_network(Some(name), job)
    }

    /// Starts a piece of shell on a terminal of its own, as a person at a keyboard has it.
    pub fn terminal(&self, script: &str, rows: u16, columns: u16) -> Terminal {
        Terminal::start(self.program("setsid").args(["--ctty", "--wait", "sh", "-c", script]), rows, columns)
    }

    /// Connects to an address from the lab's network.
    pub fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        self.host.in_network(None, move || TcpStream::connect(address))
    }

    /// Everything in the lab that a tool might leave behind.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self)
    }

    /// Ends the test if the lab is not as it was. What the kernel takes down a moment later may take that moment.
    #[track_caller]
    pub fn assert_same(&self, before: &Snapshot) {
        before.assert_same(self);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut left = self.host.stop();
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            left.push(format!("{}: {error}", self.directory.display()));
        }
        if !left.is_empty() && !std::thread::panicking() {
            panic!("the lab cannot be taken down: {}", left.join("; "));
        }
    }
}
