//! KeyConditionExpression: which items a Query reads, a condition of a restricted form.

use super::condition::{Operand, Test};
use super::condition_syntax::Comparator;
use super::evaluate::{begins_with, satisfies};
use super::path::Path;
use super::placeholders::Placeholders;
use super::{ExpressionError, ExpressionKind};
use crate::value::AttributeValue;

const KIND: ExpressionKind = ExpressionKind::KeyConditionExpression;

/// A parsed and checked KeyConditionExpression: one value of the hash key and, possibly, a range of the range key.
#[derive(Clone, Debug)]
pub struct KeyCondition {
    hash: AttributeValue,
    range: Option<KeyTest>,
}

/// The condition on one key attribute.
#[derive(Clone, Debug)]
enum KeyTest {
    Compare(Comparator, AttributeValue),
    /// Both bounds included.
    Between(AttributeValue, AttributeValue),
    BeginsWith(AttributeValue),
}

impl KeyCondition {
    /// Parses and checks a key condition for a table or index with these key attributes.
    ///
    /// # Errors
    /// With the service's message: all that [`super::Condition::parse`] refuses; other operators than the ones that
    /// keys may be asked with; no equality for the hash key; other attributes than the keys.
    pub fn parse(
        text: &str,
        placeholders: &Placeholders,
        hash_name: &str,
        range_name: Option<&str>,
    ) -> Result<Self, ExpressionError> {
        Self::from_test(Test::parse(KIND, text, placeholders)?, hash_name, range_name)
    }

    pub(super) fn from_test(test: Test, hash_name: &str, range_name: Option<&str>) -> Result<Self, ExpressionError> {
        let mut tests = Vec::new();
        collect(test, &mut tests)?;
        if tests.len() > 2 && !has_duplicate(&tests) {
            return refuse("Conditions can be of length 1 or 2 only");
        }
        if has_duplicate(&tests) {
            return refuse("KeyConditionExpressions must only contain one condition per key");
        }
        let hash = take(&mut tests, hash_name)?;
        let range = match (tests.is_empty(), range_name) {
            (true, _) => None,
            (false, Some(range_name)) => Some(take(&mut tests, range_name)?),
            (false, None) => return refuse("Query key condition not supported"),
        };
        match hash {
            KeyTest::Compare(Comparator::Equal, hash) => Ok(Self { hash, range }),
            _ => refuse("Query key condition not supported"),
        }
    }

    /// The value that the hash key must have.
    pub fn hash(&self) -> &AttributeValue {
        &self.hash
    }

    /// Whether a range key's value is asked for; all are where the condition does not name the range key.
    pub fn matches_range(&self, value: &AttributeValue) -> bool {
        match &self.range {
            None => true,
            Some(KeyTest::Compare(comparator, wanted)) => satisfies(value, *comparator, wanted),
            Some(KeyTest::Between(low, high)) => {
                satisfies(value, Comparator::GreaterOrEqual, low) && satisfies(value, Comparator::LessOrEqual, high)
            }
            Some(KeyTest::BeginsWith(prefix)) => begins_with(value, prefix),
        }
    }

    /// Refuses values of other types than the key attributes have in the table: "S", "N" or "B".
    ///
    /// # Errors
    /// A type differs.
    pub fn check_types(&self, hash_type: &str, range_type: Option<&str>) -> Result<(), ExpressionError> {
        let range_values = match &self.range {
            None => vec![],
            Some(KeyTest::Compare(_, value) | KeyTest::BeginsWith(value)) => vec![value],
            Some(KeyTest::Between(low, high)) => vec![low, high],
        };
        let range_fits = range_values.iter().all(|value| Some(value.type_name()) == range_type);
        if self.hash.type_name() == hash_type && range_fits {
            return Ok(());
        }
        refuse(
            "One or more parameter values were invalid: \
             Condition parameter type does not match schema type",
        )
    }
}

