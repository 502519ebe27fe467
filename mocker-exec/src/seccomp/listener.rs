//! Calls that the filter leaves to another process: the descriptor they are read from goes to its socket.
//!
//! The descriptor comes into being with the filter, and from that moment on the filter may hold up any call, that which
//! would send the descriptor too. So a second thread, which the filter does not cover, is started before: it shares the
//! descriptors and the memory, finds the number there, sends the descriptor out and says when it has arrived. Meanwhile
//! the first thread makes no call at all. Outside takes it to the socket. The second thread ends at once; none of it is
//! left at execve. Source: seccomp_unotify(2); runtime-spec config-linux.md, Seccomp and Container Process State.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use mocker_common::error::{Error, errno_text, failed};
use mocker_common::step::{Cause, KernelCall, step};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::Program;
use crate::calls::explained;
use crate::channel::{Channel, Message};

/// Not loaded yet; the first thread has gone, or gives it up; the descriptor has arrived. Else its number.
const NONE: i32 = -1;
const GIVEN_UP: i32 = -2;
const DELIVERED: i32 = -3;

/// The second thread, as the first one sees it.
pub struct Messenger(Arc<AtomicI32>);

impl Messenger {
    /// Starts it. It sleeps until there is a number.
    pub fn start(channel: &Channel) -> Result<Messenger, Error> {
        let number = Arc::new(AtomicI32::new(NONE));
        let (seen, channel) = (number.clone(), channel.try_clone()?);
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || carry(&seen, &channel))
            .map_err(failed("start", "the thread that hands over the seccomp listener"))?;
        Ok(Messenger(number))
    }

    /// Has the descriptor sent, and returns when it has arrived. Makes no system call: each may be judged by now.
    pub fn deliver(self, number: i32) {
        self.0.store(number, Ordering::Release);
        while self.0.load(Ordering::Acquire) != DELIVERED {
            std::hint::spin_loop();
        }
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        self.0.compare_exchange(NONE, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).unwrap_or_default();
    }
}

/// What the second thread does. It must not panic, and ends the process if the descriptor cannot be handed over.
fn carry(seen: &AtomicI32, channel: &Channel) {
    let number = loop {
        match seen.load(Ordering::Acquire) {
            NONE => std::thread::sleep(Duration::from_micros(20)),
            GIVEN_UP => return,
            number => break number,
        }
    };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else closes it.
    let listener = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
    let arrived = channel.listener(listener.as_fd()).is_ok() && matches!(channel.receive(), Ok(Message::Go));
    if !arrived {
        // SAFETY: ends all threads. Outside knows why, or is gone.
        unsafe { libc::_exit(i32::from(mocker_common::error::MOCKER_FAILED)) };
    }
    drop(listener); // the container must not hold it: it could answer itself
    seen.store(DELIVERED, Ordering::Release);
}

/// Outside: takes the descriptor to the socket. `state` is the container's, as hooks read it; `pid` is the process that
/// the filter judges, the container's first or one of `exec`.
pub fn hand_over(filter: Option<&Program>, descriptor: OwnedFd, pid: i32, state: &Value) -> Result<(), Error> {
    let Some(to) = filter.and_then(|filter| filter.listener.as_ref()) else {
        return Err(Error::new("cannot hand over the seccomp listener: the profile names no socket"));
    };
    let socket = UnixStream::connect(&to.path).map_err(|cause| {
        // "No such file or directory" would be taken by engines for a program that is missing in the container.
        let text = match cause.raw_os_error() {
            Some(libc::ENOENT) => "there is no such socket (ENOENT)".into(),
            Some(errno) => errno_text(errno),
            None => cause.to_string(),
        };
        Error::new(format!("failed to connect with seccomp agent {}: {text}", to.path))
            .why("SCMP_ACT_NOTIFY leaves calls of the container to the process that listens there")
            .hint("ss -xl   (does anybody listen on linux.seccomp.listenerPath?)")
    })?;
    let message = process_state(&to.metadata, pid, state).to_string();
    step(SendListener { socket: &socket, descriptor: descriptor.as_fd(), message: &message, path: &to.path })
        .because("the calls that wait for a decision are read and answered through this descriptor alone")
}

/// The container process state (runtime-spec config-linux.md).
fn process_state(metadata: &str, pid: i32, state: &Value) -> Value {
    let mut message = json!({ "ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid });
    if !metadata.is_empty() {
        message["metadata"] = metadata.into();
    }
    message["state"] = state.clone();
    message
}

/// sendmsg(2) with SCM_RIGHTS.
struct SendListener<'a> {
    socket: &'a UnixStream,
    descriptor: BorrowedFd<'a>,
    message: &'a str,
    path: &'a str,
}

explained!(SendListener<'a>, "unix(7), SCM_RIGHTS", |this| {
    call: format!("sendmsg({:?}, {{{}, SCM_RIGHTS=[listener]}})", this.path, this.message),
    aim: format!("send the seccomp listener to {}", this.path),
});

impl KernelCall for SendListener<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.descriptor];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let bytes = self.message.as_bytes();
        let sent = sendmsg(self.socket, &[std::io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        // A stream may take less than all; the descriptor has gone with the first byte.
        std::io::Write::write_all(&mut &*self.socket, &bytes[sent..])?;
        Ok(())
    }
}
