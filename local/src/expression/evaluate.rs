//! Whether a checked condition holds for an item.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::condition::{Operand, Test};
use super::condition_syntax::Comparator;
use crate::number::Number;
use crate::value::{AttributeValue, Item};

/// An operand's value, made for the occasion or the item's own.
type Found<'a> = Option<Cow<'a, AttributeValue>>;

impl Test {
    /// Whether it holds. An operand that the item does not have makes everything false, except `<>`.
    pub(super) fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Any(tests) => tests.iter().any(|test| test.holds(item)),
            Self::All(tests) => tests.iter().all(|test| test.holds(item)),
            Self::Not(test) => !test.holds(item),
            Self::Compare(left, comparator, right) => compare(left.value(item), *comparator, right.value(item)),
            Self::Between(bounds) => {
                let [value, low, high] = &**bounds;
                compare(value.value(item), Comparator::GreaterOrEqual, low.value(item))
                    && compare(value.value(item), Comparator::LessOrEqual, high.value(item))
            }
            Self::In(operand, candidates) => candidates
                .iter()
                .any(|candidate| compare(operand.value(item), Comparator::Equal, candidate.value(item))),
            Self::Exists(path) => path.find(item).is_some(),
            Self::NotExists(path) => path.find(item).is_none(),
            Self::HasType(operand, name) => operand.value(item).is_some_and(|value| value.type_name() == name),
            Self::BeginsWith(operand, prefix) => match (operand.value(item), prefix.value(item)) {
                (Some(value), Some(prefix)) => begins_with(&value, &prefix),
                _ => false,
            },
            Self::Contains(operand, element) => match (operand.value(item), element.value(item)) {
                (Some(value), Some(element)) => contains(&value, &element),
                _ => false,
            },
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Item) -> Found<'a> {
        match self {
            Self::Value(value) => Some(Cow::Borrowed(value)),
            Self::Path(path) => path.find(item).map(Cow::Borrowed),
            Self::Size(operand) => {
                let size = size(&*operand.value(item)?)?;
                Some(Cow::Owned(AttributeValue::N(Number::from(size))))
            }
        }
    }
}

/// The order of two values: strings, numbers and binaries have one, among their like.
pub(super) fn order(left: &AttributeValue, right: &AttributeValue) -> Option<Ordering> {
    match (left, right) {
        (AttributeValue::S(left), AttributeValue::S(right)) => Some(left.cmp(right)),
        (AttributeValue::N(left), AttributeValue::N(right)) => Some(left.cmp(right)),
        (AttributeValue::B(left), AttributeValue::B(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// Whether the comparison of two present values holds.
pub(super) fn satisfies(left: &AttributeValue, comparator: Comparator, right: &AttributeValue) -> bool {
    let ordered = |wanted: fn(Ordering) -> bool| order(left, right).is_some_and(wanted);
    match comparator {
        Comparator::Equal => left == right,
        Comparator::NotEqual => left != right,
        Comparator::Less => ordered(Ordering::is_lt),
        Comparator::LessOrEqual => ordered(Ordering::is_le),
        Comparator::Greater => ordered(Ordering::is_gt),
        Comparator::GreaterOrEqual => ordered(Ordering::is_ge),
    }
}

/// Whether a string or binary begins with one of its type.
pub(super) fn begins_with(value: &AttributeValue, prefix: &AttributeValue) -> bool {
    match (value, prefix) {
        (AttributeValue::S(text), AttributeValue::S(prefix)) => text.starts_with(prefix),
        (AttributeValue::B(bytes), AttributeValue::B(prefix)) => bytes.starts_with(prefix),
        _ => false,
    }
}

fn compare(left: Found<'_>, comparator: Comparator, right: Found<'_>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => satisfies(&left, comparator, &right),
        _ => comparator == Comparator::NotEqual,
    }
}

/// Whether a string or binary has the other within it, or a list or set has it as an element.
fn contains(value: &AttributeValue, element: &AttributeValue) -> bool {
    match (value, element) {
        (AttributeValue::S(text), AttributeValue::S(part)) => text.contains(part),
        (AttributeValue::B(bytes), AttributeValue::B(part)) => {
            part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
        }
        (AttributeValue::Ss(set), AttributeValue::S(text)) => set.contains(text),
        (AttributeValue::Ns(set), AttributeValue::N(number)) => set.contains(number),
        (AttributeValue::Bs(set), AttributeValue::B(bytes)) => set.contains(bytes),
        (AttributeValue::L(list), element) => list.contains(element),
        _ => false,
    }
}

/// The length of a string in UTF-16 units, of a binary in bytes, of a collection in elements.
fn size(value: &AttributeValue) -> Option<u64> {
    let size = match value {
        AttributeValue::S(text) => text.encode_utf16().count(),
        AttributeValue::B(bytes) => bytes.len(),
        AttributeValue::L(list) => list.len(),
        AttributeValue::M(map) => map.len(),
        AttributeValue::Ss(set) => set.len(),
        AttributeValue::Ns(set) => set.len(),
        AttributeValue::Bs(set) => set.len(),
        AttributeValue::N(_) | AttributeValue::Bool(_) | AttributeValue::Null => return None,
    };
    u64::try_from(size).ok()
}
