//! From a profile to a filter: the numbers of system calls fall into spans with one answer each, found by binary search.
//!
//! docker's profile of 370 names makes some 60 spans an architecture, so most calls are judged in six comparisons. Where
//! a rule looks at arguments its check stands behind the search, once for all architectures: they share the layout.

use mocker_common::error::Error;

use super::Program;
use super::bpf::{
    ARCHITECTURE, ARGUMENTS, Assembler, IF_EQUAL, IF_GREATER, IF_GREATER_OR_EQUAL, LONGEST, NUMBER, Target,
};
use super::profile::{ARCHITECTURES, Condition, Seccomp, Test, answer, unknown};
use super::table::{ARM_PRIVATE, Architecture, Call, X32_BIT, find};

/// A rule whose answer differs from the default.
struct Rule {
    answer: u32,
    alternatives: Vec<Vec<Condition>>,
    always: bool,
}

/// A name of a rule: None where the rule says no more than the default does.
type Named = (&'static Call, Option<usize>);

struct Compiler {
    assembler: Assembler,
    rules: Vec<Rule>,
    named: Vec<Named>,
    default: Target,
    newer: Target,
    /// checks made so far: of these rules, found there
    checks: Vec<(Vec<usize>, Target)>,
}

/// Compiles for a machine of the given architecture.
pub fn compile(profile: &Seccomp<'_>, native: Architecture) -> Result<Program, Error> {
    let mut compiler = Compiler {
        assembler: Assembler::default(),
        rules: Vec::new(),
        named: Vec::new(),
        default: Target::Return(profile.default_answer()?),
        newer: Target::Return(profile.answer_to_newer()?),
        checks: Vec::new(),
    };
    let unknown_names = compiler.take_rules(profile)?;
    let allowed = architectures(profile, native)?;
    let entry = compiler.dispatch(&allowed);
    let instructions = compiler.assembler.finish(entry);
    if instructions.len() > LONGEST {
        let length = instructions.len();
        return Err(Error::new(format!("cannot use the seccomp profile: its filter has {length} instructions"))
            .likely(format!("it has very many conditions on arguments; the kernel takes {LONGEST} instructions")));
    }
    let listener = profile.listener()?;
    Ok(Program { instructions, flags: profile.flag_bits(listener.is_some())?, unknown_names, listener })
}

/// The machine's own architecture, always first, and those the profile adds. Others never run here.
fn architectures(profile: &Seccomp<'_>, native: Architecture) -> Result<Vec<Architecture>, Error> {
    let listed: &[&str] = profile.architectures.as_deref().unwrap_or_default();
    if let Some(odd) = listed.iter().find(|name| !ARCHITECTURES.contains(name)) {
        return Err(unknown("architecture", odd, &ARCHITECTURES.join(", ")));
    }
    let listed = |other: &&Architecture| listed.contains(&other.name());
    Ok(std::iter::once(native).chain(native.companions().iter().filter(listed).copied()).collect())
}

impl Compiler {
    /// Reads the rules and looks their names up. Returns how many names no table has: calls of another architecture, or
    /// newer than this program. They keep the default.
    fn take_rules(&mut self, profile: &Seccomp<'_>) -> Result<usize, Error> {
        let mut unknown_names = 0;
        for syscalls in profile.rules() {
            if syscalls.names.is_empty() {
                return Err(Error::new(
                    "cannot use the seccomp profile: a rule of linux.seccomp.syscalls names no call",
                ));
            }
            let (answer, alternatives) = (syscalls.answer()?, syscalls.alternatives()?);
            let rule = (Target::Return(answer) != self.default).then(|| {
                let always = alternatives.iter().any(Vec::is_empty);
                self.rules.push(Rule { answer, alternatives, always });
                self.rules.len() - 1
            });
            for name in &syscalls.names {
                match find(name) {
                    Some(call) => self.named.push((call, rule)),
                    None => unknown_names += 1,
                }
            }
        }
        Ok(unknown_names)
    }

    /// The filter's beginning: whose call is it? A number means nothing before that is known.
    fn dispatch(&mut self, allowed: &[Architecture]) -> Target {
        // By a number of another architecture a program would pass as a harmless call what is another one.
        let mut entry = Target::Return(answer::KILL_PROCESS);
        let (x32, others): (Vec<_>, Vec<_>) = allowed.iter().partition(|other| **other == Architecture::X32);
        for architecture in others.into_iter().rev() {
            let spans = self.spans_of_machine(architecture, !x32.is_empty());
            let search = self.assembler.search(&spans);
            let number = self.assembler.load(NUMBER, search);
            entry = self.assembler.branch(IF_EQUAL, architecture.audit(), number, entry);
        }
        self.assembler.load(ARCHITECTURE, entry)
    }

    /// All numbers a call of this architecture can have, x32's bit included.
    fn spans_of_machine(&mut self, architecture: Architecture, x32: bool) -> Vec<(u32, Target)> {
        let mut spans = Vec::new();
        match architecture {
            Architecture::X86_64 => {
                self.add_spans(architecture, 0..u64::from(X32_BIT), &mut spans);
                if x32 {
                    self.add_spans(Architecture::X32, u64::from(X32_BIT)..1 << 32, &mut spans);
                } else {
                    push(&mut spans, X32_BIT, Target::Return(answer::KILL_PROCESS));
                    // −1: a debugger has told the kernel to skip this call. It is none of x32's.
                    push(&mut spans, u32::MAX, self.newer);
                }
            }
            _ => self.add_spans(architecture, 0..1 << 32, &mut spans),
        }
        spans
    }

    fn add_spans(&mut self, architecture: Architecture, room: std::ops::Range<u64>, spans: &mut Vec<(u32, Target)>) {
        let number =
            |(place, (call, _)): (usize, &Named)| Some((room.start + u64::from(architecture.number(call)?), place));
        let mut calls: Vec<(u64, usize)> = self.named.iter().enumerate().filter_map(number).collect();
        calls.sort_unstable(); // rules on one call stay in the profile's order
        let private = room.start + u64::from(ARM_PRIVATE);
        let newest = calls.iter().rev().map(|(number, _)| *number).find(|number| *number < private);
        // Where the profile names nothing there is no telling what it knows.
        let newer_from = newest.map_or(room.end, |number| number + 1);

        let mut next = room.start;
        let (default, newer) = (self.default, self.newer);
        let fill = |from: u64, to: u64, spans: &mut Vec<_>| {
            if from < to.min(newer_from) {
                push(spans, from as u32, default);
            }
            if from.max(newer_from) < to {
                push(spans, from.max(newer_from) as u32, newer);
            }
        };
        for rules_on_call in calls.chunk_by(|one, other| one.0 == other.0) {
            let number = rules_on_call[0].0;
            fill(next, number, spans);
            push(spans, number as u32, self.judge(rules_on_call));
            next = number + 1;
        }
        fill(next, room.end, spans);
    }

    /// What is answered to a call that these rules name. A rule without conditions outdoes those with, as in
    /// libseccomp; of several that match the first counts.
    fn judge(&mut self, rules_on_call: &[(u64, usize)]) -> Target {
        let rules = rules_on_call.iter().filter_map(|(_, place)| self.named[*place].1);
        if let Some(rule) = rules.clone().find(|rule| self.rules[*rule].always) {
            return Target::Return(self.rules[rule].answer);
        }
        let rules: Vec<usize> = rules.collect();
        if let Some((_, made)) = self.checks.iter().find(|(same, _)| *same == rules) {
            return *made;
        }
        let cases: Vec<(Vec<Condition>, u32)> = rules
            .iter()
            .map(|rule| &self.rules[*rule])
            .flat_map(|rule| rule.alternatives.iter().map(|all_of| (all_of.clone(), rule.answer)))
            .collect();
        let made = self.search_argument(&cases).unwrap_or_else(|| self.try_in_turn(&cases));
        self.checks.push((rules, made));
        made
    }

    /// Cases of one comparison each, all on the same argument: its values fall into spans, like the numbers of calls.
    fn search_argument(&mut self, cases: &[(Vec<Condition>, u32)]) -> Option<Target> {
        let argument = cases.first()?.0.first()?.argument;
        let mut starts = vec![0];
        for (conditions, _) in cases {
            let [condition] = conditions[..] else { return None };
            let (Test::Equal(value)
            | Test::NotEqual(value)
            | Test::Less(value)
            | Test::LessOrEqual(value)
            | Test::Greater(value)
            | Test::GreaterOrEqual(value)) = condition.test
            else {
                return None;
            };
            // All that changes an answer lies within 32 bits: then the high half is zero, or the call is beyond all.
            let value = u32::try_from(value).ok()?;
            if condition.argument != argument {
                return None;
            }
            starts.push(value);
            starts.extend(value.checked_add(1));
        }
        starts.sort_unstable();

        let answer_at = |value: u64| {
            let holds = |(conditions, _): &&(Vec<Condition>, u32)| conditions[0].test.holds(value);
            cases.iter().find(holds).map_or(self.default, |(_, answer)| Target::Return(*answer))
        };
        let mut spans = Vec::new();
        starts.iter().for_each(|start| push(&mut spans, *start, answer_at(u64::from(*start))));
        let beyond = answer_at(1 << 32);
        let (low, high) = halves(argument);
        let search = self.assembler.search(&spans);
        let search = self.assembler.load(low, search);
        let check = self.assembler.branch(IF_EQUAL, 0, search, beyond);
        Some(self.assembler.load(high, check))
    }

    /// One case after the other, each of its conditions after the other.
    fn try_in_turn(&mut self, cases: &[(Vec<Condition>, u32)]) -> Target {
        cases.iter().rev().fold(self.default, |otherwise, (conditions, answer)| {
            conditions
                .iter()
                .rev()
                .fold(Target::Return(*answer), |yes, condition| self.check(condition, yes, otherwise))
        })
    }

    /// One comparison of 64 bits in a language of 32: the high halves decide, unless they are equal.
    fn check(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let (low, high) = halves(condition.argument);
        match condition.test {
            Test::Equal(value) => {
                let check = self.assembler.branch(IF_EQUAL, value as u32, yes, no);
                let check = self.assembler.load(low, check);
                let check = self.assembler.branch(IF_EQUAL, (value >> 32) as u32, check, no);
                self.assembler.load(high, check)
            }
            Test::Masked(mask, value) => {
                let check = self.assembler.branch(IF_EQUAL, value as u32, yes, no);
                let check = self.assembler.mask(mask as u32, check);
                let check = self.assembler.load(low, check);
                let check = self.assembler.branch(IF_EQUAL, (value >> 32) as u32, check, no);
                let check = self.assembler.mask((mask >> 32) as u32, check);
                self.assembler.load(high, check)
            }
            Test::Greater(value) => self.check_order(IF_GREATER, value, (low, high), yes, no),
            Test::GreaterOrEqual(value) => self.check_order(IF_GREATER_OR_EQUAL, value, (low, high), yes, no),
            Test::NotEqual(value) => self.check(&Condition { test: Test::Equal(value), ..*condition }, no, yes),
            Test::Less(value) => self.check(&Condition { test: Test::GreaterOrEqual(value), ..*condition }, no, yes),
            Test::LessOrEqual(value) => self.check(&Condition { test: Test::Greater(value), ..*condition }, no, yes),
        }
    }

    fn check_order(&mut self, test: u16, value: u64, (low, high): (u32, u32), yes: Target, no: Target) -> Target {
        let check = self.assembler.branch(test, value as u32, yes, no);
        let check = self.assembler.load(low, check);
        let check = self.assembler.branch(IF_EQUAL, (value >> 32) as u32, check, no);
        let check = self.assembler.branch(IF_GREATER, (value >> 32) as u32, yes, check);
        self.assembler.load(high, check)
    }
}

/// Where the low and the high half of an argument lie.
fn halves(argument: u32) -> (u32, u32) {
    let low = ARGUMENTS + 8 * argument;
    (low, low + 4)
}

/// Begins a span, unless the one before it leads to the same place.
fn push(spans: &mut Vec<(u32, Target)>, start: u32, target: Target) {
    if spans.last().is_none_or(|(_, last)| *last != target) {
        spans.push((start, target));
    }
}
