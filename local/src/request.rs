//! Reading a request's parameters, refusing those that the service does not have.

use serde_json::{Map, Value};

use crate::error::ServiceError;

/// The members of a JSON request body, each of them known to its operation.
pub(crate) struct Parameters<'a> {
    members: &'a Map<String, Value>,
}

impl<'a> Parameters<'a> {
    /// The members of `json`, which must be an object with none but the `known` ones.
    pub(crate) fn new(json: &'a Value, known: &[&str]) -> Result<Self, ServiceError> {
        let members = json.as_object().ok_or_else(|| {
            ServiceError::new("SerializationException", "Start of structure or map found where not expected")
        })?;
        for name in members.keys() {
            if !known.contains(&name.as_str()) {
                return Err(ServiceError::validation(format!("{name} is not supported here by the local service")));
            }
        }
        Ok(Self { members })
    }

    /// A member of any type; an explicit null counts as absent.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ServiceError> {
        self.typed(name, "string", Value::as_str)
    }

    pub(crate) fn required_text(&self, name: &str) -> Result<&'a str, ServiceError> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ServiceError> {
        self.typed(name, "boolean", Value::as_bool)
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ServiceError> {
        self.typed(name, "number", Value::as_i64)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, ServiceError> {
        self.typed(name, "number", Value::as_f64)
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, ServiceError> {
        self.typed(name, "list", Value::as_array)
    }

    pub(crate) fn map(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ServiceError> {
        self.typed(name, "map", Value::as_object)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&'a Value, ServiceError> {
        self.value(name).ok_or_else(|| missing(name))
    }

    /// A page size, at least 1.
    pub(crate) fn limit(&self) -> Result<Option<usize>, ServiceError> {
        match self.integer("Limit")? {
            None => Ok(None),
            Some(limit) if limit >= 1 => Ok(usize::try_from(limit).ok()),
            Some(limit) => Err(ServiceError::validation(format!(
                "1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must \
                 have value greater than or equal to 1"
            ))),
        }
    }

    /// A member that must be one of the given words; the first of them when absent.
    pub(crate) fn choice(&self, name: &str, choices: &[&'static str]) -> Result<&'static str, ServiceError> {
        let Some(text) = self.text(name)? else {
            return Ok(choices[0]);
        };
        choices.iter().find(|choice| **choice == text).copied().ok_or_else(|| {
            let member = lower_first(name);
            let set = choices.join(", ");
            ServiceError::validation(format!(
                "1 validation error detected: Value '{text}' at '{member}' failed to satisfy constraint: Member \
                     must satisfy enum value set: [{set}]"
            ))
        })
    }

    fn typed<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ServiceError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ServiceError::new("SerializationException", format!("{name} must be a {wanted}"))),
        }
    }
}

/// The refusal of a request without a required member.
pub(crate) fn missing(name: &str) -> ServiceError {
    let member = lower_first(name);
    ServiceError::validation(format!(
        "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
    ))
}

/// `StreamArn` as the service's validation messages name it: `streamArn`.
pub(crate) fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    match letters.next() {
        Some(first) => first.to_ascii_lowercase().to_string() + letters.as_str(),
        None => String::new(),
    }
}
