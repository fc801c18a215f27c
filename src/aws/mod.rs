//! The calls to AWS: one configuration, the stream, and the tables of the application.
//!
//! The adapters turn the model's values into calls and the answers into values, and classify every error by what its
//! caller should do. They decide nothing else.

pub mod calls;
pub mod clients;
pub mod credentials;
pub mod fleet_table;
mod get_records;
pub(crate) mod item;
pub mod lease_table;
pub(crate) mod own_table;
#[cfg(feature = "cli")]
pub mod preflight;
pub mod record;
#[cfg(feature = "otlp")]
pub mod request_signer;
#[cfg(test)]
mod scripted;
pub mod service_clock;
pub mod stream;
pub mod table_health;
pub mod transaction;

/// The types of other crates that this one's signatures have: its versions of them.
pub mod sdk {
    pub use aws_sdk_dynamodb as dynamodb;
    pub use aws_sdk_dynamodbstreams as dynamodbstreams;

    pub use super::clients::SdkConfig;
}

use std::error::Error as StdError;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_types::date_time::{DateTime, Format};

/// A time in RFC 3339's form, such as `2026-01-31T12:00:00Z`, in milliseconds since the epoch.
#[cfg(feature = "cli")]
pub fn parse_time_ms(text: &str) -> Option<u64> {
    let time = DateTime::from_str(text, Format::DateTimeWithOffset).ok()?;
    time.to_millis().ok()?.try_into().ok()
}

/// The same form of a time in seconds since the epoch.
#[cfg(feature = "cli")]
pub fn format_time(seconds: i64) -> Option<String> {
    DateTime::from_secs(seconds).fmt(Format::DateTime).ok()
}

/// A failed call to a table, by what its caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table does not exist.
    #[error("table {table} does not exist")]
    Missing {
        /// The table's name.
        table: String,
    },
    /// The service refuses the call: credentials, permissions, or an invalid request. Retrying does not help until
    /// somebody has changed something.
    #[error("{operation} on table {table} was refused: {source}")]
    Refused {
        /// The API operation.
        operation: &'static str,
        /// The table's name.
        table: String,
        /// The service's refusal.
        source: CallError,
    },
    /// The table is there and has other keys: it is no table of this application's.
    #[error(
        "table {table} belongs to something else: its key is {found}, and that of an application's table is {wanted}. \
         Choose another application; nothing was written"
    )]
    Foreign {
        /// The table's name.
        table: String,
        /// The names and types of its keys.
        found: String,
        /// The keys that it should have.
        wanted: String,
    },
    /// No answer, a throttled call, or a fault of the service: to be retried. A write may or may not have happened.
    #[error("{operation} on table {table} failed: {source}")]
    Unavailable {
        /// The API operation.
        operation: &'static str,
        /// The table's name.
        table: String,
        /// The failure of the call.
        source: CallError,
    },
}

/// A failed call in one line: the service's code and message, or what happened to the call and its whole chain of
/// causes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CallError {
    code: Option<String>,
    text: String,
}

impl CallError {
    pub(crate) fn new<E, R>(error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
        R: std::fmt::Debug,
    {
        Self { code: error.code().map(ToOwned::to_owned), text: describe(error) }
    }

    /// An error with the service's code, if it has one.
    pub(crate) fn described(code: Option<String>, text: String) -> Self {
        Self { code, text }
    }

    /// The service's error code, such as `ThrottlingException`; absent for a call without an answer.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl TableError {
    pub(crate) fn new<E, R>(operation: &'static str, table: &str, error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
        R: std::fmt::Debug,
    {
        let (table, source) = (table.to_owned(), CallError::new(error));
        match ErrorKind::of(error) {
            ErrorKind::NotFound => Self::Missing { table },
            ErrorKind::Refused | ErrorKind::UnknownOperation => Self::Refused { operation, table, source },
            _ => Self::Unavailable { operation, table, source },
        }
    }

    /// The service's error code, such as `AccessDeniedException`, if the service answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { source, .. } | Self::Unavailable { source, .. } => source.code(),
            Self::Missing { .. } | Self::Foreign { .. } => None,
        }
    }

    /// Whether it passes by itself.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A failed call of either service, by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    ConditionFailed,
    ExpiredIterator,
    NotFound,
    Refused,
    Throttled,
    Transient,
    Trimmed,
    UnknownOperation,
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
            "InvalidAction" | "NotImplemented" | "UnknownOperation" | "UnknownOperationException" => {
                Self::UnknownOperation
            }
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
            | "UnrecognizedClientException"
            | "ValidationException" => Self::Refused,
            _ => Self::Transient,
        }
    }
}

/// An SDK error in one line: the service's code and message, or what happened to the call.
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
                .map_or_else(|| "the call could not be sent".to_owned(), |error| with_causes(error)),
            SdkError::ResponseError(_) => "the answer could not be read".to_owned(),
            other => DisplayErrorContext(other).to_string(),
        },
    }
}

/// The time (ms since the epoch) of a date in an HTTP header.
pub(crate) fn http_date_ms(date: &str) -> Option<i64> {
    DateTime::from_str(date, Format::HttpDate).ok()?.to_millis().ok()
}

/// An error with its chain of causes, each once.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
