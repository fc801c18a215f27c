//! The AWS-facing modules: one configuration, the stream, and the tables of leases, of the fleet and of dead letters.
//!
//! They turn the core's values into calls and the answers into values, type every error, and decide nothing else.

pub mod calls;
pub mod clients;
pub mod fleet_table;
pub mod lease_table;
pub mod record;
pub mod stream;
pub mod table_health;
pub(crate) mod tables;

use std::error::Error as StdError;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// What a failed call to a table means for its caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table isn't there.
    #[error("table {table} does not exist")]
    Missing {
        /// The table's name.
        table: String,
    },
    /// The caller may not do this: credentials, permissions, or a request that the service finds wrong. Trying again
    /// is of no use before somebody has changed something.
    #[error("{operation} on table {table} was refused: {reason}")]
    Refused {
        /// The API operation.
        operation: &'static str,
        /// The table's name.
        table: String,
        /// The service's words.
        reason: String,
    },
    /// No answer, a throttled call, or a fault of the service: to be tried again. Whether a write has happened is
    /// not known.
    #[error("{operation} on table {table} failed: {reason}")]
    Unavailable {
        /// The API operation.
        operation: &'static str,
        /// The table's name.
        table: String,
        /// The service's or the client's words.
        reason: String,
    },
}

impl TableError {
    pub(crate) fn new<E, R>(operation: &'static str, table: &str, error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
        R: std::fmt::Debug,
    {
        let (table, reason) = (table.to_owned(), describe(error));
        match ErrorKind::of(error) {
            ErrorKind::NotFound => Self::Missing { table },
            ErrorKind::Refused => Self::Refused { operation, table, reason },
            _ => Self::Unavailable { operation, table, reason },
        }
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The kinds of failed calls, for all operations of both services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    ConditionFailed,
    ExpiredIterator,
    NotFound,
    Refused,
    Throttled,
    Transient,
    Trimmed,
}

impl ErrorKind {
    pub(crate) fn of<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Self {
        error.code().map_or(Self::Transient, Self::of_code)
    }

    fn of_code(code: &str) -> Self {
        match code {
            "ConditionalCheckFailedException" => Self::ConditionFailed,
            "ExpiredIteratorException" => Self::ExpiredIterator,
            "ResourceNotFoundException" => Self::NotFound,
            "TrimmedDataAccessException" => Self::Trimmed,
            "LimitExceededException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "ThrottledException"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException" => Self::Throttled,
            "AccessDeniedException"
            | "IncompleteSignature"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "NotAuthorized"
            | "OptInRequired"
            | "UnknownOperationException"
            | "UnrecognizedClientException"
            | "ValidationException" => Self::Refused,
            _ => Self::Transient,
        }
    }
}

/// An SDK error in one line: the service's code and words, or what happened to the call.
pub(crate) fn describe<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => match error {
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            SdkError::DispatchFailure(failure) => failure
                .as_connector_error()
                .map_or_else(|| "the call could not be sent".to_owned(), |error| root_cause(error)),
            SdkError::ResponseError(_) => "the answer could not be read".to_owned(),
            other => DisplayErrorContext(other).to_string(),
        },
    }
}

/// The whole chain of causes, each once.
fn root_cause(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = cause.source();
    }
    words
}
