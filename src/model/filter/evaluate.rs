//! Patterns put to the JSON of a record: one walk over its bytes, which passes what the pattern does not name and ends
//! as soon as the answer is known.
//!
//! The rules are those of EventBridge's engine, event-ruler (its README, "JSON Array Matching" and "Exists matching"):
//! arrays are as if each of their elements stood in their place, and what holds for several fields inside an array has
//! to hold for one element; `exists` looks at single values, not at objects; and that nothing exists is said of the
//! whole record, so it is found out beforehand.

use super::pattern::{Bits, Leaf, Node, Object, Pattern, Resolved, Term};
use super::scalar::Scalar;
use crate::model::record::scan::Scanner;
use crate::model::record::{DecodeError, Record};

/// The member of Lambda's events that says which stream a record is from. Records of the streams' API lack it.
const SOURCE_ARN: &str = "eventSourceARN";

impl Pattern {
    /// Whether the record matches.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let outcome = self.matches_json(record.json());
        debug_assert!(outcome.is_ok(), "a record is checked when its page is decoded");
        outcome.unwrap_or(true) // what cannot be judged is not lost
    }

    /// Whether a record matches that is given as JSON.
    ///
    /// # Errors
    /// When the text is not JSON, as far as it is read: the members that the pattern does not need are not.
    pub fn matches_json(&self, json: &str) -> Result<bool, DecodeError> {
        let mut present = self.present;
        if self.root.asks_for_absence {
            note_present_in(&self.root, &mut Scanner::new(json, 0), &mut present)?;
        }
        let mut scanner = Scanner::new(json, 0);
        self.root.walk(&mut scanner, self.known, present)
    }

    /// The pattern for records of this stream: their `eventSourceARN`, which Lambda adds to records and a pattern may
    /// name.
    pub(super) fn set_stream_arn(&mut self, arn: &str) {
        let json = serde_json::Value::from(arn).to_string();
        for (index, term) in self.root.terms.iter().enumerate() {
            if term.is_named(SOURCE_ARN) {
                // A string that was quoted just now is read without fail.
                let _ = note_present(&term.node, &mut Scanner::new(&json, 0), &mut self.present);
                let holds = term.node.matches(&mut Scanner::new(&json, 0), self.present).unwrap_or(true);
                self.known.set(index, holds);
            }
        }
    }
}

impl Node {
    /// Whether the value that comes next matches. The scanner is left somewhere in it or just behind it.
    fn matches(&self, scanner: &mut Scanner<'_>, present: Bits) -> Result<bool, DecodeError> {
        match self {
            Node::Leaf(leaf) => Ok(leaf.any_passes(scanner)? || leaf.is_missed(present)),
            Node::Object(object) => object.matches(scanner, present),
        }
    }

    /// Whether it matches where there is no such member.
    fn matches_nothing(&self, present: Bits) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.is_missed(present),
            Node::Object(object) => object.matches_nothing(present),
        }
    }
}

impl Object {
    fn matches(&self, scanner: &mut Scanner<'_>, present: Bits) -> Result<bool, DecodeError> {
        match scanner.peek()? {
            b'{' => self.walk(scanner, Resolved::default(), present),
            b'[' => {
                scanner.open(b'[', "")?;
                let mut first = true;
                while scanner.next_element(&mut first)? {
                    let depth = scanner.depth();
                    if self.matches(scanner, present)? {
                        return Ok(true);
                    }
                    scanner.leave(depth)?;
                }
                Ok(self.matches_nothing(present))
            }
            _ => {
                scanner.skip_value()?;
                Ok(self.matches_nothing(present))
            }
        }
    }

    /// Goes over the members of an object until it is clear whether it matches.
    fn walk(&self, scanner: &mut Scanner<'_>, mut resolved: Resolved, present: Bits) -> Result<bool, DecodeError> {
        scanner.open(b'{', "expected an object")?;
        let mut first = true;
        while let Some(name) = scanner.next_member(&mut first)? {
            let name = scanner.value_of(name)?;
            let depth = scanner.depth();
            let value = *scanner;
            let mut is_wanted = false;
            for (index, term) in self.open_terms(resolved, &name) {
                *scanner = value;
                resolved.set(index, term.node.matches(scanner, present)?);
                is_wanted = true;
            }
            if !is_wanted {
                scanner.skip_value()?;
                continue;
            }
            if let Some(decision) = self.formula.decide(resolved) {
                return Ok(decision);
            }
            scanner.leave(depth)?;
        }
        Ok(self.conclude(resolved, present))
    }

