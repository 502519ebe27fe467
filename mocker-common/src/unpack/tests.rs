use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::archive::{Archive, header, record};
use super::*;

/// A layer unpacked somewhere, with surroundings that must stay as they are.
struct Unpacked {
    scratch: tempfile::TempDir,
    notes: Notes,
}

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let victim = scratch.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("secret"), "secret").unwrap();
    fs::set_permissions(victim.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(scratch.path().join("layer")).unwrap();
    scratch
}

fn try_unpack(archive: Archive) -> Result<Unpacked, Error> {
    let scratch = scratch();
    let before = listing(&scratch.path().join("victim"));
    let result = unpack(&archive.end()[..], &scratch.path().join("layer"), &Limits::default());
    assert_eq!(listing(&scratch.path().join("victim")), before, "the surroundings changed");
    Ok(Unpacked { notes: result?, scratch })
}

fn unpacked(archive: Archive) -> Unpacked {
    try_unpack(archive).unwrap()
}

fn refused(archive: Archive) -> String {
    match try_unpack(archive) {
        Ok(unpacked) => panic!("was not refused: {:?}", unpacked.listing()),
        Err(error) => error.what,
    }
}

impl Unpacked {
    fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join("layer").join(path)
    }
    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
    fn mode(&self, path: &str) -> u32 {
        self.stat(path).mode() & 0o7777
    }
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }
    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = self.stat(path);
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }
    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }
    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1024];
        let length = rustix::fs::lgetxattr(self.path(path), name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }
    fn implicit(&self) -> Vec<String> {
        self.notes.implicit.iter().map(ToString::to_string).collect()
    }
    fn listing(&self) -> BTreeMap<PathBuf, String> {
        listing(&self.path(""))
    }
}

/// Everything below a directory: type, mode, owner, size, times, links, content of small files.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(path) = ahead.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let target = fs::read_link(&path).unwrap_or_default();
        let line = format!(
            "{:o} {}:{} {} {}.{} {} {:?} {:?}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            if metadata.is_dir() { 0 } else { metadata.size() },
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.nlink(),
            target,
            content
        );
        if metadata.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path, line);
    }
    all
}

#[test]
fn a_last_file_without_its_padding_and_a_whiteout_within_a_file_are_no_harm() {
    let archive = Archive::new().dir("t", 0o755).file("t/d", b"file").file("t/d/.wh.new", b"").file("t/e", b"content");
    let scratch = scratch();
    let layer = scratch.path().join("layer");
    let cut = archive.bytes.len() - 512 + "content".len();
    unpack(&archive.bytes[..cut], &layer, &Limits::default()).unwrap();
    assert_eq!(fs::read(layer.join("t/d")).unwrap(), b"file");
    assert_eq!(fs::read(layer.join("t/e")).unwrap(), b"content");
    // But the content itself must be there.
    fs::remove_dir_all(&layer).unwrap();
    fs::create_dir(&layer).unwrap();
    assert!(unpack(&archive.bytes[..cut - 1], &layer, &Limits::default()).is_err());
}

