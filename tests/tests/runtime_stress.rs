//! mocker-exec as a runtime under load, and killed: afterwards nothing is left, and `state` has told the truth all along.
//!
//! `$MOCKER_STRESS` is how many containers one after the other [300]; `$MOCKER_SEED` repeats a run of random moments.

use serde_json::{Value, json};
use tests::{Runtime, require};

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Pseudo-random numbers (xorshift64), the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A piece of shell with `rt`, the runtime, and `gone ID`, which fails unless nothing of a container is left.
fn shell(runtime: &Runtime, script: &str) -> tests::Run {
    let functions = format!(
        "rt() {{ {}; }}
        quiet() {{ rt \"$@\" </dev/null >>out 2>>err; }}
        gone() {{
            [ ! -e root ] || [ -z \"$(ls -A root)\" ] || {{ echo \"left in the state root: $(find root)\" >&2; return 1; }}
            left=$(find /sys/fs/cgroup -mindepth 2 -type d -name $1)
            [ -z \"$left\" ] || {{ echo \"groups left: $left\" >&2; return 1; }}
        }}",
        runtime.line("\"$@\"")
    );
    // From a file: a thousand lines are more than one argument may have.
    std::fs::write(runtime.lab.work().join("stress"), format!("{functions}\n{script}")).unwrap();
    runtime.lab.shell("sh ./stress").timeout(std::time::Duration::from_secs(340))
}

#[test]
fn containers_one_after_the_other_leave_nothing() {
    let runtime = Runtime::new("loop");
    runtime.bundle("one", &[]);
    let before = runtime.lab.snapshot();
    let count = number("MOCKER_STRESS", 300);
    // The end of the program is awaited by delete, which refuses until it has come.
    let script = format!(
        "for number in $(seq {count}); do
            quiet create --bundle one c$number && quiet start c$number || {{ cat err; exit 1; }}
            until rt delete c$number 2>refused; do grep -q 'not stopped' refused || {{ cat refused; exit 1; }}; done
            gone c$number || exit 1
        done"
    );
    shell(&runtime, &script).run().succeeds();
    runtime.lab.assert_same(&before);
}

#[test]
fn a_hundred_containers_at_once_know_their_states() {
    let runtime = Runtime::new("hundred");
    runtime.script("one", "exec sleep 1000", &[]);
    let before = runtime.lab.snapshot();
    let all = |arguments: &str| {
        let line = runtime.line(&arguments.replace("ID", "$0"));
        shell(&runtime, &format!("seq -f c%g 100 | xargs -P 25 -n 1 sh -c '{line} </dev/null >out-$0 2>err-$0'")).run()
    };
    let states = |status: &str, count: usize| {
        let listed = runtime.call("list --format json").succeeds().json();
        let listed = listed.as_array().cloned().unwrap_or_default();
        assert_eq!(listed.len(), count);
        let others: Vec<&Value> = listed.iter().filter(|state| state["status"] != status).collect();
        assert!(others.is_empty(), "not {status}: {others:?}");
    };
    all("create --bundle one ID").succeeds();
    states("created", 100);
    all("start ID").succeeds();
    states("running", 100);
    all("state ID").succeeds();
    for id in (1..=100).map(|number| format!("c{number}")) {
        let state: Value = serde_json::from_str(&runtime.text(&format!("out-{id}"))).unwrap();
        assert_eq!((&state["id"], &state["status"]), (&json!(id), &json!("running")));
    }
    all("exec ID /bin/true").succeeds();
    all("kill ID KILL").succeeds();
    all("delete --force ID").succeeds();
    assert_eq!(runtime.left(), Vec::<String>::new());
    runtime.lab.sh("rm -f out-* err-*").succeeds();
    runtime.lab.assert_same(&before);
}

/// What a container's state must be true to: shell that fails if `state ID` says what /proc does not.
const TRUTH: &str = r#"
    # What ends or begins just now may be otherwise a moment later: a lie is what stays one.
    truth() {
        for try in $(seq 20); do
            ! is_true $1 2>lie || return 0
            busybox usleep 10000
        done
        cat lie >&2
        return 1
    }
    is_true() {
        if ! rt state $1 >told 2>why; then
            grep -q 'does not exist' why || { echo "state fails:" >&2; cat why >&2; return 1; }
            return 0
        fi
        status=$(sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p' told); pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' told)
        exe=$(readlink /proc/${pid:-0}/exe); life=$(sed 's/.*) //; s/ .*//' /proc/${pid:-0}/stat 2>/dev/null)
        case $status in
        created) case $exe in */bin/busybox | '') echo "created, but $pid runs '$exe'" >&2; return 1 ;; esac ;;
        running) case $exe in */bin/busybox) ;; *) echo "running, but $pid is '$exe' $life" >&2; return 1 ;; esac ;;
        stopped) case $life in '' | Z | X) ;; *) echo "stopped, but $pid lives ($life)" >&2; return 1 ;; esac ;;
        *) echo "$1 is $status though nobody is at work" >&2; return 1 ;;
        esac
    }
    # Afterwards: the truth, an end by force, nothing left, and the id is free.
    aftermath() {
        truth $1 && rt delete --force $1 && gone $1 || return 1
        ! rt state $1 2>/dev/null || { echo "$1 is there after its deletion" >&2; return 1; }
    }
    prepare() {
        case $1 in
        create | run) ;;
        start) quiet create --bundle one victim ;;
        delete) quiet create --bundle one victim && quiet kill victim KILL
            for try in $(seq 100); do rt state victim | grep -q stopped && break; done ;;
        *) quiet create --bundle one victim && quiet start victim ;;
        esac
    }
