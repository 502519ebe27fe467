use std::os::unix::fs::FileTypeExt;

use std::path::PathBuf;

use super::*;
use crate::unpack::archive::{Archive, header};
use crate::unpack::{Limits, unpack};

/// A store with these layers, bottom first, and their fix-up.
struct Image {
    scratch: tempfile::TempDir,
    store: Store,
    layers: Vec<DiffId>,
}

impl Image {
    fn try_of(archives: Vec<Archive>) -> Result<Self, Error> {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::at(&scratch.path().join("store"));
        store.ensure().unwrap();
        let mut layers = Vec::new();
        for archive in archives {
            let bytes = archive.end();
            let diff_id = DiffId(crate::digest::Digest::from_bytes(&crate::digest::sha256(&bytes)));
            let root = store.layer(&diff_id);
            if !root.exists() {
                fs::create_dir(&root).unwrap();
                let notes = unpack(&bytes[..], &root, &Limits::default()).unwrap();
                fs::write(store.layer_notes(&diff_id), serde_json::to_vec(&notes).unwrap()).unwrap();
            }
            layers.push(diff_id);
        }
        build(&store, &layers)?;
        build(&store, &layers)?; // once more changes nothing
        Ok(Image { scratch, store, layers })
    }

    fn of(archives: Vec<Archive>) -> Self {
        Image::try_of(archives).unwrap()
    }

    fn fixup(&self) -> PathBuf {
        self.store.fixup(&chain_id(&self.layers).unwrap())
    }

    /// The merged view, as a container would see it.
    fn merged(&self) -> Merged {
        let mut lower = vec![self.fixup()];
        lower.retain(|path| path.is_dir());
        lower.extend(self.layers.iter().rev().map(|diff_id| self.store.layer(diff_id)));
        let mut known = BTreeSet::new();
        lower.retain(|path| known.insert(path.clone()));
        let lower: Vec<String> = lower.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        for name in ["merged", "upper", "work"] {
            fs::create_dir(self.scratch.path().join(name)).unwrap();
        }
        fs::set_permissions(self.scratch.path().join("upper"), fs::metadata(&lower[0]).unwrap().permissions()).unwrap();
        let at = self.scratch.path().join("merged");
        let place = self.scratch.path().display();
        let options = format!("lowerdir={},upperdir={place}/upper,workdir={place}/work", lower.join(":"));
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", &at, "overlay", rustix::mount::MountFlags::empty(), Some(&*options)).unwrap();
        Merged(at)
    }
}

struct Merged(PathBuf);