/// Takes a condition apart at its ANDs, into conditions by attribute name.
fn collect(test: Test, tests: &mut Vec<(String, KeyTest)>) -> Result<(), ExpressionError> {
    let refused = match test {
        Test::All(parts) => return parts.into_iter().try_for_each(|part| collect(part, tests)),
        Test::Compare(left, comparator, right) if comparator != Comparator::NotEqual => {
            tests.push(comparison(left, comparator, right)?);
            return Ok(());
        }
        Test::Between(operands) => {
            let [key, low, high] = *operands;
            let (name, [low, high]) = keyed("BETWEEN", key, [low, high])?;
            tests.push((name, KeyTest::Between(low, high)));
            return Ok(());
        }
        Test::BeginsWith(key, prefix) => {
            let (name, [prefix]) = keyed("begins_with", key, [prefix])?;
            tests.push((name, KeyTest::BeginsWith(prefix)));
            return Ok(());
        }
        Test::Any(_) => "OR",
        Test::Not(_) => "NOT",
        Test::Compare(..) => "<>",
        Test::In(..) => "IN",
        Test::Exists(_) => "attribute_exists",
        Test::NotExists(_) => "attribute_not_exists",
        Test::HasType(..) => "attribute_type",
        Test::Contains(..) => "contains",
    };
    refuse(&format!("Invalid operator used in KeyConditionExpression: {refused}"))
}

/// A comparison, whose key attribute may stand on either side.
fn comparison(left: Operand, comparator: Comparator, right: Operand) -> Result<(String, KeyTest), ExpressionError> {
    let (key, comparator, other) = match (&left, &right) {
        (Operand::Value(_), Operand::Path(_)) => (right, comparator.mirrored(), left),
        _ => (left, comparator, right),
    };
    let (name, [value]) = keyed(comparator.text(), key, [other])?;
    Ok((name, KeyTest::Compare(comparator, value)))
}

/// The key attribute's name and the values that it is compared with.
fn keyed<const N: usize>(
    operator: &str,
    key: Operand,
    others: [Operand; N],
) -> Result<(String, [AttributeValue; N]), ExpressionError> {
    let all = || std::iter::once(&key).chain(&others);
    if all().any(|operand| matches!(operand, Operand::Size(_))) {
        return refuse("KeyConditionExpressions cannot contain nested operations");
    }
    let paths: Vec<&Path> = all()
        .filter_map(|operand| match operand {
            Operand::Path(path) => Some(path),
            _ => None,
        })
        .collect();
    match paths[..] {
        [] => {
            return refuse("Invalid condition in KeyConditionExpression: No key attribute specified");
        }
        [path] if !path.steps.is_empty() => {
            return refuse(&format!(
                "Key attributes must be scalars; list random access '[]' and map lookup '.' are not \
                 allowed: Key: {}",
                path.attribute
            ));
        }
        [_] => {}
        _ => {
            return refuse(
                "Invalid condition in KeyConditionExpression: \
                 Multiple attribute names used in one condition",
            );
        }
    }
    let values: Vec<AttributeValue> = others
        .into_iter()
        .filter_map(|operand| match operand {
            Operand::Value(value) => Some(value),
            _ => None,
        })
        .collect();
    match (key, <[AttributeValue; N]>::try_from(values)) {
        (Operand::Path(path), Ok(values)) => Ok((path.attribute, values)),
        _ => refuse(&format!(
            "Invalid condition in KeyConditionExpression: \
             {operator} operator must have the key attribute as its first operand"
        )),
    }
}

fn has_duplicate(tests: &[(String, KeyTest)]) -> bool {
    let repeated =
        |(index, (name, _)): (usize, &(String, KeyTest))| tests[..index].iter().any(|(earlier, _)| earlier == name);
    tests.iter().enumerate().any(repeated)
}

/// Takes out what is asked of an attribute.
fn take(tests: &mut Vec<(String, KeyTest)>, name: &str) -> Result<KeyTest, ExpressionError> {
    match tests.iter().position(|(attribute, _)| attribute == name) {
        Some(index) => Ok(tests.swap_remove(index).1),
        None => refuse(&format!("Query condition missed key schema element: {name}")),
    }
}

fn refuse<T>(message: &str) -> Result<T, ExpressionError> {
    Err(ExpressionError(message.to_owned()))
}
