//! mocker-net: a network that works in every direction it should, in none it should not, and goes without a trace.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use tests::Lab;

const WAIT: Duration = Duration::from_secs(2);

/// A namespace `world` beyond the lab's only interface, 198.51.100.1 on the lab's side, and a default route to it.
fn outside(lab: &Lab) {
    lab.sh("ip netns add world &&
        ip link add uplink mtu 1400 type veth peer name eth0 mtu 1400 netns world &&
        ip address add 198.51.100.1/24 dev uplink && ip link set uplink up &&
        ip -n world address add 198.51.100.2/24 dev eth0 && ip -n world link set eth0 up &&
        ip route add default via 198.51.100.2 &&
        sleep 2  # until its IPv6 address is no longer tentative")
        .succeeds();
}

/// Makes a network and returns its document.
fn make(lab: &Lab, flags: &str) -> Value {
    lab.sh(&format!("mocker-net --new {flags}")).succeeds().json()
}

/// Serves port 80 of a namespace: each caller is told who answers, and the address it is seen under. TCP and UDP.
fn serve(lab: &Lab, netns: &str) {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
    let (tcp, udp) = lab.in_network(netns, move || (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
    let name = netns.to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        for mut stream in tcp.incoming().flatten() {
            let peer = stream.peer_addr().unwrap();
            write!(stream, "{name} sees {}", peer.ip()).unwrap_or_default();
        }
    });
    let name = netns.to_string();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut bytes) {
            udp.send_to(format!("{name} sees {}\n", peer.ip()).as_bytes(), peer).unwrap_or_default();
        }
    });
}

