//! What a list of device rules comes to: a default and its exceptions, as the kernel keeps it for v1.
//!
//! Two lists that come to the same need no write between them, and from one to the other only the difference is written.
//! Source: security/device_cgroup.c; Documentation/admin-guide/cgroup-v1/devices.rst.

use std::collections::BTreeMap;

use crate::cgroup::devices::Rule;
use crate::error::Error;

/// All devices are allowed or none, but for the exceptions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub allows: bool,
    exceptions: BTreeMap<Node, Access>,
}

/// Which devices an exception is for. None: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    kind: Kind,
    major: Option<i64>,
    minor: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Block,
    Character,
}

/// Bits of r, w and m.
type Access = u8;

const LETTERS: [(char, Access); 3] = [('r', 1), ('w', 2), ('m', 4)];

impl Policy {
    /// What the rules come to, the first to the last, on a group that allows nothing. Fails if a rule would punch a hole
    /// into a wider one: v1 ignores such a line without a word.
    pub fn of(rules: &[Rule]) -> Result<Policy, Error> {
        let mut policy = Policy::default();
        for rule in rules {
            policy.apply(rule)?;
        }
        Ok(policy)
    }

    fn apply(&mut self, rule: &Rule) -> Result<(), Error> {
        let access = bits(rule.access());
        if rule.is_for_all() {
            *self = Policy { allows: rule.allow, exceptions: BTreeMap::new() };
            return Ok(());
        }
        for kind in kinds(rule.kind()) {
            let node = Node { kind: *kind, major: rule.major(), minor: rule.minor() };
            match rule.allow == self.allows {
                false => *self.exceptions.entry(node).or_default() |= access,
                true => self.take_back(node, access)?,
            }
        }
        Ok(())
    }

    /// Removes an exception, as far as there is one.
    fn take_back(&mut self, node: Node, access: Access) -> Result<(), Error> {
        let wider = [(None, node.minor), (node.major, None), (None, None)];
        for (major, minor) in wider {
            let wide = Node { major, minor, ..node };
            let held = self.exceptions.get(&wide).copied().unwrap_or(0);
            if wide != node && held & access != 0 {
                return Err(Error::new(format!(
                    "cannot use the device rule {} {}: it would be a hole in {} {}",
                    node.words(),
                    letters(access),
                    wide.words(),
                    letters(held)
                ))
                .why("cgroup v1 keeps a list without holes and would ignore the rule: less confined than was asked"));
            }
        }
        let left = self.exceptions.get(&node).copied().unwrap_or(0) & !access;
        match left {
            0 => drop(self.exceptions.remove(&node)),
            left => drop(self.exceptions.insert(node, left)),
        }
        Ok(())
    }

    /// Reads devices.list. For a group that allows all the kernel shows one line, whatever it denies besides.
    pub fn read(list: &str) -> Policy {
        let mut policy = Policy::default();
        for line in list.lines() {
            let mut words = line.split([' ', ':']);
            let (Some(kind), Some(major), Some(minor), Some(access)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let kind = match kind {
                "b" => Kind::Block,
                "c" => Kind::Character,
                _ => return Policy { allows: true, ..Policy::default() },
            };
            let node = Node { kind, major: major.parse().ok(), minor: minor.parse().ok() };
            policy.exceptions.insert(node, bits(access));
        }
        policy
    }

    /// The lines that lead from this policy to another: whether it is for devices.allow, and the line.
    pub fn lines_to(&self, target: &Policy) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        let none = BTreeMap::new();
        // What a group that allows all denies cannot be read: begin anew. This line comes first, so there is no moment in
        // which more is allowed than before or after.
        let anew = self.allows || self.allows != target.allows;
        if anew {
            lines.push((target.allows, "a".to_string()));
        }
        let old = if anew { &none } else { &self.exceptions };
        let mut differ = |from: &BTreeMap<Node, Access>, to: &BTreeMap<Node, Access>, allow: bool| {
            for (node, access) in from {
                let more = access & !to.get(node).copied().unwrap_or(0);
                if more != 0 {
                    lines.push((allow, format!("{} {}", node.words(), letters(more))));
                }
            }
        };
        differ(old, &target.exceptions, target.allows);
        differ(&target.exceptions, old, !target.allows);
        lines
    }

