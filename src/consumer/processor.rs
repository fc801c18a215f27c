//! What a user of the library writes: a processor of records, one for each shard that this worker reads.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::checkpointer::Checkpointer;
use super::failure::BatchError;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::record::RecordBatch;

/// Any error of a processor.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The shard that a processor is for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardContext {
    /// The shard.
    pub shard_id: ShardId,
    /// The stream's ARN.
    pub stream_arn: Arc<str>,
    /// Where in the shard the reading goes on.
    pub checkpoint: Checkpoint,
}

/// Some records of one shard, in order, and what there is to know about them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessRecordsInput {
    /// The records; never empty.
    pub records: RecordBatch,
    /// For processors that checkpoint by hand.
    pub checkpointer: Checkpointer,
    /// How old the newest of the records is. The service gives their time in whole seconds, rounded down.
    pub age: Option<Duration>,
    /// How often these records were handed over before and failed.
    pub attempt: u32,
}

/// Handles the records of one shard, called by one task at a time, in KCL's life cycle: `initialize`, then
/// `process_records` again and again, then one of `lease_lost` and `shard_ended`, or `shutdown_requested` before the
/// lease goes to another worker.
///
/// A worker that is told to work on several items of a shard at once makes several processors for it, as many as have
/// work at the same time; each goes through its own life cycle, and any of them may get any item's records.
///
/// Records are delivered at least once. When automatic checkpoints are on (the default), a batch counts as done when
/// `process_records` returns `Ok`, so everything that must outlive the process has to be durable by then.
pub trait RecordProcessor: Send + 'static {
    /// Called once, before any records. An error is retried with backoff.
    fn initialize(&mut self, shard: &ShardContext) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = shard;
        async { Ok(()) }
    }

    /// Called with each batch, in the shard's order, or in each item's when several are worked on at once. What follows
    /// on an error, or a panic, is up to the [`FailurePolicy`](super::FailurePolicy): by default the records are tried
    /// again with backoff, in ever smaller batches, for as long as the worker has the lease. Other shards are not held
    /// up.
    fn process_records(&mut self, input: ProcessRecordsInput) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// Another worker has the lease, or this one could not prove itself alive in time: nothing may be checkpointed any
    /// more.
    fn lease_lost(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Everything in the shard was handed over and the shard is closed. When this returns `Ok`, the shard is marked
    /// as finished and its children start. An error is retried with backoff.
    fn shard_ended(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = checkpointer;
        async { Ok(()) }
    }

    /// The lease is about to go to another worker, or the program to end: the last opportunity to checkpoint by hand.
    fn shutdown_requested(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = ()> + Send {
        let _ = checkpointer;
        async {}
    }
}

/// Makes the processors of each shard that this worker begins to read.
pub trait ProcessorFactory: Send + Sync + 'static {
    /// The processors it makes.
    type Processor: RecordProcessor;

    /// Makes a processor of one shard.
    fn create(&self, shard: &ShardContext) -> Self::Processor;
}

impl<F, P> ProcessorFactory for F
where
    F: Fn(&ShardContext) -> P + Send + Sync + 'static,
    P: RecordProcessor,
{
    type Processor = P;

    fn create(&self, shard: &ShardContext) -> P {
        self(shard)
    }
}
