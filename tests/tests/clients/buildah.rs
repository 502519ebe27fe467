//! buildah, and `podman build`: they wait for the program themselves, and ask `state` for its end.

use crate::bench::{Bench, Case};

#[test]
fn images_are_built_the_same() {
    let mut bench = Bench::new("buildah", "buildah rm -a; podman rm -af -t 0");
    tests::clients::podman(&bench.lab);
    bench.warm_up(&format!("{} podman run --network none --rm busybox true", crate::podman::IMAGES));
    bench.compare(&CASES);
}

const CASES: [Case; 8] = [
    (
        "build with RUN",
        "printf '%s\\n' 'FROM localhost/busybox' 'ENV A=b' 'RUN echo $A > /made && id && pwd' 'USER nobody' 'WORKDIR /tmp' 'RUN id; pwd; touch x; ls -l x | cut -c1-30' \
            'RUN --mount=type=tmpfs,target=/x touch /x/y && ls /x' 'CMD cat /made' > Containerfile
         buildah bud -q --layers=false --network none -t mine . | wc -l; buildah bud --layers=false --network none -t mine . 2>&1 | grep -v -e ^Getting -e ^Copying -e ^Writing -e ^Storing -e '^-->'
         podman run --network none --rm mine; podman rmi -f mine > /dev/null",
        0,
        "uid=65534(nobody)",
    ),
    (
        "a RUN that fails",
        "printf '%s\\n' 'FROM localhost/busybox' 'RUN echo before; exit 5' > Containerfile; buildah bud --network none -t mine .; echo $?; buildah ps -q",
        0,
        "before\n",
    ),
    (
        "a RUN whose program is missing",
        "printf '%s\\n' 'FROM localhost/busybox' 'RUN [\"nope\"]' > Containerfile; buildah bud --network none -t mine . 2>/dev/null; echo $?; podman build --network none -t mine . 2>/dev/null; echo $?",
        0,
        "\n",
    ),
    (
        "podman build",
        "printf '%s\\n' 'FROM localhost/busybox' 'RUN grep -e Cap -e Sec /proc/self/status; cut -d: -f2,3 /proc/self/cgroup | grep -c buildah; hostname | wc -c; cat /proc/self/limits' \
            'RUN cut -d\" \" -f5,6 /proc/self/mountinfo | sort' > Containerfile
         podman build --network none --no-cache -t mine . | grep -v -e '^[0-9a-f]\\{64\\}$' -e '^-->' ; podman rmi mine > /dev/null",
        0,
        "CapEff:",
    ),
    (
        "limits of a build",
        "printf '%s\\n' 'FROM localhost/busybox' 'RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes; ulimit -n' > Containerfile
         buildah bud --network none -m 64m --ulimit nofile=100:200 --layers=false -t mine . | grep -v -e '^[0-9a-f]\\{64\\}$' -e '^-->'; podman rmi mine > /dev/null",
        0,
        "100\n",
    ),
    (
        "from, run, config, commit",
        "c=$(buildah from localhost/busybox); buildah run --network none $c sh -c 'echo out; echo err >&2; exit 7'; echo $?; echo in | buildah run --network none $c cat
         buildah run --network none --user 7:8 --workingdir /tmp $c sh -c 'id; pwd'; buildah run --network none -v $HOME:/h:ro $c sh -c 'touch /h/x'; echo $?
         buildah run --network none $c nope; echo $?; buildah run --network none $c /etc/passwd; echo $?; buildah rm $c > /dev/null",
        0,
        "out\n7\n",
    ),
    (
        "a terminal",
        "c=$(buildah from localhost/busybox); terminal \"buildah run --network none -t $c sh -c 'tty; test -t 0 && echo terminal'\"; buildah rm $c > /dev/null",
        0,
        "/dev/pts/0",
    ),
    (
        "interrupted",
        "c=$(buildah from localhost/busybox); buildah run --network none $c sh -c 'trap \"echo term; exit 3\" TERM; echo ready; while :; do sleep 0.05; done' > out & b=$!
         touch out; until grep -q ready out; do sleep 0.05; done; kill -TERM $(pgrep -x buildah | head -1); wait $b; echo $?; cat out; rm out; buildah rm $c > /dev/null",
        0,
        "ready\n",
    ),
];