    /// The terms of this name that are still to be resolved.
    fn open_terms<'a>(&'a self, resolved: Resolved, name: &'a str) -> impl Iterator<Item = (usize, &'a Term)> {
        let terms = self.terms.iter().enumerate();
        terms.filter(move |(index, term)| term.is_named(name) && resolved.get(*index as u8).is_none())
    }

    fn matches_nothing(&self, present: Bits) -> bool {
        self.asks_for_absence && self.conclude(Resolved::default(), present)
    }

    /// The answer once the last member is read.
    fn conclude(&self, mut resolved: Resolved, present: Bits) -> bool {
        for (index, term) in self.terms.iter().enumerate() {
            if resolved.get(index as u8).is_none() {
                resolved.set(index, term.node.matches_nothing(present));
            }
        }
        self.formula.decide(resolved).unwrap_or(false)
    }
}

impl Leaf {
    /// Whether it is enough that there is no value, and there is none.
    fn is_missed(&self, present: Bits) -> bool {
        self.absence.is_some_and(|absence| present >> absence & 1 == 0)
    }

    /// Whether the single value that comes next passes, or one of an array's.
    fn any_passes(&self, scanner: &mut Scanner<'_>) -> Result<bool, DecodeError> {
        if scanner.peek()? != b'[' {
            let value = scalar(scanner)?;
            return Ok(value.is_some_and(|value| self.tests.iter().any(|test| test.passes(&value, self.is_number))));
        }
        scanner.open(b'[', "")?;
        let mut first = true;
        while scanner.next_element(&mut first)? {
            if self.any_passes(scanner)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Takes a value: what it is when it is a single one.
fn scalar<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Scalar<'a>>, DecodeError> {
    Ok(Some(match scanner.peek()? {
        b'"' => {
            let text = scanner.string("")?;
            Scalar::Text(scanner.value_of(text)?)
        }
        b'{' | b'[' => {
            scanner.skip_value()?;
            return Ok(None);
        }
        b't' | b'f' => Scalar::Bool(scanner.boolean()?),
        b'n' => {
            scanner.null()?;
            Scalar::Null
        }
        _ => Scalar::Number(scanner.number()?),
    }))
}

/// Notes in `present` which of the values are there, in the value that comes next, whose absence is asked for.
fn note_present(node: &Node, scanner: &mut Scanner<'_>, present: &mut Bits) -> Result<(), DecodeError> {
    match scanner.peek()? {
        b'[' => {
            scanner.open(b'[', "")?;
            let mut first = true;
            while scanner.next_element(&mut first)? {
                note_present(node, scanner, present)?;
            }
            Ok(())
        }
        b'{' => match node {
            Node::Object(object) => note_present_in(object, scanner, present),
            Node::Leaf(_) => scanner.skip_value(),
        },
        _ => {
            if let Node::Leaf(Leaf { absence: Some(absence), .. }) = node {
                *present |= 1 << absence;
            }
            scanner.skip_value()
        }
    }
}

fn note_present_in(object: &Object, scanner: &mut Scanner<'_>, present: &mut Bits) -> Result<(), DecodeError> {
    scanner.open(b'{', "expected an object")?;
    let mut first = true;
    while let Some(name) = scanner.next_member(&mut first)? {
        let name = scanner.value_of(name)?;
        let value = *scanner;
        let mut is_wanted = false;
        for term in object.terms.iter().filter(|term| term.node.asks_for_absence() && term.is_named(&name)) {
            *scanner = value;
            note_present(&term.node, scanner, present)?;
            is_wanted = true;
        }
        if !is_wanted {
            scanner.skip_value()?;
        }
    }
    Ok(())
}