#[test]
fn files_directories_and_links_come_out_as_the_tar_has_them() {
    let mut owned = header(b'0', b"bin/su", 0o4755);
    owned.set_uid(0);
    owned.set_gid(42);
    let layer = unpacked(
        Archive::new()
            .dir("./", 0o711)
            .dir("bin/", 0o755)
            .with(owned, b"setuid")
            .file("bin/big", &vec![7; 700_000])
            .dir("tmp", 0o1777)
            .file("tmp/open", b"")
            .symlink("sh", "bin/su")
            .hard("bin/again", "/bin/su")
            .hard("sh2", "sh")
            .node(b'3', "null", (1, 3))
            .node(b'4', "disk", (8, 300))
            .node(b'6', "pipe", (0, 0)),
    );
    assert_eq!(layer.mode(""), 0o711);
    assert_eq!((layer.mode("bin/su"), layer.stat("bin/su").gid()), (0o4755, 42), "setuid survives chown");
    assert_eq!(layer.mode("tmp"), 0o1777);
    assert_eq!(layer.stat("bin/big").size(), 700_000);
    assert_eq!(layer.stat("bin/su").ino(), layer.stat("bin/again").ino());
    assert_eq!(layer.stat("sh").ino(), layer.stat("sh2").ino(), "a hard link to a symbolic link");
    assert!(layer.stat("sh").is_symlink());
    assert_eq!(layer.stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(layer.stat("disk").rdev(), rustix::fs::makedev(8, 300));
    assert!(layer.stat("disk").file_type().is_block_device());
    assert!(layer.stat("pipe").file_type().is_fifo());
    for path in ["", "bin", "bin/su", "tmp", "sh", "null", "pipe"] {
        assert_eq!(layer.stat(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(layer.notes.implicit, []);
    assert_eq!((layer.notes.entries, layer.notes.bytes), (12, 700_006));
}

#[test]
fn a_directory_with_setgid_gives_its_group_to_nothing() {
    let mut shared = header(b'5', b"shared", 0o2775);
    shared.set_gid(50);
    let mut top = header(b'5', b"./", 0o2755);
    top.set_gid(60);
    let layer = unpacked(
        Archive::new()
            .raw(top, b"")
            .raw(shared.clone(), b"")
            .file("shared/file", b"root's")
            .dir("shared/dir", 0o755)
            .file("shared/implicit/x", b"")
            .symlink("shared/link", "x")
            .node(b'6', "shared/fifo", (0, 0))
            .file("top", b"")
            .raw(shared, b""),
    );
    assert_eq!((layer.mode("shared"), layer.stat("shared").gid()), (0o2775, 50));
    assert_eq!((layer.mode(""), layer.stat("").gid()), (0o2755, 60));
    for path in ["shared/file", "shared/dir", "shared/implicit", "shared/link", "shared/fifo", "top"] {
        assert_eq!((layer.stat(path).gid(), layer.mode(path) & 0o2000), (0, 0), "{path}");
    }
}

#[test]
fn extensions_of_the_format_are_obeyed() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let large = u64::from(u32::MAX - 1);
    let mut base256 = header(b'0', b"base256", 0o600);
    base256.set_uid(2_097_152);
    base256.as_old_mut().mtime = [0xff; 12]; // -1
    let mut prefixed = header(b'0', b"name", 0o600);
    prefixed.as_ustar_mut().unwrap().prefix[..7].copy_from_slice(b"pre/fix");
    let mut old_directory = header(0, b"old/", 0o700);
    old_directory.as_old_mut().linkflag[0] = 0;
    let mut sized = header(b'0', b"sized", 0o600);
    sized.set_size(0); // PAX knows better
    let mut socket = header(b'0', b"socket", 0o140_755);
    socket.set_size(3);
    let layer = unpacked(
        Archive::new()
            .pax(b'x', &[("path", long.as_bytes()), ("mtime", b"1700000000.123456789"), ("uid", b"4294967294")])
            .file("short", b"pax")
            .with(header(b'L', b"././@LongLink", 0), &[&long.as_bytes()[1..], b"\0"].concat())
            .file("short", b"gnu")
            .with(header(b'K', b"././@LongLink", 0), &[&vec![b't'; 300][..], b"\0"].concat())
            .symlink("symlink", "short")
            .with(base256, b"")
            .with(prefixed, b"")
            .raw(old_directory, b"")
            .pax(b'x', &[("size", b"5"), ("comment", b"a\nb")])
            .raw(sized, b"12345")
            .pax(b'x', &[("mtime", b"-1.25"), ("path", b"caf\xe9\xff")])
            .file("x", b"")
            .pax(b'x', &[("path", b"gone"), ("path", b"")])
            .file("kept", b"")
            .with(header(b'V', b"label", 0), b"")
            .with(socket, b"abc")
            .pax(b'g', &[("gid", b"7"), ("path", b"nonsense"), ("size", b"3")])
            .file("global", b"")
            .pax(b'x', &[("gid", b"8")])
            .file("local", b"")
            .pax(b'g', &[("gid", b"")])
            .file("plain", b""),
    );
    let stat = layer.stat(&long);
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(u64::from(stat.uid()), large);
    assert!(layer.exists(&long[1..]));
    assert_eq!(fs::read_link(layer.path("symlink")).unwrap().as_os_str().len(), 300);
    assert_eq!((layer.stat("base256").uid(), layer.stat("base256").mtime()), (2_097_152, -1));
    assert!(layer.exists("pre/fix/name"));
    assert!(layer.stat("old").is_dir());
    assert_eq!(layer.text("sized"), "12345");
    let bytes = layer.path("").join(OsStr::from_bytes(b"caf\xe9\xff"));
    let stat = fs::symlink_metadata(bytes).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (-2, 750_000_000));
    assert!(layer.exists("kept") && !layer.exists("gone"));
    assert!(!layer.exists("socket") && !layer.exists("label") && !layer.exists("nonsense"));
    assert_eq!(["global", "local", "plain"].map(|path| layer.stat(path).gid()), [7, 8, 0]);
}

#[test]
fn holes_stay_holes_in_all_four_sparse_layouts() {
    let (mib, size) = (1u64 << 20, 64u64 << 20);
    let data = [vec![b'a'; 512], vec![b'b'; 1024]].concat();
    let octal = |number: u64| format!("{number:011o}\0").into_bytes();

    let mut old = header(b'S', b"old", 0o644);
    let bytes = old.as_mut_bytes();
    bytes[257..265].copy_from_slice(b"ustar  \0");
    bytes[386..398].copy_from_slice(&octal(0));
    bytes[398..410].copy_from_slice(&octal(512));
    bytes[482] = 1;
    bytes[483..495].copy_from_slice(&octal(size));
    old.set_size(1536);
    let mut extension = [0u8; 512];
    extension[..12].copy_from_slice(&octal(32 * mib));
    extension[12..24].copy_from_slice(&octal(1024));

    let (at, end) = ((32 * mib).to_string(), size.to_string());
    let pieces: [(&str, &[u8]); 5] = [
        ("GNU.sparse.size", end.as_bytes()),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"512"),
        ("GNU.sparse.offset", at.as_bytes()),
        ("GNU.sparse.numbytes", b"1024"),
    ];
    let map = format!("0,512,{at},1024");
    let first: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", end.as_bytes()), ("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.name", b"pax01")];
    let second: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"pax10"),
        ("GNU.sparse.realsize", end.as_bytes()),
    ];
    let mut preamble = format!("2\n0\n512\n{at}\n1024\n").into_bytes();
    preamble.resize(512, 0);

    let layer = unpacked(
        Archive::new()
            .raw(old, b"")
            .blocks(&extension)
            .blocks(&data)
            .pax(b'x', &pieces)
            .file("pax00", &data)
            .pax(b'x', &first)
            .file("GNUSparseFile.1/x", &data)
            .pax(b'x', &second)
            .file("GNUSparseFile.1/y", &[preamble, data.clone()].concat())
            .file("after", b"in step"),
    );
    for path in ["old", "pax00", "pax01", "pax10"] {
        let stat = layer.stat(path);
        assert_eq!(stat.size(), size, "{path}");
        assert!(stat.blocks() < 1000, "{path} has its holes written out");
        let content = fs::read(layer.path(path)).unwrap();
        assert_eq!((&content[..512], &content[512..1024]), (&data[..512], &[0u8; 512][..]), "{path}");
        assert_eq!(&content[32 << 20..][..1024], &data[512..], "{path}");
    }
    assert_eq!(layer.text("after"), "in step");
    assert_eq!(layer.notes.bytes, 4 * size + 7, "holes count as size");
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    for (map, size) in [("0,512,256,512", "4096"), ("0,99999", "4096"), ("0,512", "100"), ("0", "10"), ("a,b", "9")] {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        refused(Archive::new().pax(b'x', &records).file("x", &[0; 1024]));
    }
}

