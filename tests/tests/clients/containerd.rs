//! containerd by `ctr`: the shim that docker and Kubernetes use, too, with a root file system of its own idea of paths.

use crate::bench::{Bench, Case, ours};

const CLEAN: &str =
    "for c in $(ctr c ls -q); do ctr task kill -s KILL $c; sleep 0.2; ctr task rm -f $c; ctr c rm $c; done";

#[test]
fn ctr_cannot_tell_the_difference() {
    let mut bench = Bench::new("ctr", CLEAN);
    let _daemon = tests::clients::containerd(&bench.lab);
    bench.ready("I=busybox:latest; ended() { until ctr task ls | grep -q \"^$1 .*STOPPED\"; do sleep 0.05; done; }\n");
    bench.warm_up(
        "ctr image ls -q | grep -q . || { skopeo copy -q oci:$IMAGES/busybox:latest oci-archive:i.tar:busybox:latest &&
            ctr image import --base-name busybox i.tar; } > /dev/null
         ctr run --rm $I warm true",
    );
    bench.compare(&CASES);
    assert!(ours().is_file());
}

const CASES: [Case; 14] = [
    ("output and status", "ctr run --rm $I c sh -c 'echo out; echo err >&2; exit 7'", 7, "out\n"),
    (
        "what fails",
        "ctr run --rm $I c nope; echo $?; ctr run --rm $I d /etc/passwd; echo $?; ctr run --rm --cwd /nodir $I e pwd; ctr c ls -q",
        0,
        "1\n1\n",
    ),
    (
        "all that a program sees",
        "ctr run --rm --env A=b $I c sh -c 'id; env | sort; grep -e Cap -e NoNew -e Sec -e SigIgn /proc/self/status; cat /proc/self/limits
            cut -d\" \" -f4- /proc/self/mountinfo | sed \"s/ - / /; s,lowerdir=.*,,; s,/var/tmp/[^ ]*/,/,; s, [a-z]*:[0-9]* , ,\" | sort
            cat /proc/1/cgroup; stat -c \"%A %u %g %t:%T %N\" /dev/* /dev/pts/* | sort'",
        0,
        "uid=0(root)",
    ),
    (
        "limits",
        "ctr run --rm --memory-limit 33554432 --cpus 0.5 --read-only --mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro --mount type=bind,src=$HOME,dst=/mine,options=rbind:ro $I c sh -c '
            touch /x; touch /mine/x; ls /mine | grep containerd; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us'",
        0,
        "33554432\n50000\n",
    ),
    (
        "privileged, a device, no seccomp, seccomp",
        "ctr run --rm --device /dev/null --seccomp --cap-add CAP_SYS_TIME --cap-drop CAP_CHOWN $I c grep -e Cap -e Sec /proc/self/status",
        0,
        "Seccomp:\t2",
    ),
    (
        "exec",
        "ctr run -d $I c sleep 1000; ctr task exec --exec-id x --cwd /tmp --user 7 c sh -c 'id; pwd; echo err >&2; exit 3'; echo $?
         ctr task exec --exec-id y c nope; echo $?; ctr task exec --exec-id z c sh -c 'kill -9 $$'; echo $?
         terminal 'ctr task exec -t --exec-id t c sh -c \"sleep 0.3; tty; test -t 1 && echo terminal; sleep 0.3\"'
         ctr task kill -s KILL c; ended c; ctr task rm c; ctr c rm c",
        0,
        "uid=7",
    ),
    (
        "a terminal", // ctr loses what comes at the very beginning and end
        "terminal 'ctr run --rm -t busybox:latest c sh -c \"sleep 0.3; tty; test -t 0 && echo terminal; stty size; sleep 0.3; exit 4\"'",
        0,
        "/dev/pts/0",
    ),
    (
        "in the background",
        "ctr run -d $I c sleep 1000; ctr task ls | awk '{ print $1, $3 }'; ctr task ps c | wc -l; ctr task metrics c | grep -c -e pids.current -e memory.usage
         ctr c info c | grep -c runc; ctr task kill -s TERM c; ctr task kill -s KILL c; ended c; ctr task ls | awk '{ print $1, $3 }'
         ctr task kill c; echo $?; ctr task rm c; ctr c rm c",
        0,
        "c RUNNING",
    ),
    (
        "pause and resume",
        "ctr run -d $I c sleep 1000; ctr task pause c; ctr task ls | awk '{ print $1, $3 }'; ctr task pause c; echo $?
         timeout 5 ctr task exec --exec-id x c true; echo $?; ctr task resume c; ctr task ls | awk '{ print $1, $3 }'; ctr task resume c; echo $?
         ctr task exec --exec-id y c echo again; ctr task kill -s KILL c; ended c; ctr task rm c; ctr c rm c",
        0,
        "c PAUSED",
    ),
    (
        "kill --all, and the namespace of the host",
        "ctr run -d --with-ns pid:/proc/self/ns/pid $I c sh -c 'sleep 1111 & sleep 1111'; sleep 0.2; pgrep -fc 'sleep 1111'
         ctr task kill --all -s KILL c; ended c; ctr task rm c; ctr c rm c; pgrep -fc 'sleep 1111'",
        0,
        "2\n",
    ),
    (
        "removed while it runs",
        "ctr run -d $I c sleep 1000; ctr task rm c; echo $?; ctr task rm -f c; echo $?; ctr task ls -q; ctr c rm c; ctr c ls -q",
        0,
        "",
    ),
    (
        "out of memory",
        "ctr events > events & e=$!; sleep 0.1; ctr run --rm --memory-limit 33554432 $I c sh -c 'sleep 1; exec tail /dev/zero'; echo $?; sleep 0.2; kill $e; grep -o '/tasks/[a-z]*' events; rm events",
        0,
        "137\n",
    ),
    (
        "its shim is killed",
        "ctr run -d $I c sleep 1000; pkill -KILL -f '[c]ontainerd-shim-runc-v2.* -id c '; sleep 0.5; ctr task ls -q; ctr c rm c; echo $?; pgrep -x sleep | wc -l
         rm -r /run/containerd/fifo/* /run/containerd/s/*",
        0,
        "0\n1\n",
    ),
    (
        "deleted behind its back",
        "ctr run -d $I c sleep 1000; $RUNTIME --root /run/containerd/runc/default delete --force c; echo $?
         ctr task rm -f c; echo $?; ctr c rm c; echo $?",
        0,
        "0\n",
    ),
];
