//! What a container's process has beside its world: scheduling, memory policy, capabilities, limits, filter, labels,
//! devices; each read back from inside, and from runc where that has it too.

mod agent;
mod bundle;
mod devices;
mod exec;
mod process;
mod seccomp;