"#;

const OPERATIONS: [(&str, &str); 6] = [
    ("create", "create --bundle one victim"),
    ("start", "start victim"),
    ("delete", "delete victim"),
    ("force", "delete --force victim"),
    ("exec", "exec victim /bin/sleep 0.01"),
    ("run", "run --bundle one victim"),
];

#[test]
fn killed_at_a_random_moment_it_leaves_nothing() {
    let runtime = Runtime::new("kill-random");
    runtime.script("one", "sleep 0.2", &[]);
    let before = runtime.lab.snapshot();
    let seed = number("MOCKER_SEED", std::process::id().into()).max(1);
    let mut random = Random(seed);
    for _ in 0..8 {
        random.below(1); // small seeds begin alike
    }
    let mut script = String::from(TRUTH);
    for _ in 0..number("MOCKER_STRESS", 300) / 2 {
        let (name, arguments) = OPERATIONS[random.below(OPERATIONS.len() as u64) as usize];
        let microseconds = random.below(12_000);
        let line = runtime.line(arguments);
        script += &format!(
            "prepare {name} && {{ sh -c 'exec {line}' </dev/null >>out 2>>err & busybox usleep {microseconds}; kill -9 $! 2>/dev/null
            wait $!; }} 2>/dev/null; aftermath victim || {{ echo 'after {name}, killed at {microseconds} us' >&2; exit 1; }}\n"
        );
    }
    script += "quiet create --bundle one victim && quiet start victim && rt delete --force victim && gone victim\n";
    let out = shell(&runtime, &script).run();
    assert_eq!(out.code(), 0, "MOCKER_SEED={seed}: {}", out.stderr);
    runtime.lab.assert_same(&before);
}

/// System calls that change nothing outside of the process: killed there it is as if killed at the call before.
const HARMLESS: &str = "mmap|munmap|mremap|brk|mprotect|madvise|rt_sig.*|sigaltstack|.*stat.*|statx|lseek|getrandom|get.*|prlimit64|\
    arch_prctl|set_tid_address|set_robust_list|rseq|poll|ppoll|sched_.*|read|pread64|readlink.*|close|fcntl|futex|access|execve|exit.*";

