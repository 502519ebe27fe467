//! The calls of bpf(2): a program is loaded, attached to a group, found there, and detached.

use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::cgroup::device_program::Instruction;
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// bpf(BPF_PROG_LOAD): the kernel checks that the program ends and touches nothing but its context, then compiles it.
pub struct LoadProgram<'a> {
    pub instructions: &'a [Instruction],
}

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of union bpf_attr that loading uses.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of union bpf_attr that attaching uses.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

impl fmt::Display for LoadProgram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf(BPF_PROG_LOAD, {{BPF_PROG_TYPE_CGROUP_DEVICE, {} instructions}})", self.instructions.len())
    }
}

impl Explained for LoadProgram<'_> {
    fn aim(&self) -> String {
        "load the program that judges devices".into()
    }
    fn source(&self) -> &'static str {
        "bpf(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EACCES => diagnosis("the kernel's verifier refuses the program; what it says stands above", ""),
            libc::ENOMEM => {
                diagnosis("locked memory is limited, on kernels before 5.11 for programs too", "ulimit -l unlimited")
            }
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for LoadProgram<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let mut log = vec![0u8; 16 << 10];
        let mut attributes = LoadAttributes {
            program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            count: self.instructions.len() as u32,
            instructions: self.instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        let load = |attributes: &LoadAttributes| {
            // SAFETY: the structure has bpf_attr's layout, and what it points to lives until the call returns.
            let outcome = unsafe {
                libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attributes as *const _, size_of::<LoadAttributes>())
            };
            match outcome {
                // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
                0.. => Ok(unsafe { OwnedFd::from_raw_fd(outcome as i32) }),
                _ => Err(Cause::last()),
            }
        };
        load(&attributes).or_else(|cause| {
            // Again, with somewhere to write why.
            (attributes.log_level, attributes.log_size, attributes.log) =
                (1, log.len() as u32, log.as_mut_ptr() as u64);
            let text = |log: &[u8]| String::from_utf8_lossy(log).trim_end_matches('\0').trim().to_string();
            load(&attributes).map_err(|_| match text(&log) {
                empty if empty.is_empty() => cause,
                said => cause.said(said),
            })
        })
    }
}

/// bpf(BPF_PROG_ATTACH): from here on the kernel asks the program. It goes with the group.
pub struct AttachProgram<'a> {
    pub group: &'a OwnedFd,
    pub program: &'a OwnedFd,
}

impl fmt::Display for AttachProgram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, program) = (self.group.as_raw_fd(), self.program.as_raw_fd());
        write!(f, "bpf(BPF_PROG_ATTACH, {{{group}, {program}, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI}})")
    }
}

impl Explained for AttachProgram<'_> {
    fn aim(&self) -> String {
        "attach the program that judges devices to the group".into()
    }
    fn source(&self) -> &'static str {
        "bpf(2)"
    }
    fn by_hand(&self) -> String {
        "bpftool cgroup attach GROUP cgroup_device pinned PROGRAM multi".into()
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("a group above has a program and lets none be added", "bpftool cgroup tree"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for AttachProgram<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        attach_or_detach(BPF_PROG_ATTACH, self.group, self.program, BPF_F_ALLOW_MULTI)
    }
}

fn attach_or_detach(command: libc::c_long, group: &OwnedFd, program: &OwnedFd, flags: u32) -> Result<(), Cause> {
    let attributes = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: the structure has bpf_attr's layout and holds descriptors that are open.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, &attributes as *const _, size_of::<AttachAttributes>()) };
    if outcome == 0 { Ok(()) } else { Err(Cause::last()) }
}

/// bpf(BPF_PROG_DETACH): the kernel no longer asks the program.
pub struct DetachProgram<'a> {
    pub group: &'a OwnedFd,
    pub program: &'a OwnedFd,
}

impl fmt::Display for DetachProgram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, program) = (self.group.as_raw_fd(), self.program.as_raw_fd());
        write!(f, "bpf(BPF_PROG_DETACH, {{{group}, {program}, BPF_CGROUP_DEVICE}})")
    }
}

impl Explained for DetachProgram<'_> {
    fn aim(&self) -> String {
        "detach the program that judged devices from the group".into()
    }
    fn source(&self) -> &'static str {
        "bpf(2)"
    }
}

impl KernelCall for DetachProgram<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        attach_or_detach(BPF_PROG_DETACH, self.group, self.program, 0)
    }
}

/// bpf(BPF_PROG_QUERY): the numbers of the programs that judge devices for a group itself.
pub struct QueryPrograms<'a> {
    pub group: &'a OwnedFd,
}

/// The part of union bpf_attr that asking uses.
#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

impl fmt::Display for QueryPrograms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf(BPF_PROG_QUERY, {{{}, BPF_CGROUP_DEVICE}})", self.group.as_raw_fd())
    }
}

impl Explained for QueryPrograms<'_> {
    fn aim(&self) -> String {
        "ask which programs judge devices for the group".into()
    }
    fn source(&self) -> &'static str {
        "bpf(2)"
    }
    fn by_hand(&self) -> String {
        "bpftool cgroup show GROUP".into()
    }
}

impl KernelCall for QueryPrograms<'_> {
    type Output = Vec<u32>;
    fn call(&self) -> Result<Vec<u32>, Cause> {
        let mut ids = [0u32; 64]; // as many as the kernel lets stand at one group
        let mut attributes = QueryAttributes {
            target: self.group.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            query_flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: ids.len() as u32,
            padding: 0,
        };
        // SAFETY: the structure has bpf_attr's layout, and the kernel writes at most `count` numbers.
        let outcome = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &mut attributes as *mut _, size_of::<QueryAttributes>())
        };
        match outcome {
            0 => Ok(ids[..ids.len().min(attributes.count as usize)].to_vec()),
            _ => Err(Cause::last()),
        }
    }
}

/// bpf(BPF_PROG_GET_FD_BY_ID): a descriptor for a program that is loaded.
pub struct OpenProgram {
    pub id: u32,
}

impl fmt::Display for OpenProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf(BPF_PROG_GET_FD_BY_ID, {{{}}})", self.id)
    }
}

impl Explained for OpenProgram {
    fn aim(&self) -> String {
        format!("open the loaded program {}", self.id)
    }
    fn source(&self) -> &'static str {
        "bpf(2)"
    }
}

impl KernelCall for OpenProgram {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let attributes = [self.id, 0, 0]; // number, next number, flags
        // SAFETY: three words are this command's part of bpf_attr.
        let outcome = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, attributes.as_ptr(), size_of_val(&attributes))
        };
        match outcome {
            // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(outcome as i32) }),
            _ => Err(Cause::last()),
        }
    }
}
