//! A bundle with busybox, changed by jq and run by mocker-exec and by runc.

use tests::{Lab, Output, require};

/// A lab with a bundle in `bundle`, and the configuration of `runc spec` in `base.json`.
pub fn lab(name: &str) -> Lab {
    for program in ["runc", "busybox", "jq"] {
        require(program);
    }
    let lab = Lab::new(name);
    lab.sh("mkdir -p bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/dev bundle/rootfs/sys bundle/rootfs/tmp
            cp $(command -v busybox) bundle/rootfs/bin/
            for name in $(busybox --list | grep -vx busybox); do ln -sf busybox bundle/rootfs/bin/$name; done
            runc spec && jq '.process.terminal = false' config.json > base.json && rm config.json")
        .succeeds();
    lab
}

/// Writes the bundle's configuration: the base with a piece of shell as its program and a jq filter over it.
pub fn configure(lab: &Lab, filter: &str, script: &str) {
    std::fs::write(lab.work().join("bundle/rootfs/script"), script).unwrap();
    let filter = format!(".process.args = [\"sh\", \"/script\"] | {filter}");
    lab.program("jq").args([&filter, "base.json"]).run().succeeds().save(lab);
}

trait Save {
    fn save(&self, lab: &Lab);
}

impl Save for Output {
    fn save(&self, lab: &Lab) {
        std::fs::write(lab.work().join("bundle/config.json"), &self.bytes).unwrap();
    }
}

pub fn run(lab: &Lab, filter: &str, script: &str) -> Output {
    configure(lab, filter, script);
    lab.sh("mocker-exec run --bundle bundle one")
}

/// Runs it by mocker-exec and by runc, which must end and print the same. Returns what mocker-exec did.
#[track_caller]
pub fn same_as_runc(lab: &Lab, filter: &str, script: &str) -> Output {
    let ours = run(lab, filter, script);
    let theirs = lab.sh("runc --root $HOME/state run --bundle bundle one");
    assert_eq!((ours.code(), &ours.stdout), (theirs.code(), &theirs.stdout), "{filter}\n{ours}\n{theirs}");
    ours
}
