//! mocker-exec alone: what a program sees, what it may do, how it ends, and that nothing is left.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Lab, Output};

/// A lab with a small root file system in `rootfs`: busybox, two users, a few odd programs.
fn lab(name: &str) -> Lab {
    let lab = Lab::new(name);
    lab.sh("mkdir -p rootfs/bin rootfs/etc rootfs/tmp && cp $(command -v busybox) rootfs/bin/
            for name in $(busybox --list | grep -vx busybox); do ln -sf busybox rootfs/bin/$name; done
            rm rootfs/bin/init rootfs/bin/linuxrc 2>/dev/null
            printf 'root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1001::/home/app:/bin/sh\\n' > rootfs/etc/passwd
            printf 'root:x:0:\\nstaff:x:50:app\\nmine:x:1001:\\n' > rootfs/etc/group
            printf '#!/no/such/shell\\n' > rootfs/bin/orphan; echo text > rootfs/bin/plain
            chmod 755 rootfs/bin/orphan")
        .succeeds();
    lab
}

/// Runs shell text as the container's program.
fn inside(lab: &Lab, flags: &str, script: &str) -> Output {
    fs::write(lab.work().join("rootfs/script"), script).unwrap();
    lab.sh(&format!("mocker-exec --rootfs rootfs {flags} -- sh /script"))
}

#[test]
fn the_program_is_process_1_of_a_world_of_its_own() {
    let lab = lab("world");
    let before = lab.snapshot();
    lab.sh("mocker-exec --rootfs rootfs -- sh -c 'echo $$'").succeeds().prints("1\n");
    let out =
        inside(&lab, "--hostname inner", "hostname; ls /proc | grep -c '^[0-9]'; ls /sys/class/net; ls /").succeeds();
    out.prints("inner\n").prints("lo\n").prints("script").code();
    for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let here = lab.sh(&format!("readlink /proc/self/ns/{kind}")).stdout;
        let there = inside(&lab, "", &format!("readlink /proc/self/ns/{kind}")).succeeds().stdout;
        assert_ne!(here, there, "the {kind} namespace is the host's");
    }
    lab.assert_same(&before);
}

#[test]
fn the_exit_status_says_how_it_ended() {
    let lab = lab("status");
    let before = lab.snapshot();
    let run = |rest: &str| lab.sh(&format!("mocker-exec --rootfs rootfs {rest}"));
    run("-- sh -c 'exit 7'").fails(7);
    run("-- nope").fails(127).says("executable file not found in $PATH");
    run("-- /nope").fails(127).says("no such file or directory");
    run("-- orphan").fails(127).says("/no/such/shell");
    run("-- /bin/plain").fails(126).says("permission denied");
    run("-- /tmp").fails(126);
    run("--init -- sh -c 'kill -TERM $$'").fails(143);
    run("--no-such-flag -- true").fails(125);
    run("-u nobody -- true").fails(125).says("/etc/passwd");
    lab.sh("mocker-exec --rootfs nowhere -- true").fails(125).says("nowhere");
    lab.sh("true | mocker-exec").fails(125);
    lab.sh("echo '{' | mocker-exec").fails(125).says("document");
    lab.assert_same(&before);
}

#[test]
fn it_may_do_what_docker_lets_it_do() {
    let lab = lab("rights");
    let out = inside(&lab, "", "grep -E 'CapEff|CapBnd|Seccomp:|SigIgn|SigBlk|CapInh' /proc/self/status").succeeds();
    // docker's fourteen, less CAP_MKNOD: there is no device group here.
    out.prints("CapEff:\t00000000a00425fb\n")
        .prints("CapBnd:\t00000000a00425fb\n")
        .prints("CapInh:\t0000000000000000\n")
        .prints("Seccomp:\t2\n")
        .prints("SigIgn:\t0000000000000000\n")
        .prints("SigBlk:\t0000000000000000\n");
    let plain = inside(&lab, "-u app", "grep CapEff /proc/self/status; id").succeeds();
    plain.prints("CapEff:\t0000000000000000\n").prints("uid=1000(app) gid=1001(mine) groups=50(staff),1001(mine)");
    inside(&lab, "", "yes | head -1").succeeds().prints("y\n");
    for refused in [
        "mount -t tmpfs x /tmp",
        "echo x > /proc/sys/kernel/hostname",
        "echo b > /proc/sysrq-trigger",
        "mknod /x b 8 0",
        "hostname other",
        "mount -o remount,rw /sys",
        "unshare -U true",
    ] {
        let out = inside(&lab, "", refused);
        assert_ne!(out.code(), 0, "{refused}");
    }
    let empty = inside(&lab, "", "cat /proc/kcore /proc/keys /proc/timer_list; ls -A /sys/firmware | wc -l").succeeds();
    assert_eq!(empty.stdout, "0\n");
}

