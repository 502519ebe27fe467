//! What kubelet does for a pod, call by call.
//!
//! It makes the pod's group and its log directory, has the images pulled, asks for a sandbox with the handler that the
//! pod's RuntimeClass names, then for each container: create, start. After that it looks (status, stats, exec of probes) and
//! may change limits. In the end it stops containers, then the sandbox, removes both, and removes the group.

use crate::containerd::Containerd;
use crate::grpc::{Channel, Refusal};
use crate::messages::*;

pub struct Kubelet<'a> {
    pub host: &'a Containerd,
    channel: Channel,
}

/// A pod as its owner writes it: what is in pod.yaml, as far as the tests care.
pub struct Pod {
    pub name: &'static str,
    /// of the class that the pod names
    pub handler: String,
    pub namespaces: NamespaceOption,
    pub sysctls: Vec<(&'static str, &'static str)>,
}

/// A pod that runs.
pub struct Sandbox {
    pub id: String,
    config: PodSandboxConfig,
}

impl Kubelet<'_> {
    /// Connects, and asks for the version until it is told: a server that has just started is not ready for more.
    pub fn new(host: &Containerd) -> Kubelet<'_> {
        let kubelet = Kubelet { host, channel: Channel::connect(&host.socket()) };
        host.node.until("the runtime service is ready", || kubelet.version().is_ok());
        kubelet
    }

    fn runtime<A: prost::Message + Default>(&self, method: &str, question: &impl prost::Message) -> Result<A, Refusal> {
        self.channel.call(&format!("runtime.v1.RuntimeService/{method}"), question)
    }

    fn images<A: prost::Message + Default>(&self, method: &str, question: &impl prost::Message) -> Result<A, Refusal> {
        self.channel.call(&format!("runtime.v1.ImageService/{method}"), question)
    }

    pub fn version(&self) -> Result<VersionResponse, Refusal> {
        self.runtime("Version", &VersionRequest { version: "v1".into() })
    }

    /// RuntimeReady and NetworkReady: without both the node is NotReady.
    pub fn conditions(&self) -> Vec<RuntimeCondition> {
        self.runtime::<StatusResponse>("Status", &Empty {}).expect("Status").status.expect("a status").conditions
    }

    /// Has an image pulled unless it is there (`imagePullPolicy: IfNotPresent`).
    pub fn ensure_image(&self, image: &str) {
        let request = ImageRequest { image: Some(ImageSpec { image: image.into() }) };
        let is_there =
            || self.images::<ImageStatusResponse>("ImageStatus", &request).expect("ImageStatus").image.is_some();
        if !is_there() {
            self.images::<PullImageResponse>("PullImage", &request).expect("PullImage");
            assert!(is_there(), "{image} was pulled");
        }
    }

    /// Starts a pod without containers, with the handler that its class names.
    pub fn run_sandbox(&self, pod: &Pod) -> Result<Sandbox, Refusal> {
        let config = self.sandbox_config(pod);
        self.host
            .node
            .sh(&format!("{}\nmkdir -p {}", make_group(&parent_group(pod.name)), config.log_directory))
            .succeeds();
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: pod.handler.clone() };
        let answer: PodSandboxId = self.runtime("RunPodSandbox", &request)?;
        Ok(Sandbox { id: answer.pod_sandbox_id, config })
    }

    fn sandbox_config(&self, pod: &Pod) -> PodSandboxConfig {
        let on_node = pod.namespaces.network() == NamespaceMode::Node;
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.into(),
                uid: format!("uid-{}", pod.name),
                namespace: "default".into(),
            }),
            hostname: if on_node { String::new() } else { pod.name.into() },
            log_directory: format!("{LOGS}/pods/default_{0}_uid-{0}", pod.name),
            dns_config: Some(DnsConfig {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["default.svc.cluster.local".into()],
            }),
            labels: [("io.kubernetes.pod.name".to_string(), pod.name.to_string())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: parent_group(pod.name),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(pod.namespaces),
                    seccomp: Some(SecurityProfile { profile_type: 0 }),
                }),
                sysctls: pod.sysctls.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            }),
        }
    }

    pub fn sandbox_status(&self, sandbox: &Sandbox) -> PodSandboxStatus {
        let request = PodSandboxId { pod_sandbox_id: sandbox.id.clone() };
        let answer: PodSandboxStatusResponse = self.runtime("PodSandboxStatus", &request).expect("PodSandboxStatus");
        answer.status.expect("a status")
    }

    pub fn sandboxes(&self) -> usize {
        self.runtime::<ListPodSandboxResponse>("ListPodSandbox", &Empty {}).expect("ListPodSandbox").items.len()
    }

    pub fn create(&self, sandbox: &Sandbox, config: ContainerConfig) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        self.runtime::<ContainerId>("CreateContainer", &request).expect("CreateContainer").container_id
    }

    pub fn start(&self, id: &str) -> Result<(), Refusal> {
        self.runtime::<Empty>("StartContainer", &ContainerId { container_id: id.into() }).map(drop)
    }

    pub fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerId { container_id: id.into() };
        self.runtime::<ContainerStatusResponse>("ContainerStatus", &request)
            .expect("ContainerStatus")
            .status
            .expect("a status")
    }

    /// All containers of the node, by name.
    pub fn containers(&self) -> Vec<(String, ContainerState)> {
        let answer: ListContainersResponse = self.runtime("ListContainers", &Empty {}).expect("ListContainers");
        let named = |container: Container| (container.metadata.clone().expect("metadata").name, container.state());
        let mut containers: Vec<_> = answer.containers.into_iter().map(named).collect();
        containers.sort();
        containers
    }

    /// Runs a command in a container, as probes do.
    pub fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<ExecSyncResponse, Refusal> {
        let cmd = command.iter().map(|word| word.to_string()).collect();
        self.runtime("ExecSync", &ExecSyncRequest { container_id: id.into(), cmd, timeout })
    }

    /// What a piece of shell prints in a container.
    #[track_caller]
    pub fn sh(&self, id: &str, script: &str) -> String {
        let answer = self.exec(id, &["sh", "-c", script], 20).expect("ExecSync");
        assert_eq!(answer.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).expect("text").trim_end().to_string()
    }

    pub fn stats(&self, id: &str) -> ContainerStats {
        let request = ContainerId { container_id: id.into() };
        self.runtime::<ContainerStatsResponse>("ContainerStats", &request)
            .expect("ContainerStats")
            .stats
            .expect("statistics")
    }

    pub fn update(&self, id: &str, resources: LinuxContainerResources) -> Result<(), Refusal> {
        let request = UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(resources) };
        self.runtime::<Empty>("UpdateContainerResources", &request).map(drop)
    }

    /// TERM (or the image's stop signal), and after the grace period KILL.
    pub fn stop(&self, id: &str, grace: i64) {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        self.runtime::<Empty>("StopContainer", &request).expect("StopContainer");
    }

    pub fn remove(&self, id: &str) {
        self.runtime::<Empty>("RemoveContainer", &ContainerId { container_id: id.into() }).expect("RemoveContainer");
    }

    /// Stops and removes a sandbox with all that is in it, and the pod's group.
    pub fn end(&self, sandbox: Sandbox) {
        let request = PodSandboxId { pod_sandbox_id: sandbox.id };
        self.runtime::<Empty>("StopPodSandbox", &request).expect("StopPodSandbox");
        self.runtime::<Empty>("RemovePodSandbox", &request).expect("RemovePodSandbox");
        let name = sandbox.config.metadata.expect("metadata").name;
        self.host.node.sh(&remove_group(&parent_group(&name))).succeeds();
    }
}

