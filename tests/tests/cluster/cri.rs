//! Pods on containerd, with mocker-exec as the handler of a RuntimeClass.

use crate::containerd::Containerd;
use crate::guide::{self, BINARY};
use crate::kubelet::{Kubelet, Pod, Sandbox, parent_group};
use crate::messages::*;

/// Where containerd's shims keep the runtime's state.
const STATE: &str = "/run/containerd/runc/k8s.io";

#[test]
fn a_pod_with_two_containers_lives_as_kubelet_asks() {
    let host = Containerd::start("cri");
    let kubelet = Kubelet::new(&host);
    assert_eq!(kubelet.version().expect("Version").runtime_name, "containerd");
    for condition in kubelet.conditions() {
        assert!(condition.status, "{condition:?}");
    }
    let image = host.image("busybox");
    kubelet.ensure_image(&image);
    let before = host.node.lab.snapshot();

    let pod = Pod { sysctls: vec![("net.ipv4.ip_unprivileged_port_start", "0")], ..pod("web") };
    let sandbox = kubelet.run_sandbox(&pod).expect("RunPodSandbox");
    let status = kubelet.sandbox_status(&sandbox);
    assert_eq!((status.state, status.runtime_handler.as_str()), (0, "mocker"));

    host.node.write("/var/lib/kubelet/hosts", "127.0.0.1 localhost\n10.88.0.1 gateway\n");
    host.node.write("/var/lib/kubelet/termination-log", "");
    let server = kubelet.create(&sandbox, server(&image));
    let client = kubelet.create(&sandbox, client(&image));
    assert_eq!(kubelet.status(&server).state(), ContainerState::Created);
    for id in [&server, &client] {
        kubelet.start(id).expect("StartContainer");
    }
    let running = |name: &str| (name.to_string(), ContainerState::Running);
    assert_eq!(kubelet.containers(), [running("client"), running("server")]);
    ours_run(&host, &[&sandbox.id, &server, &client]);

    the_pod_is_one_machine(&kubelet, &status.network.expect("a network").ip, &server, &client);
    the_client_is_what_kubelet_wrote(&kubelet, &client);
    probes_are_answered(&kubelet, &server);
    the_limits_can_be_read_and_changed(&kubelet, &server);
    the_server_ends_on_term(&kubelet, &sandbox, &server);

    kubelet.stop(&server, 10); // kubelet may ask twice
    kubelet.remove(&server);
    kubelet.stop(&client, 0);
    assert_eq!(kubelet.status(&client).exit_code, 137);
    kubelet.remove(&client);
    kubelet.end(sandbox);
    nothing_is_left(&host, &kubelet, &before);
}

