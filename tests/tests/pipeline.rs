//! The main job: `mocker run`, as a person types it. What it prints, how it ends, and that nothing is left of it.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::Lab;

#[test]
fn hello_world_is_pulled_and_says_hello() {
    let lab = Lab::new("hello");
    let registry = lab.registry();
    let before = lab.snapshot();
    lab.sh(&format!("mocker run {}", registry.reference("hello-world"))).succeeds().prints("Hello from Docker!");
    lab.sh("mocker images").succeeds().prints("hello-world");
    lab.assert_same(&before);
}

#[test]
fn the_exit_status_is_the_programs_own() {
    let lab = Lab::new("status");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    for (command, status) in [
        ("busybox true", 0),
        ("busybox sh -c 'exit 7'", 7),
        ("busybox sh -c 'exit 255'", 255),
        ("busybox no-such-program", 127),
        ("busybox /no/such/program", 127),
        ("busybox /etc/passwd", 126),
        ("busybox /etc", 126),
        ("--init busybox sh -c 'kill -TERM $$'", 143),
        ("--init busybox sh -c 'kill -KILL $$'", 137),
        ("busybox sh -c 'kill -KILL $$; exit 3'", 3), // process 1 of a namespace is immune to its own
        ("--user nobody-knows-me busybox true", 125),
        ("--memory 1 busybox true", 125),
        ("-p nonsense busybox true", 125),
        ("--no-such-option busybox true", 125),
        ("-d busybox true", 125),
        ("127.0.0.1:1/no/such/image", 125),
    ] {
        lab.sh(&format!("mocker run {command}")).fails(status);
    }
    lab.assert_same(&before);
}

