//! The causes of a shard's wait that its owner reports: a record that keeps failing, a call that does not return, a stall.

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

/// The beginning of a text that is reported, up to some hundred bytes.
pub fn shown(text: &str) -> String {
    text[..text.floor_char_boundary(300)].to_owned()
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

/// A shard without progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// The cause.
    pub cause: StallCause,
    /// The last error, of a cause that has one, cut to some hundred bytes.
    pub error: Option<String>,
    /// The time of its start (ms since the epoch).
    pub since_ms: u64,
}

/// The cause of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StallCause {
    /// A processor call does not return.
    Processor,
    /// The processor keeps failing.
    Retrying,
    /// The processor is busy or away.
    Unavailable,
    /// Dead letters cannot be written.
    DeadLetters,
    /// Reading keeps failing.
    Reading,
    /// There is no memory for another page.
    Memory,
    /// Too many calls are in flight for another one.
    Concurrency,
}

impl StallCause {
    /// All causes.
    pub const ALL: [Self; 7] = [
        Self::Processor,
        Self::Retrying,
        Self::Unavailable,
        Self::DeadLetters,
        Self::Reading,
        Self::Memory,
        Self::Concurrency,
    ];

    /// The cause in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Processor => "a call of the processor does not return",
            Self::Retrying => "the processor keeps failing",
            Self::Unavailable => "the processor is unavailable",
            Self::DeadLetters => "its dead letters cannot be written",
            Self::Reading => "reading it keeps failing",
            Self::Memory => "other shards hold the buffer",
            Self::Concurrency => "calls of other shards do not return",
        }
    }

    /// The cause as a value of the label `cause`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Retrying => "retrying",
            Self::Unavailable => "unavailable",
            Self::DeadLetters => "dead_letters",
            Self::Reading => "reading",
            Self::Memory => "memory",
            Self::Concurrency => "concurrency",
        }
    }
}
