//! docker: its daemon hands containers to containerd's shim, with a hook of its own in each.

use crate::bench::{Bench, Case, ours, person};
use tests::Running;

const CLEAN: &str = "docker unpause $(docker ps -q); docker rm -f $(docker ps -aq)";

fn bench(name: &str, flags: &str) -> (Bench, Running) {
    let mut bench = Bench::new(name, CLEAN);
    // `--userns-remap daemon` finds its ids here.
    let ids = "{ cat /etc/$f; echo daemon:100000:65536; } > $f; mount --bind $f /etc/$f";
    bench.lab.sh(&format!("for f in subuid subgid; do {ids}; done")).succeeds();
    let daemon = tests::clients::docker(&bench.lab, &ours(), flags);
    bench.ready("run() { docker run --network none \"$@\"; }\n");
    bench.warm_up(
        "docker image inspect busybox > /dev/null 2>&1 || { skopeo copy -q oci:$IMAGES/busybox:latest docker-archive:i.tar:busybox:latest && docker load -qi i.tar; } > /dev/null
         docker run --rm -p 8080:80 busybox true && docker run --rm --network host --userns host busybox true
         until ip link show docker0 | grep -q NO-CARRIER; do sleep 0.05; done",
    );
    (bench, daemon)
}

#[test]
fn a_person_at_dockers_terminal_notices_nothing() {
    let (bench, _daemon) = bench("docker-person", "");
    bench.at_a_terminal("run --rm -it busybox sh; echo status $?", person);
    let exec = "run -d --name cc busybox sleep 1000; docker exec -it cc sh; echo status $?; docker rm -f cc";
    bench.at_a_terminal(exec, person);
}

/// In a user namespace for all of its containers.
#[test]
fn a_daemon_that_maps_users_is_served_the_same() {
    let (bench, _daemon) = bench("docker-users", "--userns-remap daemon");
    bench.compare(&[
        (
            "mapped",
            "run --rm -v named:/v busybox sh -c 'cat /proc/self/uid_map; id; touch /v/x /root/x; stat -c %u:%g /v/x /root/x /proc/1; grep Cap /proc/self/status; ls -l /dev/null | cut -c1-10'
             docker volume rm named; run -d --name cc busybox sleep 1000; docker exec cc cat /proc/self/uid_map; docker exec -u 7 cc id; docker rm -f cc",
            0,
            "100000",
        ),
        ("not mapped", "run --rm --userns host busybox cat /proc/self/uid_map", 0, "4294967295"),
    ]);
}

