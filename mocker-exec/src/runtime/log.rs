//! Where a runtime's errors go: to stderr for people, and, line by line, to the file that an engine reads.
//!
//! Exactly one line a failed call, and nothing below an error unless asked: podman reads the file only if it is one JSON
//! object, containerd the last line that is an error.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use mocker_common::clock;
use mocker_common::error::{Error, failed};
use serde_json::json;

use crate::args::{LogFormat, RuntimeArgs};

/// The log file, opened before anything is done: a path that cannot be written is told at once.
pub struct Log {
    file: Option<File>,
    format: LogFormat,
}

impl Log {
    pub fn open(args: &RuntimeArgs) -> Result<Log, Error> {
        let open = |path: &Path| {
            File::options().append(true).create(true).open(path).map_err(failed("open log", path.display()))
        };
        // runc takes an empty name for none.
        let path = args.log.as_deref().filter(|path| !path.as_os_str().is_empty());
        Ok(Log { file: path.map(open).transpose()?, format: args.log_format })
    }

    /// Tells an error.
    pub fn error(&self, error: &Error) {
        eprintln!("mocker-exec: {error}");
        self.line("error", &error.to_string());
    }

    /// Tells of what is no failure. An engine's file has room for it; without one it goes to stderr.
    pub fn warning(&self, text: &str) {
        match self.file {
            Some(_) => self.line("warning", text),
            None => eprintln!("mocker-exec: warning: {text}"),
        }
    }

    pub fn debug(&self, text: &str) {
        self.line("debug", text);
    }

    fn line(&self, level: &str, text: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let time = clock::rfc3339(SystemTime::now());
        let line = match self.format {
            LogFormat::Json => json!({ "level": level, "msg": text, "time": time }).to_string(),
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
        };
        // A log that is full is no reason to fail the container.
        file.write_all(format!("{line}\n").as_bytes()).unwrap_or_default();
    }
}