#[test]
fn devices_are_the_usual_ones_and_no_node_of_the_image_opens() {
    let lab = lab("devices");
    lab.sh("mknod rootfs/disk b 1 0; mknod rootfs/null c 1 3").succeeds();
    let out = inside(
        &lab,
        "",
        "echo x > /dev/null; head -c 2 /dev/zero | od -An -tx1; readlink /dev/fd; readlink /dev/ptmx; stat -c '%a %t:%T' /dev/null
         cat /disk; cat /null; ls /dev",
    );
    let out = out.prints(" 00 00\n").prints("/proc/self/fd\npts/ptmx\n").prints("666 1:3\n");
    let out = out.says("/disk").says("/null");
    for name in ["full", "mqueue", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom"] {
        assert!(out.stdout.lines().any(|line| line == name), "{name} is missing: {}", out.stdout);
    }
}

#[test]
fn links_of_the_image_never_lead_to_the_host() {
    let lab = lab("links");
    lab.sh("mkdir victim && cd rootfs && ln -s ../victim dev && ln -s $OLDPWD/victim proc; ln -s / mnt").succeeds();
    fs::create_dir(lab.work().join("data")).unwrap();
    lab.sh("mocker-exec --rootfs rootfs -v $PWD/data:/mnt/../victim/deep -- true").code();
    let victim = lab.work().join("victim");
    assert_eq!(fs::read_dir(victim).unwrap().count(), 0, "something was made on the host");
    assert!(!lab.outside("/victim").exists());
}

#[test]
fn the_flags_of_docker_run_change_what_it_sees() {
    let lab = lab("flags");
    fs::create_dir(lab.work().join("data")).unwrap();
    fs::write(lab.work().join("vars"), "# a comment\nFROM_FILE=1 2\n").unwrap();
    let out = inside(
        &lab,
        "-e A=b --env-file vars -w /new/dir --hostname h -v $PWD/data:/data:ro -v $PWD/vars:/etc/vars",
        "echo $A/$FROM_FILE/$HOSTNAME/$HOME; pwd; cat /etc/vars; touch /data/x",
    );
    out.fails(1).prints("b/1 2/h//root\n/new/dir\n# a comment\n").says("Read-only");
    inside(&lab, "--read-only", "echo > /x").fails(1).says("Read-only");
    inside(&lab, "--read-only", "echo > /dev/shm/x && echo fine").succeeds().prints("fine\n");
    inside(&lab, "-u app", "echo $HOME").succeeds().prints("/home/app\n");
    lab.sh("mocker-exec --rootfs rootfs --entrypoint echo -- from entrypoint").succeeds().prints("from entrypoint\n");
    lab.sh("mocker-exec --rootfs rootfs -v nothing -- true").fails(125).says("HOST:CONTAINER");
}

#[test]
fn standard_input_is_the_containers_unless_the_document_came_through_it() {
    let lab = lab("stdin");
    lab.sh("echo hi | mocker-exec --new --rootfs rootfs -- cat").succeeds().prints("hi\n");
    document(&lab, ".process.args = [\"cat\"] | .linux.resources = {}");
    lab.sh("echo hi | mocker-exec --document-fd 3 --rootfs rootfs 3<config.json").succeeds().prints("hi\n");
    let out = lab.sh("mocker-exec --rootfs rootfs <config.json").succeeds();
    assert_eq!(out.stdout, "", "the document is not the program's to read");
    lab.sh("mocker-exec --rootfs rootfs -i <config.json").fails(125).says("the document came through it");
    lab.sh("echo '{}' > empty.json; mocker-exec --rootfs rootfs -- true < empty.json").fails(125).says("process.cwd");
}

