//! Capabilities: the rights of root, cut into 41 pieces, so that a container's root can have some and not others.
//!
//! In: `process.capabilities` of the document, five sets. What each decides (capabilities(7)):
//! - bounding: what can be had at all, whatever program is run; only ever shrinks
//! - permitted: what may be used, once made effective
//! - effective: what the kernel looks at
//! - inheritable, ambient: what a program of another user than root keeps through execve
//!
//! Order: the bounding set while CAP_SETPCAP is still held, then the user (with PR_SET_KEEPCAPS, or the change clears
//! all), then the other sets.

use std::fmt;

use mocker_common::error::Error;
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use serde_json::Value;

use crate::calls::explained;

/// By number (linux/capability.h).
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets, a bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Sets {
    /// Reads `process.capabilities`; absent, all sets are empty. Names that no capability has come back beside it: the
    /// specification wants a warning of them, not a failure, since a newer kernel may have them.
    pub fn from_document(capabilities: &Value) -> Result<(Sets, Vec<String>), Error> {
        let mut sets = Sets::default();
        let mut unknown = Vec::new();
        for (key, set) in [
            ("bounding", &mut sets.bounding),
            ("effective", &mut sets.effective),
            ("permitted", &mut sets.permitted),
            ("inheritable", &mut sets.inheritable),
            ("ambient", &mut sets.ambient),
        ] {
            let names = match capabilities.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(names)) => names.iter().map(Value::as_str).collect::<Option<Vec<&str>>>(),
                Some(_) => None,
            };
            let names = names.ok_or_else(|| {
                Error::new(format!("cannot read process.capabilities.{key}: it is not a list of names"))
                    .hint("jq .process.capabilities")
            })?;
            for name in names {
                match number(name) {
                    Some(number) => *set |= 1 << number,
                    None if unknown.iter().any(|known| known == name) => {}
                    None => unknown.push(name.to_string()),
                }
            }
        }
        Ok((sets, unknown))
    }

    /// Takes out what cannot be given. Returns the names of what is not `available`, or not permitted though it is to be
    /// effective. Ambient ones that are not inheritable go without a word: `runc spec` asks for them.
    pub fn limit_to(&mut self, available: u64) -> Vec<String> {
        let asked = self.bounding | self.permitted | self.inheritable | self.effective | self.ambient;
        let without_permission = self.effective & !self.permitted;
        self.bounding &= available;
        self.permitted &= available;
        self.inheritable &= available;
        self.effective &= self.permitted;
        self.ambient &= self.permitted & self.inheritable;
        names(asked & !available | without_permission).map(str::to_string).collect()
    }

    /// The same without one capability.
    pub fn without(self, name: &str) -> Sets {
        let keep = number(name).map_or(u64::MAX, |number| !(1 << number));
        Sets {
            bounding: self.bounding & keep,
            effective: self.effective & keep,
            permitted: self.permitted & keep,
            inheritable: self.inheritable & keep,
            ambient: self.ambient & keep,
        }
    }
}

/// What this process could hand on: within its bounding set and permitted to it.
pub fn available() -> Result<u64, Error> {
    let mut header = Header::of_this_process();
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 of the header asks for two halves, and there is room for two.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) } != 0 {
        let cause = std::io::Error::last_os_error();
        return Err(Error::new(format!("cannot read the capabilities of this process: {cause}")));
    }
    let permitted = u64::from(halves[0].permitted) | u64::from(halves[1].permitted) << 32;
    Ok(permitted & bounding())
}

/// The bounding set of this process. Capabilities the kernel does not know are not in it.
pub fn bounding() -> u64 {
    // SAFETY: takes numbers only. −1 (EINVAL): above the last capability of this kernel.
    let held = |number: &u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *number, 0, 0, 0) } == 1;
    (0..64).filter(held).fold(0, |set, number| set | 1 << number)
}

/// Takes what the container must never have out of the bounding set. Before the user is changed.
pub fn drop_bounding(sets: &Sets) -> Result<(), Error> {
    let surplus = bounding() & !sets.bounding;
    if surplus == 0 {
        return Ok(());
    }
    step(DropBounding(surplus))
        .because("a setuid-root program or a file capability in the image would else bring back what is dropped below")
}

