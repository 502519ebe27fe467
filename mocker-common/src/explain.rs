//! `--explain`: a numbered narrative on stderr, made of the steps as they happen.
//!
//! Off, it costs one atomic load a step. Each process numbers its own steps, and every line says who speaks, since in
//! a pipeline several tools talk at once. A line is one `write`, so lines of different tools never mix.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering::Relaxed};

use clap::ValueEnum;
use serde_json::json;

use crate::step::Explained;

/// How the narrative is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// for people: the call, why it is made, the same by hand
    Text,
    /// for programs: one JSON object a line
    Json,
}

static MODE: AtomicU8 = AtomicU8::new(0);
static NUMBER: AtomicU32 = AtomicU32::new(0);
static OUTPUT: AtomicI32 = AtomicI32::new(2);
static SPEAKER: Mutex<&str> = Mutex::new("mocker");

/// Begins a narrative. `speaker` is the tool's name; the container's side of mocker-exec speaks as `init`.
pub fn begin(mode: Option<Mode>, speaker: &'static str) {
    let code = match mode {
        None => 0,
        Some(Mode::Text) => 1,
        Some(Mode::Json) => 2,
    };
    MODE.store(code, Relaxed);
    speak_as(speaker);
}

/// Starts the numbering again under another name: the forked child tells a story of its own.
pub fn speak_as(speaker: &'static str) {
    NUMBER.store(0, Relaxed);
    if let Ok(mut name) = SPEAKER.lock() {
        *name = speaker;
    }
}

/// Sends the narrative to another descriptor (close-on-exec), before stderr becomes the container's own.
pub fn write_to(descriptor: i32) {
    OUTPUT.store(descriptor, Relaxed);
}

/// Whether anybody listens.
pub fn on() -> bool {
    MODE.load(Relaxed) != 0
}

/// Tells one step. Called by [`crate::step`] just before the call is made.
pub fn tell(call: &dyn Explained, why: &str) {
    if !on() {
        return;
    }
    let number = NUMBER.fetch_add(1, Relaxed) + 1;
    let speaker = SPEAKER.lock().map(|name| *name).unwrap_or("mocker");
    let text = match MODE.load(Relaxed) {
        1 => as_text(speaker, number, call, why),
        _ => as_json(speaker, number, call, why),
    };
    let mut stream = Descriptor(OUTPUT.load(Relaxed));
    // A narrative that nobody can read any more must not stop the work.
    stream.write_all(text.as_bytes()).unwrap_or_default();
}

/// The steps told so far.
pub fn count() -> u32 {
    NUMBER.load(Relaxed)
}

fn as_text(speaker: &str, number: u32, call: &dyn Explained, why: &str) -> String {
    let head = format!("[{speaker} {number}]");
    let mut text = format!("{head} {call}   # {}\n    {why}\n", call.source());
    let by_hand = call.by_hand();
    if !by_hand.is_empty() {
        text += &format!("    $ {}\n", by_hand.replace('\n', "\n    $ "));
    }
    text
}

fn as_json(speaker: &str, number: u32, call: &dyn Explained, why: &str) -> String {
    let (call_text, by_hand, source) = (call.to_string(), call.by_hand(), call.source());
    let line = json!({
        "tool": speaker, "step": number, "call": call_text, "why": why, "by_hand": by_hand, "source": source,
    });
    format!("{line}\n")
}

/// A raw descriptor as a writer that does not close it.
struct Descriptor(i32);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // SAFETY: the descriptor is only borrowed for this call; a closed one gives EBADF.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) };
        Ok(rustix::io::write(borrowed, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
