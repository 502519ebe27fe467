//! Control groups: how much of the machine a container may use, on cgroup v1, hybrid and v2.
//!
//! mocker-cgroup makes groups by itself; mocker-exec makes them as an OCI runtime, where the engine above names the group.
//!
//! - [`hierarchy`], [`place`]: which trees of groups are mounted; a group in all of them
//! - [`life`], [`freeze`], [`end`]: made, frozen and thawed, emptied, removed
//! - [`resources`], [`limits`]: from `linux.resources` to lines in files, in [`memory`], [`cpu`], [`io`] and [`rare`]; [`update`]
//! - [`devices`], [`device_policy`], [`device_program`]: which devices may be opened; on v2 a BPF program decides
//! - [`stats`], [`oom`]: what a group uses; when it has run out of memory
//! - [`calls`], [`program_calls`]: mkdir, write, rmdir and bpf, each as a step
//!
//! Source: cgroups(7); runtime-spec config-linux.md, Control groups.

pub mod calls;
pub mod cpu;
pub mod device_policy;
pub mod device_program;
pub mod devices;
pub mod end;
pub mod freeze;
pub mod hierarchy;
pub mod io;
pub mod life;
pub mod limits;
pub mod memory;
pub mod oom;
pub mod place;
pub mod program_calls;
pub mod rare;
pub mod resources;
pub mod stats;
pub mod update;