impl Drop for Merged {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

impl Merged {
    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.0.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
    fn mode(&self, path: &str) -> u32 {
        self.stat(path).mode() & 0o7777
    }
    fn names(&self, path: &str) -> Vec<String> {
        let read = fs::read_dir(self.0.join(path)).unwrap();
        let mut names: Vec<String> = read.map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }
}

#[test]
fn an_image_whose_layers_name_everything_needs_no_fixup() {
    let image = Image::of(vec![
        Archive::new().dir("./", 0o755).dir("etc", 0o755).file("etc/a", b""),
        Archive::new().dir("etc", 0o755).file("etc/b", b"").file("etc/.wh.a", b""),
    ]);
    assert!(!image.fixup().exists());
    assert_eq!(image.merged().names("etc"), ["b"]);
}

#[test]
fn a_directory_that_only_a_lower_layer_names_keeps_its_attributes() {
    let mut home = header(b'5', b"home/u", 0o750);
    home.set_uid(1000);
    home.set_gid(1001);
    home.set_mtime(1_234_567_890);
    let base = || {
        Archive::new()
            .dir("./", 0o711)
            .dir("tmp", 0o1777)
            .dir("home", 0o755)
            .pax(b'x', &[("SCHILY.xattr.user.note", b"n")])
            .raw(home.clone(), b"")
    };
    let image = Image::of(vec![base(), Archive::new().file("tmp/x", b"").file("home/u/f", b"").file("new/y", b"")]);
    let merged = image.merged();
    assert_eq!((merged.mode(""), merged.mode("tmp"), merged.mode("new")), (0o711, 0o1777, 0o755));
    let stat = merged.stat("home/u");
    assert_eq!((stat.mode() & 0o777, stat.uid(), stat.gid(), stat.mtime()), (0o750, 1000, 1001, 1_234_567_890));
    let mut value = [0; 8];
    assert_eq!(rustix::fs::lgetxattr(merged.0.join("home/u"), "user.note", &mut value).unwrap(), 1);
    assert_eq!(merged.names("home/u"), ["f"]);

    // A layer between that names it again counts more; one above that names it settles the matter.
    let middle = Image::of(vec![base(), Archive::new().dir("tmp", 0o700), Archive::new().file("tmp/x", b"")]);
    assert_eq!(middle.merged().mode("tmp"), 0o700);
    let above =
        Image::of(vec![base(), Archive::new().file("tmp/x", b""), Archive::new().dir("./", 0o755).dir("tmp", 0o755)]);
    assert!(!above.fixup().exists());
    assert_eq!(above.merged().names("tmp"), ["x"]);
}

#[test]
fn the_same_layer_twice_in_a_stack_is_no_other_layer() {
    let layer = || Archive::new().dir("a", 0o755).file("tmp/x", b"1");
    let image = Image::of(vec![Archive::new().dir("tmp", 0o1777), layer(), layer()]);
    assert_eq!(image.merged().mode("tmp"), 0o1777);
}

#[test]
fn what_a_higher_layer_removed_or_began_anew_is_not_resurrected() {
    let base = || Archive::new().dir("a", 0o700).dir("a/b", 0o700).file("a/b/old", b"");
    let implicit = || Archive::new().file("a/b/x", b"");
    let removed = Image::of(vec![base(), implicit(), Archive::new().dir("./", 0o755).file(".wh.a", b"")]);
    assert_eq!(removed.merged().names(""), Vec::<String>::new());

    let replaced = Image::of(vec![base(), implicit(), Archive::new().dir("./", 0o755).file("a", b"file")]);
    assert_eq!(replaced.merged().text("a"), "file");

    let anew = Image::of(vec![base(), Archive::new().file("a/.wh..wh..opq", b"").file("a/b/y", b"")]);
    let merged = anew.merged();
    assert_eq!(merged.names("a/b"), ["y"]);
    assert_eq!(merged.mode("a/b"), 0o755, "nothing of the lower a/b is left, its mode neither");

    // Named in an opaque parent, implicit above it: the fix-up's directories must not let the bottom show.
    let between = Archive::new().dir("a", 0o710).file("a/.wh..wh..opq", b"").dir("a/b", 0o711);
    let covered = Image::of(vec![base(), between, implicit()]);
    let merged = covered.merged();
    assert_eq!((merged.mode("a"), merged.mode("a/b")), (0o710, 0o711));
    assert_eq!(merged.names("a/b"), ["x"]);
}

#[test]
fn a_hard_link_into_a_lower_layer_is_one_file_with_two_names() {
    let mut owned = header(b'0', b"bin/old", 0o4750);
    owned.set_gid(7);
    let base =
        || Archive::new().dir("bin", 0o711).with(owned.clone(), b"content").symlink("lib", "bin").symlink("s", "x");
    let link = || Archive::new().hard("opt/new", "/bin/old").hard("opt/via", "lib/old").hard("t", "s");
    let image = Image::of(vec![base(), link()]);
    let lower = image.store.layer(&image.layers[0]).join("bin/old");
    assert_eq!(fs::metadata(&lower).unwrap().nlink(), 1, "the lower layer is as it was");
    let merged = image.merged();
    let (new, old) = (merged.stat("opt/new"), merged.stat("bin/old"));
    assert_eq!(merged.text("opt/new"), "content");
    assert_eq!((new.mode() & 0o7777, new.gid(), new.mtime(), new.nlink()), (0o4750, 7, 1_000_000_000, 3));
    assert_eq!((new.ino(), merged.stat("opt/via").ino()), (old.ino(), old.ino()));
    assert_eq!(merged.mode("bin"), 0o711);
    assert_eq!(fs::read_link(merged.0.join("t")).unwrap(), Path::new("x"));

    // Removed above: stays removed. Its target removed above: stays linked.
    let gone = Image::of(vec![base(), link(), Archive::new().file("opt/.wh.new", b"").file(".wh.bin", b"")]);
    let merged = gone.merged();
    assert_eq!(merged.names("opt"), ["via"]);
    assert_eq!(merged.text("opt/via"), "content");
    assert!(!merged.0.join("bin").exists());

    // A link to a link of the layer below; the upper of two links of one name wins.
    let chain = Image::of(vec![
        base().file("other", b"o"),
        Archive::new().hard("one", "bin/old").hard("two", "bin/old"),
        Archive::new().hard("three", "one").hard("two", "other"),
    ]);
    let merged = chain.merged();
    assert_eq!((merged.text("three"), merged.text("two")), ("content".into(), "o".into()));
    assert_eq!(merged.stat("three").ino(), merged.stat("one").ino());
}

#[test]
fn a_link_to_what_no_layer_has_names_both_paths() {
    for lower in [Archive::new(), Archive::new().dir("x", 0o755), Archive::new().symlink("d", "e")] {
        let error = Image::try_of(vec![lower, Archive::new().hard("new", "x").hard("newer", "d/x")]).err().unwrap();
        assert!(error.what.starts_with("cannot link 'new"), "{error}");
    }
    let removed = vec![Archive::new().file("x", b""), Archive::new().file(".wh.x", b""), Archive::new().hard("n", "x")];
    assert!(Image::try_of(removed).is_err(), "removed below the link is gone");
}

#[test]
fn holes_of_a_copied_file_stay_holes() {
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"67108864"), ("GNU.sparse.map", b"1048576,3")];
    let image =
        Image::of(vec![Archive::new().pax(b'x', &records).file("big", b"abc"), Archive::new().hard("new", "big")]);
    let stat = fs::metadata(image.fixup().join("new")).unwrap();
    assert_eq!(stat.len(), 64 << 20);
    assert!(stat.blocks() < 1000);
    assert_eq!(&fs::read(image.fixup().join("new")).unwrap()[1 << 20..][..4], b"abc\0");
}

