//! The interface of a record processor, which users of the library implement.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::checkpointer::Checkpointer;
use super::failure::BatchError;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::record::{Record, RecordBatch};

/// An error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The shard of a processor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardContext {
    /// The shard's id.
    pub shard_id: ShardId,
    /// The stream's ARN.
    pub stream_arn: Arc<str>,
    /// The position after which reading resumes.
    pub checkpoint: Checkpoint,
}

/// A batch of records of one shard, in order, with its circumstances.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessRecordsInput {
    /// The records; never empty.
    pub records: RecordBatch,
    /// Writes checkpoints by hand.
    pub checkpointer: Checkpointer,
    /// The age of the newest record. The service gives its time in whole seconds, rounded down.
    pub age: Option<Duration>,
    /// The number of earlier calls with these records, which failed.
    pub attempt: u32,
    /// The shard that they come from.
    pub shard_id: ShardId,
    pub(super) leaving: CancellationToken,
}

impl ProcessRecordsInput {
    /// Whether the rest of the batch is better left to the next owner of the shard: the worker leaves the shard, or its
    /// lease is lost. A processor then returns [`done_before`](Self::done_before).
    pub fn is_cancelled(&self) -> bool {
        self.leaving.is_cancelled() || self.checkpointer.is_lease_lost()
    }

    /// The outcome of a batch that was left at `record`: the records before it are acknowledged, and it and those behind
    /// it go to the next owner of the shard.
    pub fn done_before(&self, record: &Record<'_>) -> BatchError {
        BatchError::from_record(record.position(), "the worker leaves the shard")
    }

    /// Waits until the worker leaves the shard. When the lease is lost, the call itself is dropped where it waits.
    pub async fn cancelled(&self) {
        self.leaving.cancelled().await;
    }
}

/// Processes the records of one shard, one call at a time, in KCL's life cycle: `initialize`, then `process_records` for
/// each batch, then `shard_ended`, `shutdown_requested` or `lease_lost`.
///
/// With [`shard_concurrency`](crate::WorkerOptions::shard_concurrency) above one, a shard has several processors, as
/// many as have work at the same time. Each has its own life cycle, and any of them may get any item's records.
///
/// Records are delivered at least once. With automatic checkpoints (the default), a batch is acknowledged when
/// `process_records` returns `Ok`, so its effects must be durable by then.
pub trait RecordProcessor: Send + 'static {
    /// Prepares the processor, before any records. An error is retried with backoff.
    fn initialize(&mut self, shard: &ShardContext) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = shard;
        async { Ok(()) }
    }

    /// Gets ready for a call with records or for the shard's end, before each of them: for example, connects again after
    /// a failure. An error is retried with backoff, and the failure policy does not apply: no record is at fault.
    fn prepare(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = checkpointer;
        async { Ok(()) }
    }

    /// Processes a batch. Batches come in the shard's order, or in each item's if several items are processed at once.
    ///
    /// After an error or a panic, the [`FailurePolicy`](crate::FailurePolicy) decides: by default the records are retried
    /// with backoff, in ever smaller batches, as long as the worker holds the lease. Other shards do not wait for them.
    fn process_records(&mut self, input: ProcessRecordsInput) -> impl Future<Output = Result<(), BatchError>> + Send;

    /// Learns that the shard has nothing to deliver, at each [`idle_interval`](crate::WorkerOptions::idle_interval): the
    /// opportunity to write out what is buffered. After an error it is called again at the next interval.
    fn idle(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = checkpointer;
        async { Ok(()) }
    }

    /// Learns that the lease is lost: another worker holds it, or this one missed its heartbeat deadline. Checkpoints are
    /// refused from now on.
    fn lease_lost(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Learns that the shard is closed and all of its records are processed. When this returns `Ok`, the shard is
    /// finished and its children start. An error is retried with backoff.
    fn shard_ended(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = checkpointer;
        async { Ok(()) }
    }

    /// Learns that the lease is about to go to another worker, or the program to end: the last opportunity to checkpoint
    /// by hand.
    fn shutdown_requested(&mut self, checkpointer: &Checkpointer) -> impl Future<Output = ()> + Send {
        let _ = checkpointer;
        async {}
    }
}

/// Makes the processors of each shard that a worker reads. Any `Fn(&ShardContext) -> impl RecordProcessor` is one.
///
/// A factory only makes them: what takes time or may fail belongs in [`RecordProcessor::initialize`]. One that panics
/// counts as failed, and is called again after a while.
pub trait ProcessorFactory: Send + Sync + 'static {
    /// The processor's type.
    type Processor: RecordProcessor;

    /// Makes a processor of one shard.
    fn create(&self, shard: &ShardContext) -> Self::Processor;

    /// Whether its processors can checkpoint by hand. A worker whose processors cannot refuses
    /// [`Checkpoints::Manual`](crate::Checkpoints::Manual).
    fn can_checkpoint(&self) -> bool {
        true
    }
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
