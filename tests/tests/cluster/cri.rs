//! Pods on containerd, with mocker-exec as the handler of a RuntimeClass.

use crate::containerd::Containerd;
use crate::guide::{self, BINARY};
use crate::kubelet::{Kubelet, Pod, parent_group};
use crate::messages::*;

/// Where containerd's shims keep the runtime's state.
const STATE: &str = "/run/containerd/runc/k8s.io";

#[test]
fn a_pod_with_two_containers_lives_as_kubelet_asks() {
    let host = Containerd::start("cri");
    let kubelet = Kubelet::new(&host);
    assert_eq!(kubelet.version().runtime_name, "containerd");
    for condition in kubelet.conditions() {
        assert!(condition.status, "{condition:?}");
    }
    let image = host.image("busybox");
    kubelet.ensure_image(&image);
    let before = host.node.lab.snapshot();

    let sandbox = kubelet
        .run_sandbox(&Pod {
            name: "web",
            namespaces: namespaces(NamespaceMode::Pod, NamespaceMode::Container),
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start", "0")],
        })
        .expect("RunPodSandbox");
    let status = kubelet.sandbox_status(&sandbox);
    assert_eq!((status.state, status.runtime_handler.as_str()), (0, "mocker"));
    let address = status.network.expect("a network").ip;
    assert!(address.starts_with("10.88.0."), "{address}");

    host.node.write("/var/lib/kubelet/hosts", "127.0.0.1 localhost\n10.88.0.1 gateway\n");
    host.node.write("/var/lib/kubelet/termination-log", "");
    let server = kubelet.create(&sandbox, server(&image));
    let client = kubelet.create(&sandbox, client(&image));
    assert_eq!(kubelet.status(&server).state(), ContainerState::Created);
    kubelet.start(&server).expect("StartContainer");
    kubelet.start(&client).expect("StartContainer");
    let running = |name: &str| (name.to_string(), ContainerState::Running);
    assert_eq!(kubelet.containers(), [running("client"), running("server")]);
    ours_run(&host, &[&sandbox.id, &server, &client]);

    // One network, name and IPC for the pod; processes and files of its own for each container.
    assert_eq!(kubelet.sh(&client, "nc -w 5 127.0.0.1 80 </dev/null"), "hello from web");
    assert_eq!(host.node.lines(&format!("busybox nc -w 5 {address} 80 </dev/null")), ["hello from web"]);
    assert_eq!(
        kubelet.sh(&client, "hostname; ip -4 -o address show eth0 | awk '{print $4}'"),
        format!("web\n{address}/24")
    );
    assert_eq!(kubelet.sh(&client, "cat /etc/hosts | tail -n 1"), "10.88.0.1 gateway");
    assert!(kubelet.sh(&client, "cat /etc/resolv.conf").contains("10.96.0.10"));
    assert_eq!(kubelet.sh(&server, "cat /proc/1/comm"), "sh");
    let links = |id: &str| kubelet.sh(id, "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done");
    let (one, other) = (links(&server), links(&client));
    let shared: Vec<bool> = one.lines().zip(other.lines()).map(|(one, other)| one == other).collect();
    assert_eq!(shared, [true, true, true, false, false]);

    // Who it is and what it may: as kubelet wrote it.
    // (The image's own groups of user 1000 are added, as Kubernetes has it.)
    assert_eq!(kubelet.sh(&client, "id -u; id -g; id -G"), "1000\n1000\n1000 29 50 2000");
    let own = kubelet.sh(&client, "grep -E '^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '");
    assert_eq!(own, "CapEff: 0000000000000000\nCapBnd: 0000000000000400\nNoNewPrivs: 1\nSeccomp: 2");
    assert_ne!(kubelet.exec(&client, &["touch", "/file"], 5).expect("ExecSync").exit_code, 0, "the root is read-only");
    assert_eq!(kubelet.sh(&client, "cat /proc/keys | wc -l; cat /proc/1/oom_score_adj"), "0\n999");

    // Probes: output, errors and status come back; one that takes too long is ended.
    let probe = kubelet.exec(&server, &["sh", "-c", "echo out; echo err >&2; exit 7"], 5).expect("ExecSync");
    assert_eq!((probe.stdout, probe.stderr, probe.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 7));
    let missing = kubelet.exec(&server, &["/no/such"], 5).expect_err("there is no such program");
    assert!(missing.0.contains("no such file or directory"), "{missing:?}");
    let slow = kubelet.exec(&server, &["sleep", "60"], 1).expect_err("it takes too long");
    assert!(slow.0.contains("timeout"), "{slow:?}");
    assert!(!kubelet.sh(&server, "ps").contains("sleep 60"));

    let stats = kubelet.stats(&server);
    assert!(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).is_some_and(|usage| usage.value > 0));
    assert!(stats.memory.and_then(|memory| memory.usage_bytes).is_some_and(|usage| usage.value > 0));

    let limit = |id: &str, controller: &str, file: &str| {
        let group = format!("/sys/fs/cgroup/{controller}{}/{id}", parent_group("web"));
        host.node.lines(&format!("cat {group}/{file}")).remove(0)
    };
    assert_eq!(limit(&server, "memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    let resources =
        LinuxContainerResources { memory_limit_in_bytes: 96 << 20, cpu_quota: 50_000, cpu_period: 100_000, ..limits() };
    kubelet.update(&server, resources).expect("UpdateContainerResources");
    assert_eq!(limit(&server, "memory", "memory.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!(limit(&server, "cpu", "cpu.cfs_quota_us"), "50000");

    // The log: time, stream, F for a full line, the line.
    kubelet.stop(&server, 10);
    let log = sandbox.log(&kubelet, "server/0.log");
    let fields: Vec<Vec<&str>> = log.iter().map(|line| line.splitn(4, ' ').collect()).collect();
    assert!(fields.iter().all(|fields| fields[0].contains('T') && fields[0].len() >= 20), "{log:?}");
    let mut said: Vec<&[&str]> = fields.iter().map(|fields| &fields[1..]).collect();
    said.sort();
    assert_eq!(said, [&["stderr", "F", "a warning"][..], &["stdout", "F", "bye"], &["stdout", "F", "serving: 42"]]);
    let status = kubelet.status(&server);
    assert_eq!((status.state(), status.exit_code, status.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    assert!(status.finished_at > status.started_at);
    kubelet.stop(&server, 10); // kubelet may ask twice

    kubelet.remove(&server);
    kubelet.stop(&client, 0);
    assert_eq!(kubelet.status(&client).exit_code, 137);
    kubelet.remove(&client);
    kubelet.end(sandbox);
    nothing_is_left(&host, &kubelet, &before);
}

#[test]
fn a_pod_on_the_nodes_network_shares_its_processes_and_is_ended_with_its_containers() {
    let host = Containerd::start("cri-node");
    let kubelet = Kubelet::new(&host);
    let image = host.image("busybox");
    kubelet.ensure_image(&image);
    let before = host.node.lab.snapshot();

    let pod = Pod { name: "agent", namespaces: namespaces(NamespaceMode::Node, NamespaceMode::Pod), sysctls: vec![] };
    let sandbox = kubelet.run_sandbox(&pod).expect("RunPodSandbox");
    let container = |name: &str, command: &[&str]| {
        let mut config = container(name, &image, command);
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(pod.namespaces);
        kubelet.create(&sandbox, config)
    };
    let agent = container("agent", &["sleep", "1000"]);
    let other = container("other", &["sleep", "2000"]);
    for id in [&agent, &other] {
        kubelet.start(id).expect("StartContainer");
    }
    ours_run(&host, &[&sandbox.id, &agent, &other]);
    assert_eq!(kubelet.sh(&agent, "readlink /proc/self/ns/net"), host.node.lines("readlink /proc/self/ns/net")[0]);
    // What the guide says to look with.
    let pull =
        format!("ctr images pull --plain-http {image} && ctr images tag {image} docker.io/library/busybox:latest");
    host.node.sh(&pull).succeeds();
    let said = guide::run_blocks(&host.node, "containerd");
    assert!(said.contains(&agent) && said.ends_with("it runs\n"), "{said}");
    let processes = kubelet.sh(&agent, "ps -o args | grep '^sleep' | sort");
    assert_eq!(processes, "sleep 1000\nsleep 100000\nsleep 2000"); // the second is the sandbox's own, process 1

    // A program that is not there: the pod's owner is told which.
    let broken = container("broken", &["/no/such"]);
    let refusal = kubelet.start(&broken).expect_err("there is no such program");
    assert!(refusal.0.contains("/no/such") && refusal.0.contains("no such file"), "{refusal:?}");
    let status = kubelet.status(&broken);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{}", status.message);

    // One that takes too much memory: the kernel kills it, and kubelet learns why it ended.
    let greedy = container("greedy", &["sh", "-c", "tail /dev/zero"]);
    kubelet.start(&greedy).expect("StartContainer");
    host.node.until("the greedy container ends", || kubelet.status(&greedy).state() == ContainerState::Exited);
    let status = kubelet.status(&greedy);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    kubelet.end(sandbox);
    nothing_is_left(&host, &kubelet, &before);
}

/// Ends the test unless the runtime says of each that it runs: containerd has it from nobody else, the node has no runc.
#[track_caller]
fn ours_run(host: &Containerd, ids: &[&str]) {
    for id in ids {
        let state = host.node.sh(&format!("{BINARY} --root {STATE} state {id}")).succeeds().json();
        assert_eq!((state["id"].as_str(), state["status"].as_str()), (Some(*id), Some("running")));
    }
}

#[track_caller]
fn nothing_is_left(host: &Containerd, kubelet: &Kubelet, before: &tests::Snapshot) {
    assert_eq!((kubelet.containers(), kubelet.sandboxes()), (vec![], 0));
    assert_eq!(host.node.lines(&format!("ls {STATE}")), [""; 0]);
    host.node.nothing_is_left(before);
}

fn namespaces(network: NamespaceMode, pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption { network: network as i32, pid: pid as i32, ipc: NamespaceMode::Pod as i32 }
}

fn limits() -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: 256,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 999,
        ..Default::default()
    }
}

/// What kubelet sends for a container that asks for nothing particular.
fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image.into() }),
        command: command.iter().map(|word| word.to_string()).collect(),
        log_path: format!("{name}/0.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(limits()),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                masked_paths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"].map(String::from).into(),
                readonly_paths: ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"].map(String::from).into(),
                seccomp: Some(SecurityProfile { profile_type: 0 }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Root, with the runtime's default capabilities. It says something on both streams, serves, and ends on TERM with a status.
fn server(image: &str) -> ContainerConfig {
    let script = "trap 'echo bye; kill $!; exit 3' TERM
        echo serving: $ANSWER; echo a warning >&2
        nc -ll -p 80 -e echo hello from $(hostname) & wait";
    let mut config = container("server", image, &["sh", "-c"]);
    config.args = vec![script.into()];
    config.envs = vec![KeyValue { key: "ANSWER".into(), value: "42".into() }];
    config
}

/// As careful as a pod can be: a user and a group of its own, one capability left, nothing to be gained, a root that is
/// read-only; and the files that kubelet mounts into every container.
fn client(image: &str) -> ContainerConfig {
    let mut config = container("client", image, &["sleep", "1000"]);
    let file = |container_path: &str, name: &str| Mount {
        container_path: container_path.into(),
        host_path: format!("/var/lib/kubelet/{name}"),
        readonly: false,
    };
    config.mounts = vec![file("/etc/hosts", "hosts"), file("/dev/termination-log", "termination-log")];
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.run_as_user = Some(Int64Value { value: 1000 });
    context.supplemental_groups = vec![2000];
    context.capabilities =
        Some(Capability { add_capabilities: vec!["NET_BIND_SERVICE".into()], drop_capabilities: vec!["ALL".into()] });
    context.readonly_rootfs = true;
    context.no_new_privs = true;
    config
}