#[test]
fn whiteouts_that_nothing_lies_under_are_not_listed() {
    // As squashed images have them.
    let image =
        Image::of(vec![Archive::new().dir("d", 0o750).file("d/.wh.gone", b"").file("d/x", b""), Archive::new()]);
    let merged = image.merged();
    assert_eq!(merged.names("d"), ["x"]);
    assert_eq!(merged.mode("d"), 0o750);
}

#[test]
fn an_opaque_root_hides_all_that_lies_below() {
    let image = Image::of(vec![
        Archive::new().file("old", b"").file("etc/passwd", b"").file("both/old", b"").file("usr/bin/old", b""),
        Archive::new().file(".wh..wh..opq", b"").file("both/new", b"").file("mine", b""),
        Archive::new().file("etc/new", b"").file("usr/bin/new", b"").file("usr/share/new", b""),
    ]);
    let merged = image.merged();
    assert_eq!(merged.names(""), ["both", "etc", "mine", "usr"]);
    assert_eq!((merged.names("both"), merged.names("etc")), (vec!["new".into()], vec!["new".into()]));
    assert_eq!(
        (merged.names("usr"), merged.names("usr/bin")),
        (vec!["bin".into(), "share".into()], vec!["new".into()])
    );
}

#[test]
fn a_device_linked_from_below_is_copied_as_one() {
    let image = Image::of(vec![Archive::new().node(b'3', "null", (1, 3)), Archive::new().hard("zero", "null")]);
    assert!(image.merged().stat("zero").file_type().is_char_device());
    assert_eq!(image.merged_rdev("zero"), rustix::fs::makedev(1, 3));
}

impl Image {
    fn merged_rdev(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.fixup().join(path)).unwrap().rdev()
    }
}

#[test]
fn a_parent_that_is_a_symbolic_link_below_is_followed() {
    let base = || {
        Archive::new()
            .dir("usr", 0o755)
            .dir("usr/lib", 0o711)
            .file("usr/lib/ld.so", b"loader")
            .file("usr/lib/replaced", b"old")
            .file("usr/lib/gone", b"")
            .dir("usr/lib/sub", 0o700)
            .symlink("lib", "usr/lib")
            .symlink("var/run", "/run")
    };
    let through = || {
        Archive::new()
            .file("lib/x", b"x")
            .hard("lib/y", "lib/x")
            .file("lib/replaced", b"new")
            .file("lib/.wh.gone", b"")
            .file("lib/sub/z", b"z")
            .hard("lib/ld2.so", "usr/lib/ld.so")
            .file("var/run/lock/x", b"lock")
    };
    let image = Image::of(vec![base(), through()]);
    let merged = image.merged();
    assert!(merged.stat("lib").is_symlink() && merged.stat("var/run").is_symlink());
    assert_eq!(merged.names("usr/lib"), ["ld.so", "ld2.so", "replaced", "sub", "x", "y"]);
    assert_eq!(
        (merged.text("lib/x"), merged.text("lib/replaced"), merged.text("lib/ld.so")),
        ("x".into(), "new".into(), "loader".into())
    );
    assert_eq!(merged.stat("usr/lib/x").ino(), merged.stat("usr/lib/y").ino());
    assert_eq!(merged.stat("usr/lib/ld.so").ino(), merged.stat("usr/lib/ld2.so").ino());
    assert_eq!((merged.mode("usr/lib"), merged.mode("usr/lib/sub")), (0o711, 0o700));
    assert_eq!(merged.text("run/lock/x"), "lock");

    // A layer above that changes the place itself has the last word; one that names the directory wants a directory.
    let changed =
        Image::of(vec![base(), through(), Archive::new().file("usr/lib/x", b"later").file("usr/lib/.wh.y", b"")]);
    let merged = changed.merged();
    assert_eq!(merged.text("lib/x"), "later");
    assert!(!merged.0.join("lib/y").exists());
    let named = Image::of(vec![base(), Archive::new().dir("lib", 0o755).file("lib/x", b"")]);
    assert_eq!(named.merged().names("lib"), ["x"]);
}