#[test]
fn attributes_are_kept_but_never_those_that_steer_the_machine() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"; // cap_net_raw=ep, bytes with NULs
    let acl_default: &[u8] =
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.note", b"a\nb"),
        ("SCHILY.xattr.trusted.own", b"x"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u"),
        ("SCHILY.xattr.security.ima", b"1"),
    ];
    let mut owned = header(b'0', b"ping", 0o755);
    owned.set_uid(5);
    let layer = unpacked(
        Archive::new()
            .pax(b'x', &records)
            .with(owned, b"")
            .pax(b'x', &records[1..])
            .dir("d", 0o755)
            .pax(b'x', &[("SCHILY.xattr.system.posix_acl_default", acl_default)])
            .dir("acl", 0o755)
            .file("acl/file", b"")
            .pax(b'x', &[("SCHILY.xattr.trusted.onlink", b"1")])
            .symlink("l", "x"),
    );
    assert_eq!(layer.xattr("ping", "security.capability").unwrap()[4..8], capability[4..8], "lost by chown");
    assert_eq!(layer.xattr("ping", "user.note").as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(layer.xattr("d", "trusted.own").as_deref(), Some(&b"x"[..]));
    assert_eq!(layer.xattr("l", "trusted.onlink").as_deref(), Some(&b"1"[..]));
    for path in ["ping", "d"] {
        for name in ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque", "security.ima"] {
            assert_eq!(layer.xattr(path, name), None, "{path} {name}");
        }
        assert_ne!(layer.xattr(path, "security.selinux").as_deref(), Some(&b"system_u"[..]));
    }
    assert!(layer.xattr("acl", "system.posix_acl_default").is_some());
    assert_eq!(layer.xattr("acl/file", "system.posix_acl_access"), None, "a file inherited a list");
}

