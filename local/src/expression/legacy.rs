//! The parameters from before expressions: `Expected`, `AttributeUpdates`, `KeyConditions`, `QueryFilter`, `ScanFilter`,
//! `ConditionalOperator` and `AttributesToGet`, read into the conditions, updates and projections of expressions.

use std::collections::BTreeSet;

use serde_json::Value;

use super::condition::{Condition, Operand, Test};
use super::condition_syntax::Comparator;
use super::evaluate::order;
use super::path::Path;
use super::{KeyCondition, Projection, Update};
use crate::error::ServiceError;
use crate::request::{Parameters, lower_first};
use crate::value::AttributeValue;

/// Refuses legacy parameters beside expressions in one request.
pub fn check_not_mixed(parameters: &Parameters<'_>, legacy: &[&str], expressions: &[&str]) -> Result<(), ServiceError> {
    let given = |names: &[&str]| -> Vec<String> {
        names.iter().filter(|name| parameters.value(name).is_some()).map(|name| (*name).to_owned()).collect()
    };
    let (legacy, expressions) = (given(legacy), given(expressions));
    if legacy.is_empty() || expressions.is_empty() {
        return Ok(());
    }
    Err(ServiceError::validation(format!(
        "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: \
         {{{}}} Expression parameters: {{{}}}",
        legacy.join(", "),
        expressions.join(", ")
    )))
}

/// `Expected` of a write, with its `ConditionalOperator`.
pub fn expected(parameters: &Parameters<'_>) -> Result<Option<Condition>, ServiceError> {
    let mut tests = Vec::new();
    for (name, expected) in attributes(parameters, "Expected")? {
        let members = Parameters::new(expected, &["Value", "Exists", "ComparisonOperator", "AttributeValueList"])?;
        tests.push(expected_test(name, &members)?);
    }
    combined(parameters, tests)
}

/// `QueryFilter` or `ScanFilter`, with its `ConditionalOperator`.
pub fn filter(parameters: &Parameters<'_>, member: &str) -> Result<Option<Condition>, ServiceError> {
    let mut tests = Vec::new();
    for (name, condition) in attributes(parameters, member)? {
        tests.push(listed_test(member, name, condition)?);
    }
    combined(parameters, tests)
}

/// `KeyConditions` of a Query on a table or an index with these key attributes.
pub fn key_conditions(
    parameters: &Parameters<'_>,
    hash_name: &str,
    range_name: Option<&str>,
) -> Result<Option<KeyCondition>, ServiceError> {
    let Some(conditions) = parameters.map("KeyConditions")? else {
        return Ok(None);
    };
    if !matches!(conditions.len(), 1 | 2) {
        return Err(ServiceError::validation("Conditions can be of length 1 or 2 only"));
    }
    let mut tests = Vec::new();
    for (name, condition) in conditions {
        let test = listed_test("KeyConditions", name, condition)?;
        let is_indexable = match &test {
            Test::Compare(_, comparator, _) => *comparator != Comparator::NotEqual,
            Test::Between(_) | Test::BeginsWith(..) => true,
            _ => false,
        };
        if !is_indexable {
            return Err(ServiceError::validation("Attempted conditional constraint is not an indexable operation"));
        }
        tests.push(test);
    }
    Ok(Some(KeyCondition::from_test(Test::All(tests), hash_name, range_name)?))
}

/// `AttributeUpdates` of an UpdateItem.
pub fn attribute_updates(parameters: &Parameters<'_>) -> Result<Option<Update>, ServiceError> {
    let mut update = Update::legacy();
    let updates = attributes(parameters, "AttributeUpdates")?;
    if updates.is_empty() {
        return Ok(None);
    }
    for (name, change) in updates {
        let members = Parameters::new(change, &["Action", "Value"])?;
        let action = members.choice("Action", &["PUT", "ADD", "DELETE"])?;
        let value = match members.value("Value") {
            Some(value) => Some(AttributeValue::from_json(value)?),
            None => None,
        };
        let kind = value.as_ref().map(AttributeValue::type_name).unwrap_or_default();
        match (action, value) {
            ("PUT", Some(value)) => update.set(path(name), value),
            ("ADD", Some(value)) if matches!(kind, "N" | "SS" | "NS" | "BS") => update.add(path(name), value),
            ("ADD", Some(value)) if kind == "L" => update.append(path(name), value),
            ("DELETE", None) => update.remove(path(name)),
            ("DELETE", Some(value)) if matches!(kind, "SS" | "NS" | "BS") => update.delete(path(name), value),
            (_, None) => {
                return Err(invalid("Only DELETE action is allowed when no attribute value is specified"));
            }
            (_, Some(value)) => {
                let with_value = if action == "DELETE" { " with value" } else { "" };
                let kind = long_type_name(&value);
                return Err(invalid(format!("{action} action{with_value} is not supported for the type {kind}")));
            }
        }
    }
    Ok(Some(update))
}

