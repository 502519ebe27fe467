//! Finds the tools under test and the programs of others that they are compared with. What is missing ends the test, with
//! the command that brings it: nothing is skipped in silence.

use std::env;
use std::path::{Path, PathBuf};

/// The project's own directory.
pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The directory of the tools: `$MOCKER_BIN_DIR`, else the one that this test's own binary was built into.
pub fn binaries() -> PathBuf {
    if let Some(given) = env::var_os("MOCKER_BIN_DIR") {
        return PathBuf::from(given);
    }
    let own = env::current_exe().expect("this test's own path");
    // target/debug/deps/net-0123456789abcdef
    own.ancestors().nth(2).expect("a test binary lies in target/PROFILE/deps").to_path_buf()
}

/// The path of one of the tools, or of the wrapper `mocker`.
pub fn tool(name: &str) -> PathBuf {
    let path = match name {
        "mocker" => project().join("scripts/mocker"),
        _ => binaries().join(name),
    };
    assert!(
        path.is_file(),
        "{} is not there. Build it: cargo build --workspace (or scripts/test, which does it all)",
        path.display()
    );
    path
}

/// Debian's package for a program that the tests need, where it has another name.
const PACKAGES: [(&str, &str); 13] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("findmnt", "util-linux"),
    ("flock", "util-linux"),
    ("script", "bsdutils"),
    ("busybox", "busybox-static"),
    ("umoci", "umoci"),
    ("dockerd", "docker.io"),
    ("ctr", "containerd"),
    ("setcap", "libcap2-bin"),
    ("setfattr", "attr"),
];

/// Ends the test unless the program is there, naming the package that has it.
pub fn require(program: &str) {
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    if path.split(':').any(|directory| Path::new(directory).join(program).is_file()) {
        return;
    }
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    panic!("{program} is not there. Install it: apt-get install {package} (or run scripts/test, which does it all)");
}
