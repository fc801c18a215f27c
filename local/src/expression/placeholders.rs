//! ExpressionAttributeNames and ExpressionAttributeValues of one request.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ExpressionError;
use super::token::is_placeholder;
use crate::value::AttributeValue;

/// The longest attribute name, in bytes of UTF-8.
const MAX_NAME_BYTES: usize = 65_535;

/// The names behind `#name` and the values behind `:value` in a request's expressions. It notes which of them the
/// expressions used, because the service refuses those that none did.
#[derive(Debug, Default)]
pub struct Placeholders {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, AttributeValue>,
    /// The keys, with their signs, that an expression used.
    used: RefCell<BTreeSet<String>>,
}

impl Placeholders {
    /// Reads the two members of a request, or of an element of a transaction; either may be missing.
    ///
    /// # Errors
    /// A member that is empty or no object, a key of the wrong form, a name that is none, a value that is none.
    pub fn from_request(request: &Value) -> Result<Self, ExpressionError> {
        let names = members(request, "ExpressionAttributeNames", b'#', |name| {
            let Some(name) = name.as_str() else {
                return Err("Attribute name must be a string".to_owned());
            };
            match name.len() {
                0 => Err("Empty attribute name".to_owned()),
                1..=MAX_NAME_BYTES => Ok(name.to_owned()),
                _ => Err("Attribute name is too large, must be less than 65536 bytes".to_owned()),
            }
        })?;
        let values = members(request, "ExpressionAttributeValues", b':', |value| {
            AttributeValue::from_json(value).map_err(|error| error.0)
        })?;
        Ok(Self { names, values, used: RefCell::default() })
    }

    /// Refuses placeholders in a request without expressions. `missing` are the members that could have used values
    /// and are not there, when all of them are not there: "ConditionExpression", say.
    ///
    /// # Errors
    /// There are placeholders that no expression could use.
    pub fn check_wanted(&self, has_expression: bool, missing: &[&str]) -> Result<(), ExpressionError> {
        if !self.names.is_empty() && !has_expression {
            return Err(ExpressionError(
                "ExpressionAttributeNames can only be specified when using expressions".to_owned(),
            ));
        }
        if self.values.is_empty() || missing.is_empty() {
            return Ok(());
        }
        let verb = if missing.len() == 1 { "is" } else { "are" };
        Err(ExpressionError(format!(
            "ExpressionAttributeValues can only be specified when using expressions: {} {verb} null",
            missing.join(" and ")
        )))
    }

    /// Refuses placeholders that none of the expressions parsed so far used.
    ///
    /// # Errors
    /// There are some; the message names them, in order.
    pub fn check_all_used(&self) -> Result<(), ExpressionError> {
        self.check_used("ExpressionAttributeNames", self.names.keys())?;
        self.check_used("ExpressionAttributeValues", self.values.keys())
    }

    /// The attribute name behind `#name`, if there is one, which counts as used from now on.
    pub(super) fn name(&self, placeholder: &str) -> Option<&str> {
        let (key, name) = self.names.get_key_value(placeholder)?;
        self.used.borrow_mut().insert(key.clone());
        Some(name)
    }

    /// The value behind `:value`, if there is one, which counts as used from now on.
    pub(super) fn value(&self, placeholder: &str) -> Option<&AttributeValue> {
        let (key, value) = self.values.get_key_value(placeholder)?;
        self.used.borrow_mut().insert(key.clone());
        Some(value)
    }

    fn check_used<'a>(&self, member: &str, keys: impl Iterator<Item = &'a String>) -> Result<(), ExpressionError> {
        let used = self.used.borrow();
        let unused: Vec<&str> = keys.filter(|key| !used.contains(*key)).map(String::as_str).collect();
        if unused.is_empty() {
            return Ok(());
        }
        Err(ExpressionError(format!(
            "Value provided in {member} unused in expressions: keys: {{{}}}",
            unused.join(", ")
        )))
    }
}