/// `AttributesToGet` of a read.
pub fn attributes_to_get(parameters: &Parameters<'_>) -> Result<Option<Projection>, ServiceError> {
    let Some(names) = parameters.list("AttributesToGet")? else {
        return Ok(None);
    };
    if names.is_empty() {
        return Err(ServiceError::validation(
            "1 validation error detected: Value '[]' at 'attributesToGet' failed to satisfy constraint: Member must have \
             length greater than or equal to 1",
        ));
    }
    let mut seen = BTreeSet::new();
    let mut paths = Vec::new();
    for name in names {
        let name = name.as_str().unwrap_or_default();
        check_name(name)?;
        if !seen.insert(name) {
            return Err(invalid(format!("Duplicate value in attribute name: {name}")));
        }
        paths.push(path(name));
    }
    Ok(Some(Projection::of_paths(paths)))
}

/// The members of a map by attribute name.
fn attributes<'a>(parameters: &Parameters<'a>, member: &str) -> Result<Vec<(&'a str, &'a Value)>, ServiceError> {
    let members: Vec<_> =
        parameters.map(member)?.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    members.iter().try_for_each(|(name, _)| check_name(name))?;
    Ok(members)
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    if name.is_empty() { Err(ServiceError::validation("Empty attribute name")) } else { Ok(()) }
}

/// Joins tests as `ConditionalOperator` says.
fn combined(parameters: &Parameters<'_>, tests: Vec<Test>) -> Result<Option<Condition>, ServiceError> {
    let operator = parameters.choice("ConditionalOperator", &["AND", "OR"])?;
    match (parameters.value("ConditionalOperator"), tests.len()) {
        (Some(_), 0) => {
            return Err(ServiceError::validation("ConditionalOperator cannot be used without Filter or Expected"));
        }
        (Some(_), 1) => {
            return Err(ServiceError::validation(
                "ConditionalOperator can only be used when Filter or Expected has two or more elements",
            ));
        }
        (None, 0) => return Ok(None),
        _ => {}
    }
    Ok(Some(Condition::of_test(if operator == "OR" { Test::Any(tests) } else { Test::All(tests) })))
}

fn expected_test(name: &str, members: &Parameters<'_>) -> Result<Test, ServiceError> {
    let value = match members.value("Value") {
        Some(value) => Some(AttributeValue::from_json(value)?),
        None => None,
    };
    let exists = members.flag("Exists")?;
    let list = members.list("AttributeValueList")?;
    let problem = |text: String| Err(invalid(format!("{text} for Attribute: {name}")));
    let Some(operator) = operator("Expected", name, members)? else {
        return match (exists, value) {
            _ if list.is_some() => problem("AttributeValueList can only be used with a ComparisonOperator".to_owned()),
            (None | Some(true), Some(value)) => {
                Ok(Test::Compare(Operand::Path(path(name)), Comparator::Equal, Operand::Value(value)))
            }
            (Some(false), None) => Ok(Test::NotExists(path(name))),
            (Some(false), Some(_)) => problem("Value cannot be used when Exists is false".to_owned()),
            (Some(true), None) => problem("Value must be provided when Exists is true".to_owned()),
            (None, None) => problem("Value must be provided when Exists is null".to_owned()),
        };
    };
    if exists.is_some() {
        return problem("Exists and ComparisonOperator cannot be used together".to_owned());
    }
    let values = match (value, list) {
        (Some(_), Some(_)) => return problem("Value and AttributeValueList cannot be used together".to_owned()),
        (Some(value), None) => vec![value],
        (None, Some(list)) => values(list)?,
        (None, None) if matches!(operator, "NULL" | "NOT_NULL") => Vec::new(),
        (None, None) => {
            return problem(format!("Value or AttributeValueList must be used with ComparisonOperator: {operator}"));
        }
    };
    comparison(name, operator, values)
}

/// A condition of an operator and a list of values.
fn listed_test(member: &str, name: &str, condition: &Value) -> Result<Test, ServiceError> {
    let members = Parameters::new(condition, &["ComparisonOperator", "AttributeValueList"])?;
    let Some(operator) = operator(member, name, &members)? else {
        return Err(ServiceError::validation(format!(
            "1 validation error detected: Value null at '{}.{name}.member.comparisonOperator' failed to satisfy \
             constraint: Member must not be null",
            lower_first(member)
        )));
    };
    let values = values(members.list("AttributeValueList")?.map_or(&[], Vec::as_slice))?;
    comparison(name, operator, values)
}

fn values(list: &[Value]) -> Result<Vec<AttributeValue>, ServiceError> {
    list.iter().map(|value| AttributeValue::from_json(value).map_err(ServiceError::from)).collect()
}

