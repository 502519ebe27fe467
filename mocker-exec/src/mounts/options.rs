//! What `mounts[].options` can say. One table: what is parsed, and what `features` lists, cannot differ.
//!
//! Source: runtime-spec config.md, Linux mount options; mount(8), mount_setattr(2).

use nix::mount::MsFlags;

use crate::calls::mounts::MS_NOSYMFOLLOW;

/// What one option does.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    Set(MsFlags),
    Clear(MsFlags),
    Propagate(MsFlags),
    /// the same for every mount below too, by mount_setattr
    SetAll(u64),
    ClearAll(u64),
    /// which of the two times is kept, for every mount below
    AccessTime(u64),
    IdMap {
        recursive: bool,
    },
    CopyUp,
}
use Effect::{AccessTime, Clear, ClearAll, CopyUp, IdMap, Nothing, Propagate, Set, SetAll};

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
/// All bits of a choice: the kernel wants them cleared together, whichever is set.
const ANY_ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Sorted by name.
const TABLE: [(&str, Effect); 63] = [
    ("async", Clear(MsFlags::MS_SYNCHRONOUS)),
    ("atime", Clear(MsFlags::MS_NOATIME)),
    ("bind", Set(MsFlags::MS_BIND)),
    ("defaults", Nothing),
    ("dev", Clear(MsFlags::MS_NODEV)),
    ("diratime", Clear(MsFlags::MS_NODIRATIME)),
    ("dirsync", Set(MsFlags::MS_DIRSYNC)),
    ("exec", Clear(MsFlags::MS_NOEXEC)),
    ("idmap", IdMap { recursive: false }),
    ("iversion", Set(MsFlags::MS_I_VERSION)),
    ("lazytime", Set(MsFlags::MS_LAZYTIME)),
    ("loud", Clear(MsFlags::MS_SILENT)),
    ("mand", Set(MsFlags::MS_MANDLOCK)),
    ("noatime", Set(MsFlags::MS_NOATIME)),
    ("nodev", Set(MsFlags::MS_NODEV)),
    ("nodiratime", Set(MsFlags::MS_NODIRATIME)),
    ("noexec", Set(MsFlags::MS_NOEXEC)),
    ("noiversion", Clear(MsFlags::MS_I_VERSION)),
    ("nolazytime", Clear(MsFlags::MS_LAZYTIME)),
    ("nomand", Clear(MsFlags::MS_MANDLOCK)),
    ("norelatime", Clear(MsFlags::MS_RELATIME)),
    ("nostrictatime", Clear(MsFlags::MS_STRICTATIME)),
    ("nosuid", Set(MsFlags::MS_NOSUID)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)),
    ("private", Propagate(MsFlags::MS_PRIVATE)),
    ("ratime", AccessTime(libc::MOUNT_ATTR_RELATIME)),
    ("rbind", Set(MsFlags::MS_BIND.union(MsFlags::MS_REC))),
    ("rdev", ClearAll(NODEV)),
    ("rdiratime", ClearAll(NODIRATIME)),
    ("relatime", Set(MsFlags::MS_RELATIME)),
    ("remount", Set(MsFlags::MS_REMOUNT)),
    ("rexec", ClearAll(NOEXEC)),
    ("ridmap", IdMap { recursive: true }),
    ("rnoatime", AccessTime(libc::MOUNT_ATTR_NOATIME)),
    ("rnodev", SetAll(NODEV)),
    ("rnodiratime", SetAll(NODIRATIME)),
    ("rnoexec", SetAll(NOEXEC)),
    ("rnorelatime", Nothing), // relatime is what is left when no other time is chosen
    ("rnostrictatime", AccessTime(libc::MOUNT_ATTR_RELATIME)),
    ("rnosuid", SetAll(NOSUID)),
    ("rnosymfollow", SetAll(NOSYMFOLLOW)),
    ("ro", Set(MsFlags::MS_RDONLY)),
    ("rprivate", Propagate(MsFlags::MS_PRIVATE.union(MsFlags::MS_REC))),
    ("rrelatime", AccessTime(libc::MOUNT_ATTR_RELATIME)),
    ("rro", SetAll(RDONLY)),
    ("rrw", ClearAll(RDONLY)),
    ("rshared", Propagate(MsFlags::MS_SHARED.union(MsFlags::MS_REC))),
    ("rslave", Propagate(MsFlags::MS_SLAVE.union(MsFlags::MS_REC))),
    ("rstrictatime", AccessTime(libc::MOUNT_ATTR_STRICTATIME)),
    ("rsuid", ClearAll(NOSUID)),
    ("rsymfollow", ClearAll(NOSYMFOLLOW)),
    ("runbindable", Propagate(MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC))),
    ("rw", Clear(MsFlags::MS_RDONLY)),
    ("shared", Propagate(MsFlags::MS_SHARED)),
    ("silent", Set(MsFlags::MS_SILENT)),
    ("slave", Propagate(MsFlags::MS_SLAVE)),
    ("strictatime", Set(MsFlags::MS_STRICTATIME)),
    ("suid", Clear(MsFlags::MS_NOSUID)),
    ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("sync", Set(MsFlags::MS_SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagate(MsFlags::MS_UNBINDABLE)),
    ("", Nothing),
];

