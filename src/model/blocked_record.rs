//! A record that keeps failing and blocks its shard.

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