fn operator<'a>(member: &str, name: &str, members: &Parameters<'a>) -> Result<Option<&'a str>, ServiceError> {
    const OPERATORS: [&str; 13] = [
        "IN",
        "NULL",
        "BETWEEN",
        "LT",
        "NOT_CONTAINS",
        "EQ",
        "GT",
        "NOT_NULL",
        "NE",
        "LE",
        "BEGINS_WITH",
        "GE",
        "CONTAINS",
    ];
    match members.text("ComparisonOperator")? {
        Some(unknown) if !OPERATORS.contains(&unknown) => Err(ServiceError::validation(format!(
            "1 validation error detected: Value '{unknown}' at '{}.{name}.member.comparisonOperator' failed to satisfy \
             constraint: Member must satisfy enum value set: [{}]",
            lower_first(member),
            OPERATORS.join(", ")
        ))),
        operator => Ok(operator),
    }
}

fn comparison(name: &str, operator: &str, values: Vec<AttributeValue>) -> Result<Test, ServiceError> {
    check_values(operator, &values)?;
    let key = Operand::Path(path(name));
    let mut operands = values.into_iter().map(Operand::Value);
    let comparator = match operator {
        "NULL" => return Ok(Test::NotExists(path(name))),
        "NOT_NULL" => return Ok(Test::Exists(path(name))),
        "IN" => return Ok(Test::In(key, operands.collect())),
        "EQ" => Some(Comparator::Equal),
        "NE" => Some(Comparator::NotEqual),
        "LT" => Some(Comparator::Less),
        "LE" => Some(Comparator::LessOrEqual),
        "GT" => Some(Comparator::Greater),
        "GE" => Some(Comparator::GreaterOrEqual),
        _ => None,
    };
    match (operator, operands.next(), operands.next()) {
        ("BETWEEN", Some(low), Some(high)) => Ok(Test::Between(Box::new([key, low, high]))),
        ("BEGINS_WITH", Some(prefix), _) => Ok(Test::BeginsWith(key, prefix)),
        ("CONTAINS", Some(element), _) => Ok(Test::Contains(key, element)),
        // An attribute that is not there contains nothing, and does not fail to contain it either.
        ("NOT_CONTAINS", Some(element), _) => {
            let contains = Test::Contains(key, element);
            Ok(Test::All(vec![Test::Exists(path(name)), Test::Not(Box::new(contains))]))
        }
        (_, Some(value), _) if let Some(comparator) = comparator => Ok(Test::Compare(key, comparator, value)),
        _ => Err(wrong_count(operator)),
    }
}

/// Refuses values that are too few, too many or of the wrong type for their operator.
fn check_values(operator: &str, values: &[AttributeValue]) -> Result<(), ServiceError> {
    let fits = match operator {
        "NULL" | "NOT_NULL" => values.is_empty(),
        "IN" => !values.is_empty(),
        "BETWEEN" => values.len() == 2,
        _ => values.len() == 1,
    };
    if !fits {
        return Err(wrong_count(operator));
    }
    let Some(kind) = values.first().map(AttributeValue::type_name) else {
        return Ok(());
    };
    if values.iter().any(|value| value.type_name() != kind) {
        return Err(invalid("AttributeValues inside AttributeValueList must be of same type"));
    }
    let is_valid = match operator {
        "EQ" | "NE" => true,
        "BEGINS_WITH" => matches!(kind, "S" | "B"),
        "CONTAINS" | "NOT_CONTAINS" => matches!(kind, "S" | "N" | "B" | "BOOL" | "NULL"),
        _ => matches!(kind, "S" | "N" | "B"),
    };
    if !is_valid {
        return Err(invalid(format!("ComparisonOperator {operator} is not valid for {kind} AttributeValue type")));
    }
    if let ("BETWEEN", [low, high]) = (operator, values)
        && order(low, high).is_some_and(std::cmp::Ordering::is_gt)
    {
        return Err(ServiceError::validation(
            "The BETWEEN condition was provided a range where the lower bound is greater than the upper bound",
        ));
    }
    Ok(())
}

/// The type as messages on `AttributeUpdates` name it.
fn long_type_name(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::S(_) => "STRING",
        AttributeValue::N(_) => "NUMBER",
        AttributeValue::B(_) => "BINARY",
        AttributeValue::Bool(_) => "BOOLEAN",
        AttributeValue::L(_) => "LIST",
        AttributeValue::M(_) => "MAP",
        other => other.type_name(),
    }
}

fn wrong_count(operator: &str) -> ServiceError {
    invalid(format!("Invalid number of argument(s) for the {operator} ComparisonOperator"))
}

fn invalid(problem: impl AsRef<str>) -> ServiceError {
    ServiceError::validation(format!("One or more parameter values were invalid: {}", problem.as_ref()))
}

fn path(name: &str) -> Path {
    Path { attribute: name.to_owned(), steps: Vec::new() }
}