    /// The shortest list of rules that comes to the same.
    pub fn rules(&self) -> Vec<Rule> {
        let all = Rule { allow: self.allows, ..Rule::default() };
        let exception = |(node, access): (&Node, &Access)| Rule {
            allow: !self.allows,
            kind: Some(node.kind.letter().into()),
            major: node.major,
            minor: node.minor,
            access: Some(letters(*access)),
        };
        std::iter::once(all).chain(self.exceptions.iter().map(exception)).collect()
    }
}

impl Kind {
    fn letter(self) -> &'static str {
        match self {
            Kind::Block => "b",
            Kind::Character => "c",
        }
    }
}

impl Node {
    /// `c 1:*`
    fn words(&self) -> String {
        let number = |number: Option<i64>| number.map_or("*".into(), |number| number.to_string());
        format!("{} {}:{}", self.kind.letter(), number(self.major), number(self.minor))
    }
}

fn kinds(letter: &str) -> &'static [Kind] {
    match letter {
        "b" => &[Kind::Block],
        "c" => &[Kind::Character],
        _ => &[Kind::Block, Kind::Character],
    }
}

fn bits(access: &str) -> Access {
    LETTERS.iter().filter(|(letter, _)| access.contains(*letter)).map(|(_, bit)| bit).sum()
}

fn letters(access: Access) -> String {
    LETTERS.iter().filter(|(_, bit)| access & bit != 0).map(|(letter, _)| letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: serde_json::Value) -> Policy {
        Policy::of(&serde_json::from_value::<Vec<Rule>>(json).unwrap()).unwrap()
    }

    fn lines(from: &Policy, to: &Policy) -> Vec<String> {
        let file = |allow: bool| if allow { "allow" } else { "deny" };
        from.lines_to(to).iter().map(|(allow, line)| format!("{} {line}", file(*allow))).collect()
    }

    #[test]
    fn a_new_group_is_closed_first_and_then_opened_a_little() {
        let root = Policy::read("a *:* rwm\n");
        let few = policy(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "m"},
        ]));
        assert_eq!(lines(&root, &few), ["deny a", "allow b 8:* m", "allow c 1:3 rw"]);
    }

    #[test]
    fn only_the_difference_is_written() {
        let old = Policy::read("b *:* m\nc *:* m\nc 1:3 rwm\nc 5:0 rw\n");
        assert_eq!(lines(&old, &old), [""; 0]);
        let new = Policy::read("c *:* m\nc 1:3 r\nc 1:5 rwm\nc 5:0 rw\n");
        assert_eq!(lines(&old, &new), ["deny b *:* m", "deny c 1:3 wm", "allow c 1:5 rwm"]);
        assert_eq!(lines(&old, &Policy { allows: true, ..Policy::default() }), ["allow a"]);
    }

    #[test]
    fn the_order_of_rules_counts() {
        let c13 = serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
        let not = serde_json::json!({"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"});
        let all = serde_json::json!({"allow": false, "type": "a", "access": "rwm"});
        assert_eq!(policy(serde_json::json!([c13, not])), Policy::read("c 1:3 rm\n"));
        assert_eq!(policy(serde_json::json!([not, c13])), Policy::read("c 1:3 rwm\n"));
        assert_eq!(policy(serde_json::json!([c13, all])), Policy::default());
        assert_eq!(policy(serde_json::json!([])), Policy::default());
    }

    #[test]
    fn both_kinds_with_numbers_are_not_taken_for_everything() {
        let rule = serde_json::json!([{"allow": true, "type": "a", "major": 10, "minor": 229, "access": "rw"}]);
        assert_eq!(policy(rule), Policy::read("b 10:229 rw\nc 10:229 rw\n"));
        let privileged = serde_json::json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]);
        assert!(policy(privileged).allows);
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused() {
        let rules = serde_json::json!([
            {"allow": true, "type": "c", "major": 1, "access": "rw"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]);
        let error = Policy::of(&serde_json::from_value::<Vec<Rule>>(rules).unwrap()).unwrap_err();
        assert!(error.what.contains("c 1:11 r: it would be a hole in c 1:* rw"), "{error}");
    }

    #[test]
    fn rules_of_a_policy_come_to_the_policy() {
        for list in ["a *:* rwm\n", "c 1:3 rwm\nb *:* m\n", ""] {
            let policy = Policy::read(list);
            assert_eq!(Policy::of(&policy.rules()).unwrap(), policy, "{list}");
        }
    }
}
