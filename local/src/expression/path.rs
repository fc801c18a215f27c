//! Resolved document paths: `Pictures[1].Front`.

use std::fmt;

use super::{ExpressionError, ExpressionKind};
use crate::value::{AttributeValue, Item};

/// A step of a document path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into a map, or from the item itself, by attribute name.
    Attribute(String),
    /// Into a list, by position.
    Index(usize),
}

/// A document path: an attribute of the item and steps into it. Paths into one list order by their positions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    /// The name of the item's attribute.
    pub(super) attribute: String,
    /// The steps from there.
    pub(super) steps: Vec<Step>,
}

impl Path {
    /// The value at this path of the item.
    pub(super) fn find<'i>(&self, item: &'i Item) -> Option<&'i AttributeValue> {
        self.steps.iter().try_fold(item.get(&self.attribute)?, step_into)
    }

    /// Whether one path leads to or through the other's place, or takes a map for a list.
    fn relation(&self, other: &Self) -> Relation {
        if self.attribute != other.attribute {
            return Relation::Apart;
        }
        for (left, right) in self.steps.iter().zip(&other.steps) {
            match (left, right) {
                (Step::Attribute(_), Step::Index(_)) | (Step::Index(_), Step::Attribute(_)) => {
                    return Relation::Conflict;
                }
                (left, right) if left != right => return Relation::Apart,
                _ => {}
            }
        }
        Relation::Overlap
    }
}

impl fmt::Display for Path {
    /// As the service's messages show a path: `[a, [1], b]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.attribute)?;
        for step in &self.steps {
            match step {
                Step::Attribute(name) => write!(f, ", {name}")?,
                Step::Index(index) => write!(f, ", [{index}]")?,
            }
        }
        f.write_str("]")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Apart,
    Overlap,
    Conflict,
}

fn step_into<'i>(value: &'i AttributeValue, step: &Step) -> Option<&'i AttributeValue> {
    match (value, step) {
        (AttributeValue::M(map), Step::Attribute(name)) => map.get(name),
        (AttributeValue::L(list), Step::Index(index)) => list.get(*index),
        _ => None,
    }
}

/// Refuses paths of which one contains another, or which cannot both be in one item.
pub(super) fn check_apart(kind: ExpressionKind, paths: &[&Path]) -> Result<(), ExpressionError> {
    for (relation, verb) in [(Relation::Overlap, "overlap"), (Relation::Conflict, "conflict")] {
        for (index, second) in paths.iter().enumerate() {
            let clash = paths[..index].iter().find(|first| first.relation(second) == relation);
            if let Some(first) = clash {
                return Err(kind.invalid(format_args!(
                    "Two document paths {verb} with each other; \
                     must remove or rewrite one of these paths; path one: {first}, path two: {second}"
                )));
            }
        }
    }
    Ok(())
}

/// The part of an item that these paths, which don't overlap, lead to: maps with only the members named, lists with
/// only the elements named, closed up in their order.
pub(super) fn project<'p>(paths: impl Iterator<Item = &'p Path>, item: &Item) -> Item {
    let mut picked = Picked::default();
    for path in paths {
        if let Some(value) = path.find(item) {
            let steps = std::iter::once(Step::Attribute(path.attribute.clone()));
            picked.insert(steps.chain(path.steps.iter().cloned()), value);
        }
    }
    match picked.into_value() {
        Some(AttributeValue::M(projected)) => projected,
        _ => Item::new(),
    }
}

/// A tree of what was picked out of an item.
#[derive(Default)]
struct Picked<'i> {
    /// The value, at the end of a path.
    value: Option<&'i AttributeValue>,
    /// The picked parts of a map or list.
    inside: std::collections::BTreeMap<Step, Picked<'i>>,
}

impl<'i> Picked<'i> {
    fn insert(&mut self, steps: impl Iterator<Item = Step>, value: &'i AttributeValue) {
        let place = steps.fold(self, |place, step| place.inside.entry(step).or_default());
        place.value = Some(value);
    }

    fn into_value(self) -> Option<AttributeValue> {
        if let Some(value) = self.value {
            return Some(value.clone());
        }
        let in_list = matches!(self.inside.first_key_value()?.0, Step::Index(_));
        let inside = self.inside.into_iter().filter_map(|(step, picked)| Some((step, picked.into_value()?)));
        if in_list {
            return Some(AttributeValue::L(inside.map(|(_, value)| value).collect()));
        }
        let members = inside.filter_map(|(step, value)| match step {
            Step::Attribute(name) => Some((name, value)),
            Step::Index(_) => None,
        });
        Some(AttributeValue::M(members.collect()))
    }
}
