//! The failure policy: attempts, bisecting, and the action on records that keep failing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::processor::BoxError;
use crate::dead_letters::queue::DeadLetterQueue;
use crate::model::sequence_number::SequenceNumber;

/// The failure of a batch. By `?`, any error becomes a failure of the whole batch.
///
/// ```
/// use shardkeeper::{BatchError, ProcessRecordsInput};
///
/// # enum Answer { Stored, Busy, Refused(&'static str) }
/// # fn store(_: &str) -> Answer { Answer::Stored }
/// fn store_all(input: &ProcessRecordsInput) -> Result<(), BatchError> {
///     let mut failures = BatchError::partial();
///     for record in &input.records {
///         match store(record.json()) {
///             Answer::Stored => {}
///             Answer::Busy => failures.retry(record.position(), "the store is busy"),
///             Answer::Refused(reason) => failures.reject(record.position(), reason),
///         }
///     }
///     failures.into_result()
/// }
/// ```
#[derive(Debug)]
pub struct BatchError {
    source: BoxError,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The whole batch failed.
    Batch,
    /// The records from this one on failed.
    From(SequenceNumber),
    /// These records failed, each in its way, and the others are done.
    Some(BTreeMap<SequenceNumber, RecordError>),
    /// The processor is busy or away, and asks to be spared for this time.
    Unavailable(Option<Duration>),
    /// The processor did not return in time. It `answers` if it returned from a later call meanwhile.
    TimedOut { answers: bool },
}

/// The failure of one record.
#[derive(Debug)]
pub(super) struct RecordError {
    /// Whether no retry will help.
    pub(super) is_rejected: bool,
    pub(super) source: BoxError,
}

/// Some failed records of a batch; the others are done. See [`BatchError`] for an example.
///
/// Others of an item's records may be done already when its failed one is retried. A processor that must not change their
/// order fails the batch from its first failed record on ([`BatchError::from_record`]).
#[derive(Debug, Default)]
pub struct PartialFailure(BTreeMap<SequenceNumber, RecordError>);

impl PartialFailure {
    /// Names a record to retry, by the failure policy.
    pub fn retry(&mut self, position: SequenceNumber, source: impl Into<BoxError>) {
        self.0.insert(position, RecordError { is_rejected: false, source: source.into() });
    }

    /// Names a record that no retry will help. It is skipped or dead-lettered at once; where the policy has records wait
    /// ([`OnFailure::Halt`]), it is retried all the same.
    pub fn reject(&mut self, position: SequenceNumber, source: impl Into<BoxError>) {
        self.0.insert(position, RecordError { is_rejected: true, source: source.into() });
    }

    /// The batch's outcome: `Ok` if no record failed.
    ///
    /// # Errors
    /// The failure, if a record was named.
    pub fn into_result(self) -> Result<(), BatchError> {
        let Some((position, first)) = self.0.first_key_value() else { return Ok(()) };
        let source = match self.0.len() {
            1 => first.source.to_string(),
            count => format!("{count} records failed, the first of them {position}: {}", first.source),
        };
        Err(BatchError { source: source.into(), kind: Kind::Some(self.0) })
    }
}

impl BatchError {
    /// A failure from the record at `position` on: the records before it in the batch are done, it and those after it
    /// are not. If several records failed, `position` is the first of them, as in Lambda's `batchItemFailures`.
    pub fn from_record(position: SequenceNumber, source: impl Into<BoxError>) -> Self {
        Self { source: source.into(), kind: Kind::From(position) }
    }

    /// The beginning of a failure of some records, which are named one by one.
    pub fn partial() -> PartialFailure {
        PartialFailure::default()
    }

    /// A failure for which no record is at fault: what the processor needs is busy or away. The same records are retried
    /// with backoff, after `retry_after` at the earliest (but within [`FailurePolicy::longest_wait`]). They are not
    /// bisected, and no attempt is counted; of the policy's limits only the age of records remains.
    pub fn unavailable(source: impl Into<BoxError>, retry_after: Option<Duration>) -> Self {
        Self { source: source.into(), kind: Kind::Unavailable(retry_after) }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        Self {
            source: format!("the call took longer than the handler's timeout, {limit:?}").into(),
            kind: Kind::TimedOut { answers: false },
        }
    }

    pub(super) fn hung(limit: Duration, answers: bool) -> Self {
        Self { source: format!("the call hung for {limit:?}").into(), kind: Kind::TimedOut { answers } }
    }

    pub(super) fn is_timeout(&self) -> bool {
        matches!(self.kind, Kind::TimedOut { .. })
    }