/// Makes ours the runtime of what has no `--runtime`.
const DEFAULT: &str = "
    jq \".\\\"default-runtime\\\" = \\\"${RUNTIME##*/}\\\"\" daemon.json > new.json && cat new.json > daemon.json && kill -HUP $(cat docker/pid)
    until [ \"$(docker info -f '{{.DefaultRuntime}}')\" = ${RUNTIME##*/} ]; do sleep 0.05; done
    ";

#[test]
fn images_are_built_and_the_daemon_ends_the_same() {
    let (mut bench, daemon) = bench("docker-build", "");
    bench.ready(DEFAULT);
    bench.compare(&BUILDS);
    for runtime in ["runc", "mocker-exec"] {
        let script = format!("docker run -d --network none --name {runtime} --runtime {runtime} busybox sleep 1000");
        bench.lab.sh(&script.replace("docker run", "docker container run")).succeeds();
    }
    bench.lab.sh("kill $(cat docker/pid); while kill -0 $(cat docker/pid); do sleep 0.05; done 2>/dev/null").succeeds();
    daemon.wait().succeeds();
    // What its containers ran has ended with it, and no shim waits.
    bench.lab.sh("pgrep -a 'sleep|shim' | grep -v infinity").fails(1);
}

const BUILDS: [Case; 3] = [
    (
        "build with RUN",
        "mkdir c; printf '%s\\n' 'FROM busybox' 'ENV A=b' 'RUN echo $A > /made && id && pwd' 'USER nobody' 'WORKDIR /tmp' 'RUN id; pwd; grep -e Cap -e Sec /proc/self/status' \
            'CMD cat /made' > c/Dockerfile
         DOCKER_BUILDKIT=0 docker build --no-cache --network none -t mine c 2>/dev/null | grep -v -e 'in ID' -e '--->' -e '[0-9a-f]\\{12\\}'
         docker run --network none --rm mine; docker rmi -f mine > /dev/null; rm -r c",
        0,
        "uid=65534(nobody)",
    ),
    (
        "a RUN that fails",
        "mkdir c; printf '%s\\n' 'FROM busybox' 'RUN echo before; exit 5' > c/Dockerfile; DOCKER_BUILDKIT=0 docker build --network none c 2>&1 | grep -v '[0-9a-f]\\{12\\}'
         printf '%s\\n' 'FROM busybox' 'RUN [\"nope\"]' > c/Dockerfile; DOCKER_BUILDKIT=0 docker build --network none c > /dev/null; echo $?; docker rm $(docker ps -aq) > /dev/null; rm -r c",
        0,
        "before\n",
    ),
    (
        "what the daemon knows of it",
        "docker info -f '{{.DefaultRuntime}} {{range $name, $r := .Runtimes}}{{$name}} {{end}}'
         docker version | grep -A2 \"^ ${RUNTIME##*/}:\" | grep -c -e 'Version: *[0-9]' -e 'GitCommit: *[a-z0-9]'",
        0,
        "RUNTIME RUNTIME",
    ),
];

#[test]
fn docker_cannot_tell_the_difference() {
    let (bench, _daemon) = bench("docker-run", "");
    bench.compare(&CASES);
}

const CASES: [Case; 24] = [
    ("output and status", "run --rm busybox sh -c 'echo out; echo err >&2; exit 7'", 7, "out\n"),
    ("stdin", "printf 'a\\nb\\n' | run --rm -i busybox cat", 0, "a\nb\n"),
    ("missing", "run --rm busybox nope; echo $?; run --rm busybox /nope; echo $?; docker ps -aq", 0, "127\n127\n"),
    ("not executable", "run --rm busybox /etc/passwd; echo $?; run --rm busybox /etc; echo $?", 0, "126\n"),
    ("a missing directory is made", "run --rm -w /nodir/deep busybox pwd", 0, "/nodir/deep\n"),
    ("no such user", "run --rm -u nosuch busybox true", 125, "nosuch"),
    (
        "all that a program sees",
        "run --rm --hostname h -e A=b -u 7:8 --group-add 9 --ulimit nofile=100:200 busybox sh -c 'exec 2>&1; id; env | sort
            grep -e Cap -e NoNew -e Sec -e SigIgn /proc/self/status; cat /proc/self/limits
            cut -d\" \" -f4- /proc/self/mountinfo | sed \"s/ - / /; s,lowerdir=.*,,; s,/var/tmp/[^ ]*/,/,; s, [a-z]*:[0-9]* , ,\" | sort
            cat /proc/1/cgroup; stat -c \"%A %u %g %t:%T %N\" /dev/* /dev/pts/* | sort; sort /sys/fs/cgroup/devices/devices.list'",
        0,
        "uid=7 gid=8 groups=8,9",
    ),
    (
        "in the background",
        "run -d --name cc busybox sh -c 'echo one; echo two >&2; sleep 0.2; exit 4' && docker wait cc; docker logs cc
         docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' cc; docker rm cc",
        0,
        "exited 4 false",
    ),
    (
        "exec",
        "run -d --name cc busybox sleep 1000; docker exec -e A=b -w /tmp -u nobody cc sh -c 'echo $A; pwd; id; echo err >&2; exit 3'; echo $?
         echo in | docker exec -i cc cat; docker exec cc sh -c 'kill -9 $$'; echo $?; docker exec -d cc touch /tmp/x
         until docker exec cc test -e /tmp/x; do sleep 0.05; done; docker exec cc nope; echo $?; docker exec cc /etc/passwd; echo $?
         docker exec -w /nodir cc true; echo $?
         terminal 'docker exec -it cc sh -c \"tty; test -t 0 && echo terminal; exit 5\"'
         docker rm -f cc",
        0,
        "uid=65534(nobody)",
    ),
    (
        "run -it",
        "terminal 'docker run --network none --rm -it busybox sh -c \"tty; test -t 0 && echo terminal; exit 6\"'",
        0,
        "/dev/pts/0",
    ),
    (
        "stop and kill",
        "run -d --name cc busybox sh -c 'trap \"echo bye; exit 9\" TERM; trap \"echo usr1\" USR1; echo ready; while :; do sleep 0.05; done'
         until docker logs cc | grep -q ready; do sleep 0.05; done; docker kill -s USR1 cc; sleep 0.2
         docker stop cc; docker inspect -f '{{.State.ExitCode}}' cc; docker logs cc; docker kill cc; echo $?; docker rm cc
         run -d --name cc busybox sleep 1000; docker stop -t 1 cc; docker inspect -f '{{.State.ExitCode}}' cc; docker rm cc",
        0,
        "usr1\nbye\n",
    ),
    (
        "pause and unpause",
        "run -d --name cc busybox sleep 1000; docker pause cc; docker inspect -f '{{.State.Status}}' cc; docker pause cc; echo $?
         docker exec cc true; echo $?; docker unpause cc; docker exec cc echo again; docker unpause cc; echo $?; docker pause cc; docker rm -f cc",
        0,
        "paused\n",
    ),
    (
        "start and restart",
        "run --name cc busybox sh -c 'echo run; exit 3'; docker start -a cc; echo $?; docker restart -t 0 cc; docker wait cc; docker logs cc; docker rm cc
         run -d --name cc --restart on-failure:2 busybox sh -c 'echo again; exit 1'
         until [ $(docker inspect -f '{{.RestartCount}} {{.State.Status}}' cc | tr -d ' ') = 2exited ]; do sleep 0.1; done; docker logs cc; docker rm cc",
        0,
        "again\nagain\nagain\n",
    ),
    (
        "top, stats, events",
        "since=$(date +%s.%N); run -d --name cc busybox sleep 1000; docker top cc -o pid,args | awk '{ print $2, $3 }' | tail -1; docker stats --no-stream --format '{{.Name}} {{.PIDs}}' cc
         docker rm -f cc; docker events --since $since --until $(date +%s.%N) --filter container=cc --format '{{.Status}}' | sort -u | paste -sd' '",
        0,
        "sleep 1000",
    ),
    (
        "update",
        "run -d --name cc -m 64m busybox sleep 1000; docker update -m 32m --memory-swap 64m --cpus 0.5 --pids-limit 40 cc
         docker exec cc sh -c 'cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max'
         docker update --cpu-shares 77 --cpuset-cpus 0 cc; docker exec cc sh -c 'cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.shares cpuset/cpuset.cpus'
         docker rm -f cc",
        0,
        "33554432\n67108864\n50000\n40\n",
    ),
    (
        "a network and a port",
        "docker run -d --name cc -p 127.0.0.1:8081:80 busybox sh -c 'mkdir /www; echo served > /www/x; httpd -f -h /www'
         curl -s --retry 20 --retry-all-errors --retry-delay 1 http://127.0.0.1:8081/x; docker exec cc ls /sys/class/net; docker rm -f cc",
        0,
        "served\n",
    ),
    (
        "-v",
        "mkdir data; echo data > data/file; run --rm -v $PWD/data:/data -v $PWD/data:/ro:ro -v named:/named --tmpfs /t:size=1m --mount type=bind,src=$PWD/data,dst=/b,readonly busybox \
         sh -c 'cat /data/file /ro/file /b/file; touch /data/made; touch /ro/x; touch /b/x; touch /named/x; ls /data'; ls data
         run --rm -v named:/n busybox ls /n; docker volume rm named; rm -r data",
        0,
        "data\ndata\ndata\n",
    ),
    ("--init", "run --rm --init busybox sh -c '(sh -c \"sleep 0.1 &\"); sleep 0.4; ps -o stat | grep -c Z; ps -o comm | grep init; kill -TERM $$'", 143, "0\n"),
    // The shim watches for the event from a moment after start on: a program that is quicker, on either runtime, is not seen.
    (
        "--memory, and too much of it",
        "since=$(date +%s.%N); run --name cc -m 32m busybox sh -c 'sleep 1; exec tail /dev/zero'; echo $?; docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' cc; docker rm cc
         docker events --since $since --until $(date +%s.%N) --filter container=cc --filter event=oom --format '{{.Status}}'",
        0,
        "137 true\n",
    ),
    (
        "confined",
        "run --rm --pids-limit 6 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo fine'; echo $?
         run --rm --read-only busybox sh -c 'touch /x; echo $?; touch /dev/shm/x; echo $?'
         run --rm --cap-drop all --security-opt no-new-privileges busybox sh -c 'grep -e Cap -e NoNew /proc/self/status; chown nobody /etc/passwd'; echo $?
         run --rm --cap-add net_admin --sysctl net.ipv4.ip_forward=0 --shm-size 3m --oom-score-adj 500 --cpu-shares 77 --cpuset-cpus 0 --device /dev/null:/dev/extra:r busybox \
            sh -c 'grep Cap /proc/self/status; cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj; df -k /dev/shm | tail -1; ls /dev/extra; cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpuset/cpuset.cpus; echo x > /dev/extra'; echo $?",
        0,
        "CapBnd:\t0000000000000000",
    ),
    (
        "--security-opt seccomp",
        r#"echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
            {"names":["chmod","fchmodat"],"action":"SCMP_ACT_KILL"}]}' > profile.json
         run --rm --security-opt seccomp=profile.json busybox sh -c 'mkdir /x; echo $?; chmod 700 /etc; echo $?; grep Seccomp: /proc/self/status'
         run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status; rm profile.json"#,
        0,
        "No space left on device",
    ),
    (
        "namespaces of the host and of others",
        "run -d --name cc --ipc shareable busybox sleep 1000; docker run --rm --network container:cc --ipc container:cc --pid container:cc busybox sh -c 'ps | grep -c [s]leep; ls /sys/class/net'
         docker rm -f cc; docker run -d --name cc --network none --pid host --uts host --ipc host busybox sh -c 'sleep 1111 & sleep 1111'; sleep 0.2; pgrep -fc 'sleep 1111'
         docker exec cc readlink /proc/self/ns/uts /proc/self/ns/ipc | wc -l; docker rm -f cc; pgrep -fc 'sleep 1111'; docker run --rm --network host busybox ls /sys/class/net",
        0,
        "docker0\n",
    ),
    (
        "removed, and deleted behind its back",
        "run -d --name cc busybox sleep 1000; docker rm cc; echo $?; docker rm -f cc; run -d --name cc busybox sleep 1000
         $RUNTIME --root $HOME/docker/exec/runtime-${RUNTIME##*/}/moby delete --force $(docker inspect -f '{{.Id}}' cc); echo $?; docker rm -f cc; echo $?; docker ps -aq",
        0,
        "0\n",
    ),
    (
        "cp, commit, diff",
        "run -d --name cc busybox sh -c 'echo made > /made; sleep 1000'; sleep 0.2; docker cp -q cc:/made made; cat made; docker diff cc; docker commit cc mine > /dev/null
         run --rm mine cat /made; docker rm -f cc; docker rmi mine > /dev/null; rm made",
        0,
        "made\nmade\n",
    ),
];
