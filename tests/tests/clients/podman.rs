//! podman: conmon creates and execs, podman does the rest.

use crate::bench::{Bench, Case, person};

/// The image, under the name that people use.
pub const IMAGES: &str = "
    podman image exists busybox ||
        { podman pull -q oci:$IMAGES/busybox:latest && podman tag $(podman images -q | head -1) busybox; } > /dev/null || exit
    ";

pub const CLEAN: &str = "podman unpause -a; podman pod rm -af -t 0; podman rm -af -t 0";

fn bench(name: &str) -> Bench {
    let mut bench = Bench::new(name, CLEAN);
    tests::clients::podman(&bench.lab);
    bench.warm_up(&format!("{IMAGES} podman run --rm -p 8080:80 -v warm:/v busybox true && podman volume rm warm"));
    bench.ready("run() { podman run --network none \"$@\"; }\n");
    bench.ready(&format!("REPORT='{}'\n", REPORT.replace('\'', "'\\''")));
    bench
}

#[test]
fn a_program_is_run_and_how_it_ends_is_told() {
    bench("podman-run").compare(&ENDS);
}

const ENDS: [Case; 14] = [
    ("output and status", "run --rm busybox sh -c 'echo out; echo err >&2; exit 7'", 7, "out\n"),
    ("stdin", "printf 'a\\nb\\n' | run --rm -i busybox cat", 0, "a\nb\n"),
    ("no stdin", "echo a | run --rm busybox cat", 0, ""),
    ("a signal", "run --rm busybox sh -c 'sh -c \"kill -9 \\$\\$\"; echo $?'", 0, "137\n"),
    ("a killed first process", "run --rm --init busybox sh -c 'kill -TERM $$'", 143, ""),
    (
        "missing",
        "run busybox nope; echo $?; run busybox /nope; echo $?; podman ps -aq | wc -l; podman rm -af",
        0,
        "127\n127\n",
    ),
    ("not executable", "run --rm busybox /etc/passwd", 126, "permission denied"),
    ("a directory", "run --rm busybox /etc", 126, ""),
    ("not a program", "podman run --rm -v $HOME/containers.conf:/x:ro --entrypoint /x busybox", 126, ""),
    ("a missing directory is no place to work", "run --rm -w /nodir busybox pwd", 126, "/nodir"),
    ("a directory of the image is", "run --rm -w /tmp busybox pwd", 0, "/tmp\n"),
    ("no such user", "run --rm -u nosuch busybox true", 126, "nosuch"),
    ("a bad limit", "run --rm --ulimit nofile=9999999:9999999 busybox true", 126, ""),
    (
        "in the background",
        "run -d --name c busybox sh -c 'echo one; echo two >&2; exit 4' && podman wait c; podman logs c
         podman inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.OCIRuntime}}' c; podman rm c",
        0,
        "exited 4",
    ),
];

#[test]
fn a_running_container_is_worked_with() {
    bench("podman-life").compare(&LIFE);
}

