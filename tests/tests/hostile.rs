//! Layers made to do harm, end to end: pulled from a registry into a store. Nothing outside the layer's directory changes,
//! the error names the entry, and the honest twin of each, what it pretends to be, still unpacks.

#[path = "../../mocker-common/src/unpack/archive.rs"]
mod archive;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use archive::{Archive, header};
use serde_json::json;
use sha2::{Digest, Sha256};
use tests::{Lab, Layouts, Output, Tree};

/// What becomes of a layer: refused with these words, or unpacked with just these paths, those of others untouched.
#[derive(Clone, Copy)]
enum Outcome<'a> {
    Refused(&'a str),
    /// Unpacked, but no image has it, with these words.
    Unstackable(&'a str),
    Has(&'a [&'a str]),
}
use Outcome::{Has, Refused, Unstackable};

/// A case: what it tries, the layer, what comes of it, its honest twin, what the twin has.
type Case<'a> = (&'a str, Archive, Outcome<'a>, Archive, &'a [&'a str]);

/// `VICTIM` is an absolute path outside. The twins' absolute links lead to `/inside`, which no machine has: should a change
/// break the unpacker, they must not write to the real `/etc` either.
fn cases(victim: &str) -> Vec<Case<'static>> {
    let secret = format!("{victim}/secret");
    let (up, tar) = ("../../../victim", Archive::new);
    let long = |bytes: usize| vec![b'n'; bytes];
    let path = |name: &[u8]| tar().pax(b'x', &[("path", name)]).file("x", b"x");
    let overlay: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/victim"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ];
    let mut lying = header(b'0', b"lies", 0o644);
    lying.set_size(512);
    vec![
        // Links that lead out, and something done through them.
        (
            "write by an absolute path",
            tar().file(&secret, b"x"),
            Has(&["VICTIM/secret"]),
            tar().file("/etc/x", b"x"),
            &["etc/x"],
        ),
        (
            "write through an absolute link",
            tar().symlink("l", victim).file("l/secret", b"x"),
            Has(&["VICTIM/secret", "l"]),
            tar().symlink("l", "/inside").file("l/secret", b"x"),
            &["inside/secret", "l"],
        ),
        (
            "write through a relative link",
            tar().symlink("l", up).file("l/secret", b"x"),
            Has(&["l", "victim/secret"]),
            tar().symlink("a/l", "../b").file("a/l/secret", b"x"),
            &["a/l", "b/secret"],
        ),
        (
            "write over a link",
            tar().symlink("l", &secret).file("l", b"x"),
            Has(&["l"]),
            tar().file("l", b"old").file("l", b"x"),
            &["l"],
        ),
        (
            "a chain of links",
            tar().symlink("a", "b").symlink("b", up).file("a/secret", b"x"),
            Has(&["a", "b", "victim/secret"]),
            tar().symlink("a", "b").symlink("b", "c").file("a/secret", b"x"),
            &["a", "b", "c/secret"],
        ),
        (
            "a circle of links",
            tar().symlink("a", "b").symlink("b", "a").file("a/x", b"x"),
            Refused("'a/x'"),
            tar().symlink("a", "b").symlink("b", "a"),
            &["a", "b"],
        ),
        (
            "through /proc",
            tar().symlink("l", "/proc/self/root").file(&format!("l/{secret}"), b"x"),
            Has(&["l", "proc/self/root/VICTIM/secret"]),
            tar().symlink("l", "/inside").file("l/x", b"x"),
            &["inside/x", "l"],
        ),
        (
            "link swapped for a directory",
            tar().dir("d", 0o755).file("d/a", b"").symlink("d", victim).file("d/secret", b"x"),
            Has(&["VICTIM/secret", "d"]),
            tar().dir("d", 0o755).file("d/a", b"").file("d/secret", b"x"),
            &["d/a", "d/secret"],
        ),
        (
            "link swapped above the open directory",
            tar().file("a/d/x", b"").symlink("a", up).file("a/d/secret", b"x"),
            Has(&["a", "victim/d/secret"]),
            tar().file("a/d/x", b"").file("a/d/secret", b"x"),
            &["a/d/x", "a/d/secret"],
        ),
        (
            "a directory becomes a link and a directory again",
            tar().file("d/a", b"").symlink("d", victim).dir("d", 0o777).file("d/secret", b"x"),
            Has(&["d/secret"]),
            tar().file("d/a", b"").file("d", b"").dir("d", 0o777).file("d/secret", b"x"),
            &["d/secret"],
        ),
        // Hard links.
        (
            "hard link out by an absolute path",
            tar().hard("h", &secret).file("h", b"x"),
            Has(&["h"]),
            tar().file("etc/x", b"").hard("h", "/etc/x"),
            &["etc/x", "h"],
        ),
        (
            "hard link out through a link",
            tar().symlink("l", up).hard("h", "l/secret").file("h", b"x"),
            Has(&["h", "l"]),
            tar().symlink("l", "d").file("d/secret", b"").hard("h", "l/secret"),
            &["d/secret", "h", "l"],
        ),
        (
            "hard link to a link, then written through",
            tar().symlink("l", &secret).hard("h", "l").file("h", b"x"),
            Has(&["h", "l"]),
            tar().symlink("l", &secret).hard("h", "l"),
            &["h", "l"],
        ),
        (
            "hard link by '..'",
            tar().hard("h", "../../../victim/secret"),
            Refused("'../../../victim/secret'"),
            tar().file("d/..x", b"").hard("h", "d/..x"),
            &["d/..x", "h"],
        ),
        (
            "hard link to what no layer has",
            tar().hard("h", "victim/secret"),
            Unstackable("'h'"),
            tar().hard("h", "late").file("late", b""),
            &["h", "late"],
        ),
        // Names.
        (
            "'..' in front",
            tar().file("../../../victim/secret", b"x"),
            Refused("'../../../victim/secret'"),
            tar().file("..x/y", b""),
            &["..x/y"],
        ),
        (
            "'..' inside",
            tar().file("a/../../x", b"x"),
            Refused("'a/../../x'"),
            tar().file("a/..b/x", b""),
            &["a/..b/x"],
        ),
        ("'.' as a link", tar().symlink(".", victim), Refused("root"), tar().dir("./", 0o755).file("x", b""), &["x"]),
        (
            "'.' as a link, by a path",
            tar().dir("a", 0o755).symlink("a/.", victim).file("a/secret", b"x"),
            Has(&["VICTIM/secret", "a"]),
            tar().dir("a/.", 0o755),
            &["a"],
        ),
        ("NUL in a name", path(b"a\0b"), Refused("a\\u{0}b"), path(b"a\x01b"), &["a\\x01b"]),
        ("a name of 4 KiB", path(&long(4096)), Refused("nnn"), path(&long(255)), &[NAME_OF_255]),
        ("an empty name", path(b"/"), Refused("root"), path(b"/x"), &["x"]),
        // Nodes and attributes.
        (
            "device over a path",
            tar().symlink("l", &secret).node(b'3', "l", (1, 3)),
            Has(&["l"]),
            tar().file("l", b"").node(b'3', "l", (1, 3)),
            &["l"],
        ),
        (
            "a fifo's mode through a link",
            tar().symlink("l", &secret).hard("h", "l").node(b'6', "l", (0, 0)),
            Has(&["h", "l"]),
            tar().node(b'6', "l", (0, 0)),
            &["l"],
        ),
        (
            "a directory's mode through a link",
            tar().symlink("l", victim).dir("l", 0o777),
            Has(&["l"]),
            tar().dir("l", 0o777),
            &["l"],
        ),
        (
            "attributes that steer overlayfs",
            tar().pax(b'x', &overlay).dir("d", 0o755).pax(b'x', &overlay).file("d/f", b""),
            Has(&["d/f"]),
            tar().pax(b'x', &[("SCHILY.xattr.user.mine", b"y")]).file("d/f", b""),
            &["d/f"],
        ),
        // Whiteouts.
        ("whiteout of the root", tar().file(".wh..", b""), Refused("'.wh..'"), tar().file(".wh..x", b""), &[".x"]),
        ("whiteout of '..'", tar().file(".wh...", b""), Refused("'.wh...'"), tar().file(".wh....", b""), &["..."]),
        (
            "whiteout of an empty name",
            tar().file("a/.wh.", b""),
            Refused("'a/.wh.'"),
            tar().file("a/.wh.x", b""),
            &["a/x"],
        ),
        (
            "whiteout through a link",
            tar().symlink("l", victim).file("l/.wh.secret", b""),
            Has(&["VICTIM/secret", "l"]),
            tar().symlink("l", "/inside").file("l/.wh.secret", b""),
            &["inside/secret", "l"],
        ),
        (
            "opaque through a link",
            tar().symlink("l", up).file("l/.wh..wh..opq", b""),
            Has(&["l", "victim"]),
            tar().file("l/.wh..wh..opq", b""),
            &["l"],
        ),
        (
            "a whiteout as a directory",
            tar().file(".wh.d/x", b""),
            Refused("'.wh.d/x'"),
            tar().file(".wh.d", b""),
            &["d"],
        ),
        // Entries that lie.
        (
            "entries that come twice",
            tar().file("x", b"1").file("x", b"2").dir("x", 0o755).file("x/y", b""),
            Has(&["x/y"]),
            tar().file("x", b"1"),
            &["x"],
        ),
        (
            "a PAX size beyond the archive",
            tar().pax(b'x', &[("size", b"99999999")]).raw(lying.clone(), &[b'x'; 512]),
            Refused("ends in the middle"),
            tar().pax(b'x', &[("size", b"512")]).raw(lying.clone(), &[b'x'; 512]),
            &["lies"],
        ),
        (
            "a PAX size that hides an entry",
            tar().pax(b'x', &[("size", b"0")]).raw(lying, &[b'x'; 512]),
            Refused("checksum"),
            tar().pax(b'x', &[("size", b"3")]).file("x", b"abc"),
            &["x"],
        ),
    ]
}