#[test]
fn whiteouts_hide_lower_layers_only_whatever_the_order() {
    let layer = unpacked(
        Archive::new()
            .file("a/.wh.gone", b"")
            // the layer's own, before and after
            .file("own1", b"1")
            .file(".wh.own1", b"")
            .file(".wh.own2", b"")
            .file("own2", b"2")
            .file("dir1/x", b"")
            .file(".wh.dir1", b"")
            .file(".wh.dir2", b"")
            .file("dir2/x", b"")
            .file(".wh.dir3", b"")
            .dir("dir3", 0o700)
            // opaque, before and after
            .dir("opaque1", 0o755)
            .file("opaque1/.wh..wh..opq", b"")
            .file("opaque1/.wh.needless", b"")
            .file("opaque1/sub/.wh.needless", b"")
            .file("opaque1/x", b"")
            .dir("opaque2", 0o755)
            .file("opaque2/x", b"")
            .file("opaque2/.wh.needless", b"")
            .file("opaque2/sub/.wh.needless", b"")
            .file("opaque2/.wh..wh..opq", b"")
            .dir("opaque1", 0o711)
            .file("opaque3/.wh..wh..opq", b"")
            // aufs, and overlayfs' own spelling
            .file(".wh..wh.plnk/1.2", b"")
            .file(".wh..wh.aufs", b"")
            .node(b'3', "spelled", (0, 0)),
    );
    assert!(layer.is_whiteout("a/gone") && layer.is_whiteout("spelled"));
    assert_eq!((layer.text("own1"), layer.text("own2")), ("1".into(), "2".into()));
    for path in ["dir1", "dir2", "dir3", "opaque1", "opaque2", "opaque3"] {
        assert!(layer.stat(path).is_dir() && layer.is_opaque(path), "{path}");
    }
    assert!(layer.exists("dir1/x") && layer.exists("dir2/x") && layer.exists("opaque1/x") && layer.exists("opaque2/x"));
    assert_eq!((layer.mode("dir3"), layer.mode("opaque1")), (0o700, 0o711));
    for path in ["opaque1/needless", "opaque1/sub/needless", "opaque2/needless", "opaque2/sub/needless"] {
        assert!(!layer.exists(path), "{path}");
    }
    assert!(layer.listing().keys().all(|path| !path.to_string_lossy().contains(".wh.")), "{:?}", layer.listing());
    assert_eq!(layer.notes.whiteouts, [LayerPath(b"".into()), LayerPath(b"a".into())]);
    assert_eq!(layer.implicit(), ["/", "a"], "what begins anew takes nothing from below");
}

#[test]
fn an_opaque_root_reaches_every_directory_at_the_top() {
    let layer = unpacked(
        Archive::new().file("a/x", b"").file(".wh.y", b"").file(".wh..wh..opq", b"").file("b/x", b"").dir("b", 0o755),
    );
    assert!(layer.notes.opaque_root);
    assert!(layer.is_opaque("a") && layer.is_opaque("b"));
    assert!(!layer.exists("y"));
}

