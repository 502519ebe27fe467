//! A node that runs containerd, set up as docs/cluster.md says, with the images that a pod needs.

use std::path::{Path, PathBuf};

use tests::{Registry, demo_images, require};

use crate::guide;
use crate::node::Node;

/// The program of the sandbox itself, which only holds the pod's namespaces: containerd's default name for it.
const PAUSE: &str = "registry.k8s.io/pause:3.6";

pub struct Containerd {
    pub node: Node,
    registry: Registry,
}

impl Containerd {
    pub fn start(name: &'static str) -> Containerd {
        ["ctr", "skopeo", "umoci", "iptables"].into_iter().for_each(require);
        let plugins = Path::new("/usr/lib/cni/bridge").exists();
        assert!(
            plugins,
            "the network plugins are not there. Install them: apt-get install containernetworking-plugins"
        );
        let mut node = Node::new(name);
        let registry = node.lab.registry();
        node.write("/etc/containerd/config.toml", &(guide::file("/etc/containerd/config.toml") + NODE_IN_A_LAB));
        node.write("/etc/cni/net.d/10-pods.conflist", POD_NETWORK);
        start(&mut node);
        node.sh(&format!(
            "set -e
            cp -r {}/busybox pause
            umoci config --image pause:latest --config.cmd sleep --config.cmd 100000 --no-history
            skopeo copy --quiet oci:pause:latest docker-archive:pause.tar:{PAUSE}
            ctr --namespace k8s.io images import pause.tar",
            demo_images(&["busybox"]).display()
        ))
        .succeeds();
        Containerd { node, registry }
    }

    /// Ends containerd and starts it again, as an update of its settings does. Nothing else is touched.
    pub fn restart(&mut self) {
        self.node.stop();
        start(&mut self.node);
    }

    /// The socket that kubelet is told of (`--container-runtime-endpoint`), as it is seen from outside the lab.
    pub fn socket(&self) -> PathBuf {
        self.node.lab.outside("/run/containerd/containerd.sock")
    }

    /// The name of an image, pulled by containerd like any other.
    pub fn image(&self, name: &str) -> String {
        format!("{}:latest", self.registry.reference(name))
    }
}

fn start(node: &mut Node) {
    node.start("containerd", "", "ctr version");
}

/// containerd asks for an oom score below its own for a sandbox. Where the tests run without CAP_SYS_RESOURCE, as in many a
/// container, no runtime can grant that.
const NODE_IN_A_LAB: &str = "
[plugins.\"io.containerd.grpc.v1.cri\"]
restrict_oom_score_adj = true
";

/// The network of pods: a bridge on the node, addresses from one range, a rule for the way out.
const POD_NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "pods0",
      "isGateway": true,
      "ipMasq": true,
      "ipam": { "type": "host-local", "subnet": "10.88.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] }
    }
  ]
}
"#;
