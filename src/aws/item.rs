//! Items and their attributes: the conversions that all tables share.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Stands for an empty text, which some versions of DynamoDB refuse.
const NO_TEXT: &str = "-";

pub(crate) fn string(text: impl AsRef<str>) -> AttributeValue {
    AttributeValue::S(text.as_ref().to_owned())
}

/// A text that may be empty; [`real_text`] reads it.
pub(crate) fn string_or_none(text: &str) -> AttributeValue {
    string(if text.is_empty() { NO_TEXT } else { text })
}

pub(crate) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn string_set<T: ToString>(values: impl IntoIterator<Item = T>) -> AttributeValue {
    AttributeValue::Ss(values.into_iter().map(|value| value.to_string()).collect())
}

pub(crate) fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

pub(crate) fn real_text(text: &str) -> &str {
    if text == NO_TEXT { "" } else { text }
}

pub(crate) fn texts<'a>(item: &'a Item, name: &str) -> impl Iterator<Item = &'a str> {
    item.get(name).and_then(|value| value.as_ss().ok()).into_iter().flatten().map(String::as_str)
}

pub(crate) fn count(item: &Item, name: &str) -> Option<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|digits| digits.parse().ok())
}

/// A flag; an absent one is not set.
pub(crate) fn flag(item: &Item, name: &str) -> bool {
    item.get(name).and_then(|value| value.as_bool().ok()).copied().unwrap_or_default()
}
