//! Consumers, which read the shards whose leases this worker holds.
//!
//! The coordinator starts a consumer for each lease and commands it through a [`ConsumerHandle`]. A consumer is a
//! reader, which fetches ahead, and a delivery, which hands the records to the user's [`RecordProcessor`]s. All
//! consumers of a worker share its [`ConsumerDeps`].

mod box_processor;
mod budget;
mod busy_time;
mod checkpointer;
mod clock;
mod counters;
mod delivery;
mod failure;
mod fault_log;
mod for_each;
#[cfg(feature = "testing")]
pub mod harness;
#[cfg(feature = "testing")]
mod journal;
mod lease_deadline;
mod lease_handle;
mod lifetime;
mod limit;
mod live_options;
mod processor;
mod projection;
mod reader;
mod replay;
mod shard_consumer;
mod status;

use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

pub use self::box_processor::BoxProcessor;
pub use self::budget::Budget;
pub use self::checkpointer::{CheckpointError, Checkpointer, CommitError, Committed};
pub use self::clock::WallClock;
pub use self::counters::{Counters, Totals};
pub use self::delivery::DROP_LIMIT;
pub use self::failure::{BatchError, FailurePolicy, OnFailure, PartialFailure, ReadAgain};
pub use self::for_each::{ForEach, ForEachRecord, HandlerOutcome, for_each};
pub use self::lease_deadline::LeaseDeadline;
pub use self::lifetime::Lifetime;
pub use self::live_options::LiveOptions;
pub use self::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
pub use self::projection::Projection;
pub use self::replay::{Replayer, StillFails};
pub use self::shard_consumer::{ConsumerCommand, ConsumerExit, FatalError};
pub use self::status::ConsumerStatus;

use self::counters::EventCounts;
use self::shard_consumer::ShardConsumer;
use crate::aws::lease_table::LeaseTable;
pub use crate::aws::lease_table::{MAX_WRITES, RefusedWrite, TransactWriteItem};
use crate::aws::stream::Stream;
use crate::model::filter::Filters;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::record::RecordBatch;
use crate::options::WorkerOptions;
use crate::shard_directory::ShardDirectory;
use crate::telemetry::scope::SPANS;

/// The parts of a worker that its consumers share.
pub struct ConsumerDeps<F> {
    stream: Stream,
    table: LeaseTable,
    worker: WorkerId,
    deadline: LeaseDeadline,
    budget: Budget,
    factory: Arc<F>,
    directory: ShardDirectory,
    lifetime: Lifetime,
    options: Arc<WorkerOptions>,
    live: LiveOptions,
    /// The time (ms since the epoch) that `LATEST` stands for.
    started_at_ms: u64,
    /// The origin of the moments that the worker's shards have in common.
    origin: Instant,
    counters: Counters,
    /// The number of processor calls that were answered, also with a failure.
    answered: watch::Sender<u64>,
}

impl<F: ProcessorFactory> ConsumerDeps<F> {
    /// Wires the consumers of a worker.
    #[expect(clippy::too_many_arguments, reason = "one call, in the worker, which wires everything")]
    pub fn new(
        stream: Stream,
        table: LeaseTable,
        worker: WorkerId,
        deadline: LeaseDeadline,
        budget: Budget,
        factory: Arc<F>,
        live: LiveOptions,
        started_at_ms: u64,
        counters: Counters,
        directory: ShardDirectory,
        lifetime: Lifetime,
    ) -> Arc<Self> {
        Arc::new(Self {
            stream,
            table,
            worker,
            deadline,
            budget,
            factory,
            directory,
            lifetime,
            options: live.now(),
            live,
            started_at_ms,
            origin: Instant::now(),
            counters,
            answered: watch::Sender::default(),
        })
    }

    /// The worker's filters, bound to the stream.
    fn filters(&self) -> Filters {
        self.live.now().filters.clone().for_stream(self.stream.arn())
    }

    /// Leaves out the records that the filters refuse, and counts them. The batch still covers their positions
    /// ([`RecordBatch::through`]).
    fn filtered(&self, filters: &Filters, records: RecordBatch) -> RecordBatch {
        if filters.pass_all() {
            return records;
        }
        let mut left_out = EventCounts::default();
        let records = records.retain(|record| {
            let passes = filters.matches(record);
            if !passes {
                left_out.add(record);
            }
            passes
        });
        self.counters.filtered(&left_out);
        records
    }
}

/// The coordinator's handle of a running consumer.
#[derive(Debug)]
pub struct ConsumerHandle {
    commands: watch::Sender<ConsumerCommand>,
    parents_changed: Arc<Notify>,
    /// The consumer's live status.
    pub status: Arc<ConsumerStatus>,
}

impl ConsumerHandle {
    /// Commands the consumer. Only a more urgent command replaces an earlier one: a lost lease stays lost.
    pub fn command(&self, command: ConsumerCommand) {
        self.commands.send_if_modified(|current| {
            let changes = command > *current;
            if changes {
                *current = command;
            }
            changes
        });
    }

    /// Makes a consumer that waits for its shard's parents read them at once.
    pub fn recheck_parents(&self) {
        self.parents_changed.notify_one();
    }
}

/// Starts consumers, without its users having to know the processor's type.
pub trait SpawnConsumer: Send + Sync {
    /// Starts the consumer of a lease that names this worker as its holder, and reports its end on `exits`.
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, ConsumerExit)>) -> ConsumerHandle;
}

/// Starts consumers on a given runtime.
pub struct ConsumerSpawner<F> {
    deps: Arc<ConsumerDeps<F>>,
    runtime: tokio::runtime::Handle,
}

impl<F: ProcessorFactory> ConsumerSpawner<F> {
    /// A spawner of consumers that share `deps`.
    pub fn new(deps: Arc<ConsumerDeps<F>>, runtime: tokio::runtime::Handle) -> Self {
        Self { deps, runtime }
    }
}

impl<F: ProcessorFactory> SpawnConsumer for ConsumerSpawner<F> {
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, ConsumerExit)>) -> ConsumerHandle {
        let (commands, receiver) = watch::channel(ConsumerCommand::Run);
        let now_ms = self.deps.options.clock.now_ms();
        let status = Arc::new(ConsumerStatus::of(&lease, self.deps.started_at_ms, now_ms));
        let parents_changed = Arc::new(Notify::new());
        let key = lease.key.clone();
        let consumer = ShardConsumer {
            deps: Arc::clone(&self.deps),
            lease,
            commands: receiver,
            parents_changed: Arc::clone(&parents_changed),
            status: Arc::clone(&status),
            rng,
        };
        let span = tracing::info_span!(target: SPANS, "shard", shard = %key);
        let lifetime = &self.deps.lifetime;
        let task = self.runtime.spawn(lifetime.bind(consumer.run().instrument(span)));
        self.runtime.spawn(lifetime.bind(async move {
            // After a panic the coordinator reads the row anew, as after a lost lease.
            let exit = task.await.ok().flatten().unwrap_or(ConsumerExit::LeaseLost);
            let _ = exits.send((key, exit));
        }));
        ConsumerHandle { commands, parents_changed, status }
    }
}
