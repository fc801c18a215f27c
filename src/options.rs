//! The settings of a worker, in one struct that coordination and consumers share whole.

use std::time::{Duration, SystemTime};

use crate::aws::clients::Endpoints;
use crate::consumer::{FailurePolicy, WallClock};
use crate::model::batcher::{MOST_BYTES, MOST_RECORDS};
use crate::model::filter::Filters;
use crate::model::scaling::ScalingOptions;

/// Which stream a worker reads. A text is a table's name or ARN, or a stream's ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamSelector {
    /// The latest stream of this table.
    Table(String),
    /// The stream with this ARN.
    Arn(String),
}

impl From<&str> for StreamSelector {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for StreamSelector {
    fn from(text: String) -> Self {
        if text.starts_with("arn:") && text.contains("/stream/") { Self::Arn(text) } else { Self::Table(text) }
    }
}

/// The settings of a worker. Start from [`WorkerOptions::new`] and change the fields.
///
/// ```
/// use shardkeeper::WorkerOptions;
///
/// let mut options = WorkerOptions::new("phone-audit", "Phones", "worker-1");
/// options.batch_size = Some(100);
/// options.shard_concurrency = 4;
/// assert!(options.validate().is_ok());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// The application: the name of its lease table. Workers of one application share the stream's shards.
    pub app: String,
    /// The stream.
    pub stream: StreamSelector,
    /// This worker's id, unique in the application. A process that restarts with the same id takes its leases back at
    /// once.
    pub worker_id: String,
    /// Region and endpoints that differ from those of the AWS environment.
    pub endpoints: Endpoints,
    /// Position at which a new application begins (default: the oldest record).
    pub start: StartPosition,
    /// Whether to create missing tables (default: yes).
    pub create_tables: bool,
    /// Whether a table or stream that is missing at the start is waited for, as long as services are (default: no).
    pub wait_for_table: bool,
    /// Whether to end when everything that was in the stream at the start is delivered (default: no).
    pub until_caught_up: bool,
    /// Time without a heartbeat after which a worker's leases expire (default: 5 s). The same for all workers.
    pub lease_duration: Duration,
    /// Checkpoint mode (default: automatic, each 5 s).
    pub checkpoints: Checkpoints,
    /// Handling of batches that fail (default: retry forever, bisecting down to the failing record, while the shard
    /// waits).
    pub failure: FailurePolicy,
    /// The most batches in progress at once, over all shards (default: no limit but one a shard).
    pub concurrency: Option<usize>,
    /// The most batches of one shard in progress at once (default: 1, in the shard's order). Above 1, only the records of
    /// one item keep their order, one batch at a time.
    pub shard_concurrency: usize,
    /// The most records of a batch, from 1 to 10,000 (default: as many as a page has).
    pub batch_size: Option<usize>,
    /// The most bytes of a batch, as JSON, up to 4 MiB; a single record may be larger (default: no limit).
    pub batch_bytes: Option<usize>,
    /// The longest wait for a batch to fill up to `batch_size` or `batch_bytes` (default: none).
    pub batch_window: Duration,
    /// The interval at which [`RecordProcessor::idle`](crate::RecordProcessor::idle) is called while a shard has nothing
    /// to deliver (default: never).
    pub idle_interval: Option<Duration>,
    /// The longest gap between two calls on an empty shard (default: 1 s).
    pub idle_poll: Duration,
    /// The longest gap on a shard that has been empty for long (default: `idle_poll`). Above `idle_poll`, a gap is a tenth
    /// of the time without a record.
    pub idle_poll_max: Option<Duration>,
    /// The most calls of DescribeStream a second (default: 3). The service allows ten for the whole account, and more
    /// workers than one look for new shards.
    pub describe_stream_rate: u32,
    /// The most bytes of records held in memory, for all shards together (default: 128 MiB).
    pub buffer_bytes: u64,
    /// The most leases that this worker will hold (default: no limit).
    pub max_leases: Option<usize>,
    /// The time after which a processor call hangs (default: never). It no longer counts in `concurrency` then, but in a
    /// limit of the same size for hung calls, and is dropped once the processor answers another. A shard of which no call
    /// was answered for that long goes to another worker, if there is one. The results of dropped calls are refused; their
    /// side effects are not undone.
    pub stuck_after: Option<Duration>,
    /// The longest time without progress of a shard, because of its processor or of failing reads, before the worker
    /// reports that it is not ready (default: 60 s).
    pub unready_after: Duration,
    /// Model for the number of workers that the load calls for (default: at least one, 10 MiB a second each, and ten
    /// minutes for a backlog).
    pub desired_workers: ScalingOptions,
    /// The longest time to reach the services at the start (default: 60 s).
    pub start_timeout: Duration,
    /// The longest time that a stopping worker waits for its processors and for the hand-off of its leases (default:
    /// 25 s).
    pub drain_timeout: Duration,
    /// Handling of records that were trimmed before they were read (default: continue).
    pub on_gap: OnGap,
    /// The records that processors get (default: all). Others are read and skipped.
    pub filters: Filters,
    /// Time without a change after which a lease whose owner isn't in the fleet table expires (default: 10 s, KCL's
    /// `failoverTimeMillis`). The longest lease duration in the fleet counts if it is longer.
    pub kcl_failover_time: Duration,
    /// Seed of all random choices; `None` for a random seed.
    #[doc(hidden)]
    pub seed: Option<u64>,
    /// The time of day, for lag and logs.
    #[doc(hidden)]
    pub clock: WallClock,
    /// Whether coordination gets a thread and connections of its own (default), or shares the caller's runtime, as a
    /// simulation wants it.
    #[doc(hidden)]
    pub own_thread: bool,
}

