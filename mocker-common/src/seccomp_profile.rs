//! Docker's default seccomp profile as OCI's `linux.seccomp` (runtime-spec config-linux.md, Seccomp).
//!
//! A system call is allowed because it stands in the table, never because nobody thought of it: what the kernel gains
//! next year is refused until somebody has read about it. A refused call fails with EPERM. Programs may hold rights
//! that the image's author asked for (`--cap-add`); then the calls those rights are for are allowed too.
//!
//! Source: moby/profiles, seccomp; each call has its man page in section 2.

use serde_json::{Value, json};

/// Allowed whatever the arguments, by subject. Names that an architecture does not have are ignored there.
const ALWAYS: [&str; 14] = [
    // Files by name: each call in the forms it has had, by path and relative to a directory's descriptor.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
     fchownat fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd lchown lchown32 link linkat lstat lstat64 \
     mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readlink readlinkat rename renameat \
     renameat2 rmdir stat stat64 statfs statfs64 statx symlink symlinkat truncate truncate64 umask unlink unlinkat \
     utime utimensat utimensat_time64 utimes",
    // Extended attributes. What may be written is the kernel's business: security.* needs a capability.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
     lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Reading and writing by descriptor.
    "_llseek cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64 \
     fdatasync flock fsync ftruncate ftruncate64 getdents getdents64 ioctl lseek pipe pipe2 pread64 preadv preadv2 \
     pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee \
     vmsplice write writev",
    // Waiting for descriptors, and the events that are made into descriptors.
    "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
     epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll \
     ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4",
    // Asynchronous I/O of the old kind. io_uring is not here: it makes calls that no filter sees.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
     mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes and threads: making, ending, waiting. clone has a rule of its own below.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
     get_robust_list get_thread_area gettid kill pause pidfd_open pidfd_send_signal prctl process_mrelease \
     process_vm_readv process_vm_writev ptrace restart_syscall rseq set_robust_list set_thread_area set_tid_address \
     tgkill tkill uretprobe vfork wait4 waitid waitpid",
    // Signals.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    // Who I am, and becoming somebody else as far as the capabilities go.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid \
     getppid getresgid getresgid32 getresuid getresuid32 getsid getuid getuid32 setfsgid setfsgid32 setfsuid \
     setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setregid setregid32 setresgid setresgid32 setresuid \
     setresuid32 setreuid setreuid32 setsid setuid setuid32",
    // Scheduling, limits and what the machine is.
    "getcpu getpriority getrandom getrlimit getrusage prlimit64 sched_get_priority_max sched_get_priority_min \
     sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     setpriority setrlimit sysinfo ugetrlimit uname",
    // Time. Setting the clock needs CAP_SYS_TIME; adjtimex without it only reads.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Sockets that exist already; making one is judged by its family below. (socketcall carries the arguments of all
    // of them behind a pointer, where no filter can look; i386 programs of old need it.)
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX message queues, semaphores, shared memory: of the container's own ipc namespace.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // Confining oneself further, and reading the mount table.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount seccomp statmount",
];

