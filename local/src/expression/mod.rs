//! DynamoDB's expressions: conditions, filters, updates, projections and key conditions.
//!
//! Each expression is parsed and checked against the request's placeholders first, then used any number of times:
//!
//! - `token` cuts the text, and words syntax errors as the service does;
//! - `syntax` is the parser and the part of the tree that all expressions share: paths, values, functions;
//! - `placeholders` holds `#names` and `:values`, and records which of them were used;
//! - `path` is a resolved document path: looked up in an item, compared with others;
//! - `condition`, with `evaluate`, is ConditionExpression and FilterExpression;
//! - `key_condition` is a Query's KeyConditionExpression, read from a condition;
//! - `update`, with `update_syntax`, is UpdateExpression;
//! - `projection` is ProjectionExpression;
//! - `legacy` reads the parameters from before expressions.
//!
//! Messages are the service's own, mostly as DynamoDB Local gives them, which shares its expression code.

mod condition;
mod condition_syntax;
mod evaluate;
mod key_condition;
pub(crate) mod legacy;
mod path;
mod placeholders;
mod projection;
mod reserved;
mod syntax;
#[cfg(test)]
mod tests;
mod token;
mod update;
mod update_syntax;

use std::fmt;

pub use condition::Condition;
pub use key_condition::KeyCondition;
pub use placeholders::Placeholders;
pub use projection::Projection;
pub use update::Update;

use crate::value::ValueError;

/// The request's member that an expression stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names)] // The names of the API.
pub enum ExpressionKind {
    ConditionExpression,
    FilterExpression,
    KeyConditionExpression,
    ProjectionExpression,
    UpdateExpression,
}

/// The refusal of an expression: the message of the service's ValidationException.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError(pub String);

impl ExpressionKind {
    /// The error that the expression itself is wrong.
    fn invalid(self, why: impl fmt::Display) -> ExpressionError {
        ExpressionError(format!("Invalid {self:?}: {why}"))
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ExpressionError {}

impl From<ValueError> for ExpressionError {
    fn from(error: ValueError) -> Self {
        Self(error.0)
    }
}