/// Gives this process the other sets, exactly. After the user is changed.
pub fn apply(sets: &Sets) -> Result<(), Error> {
    step(SetCapabilities(*sets))
        .because("root without these is root in its own files only: it cannot mount, load modules or trace the host")?;
    if sets.ambient != 0 {
        step(RaiseAmbient(sets.ambient))
            .because("asked for: a user that is not root loses all others at execve, and keeps the ambient ones")?;
    }
    Ok(())
}

/// prctl(2), PR_CAPBSET_DROP, for each capability of a set.
pub struct DropBounding(pub u64);

explained!(DropBounding, "capabilities(7), PR_CAPBSET_DROP(2const)", |this| {
    call: format!("prctl(PR_CAPBSET_DROP, {})", Listed(this.0, "|")),
    aim: "drop capabilities from the bounding set".to_string(),
    by_hand: format!("capsh --drop={} -- …", Listed(this.0, ",").to_string().to_lowercase()),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_SETPCAP", "run it as root; grep Cap /proc/self/status"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for DropBounding {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        for number in numbers(self.0) {
            // SAFETY: takes numbers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                return Err(Cause::last().said(format!("at {}", Listed(1 << number, ""))));
            }
        }
        Ok(())
    }
}

/// capset(2).
pub struct SetCapabilities(pub Sets);

explained!(SetCapabilities, "capset(2)", |this| {
    call: format!(
        "capset({{effective={}, permitted={}, inheritable={}}})",
        Listed(this.0.effective, "|"), Listed(this.0.permitted, "|"), Listed(this.0.inheritable, "|"),
    ),
    aim: "set the container's capabilities".to_string(),
    by_hand: format!("capsh --caps={}+ep -- …", Listed(this.0.permitted, ",").to_string().to_lowercase()),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("a capability was asked for that this process does not hold", "grep Cap /proc/self/status"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetCapabilities {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let Sets { effective, permitted, inheritable, .. } = self.0;
        let half = |shift: u32| Half {
            effective: (effective >> shift) as u32,
            permitted: (permitted >> shift) as u32,
            inheritable: (inheritable >> shift) as u32,
        };
        let mut header = Header::of_this_process();
        let halves = [half(0), half(32)];
        // SAFETY: version 3 of the header announces two halves, and there are two.
        match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Cause::last()),
        }
    }
}

/// prctl(2), PR_CAP_AMBIENT_RAISE, for each capability of a set.
pub struct RaiseAmbient(pub u64);

explained!(RaiseAmbient, "capabilities(7), PR_CAP_AMBIENT(2const)", |this| {
    call: format!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {})", Listed(this.0, "|")),
    aim: "raise ambient capabilities".to_string(),
    by_hand: format!("setpriv --ambient-caps +{} …", Listed(this.0, ",+").to_string().to_lowercase().replace("cap_", "")),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("it is not both permitted and inheritable, or a secure bit forbids it", "jq .process.capabilities"),
        libc::EINVAL => diagnosis("the kernel is older than 4.3", "uname -r"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for RaiseAmbient {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        for number in numbers(self.0) {
            // SAFETY: takes numbers only.
            if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) } != 0 {
                return Err(Cause::last().said(format!("at {}", Listed(1 << number, ""))));
            }
        }
        Ok(())
    }
}

/// `struct __user_cap_header_struct`, `struct __user_cap_data_struct`: the sets come in halves of 32 bits.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    fn of_this_process() -> Self {
        Header { version: 0x2008_0522, pid: 0 } // _LINUX_CAPABILITY_VERSION_3
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

fn numbers(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |number| set >> number & 1 == 1)
}

/// The names in a set. What a newer kernel has beyond our table has none.
fn names(set: u64) -> impl Iterator<Item = &'static str> {
    numbers(set).map(|number| NAMES.get(number as usize).copied().unwrap_or("(a newer one)"))
}