#[test]
fn stdin_reaches_the_program_only_where_it_is_asked_for() {
    let lab = Lab::new("stdin");
    lab.images(&["busybox"]);
    let hi = lab.sh("echo hi | mocker run -i busybox cat").succeeds();
    assert_eq!(hi.stdout, "hi\n");
    let nothing = lab.sh("echo hi | mocker run busybox cat").succeeds();
    assert_eq!(nothing.stdout, "");
    lab.sh("head -c 20000000 /dev/urandom > in
        mocker run -i busybox cat < in > out && cmp in out")
        .succeeds();
    // What the program does not read stays for whoever reads next.
    let rest = lab.sh("printf 'one\\ntwo\\n' > lines; { mocker run -i busybox true; cat; } < lines").succeeds();
    assert_eq!(rest.stdout, "one\ntwo\n");
}

#[test]
fn a_closed_pipe_ends_the_program_as_it_does_without_a_container() {
    let lab = Lab::new("sigpipe");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    let out = lab.sh("mocker run busybox yes | head -n 1").succeeds();
    assert_eq!(out.stdout, "y\n");
    lab.assert_same(&before);
}

#[test]
fn the_config_of_the_image_and_the_flags_decide_what_is_run() {
    let lab = Lab::new("config");
    lab.images(&["tool"]);
    let image = lab.sh("mocker run tool").succeeds();
    for fact in ["argc=2\narg=default\narg=args\n", "uid=1000 gid=50", "pwd=/work/dir", "env GREETING=hello, world"] {
        assert!(image.stdout.contains(fact), "lacks {fact:?}: {image}");
    }
    lab.sh("printf 'FROM_FILE=yes\\n' > file
        mocker run -e A=1 --env-file file -w /tmp -u 12:34 -h box tool one 'two words'")
        .succeeds()
        .prints("argc=2\narg=one\narg=two words\n")
        .prints("uid=12 gid=34")
        .prints("pwd=/tmp")
        .prints("env A=1")
        .prints("env FROM_FILE=yes")
        .prints("env HOSTNAME=box");
    let shell = lab.sh("mocker run --entrypoint sh tool -c 'echo $0 $GREETING'").succeeds();
    assert_eq!(shell.stdout, "sh hello, world\n");
}

#[test]
fn limits_are_in_force() {
    let lab = Lab::new("limits");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    lab.sh("mocker run --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'")
        .says("can't fork");
    lab.sh("mocker run --memory 16M --init busybox sh -c 'tail /dev/zero'").fails(137);
    lab.assert_same(&before);
}

#[test]
fn a_terminal_has_job_control_and_follows_the_window() {
    let lab = Lab::new("terminal");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    let mut terminal = lab.terminal("mocker run -it busybox sh", 33, 101);
    let settings = terminal.settings();

    terminal.write("stty size; tty; echo from-$((6*7))\n");
    terminal.wait_for("33 101");
    terminal.wait_for("/dev/");
    terminal.wait_for("from-42");
    terminal.resize(44, 120);
    terminal.write("sleep 0.1; stty size\n");
    terminal.wait_for("44 120");

    terminal.write("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.write("\x1a"); // Ctrl-Z
    terminal.wait_for("Stopped");
    terminal.write("jobs | wc -l | sed s/^/jobs-/; fg\n");
    terminal.wait_for("jobs-1");
    std::thread::sleep(Duration::from_millis(300));
    terminal.write("\x03"); // Ctrl-C
    terminal.write("echo after-$?\n");
    terminal.wait_for("after-130");
    assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());

    terminal.write("exit 9\n");
    assert_eq!(terminal.wait().code(), Some(9));
    assert_eq!(terminal.settings(), settings, "the terminal is as it was");
    lab.assert_same(&before);
}

#[test]
fn what_a_program_prints_last_still_reaches_the_terminal() {
    let lab = Lab::new("last-words");
    lab.images(&["busybox"]);
    let mut terminal = lab.terminal("mocker run -t busybox sh -c 'seq 20000; echo last'; echo status-$?", 24, 80);
    terminal.wait_for("20000");
    terminal.wait_for("last");
    terminal.wait_for("status-0");
}

#[test]
fn a_terminal_that_is_asked_for_and_not_there_is_an_error() {
    let lab = Lab::new("no-terminal");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    lab.sh("mocker run -it busybox true").fails(125).says("terminal");
    lab.assert_same(&before);
}

#[test]
fn ctrl_c_stops_a_server_and_nothing_is_left() {
    let lab = Lab::new("ctrl-c");
    lab.images(&["nginx"]);
    let before = lab.snapshot();
    let mut terminal = lab.terminal(
        "{ mocker-images get nginx || mocker-pull nginx; } | mocker-net -p 8080:80 |
            mocker-cgroup --memory 256M --pids 100 | mocker-exec; echo status-$?",
        24,
        80,
    );
    lab.sh("curl --silent --show-error --fail --retry 50 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/")
        .succeeds()
        .prints("<html");
    terminal.write("\x03");
    terminal.wait();
    lab.assert_same(&before);
}

#[test]
fn a_signal_to_the_wrapper_alone_ends_the_container() {
    let lab = Lab::new("wrapper");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    for signal in ["TERM", "KILL"] {
        let mut running = lab.shell("mocker run --init busybox sh -c 'echo up; sleep 1000'").spawn();
        running.wait_for("up");
        lab.sh(&format!("pkill -{signal} -o -x mocker")).succeeds();
        running.wait();
        lab.sh("for i in $(seq 50); do pgrep -x mocker-exec >/dev/null || break; sleep 0.1; done; mocker prune");
        lab.assert_same(&before);
    }
}

#[test]
fn a_program_that_takes_term_ends_as_it_likes() {
    let lab = Lab::new("term");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    let mut running = lab
        .shell("mocker run busybox sh -c 'trap \"echo bye; exit 5\" TERM; echo up; while :; do sleep 0.1; done'")
        .spawn();
    running.wait_for("up");
    lab.sh("pkill -TERM -o -x mocker-exec").succeeds();
    running.wait().fails(5).prints("bye");
    lab.assert_same(&before);
}

#[test]
fn an_address_beyond_the_bridge_is_reached_through_nat() {
    let lab = Lab::new("nat");
    lab.images(&["busybox"]);
    // The outside: a namespace with a cable to the lab and no route to anything behind it.
    lab.sh("ip netns add outside
        ip link add cable type veth peer name eth0 netns outside
        ip address add 192.0.2.1/24 dev cable && ip link set cable up
        ip -n outside address add 192.0.2.2/24 dev eth0 && ip -n outside link set eth0 up
        ip -n outside link set lo up
        ip route add default via 192.0.2.2")
        .succeeds();
    let before = lab.snapshot();
    let server: TcpListener = lab.in_network("outside", || TcpListener::bind("192.0.2.2:7000").expect("bind"));
    let answering = std::thread::spawn(move || {
        let (mut stream, peer) = server.accept().expect("somebody comes");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("it speaks");
        (said, peer.ip().to_string())
    });
    lab.sh("echo hello from inside | mocker run -i busybox nc -w 5 192.0.2.2 7000").succeeds();
    let (said, peer) = answering.join().expect("the server");
    assert_eq!(said, "hello from inside\n");
    assert_eq!(peer, "192.0.2.1", "the outside knows the host alone");
    lab.assert_same(&before);
}

/// Kills the stage whose command line begins with `stage` some milliseconds after it has started, whatever it is doing
/// then, and lets prune clear up.
fn killed_at_any_point_leaves_nothing_for_prune(stage: &str) {
    let lab = Lab::new("killed");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    for delay_ms in [0, 1, 2, 4, 7, 11, 16, 25, 40, 70, 120, 300] {
        let pipeline = lab
            .shell(
                "mocker-images get busybox </dev/null | mocker-net -p 8080:80 | mocker-cgroup --memory 64M --pids 50 |
                    mocker-images mount | mocker-exec --init -- sleep 1000",
            )
            .spawn();
        let delay = f64::from(delay_ms) / 1000.0;
        lab.sh(&format!(
            "for try in $(seq 200); do pgrep -f '^{stage}' >/dev/null && break; done
            sleep {delay}
            pkill -KILL -o -f '^{stage}'
            sleep 0.3
            # Had the stage done its work by then, the container runs, or soon will: it is ended as by kill(1).
            while pgrep -x mocker-exec >/dev/null; do pkill -TERM -o -x mocker-exec; sleep 0.2; done"
        ))
        .succeeds();
        pipeline.wait();
        lab.sh("mocker prune").succeeds();
        eprintln!("killed {delay_ms} ms after its start");
        lab.assert_same(&before);
    }
}

#[test]
fn mocker_net_killed_at_any_point_leaves_nothing_for_prune() {
    killed_at_any_point_leaves_nothing_for_prune("mocker-net");
}

#[test]
fn mocker_cgroup_killed_at_any_point_leaves_nothing_for_prune() {
    killed_at_any_point_leaves_nothing_for_prune("mocker-cgroup");
}

#[test]
fn mocker_images_mount_killed_at_any_point_leaves_nothing_for_prune() {
    killed_at_any_point_leaves_nothing_for_prune("mocker-images mount");
}

#[test]
fn mocker_exec_killed_at_any_point_leaves_nothing_for_prune() {
    killed_at_any_point_leaves_nothing_for_prune("mocker-exec");
}

#[test]
fn prune_takes_nothing_from_the_living() {
    let lab = Lab::new("living");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    let mut running = lab
        .shell("mocker run -i busybox sh -c 'echo up; read line; ip address show eth0; touch /file; echo still'")
        .open_stdin()
        .spawn();
    running.wait_for("up");
    let during = lab.snapshot();
    lab.sh("mocker prune").succeeds();
    lab.assert_same(&during);
    running.write(b"go on\n");
    running.wait().succeeds().prints("10.0.0.3").prints("still");
    lab.assert_same(&before);
}

#[test]
fn a_stage_that_fails_leaves_nothing_even_without_prune() {
    let lab = Lab::new("fails");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    for stages in [
        // in the middle and at the end; before the document is read, while it is worked on, after
        ["mocker-net", "mocker-cgroup --memory 1", "mocker-exec -- true"],
        ["mocker-net", "mocker-cgroup --no-such-option", "mocker-exec -- true"],
        ["mocker-net", "no-such-stage", "mocker-exec -- true"],
        ["mocker-net", "jq broken(", "mocker-exec -- true"],
        ["mocker-net", "mocker-cgroup --pids 10", "mocker-exec --no-such-option"],
        ["mocker-net", "mocker-cgroup --pids 10", "mocker-exec --user nobody-knows-me -- true"],
        ["mocker-net", "mocker-cgroup --pids 10", "mocker-exec -- no-such-program"],
        ["mocker-net", "mocker-cgroup --pids 10", "mocker-exec -v /etc:/mnt:no-such-option -- true"],
        ["mocker-net", "mocker-cgroup --pids 10", "false"],
        ["mocker-net", "jq '.mocker.rootfs.lower = [\"/no/such/layer\"]'", "mocker-exec -- true"],
        ["mocker-net", "jq .linux.namespaces[0].type=\\\"none\\\"", "mocker-exec -- true"],
        ["mocker-images mount", "mocker-net -p 1:1:1:1", "mocker-cgroup"],
        ["mocker-images mount", "mocker-net", "mocker-exec --no-such-option"],
    ] {
        let line = stages.map(|stage| stage.replace("broken(", "'broken('")).join(" | ");
        let out = lab.sh(&format!("mocker-images get busybox | {line}"));
        assert_ne!(out.code(), 0, "{out}");
        eprintln!("after: {line}");
        lab.assert_same(&before);
    }
}

#[test]
fn two_containers_side_by_side_have_addresses_of_their_own() {
    let lab = Lab::new("two");
    lab.images(&["busybox"]);
    let before = lab.snapshot();
    let start = || {
        let mut running =
            lab.shell("mocker run -i busybox sh -c 'ip -4 address show eth0; echo up; read line'").open_stdin().spawn();
        running.wait_for("up");
        running
    };
    let (first, second) = (start(), start());
    assert!(first.output_so_far().0.contains("10.0.0.3/"), "{}", first.output_so_far().0);
    assert!(second.output_so_far().0.contains("10.0.0.4/"), "{}", second.output_so_far().0);
    for running in [first, second] {
        running.signal_group(Signal::SIGINT);
        running.wait();
    }
    lab.assert_same(&before);
}