const LIFE: [Case; 17] = [
    (
        "exec",
        "run -d --name c busybox sleep 1000
         podman exec -e A=b -w /tmp -u nobody c sh -c 'echo $A; pwd; id; echo err >&2; exit 3'; echo $?
         echo in | podman exec -i c cat; podman exec -u 12:34 c id; podman exec --privileged c grep CapEff /proc/self/status
         podman exec c sh -c 'kill -9 $$'; echo $?; podman exec -d c sh -c 'echo later > /tmp/x'
         until podman exec c test -s /tmp/x; do sleep 0.05; done; podman exec c cat /tmp/x
         podman exec c nope; echo $?; podman exec c /etc/passwd; echo $?; podman exec -w /nodir c true; echo $?
         podman rm -f -t 0 c",
        0,
        "127\n126\n",
    ),
    (
        "exec -it",
        "run -d --name c busybox sleep 1000
         terminal \"podman exec -it c sh -c 'tty; test -t 0 && test -t 2 && echo terminal; exit 5'\"; echo $?
         podman exec -t c tty; podman exec c tty; podman rm -f -t 0 c",
        0,
        "/dev/pts/0",
    ),
    (
        "run -it",
        "podman run --network none --rm -t busybox sh -c 'tty; test -t 1 && echo terminal; ls -l /dev/console | cut -c1-10; exit 6'; echo $?",
        0,
        "/dev/pts/0",
    ),
    (
        "logs",
        "run -d --name c busybox sh -c 'for i in 1 2 3 4; do echo $i; done; echo e >&2; sleep 1000' && sleep 0.3
         podman logs --tail 3 c; podman logs -f c > log & sleep 0.3; podman rm -f -t 0 c; wait; cat log; rm log",
        0,
        "1\n2\n3\n4\n",
    ),
    (
        "stop, with a handler",
        "run -d --name c busybox sh -c 'trap \"echo bye; exit 9\" TERM; echo ready; while :; do sleep 0.05; done'
         until podman logs c | grep -q ready; do sleep 0.05; done
         podman stop c; podman inspect -f '{{.State.ExitCode}}' c; podman logs c; podman stop c; echo $?; podman rm c",
        0,
        "bye\n",
    ),
    (
        "stop, and a program that does not listen",
        "run -d --name c busybox sleep 1000; podman stop -t 1 c; podman inspect -f '{{.State.ExitCode}} {{.State.Status}}' c; podman rm c",
        0,
        "137 exited\n",
    ),
    (
        "kill",
        "run -d --name c busybox sh -c 'trap \"echo usr1\" USR1; trap \"exit 8\" INT; echo ready; while :; do sleep 0.05; done'
         until podman logs c | grep -q ready; do sleep 0.05; done
         podman kill -s USR1 c; podman kill -s SIGINT c; podman wait c; podman logs c; podman kill c; echo $?; podman rm c",
        0,
        "usr1\n",
    ),
    (
        "pause and unpause",
        "run -d --name c busybox sleep 1000; podman pause c; podman inspect -f '{{.State.Status}}' c; podman pause c; echo $?
         podman exec c true; echo $?; podman unpause c; podman inspect -f '{{.State.Status}}' c; podman unpause c; echo $?
         podman exec c echo again; podman pause c; podman rm -f -t 0 c",
        0,
        "paused\n",
    ),
    (
        "start, restart, attach",
        "podman create --network none --name c busybox sh -c 'echo run; sleep 0.2; exit 3'; podman inspect -f '{{.State.Status}}' c
         podman start -a c; echo $?; podman start c; podman start c; podman wait c; podman restart -t 0 c; podman wait c
         podman logs c; podman rm c",
        0,
        "run\nrun\nrun\n",
    ),
    (
        "init, then start",
        "podman create --network none --name c busybox echo run; podman init c; podman inspect -f '{{.State.Status}}' c
         podman init c; podman start -a c; podman rm c; podman create --network none --name c busybox true; podman init c; podman rm -f c",
        0,
        "run\n",
    ),
    (
        "top, stats, events", // `cleanup` or `stop`: whether conmon's podman or this one was first to clear up
        "since=$(date +%s.%N); run -d --name c busybox sleep 1000; podman top c pid args | tr -s ' '
         podman stats --no-stream --format '{{.Name}} {{.PIDS}}' c; podman rm -f -t 0 c
         podman events --stream=false --filter container=c --since $since --format '{{.Status}}' | grep -v -e cleanup -e stop | sort -u | paste -sd' '",
        0,
        "sleep 1000",
    ),
    (
        "update",
        "run -d --name c -m 64m busybox sleep 1000
         podman update --memory 32m --cpus 0.5 c
         podman exec c sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us'
         podman update --cpu-shares 77 --cpuset-cpus 0 c
         podman exec c sh -c 'cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpuset/cpuset.cpus'; podman rm -f -t 0 c",
        0,
        "33554432\n50000\n",
    ),
    (
        "removed while it runs",
        "run -d --name c busybox sleep 1000; podman rm c; echo $?; podman rm -f -t 0 c; podman ps -aq; podman rm c; echo $?",
        0,
        "ID",
    ),
    (
        "a signal to the client reaches the program",
        "podman run --network none --rm busybox sh -c 'trap \"echo term; exit 2\" TERM; echo ready; while :; do sleep 0.05; done' > out &
         touch out; until grep -q ready out; do sleep 0.05; done; kill -TERM $!; wait $!; echo $?; cat out; rm out",
        0,
        "2\nready\nterm\n",
    ),
    (
        "cp, diff, commit, export",
        "run -d --name c busybox sh -c 'echo made > /made; sleep 1000'; sleep 0.2
         podman cp c:/made ./made && cat made; podman cp ./made c:/tmp/copy; podman exec c cat /tmp/copy; podman diff c | sort
         podman commit -q c mine > /dev/null; run --rm mine cat /made; podman export c | tar tf - | grep -c made
         podman rm -f -t 0 c; podman rmi mine > /dev/null; rm made",
        0,
        "made\nmade\n",
    ),
    (
        "healthcheck",
        "run -d --name c --health-cmd 'test -e /healthy' --health-interval disable busybox sleep 1000
         podman healthcheck run c; echo $?; podman exec c touch /healthy; podman healthcheck run c; echo $?; podman rm -f -t 0 c",
        0,
        "0\n",
    ),
    (
        "deleted behind its back",
        "run -d --name c busybox sleep 1000; $RUNTIME delete --force $(podman inspect -f '{{.Id}}' c); echo $?
         podman rm -f -t 0 c; echo $?; podman ps -aq",
        0,
        "0\n",
    ),
];