fn answer(stream: std::io::Result<TcpStream>) -> String {
    let read = |mut stream: TcpStream| {
        let mut text = String::new();
        stream.set_read_timeout(Some(WAIT))?;
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    stream.and_then(read).unwrap_or_else(|error: std::io::Error| format!("{:?}", error.kind()))
}

/// What a program on the lab's host is answered.
fn ask(lab: &Lab, address: &str) -> String {
    answer(lab.connect(address.parse().unwrap()))
}

/// What a program in a namespace is answered.
fn ask_from(lab: &Lab, netns: &str, address: &str) -> String {
    let address = address.parse().unwrap();
    answer(lab.in_network(netns, move || TcpStream::connect_timeout(&address, WAIT)))
}

fn ask_udp(socket: &UdpSocket, address: &str) -> String {
    let mut bytes = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    match socket.send_to(b"?", address).and_then(|_| socket.recv_from(&mut bytes)) {
        Ok((length, _)) => String::from_utf8_lossy(&bytes[..length]).trim().to_string(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[test]
fn the_document_says_what_was_made_and_other_tools_see_it() {
    let lab = Lab::new("net");
    let before = lab.snapshot();
    let document = make(&lab, "--id lab -p 8080:80");
    let network = &document["mocker"]["network"];
    for (key, value) in [
        ("bridge", "mocker0"),
        ("subnet", "10.0.0.0/24"),
        ("gateway", "10.0.0.1"),
        ("address", "10.0.0.3"),
        ("mac", "02:42:0a:00:00:03"),
        ("interface", "eth0"),
    ] {
        assert_eq!(network[key], value, "{key}");
    }
    let port = &network["ports"][0];
    assert_eq!((&port["host_address"], &port["host_port"]), (&"127.0.0.1".into(), &8080.into()));
    let namespaces = document["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|one| one["type"] == "network" && one["path"] == "/run/netns/lab"));
    let hook = &document["hooks"]["poststop"][0];
    assert_eq!((&hook["args"][1], &hook["args"][2]), (&"delete".into(), &"lab".into()));

    lab.sh("ip -n lab -j address show eth0").prints(r#""local":"10.0.0.3","prefixlen":24,"broadcast":"10.0.0.255""#);
    lab.sh("ip -n lab -j address show eth0").prints(r#""address":"02:42:0a:00:00:03""#);
    lab.sh("ip -n lab -br link show lo").prints("LOOPBACK,UP");
    lab.sh("ip -n lab route").prints("default via 10.0.0.1 dev eth0");
    lab.sh("ip -d link show mk-lab").prints("hairpin on").prints("alias lab");
    lab.sh("ip link show mocker0").prints("02:42:0a:00:00:01").prints("alias mocker /");
    lab.sh("nft list map ip mocker published").prints("127.0.0.1 . tcp . 8080 : 10.0.0.3 . 80");
    lab.sh("mocker-net ls").prints("lab  mocker0  10.0.0.3/24  127.0.0.1:8080->80/tcp");
    let inspected = lab.sh("mocker-net inspect lab").succeeds().json();
    assert_eq!(inspected["missing"], Value::Array(vec![]));
    assert_eq!(lab.sh("mocker-net ls --json").succeeds().json()[0], inspected);

    lab.sh("mocker-net delete lab && mocker-net delete lab").succeeds();
    lab.sh("mocker-net inspect lab").fails(1).says("cannot inspect lab");
    lab.assert_same(&before);
}

#[test]
fn a_container_reaches_the_outside_under_the_hosts_address() {
    let lab = Lab::new("masquerade");
    outside(&lab);
    serve(&lab, "world");
    let before = lab.snapshot();
    let document = make(&lab, "--id aaa");
    assert_eq!(document["mocker"]["network"]["mtu"], 1400, "that of the way out");
    lab.sh("ip -n aaa link show eth0; ip link show mocker0").prints("mtu 1400");
    assert_eq!(ask_from(&lab, "aaa", "198.51.100.2:80"), "world sees 198.51.100.1");
    let udp = lab.in_network("aaa", || UdpSocket::bind("0.0.0.0:0").unwrap());
    assert_eq!(ask_udp(&udp, "198.51.100.2:80"), "world sees 198.51.100.1");
    drop(udp);
    lab.sh("mocker-net delete aaa").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_published_port_answers_where_it_should_and_nowhere_else() {
    let lab = Lab::new("publish");
    outside(&lab);
    let before = lab.snapshot();
    make(&lab, "--id aaa -p 8080:80 -p 8080:80/udp -p 0.0.0.0:9090-9091:80-81 -p 0.0.0.0:9090:80/udp");
    make(&lab, "--id bbb");
    ["aaa", "bbb"].iter().for_each(|name| serve(&lab, name));

    // the host, on its loopback and its own addresses
    assert_eq!(ask(&lab, "127.0.0.1:8080"), "aaa sees 10.0.0.1");
    assert_eq!(ask(&lab, "127.0.0.1:9090"), "aaa sees 10.0.0.1");
    assert_eq!(ask(&lab, "198.51.100.1:9090"), "aaa sees 198.51.100.1");
    assert_eq!(ask(&lab, "198.51.100.1:8080"), "ConnectionRefused");
    let udp = "exec 3<>/dev/udp/127.0.0.1/8080; echo ? >&3; timeout 2 head -n 1 <&3";
    lab.program("bash").args(["-c", udp]).run().prints("aaa sees 10.0.0.1");

    // the container itself, and its neighbour
    assert_eq!(ask_from(&lab, "aaa", "10.0.0.1:9090"), "aaa sees 10.0.0.1");
    assert_eq!(ask_from(&lab, "bbb", "10.0.0.1:9090"), "aaa sees 10.0.0.1");
    assert_eq!(ask_from(&lab, "bbb", "198.51.100.1:9090"), "aaa sees 10.0.0.1");
    assert_eq!(ask_from(&lab, "bbb", "10.0.0.3:80"), "aaa sees 10.0.0.4");
    assert_eq!(ask_from(&lab, "bbb", "10.0.0.1:8080"), "ConnectionRefused");

    // the outside: only what is published to it, not what it may route to
    assert_eq!(ask_from(&lab, "world", "198.51.100.1:9090"), "aaa sees 198.51.100.2");
    let udp = lab.in_network("world", || UdpSocket::bind("0.0.0.0:0").unwrap());
    assert_eq!(ask_udp(&udp, "198.51.100.1:9090"), "aaa sees 198.51.100.2");
    assert_eq!(ask_from(&lab, "world", "198.51.100.1:8080"), "ConnectionRefused");
    lab.sh("ip -n world route add 10.0.0.0/24 via 198.51.100.1").succeeds();
    assert_eq!(ask_from(&lab, "world", "10.0.0.3:80"), "TimedOut");
    // and not the host's loopback, though its neighbour sends packets addressed to it (CVE-2020-8558)
    lab.sh(
        "ip -n world address del 127.0.0.1/8 dev lo 2>/dev/null; ip -n world route add 127.0.0.1 via 198.51.100.1 &&
        ip netns exec world sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet'",
    )
    .succeeds();
    assert_eq!(ask_from(&lab, "world", "127.0.0.1:8080"), "TimedOut");

    lab.sh("mocker-net delete aaa bbb && ip -n world route flush table main").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_port_that_somebody_has_is_refused_by_name() {
    let lab = Lab::new("ports");
    let listener = lab.listener();
    let port = listener.local_addr().unwrap().port();
    make(&lab, "--id aaa -p 8080:80");
    let before = lab.snapshot();
    let refused = |flags: &str, text: &str| {
        lab.sh(&format!("mocker-net --new --id bbb {flags}")).fails(1).says(text);
        lab.assert_same(&before);
    };
    refused("-p 8080:80", "cannot publish tcp port 8080 on 127.0.0.1: container aaa has it");
    refused("-p 0.0.0.0:8080:80", "container aaa has it");
    refused("-p 7001:80 -p 7001:81", "it is asked for twice");
    refused(&format!("-p {port}:80"), "Address already in use (EADDRINUSE)");
    refused("-p 203.0.113.9:80:80", "the host has no such address");
    // another protocol, and another address, are other ports
    make(&lab, "--id bbb -p 8080:80/udp -p 127.0.0.2:8080:80");
    lab.sh("mocker-net delete aaa bbb").succeeds();
}

#[test]
fn an_old_udp_flow_is_forgotten_when_its_port_is_published() {
    let lab = Lab::new("flows");
    outside(&lab);
    make(&lab, "--id aaa"); // from here on the kernel keeps track of flows
    let socket = lab.in_network("world", || UdpSocket::bind("0.0.0.0:0").unwrap());
    let (address, untracked) = ("198.51.100.1:5353", "WouldBlock");
    assert_eq!(ask_udp(&socket, address), untracked, "nobody is there yet, but the flow is known");
    make(&lab, "--id bbb -p 0.0.0.0:5353:80/udp");
    serve(&lab, "bbb");
    assert_eq!(ask_udp(&socket, address), "bbb sees 198.51.100.2");
    lab.sh("mocker-net delete bbb").succeeds();
    make(&lab, "--id ccc --ip 10.0.0.9 -p 0.0.0.0:5353:80/udp");
    serve(&lab, "ccc");
    assert_eq!(ask_udp(&socket, address), "ccc sees 198.51.100.2", "not the one that is gone");
    lab.sh("mocker-net delete aaa ccc").succeeds();
}

#[test]
fn the_lowest_free_address_is_next_also_for_many_at_once() {
    let lab = Lab::new("addresses");
    let before = lab.snapshot();
    let address = |flags: &str| make(&lab, flags)["mocker"]["network"]["address"].as_str().unwrap().to_string();
    assert_eq!(address("--id a"), "10.0.0.3");
    assert_eq!(address("--id b"), "10.0.0.4");
    lab.sh("mocker-net delete a").succeeds();
    assert_eq!(address("--id c"), "10.0.0.3");
    assert_eq!(address("--id d --ip 10.0.0.77"), "10.0.0.77");
    lab.sh("mocker-net --new --id e --ip 10.0.0.77").fails(1).says("d has it");
    lab.sh("mocker-net --new --id e --ip 10.0.0.1").fails(1).says("it is the gateway's");

    lab.sh("for i in $(seq 20); do mocker-net --new --id many$i -p $((7000 + i)):80 > many$i & done; wait").succeeds();
    let all = lab.sh("jq -r .mocker.network.address many* | sort -u | wc -l").succeeds();
    assert_eq!(all.stdout.trim(), "20");
    lab.sh("nft list map ip mocker published").prints("127.0.0.1 . tcp . 7020");
    lab.sh("for i in $(seq 20); do mocker-net delete many$i & done; wait; mocker-net delete b c d").succeeds();
    lab.assert_same(&before);
}

#[test]
fn the_host_is_not_cut_off_from_where_its_routes_lead() {
    let lab = Lab::new("conflict");
    outside(&lab);
    lab.sh("ip route add 10.0.0.0/16 via 198.51.100.2").succeeds();
    let before = lab.snapshot();
    let refused = |flags: &str, text: &str| {
        lab.sh(&format!("mocker-net --new {flags}")).fails(1).says(text);
        lab.assert_same(&before);
    };
    refused("", "the host has the route 10.0.0.0/16 dev uplink");
    refused("--subnet 198.51.100.128/25", "the host has the route 198.51.100.0/24 dev uplink");
    refused("--bridge uplink --subnet 10.9.0.0/24", "cannot use bridge uplink: an interface of this name exists");
    refused("--id world", "cannot make the network namespace world: /run/netns/world exists");
    lab.sh("ip link add mk-lab type bridge").succeeds();
    lab.sh("mocker-net --new --id lab --subnet 10.9.0.0/24").fails(1).says("cannot make the interface mk-lab");
    lab.sh("mocker-net delete lab && ip link delete mk-lab").succeeds();

    make(&lab, "--id lab --bridge br-x --subnet 10.9.0.0/24");
    lab.sh("mocker-net --new --id two --bridge br-x --subnet 10.8.0.0/24").fails(1).says("it has 10.9.0.0/24");
    assert_eq!(make(&lab, "--id two --bridge br-x")["mocker"]["network"]["address"], "10.9.0.4");
    lab.sh("nft list table ip mocker-br-x").succeeds();
    lab.sh("mocker-net delete lab two").succeeds();
    lab.assert_same(&before);
}

#[test]
fn a_foreign_chain_that_drops_is_named_and_left_alone() {
    let lab = Lab::new("firewall");
    lab.sh("nft 'add table inet theirs; add chain inet theirs outer { type filter hook forward priority 0; policy drop; }'")
        .succeeds();
    let before = lab.snapshot();
    lab.sh("mocker-net --new --id lab")
        .succeeds()
        .says("chain outer of table inet theirs drops what it does not know")
        .says("nft insert rule inet theirs outer iifname mocker0 accept");
    lab.sh("mocker-net delete lab").succeeds();
    lab.assert_same(&before);
}

#[test]
fn rules_that_somebody_has_flushed_are_seen_and_come_back_with_the_next_container() {
    let lab = Lab::new("flush");
    let before = lab.snapshot();
    make(&lab, "--id aaa -p 8080:80");
    serve(&lab, "aaa");
    lab.sh("nft flush ruleset").succeeds();
    lab.sh("mocker-net inspect aaa | jq -c .missing").prints("[\"rules\"]");
    assert_eq!(ask(&lab, "127.0.0.1:8080"), "ConnectionRefused");
    make(&lab, "--id bbb");
    assert_eq!(ask(&lab, "127.0.0.1:8080"), "aaa sees 10.0.0.1");
    lab.sh("nft flush ruleset; mocker-net delete aaa bbb").succeeds();
    lab.assert_same(&before);
}

#[test]
fn none_is_a_loopback_alone_and_host_is_no_namespace() {
    let lab = Lab::new("modes");
    let before = lab.snapshot();
    let document = make(&lab, "--id lab --network none");
    assert_eq!(document["mocker"]["network"]["mode"], "none");
    assert_eq!(lab.sh("ip -n lab -br link").stdout.lines().count(), 1);
    lab.sh("ip -n lab -br link").prints("LOOPBACK,UP");
    lab.sh("mocker-net delete lab").succeeds();

    let document = make(&lab, "--id lab --network host");
    let namespaces = document["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().all(|one| one["type"] != "network"));
    lab.sh("mocker-net delete lab").succeeds();
    lab.sh("mocker-net --new --network host -p 80:80").fails(2);
    lab.sh("mocker-net --new -p 80").fails(2);
    lab.sh("mocker-net -p 80:80 delete lab").fails(2);
    lab.sh("mocker-net --explain=json delete lab").succeeds();
    lab.assert_same(&before);
}

#[test]
fn without_nft_nothing_is_made_and_the_package_is_named() {
    let lab = Lab::new("nft");
    let before = lab.snapshot();
    lab.sh("unshare -m sh -c 'mount -t tmpfs none /usr/sbin && mocker-net --new --id lab'")
        .fails(1)
        .says("nft is not installed")
        .says("package nftables");
    lab.assert_same(&before);
}

#[test]
fn without_rights_nothing_is_made_and_it_is_said_what_works() {
    let lab = Lab::new("rights");
    let before = lab.snapshot();
    lab.sh("chmod 1777 . && MOCKER_RUN=$PWD/run setpriv --bounding-set=-all --inh-caps=-all --reuid 65534 --clear-groups mocker-net --new --id lab")
        .fails(1)
        .says("cannot make the container's network")
        .says("--network none or host");
    lab.sh("find run -name '*.json'").prints("");
    lab.assert_same(&before);
}

#[test]
fn settings_that_were_on_before_stay_on() {
    let lab = Lab::new("forwarding");
    lab.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").succeeds();
    let before = lab.snapshot();
    make(&lab, "--id lab");
    lab.sh("mocker-net delete lab").succeeds();
    lab.assert_same(&before);
    lab.sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/lo/forwarding").succeeds();
    let before = lab.snapshot();
    make(&lab, "--id lab");
    lab.sh("mocker-net delete lab").succeeds();
    lab.assert_same(&before);
}

/// The tool tells each step just before it takes it, here into a file that may grow to 64 KiB and is filled so far that
/// step N no longer fits: the kernel kills it there and then (SIGXFSZ, setrlimit(2)).
fn killed_at_every_step(lab: &Lab, command: &str, before_each: &str, then: &str) {
    let limit = 65536;
    let before = lab.snapshot();
    let told = lab
        .sh(&format!("{before_each}\n{{ {command} --explain=json 2>told; }} | cat >/dev/null; cat told; {then}"))
        .succeeds();
    lab.assert_same(&before);
    let lengths: Vec<usize> = told.stdout.lines().map(|line| line.len() + 1).collect();
    assert!(lengths.len() > 5, "{told}");
    for step in 0..lengths.len() {
        let filled = limit - lengths[..step].iter().sum::<usize>() - lengths[step] / 2;
        let run = lab.sh(&format!(
            "{before_each}\nhead -c {filled} /dev/zero > told
            ({{ (ulimit -c 0; ulimit -f 128; exec {command} --explain=json) 2>>told; echo $? >status; }} | cat >/dev/null)
            cat status; {then}"
        ));
        assert!(run.stdout.starts_with("153\n"), "step {step} of {command} was not its last: {run}");
        lab.assert_same(&before);
    }
}

#[test]
fn killed_at_any_step_of_making_prune_leaves_nothing() {
    let lab = Lab::new("kill");
    killed_at_every_step(&lab, "mocker-net --new --id lab -p 8080:80 -p 0.0.0.0:53:53/udp", "", "mocker-net prune");
}

#[test]
fn killed_at_any_step_of_unmaking_a_second_time_finishes() {
    let lab = Lab::new("kill-delete");
    let make = "mocker-net --new --id lab -p 8080:80 -p 0.0.0.0:53:53/udp | cat >/dev/null";
    killed_at_every_step(&lab, "mocker-net delete lab", make, "mocker-net delete lab");
}
