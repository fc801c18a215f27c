//! Patterns: a filter's text, parsed.
//!
//! A pattern is a tree of the members that it names, with tests at its leaves. The members of one object are its terms;
//! a formula of ALL and ANY over them says which of them have to hold, so that each object of a record is gone over once
//! whatever `$or` says about its members.

use super::error::Error;
use super::place;
use super::scalar::{Folded, Range, Test};
use crate::model::record::DecodeError;
use crate::model::record::scan::Scanner;

/// The longest text of a pattern, in bytes. Lambda's limit is 4096 characters.
pub(super) const MAX_PATTERN_BYTES: usize = 16 << 10;
/// The most members that a pattern names, all objects and `$or` alternatives together: each is a bit of a set of fixed size.
pub(super) const MAX_FIELDS: usize = 128;

/// A set of terms of one object, or of conditions of a whole pattern, by number.
pub(super) type Bits = u128;

/// A condition on records, in the syntax of AWS Lambda's event filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) text: String,
    pub(super) root: Object,
    /// The root's terms that are resolved before any record is read.
    pub(super) known: Resolved,
    /// The members that no record holds and some `exists: false` asks for.
    pub(super) present: Bits,
}

/// The members of one object that a pattern names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) terms: Vec<Term>,
    pub(super) formula: Formula,
    /// Whether `exists: false` stands somewhere inside.
    pub(super) asks_for_absence: bool,
}

/// One member and what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) name: String,
    /// A second name of the same member.
    pub(super) other_name: Option<&'static str>,
    pub(super) node: Node,
}

impl Term {
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.other_name.is_some_and(|other| other == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Object(Object),
    Leaf(Leaf),
}

impl Node {
    pub(super) fn asks_for_absence(&self) -> bool {
        match self {
            Node::Object(object) => object.asks_for_absence,
            Node::Leaf(leaf) => leaf.absence.is_some(),
        }
    }
}

/// The tests of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) tests: Vec<Test>,
    /// The number, in the pattern, of the condition that there is no such member (`exists: false`), if it is one of
    /// those that suffice.
    pub(super) absence: Option<u8>,
    /// Whether strings here are numbers: the member is called `N` or `NS`.
    pub(super) is_number: bool,
}

/// The formula over an object's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Formula {
    Term(u8),
    All(Vec<Formula>),
    Any(Vec<Formula>),
}

impl Formula {
    /// Whether it holds, as far as the terms in `resolved` say.
    pub(super) fn decide(&self, resolved: Resolved) -> Option<bool> {
        let (formulas, deciding) = match self {
            Formula::Term(term) => return resolved.get(*term),
            Formula::All(formulas) => (formulas, false),
            Formula::Any(formulas) => (formulas, true),
        };
        let mut outcome = Some(!deciding);
        for formula in formulas {
            match formula.decide(resolved) {
                Some(decision) if decision == deciding => return Some(deciding),
                Some(_) => {}
                None => outcome = None,
            }
        }
        outcome
    }
}

/// Terms of an object that are known to hold, or not to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    holds: Bits,
    fails: Bits,
}

impl Resolved {
    pub(super) fn set(&mut self, term: usize, holds: bool) {
        let bits = if holds { &mut self.holds } else { &mut self.fails };
        *bits |= 1 << term;
    }

