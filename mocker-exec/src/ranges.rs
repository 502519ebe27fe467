//! Lists of CPUs and memory nodes as the kernel writes them: `0-3,7`. Source: cpuset(7), List format.

use mocker_common::error::Error;

/// More than any kernel can be built for (8192 CPUs, 1024 nodes): a list beyond is a mistake, not a machine.
const LARGEST: usize = 8191;

/// A set of small numbers, as the masks of sched_setaffinity(2) and set_mempolicy(2) hold it: a bit a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet(Vec<u64>);

impl BitSet {
    /// Reads a list. `what` names a member in the error: `CPU`, `memory policy node`.
    pub fn parse(list: &str, what: &str) -> Result<BitSet, Error> {
        let mut set = BitSet::default();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => (first..=last).for_each(|member| set.insert(member)),
                _ => {
                    return Err(Error::new(format!("cannot use the list '{list}': invalid {what} '{part}'"))
                        .hint(format!("numbers up to {LARGEST} and ranges of them: 0-3,7")));
                }
            }
        }
        Ok(set)
    }

    /// Every number that a kernel may know.
    pub fn all() -> BitSet {
        BitSet(vec![u64::MAX; LARGEST / 64 + 1])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mask, lowest numbers first.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    fn insert(&mut self, member: usize) {
        if self.0.len() <= member / 64 {
            self.0.resize(member / 64 + 1, 0);
        }
        self.0[member / 64] |= 1 << (member % 64);
    }
}

fn number(text: &str) -> Option<usize> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| plain && *number <= LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_mask() {
        let cases: [(&str, &[u64]); 7] = [
            ("", &[]),
            ("0", &[1]),
            ("0-3,7", &[0x8f]),
            (" 1, 2 ", &[6]),
            ("3,3", &[8]),
            ("63-64", &[1 << 63, 1]),
            ("130", &[0, 0, 4]),
        ];
        for (list, words) in cases {
            assert_eq!(BitSet::parse(list, "CPU").unwrap().words(), words, "{list:?}");
        }
        for list in ["x", "1-", "-1", "3-1", "1-2-3", "+1", "8192", "0-9876543210", "1 2"] {
            let error = BitSet::parse(list, "CPU").unwrap_err();
            assert!(error.what.contains("invalid CPU"), "{list:?}: {error}");
        }
    }
}
