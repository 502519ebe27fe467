//! Which ids an ordinary user may have beside his own. Source: subuid(5), subgid(5), passwd(5).

use std::fmt;
use std::fs;

pub const UIDS: &str = "/etc/subuid";
pub const GIDS: &str = "/etc/subgid";

/// A line of a map of ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

/// The maps of a user namespace to be.
pub struct Maps {
    pub uids: Vec<Line>,
    pub gids: Vec<Line>,
}

impl Line {
    /// The lines of /proc/PID/uid_map.
    pub fn parse_map(text: &str) -> Vec<Line> {
        let parse = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(|word| word.parse().ok());
            Some(Line { inside: numbers.next()??, outside: numbers.next()??, size: numbers.next()?? })
        };
        text.lines().filter_map(parse).collect()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.size)
    }
}

/// The maps of user and group ids: the user's own as 0, and from 1 on what the files give. None, with a word why on stderr,
/// where there is no more than the own one.
pub fn of(uid: u32, gid: u32) -> Option<Maps> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(uid, &passwd);
    let read = |file: &str| ranges(&fs::read_to_string(file).unwrap_or_default(), name.as_deref(), uid);
    let (uids, gids) = (read(UIDS), read(GIDS));
    let lacking = match () {
        _ if uids.is_empty() => format!("{UIDS} has no line for {}", name.unwrap_or_else(|| uid.to_string())),
        _ if gids.is_empty() => format!("{GIDS} has no line for {}", name.unwrap_or_else(|| uid.to_string())),
        _ if !is_on_path("newuidmap") || !is_on_path("newgidmap") => {
            "there is no newuidmap (apt install uidmap)".into()
        }
        _ => return Some(Maps { uids: map(uid, &uids), gids: map(gid, &gids) }),
    };
    eprintln!(
        "mocker: one user id only: {lacking}\n  \
         likely  files of all other users in images will be this user's, and a program cannot run as another\n  \
         try     usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, as root"
    );
    None
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .into_iter()
        .find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(uid)))
        .map(|fields| fields[0].into())
}

/// Start and number of the ids that a file gives a user: by name or by number, on any number of lines.
fn ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if Some(owner) != name && owner.parse() != Ok(uid) {
            return None;
        }
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some((start, count.min(u32::MAX - start)))
    };
    text.lines().filter_map(parse).collect()
}

fn map(own: u32, ranges: &[(u32, u32)]) -> Vec<Line> {
    let mut lines = vec![Line { inside: 0, outside: own, size: 1 }];
    let mut inside = 1u32;
    for (start, count) in ranges {
        lines.push(Line { inside, outside: *start, size: *count });
        inside = inside.saturating_add(*count);
    }
    lines
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_lines_of_his_name_and_of_his_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name_of(1000, passwd).as_deref(), Some("ann"));
        let text = "# none\nroot:1:2\nann:100000:65536\n1000:300000:10\nann:x:1\nann:5:0\nbob:1:1\n";
        let found = ranges(text, Some("ann"), 1000);
        assert_eq!(found, [(100_000, 65_536), (300_000, 10)]);
        assert!(ranges(text, None, 7).is_empty());
        let lines: Vec<String> = map(1000, &found).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["0 1000 1", "1 100000 65536", "65537 300000 10"]);
    }

    #[test]
    fn the_kernels_own_map_is_read() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(Line::parse_map(map).len(), 2);
        assert_eq!(Line::parse_map(map)[1], Line { inside: 1, outside: 100_000, size: 65_536 });
    }
}
