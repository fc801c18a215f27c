//! What a shard waits for when one of its records keeps failing.

use serde::{Deserialize, Serialize};

/// A record that keeps failing and is not given up, for which its shard, or at least what follows of its item, waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedRecord {
    /// Where the record stands in its shard.
    pub sequence_number: String,
    /// The service's id of the change.
    pub event_id: Option<String>,
    /// The item's key, as the service wrote it, cut to some hundred bytes.
    pub keys: String,
    /// What went wrong last, cut to some hundred bytes.
    pub error: String,
    /// How often the record was handed to the processor.
    pub attempts: u32,
    /// When it failed first (ms since the epoch).
    pub since_ms: u64,
}

impl BlockedRecord {
    /// How much of keys and errors is kept.
    pub const SHOWN_BYTES: usize = 300;
}
