//! What is unpacked passes, whatever the archive; what is changed afterwards does not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use mocker_common::digest::{DiffId, Digest, sha256};
use mocker_common::unpack::{Limits, unpack};
use tar::{EntryType, Header};

use super::layer::{Layer, Outcome};

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }
}

/// A layer in a directory of its own: blob, files, notes.
struct Unpacked {
    place: PathBuf,
    digest: Digest,
    size: u64,
}

impl Unpacked {
    /// None for an archive that the unpacker refuses.
    fn of(tar: &[u8], place: PathBuf) -> Option<Unpacked> {
        fs::create_dir_all(place.join("files")).unwrap();
        fs::write(place.join("blob"), tar).unwrap();
        let notes = unpack(tar, &place.join("files"), &Limits::default()).ok()?;
        fs::write(place.join("notes"), serde_json::to_vec(&notes).unwrap()).unwrap();
        Some(Unpacked { place, digest: Digest::from_bytes(&sha256(tar)), size: tar.len() as u64 })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.place.join("files").join(path)
    }

    fn check(&self) -> Outcome {
        let layer = Layer {
            blob: &self.place.join("blob"),
            digest: &self.digest,
            size: Some(self.size),
            diff_id: &DiffId(self.digest.clone()),
            directory: &self.place.join("files"),
            notes: &self.place.join("notes"),
        };
        layer.check()
    }

    #[track_caller]
    fn assert_sound(&self, archive: &str) {
        let Outcome { blob, directory, notes } = self.check();
        let found = [blob.lines(), directory.lines(), notes.lines()].concat();
        assert!(found.is_empty(), "{found:#?} in an archive of\n{archive}");
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

/// An archive of a few names that meet often, and its listing.
fn archive(random: &mut Random) -> (Vec<u8>, String) {
    const NAMES: [&str; 5] = ["a", "b", "c", "a", "b"];
    let path = |random: &mut Random| {
        let depth = 1 + random.below(3);
        (0..depth).map(|_| random.pick(&NAMES)).collect::<Vec<_>>().join("/")
    };
    let (mut builder, mut listing) = (tar::Builder::new(Vec::new()), String::new());
    for _ in 0..random.below(14) {
        let (name, target) = (path(random), path(random));
        let mode = random.pick(&[0o755, 0o644, 0o4755, 0o1777, 0o2750]);
        let hidden = || match name.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{name}"),
        };
        let kind = random.below(13);
        let attributes = [("SCHILY.xattr.user.x", &b"1\n2"[..]), ("mtime", b"1600000000.25"), ("uid", b"77")];
        if kind != 5 && kind != 6 && random.below(4) == 0 {
            let some = &attributes[random.below(3) as usize..];
            builder.append_pax_extensions(some.iter().copied()).unwrap();
            listing += "with attributes: ";
        }
        let (entry, name, link, data): (EntryType, String, Option<String>, &[u8]) = match kind {
            0..=3 => (EntryType::Directory, name, None, b""),
            4 => (EntryType::Symlink, name, Some(random.pick(&["/a", "b", "../b", "c/../a", "."]).into()), b""),
            5 => (EntryType::Regular, hidden(), None, b""),
            6 => (EntryType::Regular, format!("{name}/.wh..wh..opq"), None, b""),
            7 => (EntryType::Regular, ".wh..wh..opq".into(), None, b""),
            8 | 9 => (EntryType::Link, name, Some(target), b""),
            10 => (EntryType::Fifo, name, None, b""),
            11 => (EntryType::Directory, "./".into(), None, b""),
            _ => (EntryType::Regular, name, None, random.pick(&[&b"one"[..], b"another", b""])),
        };
        listing += &format!("{entry:?} {name} {link:?} {mode:o}\n");
        let mut header = header(entry, mode, data.len() as u64);
        match link {
            Some(link) => builder.append_link(&mut header, &name, &link).unwrap(),
            None => builder.append_data(&mut header, &name, data).unwrap(),
        }
    }
    (builder.into_inner().unwrap(), listing)
}

#[test]
fn what_was_unpacked_is_sound_whatever_the_archive() {
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut unpacked = 0;
    for number in 0..500 {
        let (tar, listing) = archive(&mut random);
        let place = scratch.path().join(number.to_string());
        if let Some(layer) = Unpacked::of(&tar, place.clone()) {
            layer.assert_sound(&listing);
            unpacked += 1;
        }
        fs::remove_dir_all(place).unwrap();
    }
    assert!(unpacked > 300, "only {unpacked} archives were unpacked");
}

/// A directory, a file under two names, one with attributes, a symlink, a whiteout, an opaque directory, a sparse file.
fn sample(place: &Path) -> Unpacked {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, mode, data: &[u8]| {
        builder.append_data(&mut header(kind, mode, data.len() as u64), name, data).unwrap();
    };
    add(EntryType::Directory, "etc", 0o755, b"");
    add(EntryType::Regular, "etc/motd", 0o644, b"hello\n");
    add(EntryType::Regular, "etc/.wh.gone", 0, b"");
    add(EntryType::Directory, "new", 0o755, b"");
    add(EntryType::Regular, "new/.wh..wh..opq", 0, b"");
    add(EntryType::Regular, "not/named", 0o600, b"x");
    let mut link = header(EntryType::Link, 0o644, 0);
    builder.append_link(&mut link, "etc/issue", "etc/motd").unwrap();
    let mut symlink = header(EntryType::Symlink, 0o777, 0);
    builder.append_link(&mut symlink, "bin", "usr/bin").unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records = [("SCHILY.xattr.user.mark", &b"1"[..]), ("SCHILY.xattr.security.capability", capability)];
    builder.append_pax_extensions(records).unwrap();
    builder.append_data(&mut header(EntryType::Regular, 0o755, 4), "ping", &b"ping"[..]).unwrap();
    let sparse = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"disk"),
        ("GNU.sparse.realsize", b"1048576"),
    ];
    builder.append_pax_extensions(sparse).unwrap();
    let mut data = b"1\n524288\n3\n".to_vec();
    data.resize(512, 0);
    data.extend(b"abc");
    builder
        .append_data(&mut header(EntryType::Regular, 0o644, data.len() as u64), "GNUSparseFile.0/disk", &data[..])
        .unwrap();
    Unpacked::of(&builder.into_inner().unwrap(), place.to_path_buf()).unwrap()
}