#[test]
fn whiteouts_of_nothing_or_from_within_are_refused() {
    for path in [".wh.", "a/.wh.", ".wh..", "a/.wh...", ".wh.d/x"] {
        refused(Archive::new().dir("a", 0o755).file(path, b""));
    }
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let layer = unpacked(
        Archive::new()
            .file("twice", b"long first")
            .file("twice", b"2nd")
            .dir("dir", 0o755)
            .file("dir/kept", b"")
            .dir("dir", 0o700)
            .dir("was-dir", 0o755)
            .file("was-dir/x", b"")
            .file("was-dir", b"file now")
            .file("was-file", b"")
            .dir("was-file", 0o750)
            .file("was-file/x", b"")
            .symlink("was-link", "/victim")
            .file("was-link", b"own")
            .file("parent-was-file", b"")
            .file("parent-was-file/x", b"")
            .file(".wh.parent-was-whiteout", b"")
            .file("parent-was-whiteout/x", b"")
            .file("one", b"1")
            .hard("two", "one")
            .hard("two", "one")
            .hard("one", "two")
            .hard("one", "one")
            .file("three", b"3")
            .hard("three", "one")
            .file("one", b"new")
            .symlink("dir2", "dir")
            .dir("dir2", 0o755),
    );
    assert_eq!(layer.text("twice"), "2nd");
    assert_eq!(layer.mode("dir"), 0o700);
    assert!(layer.exists("dir/kept"));
    assert_eq!(layer.text("was-dir"), "file now");
    assert_eq!((layer.mode("was-file"), layer.is_opaque("was-file")), (0o750, true));
    assert_eq!(layer.text("was-link"), "own");
    assert!(layer.exists("parent-was-file/x") && layer.is_opaque("parent-was-file"));
    assert!(layer.exists("parent-was-whiteout/x") && layer.is_opaque("parent-was-whiteout"));
    assert_eq!((layer.text("one"), layer.text("two"), layer.text("three")), ("new".into(), "1".into(), "1".into()));
    assert_eq!(layer.stat("two").nlink(), 2);
    assert!(layer.stat("dir2").is_dir());
    assert_eq!(layer.implicit(), ["/"]);
}

#[test]
fn a_directory_replaced_under_its_own_files_is_found_anew() {
    let layer = unpacked(
        Archive::new()
            .dir("d", 0o755)
            .file("d/old", b"")
            .file("d", b"a file between")
            .file("d/new", b"")
            .dir("e/f", 0o755)
            .file("e/f/old", b"")
            .symlink("e", "g")
            .file("e/f/new", b""),
    );
    assert!(layer.exists("d/new") && !layer.exists("d/old"));
    assert!(layer.exists("g/f/new") && !layer.exists("g/f/old"));
}

#[test]
fn parents_are_made_or_followed_inside_the_root() {
    let layer = unpacked(
        Archive::new()
            .file("a/b/c", b"")
            .symlink("run2", "/run")
            .file("run2/lock/x", b"")
            .dir("usr/lib", 0o755)
            .symlink("lib", "usr/lib")
            .file("lib/so", b"")
            .hard("lib64", "lib/so")
            .symlink("up", "../../../usr")
            .file("up/y", b"")
            .dir("tmp/named-later", 0o755)
            .dir("tmp", 0o1777)
            .file("run2/.wh.gone", b"")
            .symlink("var/run", "/run")
            .file("var/run/deeper", b"")
            .symlink("opaque", "/made")
            .file("opaque/.wh..wh..opq", b""),
    );
    assert!(layer.exists("run/deeper") && !layer.exists("var/run/run"));
    assert!(layer.exists("run/lock/x") && layer.stat("run2").is_symlink());
    assert!(layer.exists("usr/lib/so") && layer.exists("usr/y"));
    assert_eq!(layer.stat("lib64").ino(), layer.stat("usr/lib/so").ino());
    assert_eq!(layer.mode("tmp"), 0o1777);
    assert!(layer.is_whiteout("run/gone") && layer.is_opaque("made"));
    assert_eq!(layer.implicit(), ["/", "a", "a/b", "run", "run/lock", "usr", "var"]);
    assert_eq!((layer.mode("a/b"), layer.stat("a/b").mtime()), (0o755, 0), "the same layer, the same files");
}

#[test]
fn links_into_lower_layers_are_noted() {
    let layer = unpacked(
        Archive::new()
            .hard("bin/new", "/usr/bin/old")
            .hard("replaced", "nowhere")
            .file("replaced", b"")
            .hard("parent", "nowhere")
            .file("parent/x", b"")
            .hard("late", "comes")
            .file("comes", b"later")
            .dir("dropped", 0o755)
            .hard("dropped/x", "nowhere")
            .file("dropped", b""),
    );
    assert_eq!(
        layer.notes.links,
        [LowerLink { path: LayerPath(b"bin/new".into()), target: LayerPath(b"usr/bin/old".into()) }]
    );
    assert!(!layer.exists("bin/new"));
    assert_eq!(layer.text("late"), "later");
    assert!(layer.is_opaque("parent"));
}

