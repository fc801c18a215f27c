//! Consumers: what reads the shards whose leases this worker holds.
//!
//! For each lease the coordinator starts a [`Handle`]'s consumer: a reader that fetches ahead, and the delivery to the
//! user's [`RecordProcessor`]. What all shards share is in [`Shared`].

mod budget;
mod checkpointer;
mod children;
mod clock;
mod counters;
mod for_each;
mod held_lease;
mod known_shards;
mod processor;
mod reader;
mod shard_consumer;
mod stopwatch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

pub use self::budget::Budget;
pub use self::checkpointer::{CheckpointError, Checkpointer};
pub use self::clock::{Alive, WallClock};
pub use self::counters::{Counters, Totals};
pub use self::for_each::{ForEach, ForEachRecord, for_each};
pub use self::processor::{Error, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
pub use self::shard_consumer::{Exit, Failure, ShardStatus, Wish};

use self::children::ChildFinder;
use self::shard_consumer::ShardConsumer;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::Stream;
use crate::core::lease::{Lease, ShardId, WorkerId};
use crate::core::rng::Rng;
use crate::core::shard_graph::ShardGraph;

/// When checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// What `process_records` returned `Ok` for is done; written each interval while there is something new.
    Automatic {
        /// The longest that something done stays unwritten.
        interval: Duration,
    },
    /// The processor calls its [`Checkpointer`].
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

/// How shards are read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When checkpoints are written.
    pub checkpoints: Checkpoints,
    /// The longest gap between two calls on an empty shard.
    pub idle_poll: Duration,
    /// What to do when records were trimmed.
    pub on_gap: OnGap,
    /// The moment that `LATEST` stands for (ms since the epoch).
    pub started_at_ms: u64,
    /// Whether a shard that is read to its tip is checkpointed at once.
    pub checkpoint_at_tip: bool,
}

/// What all consumers of a worker share.
pub struct Shared<F> {
    stream: Stream,
    table: LeaseTable,
    worker: WorkerId,
    alive: Alive,
    budget: Budget,
    factory: F,
    children: ChildFinder,
    options: Options,
    clock: WallClock,
    counters: Counters,
}

impl<F: ProcessorFactory> Shared<F> {
    /// Puts together what the consumers of a worker share.
    #[expect(clippy::too_many_arguments, reason = "one call, in the worker, which wires everything")]
    pub fn new(
        stream: Stream,
        table: LeaseTable,
        worker: WorkerId,
        alive: Alive,
        budget: Budget,
        factory: F,
        options: Options,
        clock: WallClock,
        counters: Counters,
        rng: Rng,
    ) -> Arc<Self> {
        let children = ChildFinder::new(stream.clone(), rng);
        Arc::new(Self { stream, table, worker, alive, budget, factory, children, options, clock, counters })
    }
}

/// The coordinator's hold on a running consumer.
#[derive(Debug)]
pub struct Handle {
    wishes: watch::Sender<Wish>,
    look: Arc<Notify>,
    /// What the consumer shows of itself.
    pub status: Arc<ShardStatus>,
}

impl Handle {
    /// Tells the consumer what is wanted of it.
    pub fn wish(&self, wish: Wish) {
        self.wishes.send_if_modified(|current| {
            // What is lost stays lost.
            let changes = *current != wish && *current != Wish::Stop;
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
pub trait Start: Send + Sync {
    /// Starts the consumer of a lease that names this worker as its holder. Its end is reported on `exits`.
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, Exit)>) -> Handle;

    /// Takes in a complete listing of the stream's shards that has come in now and took this long: consumers look for
    /// children there first.
    fn note_listing(&self, graph: &ShardGraph, took: Duration);

    /// Bytes of the buffer in use.
    fn buffered_bytes(&self) -> u64;
}

/// Starts consumers on a runtime of their own choice.
pub struct Starter<F> {
    shared: Arc<Shared<F>>,
    runtime: tokio::runtime::Handle,
}

impl<F: ProcessorFactory> Starter<F> {
    /// Consumers that share `shared` and run on `runtime`.
    pub fn new(shared: Arc<Shared<F>>, runtime: tokio::runtime::Handle) -> Self {
        Self { shared, runtime }
    }
}

impl<F: ProcessorFactory> Start for Starter<F> {
    fn start(&self, lease: Lease, rng: Rng, exits: mpsc::UnboundedSender<(ShardId, Exit)>) -> Handle {
        let (wishes, receiver) = watch::channel(Wish::Run);
        let (look, status) = (Arc::new(Notify::new()), Arc::new(ShardStatus::default()));
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
        Handle { wishes, look, status }
    }

    fn note_listing(&self, graph: &ShardGraph, took: Duration) {
        self.shared.children.note_listing(graph, took);
    }

    fn buffered_bytes(&self) -> u64 {
        self.shared.budget.held_bytes()
    }
}
