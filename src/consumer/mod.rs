//! Consumers: what reads the shards whose leases this worker holds.
//!
//! For each lease the coordinator starts a [`ConsumerHandle`]'s consumer: a reader that fetches ahead, and the delivery to the
//! user's [`RecordProcessor`]. What all shards share is in [`ConsumerDeps`].

mod budget;
mod busy_time;
mod checkpointer;
mod child_finder;
mod clock;
mod counters;
mod delivery;
mod failure;
mod for_each;
mod known_shards;
mod lease_handle;
mod processor;
mod reader;
mod replay;
mod shard_consumer;
mod status;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

pub use self::budget::Budget;
pub use self::checkpointer::{CheckpointError, Checkpointer, CommitError, Committed};
pub use self::clock::{LeaseDeadline, WallClock};
pub use self::counters::{Counters, Totals};
pub use self::failure::{BatchError, FailurePolicy, OnFailure};
pub use self::for_each::{ForEach, ForEachRecord, for_each};
pub use self::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
pub use self::replay::{Replayer, StillFails};
pub use self::shard_consumer::{ConsumerCommand, Exit, Failure};
pub use self::status::{ShardStatus, StallCause};

use self::child_finder::ChildFinder;
use self::counters::Outcomes;
use self::shard_consumer::ShardConsumer;
use crate::aws::lease_table::LeaseTable;
pub use crate::aws::lease_table::{MAX_WRITES, RefusedWrite, TransactWriteItem};
use crate::aws::stream::Stream;
use crate::model::filter::Filters;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::record::RecordBatch;
use crate::model::shard_graph::ShardGraph;
use crate::options::WorkerOptions;

/// What all consumers of a worker share.
pub struct ConsumerDeps<F> {
    stream: Stream,
    table: LeaseTable,
    worker: WorkerId,
    alive: LeaseDeadline,
    budget: Budget,
    factory: F,
    children: ChildFinder,
    options: Arc<WorkerOptions>,
    /// The worker's filters, bound to this stream.
    filters: Filters,
    /// The moment that `LATEST` stands for (ms since the epoch).
    started_at_ms: u64,
    counters: Counters,
    /// Permits for calls of processors, where their number is limited.
    calls: Option<Arc<Semaphore>>,
}

impl<F: ProcessorFactory> ConsumerDeps<F> {
    /// Puts together what the consumers of a worker share.
    #[expect(clippy::too_many_arguments, reason = "one call, in the worker, which wires everything")]
    pub fn new(
        stream: Stream,
        table: LeaseTable,
        worker: WorkerId,
        alive: LeaseDeadline,
        budget: Budget,
        factory: F,
        options: Arc<WorkerOptions>,
        started_at_ms: u64,
        counters: Counters,
        rng: Rng,
    ) -> Arc<Self> {
        let children = ChildFinder::new(stream.clone(), rng);
        let calls = options.concurrency.map(|most| Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))));
        let filters = options.filters.clone().for_stream(stream.arn());
        Arc::new(Self {
            stream,
            table,
            worker,
            alive,
            budget,
            factory,
            children,
            options,
            filters,
            started_at_ms,
            counters,
            calls,
        })
    }

    /// The batch with only those records that the filters let pass. The others are counted; the batch still stands for
    /// them ([`RecordBatch::through`]).
    fn filtered(&self, records: RecordBatch) -> RecordBatch {
        let filters = &self.filters;
        if filters.pass_all() {
            return records;
        }
        let mut left_out = Outcomes::default();
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

/// The coordinator's hold on a running consumer.
#[derive(Debug)]
pub struct ConsumerHandle {
    wishes: watch::Sender<ConsumerCommand>,
    look: Arc<Notify>,
    /// What the consumer shows of itself.
    pub status: Arc<ShardStatus>,
}

impl ConsumerHandle {
    /// Tells the consumer what is wanted of it.
    pub fn wish(&self, wish: ConsumerCommand) {
        self.wishes.send_if_modified(|current| {
            // What is lost stays lost.
            let changes = *current != wish && *current != ConsumerCommand::Stop;
            if changes {
                *current = wish;
            }
            changes
        });
    }

    /// Tells a consumer that waits for its shard's parents to look at them.
    pub fn look_at_parents(&self) {
        self.look.notify_one();
    }
}

/// Starts consumers, without its users having to know the processor's type.
pub trait SpawnConsumer: Send + Sync {
    /// Starts the consumer of a lease that names this worker as its holder. Its end is reported on `exits`.
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, Exit)>) -> ConsumerHandle;

    /// Takes in a complete listing of the stream's shards that has come in now and took this long: consumers look for
    /// children there first.
    fn note_listing(&self, graph: &ShardGraph, took: Duration);
}

/// Starts consumers on a runtime of their own choice.
pub struct ConsumerSpawner<F> {
    shared: Arc<ConsumerDeps<F>>,
    runtime: tokio::runtime::Handle,
}

impl<F: ProcessorFactory> ConsumerSpawner<F> {
    /// Consumers that share `shared` and run on `runtime`.
    pub fn new(shared: Arc<ConsumerDeps<F>>, runtime: tokio::runtime::Handle) -> Self {
        Self { shared, runtime }
    }
}

impl<F: ProcessorFactory> SpawnConsumer for ConsumerSpawner<F> {
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, Exit)>) -> ConsumerHandle {
        let (wishes, receiver) = watch::channel(ConsumerCommand::Run);
        let started_at_ms = self.shared.started_at_ms;
        let status = Arc::new(ShardStatus::of(&lease, started_at_ms, self.shared.options.clock.now_ms()));
        let look = Arc::new(Notify::new());
        let key = lease.key.clone();
        let consumer = ShardConsumer {
            shared: Arc::clone(&self.shared),
            lease,
            wishes: receiver,
            look: Arc::clone(&look),
            status: Arc::clone(&status),
            rng,
        };
        let task = self.runtime.spawn(consumer.run());
        self.runtime.spawn(async move {
            // A consumer that panics has lost its lease, as far as the coordinator is concerned.
            let exit = task.await.unwrap_or(Exit::Lost);
            let _ = exits.send((key, exit));
        });
        ConsumerHandle { wishes, look, status }
    }

    fn note_listing(&self, graph: &ShardGraph, took: Duration) {
        self.shared.children.note_listing(graph, took);
    }
}
