//! The options of a local service.

use std::time::Duration;

/// The options of a [`LocalService`](crate::LocalService). Defaults are the real service's values where it has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOptions {
    /// The region in ARNs and records.
    pub region: String,
    /// The account id in ARNs, 12 digits.
    pub account_id: String,
    /// Shards that a new stream starts with, at least 1. The real service has about one for each partition of the
    /// table, some four for a new on-demand table.
    pub initial_shards: u32,
    /// The age at which an open shard closes and one child continues its keys; `None` for never. The real service does
    /// so about every 4 hours.
    pub rollover: Option<Duration>,
    /// Life of a record ("Data retention limit for DynamoDB Streams": 24 hours).
    pub retention: Duration,
    /// Life of a shard iterator (GetShardIterator: 15 minutes).
    pub iterator_ttl: Duration,
    /// GetRecords calls allowed for a shard each second, `None` for any number. Beyond: LimitExceededException.
    pub get_records_per_second: Option<u32>,
    /// DescribeStream calls allowed for a stream each second, `None` for any number; the documentation says 10.
    /// Beyond: ThrottlingException.
    pub describe_stream_per_second: Option<u32>,
    /// Most records on a page of GetRecords (documented: 1000).
    pub page_records: usize,
    /// Most bytes on a page of GetRecords, save that a page always takes one record (documented: 1 MB).
    pub page_bytes: usize,
    /// Most shards on a page of DescribeStream (documented: 100).
    pub page_shards: usize,
    /// Pause between sweeps for expired items. The real service takes up to a few days.
    pub ttl_sweep_interval: Duration,
    /// Duration of an index's creation or deletion by UpdateTable. The index is CREATING or DELETING at least in the
    /// answer.
    pub index_backfill: Duration,
    /// The first sequence number of a new stream, by the API 21 to 40 digits. Start near a power of ten to get numbers
    /// of unequal length.
    pub first_sequence_number: u128,
    /// Seed of ids and fault draws: equal seeds and calls give equal answers.
    pub seed: u64,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            account_id: "000000000000".to_owned(),
            initial_shards: 4,
            rollover: Some(Duration::from_secs(4 * 3600)),
            retention: Duration::from_secs(24 * 3600),
            iterator_ttl: Duration::from_secs(15 * 60),
            get_records_per_second: None,
            describe_stream_per_second: None,
            page_records: 1000,
            page_bytes: 1024 * 1024,
            page_shards: 100,
            ttl_sweep_interval: Duration::from_secs(1),
            index_backfill: Duration::ZERO,
            first_sequence_number: 100_000_000_000_000_000_001,
            seed: 0,
        }
    }
}
