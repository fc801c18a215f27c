//! The calls to AWS: one configuration, the stream, and the tables of the application.
//!
//! The adapters turn the model's values into calls and the answers into values, and classify every error by what its
//! caller should do. They decide nothing else.

pub(crate) mod authorities;
pub mod calls;
pub mod clients;
pub mod credentials;
pub mod endpoint_url;
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

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
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

/// The role of a table in an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableRole {
    /// It keeps the dead letters.
    DeadLetters,
    /// It keeps the workers' heartbeats and their leader.
    Fleet,
    /// The Kinesis Client Library keeps something of its own in it.
    Kcl,
    /// It keeps the leases with their checkpoints.
    Leases,
    /// Its stream is read.
    Source,
}

impl TableRole {
    fn remedy(self) -> &'static str {
        match self {
            Self::DeadLetters => "start the workers again, which create it; its letters are gone unless it is restored",
            Self::Fleet => "start the workers again, which create it; no position is lost",
            Self::Kcl => "only the Kinesis Client Library creates it",
            Self::Leases => {
                "restore it from a backup, or start the workers again, which create it and begin at the start position"
            }
            Self::Source => "check its name, and the region and endpoint in use",
        }
    }
}

impl std::fmt::Display for TableRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DeadLetters => "dead-letter table",
            Self::Fleet => "fleet table",
            Self::Kcl => "KCL's table",
            Self::Leases => "lease table",
            Self::Source => "table",
        })
    }
}

/// A failed call to a table, by what its caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table does not exist.
    #[error("{role} {table} does not exist: {}", role.remedy())]
    Missing {
        /// The table's name.
        table: String,
        /// The table's role in the application.
        role: TableRole,
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
         Choose another application; nothing was written to it"
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
    pub(crate) fn new<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
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
    pub(crate) fn new<E>(operation: &'static str, role: TableRole, table: &str, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let (table, source) = (table.to_owned(), CallError::new(error));
        match ErrorKind::of(error) {
            ErrorKind::NotFound => Self::Missing { table, role },
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
pub(crate) fn describe<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => match error {
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            SdkError::DispatchFailure(failure) => failure
                .as_connector_error()
                .map_or_else(|| "the call could not be sent".to_owned(), |error| with_causes(error)),
            SdkError::ResponseError(_) | SdkError::ServiceError(_) => {
                error.raw_response().map_or_else(|| "the answer could not be read".to_owned(), unreadable)
            }
            _ => error.source().map_or_else(|| "the call could not be made".to_owned(), with_causes),
        },
    }
}

/// The words for an answer that is none of the service's, such as a proxy's page.
pub(crate) fn unreadable(answer: &HttpResponse) -> String {
    let kind = match answer.body().bytes() {
        Some([]) => "empty",
        _ => answer.headers().get("content-type").unwrap_or("of no type"),
    };
    let status = answer.status();
    format!("the answer is not the service's (HTTP {status}, {kind}): check the endpoint, and proxies on the way to it")
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
    in_words(text)
}

/// The same text; rustls names some causes by Rust's variants, such as `Other(OtherError(CaUsedAsEndEntity))`, which
/// become words.
fn in_words(text: String) -> String {
    const BEFORE: [&str; 4] =
        ["invalid peer certificate: ", "received fatal alert: ", "peer is incompatible: ", "peer misbehaved: "];
    let Some(at) = BEFORE.iter().find_map(|before| Some(text.find(before)? + before.len())) else { return text };
    let (start, rest) = text.split_at(at);
    let variants = rest.split_once(" {").map_or(rest, |(variants, _)| variants);
    let name = variants.trim_end_matches(')').rsplit('(').next().unwrap_or_default();
    let is_name = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'(' | b')');
    if name.is_empty() || !variants.bytes().all(is_name) {
        return text;
    }
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    if name == "UnknownIssuer" {
        words += " (SSL_CERT_FILE, and for AWS also AWS_CA_BUNDLE, name the authorities to trust)";
    }
    format!("{start}{words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_tls_names_by_variants_are_told_in_words() {
        for (text, words) in [
            ("x: invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "ca used as end entity"),
            ("peer is incompatible: NoCipherSuitesInCommon", "no cipher suites in common"),
            ("invalid peer certificate: UnknownIssuer", "unknown issuer"),
            ("invalid peer certificate: UnsupportedAlgorithm { id: [1, 2] }", "unsupported algorithm"),
        ] {
            let told = in_words(text.to_owned());
            assert!(told.contains(words) && !told.contains(['{', '[']) && !told.contains("Other"), "{told}");
        }
        let good = "invalid peer certificate: certificate expired: verification time 2 (UNIX)";
        assert_eq!(in_words(good.to_owned()), good);
    }
}
