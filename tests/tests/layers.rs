//! Layers, unpacked and stacked, against other people's unpackers: the walk of our overlay is that of `umoci unpack`'s
//! directory and of `podman image mount`'s, but for what the table below explains.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tests::{Difference, Lab, Layouts, Tree, demo_images, require, tags};

/// A difference that is known: whose, in which images, at which paths (both may end in `*`), what they have there
/// (`now`: a time during the test), and why it is not ours to change.
struct Known(&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const UNNAMED: &str =
    "no entry names this directory: they leave the moment of unpacking, we the lower layer's time, or 0";
const ATTRIBUTES: &str =
    "no entry names this directory: they invent its attributes, we keep the lower layer's, as docker";
const BEYOND: &str = "their times end in 2262 (nanoseconds in 64 bits) or begin in 1970";

const KNOWN: [Known; 29] = [
    // What no layer names.
    Known(
        "podman",
        "*",
        "",
        "mode",
        "0555",
        "their root is 0555 where no layer names it; docker's and umoci's is 0755",
    ),
    Known("podman", "*", "", "mtime", "now", UNNAMED),
    Known("umoci", "parents-unnamed", "", "mtime", "now", UNNAMED),
    Known("umoci", "parents-unnamed", "new*", "mtime", "now", UNNAMED),
    Known("umoci", "parents-unnamed", "tmp/of*", "mtime", "now", UNNAMED),
    Known("umoci", "parents-unnamed", "var/own*", "mtime", "now", UNNAMED),
    Known(
        "umoci",
        "parents-unnamed",
        "var/own/x",
        "mode",
        "2755",
        "the kernel hands on setgid of what is there already",
    ),
    Known(
        "umoci",
        "parents-unnamed",
        "var/own/x",
        "owner",
        "0:8",
        "the kernel hands on the group of a setgid directory",
    ),
    Known("podman", "parents-unnamed", "new*", "mtime", "now", UNNAMED),
    Known("podman", "parents-unnamed", "tmp*", "mtime", "now", UNNAMED),
    Known("podman", "parents-unnamed", "var*", "mtime", "now", UNNAMED),
    Known("podman", "parents-unnamed", "tmp", "mode", "0755", ATTRIBUTES),
    Known("podman", "parents-unnamed", "var/own", "mode", "0755", ATTRIBUTES),
    Known("podman", "parents-unnamed", "var/own", "owner", "0:0", ATTRIBUTES),
    Known("podman", "parents-unnamed", "var/own", "xattr user.lower", "absent", ATTRIBUTES),
    Known("podman", "whiteouts-without-parents", "lower*", "mtime", "now", UNNAMED),
    Known("podman", "global-header", "tmp", "mode", "0755", "they make the directory of the global header's name"),
    Known("podman", "global-header", "tmp", "mtime", "now", "they make the directory of the global header's name"),
    Known("podman", "nginx", "*", "mtime", "now", UNNAMED),
    Known("umoci", "layers", "*", "mtime", "now", UNNAMED),
    // Times.
    Known("umoci", "times-*", "times/?9999999999*", "mtime", "-2147483648*", BEYOND),
    Known("podman", "times-*", "times/l9999999999*", "mtime", "-2147483648*", BEYOND),
    Known("podman", "times-*", "times/?9999999999*", "mtime", "0.000000000", BEYOND),
    Known("podman", "times-*", "times/?-1*", "mtime", "0.000000000", BEYOND),
    // Whiteouts.
    Known(
        "podman",
        "whiteouts-of-own-before",
        "lower/dir/*",
        "path",
        "there",
        "a directory that was whited out and comes again in the same layer is not opaque with them",
    ),
    // Links in the way.
    Known(
        "podman",
        "through-a-link",
        "var*",
        "*",
        "*",
        "the way leads through a lower layer's link: they replace that",
    ),
    Known("podman", "through-a-link", "run/lock*", "path", "absent", "so this is where docker, umoci and we put it"),
    // Attributes.
    Known(
        "podman",
        "access-lists",
        "acl/inherits/file",
        "xattr system.posix_acl_access",
        "*",
        "a file they make in a directory with a default list inherits it, though the tar has none for it",
    ),
    // Hard links.
    Known(
        "umoci",
        "hard-links-lower",
        "lower/twin",
        "link",
        "lower/linked",
        "ours: in an overlay a file that is copied up parts from its other names in the layer below",
    ),
];

/// Images that a peer refuses, the end of its reason, and ours for taking them.
const REFUSED: [(&str, &str, &str, &str); 9] = [
    ("umoci", "sparse-gnu", "unknown typeflag", "Go's tar reads it, they have no case for it"),
    ("podman", "sparse-gnu", "unhandled tar header type 83", "Go's tar reads it, they have no case for it"),
    ("podman", "hard-links-lower", "no such file or directory", "they unpack each layer alone, and link at once"),
    ("podman", "layers", "no such file or directory", "it has a hard link into a lower layer, too"),
    ("podman", "whiteouts-of-own-after", "file exists", "they make the whiteout over the layer's own file"),
    (
        "podman",
        "twice",
        "duplicates of file paths not supported",
        "the last one counts: docker, GNU tar and umoci say so",
    ),
    ("umoci", "zstd-frames", "not correct mediatype", "older than zstd layers"),
    ("umoci", "zstd", "not correct mediatype", "older than zstd layers"),
    ("umoci", "global-header", "unknown typeflag", "GNU tar and git archive write such headers"),
];

/// `*` for any end, `?` for any one byte.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.len() >= start.len() && fits(start, &text[..start.len()]),
        None => pattern.len() == text.len() && pattern.bytes().zip(text.bytes()).all(|(p, t)| p == b'?' || p == t),
    }
}

