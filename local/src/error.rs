//! The service's errors: names, HTTP status, JSON shape.

use std::fmt;

use serde_json::{Map, Value};

use crate::expression::ExpressionError;
use crate::value::ValueError;

/// An error as the service answers it: `{"__type": "…#Name", "message": "…"}` with a status of 400 or 500.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceError {
    /// The name after the `#`, as `ResourceNotFoundException`.
    code: String,
    /// The text for people.
    message: String,
    /// Further members of the body, as `Item` or `CancellationReasons`.
    members: Map<String, Value>,
}

impl ServiceError {
    /// The error of this name, as `"ResourceNotFoundException"`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), members: Map::new() }
    }

    /// The error's name, without its namespace.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status: 500 for the service's own failures, else 400.
    pub fn status(&self) -> u16 {
        match self.code.as_str() {
            "InternalServerError" | "InternalFailure" => 500,
            "ServiceUnavailable" => 503,
            _ => 400,
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut body = self.members.clone();
        let namespace = namespace(&self.code);
        body.insert("__type".to_owned(), format!("{namespace}#{}", self.code).into());
        body.insert("message".to_owned(), self.message.clone().into());
        Value::Object(body)
    }

    pub(crate) fn with(mut self, member: &str, value: Value) -> Self {
        self.members.insert(member.to_owned(), value);
        self
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", message)
    }

    pub(crate) fn condition_failed() -> Self {
        Self::new("ConditionalCheckFailedException", "The conditional request failed")
    }
}

/// The Java package or Smithy namespace that the service puts before an error's name.
fn namespace(code: &str) -> &'static str {
    match code {
        "ValidationException" => "com.amazon.coral.validate",
        "UnknownOperationException"
        | "AccessDeniedException"
        | "SerializationException"
        | "UnrecognizedClientException"
        | "InternalFailure" => "com.amazon.coral.service",
        "ThrottlingException" | "ServiceUnavailable" => "com.amazon.coral.availability",
        _ => "com.amazonaws.dynamodb.v20120810",
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ServiceError {}

impl From<ValueError> for ServiceError {
    fn from(error: ValueError) -> Self {
        Self::validation(error.0)
    }
}

impl From<ExpressionError> for ServiceError {
    fn from(error: ExpressionError) -> Self {
        Self::validation(error.0)
    }
}
