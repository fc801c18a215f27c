//! Single values of a record, and the tests that a pattern puts to them.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::decimal;

/// A single value of a record.
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// In the record's own digits.
    Number(&'a str),
    /// With its escapes resolved.
    Text(Cow<'a, str>),
}

/// One test of a leaf; the leaf passes when any of its tests does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Null,
    Bool(bool),
    Text(String),
    /// A number of exactly these digits.
    Number(String),
    Prefix(String),
    Suffix(String),
    Folded(Folded),
    FoldedPrefix(Folded),
    FoldedSuffix(Folded),
    Range(Range),
    AnythingBut(Vec<Test>),
    Exists,
}

impl Test {
    /// Whether `value` passes. `is_number` says that it is a number although its record holds it as a string.
    pub(super) fn passes(&self, value: &Scalar<'_>, is_number: bool) -> bool {
        match (self, value) {
            (Test::Exists, _) | (Test::Null, Scalar::Null) => true,
            (Test::AnythingBut(tests), _) => !tests.iter().any(|test| test.passes(value, is_number)),
            (Test::Bool(wanted), Scalar::Bool(value)) => wanted == value,
            (Test::Number(wanted), Scalar::Number(value)) => wanted == value,
            (Test::Range(range), Scalar::Number(value)) => range.holds(value),
            (Test::Range(range), Scalar::Text(value)) => is_number && range.holds(value),
            (Test::Text(wanted), Scalar::Text(value)) => wanted == value,
            (Test::Prefix(prefix), Scalar::Text(value)) => value.starts_with(prefix.as_str()),
            (Test::Suffix(suffix), Scalar::Text(value)) => value.ends_with(suffix.as_str()),
            (Test::Folded(folded), Scalar::Text(value)) => folded.is(value),
            (Test::FoldedPrefix(folded), Scalar::Text(value)) => folded.begins(value),
            (Test::FoldedSuffix(folded), Scalar::Text(value)) => folded.ends(value),
            _ => false,
        }
    }
}

/// A text in lower case, to be compared with others whatever theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folded(Vec<char>);

impl Folded {
    pub(super) fn new(text: &str) -> Self {
        Self(fold(text).collect())
    }

    /// The folded text.
    pub(super) fn chars(&self) -> impl Iterator<Item = char> + '_ {
        self.0.iter().copied()
    }

    fn is(&self, text: &str) -> bool {
        fold(text).eq(self.0.iter().copied())
    }

    fn begins(&self, text: &str) -> bool {
        let mut letters = fold(text);
        self.0.iter().all(|wanted| letters.next() == Some(*wanted))
    }

    fn ends(&self, text: &str) -> bool {
        let letters: Vec<char> = fold(text).collect();
        letters.ends_with(&self.0)
    }
}

fn fold(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(char::to_lowercase)
}

/// A range of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    low: Option<Bound>,
    high: Option<Bound>,
}

/// An end of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    number: String,
    is_inside: bool,
}

impl Range {
    /// The numbers at its ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = &str> {
        self.low.iter().chain(&self.high).map(|bound| bound.number.as_str())
    }

    /// Narrows the range by `operator` (one of `=`, `<`, `<=`, `>`, `>=`) and a number; what is wrong if it can't be.
    /// As in event-ruler, an upper end follows a lower one, and lies above it.
    pub(super) fn narrow(&mut self, operator: &str, number: &str) -> Result<(), &'static str> {
        let bound = |is_inside| Some(Bound { number: number.to_owned(), is_inside });
        let (low, high) = match operator {
            "=" => (bound(true), bound(true)),
            "<" => (None, bound(false)),
            "<=" => (None, bound(true)),
            ">" => (bound(false), None),
            ">=" => (bound(true), None),
            _ => return Err("no such operator; allowed are \"=\", \"<\", \"<=\", \">\" and \">=\""),
        };
        let is_taken = |old: &Option<Bound>, new: &Option<Bound>| old.is_some() && new.is_some();
        if is_taken(&self.low, &low) || is_taken(&self.high, &high) {
            return Err("a range has one lower and one upper end; \"=\" stands alone");
        }
        if self.high.is_some() {
            return Err("the lower end comes first, such as [\">\",0,\"<=\",20]");
        }
        let is_point = low.is_some() && high.is_some();
        self.low = self.low.take().or(low);
        self.high = self.high.take().or(high);
        match (&self.low, &self.high) {
            (Some(low), Some(high))
                if !is_point && decimal::compare(&low.number, &high.number) != Some(Ordering::Less) =>
            {
                Err("the upper end must be above the lower; \"=\" takes a single number")
            }
            _ => Ok(()),
        }
    }

    fn holds(&self, number: &str) -> bool {
        let is_within = |bound: &Option<Bound>, side: Ordering| match bound {
            None => true,
            Some(bound) => decimal::compare(number, &bound.number)
                .is_some_and(|order| order == side || (order.is_eq() && bound.is_inside)),
        };
        is_within(&self.low, Ordering::Greater) && is_within(&self.high, Ordering::Less)
    }
}
