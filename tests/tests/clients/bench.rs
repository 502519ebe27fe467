//! Runs a table of cases on two runtimes, one after the other in the same lab, and compares what is seen.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::{Lab, Snapshot, Terminal, binaries, demo_images, require};

/// What it shows; a script in which the client's name stands for the client in the lab, on `$RUNTIME`; the script's status;
/// a text that runc's output has (a table of mistyped commands would compare well, too).
pub type Case = (&'static str, &'static str, i32, &'static str);

/// What everybody does at a terminal: looks at it, drags its corner, stops what takes too long, and leaves.
pub fn person(terminal: &mut Terminal) {
    terminal.wait_for("# ");
    terminal.write("stty size; tty\n");
    terminal.wait_for("33 99");
    terminal.wait_for("/dev/pts/0");
    terminal.resize(50, 120);
    std::thread::sleep(Duration::from_millis(500));
    terminal.write("stty size; sleep 1000\n");
    terminal.wait_for("50 120");
    std::thread::sleep(Duration::from_millis(300));
    terminal.write("\x03");
    terminal.write("echo $((6 * 7))\n");
    terminal.wait_for("42");
    terminal.write("exit 5\n");
    terminal.wait_for("status 5");
}

/// A lab in which a client is ready, and two runtimes for it.
pub struct Bench {
    pub lab: Lab,
    prelude: String,
    /// what ends whatever a failed case has left
    clean: &'static str,
    runtimes: [PathBuf; 2],
    before: RefCell<Option<Snapshot>>,
}

/// Runs a command on a terminal; what that echoes of the end of its input is left out.
const TERMINAL: &str =
    "terminal() { script -qec \"$1\" /dev/null < /dev/null | tr -d '\\r' | sed 's/^\\^[@D]\\x08*//'; }\n";

/// What a user sees of a script.
struct Seen {
    status: i32,
    stdout: String,
    /// stderr, without the words of the runtime: those differ, and clients read of them what the tables expect
    stderr: String,
    /// with them
    said: String,
}

impl Bench {
    /// A lab for runc and mocker-exec, with the demo images in `$IMAGES`.
    pub fn new(name: &str, clean: &'static str) -> Bench {
        ["runc", "skopeo", "script"].into_iter().for_each(require);
        let images = demo_images(&["busybox", "debian", "nginx"]);
        let prelude = format!("IMAGES={}\n{TERMINAL}", images.display());
        Bench {
            lab: Lab::new(name),
            prelude,
            clean,
            runtimes: ["/usr/sbin/runc".into(), ours()],
            before: RefCell::default(),
        }
    }

    /// Another runtime in the place of mocker-exec.
    pub fn beside(mut self, other: PathBuf) -> Bench {
        self.runtimes[1] = other;
        self
    }

    /// Adds to what is run before each script.
    pub fn ready(&mut self, prelude: &str) {
        self.prelude += prelude;
    }

    /// Runs a script on both: what is made by it is there before the first case and stays.
    pub fn warm_up(&mut self, script: &str) {
        for runtime in 0..2 {
            let output = self.shell(runtime, script);
            assert_eq!(output.code(), 0, "{} cannot even do this: {output}", self.runtimes[runtime].display());
        }
        self.before.replace(Some(self.lab.snapshot()));
    }

    /// Ends the test if a case of the table is not the same on both, or leaves something.
    #[track_caller]
    pub fn compare(&self, cases: &[Case]) {
        let differences = self.differences(cases);
        assert!(differences.is_empty(), "{} of {} cases:\n{}", differences.len(), cases.len(), differences.join("\n"));
    }

    /// What `compare` ends the test for.
    pub fn differences(&self, cases: &[Case]) -> Vec<String> {
        let only = std::env::var("CASE").unwrap_or_default(); // for a person at work on one case
        let cases = cases.iter().filter(|case| case.0.contains(&only));
        cases.flat_map(|case| self.compare_one(case)).collect()
    }

    fn compare_one(&self, (name, script, status, text): &Case) -> Vec<String> {
        let mut wrong = Vec::new();
        let begun = Instant::now();
        let [theirs, ours] = [0, 1].map(|runtime| {
            let seen = self.run(runtime, script);
            if let Some(left) = self.left() {
                wrong.push(format!("== {name}: {} leaves\n{left}", self.runtimes[runtime].display()));
                self.shell(runtime, self.clean);
                self.before.replace(Some(self.lab.snapshot())); // said once
            }
            seen
        });
        eprintln!("{:5} ms: {name}", begun.elapsed().as_millis()); // shown of a test that fails
        if theirs.status != *status || !theirs.stdout.contains(text) && !theirs.stderr.contains(text) {
            wrong.push(format!("== {name}: the table expects {status} and {text:?} of runc\n{}", theirs.show("runc")));
        } else if !theirs.is_like(&ours) {
            wrong.push(format!("== {name}\n{script}\n{}", theirs.difference(&ours)));
        }
        wrong
    }

    fn run(&self, runtime: usize, script: &str) -> Seen {
        let output = self.shell(runtime, script);
        let [stdout, said] = [&output.stdout, &output.stderr].map(|text| on_purpose(plain(text, &self.runtimes)));
        let [stdout, stderr] = [&stdout, &said].map(|text| without_runtimes_words(text));
        Seen { status: output.code(), stdout, stderr, said }
    }

    fn shell(&self, runtime: usize, script: &str) -> tests::Output {
        let runtime = self.runtimes[runtime].display();
        let script = format!("export RUNTIME={runtime}\n{}{script}", self.prelude);
        self.lab.program("timeout").args(["--kill-after", "5", "40", "sh", "-c", &script]).run()
    }

    /// Has a person sit at a terminal, once for each runtime.
    pub fn at_a_terminal(&self, script: &str, mut person: impl FnMut(&mut Terminal)) {
        for runtime in &self.runtimes {
            let script = format!("export RUNTIME={}\n{}{script}", runtime.display(), self.prelude);
            let mut terminal = self.lab.terminal(&script, 33, 99);
            person(&mut terminal);
            terminal.wait();
            assert_eq!(self.left(), None, "{} leaves something", runtime.display());
        }
    }

    /// What is there that was not before, if it does not go within a moment.
    fn left(&self) -> Option<String> {
        let before = self.before.borrow();
        let before = before.as_ref().expect("warm_up() comes first");
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let difference = before.difference(&self.lab.snapshot())?;
            // podman's store is a mount at times, and at times not.
            if difference.lines().all(|line| line.contains(" mount: ") && line.contains("/podman/root/overlay ")) {
                return None;
            }
            if Instant::now() > deadline {
                return Some(difference);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The runtime under test.
pub fn ours() -> PathBuf {
    binaries().canonicalize().expect("the tools' directory").join("mocker-exec")
}

impl Seen {
    fn is_like(&self, other: &Seen) -> bool {
        (self.status, &self.stdout, &self.stderr) == (other.status, &other.stdout, &other.stderr)
    }

    fn show(&self, runtime: &str) -> String {
        format!("--- {runtime}: status {}\n{}--- stderr\n{}", self.status, self.stdout, self.said)
    }

    /// The lines that only one of them has; all that is said.
    fn difference(&self, other: &Seen) -> String {
        let mut text = format!("--- status {} and {}\n", self.status, other.status);
        for (one, other) in [(&self.stdout, &other.stdout), (&self.said, &other.said)] {
            for (sign, these, those) in [("runc ", one, other), ("other", other, one)] {
                let ours = these.lines().filter(|line| !those.lines().any(|that| that == *line));
                text.extend(ours.map(|line| format!("{sign}| {line}\n")));
            }
        }
        if text.lines().count() == 1 {
            let pairs =
                (self.stdout.lines().zip(other.stdout.lines())).chain(self.said.lines().zip(other.said.lines()));
            let first = pairs.into_iter().find(|(one, other)| one != other);
            text += &format!("the order of lines, or how often they come; first {first:?}\n");
        }
        text
    }
}

/// The text without what is another in each run: numbers in hex that name things, the runtime's name, the time of a message.
fn plain(text: &str, runtimes: &[PathBuf; 2]) -> String {
    let paths: BTreeSet<String> = runtimes.iter().map(|path| path.display().to_string()).collect();
    let names = paths.iter().filter_map(|path| path.rsplit('/').next());
    let text = paths.iter().fold(text.to_string(), |text, path| text.replace(path.as_str(), "RUNTIME"));
    let text = words(&text, |word| if names.clone().any(|name| name == word) { "RUNTIME" } else { word });
    let text = words(&text, |word| if is_name_in_hex(word) { "ID" } else { word });
    let line = |line: &str| match line.strip_prefix("time=\"").and_then(|rest| rest.split_once('"')) {
        Some((_, rest)) => format!("time=\"TIME\"{rest}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn is_name_in_hex(word: &str) -> bool {
    let word = word.rsplit('-').next().unwrap_or(word); // of libpod-0123…
    [12, 32, 64].contains(&word.len()) && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Gives each word, a run of letters, digits and `-`, to `change`.
fn words<'a>(text: &'a str, change: impl Fn(&'a str) -> &'a str) -> String {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let mut changed = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let inside = belongs(rest.as_bytes()[0]);
        let length = rest.bytes().position(|byte| belongs(byte) != inside).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        changed += if inside { change(word) } else { word };
        rest = after;
    }
    changed
}

/// Where we are not like runc 1.1.5 on purpose, to be read as if it were not so: a text, what it is read as, and why.
const ON_PURPOSE: [(&str, &str, &str); 4] = [
    (
        "SigIgn:\t0000000080000000",
        "SigIgn:\t0000000000000000",
        "what a client in Go ignores is not for its containers to ignore",
    ),
    ("c 10:200 rwm\n", "", "tun and tap are for those who ask; runc 1.2 gives them to nobody, either"),
    (",size=0k,nr_inodes=1", "", "a masked directory is empty: the file system in its place has room for nothing"),
    (
        "/ /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tmpfs",
        "/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tmpfs",
        "it is asked to be read-only; runc 1.1 makes only what is mounted on it so",
    ),
];

fn on_purpose(text: String) -> String {
    ON_PURPOSE.iter().fold(text, |text, (what, read_as, _)| text.replace(what, read_as))
}

/// Where a client quotes the runtime: what stands before the quotation, and what after it.
const QUOTATIONS: [(&str, &str); 6] = [
    ("Error: RUNTIME: ", ": OCI "),
    ("Error: OCI runtime error: RUNTIME: ", "\n"),
    ("OCI runtime create failed: ", ": unknown"),
    ("OCI runtime exec failed: ", ": unknown"),
    ("did not terminate successfully: exit status 1: ", ": unknown"),
    ("error running container: from RUNTIME ", ": exit status"),
];

/// A quotation of the runtime's words, of one line or of several, becomes `…`; what the client makes of them stays.
fn without_runtimes_words(text: &str) -> String {
    let mut shown = String::new();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some((before, after)) = QUOTATIONS.iter().find(|(before, _)| line.contains(before)) else {
            shown += line;
            continue;
        };
        let mut said = line.to_string();
        while let Some(more) = lines.next_if(|line| line.starts_with("  ")) {
            said += more; // why, likely, try
        }
        let (start, words) = said.split_once(before).expect("it contains it");
        let end = words.rfind(after).map_or("\n", |at| &words[at..]);
        shown += &format!("{start}{before}…{end}");
    }
    shown
}

#[test]
fn what_differs_is_noticed_and_what_is_left() {
    let bench = Bench::new("noticed", crate::podman::CLEAN);
    let other = bench.lab.work().join("other");
    let leave = bench.lab.work().join("leave"); // podman gives `delete` no $HOME
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in kill*) exit 0 ;; *delete*) [ ! -e {} ] || touch /run/left ;; esac\n\
         /usr/sbin/runc \"$@\" || exit 1\n",
        leave.display()
    );
    std::fs::write(&other, script).expect("the lab's directory");
    bench.lab.sh("chmod 755 other").succeeds();
    tests::clients::podman(&bench.lab);
    let bench = &mut bench.beside(other);
    bench.warm_up(&format!("{} podman run --network none --rm busybox true", crate::podman::IMAGES));
    const ALIKE: Case = ("alike", "podman run --network none --rm busybox echo hi", 0, "hi\n");
    const KILLED: Case = (
        "killed",
        "podman run --network none -d --name c busybox sleep 9; podman kill c; sleep 1; podman ps -q; podman rm -f -t 0 c",
        0,
        "ID",
    );
    assert_eq!(bench.differences(&[ALIKE]), [""; 0]);
    let found = bench.differences(&[KILLED]);
    assert!(found.len() == 1 && found[0].starts_with("== killed\n"), "{found:?}");
    let found = bench.differences(&[("missing", "podman run --network none --rm busybox nope", 126, "")]);
    assert!(found.len() == 1 && found[0].contains("the table expects 126"), "{found:?}");
    std::fs::write(leave, "").expect("the lab's directory");
    let found = bench.differences(&[ALIKE]);
    assert!(found.len() == 1 && found[0].contains("other leaves\n+ file: /run/left"), "{found:?}");
}
