//! The terminal of a container that nobody waits for: its master goes to the engine, over a unix socket.
//!
//! One message with one descriptor and the terminal's name, then the line is closed. Source: unix(7), SCM_RIGHTS.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mocker_common::error::{Error, failed};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};

/// A connected socket that waits for a descriptor.
pub struct Receiver(OwnedFd);

/// Connects. Before anything is made: an engine that does not listen is told first.
pub fn connect_to(path: &Path) -> Result<Receiver, Error> {
    let refused = |errno: rustix::io::Errno| failed("connect to socket", path.display())(errno.into());
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(refused)?;
    connect(&socket, &SocketAddrUnix::new(path).map_err(refused)?).map_err(refused)?;
    Ok(Receiver(socket))
}

impl Receiver {
    /// Sends a descriptor and closes the line.
    pub fn send(self, descriptor: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(self.0.as_fd(), &[IoSlice::new(name.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|errno| failed("send", name)(errno.into()))
    }
}