#[test]
fn a_person_at_podmans_terminal_notices_nothing() {
    let bench = bench("podman-person");
    bench.at_a_terminal("run --rm -it busybox sh; echo status $?", person);
    let exec = "run -d --name c busybox sleep 1000; podman exec -it c sh; echo status $?; podman rm -f -t 0 c";
    bench.at_a_terminal(exec, person);
}

#[test]
fn what_a_container_may_and_may_not_is_the_same() {
    bench("podman-limits").compare(&CONFINED);
}

/// All that a program can see of its confinement.
const REPORT: &str = r#"
    exec 2>&1; id; pwd; umask; env | sort; cat /proc/1/oom_score_adj; sed 's/libpod-.*/ID/' /proc/1/cgroup
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/ - / /; s,lowerdir=.*,OVERLAY,; s,/var/tmp/[^ ]*/,/,; s, [a-z]*:[0-9]* , ,' | sort
    grep -e Cap -e NoNew -e Sec -e SigIgn -e SigBlk -e Cpus /proc/self/status; cat /proc/self/limits
    stat -c '%A %u %g %t:%T %N' /dev/* /dev/pts/* | sort
    cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_unprivileged_port_start; cd /sys/fs/cgroup
    grep . memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.swappiness pids/pids.max cpu/cpu.shares \
        cpu/cpu.cfs_quota_us cpuset/cpuset.cpus; sort devices/devices.list; ls .
    head -c 1 /proc/keys /proc/timer_list | wc -c; ls /sys/firmware /proc/acpi; readlink /proc/self/fd/0; ls -a /; mount -t tmpfs none /mnt; echo $?; hostname other; echo $?
    echo 1 > /proc/sys/kernel/panic; unshare -U true; echo $?; mknod /tmp/null c 1 3; echo $?; echo > /tmp/null; echo $?
"#;

const CONFINED: [Case; 4] = [
    ("all that a program sees", "run --rm --hostname h busybox sh -c \"$REPORT\"", 0, "CapEff:\t"),
    ("the same as a user", "run --rm --hostname h -u nobody busybox sh -c \"$REPORT\"", 0, "CapEff:\t0000000000000000"),
    (
        "privileged",
        "run --rm --privileged --hostname h busybox sh -c \"${REPORT% hostname other*}\"",
        0,
        "CapEff:\t000001f",
    ),
    (
        "with many options",
        "run --rm --hostname h -m 64m --memory-reservation 32m --memory-swappiness 7 --cpus 0.5 --cpu-shares 77 --cpuset-cpus 0 \
         --pids-limit 50 --ulimit nofile=100:200 --ulimit nproc=50:60 --ulimit core=0 --oom-score-adj 500 --sysctl net.ipv4.ip_unprivileged_port_start=80 \
         --shm-size 3m --device /dev/null:/dev/extra:r --umask 077 -w /etc -e A=b --cap-add SYS_PTRACE --cap-drop CHOWN \
         --security-opt no-new-privileges --tmpfs /scratch:size=1m,mode=1770 --group-add 77 --read-only busybox sh -c \"$REPORT\"",
        0,
        "NoNewPrivs:\t1",
    ),
];

#[test]
fn every_flag_does_what_it_does() {
    bench("podman-flags").compare(&FLAGS);
}

const FLAGS: [Case; 24] = [
    ("--network bridge", "podman run --rm busybox sh -c 'ls /sys/class/net; ip route | wc -l; cat /etc/resolv.conf | wc -l'", 0, "eth0\n"),
    (
        "-p",
        "podman run -d --name c -p 127.0.0.1:8081:80 busybox sh -c 'mkdir /www; echo served > /www/x; httpd -f -h /www'
         curl -s --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8081/x; podman port c; podman rm -f -t 0 c",
        0,
        "served\n",
    ),
    (
        "-v",
        "mkdir data; echo data > data/file; run --rm -v $PWD/data:/data -v $PWD/data:/ro:ro -v $PWD/data/file:/etc/new/file -v named:/named busybox \
         sh -c 'cat /data/file /ro/file /etc/new/file; touch /data/made; touch /ro/x; echo $?; touch /named/x; ls /data'; ls data
         run --rm -v named:/n busybox ls /n; podman volume rm named; rm -r data",
        0,
        "data\ndata\ndata\n",
    ),
    (
        "kinds of mounts",
        "mkdir -p data/below; run --rm --mount type=tmpfs,destination=/t,tmpfs-size=1m --mount type=bind,source=$PWD/data,destination=/b,ro,bind-propagation=rslave \
         --mount type=devpts,destination=/p -v $PWD/data:/s:rshared,noexec,nosuid --tmpfs /etc/new busybox sh -c \
         'cut -d\" \" -f5-7,9- /proc/self/mountinfo | sort | grep -e \"^/[tbps] \" -e ^/etc/new | sed \"s,lab[^ ]*,,; s,/dev/[^ ]*,,; s/:[0-9]*//g\"'; rm -r data",
        0,
        "/t rw",
    ),
    ("--tmpfs keeps what is there", "run --rm --tmpfs /etc busybox ls /etc", 0, "passwd\n"),
    (
        "--init",
        "run --rm --init busybox sh -c 'ls -l /proc/1/exe | grep -o init; (sh -c \"sleep 0.1 &\"); sleep 0.4; ps -o stat | grep -c Z'",
        1,
        "init\n0\n",
    ),
    (
        "--memory, and too much of it",
        "run --name c -m 32m --memory-swap 32m busybox sh -c 'x=$(tail -c 100m /dev/zero | tr \"\\\\0\" x)'; echo $?
         run -d --name d -m 32m --memory-swap 32m busybox tail /dev/zero; podman wait d
         podman inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' d; podman rm c; podman rm d",
        0,
        "ID\n137\n",
    ),
    (
        "--pids-limit",
        "run --rm --pids-limit 6 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo fine' 2>&1",
        2,
        "can't fork",
    ),
    ("--user", "for u in nobody 1000:1000 0:7; do run --rm --user $u busybox id; done", 0, "uid=65534(nobody)"),
    ("--read-only", "run --rm --read-only busybox sh -c 'touch /x; echo $?; touch /tmp/x; echo $?; touch /dev/shm/x; echo $?; touch /run/x; echo $?'", 0, "1\n0\n"),
    ("--cap-drop all", "run --rm --cap-drop all busybox sh -c 'grep Cap /proc/self/status; chown nobody /etc/passwd; echo $?'", 0, "CapBnd:\t0000000000000000"),
    ("--cap-add", "run --rm --cap-drop all --cap-add net_admin,sys_time -u nobody busybox grep Cap /proc/self/status", 0, "CapAmb:\t"),
    (
        "--security-opt seccomp",
        r#"echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
            {"names":["chmod","fchmodat"],"action":"SCMP_ACT_KILL"},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"}]}]}' > profile.json
         run --rm --security-opt seccomp=profile.json busybox sh -c 'mkdir /x; echo $?; chmod 700 /etc; echo $?; ip link; echo $?; grep Seccomp: /proc/self/status'
         run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status; rm profile.json"#,
        0,
        "No space left on device",
    ),
    (
        "a user namespace",
        "run --rm --uidmap 0:100000:5000 --gidmap 0:100000:5000 -v mapped:/v busybox sh -c \
         'cat /proc/self/uid_map /proc/self/gid_map; id; touch /v/x /root/x; stat -c %u:%g /v/x /root/x /proc/1; ls -l /dev/null | cut -c1-10; grep Cap /proc/self/status'
         podman volume rm mapped; podman run --network none -d --name c --uidmap 0:100000:5000 busybox sleep 100
         podman exec c cat /proc/self/uid_map; podman exec -u 7 c id; podman rm -f -t 0 c",
        0,
        "0     100000       5000",
    ),
    (
        "namespaces of the host and of others",
        "run -d --name c busybox sleep 1000; podman run --rm --network container:c --ipc container:c --pid container:c busybox sh -c 'ps | grep -c [s]leep; ls /sys/class/net'
         here() { readlink /proc/self/ns/$1; }
         for n in pid ipc uts net cgroup; do
            flag=$n; [ $n != net ] || flag=network; [ $n != cgroup ] || flag=cgroupns
            [ $n = net ] || flag=\"network none --$flag\"
            [ $(podman run --rm --$flag host busybox readlink /proc/self/ns/$n) = $(here $n) ] && echo host $n
         done
         podman rm -f -t 0 c",
        0,
        "host net\n",
    ),
    (
        "stop without a process namespace",
        "run -d --name c --pid host busybox sh -c 'sleep 1000 & sleep 1000'; podman stop -t 0 c; podman rm c; pgrep -x sleep | wc -l",
        0,
        "1\n",
    ),
    (
        "a pod",
        "podman pod create --infra=false --name p; podman run -d --network none --pod p --name a busybox sleep 1000; podman run --network none --pod p --rm busybox cut -d/ -f2 /proc/1/cgroup
         podman pod pause p; podman pod inspect -f '{{.State}}' p; podman pod unpause p; podman pod stop -t 0 p; podman pod rm -f p",
        0,
        "Paused\n",
    ),
    ("a sysctl that is not its own", "run --rm --sysctl kernel.panic=1 busybox true; echo $?", 0, ""),
    ("a missing source", "run --rm -v /nosuch:/x busybox true; echo $?", 0, "125\n"),
    ("cgroup-parent", "run --rm --cgroup-parent /mine/of --cgroupns host busybox sed 's/libpod-.*/ID/' /proc/self/cgroup; until find /sys/fs/cgroup -depth -path '*/mine*' -type d -exec rmdir {} + 2> /dev/null; do sleep 0.05; done # conmon is there a moment longer", 0, "/mine/of"),
    ("preserved descriptors", "run --rm --preserve-fds 2 busybox sh -c 'cat <&3; cat <&4; ls /proc/self/fd | wc -l' 3<<A 4<<B\nthree\nA\nfour\nB\n", 0, "three\nfour\n"),
    (
        "preserved descriptors of exec",
        "run -d --name c busybox sleep 1000; podman exec --preserve-fds 1 c sh -c 'cat <&3' 3<<A\nthree\nA\npodman exec c sh -c 'ls /proc/self/fd'; podman rm -f -t 0 c",
        0,
        "three\n",
    ),
    (
        "hooks", // to those of poststart, runc 1.1 says that the container is created; it is running then
        r#"mkdir hooks; for stage in prestart createRuntime createContainer poststart poststop; do
            echo '{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","jq -r .status,.ociVersion >> '$PWD'/log-'$stage'"],"env":["PATH=/usr/bin:/bin"]},"when":{"always":true},"stages":["'$stage'"]}' > hooks/$stage.json
         done
         podman --hooks-dir $PWD/hooks run --network none --rm busybox echo hi; echo $?; sleep 0.3; grep . log-* | grep -v poststart:created | grep -v poststart:running; rm -r hooks log-*"#,
        0,
        "log-prestart:creating",
    ),
    (
        "systemd's groups",
        "podman --cgroup-manager systemd run --network none --rm busybox true 2> said; echo $?; grep -o 'systemd not running on this host' said; podman rm -af; rm said",
        0,
        "126\nsystemd not running",
    ),
];

#[test]
fn without_json_the_same_is_told() {
    bench("podman-text").compare(&TEXT);
}

/// podman passes --log to runtimes it knows to write JSON, and reads stderr of the others.
const TEXT: [Case; 1] = [(
    "what fails",
    "sed 's/^runtime_supports_json.*/runtime_supports_json = []/' containers.conf > text.conf; export CONTAINERS_CONF=$PWD/text.conf
     run --rm busybox echo hi; run --rm busybox nope; echo $?; run --rm busybox /etc/passwd; echo $?; podman rm -af
     run -d --name c busybox sleep 1000; podman exec c nope; echo $?; podman kill -s NOSUCH c; echo $?; podman rm -f -t 0 c",
    0,
    "hi\n127\n126\n",
)];