#[test]
fn nothing_escapes() {
    let victim = |scratch: &Path| scratch.join("victim").to_string_lossy().into_owned();
    type Make = Box<dyn Fn(&str) -> Archive>;
    let cases: Vec<(&str, Make)> = vec![
        ("write through an absolute link", Box::new(|v| Archive::new().symlink("l", v).file("l/secret", b"x"))),
        (
            "write through a relative link",
            Box::new(|_| Archive::new().symlink("l", "../victim").file("l/secret", b"x")),
        ),
        ("over a link", Box::new(|_| Archive::new().symlink("l", "../victim/secret").file("l", b"x"))),
        ("hard link out", Box::new(|_| Archive::new().symlink("l", "../victim").hard("h", "l/secret").file("h", b"x"))),
        ("hard link by absolute path", Box::new(|v| Archive::new().hard("h", &format!("{v}/secret")).file("h", b"x"))),
        (
            "link swapped for a directory",
            Box::new(|_| {
                Archive::new().dir("d", 0o755).file("d/a", b"").symlink("d", "../victim").file("d/secret", b"x")
            }),
        ),
        (
            "link swapped under the cached parent",
            Box::new(|_| {
                Archive::new().dir("a/d", 0o755).file("a/d/a", b"").symlink("a", "../victim").file("a/d/secret", b"x")
            }),
        ),
        ("link chain", Box::new(|_| Archive::new().symlink("a", "b").symlink("b", "..").file("a/victim/secret", b"x"))),
        ("device over a path", Box::new(|_| Archive::new().symlink("l", "../victim/secret").node(b'3', "l", (1, 3)))),
        ("mode through a link", Box::new(|_| Archive::new().symlink("l", "../victim").dir("l", 0o777))),
        (
            "mode through a link to a file",
            Box::new(|_| Archive::new().symlink("l", "../victim/secret").hard("h", "l").node(b'6', "l", (0, 0))),
        ),
        ("whiteout through a link", Box::new(|_| Archive::new().symlink("l", "../victim").file("l/.wh.secret", b""))),
        ("opaque through a link", Box::new(|_| Archive::new().symlink("l", "../victim").file("l/.wh..wh..opq", b""))),
        ("through /proc", Box::new(|_| Archive::new().symlink("l", "/proc/self/root").file("l/tmp/escaped", b"x"))),
        ("absolute path", Box::new(|v| Archive::new().file(&format!("{v}/secret"), b"x"))),
    ];
    for (name, make) in cases {
        let scratch = scratch();
        let before = listing(&scratch.path().join("victim"));
        let archive = make(&victim(scratch.path()));
        let outcome = unpack(&archive.end()[..], &scratch.path().join("layer"), &Limits::default());
        assert_eq!(listing(&scratch.path().join("victim")), before, "{name}: {outcome:?}");
        assert!(!Path::new("/tmp/escaped").exists(), "{name}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "{name}");
    }
}

#[test]
fn what_no_honest_tool_writes_refuses_the_layer() {
    let mut bad_sum = header(b'0', b"x", 0o644).as_bytes().to_vec();
    bad_sum[0] = b'y';
    let cases: Vec<(&str, Archive)> = vec![
        ("..", Archive::new().file("../x", b"")),
        (".. inside", Archive::new().file("a/../b", b"")),
        (".. in a link", Archive::new().file("x", b"").hard("y", "a/../x")),
        (". as a link", Archive::new().symlink(".", "/etc")),
        (". as a file", Archive::new().file("./", b"")),
        ("link to the root", Archive::new().hard("x", "/")),
        ("link to a directory", Archive::new().dir("d", 0o755).hard("x", "d")),
        ("circle", Archive::new().symlink("a", "b").symlink("b", "a").file("a/x", b"")),
        ("unknown type", Archive::new().raw(header(b'Q', b"x", 0), b"")),
        ("uid out of range", Archive::new().pax(b'x', &[("uid", b"4294967295")]).file("x", b"")),
        ("uid not a number", Archive::new().pax(b'x', &[("uid", b"-1")]).file("x", b"")),
        ("NUL in a path", Archive::new().pax(b'x', &[("path", b"a\0b")]).file("x", b"")),
        ("extension without a file", Archive::new().pax(b'x', &[("path", b"x")])),
        ("checksum", Archive::new().blocks(&bad_sum)),
        ("lone zero block", Archive::new().blocks(&[0; 512]).file("x", b"")),
        ("too deep", Archive::new().pax(b'x', &[("path", "d/".repeat(300).as_bytes())]).dir("x", 0o755)),
        ("name too long", Archive::new().pax(b'x', &[("path", &[b'n'; 256])]).file("x", b"")),
    ];
    for (name, archive) in cases {
        let what = refused(archive);
        assert!(what.contains("cannot "), "{name}: {what}");
    }
}

#[test]
fn a_cut_off_tar_is_an_error_and_a_missing_end_marker_is_not() {
    let whole = Archive::new().file("x", &[1; 600]).bytes;
    for cut in [1, 511, 513, 1024, 1111] {
        let scratch = scratch();
        assert!(unpack(&whole[..cut], &scratch.path().join("layer"), &Limits::default()).is_err(), "{cut}");
    }
    let scratch = scratch();
    unpack(&whole[..], &scratch.path().join("layer"), &Limits::default()).unwrap();
    unpack(&b""[..], &scratch.path().join("layer"), &Limits::default()).unwrap();
}

#[test]
fn the_stream_is_read_to_its_end() {
    let mut bytes = Archive::new().file("x", b"").end();
    bytes.extend_from_slice(&vec![0xaa; 1_000_000]);
    let mut reader = &bytes[..];
    unpack(&mut reader, &scratch().path().join("layer"), &Limits::default()).unwrap();
    assert!(reader.is_empty());
}

#[test]
fn each_limit_is_named_by_its_error() {
    let endless = |flag: u8| {
        let mut head = header(flag, b"bomb", 0o644);
        head.set_size(2 << 30);
        Archive::new().raw(head, b"").bytes
    };
    let sparse: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"9000000000000000000"), ("GNU.sparse.map", b"0,0")];
    let deep = "a/b/c/d/e".to_string();
    let limits = Limits { entries: 10, depth: 4, names_bytes: 500, ..Limits::default() };
    let many = (0..11).fold(Archive::new(), |archive, number| archive.file(&format!("{number}"), b""));
    let parents = Archive::new().file("1/2/3/x", b"").file("4/5/6/x", b"").file("7/8/9/x", b"");
    let names =
        (0..4).fold(Archive::new(), |archive, number| archive.dir(&format!("{number}{}", "n".repeat(90)), 0o755));
    let whiteouts =
        (0..4).fold(Archive::new(), |archive, number| archive.file(&format!(".wh.{number}{}", "n".repeat(90)), b""));
    let links = (0..4).fold(Archive::new(), |archive, number| archive.hard(&format!("{number}"), &"n".repeat(99)));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("--max-header-size", endless(b'L')),
        ("--max-header-size", endless(b'K')),
        ("--max-header-size", endless(b'x')),
        ("--max-header-size", endless(b'g')),
        ("--max-layer-size", Archive::new().pax(b'x', &sparse).file("x", b"").end()),
        ("--max-layer-size", {
            let mut head = header(b'0', b"x", 0o644);
            head.set_size(2 << 40);
            Archive::new().raw(head, b"").bytes
        }),
        ("--max-layer-entries", many.end()),
        ("--max-layer-entries", parents.end()),
        ("--max-path-depth", Archive::new().file(&deep, b"").end()),
        ("--max-path-depth", Archive::new().symlink("l", "a/b/c/d/e").file("l/x", b"").end()),
        ("--max-names-size", names.end()),
        ("--max-names-size", whiteouts.end()),
        ("--max-names-size", links.end()),
    ];
    for (name, bytes) in cases {
        let scratch = scratch();
        // Behind a bomb's header the stream goes on for ever; reading it would be the failure.
        let stream = bytes.chain(std::io::repeat(b'n').take(4 << 20));
        let error = unpack(stream, &scratch.path().join("layer"), &limits).unwrap_err();
        assert!(error.hint.ends_with(name) && error.what.contains("limit"), "{name}: {error}");
    }
}