#[test]
fn every_change_of_a_layer_is_found_and_named() {
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    let xattr = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let rewrite = |path: &Path, data: &[u8]| {
        let times = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, data).unwrap();
        fs::File::open(path).unwrap().set_modified(times).unwrap();
    };
    type Change<'a> = (&'a str, Box<dyn Fn(&Unpacked) + 'a>);
    let changes: Vec<Change> = vec![
        ("etc/motd has other contents", Box::new(|layer| rewrite(&layer.path("etc/motd"), b"HELLO\n"))),
        ("etc/motd has 2 bytes, not 6", Box::new(|layer| rewrite(&layer.path("etc/motd"), b"x\n"))),
        ("etc/motd is missing", Box::new(|layer| fs::remove_file(layer.path("etc/motd")).unwrap())),
        (
            "etc/issue has mode 600",
            Box::new(|layer| fs::set_permissions(layer.path("etc/motd"), fs::Permissions::from_mode(0o600)).unwrap()),
        ),
        ("ping belongs to 1:0", Box::new(|layer| chown(layer.path("ping"), Some(1), None).unwrap())),
        ("etc is of @", Box::new(|layer| fs::write(layer.path("etc/more"), "").unwrap())),
        ("etc/more is not in its archive", Box::new(|layer| fs::write(layer.path("etc/more"), "").unwrap())),
        (
            "is no longer one file",
            Box::new(|layer| {
                let (one, two) = (layer.path("etc/motd"), layer.path("etc/issue"));
                fs::remove_file(&two).unwrap();
                assert!(std::process::Command::new("cp").arg("-a").args([one, two]).status().unwrap().success());
            }),
        ),
        (
            "bin leads to usr/sbin",
            Box::new(|layer| {
                fs::remove_file(layer.path("bin")).unwrap();
                symlink("usr/sbin", layer.path("bin")).unwrap();
            }),
        ),
        (
            "ping has lost its attribute security.capability",
            Box::new(|layer| rustix::fs::lremovexattr(layer.path("ping"), "security.capability").unwrap()),
        ),
        (
            "ping has another value of attribute user.mark",
            Box::new(|layer| xattr(&layer.path("ping"), "user.mark", b"2")),
        ),
        ("etc/issue has an attribute user.more", Box::new(|layer| xattr(&layer.path("etc/motd"), "user.more", b"2"))),
        (
            "new no longer hides",
            Box::new(|layer| rustix::fs::lremovexattr(layer.path("new"), "trusted.overlay.opaque").unwrap()),
        ),
        ("etc hides what", Box::new(|layer| xattr(&layer.path("etc"), "trusted.overlay.opaque", b"y"))),
        ("etc/gone is missing", Box::new(|layer| fs::remove_file(layer.path("etc/gone")).unwrap())),
        (
            "etc/gone is another kind",
            Box::new(|layer| {
                fs::remove_file(layer.path("etc/gone")).unwrap();
                fs::write(layer.path("etc/gone"), "").unwrap();
            }),
        ),
        (
            "not has mode 700",
            Box::new(|layer| fs::set_permissions(layer.path("not"), fs::Permissions::from_mode(0o700)).unwrap()),
        ),
        (
            "disk has other contents",
            Box::new(|layer| {
                use std::os::unix::fs::FileExt;
                let file = fs::OpenOptions::new().write(true).open(layer.path("disk")).unwrap();
                file.write_all_at(b"x", 4096).unwrap();
            }),
        ),
        (
            "tell other invented directories",
            Box::new(|layer| fs::write(layer.place.join("notes"), r#"{"entries":1,"bytes":1}"#).unwrap()),
        ),
        ("do not read", Box::new(|layer| fs::write(layer.place.join("notes"), "{").unwrap())),
        ("are not there", Box::new(|layer| fs::remove_file(layer.place.join("notes")).unwrap())),
        (
            "holds sha256:",
            Box::new(|layer| {
                let mut bytes = fs::read(layer.place.join("blob")).unwrap();
                bytes[700] ^= 1;
                fs::write(layer.place.join("blob"), bytes).unwrap();
            }),
        ),
        ("bytes, not", Box::new(|layer| fs::write(layer.place.join("blob"), "").unwrap())),
        ("No such file", Box::new(|layer| fs::remove_file(layer.place.join("blob")).unwrap())),
    ];
    for (number, (says, change)) in changes.into_iter().enumerate() {
        let layer = sample(&scratch.path().join(number.to_string()));
        layer.assert_sound("the sample");
        change(&layer);
        let Outcome { blob, directory, notes } = layer.check();
        let found = [blob.lines(), directory.lines(), notes.lines()].concat();
        assert!(found.iter().any(|line| line.contains(says)), "{says}: {found:#?}");
    }
}