/// Allowed on one family of processors only.
const BY_MACHINE: [(&str, &str); 2] = [
    ("x86_64", "arch_prctl modify_ldt"),
    ("aarch64", "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
];

/// Allowed to a container that holds the capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    // clone and clone3 with any flags: the right to make namespaces is the right to be root in one.
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// Socket families a container may open, as docker lists them: those the kernel still has, but for two. AF_ALG (38) is a
/// large piece of the kernel that no ordinary program needs; AF_VSOCK (40) reaches the hypervisor past every namespace.
///
/// A list of what is allowed, since a filter compares 64 bits and socket(2) reads 32 of them: a rule "not 38" would let
/// 38 + 2³² through.
const SOCKET_FAMILIES: [u64; 25] = [
    13, 14, 15, 16, 17, 18, // netbeui, security, key, netlink, packet, ash
    21, 22, 24, 26, 27, 28, // rds, sna, pppox, llc, ib, mpls
    29, 30, 31, 32, 33, // can, tipc, bluetooth, iucv, rxrpc
    35, 36, 39, // phonet, ieee802154, nfc
    41, 42, 43, 44, 45, // kcm, qipcrtr, smc, xdp, mctp
];

/// All families below this one too: unix, inet, ax25, ipx, appletalk, netrom, bridge, atmpvc, x25, inet6, rose.
const SOCKET_FAMILIES_BELOW: u64 = 12;

/// Execution domains (personality(2)) without a known hole: Linux, Linux32, both with the uname of 2.6, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// Every CLONE_NEW… that makes a namespace: mount, cgroup, uts, ipc, user, pid, network.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The profile for a container that holds `capabilities`, on this machine's architecture.
pub fn default_profile(capabilities: &[&str]) -> Value {
    profile_for(std::env::consts::ARCH, capabilities)
}

/// The profile on a given architecture, by Rust's name for it.
fn profile_for(machine: &str, capabilities: &[&str]) -> Value {
    let holds = |capability: &str| capabilities.contains(&capability);
    let by_machine = BY_MACHINE.iter().filter(|(name, _)| *name == machine).map(|(_, calls)| *calls);
    let by_capability = BY_CAPABILITY.iter().filter(|(name, _)| holds(name)).map(|(_, calls)| *calls);
    let groups = ALWAYS.into_iter().chain(by_machine).chain(by_capability);
    let allowed: Vec<&str> = groups.flat_map(str::split_ascii_whitespace).collect();

    let mut rules = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    rules.push(allow_if("socket", "SCMP_CMP_LT", SOCKET_FAMILIES_BELOW));
    rules.extend(SOCKET_FAMILIES.map(|family| allow_if("socket", "SCMP_CMP_EQ", family)));
    rules.extend(PERSONALITIES.map(|persona| allow_if("personality", "SCMP_CMP_EQ", persona)));
    if !holds("CAP_SYS_ADMIN") {
        rules.push(allow_if("clone", "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES)); // masked, they must equal valueTwo: 0
        // clone3 keeps its flags behind a pointer, where no filter can look. Told that the kernel has no such call,
        // the C library falls back to clone; told that it is forbidden, it would give up.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(machine),
        "syscalls": rules,
    })
}

fn allow_if(name: &str, operator: &str, value: u64) -> Value {
    let argument = json!({ "index": 0, "value": value, "op": operator });
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument] })
}

/// The machine's own calls, and those of the 32-bit programs it can run. A call by any other way kills the program.
fn architectures(machine: &str) -> &'static [&'static str] {
    match machine {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[], // none named: only the machine's own
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn allowed(profile: &Value) -> BTreeSet<&str> {
        profile["syscalls"][0]["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    }

    #[test]
    fn no_call_stands_in_the_table_twice() {
        let calls: Vec<&str> = ALWAYS.into_iter().flat_map(str::split_ascii_whitespace).collect();
        assert_eq!(calls.iter().collect::<BTreeSet<_>>().len(), calls.len());
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let profile = profile_for("x86_64", &["CAP_SYS_CHROOT"]);
        let without = allowed(&profile);
        assert!(without.contains("chroot") && without.contains("arch_prctl"));
        for refused in
            ["mount", "unshare", "bpf", "clone", "clone3", "io_uring_setup", "keyctl", "kexec_load", "set_tls"]
        {
            assert!(!without.contains(refused), "{refused}");
        }
        let profile = profile_for("aarch64", &["CAP_SYS_ADMIN"]);
        let with = allowed(&profile);
        assert!(["mount", "unshare", "bpf", "clone", "clone3", "set_tls"].iter().all(|name| with.contains(name)));
        assert!(!with.contains("chroot"));
    }

    #[test]
    fn without_cap_sys_admin_clone3_does_not_exist_and_clone_makes_no_namespace() {
        let profile = profile_for("x86_64", &[]);
        let rules = profile["syscalls"].as_array().unwrap();
        assert!(rules.iter().any(|rule| rule["names"][0] == "clone3" && rule["errnoRet"] == 38));
        assert!(rules.iter().any(|rule| rule["names"][0] == "clone" && rule["args"][0]["value"] == 0x7e02_0000u32));
    }

    #[test]
    fn neither_alg_nor_vsock_is_among_the_socket_families() {
        assert!(SOCKET_FAMILIES.iter().all(|family| *family != 38 && *family != 40));
    }

    #[test]
    fn the_profile_is_what_oci_spec_reads_and_is_small() {
        for machine in ["x86_64", "aarch64"] {
            let text = profile_for(machine, &crate::defaults::CAPABILITIES).to_string();
            assert!(text.len() < 8500, "{}", text.len());
            let read: oci_spec::runtime::LinuxSeccomp = serde_json::from_str(&text).unwrap();
            assert_eq!(read.default_errno_ret(), Some(1));
        }
    }
}