/// Checkpoint modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checkpoints {
    /// The worker checkpoints records after `process_records` returns `Ok` for them, each interval.
    Automatic {
        /// The longest time between the processing of a record and its checkpoint.
        interval: Duration,
    },
    /// The processor calls its [`Checkpointer`](crate::Checkpointer).
    Manual,
}

/// The position at which a new application begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPosition {
    /// The oldest record that the service still has.
    TrimHorizon,
    /// The first record since the application first sees its stream, by the service's clock.
    Latest,
    /// The first record since this time, by the service's clock. What is older than the service keeps is a gap.
    At(SystemTime),
}

/// Handling of records that were trimmed before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnGap {
    /// Continue with the oldest record.
    Continue,
    /// Stop the worker.
    Stop,
}

impl WorkerOptions {
    /// The defaults.
    pub fn new(app: impl Into<String>, stream: impl Into<StreamSelector>, worker_id: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            stream: stream.into(),
            worker_id: worker_id.into(),
            endpoints: Endpoints::default(),
            start: StartPosition::TrimHorizon,
            create_tables: true,
            wait_for_table: false,
            until_caught_up: false,
            lease_duration: Duration::from_secs(5),
            checkpoints: Checkpoints::Automatic { interval: Duration::from_secs(5) },
            failure: FailurePolicy::default(),
            concurrency: None,
            shard_concurrency: 1,
            batch_size: None,
            batch_bytes: None,
            batch_window: Duration::ZERO,
            idle_interval: None,
            idle_poll: Duration::from_secs(1),
            idle_poll_max: None,
            describe_stream_rate: 3,
            buffer_bytes: 128 << 20,
            max_leases: None,
            stuck_after: None,
            unready_after: Duration::from_secs(60),
            desired_workers: ScalingOptions {
                min: 1,
                max: None,
                capacity_kbps: 10.0 * 1024.0,
                catch_up: Duration::from_secs(600),
            },
            start_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(25),
            on_gap: OnGap::Continue,
            filters: Filters::new(),
            kcl_failover_time: Duration::from_secs(10),
            seed: None,
            clock: WallClock::System,
            own_thread: true,
        }
    }

    /// The longest gap between two calls on an empty shard, however long it has been empty.
    pub(crate) fn idle_poll_max(&self) -> Duration {
        self.idle_poll_max.unwrap_or(self.idle_poll)
    }

    /// Refuses values out of range and combinations that make no sense.
    ///
    /// # Errors
    /// The first option that makes no sense, and the reason.
    pub fn validate(&self) -> Result<(), OptionsError> {
        match self.mistakes().into_iter().find(|(_, _, is_made)| *is_made) {
            Some((option, reason, _)) => Err(OptionsError { option, reason }),
            None => Ok(()),
        }
    }

    /// Each mistake that may be made: the option, the reason that it is one, and whether it is made.
    fn mistakes(&self) -> Vec<(&'static str, &'static str, bool)> {
        let table_chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let is_sized = self.batch_size.is_some() || self.batch_bytes.is_some();
        let is_manual = self.checkpoints == Checkpoints::Manual;
        let is_automatic_without_end =
            matches!(self.checkpoints, Checkpoints::Automatic { interval } if interval.is_zero());
        let (StreamSelector::Table(stream) | StreamSelector::Arn(stream)) = &self.stream;
        let failure = &self.failure;
        let is_zero = |duration: Option<Duration>| duration.is_some_and(|duration| duration.is_zero());
        let works_on_nothing = "a worker that may work on nothing at once does nothing";
        vec![
            (
                "app",
                "it names a DynamoDB table: from 3 to 249 letters, digits, '_', '.' and '-'",
                !(3..=249).contains(&self.app.len()) || !self.app.chars().all(table_chars),
            ),
            ("stream", "a table's name or a stream's ARN is needed", stream.is_empty()),
            ("worker_id", "each worker needs an id of its own", self.worker_id.is_empty()),
            ("shard_concurrency", works_on_nothing, self.shard_concurrency == 0),
            ("concurrency", works_on_nothing, self.concurrency == Some(0)),
            ("max_leases", "a worker that may hold no lease does nothing", self.max_leases == Some(0)),
            (
                "checkpoints",
                "a processor cannot checkpoint by hand when several items of a shard are worked on at once: its \
                 progress is not one position",
                self.shard_concurrency > 1 && is_manual,
            ),
            ("checkpoints", "the interval is zero", is_automatic_without_end),
            (
                "shard_concurrency",
                "is more than concurrency, the limit over all shards, allows",
                self.concurrency.is_some_and(|most| most < self.shard_concurrency),
            ),
            (
                "batch_size",
                "a batch has from 1 to 10,000 records",
                self.batch_size.is_some_and(|size| !(1..=MOST_RECORDS).contains(&size)),
            ),
            (
                "batch_bytes",
                "a batch has from 1 byte to 4 MiB",
                self.batch_bytes.is_some_and(|size| !(1..=MOST_BYTES).contains(&size)),
            ),
            (
                "batch_window",
                "a batch without a size has nothing to fill up to: set batch size or bytes too",
                !self.batch_window.is_zero() && !is_sized,
            ),
            ("failure", "a batch is attempted once at least", failure.attempts == Some(0)),
            ("failure", "a handler that has no time fails always", is_zero(failure.handler_timeout)),
            ("failure", "the first wait is longer than the longest", failure.first_wait > failure.longest_wait),
            (
                "lease_duration",
                "a lease lasts a second at least: a worker must be able to prove itself alive within it",
                self.lease_duration < Duration::from_secs(1),
            ),
            (
                "kcl_failover_time",
                "is zero: each lease of another worker would expire at once",
                self.kcl_failover_time.is_zero(),
            ),
            ("idle_poll", "is zero: an empty shard would be read without a pause", self.idle_poll.is_zero()),
            (
                "idle_poll_max",
                "is less than idle_poll",
                self.idle_poll_max.is_some_and(|longest| longest < self.idle_poll),
            ),
            (
                "idle_interval",
                "is zero: an idle processor would be called without a pause",
                is_zero(self.idle_interval),
            ),
            ("describe_stream_rate", "a worker that may list no shards finds none", self.describe_stream_rate == 0),
            ("buffer_bytes", "a worker that may hold no records reads none", self.buffer_bytes == 0),
            ("stuck_after", "is zero: each call would be stuck", is_zero(self.stuck_after)),
            ("start_timeout", "is zero: no start takes no time", self.start_timeout.is_zero()),
        ]
    }
}

/// An option that makes no sense with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {reason}")]
#[non_exhaustive]
pub struct OptionsError {
    /// The field of [`WorkerOptions`].
    pub option: &'static str,
    /// The reason, in a sentence.
    pub reason: &'static str,
}