/// Kills an operation at each of its system calls that does something, by fault injection.
fn killed_at_each_call(operation: &str) {
    require("strace");
    let runtime = Runtime::new(operation);
    runtime.script("one", if operation == "run" { "true" } else { "exec sleep 1000" }, &[]);
    let before = runtime.lab.snapshot();
    let (_, arguments) = OPERATIONS.iter().find(|(name, _)| *name == operation).unwrap();
    let line = runtime.line(arguments);
    let script = format!(
        "{TRUTH}
        prepare {operation} && strace -qq -o trace {line} </dev/null >>out 2>>err || {{ cat err; exit 1; }}
        rt delete --force victim
        sed 's/(.*//' trace | grep -vxE '{HARMLESS}' | sort | uniq -c > calls
        while read -r count call; do
            for number in $(seq $count); do
                prepare {operation} || {{ echo \"cannot prepare after $call $number\" >&2; exit 1; }}
                strace -qq -o /dev/null -e inject=$call:signal=KILL:when=$number {line} </dev/null >>out 2>>err
                aftermath victim || {{ echo \"after {operation}, killed at $call $number\" >&2; exit 1; }}
                echo $call
            done
        done < calls"
    );
    let out = shell(&runtime, &script).run().succeeds();
    assert!(out.stdout.lines().count() > 3, "it was killed: {}", out.stdout);
    runtime.lab.assert_same(&before);
}

#[test]
fn create_killed_at_each_call_leaves_nothing() {
    killed_at_each_call("create");
}

#[test]
fn start_killed_at_each_call_leaves_nothing() {
    killed_at_each_call("start");
}

#[test]
fn delete_killed_at_each_call_leaves_nothing() {
    killed_at_each_call("delete");
}

#[test]
fn exec_killed_at_each_call_leaves_nothing() {
    killed_at_each_call("exec");
}

#[test]
fn run_killed_at_each_call_leaves_nothing() {
    killed_at_each_call("run");
}

/// How many of `count` processes that do the same at once succeed.
fn at_once(runtime: &Runtime, count: usize, arguments: &str) -> usize {
    let line = runtime.line(arguments);
    let script = format!(
        "for number in $(seq {count}); do {{ {line} </dev/null >out-$number 2>err-$number && echo done; }} & done; wait"
    );
    shell(runtime, &script).run().succeeds().stdout.lines().count()
}

#[test]
fn of_many_at_once_exactly_one_creates_starts_and_deletes() {
    let runtime = Runtime::new("race");
    runtime.script("one", "exec sleep 1000", &[]);
    let before = runtime.lab.snapshot();
    for _ in 0..5 {
        assert_eq!(at_once(&runtime, 8, "create --bundle one same"), 1, "created");
        assert_eq!(runtime.status("same"), "created");
        assert_eq!(at_once(&runtime, 8, "start same"), 1, "started");
        assert_eq!(runtime.status("same"), "running");
        assert_eq!(at_once(&runtime, 8, "delete --force same"), 8, "whoever comes late finds nothing to do");
        assert_eq!(runtime.left(), Vec::<String>::new());
    }
    runtime.lab.sh("rm -f out-* err-*").succeeds();
    runtime.lab.assert_same(&before);
}

#[test]
fn others_at_work_on_the_same_container_never_see_a_half_state() {
    let runtime = Runtime::new("mixed");
    runtime.script("one", "exec sleep 1000", &[]);
    let before = runtime.lab.snapshot();
    let script = format!(
        "{TRUTH}
        touch going
        watch() {{
            while [ -e going ]; do
                if rt state same >state-$1 2>why-$1; then
                    jq -e '.status | IN(\"creating\", \"created\", \"running\", \"stopped\")' state-$1 >/dev/null || cat state-$1 >&2
                else
                    grep -q 'does not exist' why-$1 || cat why-$1 >&2
                fi
                rt list -q >/dev/null 2>why-$1 || cat why-$1 >&2
            done
        }}
        watch 1 & watch 2 &
        for round in $(seq 15); do
            quiet create --bundle one same
            quiet start same & quiet start same & quiet kill same KILL & quiet delete same &
            busybox usleep 20000
            rt delete --force same >/dev/null
        done
        rm going; wait; rt delete --force same; gone same"
    );
    let out = shell(&runtime, &script).run().succeeds();
    assert_eq!(out.stderr, "");
    runtime.lab.sh("rm -f state-* why-*").succeeds();
    runtime.lab.assert_same(&before);
}
