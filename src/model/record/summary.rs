//! The facts of a page that its readers share, worked out once.

use super::{Record, RecordBatch};
use crate::model::sequence_number::SequenceNumber;

/// The records of a full page (API reference, GetRecords).
const FULL_PAGE_RECORDS: usize = 1000;
/// The bytes of a full page: 1 MB of records is at least this much JSON.
const FULL_PAGE_BYTES: usize = 900_000;

/// The facts of some records of a page, of which there is at least one. Times are milliseconds since the epoch, absent
/// where a record has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSummary {
    /// The position of the last record.
    pub last: SequenceNumber,
    /// The number of records.
    pub records: usize,
    /// The size of the records as the service sent them, without the bytes between them.
    pub bytes: usize,
    /// The creation time of the first record.
    pub oldest_ms: Option<u64>,
    /// The creation time of the last record.
    pub newest_ms: Option<u64>,
}

impl PageSummary {
    /// The summary of these records; `None` when there is none.
    pub fn of(records: &RecordBatch) -> Option<Self> {
        let (first, last) = (records.first()?, records.last()?);
        Some(Self {
            last: last.sequence_number().parse().ok()?,
            records: records.len(),
            bytes: records.bytes_len(),
            oldest_ms: first.created_ms(),
            newest_ms: last.created_ms(),
        })
    }

    /// Whether a page with these records holds as much as one can.
    pub fn is_full(&self) -> bool {
        self.records >= FULL_PAGE_RECORDS || self.bytes >= FULL_PAGE_BYTES
    }
}

impl Record<'_> {
    /// The creation time in milliseconds since the epoch.
    pub(crate) fn created_ms(&self) -> Option<u64> {
        let ms = (self.created_at_secs()? * 1000.0).clamp(0.0, 1e15);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
        let ms = ms as u64;
        Some(ms)
    }
}
