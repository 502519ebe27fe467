//! Times commands side by side: round by round, each once a round, so that whatever else the machine does hits all
//! alike. Prints medians and their ratio to the first command, which is the claim; CPU time and peak memory beside it.
//!
//! `side-by-side [--rounds N] [--pause MS] [--before COMMAND] NAME COMMAND [NAME COMMAND]…`; the command of `--before` is
//! run ahead of each without being timed. One of plain words is started directly, another by sh, whose own start then
//! counts: two milliseconds, which matter where a command takes five. A command that fails ends it all.
//!
//! Plain commands may be joined: `create x && start x && wait && delete x` are started one after the other, and `wait` is
//! the end of all that they have left running (the container). CPU time is all of it, peak memory that of the largest.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

struct Contender {
    name: String,
    command: String,
    wall_ms: Vec<f64>,
    cpu_ms: Vec<f64>,
    peak_kib: i64,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("side-by-side: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Vec<String>) -> Result<(), String> {
    let rounds: usize = option(&mut arguments, "--rounds")?.unwrap_or(20);
    let pause = Duration::from_millis(option(&mut arguments, "--pause")?.unwrap_or(0));
    let before: Option<String> = option(&mut arguments, "--before")?;
    if arguments.is_empty() || !arguments.len().is_multiple_of(2) {
        return Err("usage: side-by-side [--rounds N] [--pause MS] [--before COMMAND] NAME COMMAND…".into());
    }
    let contender = |pair: &[String]| Contender {
        name: pair[0].clone(),
        command: pair[1].clone(),
        wall_ms: Vec::new(),
        cpu_ms: Vec::new(),
        peak_kib: 0,
    };
    let mut contenders: Vec<Contender> = arguments.chunks(2).map(contender).collect();
    if contenders.iter().any(|contender| steps(&contender.command).contains(&WAIT)) {
        // Orphans become our children, so that their end can be waited for.
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| format!("cannot become a subreaper: {errno}"))?;
    }

    for round in 0..=rounds {
        for contender in &mut contenders {
            if let Some(before) = &before {
                time(before)?;
            }
            std::thread::sleep(pause);
            let (wall_ms, cpu_ms, peak_kib) = time(&contender.command)?;
            // Round 0 warms the caches and does not count.
            if round > 0 {
                contender.wall_ms.push(wall_ms);
                contender.cpu_ms.push(cpu_ms);
                contender.peak_kib = contender.peak_kib.max(peak_kib);
            }
        }
    }

    println!("{:<28} {:>10} {:>10} {:>8} {:>8} {:>9}", "", "median ms", "min ms", "ratio", "cpu ms", "peak MiB");
    let first = median(&mut contenders[0].wall_ms);
    for contender in &mut contenders {
        let (wall, cpu) = (median(&mut contender.wall_ms), median(&mut contender.cpu_ms));
        let least = contender.wall_ms.first().copied().unwrap_or(0.0);
        let peak = contender.peak_kib as f64 / 1024.0;
        println!("{:<28} {wall:>10.1} {least:>10.1} {:>8.2} {cpu:>8.1} {peak:>9.1}", contender.name, wall / first);
    }
    Ok(())
}

/// Takes `--name VALUE` out of the arguments.
fn option<T: std::str::FromStr>(arguments: &mut Vec<String>, name: &str) -> Result<Option<T>, String> {
    let Some(place) = arguments.iter().position(|argument| argument == name) else { return Ok(None) };
    let value = arguments.drain(place..(place + 2).min(arguments.len())).nth(1);
    value.and_then(|value| value.parse().ok()).map(Some).ok_or_else(|| format!("{name} needs a value"))
}

/// The step of a joined command that waits for what others have left running.
const WAIT: &str = "wait";

/// The commands that one is joined of. What sh is to run is not taken apart.
fn steps(command: &str) -> Vec<&str> {
    let steps: Vec<&str> = command.split("&&").map(str::trim).collect();
    if steps.iter().all(|step| is_plain(step)) { steps } else { vec![command] }
}

/// Wall and CPU milliseconds and peak resident KiB of a command and all it waited for.
fn time(command: &str) -> Result<(f64, f64, i64), String> {
    let begun = Instant::now();
    let (mut cpu_ms, mut peak_kib) = (0.0, 0);
    for step in steps(command) {
        let started = match step {
            WAIT => -1,
            _ => {
                let child = process(step).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
                child.map_err(|error| format!("cannot run {step}: {error}"))?.id() as i32
            }
        };
        while let Some((status, usage)) = wait(started) {
            let milliseconds = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
            cpu_ms += milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime);
            peak_kib = peak_kib.max(usage.ru_maxrss);
            if status != 0 {
                return Err(format!("the command failed (status {}): {step}", libc::WEXITSTATUS(status)));
            }
        }
    }
    Ok((begun.elapsed().as_secs_f64() * 1e3, cpu_ms, peak_kib))
}

/// Waits for a child, or with -1 for any. None when there is none (any more).
fn wait(child: i32) -> Option<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: zero is a valid value of every field; wait4 fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the child is ours and is waited for here only.
    let ended = unsafe { libc::wait4(child, &raw mut status, 0, &raw mut usage) };
    (ended > 0).then_some((status, usage))
}

fn is_plain(command: &str) -> bool {
    let first = command.split(' ').next().unwrap_or_default();
    !first.contains('=') && command.chars().all(|c| c.is_ascii_alphanumeric() || " _./:=@%+,-".contains(c))
}

fn process(command: &str) -> Command {
    let mut words = command.split(' ').filter(|word| !word.is_empty());
    match words.next() {
        Some(program) if is_plain(command) => {
            let mut process = Command::new(program);
            process.args(words);
            process
        }
        _ => {
            let mut process = Command::new("sh");
            process.args(["-c", command]);
            process
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
