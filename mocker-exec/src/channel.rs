//! The line between mocker-exec outside and its child inside: a pair of sockets that close at execve.
//!
//! Inside → outside: `ready` (mounts are done), the terminal's master, a failed step as data, `waiting` (for start). Outside →
//! inside: `go`.
//! When the line closes with nothing said, the program runs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mocker_common::error::{Error, errno_text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// One end of the line.
pub struct Channel(OwnedFd);

/// What comes along it.
pub enum Message {
    /// Inside: everything that needs the host is done.
    Ready,
    /// Inside: the master of the container's terminal.
    Terminal(OwnedFd),
    /// Inside: the descriptor that the seccomp filter's notifications come from; waits for `go`.
    Listener(OwnedFd),
    /// Inside: a step failed, and this is why.
    Failed(Box<Error>),
    /// Inside: all is done but the program, which waits for `start`.
    Waiting,
    /// Outside: go on.
    Go,
    /// The other end is closed.
    Closed,
}

const READY: u8 = b'r';
const TERMINAL: u8 = b't';
const LISTENER: u8 = b'l';
const FAILED: u8 = b'f';
const WAITING: u8 = b'w';
const GO: u8 = b'g';
/// A message is one packet; an error is a few hundred bytes, and is cut rather than lost.
const LARGEST: usize = 32 << 10;

impl Channel {
    /// Two connected ends.
    pub fn pair() -> Result<(Channel, Channel), Error> {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map(|(one, other)| (Channel(one), Channel(other)))
            .map_err(|errno| Error::new(format!("cannot make a pair of sockets: {}", errno_text(errno.raw_os_error()))))
    }

    pub fn ready(&self) -> Result<(), Error> {
        self.send(&[READY], None)
    }

    pub fn waiting(&self) -> Result<(), Error> {
        self.send(&[WAITING], None)
    }

    pub fn go(&self) -> Result<(), Error> {
        self.send(&[GO], None)
    }

    pub fn terminal(&self, master: BorrowedFd<'_>) -> Result<(), Error> {
        self.send(&[TERMINAL], Some(master))
    }

    pub fn listener(&self, listener: BorrowedFd<'_>) -> Result<(), Error> {
        self.send(&[LISTENER], Some(listener))
    }

    /// The same end under another descriptor, for a second thread.
    pub fn try_clone(&self) -> Result<Channel, Error> {
        self.0.try_clone().map(Channel).map_err(mocker_common::error::failed("copy", "a socket"))
    }

    /// Reports a failure. If even that fails there is nobody left to tell.
    pub fn failed(&self, error: &Error) {
        let mut packet = vec![FAILED];
        packet.extend(serde_json::to_vec(error).unwrap_or_default());
        if packet.len() > LARGEST {
            packet.truncate(1);
            packet.extend(
                serde_json::to_vec(&Error::new(error.what.chars().take(4096).collect::<String>())).unwrap_or_default(),
            );
        }
        self.send(&packet, None).unwrap_or_default();
    }

    /// Whether the other end is closed.
    pub fn is_closed(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ends = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut ends, Some(&now)).is_ok_and(|_| ends[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    fn send(&self, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let refused = |errno: rustix::io::Errno| {
            Error::new(format!("cannot reach the other side: {}", errno_text(errno.raw_os_error())))
        };
        if descriptor.is_none() {
            // What every program needs, and so every filter lets through.
            return rustix::io::write(&self.0, packet).map(drop).map_err(refused);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL).map(drop).map_err(refused)
    }

    /// Waits for the next message.
    pub fn receive(&self) -> Result<Message, Error> {
        let mut packet = vec![0u8; LARGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => break 0,
                Err(errno) => {
                    let text = errno_text(errno.raw_os_error());
                    return Err(Error::new(format!("cannot hear the other side: {text}")));
                }
            }
        };
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let broken = || Error::new("cannot understand the other side");
        match (packet[..bytes].split_first(), descriptor) {
            (None, _) => Ok(Message::Closed),
            (Some((&READY, _)), _) => Ok(Message::Ready),
            (Some((&WAITING, _)), _) => Ok(Message::Waiting),
            (Some((&GO, _)), _) => Ok(Message::Go),
            (Some((&TERMINAL, _)), Some(master)) => Ok(Message::Terminal(master)),
            (Some((&LISTENER, _)), Some(listener)) => Ok(Message::Listener(listener)),
            (Some((&FAILED, json)), _) => Ok(Message::Failed(serde_json::from_slice(json).map_err(|_| broken())?)),
            _ => Err(broken()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_whole_and_a_closed_end_is_seen() {
        let (outside, inside) = Channel::pair().unwrap();
        let sent = Error::new("cannot x").why("y").status(127);
        inside.failed(&sent);
        inside.failed(&Error::new("z".repeat(100_000)));
        assert!(!outside.is_closed());
        drop(inside);
        assert!(outside.is_closed());
        assert!(matches!(outside.receive().unwrap(), Message::Failed(error) if *error == sent));
        assert!(matches!(outside.receive().unwrap(), Message::Failed(error) if error.what.starts_with("zzz")));
        assert!(matches!(outside.receive().unwrap(), Message::Closed));
    }

    #[test]
    fn a_descriptor_goes_along() {
        let (outside, inside) = Channel::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        inside.terminal(writer.as_fd()).unwrap();
        let Message::Terminal(received) = outside.receive().unwrap() else { panic!("no descriptor") };
        rustix::io::write(received, b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(reader, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
