//! What a person sees meanwhile, on stderr: bars on a terminal, lines elsewhere, nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mocker_common::units::format_size;

use crate::manifest::{Descriptor, Layer};

/// Where the news goes.
pub struct Progress {
    form: Form,
}

enum Form {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

/// One layer's share of it. Dropped unfinished, it disappears.
pub struct Bar<'a> {
    progress: &'a Progress,
    name: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars only where a person watches and no narrative (`--explain`) runs through them.
    pub fn new(quiet: bool) -> Self {
        let watched = std::io::stderr().is_terminal() && !mocker_common::explain::on();
        let form = match (quiet, watched) {
            (true, _) => Form::Quiet,
            (false, true) => Form::Bars(MultiProgress::new()),
            (false, false) => Form::Lines,
        };
        Progress { form }
    }

    /// One line of news, above the bars.
    pub fn say(&self, line: &str) {
        match &self.form {
            Form::Quiet => {}
            Form::Lines => eprintln!("{line}"),
            Form::Bars(bars) => bars.println(line).unwrap_or_default(), // a terminal that is gone stops no pull
        }
    }

    /// Begins a layer.
    pub fn layer(&self, layer: &Layer) -> Bar<'_> {
        self.blob(&layer.blob)
    }

    /// Begins a layer of which only the blob matters.
    pub fn blob(&self, blob: &Descriptor) -> Bar<'_> {
        let name = blob.digest.short().to_string();
        let bar = match &self.form {
            Form::Bars(bars) => Some(bars.add(running(&name, blob.size))),
            _ => None,
        };
        Bar { progress: self, name, bar }
    }
}

fn running(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size).with_prefix(name.to_string());
    let template = "layer {prefix} {bar:24} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

impl Bar<'_> {
    /// Bytes have come in.
    pub fn advance(&self, bytes: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes as u64);
        }
    }

    /// So many bytes are done in all.
    pub fn set(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    /// What it does now, beside the bar.
    pub fn state(&self, state: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(state);
        }
    }

    /// It is in the store: `layer a1b2c3d4e5f6 29.1MiB done`.
    pub fn done(self, size: u64) {
        self.end(&format!("{} done", format_size(size)));
    }

    /// Its last line.
    pub fn end(self, how: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.say(&format!("layer {} {how}", self.name));
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