/// The layer of debian is in nginx, as it is.
const WHOLE: [&str; 6] = ["hello-world", "busybox", "nginx", "tool", "layers", "zstd"];

/// A lab in which the three unpackers work side by side.
struct Bench {
    lab: Lab,
    images: PathBuf,
    server: Layouts,
}

impl Bench {
    fn new(name: &str) -> Bench {
        ["umoci", "podman"].into_iter().for_each(require);
        let images = demo_images(&[&["features"], &WHOLE[..]].concat());
        let lab = Lab::new(name);
        let server = Layouts::serve(&lab, &images);
        // podman keeps what it knows of blobs in the machine's own directory, whatever --root says.
        lab.sh("mkdir -p containers /var/lib/containers && mount --bind containers /var/lib/containers").succeeds();
        Bench { lab, images, server }
    }

    fn ours(&self, image: &str, tag: &str) -> Tree {
        let reference = self.server.reference(image, tag);
        let script = format!(
            "mocker-pull -q {reference} >/dev/null &&
             mocker-images get {reference} | mocker-images mount --id x >/dev/null && echo $MOCKER_ROOT/containers/x/rootfs"
        );
        let root = self.lab.sh(&script).succeeds().stdout;
        let tree = Tree::of(&self.lab.outside(root.trim()));
        self.lab.sh("mocker-images delete x").succeeds();
        tree
    }

    fn umoci(&self, image: &str, tag: &str) -> Result<Tree, String> {
        let layout = self.images.join(image);
        let unpacked = self.run(&format!("umoci --log error unpack --image {}:{tag} bundle", layout.display()));
        let tree = unpacked.map(|_| Tree::of(&self.lab.work().join("bundle/rootfs")));
        self.lab.sh("rm -rf bundle").succeeds();
        tree
    }

    fn podman(&self, image: &str, tag: &str) -> Result<Tree, String> {
        let podman =
            "podman --root $HOME/podman --runroot /run/podman --storage-driver overlay --cgroup-manager cgroupfs";
        let layout = self.images.join(image);
        let id = self.run(&format!("{podman} pull --quiet oci:{}:{tag}", layout.display()))?;
        let root = self.run(&format!("{podman} image mount {}", id.trim()))?;
        let tree = Tree::of(&self.lab.outside(root.trim()));
        self.run(&format!("{podman} image unmount {}", id.trim()))?;
        Ok(tree)
    }

    fn run(&self, script: &str) -> Result<String, String> {
        let output = self.lab.shell(script).timeout(Duration::from_secs(120)).run();
        if output.code() == 0 { Ok(output.stdout) } else { Err(output.stderr) }
    }
}

/// Compares images, and ends the test for each difference that no row explains and each row that explains none.
fn compare_all(name: &str, images: &[(&str, String, String)]) {
    let bench = Bench::new(name);
    let begun = seconds();
    let (mut open, mut used, mut compared) = (Vec::new(), BTreeSet::new(), 0);
    for (name, layout, tag) in images {
        let name = *name;
        let ours = bench.ours(layout, tag);
        for (peer, theirs) in [("umoci", bench.umoci(layout, tag)), ("podman", bench.podman(layout, tag))] {
            let refused = REFUSED.iter().position(|row| (row.0, row.1) == (peer, name));
            match (theirs, refused) {
                (Err(error), Some(row)) if error.contains(REFUSED[row].2) => {}
                (Err(error), _) => open.push(format!("{name}: {peer} fails: {error}")),
                (Ok(_), Some(_)) => open.push(format!("{name}: {peer} no longer refuses it")),
                (Ok(theirs), None) => {
                    compared += 1;
                    for difference in ours.differences(&theirs) {
                        match KNOWN.iter().position(|row| row.explains(peer, name, &difference, begun)) {
                            Some(row) => _ = used.insert(row),
                            None => open.push(format!("{name}: {peer} {difference}")),
                        }
                    }
                }
            }
        }
    }
    for (number, row) in KNOWN.iter().enumerate() {
        let concerned = row.1 != "*" && images.iter().any(|(name, ..)| fits(row.1, name));
        if concerned && !used.contains(&number) {
            open.push(format!(
                "{} of {}: {:?} {} is as with us: not so any more: {}",
                row.0, row.1, row.2, row.3, row.5
            ));
        }
    }
    assert!(open.is_empty(), "{} differences that nobody explains:\n{}", open.len(), open.join("\n"));
    assert!(compared >= images.len(), "{compared} comparisons of {} images", images.len());
}

impl Known {
    fn explains(&self, peer: &str, image: &str, difference: &Difference, begun: u64) -> bool {
        let Known(whose, images, paths, fact, theirs, _) = self;
        let value = match *theirs {
            "now" => {
                difference.other.split('.').next().and_then(|text| text.parse().ok()).is_some_and(|s: u64| s >= begun)
            }
            pattern => fits(pattern, &difference.other),
        };
        value && *whose == peer && fits(images, image) && fits(paths, &difference.path) && fits(fact, &difference.fact)
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

#[test]
fn every_feature_of_a_layer_comes_out_as_with_umoci_and_podman() {
    let tags = tags(&demo_images(&["features"]).join("features"));
    let images: Vec<_> = tags.iter().map(|tag| (&tag[..], "features".to_string(), tag.clone())).collect();
    assert!(images.len() >= 50, "the images of the recipe features: {tags:?}");
    compare_all("features", &images);
}

#[test]
fn whole_images_come_out_as_with_umoci_and_podman() {
    compare_all("whole", &WHOLE.map(|name| (name, name.to_string(), "latest".to_string())));
}
