//! Whether a pattern can match any record of a stream at all.
//!
//! Follows a pattern's members with what is known of a record's layout (GetRecords, and AttributeValue, in the DynamoDB
//! Streams API reference) and finds what no record can have: an image that the stream does not carry, an attribute
//! without its type, a number where the API has strings.

use super::error::Error;
use super::pattern::{Formula, Leaf, Node, Object, Pattern};
use super::scalar::Test;
use crate::model::record::ViewType;

impl Pattern {
    /// Makes sure that some record of a stream with this view type could match; `None` stands for a view type that is
    /// not known.
    ///
    /// # Errors
    /// Says which of the pattern's members no record can meet, and why.
    pub fn check(&self, view_type: Option<ViewType>) -> Result<(), Error> {
        if self.root.formula.decide(self.known) == Some(false) {
            return Err(self.never(Vec::new(), "it names the eventSourceARN of another stream".into()));
        }
        let mut checker = Checker { view_type, path: Vec::new() };
        checker.object(&self.root, Place::Record).map_err(|(path, what)| self.never(path, what))
    }

    fn never(&self, path: Vec<String>, what: String) -> Error {
        Error::CannotWork { filter: self.text.clone(), path: path.join("."), what }
    }
}

/// The knowledge of a value that the layout of records gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Record,
    StreamRecord,
    Identity,
    /// Attributes by name.
    Item,
    /// An attribute value: an object by its type.
    Value,
    Text,
    Number,
    /// A string of digits, or an array of such.
    DigitText,
    Bool,
    /// Nothing is known.
    Free,
}

impl Place {
    fn is_object(self) -> bool {
        matches!(self, Place::Record | Place::StreamRecord | Place::Identity | Place::Item | Place::Value)
    }
}

/// The path to what is wrong, and what is wrong there.
type Never = (Vec<String>, String);

struct Checker {
    view_type: Option<ViewType>,
    path: Vec<String>,
}

impl Checker {
    fn never<T>(&self, what: impl Into<String>) -> Result<T, Never> {
        Err((self.path.clone(), what.into()))
    }

    fn object(&mut self, object: &Object, place: Place) -> Result<(), Never> {
        if !place.is_object() && place != Place::Free {
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
        let inner = match self.inside(name, place) {
            Ok(inner) => inner,
            Err(what) => match node {
                Node::Object(object) => return self.only_if_missing(object, &what),
                Node::Leaf(leaf) if leaf.absence.is_some() && place == Place::StreamRecord => return Ok(()),
                Node::Leaf(_) => return self.never(what),
            },
        };
        match node {
            Node::Object(object) => self.object(object, inner),
            Node::Leaf(leaf) => self.leaf(leaf, inner),
        }
    }

    /// An object whose place no record has matches when all that it asks for is absence.
    fn only_if_missing(&self, object: &Object, what: &str) -> Result<(), Never> {
        if matches_if_missing(object) { Ok(()) } else { self.never(what) }
    }

    /// The layout of the member `name`, or the reason why there is none.
    fn inside(&self, name: &str, place: Place) -> Result<Place, String> {
        Ok(match (place, name) {
            (Place::Record, "dynamodb") => Place::StreamRecord,
            (Place::Record, "userIdentity") => Place::Identity,
            (
                Place::Record,
                "eventID" | "eventName" | "eventVersion" | "eventSource" | "awsRegion" | "eventSourceARN",
            ) => Place::Text,
            (Place::StreamRecord, "NewImage") => self.image(ViewType::has_new_image)?,
            (Place::StreamRecord, "OldImage") => self.image(ViewType::has_old_image)?,
            (Place::StreamRecord, "Keys") | (Place::Value, "M") => Place::Item,
            (Place::StreamRecord, "SequenceNumber" | "StreamViewType") => Place::Text,
            (Place::StreamRecord, "SizeBytes" | "ApproximateCreationDateTime") => Place::Number,
            (Place::Identity, _) => Place::Text,
            (Place::Item, _) | (Place::Value, "L") => Place::Value,
            (Place::Value, "S" | "B" | "SS" | "BS") => Place::Text,
            (Place::Value, "N" | "NS") => Place::DigitText,
            (Place::Value, "BOOL" | "NULL") => Place::Bool,
            (Place::Value, _) => {
                let types = "S, N, B, BOOL, NULL, M, L, SS, NS or BS";
                return Err(format!("{name:?} is no type of an attribute value; write {types}"));
            }
            _ => Place::Free,
        })
    }

    fn image(&self, is_included: fn(ViewType) -> bool) -> Result<Place, String> {
        match self.view_type {
            Some(view_type) if !is_included(view_type) => {
                Err(format!("the stream's view type is {}: its records have no such image", view_type.as_str()))
            }
            _ => Ok(Place::Item),
        }
    }

    fn leaf(&self, leaf: &Leaf, place: Place) -> Result<(), Never> {
        if place == Place::Value {
            return self.never(
                "records have an object here, by the value's type: write {\"S\":[…]}, {\"N\":[…]} or the like (exists, \
                 too, looks at single values only)",
            );
        }
        if place.is_object() {
            return self
                .never("records have an object here: name its fields (exists, too, looks at single values only)");
        }
        if leaf.absence.is_some() || leaf.tests.iter().any(|test| is_possible(test, place)) {
            return Ok(());
        }
        self.never(match place {
            Place::DigitText => "a number is a string in records: write [\"100\"], or [{\"numeric\":[\"=\",100]}]",
            Place::Text => "records have strings here, which these values never equal",
            Place::Number => "records have numbers here, which these values never equal",
            _ => "records have true or false here: write [true] or [false]",
        })
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

fn is_possible(test: &Test, place: Place) -> bool {
    let is_text = matches!(place, Place::Text | Place::DigitText);
    match test {
        _ if place == Place::Free => true,
        Test::Exists => true,
        // An excluded value must be a possible one, or nothing is excluded.
        Test::AnythingBut(tests) => tests.iter().any(|test| is_possible(test, place)),
        Test::Null => false,
        Test::Bool(_) => place == Place::Bool,
        Test::Number(_) => place == Place::Number,
        Test::Range(_) => matches!(place, Place::Number | Place::DigitText),
        Test::Text(_)
        | Test::Prefix(_)
        | Test::Suffix(_)
        | Test::Folded(_)
        | Test::FoldedPrefix(_)
        | Test::FoldedSuffix(_) => is_text,
    }
}
