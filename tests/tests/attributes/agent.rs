//! A seccomp agent: listens on a socket, is given the listener of a container's filter, and answers its notifications:
//! mkdir with an errno that nothing else gives, all others "go on". Source: seccomp_unotify(2).

use std::cell::Cell;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

pub const ENOMEDIUM: i32 = libc::ENOMEDIUM;

#[derive(Default)]
struct Seen {
    states: Vec<Value>,
    /// number of the call, errno it was answered with
    answers: Vec<(i64, i32)>,
}

/// The agent. Dropping it closes everything it was given.
pub struct Agent {
    taken: Cell<usize>,
    seen: Arc<Mutex<Seen>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub fn start(path: &Path) -> Agent {
        let socket = UnixListener::bind(path).expect("a socket of its own");
        let (seen, end) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (ours, ending) = (seen.clone(), end.clone());
        let thread = std::thread::spawn(move || serve(&socket, &ours, &ending));
        Agent { taken: Cell::new(0), seen, end, thread: Some(thread) }
    }

    /// What it was told of the next container or process; it may not have read that yet.
    pub fn next_state(&self) -> Value {
        let place = self.taken.replace(self.taken.get() + 1);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(state) = self.seen.lock().unwrap().states.get(place) {
                return state.clone();
            }
            assert!(Instant::now() < deadline, "the agent has been told nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// With what it answered each notification of a call.
    pub fn answered(&self, call: i64) -> Vec<i32> {
        let seen = self.seen.lock().unwrap();
        seen.answers.iter().filter(|(number, _)| *number == call).map(|(_, errno)| *errno).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is joined once").join().expect("it has not panicked");
    }
}

fn serve(socket: &UnixListener, seen: &Mutex<Seen>, end: &AtomicBool) {
    let mut listeners: Vec<OwnedFd> = Vec::new();
    let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !end.load(Ordering::Relaxed) {
        let mut waiting = vec![PollFd::new(socket, PollFlags::IN)];
        waiting.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        poll(&mut waiting, Some(&moment)).expect("poll");
        let ready: Vec<PollFlags> = waiting.iter().map(PollFd::revents).collect();
        let mut gone = Vec::new();
        for (place, events) in ready[1..].iter().enumerate() {
            if events.contains(PollFlags::IN) {
                answer(&listeners[place], seen);
            } else if events.contains(PollFlags::HUP) {
                gone.push(place);
            }
        }
        gone.into_iter().rev().for_each(|place| drop(listeners.remove(place)));
        if ready[0].contains(PollFlags::IN) {
            let (state, listener) = receive(&socket.accept().expect("a connection").0);
            seen.lock().unwrap().states.push(state);
            listeners.push(listener);
        }
    }
}

/// The container process state and the descriptor. One connection holds one, and is closed after it.
fn receive(connection: &UnixStream) -> (Value, OwnedFd) {
    let (mut text, mut listener) = (Vec::new(), None);
    loop {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let length = recvmsg(connection.as_fd(), &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                listener = listener.or(descriptors.next());
            }
        }
        if length == 0 {
            return (serde_json::from_slice(&text).expect("JSON"), listener.expect("a descriptor"));
        }
        text.extend_from_slice(&bytes[..length]);
    }
}

fn answer(listener: &OwnedFd, seen: &Mutex<Seen>) {
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    // SAFETY: zero is a valid value of every field.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure during the call.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut asked) } != 0 {
        return; // it was killed meanwhile
    }
    let call = i64::from(asked.data.nr);
    let errno = if call == libc::SYS_mkdir { ENOMEDIUM } else { 0 };
    seen.lock().unwrap().answers.push((call, errno));
    let go_on = if errno == 0 { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 };
    let mut reply = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -errno, flags: go_on };
    // SAFETY: the kernel reads the structure during the call; ENOENT, as above, is no failure of ours.
    unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw mut reply) };
}