#[test]
fn paths_longer_than_the_kernel_takes_are_reached_by_stretches() {
    let path = vec!["d".repeat(250); 40].join("/");
    let layer = unpacked(
        Archive::new()
            .pax(b'x', &[("path", format!("{path}/file").as_bytes())])
            .file("x", b"far down")
            .pax(b'x', &[("path", format!("{path}/link").as_bytes()), ("linkpath", format!("{path}/file").as_bytes())])
            .hard("x", "x")
            .pax(b'x', &[("path", format!("{path}/.wh.gone").as_bytes())])
            .file("x", b""),
    );
    assert_eq!(layer.notes.implicit.len(), 41);
    let found = std::process::Command::new("find").arg(layer.path("")).args(["-name", "file", "-links", "2"]).output();
    assert_eq!(found.unwrap().stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
}

#[test]
fn an_error_of_the_stream_passes_as_it_is() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other(Error::new("cannot fetch the blob: the registry hung up")))
        }
    }
    let scratch = scratch();
    let error = unpack(Broken, &scratch.path().join("layer"), &Limits::default()).unwrap_err();
    assert_eq!(error.what, "cannot fetch the blob: the registry hung up");
}

/// Small pools of names, so that entries meet: replace, link, follow and hide each other.
fn any_entry() -> impl Strategy<Value = (u8, String, String, u32)> {
    let component = prop_oneof![
        4 => "[abl]",
        1 => Just(".wh.a".to_string()),
        1 => Just(".wh.b".to_string()),
        1 => Just(".wh..wh..opq".to_string()),
        1 => Just(".".to_string()),
        1 => prop_oneof![Just("..".to_string()), Just(".wh.".to_string()), Just("".to_string())],
    ];
    let path = proptest::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        3 => proptest::collection::vec("[abl]", 1..4).prop_map(|parts| parts.join("/")),
        1 => Just("/".to_string()),
        1 => Just("..".to_string()),
        1 => Just("../victim".to_string()),
        1 => Just("../victim/secret".to_string()),
        1 => Just("/a".to_string()),
        1 => Just("/proc/self/root".to_string()),
    ];
    let flag = prop_oneof![3 => Just(b'0'), 3 => Just(b'5'), 3 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'3'), 1 => Just(b'6')];
    (flag, path, target, 0u32..0o10000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_entries_escapes_or_panics(entries in proptest::collection::vec(any_entry(), 1..14)) {
        let scratch = scratch();
        let before = listing(&scratch.path().join("victim"));
        // An entry that is refused ends a layer; each is tried on what the ones before it left.
        let mut archive = Archive::new();
        for (flag, path, target, mode) in &entries {
            let mut head = header(*flag, path.as_bytes(), *mode);
            head.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            head.set_uid(u64::from(*mode % 3));
            let longer = archive.clone().with(head, if *flag == b'0' { b"content" } else { b"" });
            let into = scratch.path().join("layer");
            fs::remove_dir_all(&into).unwrap();
            fs::create_dir(&into).unwrap();
            match unpack(&longer.clone().end()[..], &into, &Limits::default()) {
                Ok(notes) => {
                    archive = longer;
                    // What the notes say is so.
                    for path in &notes.implicit {
                        prop_assert!(fs::symlink_metadata(into.join(OsStr::from_bytes(&path.0))).unwrap().is_dir());
                    }
                    for link in &notes.links {
                        prop_assert!(fs::symlink_metadata(into.join(OsStr::from_bytes(&link.path.0))).is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)));
                    }
                }
                Err(error) => prop_assert!(error.what.contains("cannot "), "{}", error),
            }
        }
        prop_assert_eq!(listing(&scratch.path().join("victim")), before);
        prop_assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), good in any::<bool>(), at in 0usize..1024) {
        if good {
            // A sound archive with a stretch of rubbish, checksums put right, reaches further in.
            let records: [(&str, &[u8]); 3] = [("path", b"p"), ("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,3")];
            let mut sound = Archive::new().pax(b'x', &records).file("x", b"abc").end();
            let length = bytes.len().min(40).min(sound.len() - at);
            sound[at..at + length].copy_from_slice(&bytes[..length]);
            for block in 0..sound.len() / 512 {
                let mut head = tar::Header::new_old();
                head.as_mut_bytes().copy_from_slice(&sound[block * 512..][..512]);
                if block != 1 && block != 3 {
                    head.set_cksum();
                    sound[block * 512..][..512].copy_from_slice(head.as_bytes());
                }
            }
            bytes = sound;
        }
        let scratch = scratch();
        let _ = unpack(&bytes[..], &scratch.path().join("layer"), &Limits::default());
        prop_assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_record_counts_its_own_length() {
    assert_eq!(record(b"a", b"b"), b"6 a=b\n");
    assert_eq!(record(b"key", &[b'v'; 90]).len(), 98);
    assert_eq!(record(b"key", &[b'v'; 92]).len(), 101, "one more digit, which counts too");
}