/// A whole name as long as one may be.
const NAME_OF_255: &str = concat!(
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
);

#[test]
fn no_layer_reaches_beyond_its_directory_and_the_honest_twin_of_each_unpacks() {
    let stage = Stage::new("hostile");
    let mut wrong = Vec::new();
    for (name, layer, outcome, twin, has) in cases(&stage.victim()) {
        wrong.extend(stage.play(name, &layer.end(), outcome));
        wrong.extend(stage.play(&format!("the twin of: {name}"), &twin.end(), Has(has)));
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_bomb_is_refused_early_and_a_layer_of_zeros_is_not() {
    let stage = Stage::new("bomb");
    let zeros = |mib: u64| {
        let mut head = header(b'0', b"zeros", 0o644);
        head.set_size(mib << 20);
        let head = Archive::new().raw(head, b"").bytes;
        std::iter::once(head).chain((0..mib).map(|_| vec![0; 1 << 20])).chain([vec![0; 1024]])
    };
    let bomb = stage.publish("bomb", zeros(1280));
    let size = std::fs::metadata(stage.images.join("bomb/blobs/sha256").join(&bomb.blob)).expect("the blob").len();
    assert!(size < 1280 << 10, "{size} bytes: not a bomb of 1000:1");
    let told = stage.pull("bomb", &[]).fails(1).says("more than 200 times as much").says("--max-layer-ratio");
    assert!(told.stderr.contains(&format!("layer {}", &bomb.blob[..12])), "does not name the layer: {told}");
    assert!(told.stderr.contains("1.0GiB come out of"), "not refused early: {told}");

    // Its twins: as dense but of a size that anybody can bear; and the bomb itself for who asks for it.
    stage.publish("zeros", zeros(64));
    stage.pull("zeros", &[]).succeeds();
    stage.pull("zeros", &["--max-ratio-from=32M"]).succeeds(); // it is here already
    stage.lab.sh(&format!("mocker-images rm {} && mocker-images prune", stage.reference("zeros"))).succeeds();
    stage.pull("zeros", &["--max-ratio-from=32M"]).fails(1).says("32.2MiB come out of");
    stage.pull("zeros", &["--max-ratio-from=32M", "--max-layer-ratio=2000"]).succeeds();

    // Holes are as large as they claim to be.
    let hole = |size: &str| {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"0,0")];
        Archive::new().pax(b'x', &records).file("hole", b"").end()
    };
    stage.publish("hole", [hole("2000000000")]);
    stage.pull("hole", &[]).fails(1).says("'hole'").says("more than 200 times as much");
    stage.publish("small-hole", [hole("200000000")]);
    stage.pull("small-hole", &[]).succeeds();
}

