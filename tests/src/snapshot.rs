//! What a container tool may leave on a machine, as lines of text, to be compared whole.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::lab::Lab;

/// The state of a lab's host. Each line begins with its subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot(Vec<String>);

/// Prints one fact a line. What concerns only this very script (its processes) is left out.
const SCRIPT: &str = r#"
    label() { sed "s/^/$1: /"; }
    ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*/@if/; s/link-netnsid [0-9]*/link-netnsid/' | label link
    ip -o address | sed 's/^[0-9]*: //; s/ *\\.*//' | label address
    ip route show table all | label route
    ip rule | label rule
    ls /run/netns 2>/dev/null | label netns
    nft list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*/counter/' | label nft
    findmnt -rno TARGET,SOURCE,FSTYPE,OPTIONS | label mount
    find /sys/fs/cgroup -mindepth 1 -type d 2>/dev/null | label cgroup
    for file in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding \
        /proc/sys/net/ipv4/conf/*/route_localnet /proc/sys/net/ipv6/conf/*/forwarding \
        /proc/sys/kernel/hostname
    do
        [ ! -f $file ] || echo "sysctl: $file $(cat $file)"
    done
    ls "$MOCKER_RUN/owners" 2>/dev/null | grep '\.json$' | label state
    find "$MOCKER_RUN" -mindepth 2 -type f ! -name lock ! -path '*/owners/*' 2>/dev/null | label run
    ls "$MOCKER_ROOT/containers" "$MOCKER_ROOT/tmp" 2>/dev/null | grep -v -e '^$' -e ':$' | label store
    find /run -mindepth 1 ! -path '/run/netns*' ! -path '/run/lock*' | label file
    for process in /proc/[0-9]*; do
        name=$(readlink $process/exe 2>/dev/null) || continue        # a zombie or a thread of the kernel
        case ${process#/proc/} in $$) continue ;; esac
        read -r _ _ _ parent _ <$process/stat 2>/dev/null || continue
        [ "$parent" != $$ ] || continue
        echo "process: $name $(tr '\0' ' ' <$process/cmdline 2>/dev/null)"
    done
"#;

impl Snapshot {
    pub(crate) fn of(lab: &Lab) -> Snapshot {
        let mut lines: Vec<String> = lab.sh(SCRIPT).succeeds().stdout.lines().map(str::to_string).collect();
        lines.sort();
        Snapshot(lines)
    }

    /// The lines about a subject: link, address, route, netns, nft, mount, cgroup, sysctl, state, store, process.
    pub fn about(&self, subject: &str) -> Vec<&str> {
        let prefix = format!("{subject}: ");
        self.0.iter().filter_map(|line| line.strip_prefix(&prefix)).collect()
    }

    #[track_caller]
    pub(crate) fn assert_same(&self, lab: &Lab) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Some(difference) = self.difference(&Snapshot::of(lab)) {
            if Instant::now() > deadline {
                panic!("the machine is not as it was:\n{difference}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lines that went, marked -, and lines that came, marked +. None if all is as it was.
    pub fn difference(&self, now: &Snapshot) -> Option<String> {
        if now == self {
            return None;
        }
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (self.0.iter().collect(), now.0.iter().collect());
        let mut text = String::new();
        for line in before.difference(&after) {
            writeln!(text, "- {line}").expect("a string takes all");
        }
        for line in after.difference(&before) {
            writeln!(text, "+ {line}").expect("a string takes all");
        }
        if text.is_empty() {
            text = "the same lines, but not as often".into(); // a second process of the same command, say
        }
        Some(text)
    }
}