/// One network, name and IPC for the pod; processes and files of its own for each container.
fn the_pod_is_one_machine(kubelet: &Kubelet, address: &str, server: &str, client: &str) {
    assert!(address.starts_with("10.88.0."), "{address}");
    assert_eq!(kubelet.sh(client, "nc -w 5 127.0.0.1 80 </dev/null"), "hello from web");
    assert_eq!(kubelet.host.node.lines(&format!("busybox nc -w 5 {address} 80 </dev/null")), ["hello from web"]);
    let own = kubelet.sh(client, "hostname; ip -4 -o address show eth0 | awk '{print $4}'");
    assert_eq!(own, format!("web\n{address}/24"));
    assert_eq!(kubelet.sh(client, "tail -n 1 /etc/hosts"), "10.88.0.1 gateway");
    assert!(kubelet.sh(client, "cat /etc/resolv.conf").contains("10.96.0.10"));
    assert_eq!(kubelet.sh(server, "cat /proc/1/comm; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "sh\n0");
    let links = |id| kubelet.sh(id, "for kind in net ipc uts pid mnt; do readlink /proc/self/ns/$kind; done");
    let (one, other) = (links(server), links(client));
    let shared: Vec<bool> = one.lines().zip(other.lines()).map(|(one, other)| one == other).collect();
    assert_eq!(shared, [true, true, true, false, false]);
}

/// Who it is and what it may.
fn the_client_is_what_kubelet_wrote(kubelet: &Kubelet, client: &str) {
    // (The image's own groups of user 1000 are added, as Kubernetes has it.)
    assert_eq!(kubelet.sh(client, "id -u; id -g; id -G"), "1000\n1000\n1000 29 50 2000");
    let rights = "grep -E '^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '";
    let expected = "CapEff: 0000000000000000\nCapBnd: 0000000000000400\nNoNewPrivs: 1\nSeccomp: 2";
    assert_eq!(kubelet.sh(client, rights), expected);
    assert_ne!(kubelet.exec(client, &["touch", "/file"], 5).expect("ExecSync").exit_code, 0, "the root is read-only");
    assert_eq!(kubelet.sh(client, "wc -c </proc/keys; cat /proc/1/oom_score_adj"), "0\n999");
}

/// Output, errors and status come back; a probe that takes too long is ended.
fn probes_are_answered(kubelet: &Kubelet, server: &str) {
    let probe = kubelet.exec(server, &["sh", "-c", "echo out; echo err >&2; exit 7"], 5).expect("ExecSync");
    assert_eq!((probe.stdout, probe.stderr, probe.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 7));
    let missing = kubelet.exec(server, &["/no/such"], 5).expect_err("there is no such program");
    assert!(missing.0.contains("no such file or directory"), "{missing:?}");
    let slow = kubelet.exec(server, &["sleep", "60"], 1).expect_err("it takes too long");
    assert!(slow.0.contains("timeout"), "{slow:?}");
    assert!(!kubelet.sh(server, "ps").contains("sleep 60"));
}

fn the_limits_can_be_read_and_changed(kubelet: &Kubelet, server: &str) {
    let stats = kubelet.stats(server);
    assert!(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).is_some_and(|usage| usage.value > 0));
    assert!(stats.memory.and_then(|memory| memory.usage_bytes).is_some_and(|usage| usage.value > 0));

    let limit = |controller: &str, file: &str| {
        let group = format!("/sys/fs/cgroup/{controller}{}/{server}", parent_group("web"));
        kubelet.host.node.lines(&format!("cat {group}/{file}")).remove(0)
    };
    assert_eq!(limit("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    let more =
        LinuxContainerResources { memory_limit_in_bytes: 96 << 20, cpu_quota: 50_000, cpu_period: 100_000, ..limits() };
    kubelet.update(server, more).expect("UpdateContainerResources");
    assert_eq!(limit("memory", "memory.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!(limit("cpu", "cpu.cfs_quota_us"), "50000");
}

/// It says goodbye and gives its own status. Each line of its log is: time, stream, F for a full line, the line.
fn the_server_ends_on_term(kubelet: &Kubelet, sandbox: &Sandbox, server: &str) {
    kubelet.stop(server, 10);
    let log = sandbox.log(kubelet, "server/0.log");
    let fields: Vec<Vec<&str>> = log.iter().map(|line| line.splitn(4, ' ').collect()).collect();
    assert!(fields.iter().all(|fields| fields[0].contains('T') && fields[0].len() >= 20), "{log:?}");
    let mut said: Vec<&[&str]> = fields.iter().map(|fields| &fields[1..]).collect();
    said.sort();
    assert_eq!(said, [&["stderr", "F", "a warning"][..], &["stdout", "F", "bye"], &["stdout", "F", "serving: 42"]]);
    let status = kubelet.status(server);
    assert_eq!((status.state(), status.exit_code, status.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    assert!(status.finished_at > status.started_at);
}

#[test]
fn a_pod_on_the_nodes_network_shares_its_processes_and_outlives_containerd() {
    let mut host = Containerd::start("cri-node");
    let image = host.image("busybox");
    let kubelet = Kubelet::new(&host);
    kubelet.ensure_image(&image);
    let before = host.node.lab.snapshot();

    let pod = Pod { namespaces: namespaces(NamespaceMode::Node, NamespaceMode::Pod), ..pod("agent") };
    let sandbox = kubelet.run_sandbox(&pod).expect("RunPodSandbox");
    let [agent, other] = [("agent", "1000"), ("other", "2000")].map(|(name, time)| {
        let mut config = container(name, &image, &["sleep", time]);
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(pod.namespaces);
        let id = kubelet.create(&sandbox, config);
        kubelet.start(&id).expect("StartContainer");
        id
    });
    ours_run(&host, &[&sandbox.id, &agent, &other]);
    assert_eq!(kubelet.sh(&agent, "readlink /proc/self/ns/net"), host.node.lines("readlink /proc/self/ns/net")[0]);
    let processes = kubelet.sh(&agent, "ps -o args | grep '^sleep' | sort");
    assert_eq!(processes, "sleep 1000\nsleep 100000\nsleep 2000"); // the second is the sandbox's own, process 1

    // What the guide says to look with.
    let pull =
        format!("ctr images pull --plain-http {image} && ctr images tag {image} docker.io/library/busybox:latest");
    host.node.sh(&pull).succeeds();
    let said = guide::run_blocks(&host.node, "containerd");
    assert!(said.contains(&agent) && said.ends_with("it runs\n"), "{said}");

    // As after new settings. The shims have kept the containers, and the new containerd finds them.
    host.restart();
    let kubelet = Kubelet::new(&host);
    assert_eq!(kubelet.sh(&other, "ps -o args | grep '^sleep' | sort"), processes);

    // The sandbox takes its containers along.
    kubelet.end(sandbox);
    nothing_is_left(&host, &kubelet, &before);
}

#[test]
fn what_goes_wrong_in_a_pod_is_told() {
    let host = Containerd::start("cri-wrong");
    let kubelet = Kubelet::new(&host);
    let image = host.image("busybox");
    kubelet.ensure_image(&image);
    let before = host.node.lab.snapshot();

    let unknown = Pod { handler: "nobody".into(), ..pod("wrong") };
    let refusal = kubelet.run_sandbox(&unknown).err().expect("the node has no such handler");
    assert!(refusal.0.contains("no runtime for \"nobody\" is configured"), "{refusal:?}");

    let sandbox = kubelet.run_sandbox(&pod("wrong")).expect("RunPodSandbox");
    let started = |config: ContainerConfig| {
        let id = kubelet.create(&sandbox, config);
        (id.clone(), kubelet.start(&id))
    };
    let ended = |id: &str| {
        host.node.until("the container ends", || kubelet.status(id).state() == ContainerState::Exited);
        let status = kubelet.status(id);
        (status.exit_code, status.reason)
    };

    // A program that is not there: the pod's owner is told which.
    let (broken, outcome) = started(container("broken", &image, &["/no/such"]));
    let refusal = outcome.expect_err("there is no such program");
    assert!(refusal.0.contains("/no/such") && refusal.0.contains("no such file"), "{refusal:?}");
    assert_eq!(ended(&broken), (128, "StartError".into()));

    // One that takes too much memory: the kernel kills it, and kubelet learns why it ended.
    let (greedy, outcome) = started(container("greedy", &image, &["tail", "/dev/zero"]));
    outcome.expect("StartContainer");
    assert_eq!(ended(&greedy), (137, "OOMKilled".into()));

    // One that fails, and one that has a terminal.
    let (failing, outcome) = started(container("failing", &image, &["sh", "-c", "exit 9"]));
    outcome.expect("StartContainer");
    assert_eq!(ended(&failing), (9, "Error".into()));
    let at_terminal = ContainerConfig { tty: true, ..container("terminal", &image, &["sh", "-c", "tty; test -t 2"]) };
    let (terminal, outcome) = started(at_terminal);
    outcome.expect("StartContainer");
    assert_eq!(ended(&terminal), (0, "Completed".into()));
    assert!(sandbox.log(&kubelet, "terminal/0.log")[0].contains("stdout F /dev/pts/0"));

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

/// A pod of the guide's RuntimeClass, which asks for nothing particular.
fn pod(name: &'static str) -> Pod {
    let handler = guide::yaml_value(&guide::file("runtimeclass.yaml"), "handler").expect("a handler");
    Pod { name, handler, namespaces: namespaces(NamespaceMode::Pod, NamespaceMode::Container), sysctls: vec![] }
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