#[test]
fn a_million_entries_take_no_more_memory_than_a_few() {
    let stage = Stage::new("million");
    // In memory: a million files on a disk, and their removal, would be all that this test waits for.
    stage.lab.sh("mount -t tmpfs -o mode=755 tmpfs $MOCKER_ROOT").succeeds();
    stage.publish("million", (0..1000).map(thousand_files).chain([vec![0; 1024]]));
    stage.pull("million", &["--max-layer-entries=100000"]).fails(1).says("'099/").says("--max-layer-entries");
    assert_eq!(stage.kilobytes("million").map_err(|output| output.stderr), Ok(()));
}

/// A thousand headers of empty files, in a directory that none of them names. (One is made properly; in the others name
/// and checksum are replaced, as a million takes its time otherwise.)
fn thousand_files(directory: u32) -> Vec<u8> {
    let first = Archive::new().file("000/000", b"").bytes;
    let sum = u32::from_str_radix(std::str::from_utf8(&first[148..155]).expect("octal digits"), 8).expect("a number");
    let header = |file| {
        let name = format!("{directory:03}/{file:03}");
        let digits: u32 = name.bytes().filter(u8::is_ascii_digit).map(|digit| u32::from(digit - b'0')).sum();
        let mut header = first.clone();
        header[..7].copy_from_slice(name.as_bytes());
        header[148..155].copy_from_slice(format!("{:07o}", sum + digits).as_bytes());
        header
    };
    (0..1000).flat_map(header).collect()
}

