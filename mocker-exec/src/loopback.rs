//! The loopback interface of a new network namespace: it is there, but down. Source: netdevice(7).

use std::os::fd::{AsFd, BorrowedFd};

use mocker_common::error::{Error, errno_text};
use mocker_common::step::{Cause, KernelCall, step};

use crate::calls::explained;

/// ioctl(2), SIOCSIFFLAGS with IFF_UP, of `lo`.
struct LoopbackUp<'a>(BorrowedFd<'a>);

explained!(LoopbackUp<'a>, "netdevice(7), SIOCSIFFLAGS", |_this| {
    call: r#"ioctl(socket, SIOCSIFFLAGS, {"lo", IFF_UP})"#,
    aim: "bring the loopback interface up".to_string(),
    by_hand: "ip link set lo up".to_string(),
});

impl KernelCall for LoopbackUp<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: zero is a valid value of every field, and the name fits with its terminating zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *place = *byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let socket = std::os::fd::AsRawFd::as_raw_fd(&self.0);
        // SAFETY: the kernel reads the request during the call only.
        match unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

/// Brings `lo` up. In the new network namespace.
pub fn bring_up() -> Result<(), Error> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::new(format!("cannot make a socket: {}", errno_text(errno.raw_os_error()))))?;
    step(LoopbackUp(socket.as_fd()))
        .because("nobody has plumbed this network namespace; programs that talk to 127.0.0.1 should still work")
}
