//! Finding and executing the program, and saying truly why it cannot be. Source: execve(2); execvp(3) for the search.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;

use mocker_common::error::{Error, NOT_EXECUTABLE, NOT_FOUND};
use mocker_common::step::step;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::calls::files::c_string;
use crate::calls::process::Execute;
use crate::plan::Process;

/// Executes the program. Inside, as the last act: it returns only an error, with exit status 126 or 127.
pub fn execute(process: &Process) -> Result<Infallible, Error> {
    let name = &process.args[0]; // the plan has refused an empty list
    let arguments: Vec<CString> = process.args.iter().map(|text| c_string(text)).collect();
    let environment: Vec<CString> = process.env.iter().map(|text| c_string(text)).collect();

    let mut best: Option<Error> = None;
    for program in candidates(name, &process.env) {
        let call = Execute { program: &program, arguments: &arguments, environment: &environment };
        let error = match step(call).because("everything around the process stands; now its own program takes over") {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match error.errno {
            libc::ENOENT | libc::ENOTDIR if !is_there(&program) => continue,
            libc::EACCES => best = best.or(Some(refine(error, name, &program))), // perhaps a later one may be run
            _ => return Err(refine(error, name, &program)),
        }
    }
    Err(best.unwrap_or_else(|| not_found(name)))
}

/// Whether the program can be executed, as far as can be told without doing it: whoever creates a container is told at once
/// what `start` would stumble over.
pub fn check(process: &Process) -> Result<(), Error> {
    let name = &process.args[0];
    let mut denied = false;
    for program in candidates(name, &process.env) {
        let file = rustix::fs::stat(&program).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
        let executable = rustix::fs::accessat(CWD, &program, Access::EXEC_OK, AtFlags::EACCESS);
        match (file, executable) {
            (Ok(FileType::Directory), _) if name.contains('/') => denied = true,
            (Ok(FileType::Directory), _) => {}
            (Ok(_), Err(Errno::ACCESS)) => denied = true,
            (Err(Errno::NOENT | Errno::NOTDIR), _) => {}
            (Err(Errno::ACCESS), _) => denied = true,
            _ => return Ok(()), // it is there, or a filter hides that: execve will say
        }
    }
    match denied {
        true => Err(Error::new(format!("exec: \"{name}\": permission denied"))
            .likely("it is not executable for this user, lies on a noexec mount, or is a directory")
            .status(NOT_EXECUTABLE)),
        false => Err(not_found(name)),
    }
}

/// The places to try: the name itself if it has a slash, else each directory of the *container's* PATH.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_string()];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(mocker_common::defaults::PATH);
    path.split(':').map(|directory| format!("{}/{name}", if directory.is_empty() { "." } else { directory })).collect()
}

fn is_there(program: &str) -> bool {
    rustix::fs::lstat(program).is_ok()
}

fn not_found(name: &str) -> Error {
    let cause = if name.contains('/') { "no such file or directory" } else { "executable file not found in $PATH" };
    Error::new(format!("exec: \"{name}\": {cause}"))
        .why("the name is looked up in the container, by the container's PATH, not on the host")
        .likely("the image does not have this program, or its Entrypoint was replaced by what follows the image's name")
        .hint("run the image with another command (ls /bin, say) to see what it has")
        .status(NOT_FOUND)
}

/// Puts the errno of execve into words: what the file is, what is missing.
fn refine(error: Error, name: &str, program: &str) -> Error {
    let (cause, likely, status) = match error.errno {
        libc::ENOENT | libc::ENOTDIR => {
            let interpreter = interpreter(program).unwrap_or_else(|| "its interpreter".into());
            return Error::new(format!(
                "exec: \"{name}\": {program} is there, but {interpreter} is not: no such file or directory"
            ))
            .why("a script is run by the program its first line names, a dynamic program by its loader")
            .hint("add the interpreter or loader to the image, or build the program static")
            .status(NOT_FOUND);
        }
        libc::EACCES => {
            ("permission denied", "it is not executable for this user, or lies on a noexec mount", NOT_EXECUTABLE)
        }
        libc::EISDIR => ("is a directory", "", NOT_EXECUTABLE),
        libc::ENOEXEC => (
            "exec format error",
            "it is a program for another architecture, or a script without a #! line",
            NOT_EXECUTABLE,
        ),
        libc::ETXTBSY => ("text file busy", "somebody is writing to it", NOT_EXECUTABLE),
        libc::E2BIG => {
            ("argument list too long", "arguments and environment together are over the kernel's limit", NOT_EXECUTABLE)
        }
        _ => return Error { status: NOT_EXECUTABLE, ..error },
    };
    Error { likely: likely.into(), status, ..Error::new(format!("exec: \"{name}\": {program}: {cause}")) }
}

/// What a file needs to be run: the program its `#!` line names, or its ELF loader (PT_INTERP).
fn interpreter(program: &str) -> Option<String> {
    let mut head = vec![0u8; 4096];
    let length = File::open(program).ok()?.read(&mut head).ok()?;
    interpreter_of(&head[..length])
}

fn interpreter_of(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let text = String::from_utf8_lossy(line);
        let interpreter = text.split_whitespace().next()?;
        let hint = if text.ends_with('\r') { " (the line ends in a carriage return)" } else { "" };
        return Some(format!("{}{hint}", interpreter.trim_end_matches('\r')));
    }
    if !head.starts_with(b"\x7fELF\x02") {
        return None;
    }
    // The 64-bit ELF header: program headers at byte 32, their size at 54, their number at 56 (elf(5)).
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0usize, |value, byte| value << 8 | *byte as usize))
    };
    let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let header = (0..count).map(|index| start + index * size).find(|at| number(*at, 4) == Some(3))?;
    let (offset, length) = (number(header + 8, 8)?, number(header + 32, 8)?);
    let path = head.get(offset..offset.checked_add(length)?)?;
    Some(String::from_utf8_lossy(path.strip_suffix(b"\0").unwrap_or(path)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_in_the_containers_path() {
        let env = ["PATH=/a::/b".to_string()];
        assert_eq!(candidates("x", &env), ["/a/x", "./x", "/b/x"]);
        assert_eq!(candidates("./x", &env), ["./x"]);
        assert!(candidates("x", &[]).contains(&"/usr/bin/x".to_string()));
    }

    #[test]
    fn the_missing_interpreter_is_named() {
        assert_eq!(interpreter_of(b"#!/bin/bash -e\necho").as_deref(), Some("/bin/bash"));
        assert!(interpreter_of(b"#!/bin/sh\r\necho").unwrap().contains("carriage return"));
        assert_eq!(interpreter_of(b"#!\n"), None);
        assert_eq!(interpreter_of(b"\x7fELF\x02short"), None);
        let own = std::fs::read("/bin/true").unwrap();
        assert!(interpreter_of(&own[..own.len().min(4096)]).unwrap().contains("/ld-"));
    }
}