/// A lab with a store, something in it to be harmed, and a registry of whatever a test puts there.
struct Stage {
    lab: Lab,
    images: PathBuf,
    server: Layouts,
}

/// The digests, in hex, of what was published.
struct Published {
    diff_id: String,
    blob: String,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let lab = Lab::new(name);
        let images = lab.work().join("images");
        std::fs::create_dir_all(&images).expect("its own directory");
        let server = Layouts::serve(&lab, &images);
        let stage = Stage { lab, images, server };
        // Another image's layer, and a directory where links out of a layer's would lead.
        stage.publish("other", [Archive::new().file("secret", b"other").end()]);
        stage.pull("other", &[]).succeeds();
        stage
            .lab
            .sh("cd $MOCKER_ROOT && mkdir -m 700 victim && echo secret > victim/secret && chmod 600 victim/secret")
            .succeeds();
        stage
    }

    fn victim(&self) -> String {
        self.lab.root().join("victim").display().to_string()
    }

    fn reference(&self, name: &str) -> String {
        self.server.reference(name, "latest")
    }

    /// Puts an image of one layer into the registry: its tar, in pieces.
    fn publish(&self, name: &str, tar: impl IntoIterator<Item = Vec<u8>>) -> Published {
        let layout = self.images.join(name);
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("its own directory");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let mut hash = Sha256::new();
        for piece in tar {
            hash.update(&piece);
            encoder.write_all(&piece).expect("memory");
        }
        let diff_id = hex(hash);
        let put = |bytes: &[u8]| {
            let digest = hex(Sha256::new().chain_update(bytes));
            std::fs::write(blobs.join(&digest), bytes).expect("its own directory");
            json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() })
        };
        let with = |mut descriptor: serde_json::Value, media_type: &str| {
            descriptor["mediaType"] = format!("application/vnd.oci.image.{media_type}").into();
            descriptor
        };
        let layer = with(put(&encoder.finish().expect("memory")), "layer.v1.tar+gzip");
        let blob = layer["digest"].as_str().expect("text")["sha256:".len()..].to_string();
        let config = json!({ "os": "linux", "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "config": { "Cmd": ["true"] }, "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] } });
        let config = with(put(config.to_string().as_bytes()), "config.v1+json");
        let manifest = with(json!({ "schemaVersion": 2, "config": config, "layers": [layer] }), "manifest.v1+json");
        let mut entry = with(put(manifest.to_string().as_bytes()), "manifest.v1+json");
        entry["annotations"]["org.opencontainers.image.ref.name"] = "latest".into();
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(layout.join("index.json"), index.to_string()).expect("its own directory");
        Published { diff_id, blob }
    }

    fn pull(&self, name: &str, options: &[&str]) -> Output {
        let run = self.lab.tool("mocker-pull").args(options).arg(self.reference(name));
        run.timeout(Duration::from_secs(300)).run()
    }

    /// Pulls and reports more memory than a pull may take.
    fn kilobytes(&self, name: &str) -> Result<(), Output> {
        let script = "import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f'{peak} KiB at most', file=sys.stderr)
sys.exit(status or peak > 40 * 1024)";
        let run = self.lab.program("python3").args(["-c", script, "mocker-pull", "--quiet", &self.reference(name)]);
        let output = run.timeout(Duration::from_secs(300)).run();
        if output.code() == 0 { Ok(()) } else { Err(output) }
    }

    /// Publishes and pulls a layer, and says what is wrong with what came of it.
    fn play(&self, name: &str, tar: &[u8], outcome: Outcome) -> Option<String> {
        let published = self.publish("case", [tar.to_vec()]);
        let before = Tree::of(&self.lab.root());
        let output = self.pull("case", &["--quiet"]);
        let after = Tree::of(&self.lab.root());
        let layer = format!("layers/sha256/{}", published.diff_id);
        let harm: Vec<String> = before
            .differences(&after)
            .iter()
            .filter(|difference| {
                let pulled = !matches!(outcome, Refused(_)) && self.belongs(&difference.path, &layer);
                let changed_directory = difference.fact == "mtime" && before.is_directory(&difference.path);
                !pulled && !changed_directory && !difference.path.starts_with("locks/")
            })
            .map(ToString::to_string)
            .collect();
        let right = match outcome {
            Refused(words) | Unstackable(words) => output.code() == 1 && output.stderr.contains(words),
            Has(paths) => {
                let root = self.lab.root().join(&layer);
                let mut paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
                paths.sort();
                output.code() == 0 && self.leaves(&root) == paths && !steers_overlayfs(&root)
            }
        };
        self.lab.sh(&format!("mocker-images rm {} 2>&1; mocker-images prune", self.reference("case")));
        match (right, &harm[..]) {
            (true, []) => None,
            (false, []) => Some(format!("{name}: {:?} {output}", self.leaves(&self.lab.root().join(&layer)))),
            (_, harm) => Some(format!("{name}: outside changed {harm:?}")),
        }
    }

    /// Whether a path of the store is where a pull puts things: this layer and its notes, blobs, the index, a fix-up.
    fn belongs(&self, path: &str, layer: &str) -> bool {
        [layer, "image/blobs/sha256/", "image/index.json", "index.copy", "fixups/sha256/"]
            .iter()
            .any(|place| path.starts_with(place))
    }

    /// What a layer's directory has that holds nothing else, the victim's own path in short.
    fn leaves(&self, layer: &Path) -> Vec<String> {
        if !layer.exists() {
            return Vec::new();
        }
        let paths = Tree::of(layer).paths();
        let holds = |path: &String| paths.iter().any(|other| other.starts_with(&format!("{path}/")));
        let victim = self.victim();
        let shorten = |path: &String| path.replace(&victim[1..], "VICTIM");
        let mut leaves: Vec<String> =
            paths.iter().filter(|path| !path.is_empty() && !holds(path)).map(shorten).collect();
        leaves.sort();
        leaves
    }
}

/// Whether a layer's directory has an attribute of overlayfs' but for "opaque", which is ours to set.
fn steers_overlayfs(layer: &Path) -> bool {
    let ours = "xattr trusted.overlay.opaque";
    let steers = |fact: &String| fact.contains(".overlay.") && fact != ours;
    Tree::of(layer).0.values().any(|facts| facts.keys().any(steers))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
