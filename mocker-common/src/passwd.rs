//! The image's own /etc/passwd and /etc/group, read by us.
//!
//! A libc lookup inside the container would load the image's name-service code into our process (CVE-2019-14271), and
//! on the host would find the host's users. Broken lines are skipped, absent files are empty (an image may have
//! neither). Source: passwd(5), group(5); docker's `--user`.

use crate::error::Error;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// supplementary groups; empty where a group was named explicitly
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

impl Identity {
    /// The supplementary groups with the primary one in front, as docker writes them: without it a file that denies its
    /// group would let this user in (CVE-2022-36109).
    pub fn all_groups(&self) -> Vec<u32> {
        std::iter::once(self.gid).chain(self.groups.iter().copied()).collect()
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds the identity that `user` means: empty, `name`, `uid`, `name:group`, `uid:gid`.
///
/// A name that is all digits is a number unless a user is called so. A number that passwd does not list has group 0.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, Error> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };

    let number = parse_id(user_part);
    let by_name = || users(passwd).find(|user| user.name == user_part);
    let by_number = || number.and_then(|uid| users(passwd).find(|user| user.uid == uid));
    let found = by_name().or_else(by_number);
    let (uid, gid, home) = match (&found, number) {
        (Some(user), _) => (user.uid, user.gid, Some(user.home.to_string())),
        (None, Some(uid)) => (uid, 0, None),
        (None, None) => return Err(unknown("user", user_part, "/etc/passwd")),
    };

    let Some(group_part) = group_part.filter(|part| !part.is_empty()) else {
        let name = found.map(|user| user.name);
        let mut groups: Vec<u32> = groups(group)
            .filter(|entry| name.is_some_and(|name| entry.members.split(',').any(|member| member.trim() == name)))
            .map(|entry| entry.gid)
            .filter(|other| *other != gid)
            .collect();
        groups.dedup();
        return Ok(Identity { uid, gid, groups, home });
    };
    let named = groups(group).find(|entry| entry.name == group_part).map(|entry| entry.gid);
    let gid = named.or_else(|| parse_id(group_part)).ok_or_else(|| unknown("group", group_part, "/etc/group"))?;
    Ok(Identity { uid, gid, groups: Vec::new(), home })
}

/// The home directory of a uid, if passwd lists one.
pub fn home_of(uid: u32, passwd: &str) -> Option<String> {
    users(passwd).find(|user| user.uid == uid).map(|user| user.home.to_string()).filter(|home| home.starts_with('/'))
}

/// A whole number that an id may be: no sign, no blank, below 2^32 − 1 (which means "no id").
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(User { name, uid: parse_id(uid)?, gid: parse_id(gid)?, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        Some(Group { name, gid: parse_id(gid)?, members })
    })
}

fn unknown(kind: &str, name: &str, file: &str) -> Error {
    Error::new(format!("cannot run as {kind} '{name}': the image's {file} does not list it"))
        .why(format!("names become numbers by the container's own {file}, never the host's"))
        .hint("give a number: -u 1000:1000")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001::/home/app:\n7:x:77:78::/seven:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:other,app\nwheel:x:10:app\nmine:x:1001:app\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> Identity {
        Identity { uid, gid, groups: groups.into(), home: home.map(Into::into) }
    }

    #[test]
    fn users_and_groups_are_found_as_docker_finds_them() {
        let cases = [
            ("", identity(0, 0, &[], Some("/root"))),
            ("app", identity(1000, 1001, &[50, 10], Some("/home/app"))),
            ("1000", identity(1000, 1001, &[50, 10], Some("/home/app"))),
            ("app:staff", identity(1000, 50, &[], Some("/home/app"))),
            ("app:33", identity(1000, 33, &[], Some("/home/app"))),
            ("4242", identity(4242, 0, &[], None)),
            ("4242:4343", identity(4242, 4343, &[], None)),
            ("7", identity(77, 78, &[], Some("/seven"))),
            (":staff", identity(0, 50, &[], Some("/root"))),
        ];
        for (user, expected) in cases {
            assert_eq!(resolve(user, PASSWD, GROUP).unwrap(), expected, "{user}");
        }
    }

    #[test]
    fn what_does_not_parse_whole_is_refused_never_root() {
        for bad in ["nobody", "-1", "1000x", "4294967295", "app:none", "99999999999", "0x10", " 0"] {
            assert!(resolve(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
        assert!(resolve("app", "", "").is_err());
        assert_eq!(resolve("0", "", "").unwrap(), identity(0, 0, &[], None));
    }
}
