//! The causes of a shard's wait that its owner reports: a record that keeps failing, a call that does not return.

use serde::{Deserialize, Serialize};

/// A record that keeps failing and is not dead-lettered: its shard, or at least its item, waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedRecord {
    /// The record's position.
    pub sequence_number: String,
    /// The service's id of the change.
    pub event_id: Option<String>,
    /// The item's key, as the service wrote it, cut to some hundred bytes.
    pub keys: String,
    /// The last error, cut to some hundred bytes.
    pub error: String,
    /// The number of calls of the processor with the record.
    pub attempts: u32,
    /// The time of its first failure (ms since the epoch).
    pub since_ms: u64,
}

impl BlockedRecord {
    /// The most bytes kept of keys and errors.
    pub const SHOWN_BYTES: usize = 300;
}

/// A processor call in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCall {
    /// The position of its first record; none of a call without records, such as `initialize`.
    pub sequence_number: Option<String>,
    /// The number of its records.
    pub records: u64,
    /// The number of calls of the processor with these records, this one included.
    pub attempts: u32,
    /// The time of its start (ms since the epoch).
    pub since_ms: u64,
}

impl RunningCall {
    /// A call without records.
    pub fn without_records(since_ms: u64) -> Self {
        Self { sequence_number: None, records: 0, attempts: 1, since_ms }
    }
}
