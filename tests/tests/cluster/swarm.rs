//! docker swarm: two dockerd on two nodes run a service with mocker-exec as their default runtime.
//!
//! The service's network is an overlay (VXLAN from node to node), and its name resolves to its tasks (`dnsrr`). Virtual
//! addresses and published ports need IPVS, which not every kernel has; no runtime has a part in them.

use std::collections::BTreeMap;

use tests::Registry;

use crate::guide::BINARY;
use crate::node::{Node, connect};

/// Where docker's shims keep the runtime's state.
const STATE: &str = "/run/docker/runtime-runc/moby";

#[test]
fn a_service_is_spread_scaled_and_survives_the_death_of_a_node() {
    let mut manager = Node::new("swarm-a");
    let mut worker = Node::new("swarm-b");
    connect(&manager, &worker);
    let _registry = Registry::with_config(&manager.lab, "10.77.0.1:5000", "http: {addr: \"10.77.0.1:5000\"}\n");
    let before = [manager.lab.snapshot(), worker.lab.snapshot()];
    for node in [&mut manager, &mut worker] {
        node.install("/etc/docker/daemon.json");
        start(node);
    }

    // Short heartbeats: a dead node is noticed in seconds.
    manager.sh("docker swarm init --advertise-addr 10.77.0.1 --dispatcher-heartbeat 1s").succeeds();
    let token = manager.lines("docker swarm join-token --quiet worker").remove(0);
    worker.sh(&format!("docker swarm join --advertise-addr 10.77.0.2 --token {token} 10.77.0.1:2377")).succeeds();
    manager.sh("docker network create --driver overlay --attachable between").succeeds();
    manager
        .sh("docker service create --detach --name web --replicas 4 --network between --endpoint-mode dnsrr \
             --restart-delay 1s --stop-grace-period 1s 10.77.0.1:5000/library/busybox \
             nc -ll -p 80 -e hostname")
        .succeeds();

    settles(&manager, &[(&manager, 2), (&worker, 2)]);
    for node in [&manager, &worker] {
        ours_run_all(node);
    }
    everyone_is_reached(&manager, 4);

    manager.sh("docker service scale --detach web=6").succeeds();
    settles(&manager, &[(&manager, 3), (&worker, 3)]);
    manager.sh("docker service scale --detach web=2").succeeds();
    settles(&manager, &[(&manager, 1), (&worker, 1)]);
    manager.sh("docker service scale --detach web=4").succeeds();
    settles(&manager, &[(&manager, 2), (&worker, 2)]);

    worker.kill();
    settles(&manager, &[(&manager, 4)]);
    everyone_is_reached(&manager, 4);
    // On the dead node the tasks live on without anybody who serves them, and the runtime still knows them.
    let orphans = running(&worker);
    assert_eq!(orphans.len(), 2, "{orphans:?}");

    // The node comes back: its docker ends them with nothing but the runtime's `delete --force`.
    start(&mut worker);
    manager.until("the node is back", || manager.lines("docker node ls --format '{{.Status}}'") == ["Ready", "Ready"]);
    worker.until("its orphans are gone", || running(&worker).is_empty());

    manager.sh("docker service rm web").succeeds();
    for node in [&manager, &worker] {
        // (Of a task that died with its node docker may keep the record of the ended container.)
        node.until("the service's containers are gone", || {
            node.sh("docker container prune --force").succeeds();
            node.lines("docker ps --all --quiet").is_empty()
        });
        assert_eq!(running(node), BTreeMap::new());
    }
    manager.until("the network is gone", || manager.sh("docker network rm between").code() == 0);
    worker.sh("docker swarm leave").succeeds();
    manager.sh("docker swarm leave --force").succeeds();
    worker.stop();
    manager.stop();
    for (node, before) in [&manager, &worker].into_iter().zip(&before) {
        node.nothing_is_left(before);
    }
}

fn start(node: &mut Node) {
    node.start("dockerd", "--insecure-registry 10.77.0.0/24", "docker version");
}

/// Waits until the service's tasks run as many on each node as is said, and no others: by the manager's word, and by the
/// runtime's on each node.
#[track_caller]
fn settles(manager: &Node, expected: &[(&Node, usize)]) {
    let counts: Vec<(&str, usize)> = expected.iter().map(|(node, count)| (node.name, *count)).collect();
    manager.until(&format!("the tasks are {counts:?}"), || {
        let tasks = manager
            .lines("docker service ps --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' web");
        let on = |node: &Node| tasks.iter().filter(|task| task.starts_with(&format!("{} Running", node.name))).count();
        tasks.len() == expected.iter().map(|(_, count)| count).sum::<usize>()
            && expected.iter().all(|(node, count)| on(node) == *count && running(node).len() == *count)
    });
}

/// The containers of a node that the runtime says are running: id and process.
fn running(node: &Node) -> BTreeMap<String, i64> {
    let list = node.sh(&format!("{BINARY} --root {STATE} list --format json")).succeeds().json();
    let containers = list.as_array().cloned().unwrap_or_default(); // none: `null`
    let running = containers.iter().filter(|container| container["status"] == "running");
    running.map(|container| (container["id"].as_str().unwrap().into(), container["pid"].as_i64().unwrap())).collect()
}

/// Ends the test unless docker and the runtime agree on what runs on this node, and on its processes.
#[track_caller]
fn ours_run_all(node: &Node) {
    let inspected = node
        .lines("docker ps --quiet | xargs docker inspect --format '{{.Id}} {{.State.Pid}} {{.HostConfig.Runtime}}'");
    let by_docker: BTreeMap<String, i64> = inspected
        .iter()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|fields| {
            assert_eq!(fields[2], "mocker");
            (fields[0].into(), fields[1].parse().unwrap())
        })
        .collect();
    assert_eq!(running(node), by_docker);
}

/// Ends the test unless a task on this node finds all tasks by the service's name and gets an answer from each.
#[track_caller]
fn everyone_is_reached(node: &Node, count: usize) {
    let script = "nslookup tasks.web | sed -n 's/^Address: \\(10[.0-9]*\\)$/\\1/p' |
        while read -r address; do nc -w 5 $address 80 </dev/null; done | sort -u";
    let mut answers = Vec::new();
    // Names and routes reach the nodes by gossip, a moment after the task runs.
    node.until(&format!("{count} tasks answer: {answers:?}"), || {
        let task = "$(docker ps --quiet --filter name=web | head -n 1)";
        answers = node.lines(&format!("docker exec {task} sh -c '{}'", script.replace('\'', "'\\''")));
        answers.len() == count
    });
}
