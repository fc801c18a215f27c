//! Whether a pattern can match any record of a stream at all.
//!
//! Follows a pattern's members with what is known of a record's layout (GetRecords, and AttributeValue, in the DynamoDB
//! Streams API reference) and finds what no record can have: a member outside the layout, an image that the stream does
//! not carry, an attribute without its type, a value that the API never writes there.

use super::error::Error;
use super::pattern::{Formula, Leaf, Node, Object, Pattern};
use super::place::{self, Layout, Place};
use super::presets::Events;
use crate::model::record::{EventName, ViewType};

impl Pattern {
    /// Makes sure that some record of a stream with this view type could match; `None` stands for a view type that is
    /// not known.
    ///
    /// # Errors
    /// Says which of the pattern's members no record can meet, and why.
    pub fn check(&self, view_type: Option<ViewType>) -> Result<(), Error> {
        self.check_for(&Layout { view_type, keys: Vec::new() }, Events::ALL)
    }

    /// As [`Pattern::check`], when only these kinds of changes pass otherwise.
    pub(super) fn check_for(&self, layout: &Layout, events: Events) -> Result<(), Error> {
        if self.root.formula.decide(self.known) == Some(false) {
            return Err(self.never(&[], "it names the eventSourceARN of another stream".into()));
        }
        let outcome_for = |event| {
            let mut checker = Checker { layout, event, path: Vec::new() };
            checker.object(&self.root, Place::Record)
        };
        outcome_for(None).map_err(|(path, what)| self.never(&path, what))?;
        if events.names().into_iter().any(|event| outcome_for(Some(event)).is_ok()) {
            return Ok(());
        }
        let what = format!(
            "no record of an event that passes ({events}) meets all of it: an INSERT has no OldImage, a REMOVE no \
             NewImage, and only a REMOVE has a userIdentity"
        );
        Err(self.never(&[], what))
    }

    fn never(&self, path: &[String], what: String) -> Error {
        Error::CannotWork { filter: self.text.clone(), path: place::show(path), what }
    }
}

/// The path to what is wrong, and what is wrong there.
type Never = (Vec<String>, String);

struct Checker<'a> {
    layout: &'a Layout,
    /// The kind of change whose records are considered; none: any.
    event: Option<EventName>,
    path: Vec<String>,
}

impl Checker<'_> {
    fn never<T>(&self, what: impl Into<String>) -> Result<T, Never> {
        Err((self.path.clone(), what.into()))
    }

    fn object(&mut self, object: &Object, place: Place) -> Result<(), Never> {
        if !place.is_object() {
            return self.only_if_missing(object, "records have a single value here, not an object: write an array");
        }
        self.formula(&object.formula, object, place)
    }

    fn formula(&mut self, formula: &Formula, object: &Object, place: Place) -> Result<(), Never> {
        match formula {
            Formula::All(formulas) => formulas.iter().try_for_each(|formula| self.formula(formula, object, place)),
            Formula::Any(formulas) => {
                let mut outcomes = formulas.iter().map(|formula| self.formula(formula, object, place));
                let first = outcomes.next().unwrap_or(Ok(()));
                first.or_else(|never| if outcomes.any(|outcome| outcome.is_ok()) { Ok(()) } else { Err(never) })
            }
            Formula::Term(index) => {
                let term = &object.terms[usize::from(*index)];
                self.path.push(term.name.clone());
                let outcome = self.term(&term.name, &term.node, place);
                self.path.pop();
                outcome
            }
        }
    }

    fn term(&mut self, name: &str, node: &Node, place: Place) -> Result<(), Never> {
        let inner = match place.inside(name, self.layout, self.event) {
            Ok(inner) => inner,
            Err(what) => match node {
                Node::Object(object) => return self.only_if_missing(object, &what),
                Node::Leaf(leaf) if leaf.absence.is_some() && !place.is_value() => return Ok(()),
                Node::Leaf(_) => return self.never(what),
            },
        };
        match node {
            Node::Object(object) => self.object(object, inner),
            Node::Leaf(leaf) => self.leaf(leaf, inner, place.always_has(name)),
        }
    }

    /// An object whose place no record has matches when all that it asks for is absence.
    fn only_if_missing(&self, object: &Object, what: &str) -> Result<(), Never> {
        if matches_if_missing(object) { Ok(()) } else { self.never(what) }
    }

    fn leaf(&self, leaf: &Leaf, place: Place, is_always_there: bool) -> Result<(), Never> {
        if place.is_value() {
            return self.never(
                "records have an object here, by the value's type: write {\"S\":[…]}, {\"N\":[…]} or the like (exists, \
                 too, looks at single values only)",
            );
        }
        if place.is_object() {
            return self
                .never("records have an object here: name its fields (exists, too, looks at single values only)");
        }
        let is_missing_possible = leaf.absence.is_some() && !is_always_there;
        if is_missing_possible || leaf.tests.iter().any(|test| place.may_pass(test)) {
            return Ok(());
        }
        match leaf.tests.is_empty() {
            true => self.never("each record has this member, so none meets exists false"),
            false => self.never(place.hint()),
        }
    }
}

fn matches_if_missing(object: &Object) -> bool {
    fn holds(formula: &Formula, object: &Object) -> bool {
        match formula {
            Formula::All(formulas) => formulas.iter().all(|formula| holds(formula, object)),
            Formula::Any(formulas) => formulas.iter().any(|formula| holds(formula, object)),
            Formula::Term(index) => match &object.terms[usize::from(*index)].node {
                Node::Object(object) => matches_if_missing(object),
                Node::Leaf(leaf) => leaf.absence.is_some(),
            },
        }
    }
    holds(&object.formula, object)
}