/// A set as its names with something between them.
struct Listed(u64, &'static str);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            set => f.write_str(&names(set).collect::<Vec<_>>().join(self.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use mocker_common::step::Explained;
    use serde_json::json;

    use super::*;

    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;
    const SETPCAP: u64 = 1 << 8;

    #[test]
    fn names_stand_at_their_numbers() {
        let cases = [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_MKNOD", 27), ("CAP_SYSLOG", 34), ("CAP_BPF", 39)];
        for (name, expected) in cases {
            assert_eq!(number(name), Some(expected));
        }
        assert_eq!(number("cap_chown"), None);
    }

    #[test]
    fn a_document_is_read_and_unknown_names_come_back_once() {
        let document = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_FUTURE"], "permitted": ["CAP_KILL", "CAP_FUTURE"], "ambient": null,
        });
        let (sets, unknown) = Sets::from_document(&document).unwrap();
        assert_eq!(sets, Sets { bounding: CHOWN | KILL, permitted: KILL, ..Sets::default() });
        assert_eq!(unknown, ["CAP_FUTURE"]);
        assert_eq!(Sets::from_document(&Value::Null).unwrap(), (Sets::default(), vec![]));
        for bad in [json!({ "bounding": "CAP_KILL" }), json!({ "effective": [1] })] {
            assert!(Sets::from_document(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_given_is_taken_out_and_named() {
        let all = CHOWN | KILL;
        let mut sets = Sets { bounding: all, effective: all, permitted: all, inheritable: KILL, ambient: all };
        assert_eq!(sets.limit_to(KILL), ["CAP_CHOWN"]);
        assert_eq!(sets, Sets { bounding: KILL, effective: KILL, permitted: KILL, inheritable: KILL, ambient: KILL });
        assert!(sets.limit_to(u64::MAX).is_empty());
        let mut effective_alone = Sets { effective: CHOWN, permitted: KILL, ..Sets::default() };
        assert_eq!(effective_alone.limit_to(all), ["CAP_CHOWN"]);
        let mut ambient_alone = Sets { permitted: KILL, ambient: KILL, ..Sets::default() };
        assert!(ambient_alone.limit_to(KILL).is_empty());
        assert_eq!(sets.without("CAP_KILL"), Sets::default());
    }

    #[test]
    fn a_step_names_what_it_drops() {
        assert_eq!(DropBounding(CHOWN | KILL).to_string(), "prctl(PR_CAPBSET_DROP, CAP_CHOWN|CAP_KILL)");
        assert_eq!(DropBounding(CHOWN | KILL).by_hand(), "capsh --drop=cap_chown,cap_kill -- …");
        assert_eq!(RaiseAmbient(CHOWN | KILL).by_hand(), "setpriv --ambient-caps +chown,+kill …");
    }

    /// Runs the steps in a child and returns its five sets as the kernel tells them: inheritable, permitted, effective,
    /// bounding, ambient.
    fn after(sets: Sets, uid: u32) -> Vec<u64> {
        let mut pipe = [0; 2];
        // SAFETY: the child calls the kernel and, having been forked from a test's thread, allocates only what glibc
        // allows after fork; it ends without returning.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let pid = libc::fork();
            if pid == 0 {
                let done = drop_bounding(&sets).is_ok()
                    && libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0
                    && libc::syscall(libc::SYS_setuid, uid) == 0
                    && apply(&sets).is_ok();
                let text = std::fs::read("/proc/self/status").unwrap_or_default();
                libc::write(pipe[1], text.as_ptr().cast(), text.len());
                libc::_exit(i32::from(!done));
            }
            libc::close(pipe[1]);
            let mut status = 0;
            libc::waitpid(pid, &mut status, 0);
            assert_eq!(status, 0);
            let mut text = [0u8; 8192];
            let length = libc::read(pipe[0], text.as_mut_ptr().cast(), text.len());
            libc::close(pipe[0]);
            let text = String::from_utf8_lossy(&text[..length as usize]);
            let sets = text.lines().filter(|line| line.starts_with("Cap"));
            sets.map(|line| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()).collect()
        }
    }

    #[test]
    fn the_kernel_holds_the_sets_that_were_asked_for() {
        let all = CHOWN | KILL | SETPCAP;
        let root = Sets { bounding: all, permitted: CHOWN | KILL, effective: KILL, ..Sets::default() };
        assert_eq!(after(root, 0), [0, CHOWN | KILL, KILL, all, 0]);
        let user = Sets { bounding: all, permitted: all, effective: all, inheritable: KILL, ambient: KILL };
        assert_eq!(after(user, 1000), [KILL, all, all, all, KILL]);
        assert_eq!(after(Sets::default(), 1000), [0; 5]);
        assert!(available().unwrap() & all == all);
    }
}
