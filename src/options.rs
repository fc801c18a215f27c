//! The settings of a worker, in one struct that coordination and consumers share whole.

use std::time::Duration;

use crate::aws::clients::Endpoints;
use crate::consumer::{FailurePolicy, WallClock};
use crate::model::batcher::{MOST_BYTES, MOST_RECORDS};
use crate::model::checkpoint::Checkpoint;
use crate::model::filter::Filters;
use crate::model::scaling::ScalingOptions;

/// Which stream a worker reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSelector {
    /// The latest stream of this table.
    Table(String),
    /// The stream with this ARN.
    Arn(String),
}

/// How a worker reads and takes part in its fleet. Start from [`WorkerOptions::new`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// The application: the name of its lease table. Workers of one application share the stream's shards.
    pub app: String,
    /// The stream.
    pub stream: StreamSelector,
    /// This worker's id: unique in the application, and best the same after a restart, which then takes its own leases
    /// back at once.
    pub worker_id: String,
    /// Where the services are, if not where the AWS environment says.
    pub endpoints: Endpoints,
    /// Where a new application begins: [`Checkpoint::TrimHorizon`] (default) or [`Checkpoint::Latest`].
    pub start: Checkpoint,
    /// Whether missing tables are made (default: yes).
    pub create_tables: bool,
    /// Whether to end when everything that was in the stream at the start is delivered (default: no).
    pub until_caught_up: bool,
    /// For how long a worker that shows no sign of life keeps its leases (default: 5 s). The same for all workers.
    pub lease_duration: Duration,
    /// When checkpoints are written (default: automatically, each 5 s).
    pub checkpoints: Checkpoints,
    /// What follows when a batch fails (default: it is tried again for ever, in ever smaller parts, while its shard
    /// waits).
    pub failure: FailurePolicy,
    /// The most batches that are worked on at once, over all shards (default: no limit but one a shard).
    pub concurrency: Option<usize>,
    /// The most batches of one shard that are worked on at once (default: 1, in the shard's order). Above one, the
    /// records of one item stay in order and come one batch at a time, those of different items do not.
    pub shard_concurrency: usize,
    /// The most records of a batch, from 1 to 10,000 (default: as many as a page has).
    pub batch_size: Option<usize>,
    /// The most bytes of a batch, as JSON, up to 4 MiB; a single record may be larger (default: no limit).
    pub batch_bytes: Option<usize>,
    /// How long a batch waits to fill up to `batch_size` or `batch_bytes` (default: not at all).
    pub batch_window: Duration,
    /// The longest gap between two calls on an empty shard (default: 1 s).
    pub idle_poll: Duration,
    /// The most bytes of records held in memory, for all shards together (default: 128 MiB).
    pub buffer_bytes: u64,
    /// The most leases that this worker will hold (default: no limit).
    pub max_leases: Option<usize>,
    /// How long a call of a processor may last before the worker gives its shard to another one, if there is any
    /// (default: no limit). What the call still does to the outside is not undone; what it returns is refused.
    pub stuck_after: Option<Duration>,
    /// How long a shard may stand still, by its processor or by reading that fails, before the worker says that it is
    /// not ready (default: 60 s).
    pub unready_after: Duration,
    /// By what the number of workers is judged that the load calls for (default: at least one, each of which processes
    /// 10 MiB a second, and a backlog worked off in ten minutes).
    pub desired_workers: ScalingOptions,
    /// How long to try to reach the services at the start (default: 60 s).
    pub start_timeout: Duration,
    /// How long a worker that is asked to stop waits for its processors and for its leases to be handed over
    /// (default: 25 s).
    pub drain_timeout: Duration,
    /// What to do when records were trimmed before they were read (default: go on).
    pub on_gap: OnGap,
    /// Which records the processors get (default: all). The others are read and passed over.
    pub filters: Filters,
    /// For how long leases whose owner isn't in the fleet table must stand still before the owner counts as dead
    /// (default: 10 s, KCL's own).
    pub kcl_failover_time: Duration,
    /// What everything that is left to chance follows from; `None` for a seed that nobody knows.
    pub seed: Option<u64>,
    /// The time of day, for lag and logs.
    pub clock: WallClock,
    /// Whether coordination gets a thread and connections of its own (default), or shares the caller's runtime, as a
    /// simulation wants it.
    pub own_thread: bool,
}

/// When checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// What `process_records` returned `Ok` for is done; written each interval while there is something new.
    Automatic {
        /// The longest that something done stays unwritten.
        interval: Duration,
    },
    /// The processor calls its [`Checkpointer`](crate::Checkpointer).
    Manual,
}

/// What to do when records were trimmed before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Go on with the oldest record there is.
    Continue,
    /// Stop the worker.
    Stop,
}

impl WorkerOptions {
    /// The defaults.
    pub fn new(app: impl Into<String>, stream: StreamSelector, worker_id: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            stream,
            worker_id: worker_id.into(),
            endpoints: Endpoints::default(),
            start: Checkpoint::TrimHorizon,
            create_tables: true,
            until_caught_up: false,
            lease_duration: Duration::from_secs(5),
            checkpoints: Checkpoints::Automatic { interval: Duration::from_secs(5) },
            failure: FailurePolicy::default(),
            concurrency: None,
            shard_concurrency: 1,
            batch_size: None,
            batch_bytes: None,
            batch_window: Duration::ZERO,
            idle_poll: Duration::from_secs(1),
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

    /// Refuses combinations that make no sense.
    ///
    /// # Errors
    /// The first option that makes none, and the reason.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let is_sized = self.batch_size.is_some() || self.batch_bytes.is_some();
        let (option, reason) = if self.shard_concurrency == 0 {
            ("shard_concurrency", "a worker that may work on nothing at once does nothing")
        } else if self.concurrency == Some(0) {
            ("concurrency", "a worker that may work on nothing at once does nothing")
        } else if self.shard_concurrency > 1 && self.checkpoints == Checkpoints::Manual {
            (
                "checkpoints",
                "a processor cannot checkpoint by hand when several items of a shard are worked on at once: its \
                 progress is not one position",
            )
        } else if self.concurrency.is_some_and(|most| most < self.shard_concurrency) {
            ("shard_concurrency", "is more than concurrency, the limit over all shards, allows")
        } else if self.batch_size.is_some_and(|size| !(1..=MOST_RECORDS).contains(&size)) {
            ("batch_size", "a batch has from 1 to 10,000 records")
        } else if self.batch_bytes.is_some_and(|size| !(1..=MOST_BYTES).contains(&size)) {
            ("batch_bytes", "a batch has from 1 byte to 4 MiB")
        } else if !self.batch_window.is_zero() && !is_sized {
            ("batch_window", "a batch without a size has nothing to fill up to: set batch size or bytes too")
        } else if self.failure.attempts == Some(0) {
            ("failure", "a batch is attempted once at least")
        } else {
            return Ok(());
        };
        Err(OptionsError { option, reason })
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