    pub(super) fn get(self, term: u8) -> Option<bool> {
        match (self.holds >> term & 1, self.fails >> term & 1) {
            (0, 0) => None,
            (holds, _) => Some(holds == 1),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl Pattern {
    /// Reads a pattern such as `{"eventName":["INSERT"],"dynamodb":{"NewImage":{"status":{"S":["paid"]}}}}`.
    ///
    /// # Errors
    /// When the text is not JSON, longer than 16 KiB, names more than 128 members, or is not a
    /// pattern; the error says where and what is allowed there.
    pub fn parse(text: &str) -> Result<Pattern, Error> {
        let mut parser =
            Parser { scanner: Scanner::new(text, 0), path: Vec::new(), fields: 0, absences: 0, or_depth: 0 };
        if text.len() > MAX_PATTERN_BYTES {
            return Err(parser.error(format!("the pattern has {} bytes; at most {MAX_PATTERN_BYTES}", text.len())));
        }
        if parser.peek()? != b'{' {
            return Err(parser.error("a pattern is an object of fields, such as {\"eventName\":[\"INSERT\"]}"));
        }
        let root = parser.object()?;
        parser.scanner.finish().map_err(|error| parser.json(error))?;
        Ok(Pattern { text: text.to_owned(), root, known: Resolved::default(), present: 0 })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

const FIELD: &str = "a field takes an array of what its value may be, such as [\"a\",\"b\"], or an object of fields";
const CHOICE: &str = "allowed are strings, numbers, true, false, null, and objects of one operator: anything-but, \
                      equals-ignore-case, exists, numeric, prefix or suffix";
const OPERAND: &str = "wants a string, or {\"equals-ignore-case\": a string}";
const NUMERIC: &str = "\"numeric\" wants an array such as [\"=\",100] or [\">\",0,\"<=\",20]";
const EXCEPTIONS: &str = "\"anything-but\" wants a string, a number, an array of strings or of numbers, or an object of \
                          one of equals-ignore-case, prefix and suffix with a string or an array of strings";
/// Names that event-ruler keeps for itself in an `$or` (its Constants.java).
const RESERVED_IN_OR: &[&str] = &[
    "exactly",
    "equals-ignore-case",
    "prefix",
    "suffix",
    "anything-but",
    "exists",
    "wildcard",
    "numeric",
    "cidr",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// Reads a pattern's text, and knows where it is for the sake of errors.
struct Parser<'a> {
    scanner: Scanner<'a>,
    path: Vec<String>,
    fields: usize,
    absences: u8,
    /// The number of `$or` around the place.
    or_depth: usize,
}

impl Parser<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: place::show(&self.path), what: what.into() }
    }

    fn json(&self, error: DecodeError) -> Error {
        self.error(format!("not JSON: {error}"))
    }

    fn peek(&mut self) -> Result<u8, Error> {
        self.scanner.peek().map_err(|error| self.json(error))
    }

    fn open(&mut self, bracket: u8, otherwise: &str) -> Result<(), Error> {
        if self.peek()? != bracket {
            return Err(self.error(otherwise));
        }
        self.scanner.open(bracket, "").map_err(|error| self.json(error))
    }

    fn next_element(&mut self, first: &mut bool) -> Result<bool, Error> {
        self.scanner.next_element(first).map_err(|error| self.json(error))
    }

    fn next_member(&mut self, first: &mut bool) -> Result<Option<String>, Error> {
        let name = self.scanner.next_member(first).and_then(|name| match name {
            Some(name) => self.scanner.value_of(name).map(|name| Some(name.into_owned())),
            None => Ok(None),
        });
        name.map_err(|error| self.json(error))
    }

    fn string(&mut self, otherwise: &str) -> Result<String, Error> {
        if self.peek()? != b'"' {
            return Err(self.error(otherwise));
        }
        let text = self.scanner.string("").and_then(|text| self.scanner.value_of(text));
        text.map(|text| text.into_owned()).map_err(|error| self.json(error))
    }

    fn number(&mut self, otherwise: &str) -> Result<String, Error> {
        if !matches!(self.peek()?, b'-' | b'0'..=b'9') {
            return Err(self.error(otherwise));
        }
        self.scanner.number().map(str::to_owned).map_err(|error| self.json(error))
    }

    fn object(&mut self) -> Result<Object, Error> {
        let mut terms = Vec::new();
        let formula = self.fields_of(&mut terms)?;
        let asks_for_absence = terms.iter().any(|term: &Term| term.node.asks_for_absence());
        Ok(Object { terms, formula, asks_for_absence })
    }

    /// Takes an object of fields; all of them have to hold.
    fn fields_of(&mut self, terms: &mut Vec<Term>) -> Result<Formula, Error> {
        self.open(b'{', FIELD)?;
        let mut formulas = Vec::new();
        let mut names = Vec::new();
        let mut first = true;
        while let Some(name) = self.next_member(&mut first)? {
            self.path.push(name.clone());
            if names.contains(&name) {
                return Err(self.error("stands twice; give all its values in one array"));
            }
            names.push(name.clone());
            if self.or_depth > 0 && RESERVED_IN_OR.contains(&name.as_str()) {
                return Err(
                    self.error("is an operator's name, which cannot name a field in \"$or\": write several filters")
                );
            }
            let is_or = name == "$or" && self.peek()? == b'[';
            let formula = if is_or { self.alternatives(terms)? } else { self.field(name, terms)? };
            formulas.push(formula);
            self.path.pop();
        }
        match formulas.len() {
            0 => Err(self.error("an object without fields says nothing; leave it out, or name a field")),
            1 => Ok(formulas.remove(0)),
            _ => Ok(Formula::All(formulas)),
        }
    }

    /// Takes the array of `$or`; one of its objects has to hold.
    fn alternatives(&mut self, terms: &mut Vec<Term>) -> Result<Formula, Error> {
        const ALTERNATIVE: &str = "\"$or\" takes an array of two or more objects of fields";
        self.open(b'[', ALTERNATIVE)?;
        let mut formulas = Vec::new();
        let mut first = true;
        while self.next_element(&mut first)? {
            if self.peek()? != b'{' {
                return Err(self.error(ALTERNATIVE));
            }
            self.or_depth += 1;
            formulas.push(self.fields_of(terms)?);
            self.or_depth -= 1;
        }
        if formulas.len() < 2 {
            return Err(self.error(ALTERNATIVE));
        }
        Ok(Formula::Any(formulas))
    }

    fn field(&mut self, name: String, terms: &mut Vec<Term>) -> Result<Formula, Error> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(self.error(format!("the pattern names more than {MAX_FIELDS} fields")));
        }
        let node = match self.peek()? {
            b'{' => Node::Object(self.object()?),
            b'[' => Node::Leaf(self.leaf(&name)?),
            _ => return Err(self.error(FIELD)),
        };
        let other_name = self.other_name();
        terms.push(Term { name, other_name, node });
        let term = u8::try_from(terms.len() - 1).map_err(|_| self.error("too many fields"))?;
        Ok(Formula::Term(term))
    }