impl Sandbox {
    /// What kubelet's log directory has of a container (`kubectl logs` reads it).
    pub fn log(&self, kubelet: &Kubelet, log_path: &str) -> Vec<String> {
        kubelet.host.node.lines(&format!("cat {}/{log_path}", self.config.log_directory))
    }
}

/// Where this node has its logs: /var/log is the machine's, /var/lib is the node's own.
const LOGS: &str = "/var/lib/log";

/// The group of a pod (of the class "burstable": it has requests, and limits above them).
pub fn parent_group(pod: &str) -> String {
    format!("/kubepods/burstable/pod{pod}")
}

/// Kubelet makes the group in every hierarchy. A cpuset (v1) starts empty: it takes its parent's processors.
fn make_group(group: &str) -> String {
    format!(
        "for hierarchy in $(findmnt -rno TARGET -t cgroup,cgroup2 | sort -u); do
            at=$hierarchy
            for part in $(echo {group} | tr / ' '); do
                mkdir -p $at/$part || exit
                for file in cpuset.cpus cpuset.mems; do
                    [ $hierarchy != /sys/fs/cgroup/cpuset ] || cat $at/$file >$at/$part/$file
                done
                at=$at/$part
            done
        done"
    )
}

/// Fails if the runtime has left anything in it.
fn remove_group(group: &str) -> String {
    format!(
        "for hierarchy in $(findmnt -rno TARGET -t cgroup,cgroup2 | sort -u); do
            rmdir $hierarchy{group} || exit
        done"
    )
}
