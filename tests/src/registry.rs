//! A real registry with the demo images, inside a lab.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::command::Running;
use crate::lab::Lab;
use crate::programs::{project, require};

/// A running registry; ends with the lab, or when dropped.
pub struct Registry {
    address: String,
    /// what it stores: a copy of its own, to be broken at will
    data: PathBuf,
    process: Running,
}

/// What the tests need, made by scripts/demo-images.
pub const IMAGES: [&str; 9] =
    ["hello-world", "busybox", "debian", "nginx", "tool", "layers", "zstd", "docker2", "multi"];

impl Registry {
    /// Starts it on the lab's loopback. Makes the images first if they are not there yet, once for all tests.
    pub(crate) fn start(lab: &Lab, port: u16) -> Registry {
        let address = format!("127.0.0.1:{port}");
        Registry::with_config(lab, &address, &format!("http: {{addr: \"{address}\"}}\n"))
    }

    /// Starts one with other settings: `config` is the end of its configuration file, from `http:` on.
    pub fn with_config(lab: &Lab, address: &str, config: &str) -> Registry {
        require("docker-registry");
        let socket: SocketAddr = address.parse().expect("an address and a port");
        let place = lab.work().with_file_name(format!("registry-{}", socket.port()));
        let data = place.join("data");
        fs::create_dir_all(&place).expect("the lab's directory can be written");
        copy_by_links(&populated(), &data);

        let file = place.join("config.yml");
        let common = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, delete: {{enabled: true}}}}\n",
            data.display()
        );
        fs::write(&file, common + config).expect("the lab's directory can be written");
        let mut process =
            lab.program("docker-registry").arg("serve").arg(&file).timeout(Duration::from_secs(600)).spawn();
        let deadline = Instant::now() + Duration::from_secs(20);
        while lab.connect(socket).is_err() {
            if process.has_ended() || Instant::now() > deadline {
                panic!("docker-registry does not answer: {}", process.output_so_far().1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Registry { address: address.into(), data, process }
    }

    /// `127.0.0.1:5000`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:5000/library/NAME`
    pub fn reference(&self, name: &str) -> String {
        format!("{}/library/{name}", self.address)
    }

    /// The file of a blob, `sha256:…`. Before changing it, replace it: it is a hard link to what all tests share.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        self.data.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Puts other bytes in a blob's place: what a broken or hostile registry would send.
    pub fn corrupt(&self, digest: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.blob(digest);
        let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        change(&mut bytes);
        fs::remove_file(&path).expect("the blob's file");
        fs::write(&path, bytes).expect("the blob's file");
    }

    /// Ends it, as a registry that goes away.
    pub fn stop(self) {
        drop(self);
    }

    /// What it has told on stderr.
    pub fn log(&self) -> String {
        self.process.output_so_far().1
    }
}

/// The storage of a registry that has every demo image, made once and then only read. Returns its directory.
fn populated() -> PathBuf {
    let cache = project().join("target/images");
    fs::create_dir_all(&cache).unwrap_or_else(|error| panic!("cannot make {}: {error}", cache.display()));
    let cache = cache.canonicalize().expect("it was just made");
    let lock = File::create(cache.join(".registry.lock")).expect("the cache can be written");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("a lock");

    // What is there already is not looked at again for each test: scripts/test has checked it.
    let place = cache.join(".registry");
    let indexes = || IMAGES.map(|name| fs::read_to_string(cache.join(name).join("index.json")).unwrap_or_default());
    if fs::read_to_string(place.join("stamp")).ok() != Some(indexes().concat()) {
        script("demo-images", &[&[cache.to_str().expect("a plain path")], &IMAGES[..]].concat());
        fs::remove_dir_all(&place).ok();
        let at = place.to_str().expect("a plain path");
        let address = script("demo-registry", &["start", at]);
        for name in IMAGES {
            let reference = format!("{}/library/{name}", address.trim());
            script("demo-push", &[cache.join(name).to_str().expect("a plain path"), &reference]);
        }
        script("demo-registry", &["stop", at]);
        fs::write(place.join("stamp"), indexes().concat()).expect("the cache can be written");
    }
    place.join("data")
}

pub(crate) fn script(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(project().join("scripts").join(name))
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start scripts/{name}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/{name} {} failed:\n{told}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Copies a tree, its files as hard links where that is possible: nothing is read or written.
fn copy_by_links(from: &Path, to: &Path) {
    let copy = |how: &str| Command::new("cp").args(["--recursive", how]).arg(from).arg(to).status();
    let linked = copy("--link").is_ok_and(|status| status.success());
    if !linked {
        fs::remove_dir_all(to).ok();
        assert!(copy("--reflink=auto").is_ok_and(|status| status.success()), "cannot copy {}", from.display());
    }
}
