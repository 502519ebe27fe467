//! Past one machine: mocker-exec under the schedulers that exist. docker swarm runs a service on two nodes with it, and
//! containerd's CRI runs pods with it, asked as Kubernetes' kubelet asks.
//!
//! A node is set up with the files of docs/cluster.md, as they stand there, and has no runc: what runs, our runtime runs.
//! `MOCKER_CLUSTER_RUNTIME=/usr/sbin/runc` puts another runtime in its place, to learn whether a failure is ours.

mod containerd;
mod cri;
mod grpc;
mod guide;
mod kubelet;
mod messages;
mod node;
mod swarm;