/// Every option that is not left to the file system, for `features`.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name).filter(|name| !name.is_empty())
}

/// What the options of one mount come to.
#[derive(Debug, PartialEq)]
pub struct Options {
    pub flags: MsFlags,
    /// flags that were taken away by their opposite (`dev`, `suid`, …)
    pub cleared: MsFlags,
    /// attributes of this mount and all below it
    pub all_set: u64,
    pub all_cleared: u64,
    pub propagation: Vec<MsFlags>,
    /// Some(true): the mounts below too
    pub id_map: Option<bool>,
    pub copy_up: bool,
    /// what the file system reads
    pub data: Vec<String>,
}

impl Options {
    /// Of two that contradict each other the last one wins, as with mount(8).
    pub fn read(options: &[String]) -> Options {
        let mut read = Options {
            flags: MsFlags::empty(),
            cleared: MsFlags::empty(),
            all_set: 0,
            all_cleared: 0,
            propagation: Vec::new(),
            id_map: None,
            copy_up: false,
            data: Vec::new(),
        };
        for option in options {
            match TABLE.iter().find(|(name, _)| name == option) {
                Some((_, effect)) => read.apply(*effect),
                None => read.data.push(option.clone()),
            }
        }
        read
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Nothing => {}
            Set(flag) => {
                self.flags.insert(flag);
                self.cleared.remove(flag);
            }
            Clear(flag) => {
                self.flags.remove(flag);
                self.cleared.insert(flag);
            }
            Propagate(flag) => self.propagation.push(flag),
            SetAll(attribute) => {
                self.all_set |= attribute;
                self.all_cleared &= !attribute;
            }
            ClearAll(attribute) => {
                self.all_set &= !attribute;
                self.all_cleared |= attribute;
            }
            AccessTime(which) => {
                self.all_set = self.all_set & !ANY_ATIME | which;
                self.all_cleared |= ANY_ATIME;
            }
            IdMap { recursive } => self.id_map = Some(recursive || self.id_map == Some(true)),
            CopyUp => self.copy_up = true,
        }
    }

    /// The flags of one mount, without those that only say what kind of call makes it.
    pub fn of_the_mount(&self) -> MsFlags {
        self.flags.difference(MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_REMOUNT)
    }

    pub fn is_readonly(&self) -> bool {
        self.flags.contains(MsFlags::MS_RDONLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::read(&list.iter().map(|text| text.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_propagation_or_data() {
        let read = options(&["nosuid", "ro", "mode=755", "rslave", "size=1k"]);
        assert_eq!(read.flags, MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert_eq!(read.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert_eq!(read.data, ["mode=755", "size=1k"]);
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(options(&["ro", "rw"]).flags, MsFlags::empty());
        assert_eq!(options(&["rw", "ro"]).cleared, MsFlags::empty());
        for order in [["ro", "rbind"], ["rbind", "ro"]] {
            assert_eq!(options(&order).flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        }
        let read = options(&["rro", "rnosuid", "rrw"]);
        assert_eq!((read.all_set, read.all_cleared), (NOSUID, RDONLY));
    }

    #[test]
    fn of_the_recursive_access_times_one_is_set_and_all_are_cleared() {
        let cases = [
            (&["rnoatime"][..], libc::MOUNT_ATTR_NOATIME),
            (&["rstrictatime"], libc::MOUNT_ATTR_STRICTATIME),
            (&["rnoatime", "rstrictatime"], libc::MOUNT_ATTR_STRICTATIME),
            (&["rnoatime", "ratime"], 0),
            (&["rrelatime"], 0),
        ];
        for (list, set) in cases {
            let read = options(list);
            assert_eq!((read.all_set, read.all_cleared), (set, ANY_ATIME), "{list:?}");
        }
        assert_eq!(options(&["rnorelatime"]).all_cleared, 0);
    }

    #[test]
    fn the_table_names_what_the_specification_names() {
        let known: Vec<_> = known_options().collect();
        for name in ["idmap", "ridmap", "tmpcopyup", "rro", "rsymfollow", "nosymfollow", "iversion", "runbindable"] {
            assert!(known.contains(&name), "{name}");
        }
        assert!(known.windows(2).all(|pair| pair[0] < pair[1]), "sorted, and none twice");
        assert!(options(&known).data.is_empty());
    }
}