    /// The second name of the member at the present path. The streams' API writes `PrincipalId` and `Type`; Lambda's
    /// events, and so the patterns written for them, `principalId` and `type`.
    fn other_name(&self) -> Option<&'static str> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).filter(|name| *name != "$or").collect();
        match path[..] {
            ["userIdentity", "type"] => Some("Type"),
            ["userIdentity", "Type"] => Some("type"),
            ["userIdentity", "principalId"] => Some("PrincipalId"),
            ["userIdentity", "PrincipalId"] => Some("principalId"),
            _ => None,
        }
    }

    fn leaf(&mut self, name: &str) -> Result<Leaf, Error> {
        self.open(b'[', FIELD)?;
        let mut leaf = Leaf { tests: Vec::new(), absence: None, is_number: matches!(name, "N" | "NS") };
        let mut first = true;
        while self.next_element(&mut first)? {
            match self.choice()? {
                Choice::Test(test) => leaf.tests.push(test),
                Choice::Absent if leaf.absence.is_none() => {
                    leaf.absence = Some(self.absences);
                    self.absences += 1;
                }
                Choice::Absent => {}
            }
        }
        if leaf.tests.is_empty() && leaf.absence.is_none() {
            return Err(self.error(format!("an empty array matches nothing; {CHOICE}")));
        }
        Ok(leaf)
    }

    /// Takes one of the values that a field may have.
    fn choice(&mut self) -> Result<Choice, Error> {
        let test = match self.peek()? {
            b'"' => Test::Text(self.string(CHOICE)?),
            b'-' | b'0'..=b'9' => Test::Number(self.number(CHOICE)?),
            b'n' => self.scanner.null().map(|_| Test::Null).map_err(|error| self.json(error))?,
            b't' | b'f' => self.scanner.boolean().map(Test::Bool).map_err(|error| self.json(error))?,
            b'{' => return self.operator(),
            _ => return Err(self.error(CHOICE)),
        };
        Ok(Choice::Test(test))
    }

    fn operator(&mut self) -> Result<Choice, Error> {
        let (name, mut first) = self.open_operator(CHOICE)?;
        let choice = match name.as_str() {
            "exists" => match self.scanner.boolean() {
                Ok(true) => Choice::Test(Test::Exists),
                Ok(false) => Choice::Absent,
                Err(_) => return Err(self.error("\"exists\" wants true or false")),
            },
            "prefix" => Choice::Test(self.text_operand("prefix", Test::Prefix, Test::FoldedPrefix)?),
            "suffix" => Choice::Test(self.text_operand("suffix", Test::Suffix, Test::FoldedSuffix)?),
            "equals-ignore-case" => {
                let text = self.string("\"equals-ignore-case\" wants a string")?;
                Choice::Test(Test::Folded(Folded::new(&text)))
            }
            "numeric" => Choice::Test(Test::Range(self.range()?)),
            "anything-but" => Choice::Test(Test::AnythingBut(self.exceptions()?)),
            _ => return Err(self.error(format!("unknown operator {name:?}; {CHOICE}"))),
        };
        self.close_operator(&mut first)?;
        Ok(choice)
    }

    /// Takes the beginning of an object up to its first member's value.
    fn open_operator(&mut self, otherwise: &str) -> Result<(String, bool), Error> {
        self.open(b'{', otherwise)?;
        let mut first = true;
        match self.next_member(&mut first)? {
            Some(name) => Ok((name, first)),
            None => Err(self.error(otherwise)),
        }
    }

    fn close_operator(&mut self, first: &mut bool) -> Result<(), Error> {
        match self.next_member(first)? {
            None => Ok(()),
            Some(name) => {
                let what = "an object holds one operator; write several objects, one of which has to match";
                Err(self.error(format!("{name:?} is a second operator: {what}")))
            }
        }
    }

    /// Takes a string, or `{"equals-ignore-case": "…"}`.
    fn text_operand(
        &mut self,
        operator: &str,
        plain: fn(String) -> Test,
        folded: fn(Folded) -> Test,
    ) -> Result<Test, Error> {
        let wrong = format!("\"{operator}\" {OPERAND}");
        if self.peek()? == b'"' {
            return Ok(plain(self.string(&wrong)?));
        }
        let (name, mut first) = self.open_operator(&wrong)?;
        if name != "equals-ignore-case" {
            return Err(self.error(wrong));
        }
        let text = self.string(&wrong)?;
        self.close_operator(&mut first)?;
        Ok(folded(Folded::new(&text)))
    }

    fn range(&mut self) -> Result<Range, Error> {
        self.open(b'[', NUMERIC)?;
        let mut range = Range::default();
        let (mut first, mut is_empty) = (true, true);
        while self.next_element(&mut first)? {
            let operator = self.string(NUMERIC)?;
            if !self.next_element(&mut first)? {
                return Err(self.error(NUMERIC));
            }
            let number = self.number(NUMERIC)?;
            range.narrow(&operator, &number).map_err(|what| self.error(format!("\"numeric\": {what}")))?;
            is_empty = false;
        }
        if is_empty { Err(self.error(NUMERIC)) } else { Ok(range) }
    }

    fn exceptions(&mut self) -> Result<Vec<Test>, Error> {
        if self.peek()? != b'{' {
            let tests = self.one_or_more(|parser| match parser.peek()? {
                b'"' => parser.string(EXCEPTIONS).map(Test::Text),
                _ => parser.number(EXCEPTIONS).map(Test::Number),
            })?;
            let numbers = tests.iter().filter(|test| matches!(test, Test::Number(_))).count();
            return if numbers == 0 || numbers == tests.len() { Ok(tests) } else { Err(self.error(EXCEPTIONS)) };
        }
        let (name, mut first) = self.open_operator(EXCEPTIONS)?;
        let make: fn(String) -> Test = match name.as_str() {
            "prefix" => Test::Prefix,
            "suffix" => Test::Suffix,
            "equals-ignore-case" => |text| Test::Folded(Folded::new(&text)),
            _ => return Err(self.error(EXCEPTIONS)),
        };
        let tests = self.one_or_more(|parser| parser.string(EXCEPTIONS).map(make))?;
        if tests.iter().any(|test| matches!(test, Test::Prefix(part) | Test::Suffix(part) if part.is_empty())) {
            return Err(
                self.error("each string begins and ends with \"\", so nothing is left: name a prefix or suffix")
            );
        }
        self.close_operator(&mut first)?;
        Ok(tests)
    }

    /// Takes what `take` takes, or an array of it that is not empty.
    fn one_or_more(&mut self, take: impl Fn(&mut Self) -> Result<Test, Error>) -> Result<Vec<Test>, Error> {
        if self.peek()? != b'[' {
            return Ok(vec![take(self)?]);
        }
        self.open(b'[', EXCEPTIONS)?;
        let mut tests = Vec::new();
        let mut first = true;
        while self.next_element(&mut first)? {
            tests.push(take(self)?);
        }
        if tests.is_empty() { Err(self.error(EXCEPTIONS)) } else { Ok(tests) }
    }
}

/// One of the values that a field may have.
enum Choice {
    Test(Test),
    /// No value at all.
    Absent,
}
