//! An OCI runtime in a lab: bundles for it, and its commands.
//!
//! It is mocker-exec, or with `$MOCKER_TEST_RUNTIME` another one, so that a test can be tried on runc.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{Output, Run};
use crate::lab::Lab;

/// A runtime with a state root of its own, `$HOME/root`, and one root file system, `$HOME/rootfs`, for all bundles.
pub struct Runtime {
    pub lab: Lab,
    program: String,
}

impl Runtime {
    /// A lab with a runtime in it, and busybox to be run.
    pub fn new(name: &str) -> Runtime {
        let lab = Lab::new(name);
        lab.sh("mkdir -p rootfs/bin rootfs/etc rootfs/tmp rootfs/proc rootfs/dev rootfs/sys && cp $(command -v busybox) rootfs/bin/
            for name in $(busybox --list | grep -vx busybox); do ln -sf busybox rootfs/bin/$name; done
            printf 'root:x:0:0:root:/root:/bin/sh\\n' > rootfs/etc/passwd")
            .succeeds();
        Runtime { lab, program: std::env::var("MOCKER_TEST_RUNTIME").unwrap_or_else(|_| "mocker-exec".into()) }
    }

    /// A file of the lab's working directory, from outside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.lab.work().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes the bundle `id`: what `runc spec` writes, without a terminal, changed at some JSON pointers. Null removes, a
    /// last `-` appends, what lies on the way is made.
    pub fn bundle(&self, id: &str, changes: &[(&str, Value)]) {
        let mut config = plain();
        config["root"]["path"] = json!(self.path("rootfs"));
        for (pointer, value) in changes {
            change(&mut config, pointer, value.clone());
        }
        fs::create_dir_all(self.path(id)).expect("the lab's directory can be written");
        fs::write(self.path(id).join("config.json"), config.to_string()).expect("the lab's directory can be written");
    }

    /// A bundle whose program is a piece of shell.
    pub fn script(&self, id: &str, script: &str, changes: &[(&str, Value)]) {
        let program = [("/process/args", json!(["/bin/sh", "-c", script]))];
        self.bundle(id, &[&program[..], changes].concat());
    }

    /// The runtime with these arguments, as shell text.
    pub fn line(&self, arguments: &str) -> String {
        format!("{} --root $HOME/root {arguments}", self.program)
    }

    /// One call of the runtime, without stdin. Not for one that leaves a process with our stdout: see `create`.
    pub fn call(&self, arguments: &str) -> Output {
        self.lab.sh(&self.line(arguments))
    }

    /// The same without a shell between, not yet started.
    pub fn process(&self, arguments: &[&str]) -> Run {
        self.lab.program(&self.program).arg("--root").arg(self.path("root")).args(arguments)
    }

    /// Creates the container of the bundle of that name. Its output goes to `ID.out` and `ID.err`.
    pub fn create(&self, id: &str) -> Output {
        self.create_with(id, "")
    }

    pub fn create_with(&self, id: &str, flags: &str) -> Output {
        let create = self.line(&format!("create --bundle {id} --pid-file {id}.pid {flags} {id}"));
        self.lab.sh(&format!("{create} </dev/null >{id}.out 2>{id}.err; status=$?; cat {id}.err >&2; exit $status"))
    }

    pub fn start(&self, id: &str) -> Output {
        self.call(&format!("start {id}"))
    }

    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        self.call(&format!("state {id}")).succeeds().json()
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap_or_default().to_string()
    }

    /// The number of the first process, as the lab has it.
    #[track_caller]
    pub fn pid(&self, id: &str) -> u32 {
        self.state(id)["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// Waits until the container has ended. Returns what it has printed.
    #[track_caller]
    pub fn ended(&self, id: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.status(id) != "stopped" {
            assert!(Instant::now() < deadline, "{id} does not end: {}", self.text(&format!("{id}.out")));
            std::thread::sleep(Duration::from_millis(20));
        }
        self.text(&format!("{id}.out"))
    }

    /// A container's whole life. Returns what it has printed.
    #[track_caller]
    pub fn live(&self, id: &str, script: &str, changes: &[(&str, Value)]) -> String {
        self.script(id, script, changes);
        self.create(id).succeeds();
        self.start(id).succeeds();
        let output = self.ended(id) + &self.text(&format!("{id}.err"));
        self.call(&format!("delete {id}")).succeeds();
        output
    }

    /// Ends the test unless the runtime refuses to create this bundle, and leaves nothing of it. Returns what it says.
    #[track_caller]
    pub fn refuses(&self, id: &str, changes: &[(&str, Value)]) -> Output {
        self.bundle(id, changes);
        let out = self.create(id);
        assert_ne!(out.code(), 0, "{id} was created: {changes:?}");
        assert_ne!(self.call(&format!("state {id}")).code(), 0, "{id} is there though it was refused");
        out
    }

    /// Names of what is in the state root.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("root")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Sets what a JSON pointer points to.
fn change(config: &mut Value, pointer: &str, value: Value) {
    let (way, last) = pointer.rsplit_once('/').expect("a JSON pointer");
    let mut place = config;
    for name in way.split('/').skip(1) {
        place = match name.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[name],
        };
    }
    match (last, value) {
        ("-", value) => match place {
            Value::Array(list) => list.push(value),
            place => *place = json!([value]),
        },
        (name, Value::Null) => drop(place.as_object_mut().and_then(|object| object.remove(name))),
        (name, value) => match name.parse::<usize>() {
            Ok(index) => place[index] = value,
            Err(_) => place[name] = value,
        },
    }
}

/// What `runc spec` writes, without a terminal and with a root that can be written.
fn plain() -> Value {
    let rights = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": rights, "effective": rights, "permitted": rights, "ambient": rights},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "inner",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
