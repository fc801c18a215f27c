//! What happens to records whose processing fails.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::processor::BoxError;
use crate::dead_letters::queue::DeadLetterQueue;
use crate::model::sequence_number::SequenceNumber;

/// Why a batch is not done. Anything that is an error becomes one by `?`, and then the whole batch failed.
#[derive(Debug)]
pub struct BatchError {
    source: BoxError,
    failed_from: Option<SequenceNumber>,
}

impl BatchError {
    /// The record at `position` failed: those before it in the batch are done, it and those behind it are not. Of
    /// several failed records this is the first, as for Lambda's `batchItemFailures`.
    pub fn from_record(position: SequenceNumber, source: impl Into<BoxError>) -> Self {
        Self { source: source.into(), failed_from: Some(position) }
    }

    /// The first record that is not done; nothing when none is.
    pub fn failed_from(&self) -> Option<&SequenceNumber> {
        self.failed_from.as_ref()
    }

    /// What went wrong.
    pub fn source(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self.source.as_ref()
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl<E: Into<BoxError>> From<E> for BatchError {
    fn from(error: E) -> Self {
        Self { source: error.into(), failed_from: None }
    }
}

/// How often a failing batch is tried, and what follows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailurePolicy {
    /// The most calls with the same records (default: no limit with [`OnFailure::Halt`]).
    pub attempts: Option<u32>,
    /// A record that has failed and is older than this is given up (default: no limit).
    pub max_record_age: Option<Duration>,
    /// Whether a failing batch is cut in half, and each half tried by itself, down to the record that fails (default:
    /// yes).
    pub bisect: bool,
    /// The first wait before another attempt; the waits double from it, each with full jitter.
    pub first_wait: Duration,
    /// The longest wait before another attempt.
    pub longest_wait: Duration,
    /// How long one call may take; after that it has failed (default: no limit).
    pub handler_timeout: Option<Duration>,
    /// What follows when a limit is reached.
    pub on_failure: OnFailure,
}

/// What follows when a record has used up its attempts or its age.
#[derive(Clone)]
#[non_exhaustive]
pub enum OnFailure {
    /// Its shard waits, visibly, and tries on; nothing is lost.
    Halt,
    /// It is counted, logged and passed over.
    Skip,
    /// It is kept here, and then passed over.
    DeadLetter(Arc<dyn DeadLetterQueue>),
}

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Halt => "Halt",
            Self::Skip => "Skip",
            Self::DeadLetter(_) => "DeadLetter",
        })
    }
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self {
            attempts: None,
            max_record_age: None,
            bisect: true,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(30),
            handler_timeout: None,
            on_failure: OnFailure::Halt,
        }
    }
}