    /// Whether the call took too long while the processor answered others.
    pub(super) fn is_proved_timeout(&self) -> bool {
        matches!(self.kind, Kind::TimedOut { answers: true })
    }

    /// The first record that is not done; `None` if the whole batch failed.
    pub fn failed_from(&self) -> Option<&SequenceNumber> {
        match &self.kind {
            Kind::From(position) => Some(position),
            Kind::Some(records) => records.keys().next(),
            Kind::Batch | Kind::Unavailable(_) | Kind::TimedOut { .. } => None,
        }
    }

    /// The failure of the record at `position`, if records were named one by one; none: it is done.
    pub(super) fn of_record(&self, position: &SequenceNumber) -> Option<&RecordError> {
        match &self.kind {
            Kind::Some(records) => records.get(position),
            _ => None,
        }
    }

    /// Whether the processor is busy or away, so that no record is at fault.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable(_))
    }

    /// The least wait before the next attempt, as the processor asked for it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            Kind::Unavailable(retry_after) => retry_after,
            Kind::Batch | Kind::From(_) | Kind::Some(_) | Kind::TimedOut { .. } => None,
        }
    }

    /// The cause.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
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
        Self { source: error.into(), kind: Kind::Batch }
    }
}

/// A processor's error that no retry with the same records mends: it lacks earlier ones, which it has got and not
/// checkpointed. The shard is read again from its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard is read again from its checkpoint")]
pub struct ReadAgain;

/// The attempts at a failing batch, and the action after the last one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailurePolicy {
    /// The most calls with the same records (default: no limit with [`OnFailure::Halt`]).
    pub attempts: Option<u32>,
    /// The age after which a failing record is not retried (default: no limit).
    pub max_record_age: Option<Duration>,
    /// Whether a failing batch is bisected, down to the record that fails (default: yes).
    pub bisect: bool,
    /// The limit of the first wait before another attempt. It doubles with each attempt; the waits have full jitter.
    pub first_wait: Duration,
    /// The highest limit of the waits.
    pub longest_wait: Duration,
    /// The duration after which a call is dropped (default: no limit). The records of a batch are then retried alone, unless
    /// `bisect` is off. A record is at fault, and the call counts as an attempt, only if the worker's processors have
    /// answered another call since the first of its calls that was dropped, or five minutes after that. Before, the
    /// processor counts as [unavailable](BatchError::unavailable).
    pub handler_timeout: Option<Duration>,
    /// The action when a limit is reached.
    pub on_failure: OnFailure,
}

/// The action on a record that has reached the limit of its attempts or its age.
#[derive(Clone)]
#[non_exhaustive]
pub enum OnFailure {
    /// The shard halts at the record, which is retried until it succeeds. Nothing is lost.
    Halt,
    /// The record is skipped, counted and logged.
    Skip,
    /// The record is kept as a dead letter in this queue, and skipped.
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

impl OnFailure {
    /// Keeps records as dead letters in `queue`.
    pub fn dead_letter(queue: impl DeadLetterQueue) -> Self {
        Self::DeadLetter(Arc::new(queue))
    }
}

/// Changes to a policy, one after the other:
///
/// ```
/// use std::time::Duration;
///
/// use shardkeeper::{FailurePolicy, OnFailure};
///
/// let policy = FailurePolicy::default()
///     .attempts(5)
///     .handler_timeout(Duration::from_secs(10))
///     .on_failure(OnFailure::Skip);
/// assert_eq!(policy.attempts, Some(5));
/// ```
impl FailurePolicy {
    /// Sets the most calls with the same records.
    #[must_use]
    pub fn attempts(self, most: u32) -> Self {
        Self { attempts: Some(most), ..self }
    }

    /// Sets the age after which a failing record is not retried.
    #[must_use]
    pub fn max_record_age(self, age: Duration) -> Self {
        Self { max_record_age: Some(age), ..self }
    }

    /// Sets whether a failing batch is bisected.
    #[must_use]
    pub fn bisect(self, bisect: bool) -> Self {
        Self { bisect, ..self }
    }

    /// Sets the duration after which a call counts as failed.
    #[must_use]
    pub fn handler_timeout(self, limit: Duration) -> Self {
        Self { handler_timeout: Some(limit), ..self }
    }

    /// Sets the action when a limit is reached.
    #[must_use]
    pub fn on_failure(self, action: OnFailure) -> Self {
        Self { on_failure: action, ..self }
    }

    /// The wait before the next attempt: `backoff`, or as long as the processor asked for, up to the longest wait.
    pub(super) fn wait_after(&self, error: &BatchError, backoff: Duration) -> Duration {
        error.retry_after().map_or(backoff, |asked| backoff.max(asked.min(self.longest_wait)))
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
