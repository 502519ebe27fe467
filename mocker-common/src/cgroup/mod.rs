//! Control groups: how much of the machine a container may use, on cgroup v1, hybrid and v2.
//!
//! mocker-cgroup makes groups by itself; mocker-exec makes them as an OCI runtime, where the engine above names the group.
//!
//! - [`hierarchy`]: which trees of groups are mounted; a group in all of them
//! - [`life`]: made, frozen, thawed, emptied, removed
//! - [`limits`], [`cpu`]: from `linux.resources` to lines in files
//! - [`devices`], [`device_program`]: which devices may be opened; on v2 a BPF program decides
//! - [`calls`]: mkdir, write, rmdir and bpf, each as a step
//!
//! Source: cgroups(7); runtime-spec config-linux.md, Control groups.

pub mod calls;
pub mod cpu;
pub mod device_program;
pub mod devices;
pub mod hierarchy;
pub mod life;
pub mod limits;
