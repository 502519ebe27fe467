//! Layers, unpacked and stacked, against other people's unpackers: the walk of our overlay is that of `umoci unpack`'s
//! directory and of `podman image mount`'s, but for what the table below explains.

use std::path::Path;
use std::time::Duration;

use tests::{Difference, Lab, Layouts, Tree, demo_images, require, tags};

fn explained(_peer: &str, _image: &str, _difference: &Difference) -> Option<&'static str> {
    None
}

/// A lab in which the three unpackers work side by side.
struct Bench {
    lab: Lab,
    images: std::path::PathBuf,
    server: Layouts,
}

impl Bench {
    fn new(name: &str) -> Bench {
        ["umoci", "podman"].into_iter().for_each(require);
        let images = demo_images(&["features", "hello-world", "busybox", "debian", "nginx", "tool", "layers", "zstd"]);
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
        self.lab.sh(&format!("mocker-images delete x && mocker-images rm {reference} >&2")).succeeds();
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
        self.run(&format!("{podman} image unmount {0} && {podman} rmi --force {0}", id.trim()))?;
        Ok(tree)
    }

    fn run(&self, script: &str) -> Result<String, String> {
        let output = self.lab.shell(script).timeout(Duration::from_secs(120)).run();
        if output.code() == 0 { Ok(output.stdout) } else { Err(output.stderr) }
    }

    /// What is different and not explained.
    fn compare(&self, image: &str, tag: &str) -> Vec<String> {
        let t = std::time::Instant::now();
        let ours = self.ours(image, tag);
        let o = t.elapsed();
        self.umoci(image, tag).ok();
        let u = t.elapsed();
        self.podman(image, tag).ok();
        let p = t.elapsed();
        eprintln!("{image}:{tag} {o:?} {u:?} {p:?}");
        let mut all = Vec::new();
        for (peer, theirs) in [("umoci", self.umoci(image, tag)), ("podman", self.podman(image, tag))] {
            match theirs {
                Err(error) => all.push(format!("{image}:{tag} {peer} fails: {error}")),
                Ok(theirs) => {
                    let differences = ours.differences(&theirs);
                    let open = differences.iter().filter(|it| explained(peer, tag, it).is_none());
                    all.extend(open.map(|difference| format!("{image}:{tag} {peer} {difference}")));
                }
            }
        }
        all
    }
}

fn compare_all(name: &str, images: &[(&str, String)]) {
    let bench = Bench::new(name);
    let mut open = Vec::new();
    for (image, tag) in images {
        open.extend(bench.compare(image, tag));
    }
    assert!(open.is_empty(), "{} differences that nobody explains:\n{}", open.len(), open.join("\n"));
}

fn features() -> Vec<(&'static str, String)> {
    let layout = demo_images(&["features"]).join("features");
    tags(Path::new(&layout)).into_iter().map(|tag| ("features", tag)).collect()
}

#[test]
fn every_feature_of_a_layer_comes_out_as_with_umoci_and_podman() {
    compare_all("features", &features());
}

#[test]
fn whole_images_come_out_as_with_umoci_and_podman() {
    let names = ["hello-world", "busybox", "debian", "nginx", "tool", "layers", "zstd"];
    compare_all("whole", &names.map(|name| (name, "latest".to_string())));
}
