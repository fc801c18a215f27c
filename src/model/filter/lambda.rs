//! The parts of a pattern that AWS Lambda would treat otherwise than this program does.
//!
//! Sources: Lambda developer guide, "Control which events Lambda sends to your function"; event-ruler's README and its
//! rule compiler. docs/filters.md has the same list for people.

use std::collections::BTreeSet;

use super::decimal;
use super::pattern::{Formula, Leaf, Node, Object, Pattern};
use super::place;
use super::scalar::Test;

/// The most characters of a pattern, and the most patterns of an event source mapping, without a higher quota.
const LAMBDA_PATTERN_CHARS: usize = 4096;
pub(super) const LAMBDA_PATTERNS: usize = 5;
/// The largest number that `numeric` takes there, whatever its sign.
const LAMBDA_LARGEST_NUMBER: &str = "5000000000";

impl Pattern {
    /// A sentence for each part that Lambda would treat otherwise.
    pub(super) fn differences_from_lambda(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let length = self.text.chars().count();
        if length > LAMBDA_PATTERN_CHARS {
            notes.push(format!("it has {length} characters; Lambda takes {LAMBDA_PATTERN_CHARS}"));
        }
        note_object(&self.root, &mut Vec::new(), &mut notes);
        notes
    }
}

fn note_object(object: &Object, path: &mut Vec<String>, notes: &mut Vec<String>) {
    note_overridden(&object.formula, object, path, notes);
    for term in &object.terms {
        let is_attribute = matches!(path.last().map(String::as_str), Some("Keys" | "NewImage" | "OldImage" | "M"));
        path.push(term.name.clone());
        if is_attribute && term.name.contains('.') {
            notes.push(format!(
                "{}: here the dot is part of the attribute's name; Lambda's engine takes it for a step into an object, \
                 too",
                place::show(path)
            ));
        }
        match &term.node {
            Node::Object(object) => note_object(object, path, notes),
            Node::Leaf(leaf) => {
                notes.extend(of_leaf(leaf, &term.name).map(|note| format!("{}: {note}", place::show(path))));
            }
        }
        path.pop();
    }
}

fn of_leaf<'a>(leaf: &'a Leaf, name: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let notes = leaf.tests.iter().flat_map(|test| match test {
        Test::AnythingBut(tests) => tests.as_slice(),
        test => std::slice::from_ref(test),
    });
    let note = move |test: &Test| match test {
        Test::Range(_) if leaf.is_number => {
            Some("numeric compares the number in the string; on Lambda it matches no string, so this condition is dead")
        }
        Test::Range(range) if range.ends().any(|end| decimal::is_beyond(end, LAMBDA_LARGEST_NUMBER)) => {
            Some("Lambda's engine refuses numbers beyond 5.0e9 in numeric")
        }
        Test::Number(_) if name == "ApproximateCreationDateTime" => {
            Some("a number equals by its digits, which the service and Lambda write in different ways; use numeric")
        }
        Test::Number(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some("a number equals by its digits; Lambda's engine also takes equal values for equal")
        }
        _ => None,
    };
    let notes: BTreeSet<&'static str> = notes.filter_map(note).collect();
    notes.into_iter()
}

/// Notes conditions on one member both beside an `$or` and in it: event-ruler's compiler keeps the last of them.
fn note_overridden(formula: &Formula, object: &Object, path: &[String], notes: &mut Vec<String>) {
    let Formula::All(formulas) = formula else {
        if let Formula::Any(formulas) = formula {
            formulas.iter().for_each(|formula| note_overridden(formula, object, path, notes));
        }
        return;
    };
    let mut seen = BTreeSet::new();
    for formula in formulas {
        note_overridden(formula, object, path, notes);
        let leaves = leaves(formula, object, path);
        for leaf in seen.intersection(&leaves) {
            notes.push(format!(
                "{}: here the conditions beside \"$or\" and in it both count; Lambda's engine keeps the last",
                place::show(leaf)
            ));
        }
        seen.extend(leaves);
    }
}

/// The paths of all leaves of a formula.
fn leaves(formula: &Formula, object: &Object, path: &[String]) -> BTreeSet<Vec<String>> {
    match formula {
        Formula::All(formulas) | Formula::Any(formulas) => {
            formulas.iter().flat_map(|formula| leaves(formula, object, path)).collect()
        }
        Formula::Term(index) => {
            let term = &object.terms[usize::from(*index)];
            let path = [path, std::slice::from_ref(&term.name)].concat();
            match &term.node {
                Node::Object(object) => leaves(&object.formula, object, &path),
                Node::Leaf(_) => BTreeSet::from([path]),
            }
        }
    }
}