#[test]
fn no_descriptor_of_the_host_gets_in() {
    let lab = lab("descriptors");
    let out = lab.sh("exec 7</etc 9</; mocker-exec --rootfs rootfs -- sh -c 'ls /proc/self/fd'").succeeds();
    // 3 is the directory that ls reads.
    assert_eq!(out.stdout, "0\n1\n2\n3\n");
}

#[test]
fn a_terminal_has_a_size_job_control_and_its_settings_are_put_back() {
    let lab = lab("terminal");
    let before = lab.snapshot();
    let mut terminal = lab.terminal(
        "stty -a > before; mocker-exec --rootfs rootfs -it -- sh; echo status $?; stty -a > after",
        33,
        99,
    );
    terminal.wait_for("# ");
    terminal.write("stty size; tty\n");
    terminal.wait_for("33 99");
    terminal.wait_for("/dev/pts/0");
    terminal.write("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.write("\x03");
    terminal.resize(50, 120);
    std::thread::sleep(Duration::from_millis(200));
    terminal.write("stty size\n");
    terminal.wait_for("50 120");
    terminal.write("exit 5\n");
    terminal.wait_for("status 5");
    terminal.wait();
    let settings = |name: &str| fs::read_to_string(lab.work().join(name)).unwrap();
    let without_size = |text: String| text.lines().filter(|line| !line.contains("rows")).collect::<String>();
    assert_eq!(without_size(settings("before")), without_size(settings("after")));
    lab.assert_same(&before);
}

#[test]
fn signals_are_passed_on_and_an_init_reaps() {
    let lab = lab("signals");
    let before = lab.snapshot();
    fs::write(
        lab.work().join("rootfs/trap"),
        "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done",
    )
    .unwrap();
    let mut running = lab.shell("exec mocker-exec --rootfs rootfs -- sh /trap").spawn();
    running.wait_for("ready");
    running.signal_group(Signal::SIGTERM);
    running.wait().fails(9).prints("got it\n");

    // A process whose parent has ended is reaped: no zombie stays.
    let script = "(sh -c 'sleep 0.1 &'); sleep 0.5; ps -o stat | grep -c Z";
    inside(&lab, "--init", script).prints("0\n");

    // A first process without a handler ignores TERM; the third request is not a request.
    let mut deaf = lab.shell("exec mocker-exec --rootfs rootfs -- sh -c 'echo ready; sleep 1000'").spawn();
    deaf.wait_for("ready");
    for _ in 0..3 {
        deaf.signal_group(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(100));
    }
    deaf.wait().fails(137);
    lab.assert_same(&before);
}

#[test]
fn killed_it_takes_its_container_along_and_prune_clears_the_rest() {
    let lab = lab("killed");
    let before = lab.snapshot();
    let mut running = lab.shell("exec mocker-exec --rootfs rootfs -- sh -c 'echo ready; sleep 1000'").spawn();
    running.wait_for("ready");
    running.signal_group(Signal::SIGKILL);
    running.wait().fails(137);
    lab.sh("mocker-exec prune").succeeds();
    lab.assert_same(&before);
}

#[test]
fn what_it_cannot_confine_it_refuses() {
    let lab = lab("refused");
    for (change, named) in [
        (".linux.resources.memory.limit = 1000000", "memory"),
        (".linux.uidMappings = [{containerID: 0, hostID: 1000, size: 1}]", "user namespace"),
        (".linux.namespaces += [{type: \"user\"}]", "user"),
        (".vm = {}", "virtual machines"),
        (".process.apparmorProfile = \"x\"", "AppArmor"),
        (".process.args = []", "no command"),
        (".process.cwd = \"x\"", "process.cwd"),
        (".mounts[0].options += [\"idmap\"]", "idmap"),
        (".process.rlimits = [{type: \"RLIMIT_X\", soft: 1, hard: 1}]", "RLIMIT_X"),
        (".linux.namespaces |= map(select(.type != \"mount\"))", "mount namespace"),
        (
            ".linux.namespaces |= map(if .type == \"network\" then .path = \"/etc/passwd\" else . end)",
            "not a namespace",
        ),
        (".mocker.cgroup.directories = [\"/sys/fs/cgroup/nowhere\"]", "/sys/fs/cgroup/nowhere"),
    ] {
        document(
            &lab,
            &format!("{change} | .hooks.poststop = [{{path: \"/bin/touch\", args: [\"touch\", \"'$PWD'/undone\"]}}]"),
        );
        lab.sh("rm -f undone; mocker-exec < changed.json").fails(125).says(named);
        lab.sh("test -e undone").succeeds();
    }
}

/// Writes `changed.json`: a bundle's configuration of `runc spec`, run in `rootfs`, changed by a jq filter.
fn document(lab: &Lab, filter: &str) {
    lab.sh(&format!(
        "rm -f config.json; runc spec && jq '.process.terminal = false | .process.args = [\"true\"] | .root.readonly = false
            | del(.process.rlimits) | {filter}' config.json > changed.json && mv config.json original.json && cp changed.json config.json"
    ))
    .succeeds();
}

#[test]
fn a_bundle_prints_what_it_prints_under_runc() {
    let lab = lab("bundle");
    let before = lab.snapshot();
    let script =
        "id; hostname; pwd; env | sort; grep -E \"Cap|NoNew\" /proc/self/status; mount | cut -d\" \" -f1-5 | sort;
                  ls -l /dev | wc -l; cat /proc/1/oom_score_adj; ulimit -n; umask";
    document(
        &lab,
        &format!(
            ".process.args = [\"sh\", \"-c\", {}] | .process.user = {{uid: 1000, gid: 1001, additionalGids: [50], umask: 63}}
             | .process.oomScoreAdj = 500 | .process.rlimits = [{{type: \"RLIMIT_NOFILE\", soft: 512, hard: 1024}}]
             | .linux.resources = {{}} | .mounts |= map(select(.type != \"cgroup\"))
             | .process.capabilities = {{bounding: [\"CAP_KILL\"], permitted: [\"CAP_KILL\"], effective: [\"CAP_KILL\"], ambient: [\"CAP_KILL\"], inheritable: [\"CAP_KILL\"]}}",
            Value::from(script)
        ),
    );
    let ours = lab.sh("mocker-exec run --bundle . ours").succeeds().stdout;
    let theirs = lab.sh("runc run --bundle . theirs").succeeds().stdout;
    // Without a device group our root is nodev; mount(8) shows no such option of runc's.
    assert_eq!(ours, theirs);
    lab.sh("rm -rf /run/runc").succeeds();
    lab.assert_same(&before);
}

#[test]
fn hooks_run_at_their_moments() {
    let lab = lab("hooks");
    let hook = |name: &str| {
        format!(
            "[{{path: \"/bin/sh\", args: [\"sh\", \"-c\", \"jq -r .status | sed s/^/{name}:/ >> '$PWD'/log\"], env: [\"PATH=/usr/bin:/bin\"]}}]"
        )
    };
    let all = ["prestart", "createRuntime", "poststart", "poststop"];
    let hooks: Vec<String> = all.iter().map(|name| format!(".hooks.{name} = {}", hook(name))).collect();
    document(&lab, &hooks.join(" | "));
    lab.sh("mocker-exec run --bundle . hooked").succeeds();
    let log = fs::read_to_string(lab.work().join("log")).unwrap();
    assert_eq!(log, "prestart:creating\ncreateRuntime:creating\npoststart:running\npoststop:stopped\n");
}

#[test]
fn every_step_is_told_in_the_kernels_order() {
    let lab = lab("explain");
    let out = lab.sh("mocker-exec --explain=json --rootfs rootfs -- true").succeeds();
    let steps: Vec<Value> =
        out.stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let calls: Vec<&str> = steps.iter().filter_map(|step| step["call"].as_str()).collect();
    let position = |needle: &str| {
        calls.iter().position(|call| call.contains(needle)).unwrap_or_else(|| panic!("no {needle}: {calls:#?}"))
    };
    let order = [
        "clone3(",
        "MS_SLAVE",
        "\"proc\"",
        "mknodat(\"/dev/null\"",
        "unshare(CLONE_NEWCGROUP)",
        "pivot_root",
        "umount2",
        "seccomp(",
        "setresuid",
        "capset",
        "execve(",
    ];
    for pair in order.windows(2) {
        assert!(position(pair[0]) < position(pair[1]), "{} comes after {}", pair[0], pair[1]);
    }
    assert!(steps.iter().all(|step| step["why"].as_str().is_some_and(|why| why.split(' ').count() >= 5)));
    let text = lab.sh("mocker-exec --explain --rootfs rootfs -- true").succeeds().stderr;
    assert!(text.contains("[init 1]") && text.contains("    $ pivot_root . ."));
}
