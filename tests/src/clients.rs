//! Other people's clients in a lab: podman and buildah with a store of their own, docker's daemon, containerd. Each is on the
//! lab's PATH afterwards under its own name, and runs containers with `$RUNTIME`, the path of a runtime.
//!
//! Changed is what a bare machine without systemd needs, and nothing else: groups by files, limits that root may set without
//! CAP_SYS_RESOURCE, state below `$HOME`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::command::Running;
use crate::lab::Lab;
use crate::programs::require;

const CONTAINERS_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
init_path = "/usr/bin/docker-init"
runtime_supports_json = ["runc", "mocker-exec"]
"#;

/// The path of --runroot may have 50 characters.
const PLACE: &str = "--root $HOME/podman/root --runroot /run/podman --storage-driver overlay";

/// Readies podman and buildah. `$CONTAINERS_CONF` is theirs to read, if it is set.
pub fn podman(lab: &Lab) {
    ["podman", "buildah", "conmon"].into_iter().for_each(require);
    fs::write(lab.work().join("containers.conf"), CONTAINERS_CONF).expect("the lab's directory");
    // What they know of blobs they keep in the machine's own directory, whatever --root says.
    lab.sh("mkdir -p cache /var/lib/containers && mount --bind cache /var/lib/containers").succeeds();
    wrap(
        lab,
        "podman",
        &format!(
            "export CONTAINERS_CONF=${{CONTAINERS_CONF:-$HOME/containers.conf}}
             exec /usr/bin/podman {PLACE} --tmpdir $HOME/podman/tmp --network-config-dir $HOME/podman/networks \\
                 --runtime $RUNTIME \"$@\""
        ),
    );
    wrap(
        lab,
        "buildah",
        &format!(
            "export CONTAINERS_CONF=${{CONTAINERS_CONF:-$HOME/containers.conf}}
             command=$1; shift
             case $command in run | bud | build) set -- --runtime $RUNTIME \"$@\" ;; esac
             exec /usr/bin/buildah {PLACE} $command \"$@\""
        ),
    );
}

/// Starts docker's daemon with `flags`, which knows `runtime` by its file's name. Its containers have a bridge of their own.
pub fn docker(lab: &Lab, runtime: &Path, flags: &str) -> Running {
    ["dockerd", "docker", "containerd"].into_iter().for_each(require);
    let configuration = serde_json::json!({
        "default-ulimits": { "nofile": { "Name": "nofile", "Soft": 1024, "Hard": 1024 } },
        "runtimes": { runtime.file_name().expect("a program").to_string_lossy(): { "path": runtime } },
    });
    fs::write(lab.work().join("daemon.json"), configuration.to_string()).expect("the lab's directory");
    wrap(
        lab,
        "docker",
        "export DOCKER_HOST=unix://$HOME/docker/socket DOCKER_CONFIG=$HOME/docker/client
         command=$1; shift
         case $command in run | create) set -- --runtime ${RUNTIME##*/} \"$@\" ;; esac
         exec /usr/bin/env PATH=${PATH#*:} docker $command \"$@\"",
    );
    // Without an address of IPv6, which comes a second later than the bridge.
    let script = format!(
        "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; mkdir -p docker
         exec dockerd --config-file $HOME/daemon.json --data-root $HOME/docker/data --exec-root $HOME/docker/exec \
             --pidfile $HOME/docker/pid -H unix://$HOME/docker/socket --iptables=false --ip6tables=false \
             --bip 172.31.0.1/24 {flags}"
    );
    daemon(lab, &script, "API listen on")
}

/// Starts containerd, for `ctr`.
pub fn containerd(lab: &Lab) -> Running {
    ["containerd", "ctr"].into_iter().for_each(require);
    let place = lab.work().join("containerd");
    fs::create_dir(&place).expect("the lab's directory");
    let place = place.display();
    let configuration = format!(
        "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{place}/socket\"\n"
    );
    fs::write(lab.work().join("containerd/config.toml"), configuration).expect("the lab's directory");
    wrap(
        lab,
        "ctr",
        "export CONTAINERD_ADDRESS=$HOME/containerd/socket
         command=$1; shift
         case $command in run) set -- --runc-binary $RUNTIME \"$@\" ;; esac
         exec /usr/bin/ctr $command \"$@\"",
    );
    daemon(lab, "exec containerd -c containerd/config.toml", "containerd successfully booted")
}

/// Puts a script before the program of that name on the lab's PATH.
fn wrap(lab: &Lab, name: &str, script: &str) {
    let path = lab.work().with_file_name("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the lab's directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its own file");
}

fn daemon(lab: &Lab, script: &str, ready: &str) -> Running {
    let mut daemon = lab.shell(script).timeout(Duration::from_secs(300)).spawn();
    daemon.wait_for(ready);
    daemon
}
