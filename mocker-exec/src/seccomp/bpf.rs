//! An assembler for classic BPF, the language of a seccomp filter: one register, jumps that only go forward.
//!
//! A program is written from its end to its beginning. So whatever a jump leads to is there already, its distance is
//! known, and the two bytes a conditional jump has for it are never patched afterwards.
//!
//! Source: seccomp(2); kernel, Documentation/networking/filter.rst; linux/seccomp.h.

/// One instruction, as the kernel reads it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// where to go on if the test holds: how many instructions to skip
    pub jt: u8,
    /// and if it does not
    pub jf: u8,
    pub k: u32,
}

/// The register takes 32 bits of the call's data, at offset k.
pub const LOAD: u16 = 0x20;
/// The register keeps the bits of k.
pub const AND: u16 = 0x54;
pub const JUMP: u16 = 0x05;
/// Tests of the register against k.
pub const IF_EQUAL: u16 = 0x15;
pub const IF_GREATER: u16 = 0x25;
pub const IF_GREATER_OR_EQUAL: u16 = 0x35;
/// The filter's answer is k.
pub const RETURN: u16 = 0x06;

/// Offsets in what a filter is given (`struct seccomp_data`).
pub const NUMBER: u32 = 0;
pub const ARCHITECTURE: u32 = 4;
/// Low half of argument 0; both of our architectures are little endian. The next is 8 further.
pub const ARGUMENTS: u32 = 16;

/// The longest program the kernel takes (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;

/// Where a jump leads: to an answer, or to an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Return(u32),
    /// its position, counted from the end of the program
    At(usize),
}

/// A program in the making, last instruction first.
#[derive(Default)]
pub struct Assembler {
    backwards: Vec<Instruction>,
    /// where each answer was given last
    answers: Vec<(u32, usize)>,
}

/// How far back a target of a conditional jump may lie: a byte's worth, less what making the other one reachable adds.
const REACH: usize = 254;

impl Assembler {
    /// Loads the register, then goes on at `then`.
    pub fn load(&mut self, offset: u32, then: Target) -> Target {
        self.fall_into(then);
        self.push(LOAD, 0, 0, offset)
    }

    /// Masks the register, then goes on at `then`.
    pub fn mask(&mut self, bits: u32, then: Target) -> Target {
        self.fall_into(then);
        self.push(AND, 0, 0, bits)
    }

    /// Goes on at `yes` if the register passes the test against `k`, else at `no`.
    pub fn branch(&mut self, test: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let no = self.reachable(no);
        let yes = self.reachable(yes);
        let next = self.backwards.len() - 1;
        self.push(test, (next - yes) as u8, (next - no) as u8, k)
    }

    /// Binary search: goes on at the target of the span that the register lies in. A span reaches from its start to
    /// the next one's; the first starts at 0.
    pub fn search(&mut self, spans: &[(u32, Target)]) -> Target {
        match spans {
            [] => unreachable!("a search over nothing"),
            [(_, target)] => *target,
            _ => {
                let (below, above) = spans.split_at(spans.len() / 2);
                let yes = self.search(above);
                let no = self.search(below);
                self.branch(IF_GREATER_OR_EQUAL, above[0].0, yes, no)
            }
        }
    }

    /// The program that begins at `entry`.
    pub fn finish(mut self, entry: Target) -> Vec<Instruction> {
        self.fall_into(entry);
        self.backwards.reverse();
        self.backwards
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        self.backwards.push(Instruction { code, jt, jf, k });
        Target::At(self.backwards.len() - 1)
    }

    /// Sees to it that the instruction pushed next is followed by `target`.
    fn fall_into(&mut self, target: Target) {
        match target {
            Target::Return(answer) => self.push(RETURN, 0, 0, answer),
            Target::At(position) if position + 1 == self.backwards.len() => return,
            Target::At(position) => self.push(JUMP, 0, 0, (self.backwards.len() - 1 - position) as u32),
        };
    }

    /// A position that a conditional jump pushed next can reach, from which `target` is reached.
    fn reachable(&mut self, target: Target) -> usize {
        let here = self.backwards.len();
        let known = match target {
            Target::At(position) => Some(position),
            Target::Return(answer) => self.answers.iter().find(|(given, _)| *given == answer).map(|(_, at)| *at),
        };
        if let Some(position) = known.filter(|position| position + REACH >= here) {
            return position;
        }
        self.fall_into(target); // a jump that is not conditional has 32 bits for its distance
        if let Target::Return(answer) = target {
            self.answers.retain(|(given, _)| *given != answer);
            self.answers.push((answer, here));
        }
        here
    }
}
