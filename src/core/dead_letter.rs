//! Dead letters: records that the worker gave up on, whole, with what there is to know about their failure.

use super::lease::ShardId;
use super::sequence_number::SequenceNumber;

/// A record that could not be processed within the limits of the failure policy.
///
/// The stream, the shard and the sequence number are its identity: the same record that is given up on once more,
/// after a crash, is the same dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The stream's ARN.
    pub stream_arn: String,
    /// The shard.
    pub shard_id: ShardId,
    /// Where the record stands in the shard.
    pub sequence_number: SequenceNumber,
    /// The service's id of the change, where the record has one.
    pub event_id: Option<String>,
    /// The record as JSON, byte for byte as the service sent it.
    pub record: String,
    /// The last error, cut to [`DeadLetter::MAX_ERROR_BYTES`].
    pub error: String,
    /// Why no further attempt was made.
    pub reason: GaveUp,
    /// How often the record was handed to the processor.
    pub attempts: u32,
    /// When its change happened (ms since the epoch; the service gives whole seconds), where the record says so.
    pub created_ms: Option<u64>,
    /// When it failed first (ms since the epoch).
    pub first_failed_ms: u64,
    /// When it failed last (ms since the epoch).
    pub last_failed_ms: u64,
    /// The worker that gave it up.
    pub worker: String,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GaveUp {
    /// As many attempts as are allowed.
    Attempts,
    /// The record is older than is allowed.
    Age,
}

impl DeadLetter {
    /// How much of an error's text is kept.
    pub const MAX_ERROR_BYTES: usize = 4096;

    /// A letter without its failure's story: one attempt, failed at `failed_ms`.
    pub fn new(
        stream_arn: impl Into<String>,
        shard_id: ShardId,
        sequence_number: SequenceNumber,
        record: impl Into<String>,
        error: &str,
        failed_ms: u64,
    ) -> Self {
        let end = error.floor_char_boundary(Self::MAX_ERROR_BYTES);
        Self {
            stream_arn: stream_arn.into(),
            shard_id,
            sequence_number,
            event_id: None,
            record: record.into(),
            error: error[..end].to_owned(),
            reason: GaveUp::Attempts,
            attempts: 1,
            created_ms: None,
            first_failed_ms: failed_ms,
            last_failed_ms: failed_ms,
            worker: String::new(),
        }
    }
}