/// Reads one of the two members: an object that is not empty, with keys of a sign and a word.
fn members<T>(
    request: &Value,
    member: &str,
    sign: u8,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, ExpressionError> {
    let entries = match &request[member] {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(entries) => entries,
        _ => return Err(ExpressionError(format!("{member} must be a map"))),
    };
    if entries.is_empty() {
        return Err(ExpressionError(format!("{member} must not be empty")));
    }
    if let Some(key) = entries.keys().find(|key| !is_placeholder(key, sign)) {
        return Err(ExpressionError(format!("{member} contains invalid key: Syntax error; key: \"{key}\"")));
    }
    entries
        .iter()
        .map(|(key, value)| match read(value) {
            Ok(value) => Ok((key.clone(), value)),
            Err(why) => Err(ExpressionError(format!("{member} contains invalid value: {why} for key {key}"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(request: Value) -> String {
        Placeholders::from_request(&request).unwrap_err().0
    }

    #[test]
    fn keys_and_values_are_checked_with_the_service_s_words() {
        for (request, message) in [
            (json!({"ExpressionAttributeNames": {}}), "ExpressionAttributeNames must not be empty"),
            (json!({"ExpressionAttributeValues": {}}), "ExpressionAttributeValues must not be empty"),
            (
                json!({"ExpressionAttributeNames": {"a": "n"}}),
                "ExpressionAttributeNames contains invalid key: Syntax error; key: \"a\"",
            ),
            (
                json!({"ExpressionAttributeValues": {":n-1": {"N": "1"}}}),
                "ExpressionAttributeValues contains invalid key: Syntax error; key: \":n-1\"",
            ),
            (
                json!({"ExpressionAttributeNames": {"#a": ""}}),
                "ExpressionAttributeNames contains invalid value: Empty attribute name for key #a",
            ),
            (
                json!({"ExpressionAttributeNames": {"#a": "n".repeat(65_536)}}),
                "ExpressionAttributeNames contains invalid value: \
                 Attribute name is too large, must be less than 65536 bytes for key #a",
            ),
            (
                json!({"ExpressionAttributeValues": {":n": {"N": "x"}}}),
                "ExpressionAttributeValues contains invalid value: \
                 The parameter cannot be converted to a numeric value: x for key :n",
            ),
        ] {
            assert_eq!(refusal(request), message);
        }
    }

    #[test]
    fn what_no_expression_used_is_named() {
        let placeholders = Placeholders::from_request(&json!({
            "ExpressionAttributeNames": {"#a": "x", "#b": "y"},
            "ExpressionAttributeValues": {":c": {"S": "1"}, ":d": {"S": "2"}, ":e": {"S": "3"}},
        }))
        .unwrap();
        let unused = || placeholders.check_all_used().unwrap_err().0;
        assert_eq!(placeholders.name("#a"), Some("x"));
        assert_eq!(placeholders.name("#z"), None);
        assert_eq!(unused(), "Value provided in ExpressionAttributeNames unused in expressions: keys: {#b}");
        placeholders.name("#b");
        placeholders.value(":d");
        assert_eq!(unused(), "Value provided in ExpressionAttributeValues unused in expressions: keys: {:c, :e}");
        placeholders.value(":c");
        placeholders.value(":e");
        assert!(placeholders.check_all_used().is_ok());
    }

    #[test]
    fn placeholders_without_an_expression_are_refused() {
        let names = Placeholders::from_request(&json!({"ExpressionAttributeNames": {"#a": "x"}})).unwrap();
        assert_eq!(
            names.check_wanted(false, &[]).unwrap_err().0,
            "ExpressionAttributeNames can only be specified when using expressions"
        );
        assert!(names.check_wanted(true, &[]).is_ok());
        let values = Placeholders::from_request(&json!({"ExpressionAttributeValues": {":a": {"S": "x"}}})).unwrap();
        assert_eq!(
            values.check_wanted(false, &["UpdateExpression", "ConditionExpression"]).unwrap_err().0,
            "ExpressionAttributeValues can only be specified when using expressions: \
             UpdateExpression and ConditionExpression are null"
        );
        assert!(values.check_wanted(true, &[]).is_ok());
    }
}
