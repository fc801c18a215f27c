//! A processor behind a box, for a worker that chooses among several types when it runs.

use std::future::Future;
use std::pin::Pin;

use super::checkpointer::Checkpointer;
use super::failure::BatchError;
use super::processor::{BoxError, ProcessRecordsInput, RecordProcessor, ShardContext};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`RecordProcessor`] of any type.
///
/// ```
/// # use shardkeeper::{BatchError, BoxProcessor, ProcessRecordsInput, RecordProcessor, ShardContext};
/// # struct Indexer;
/// # impl RecordProcessor for Indexer {
/// #     async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> { Ok(()) }
/// # }
/// # struct Archiver;
/// # impl RecordProcessor for Archiver {
/// #     async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> { Ok(()) }
/// # }
/// fn processor(archives: bool) -> BoxProcessor {
///     if archives { BoxProcessor::new(Archiver) } else { BoxProcessor::new(Indexer) }
/// }
/// # let _ = processor(true);
/// ```
pub struct BoxProcessor(Box<dyn DynProcessor>);

impl BoxProcessor {
    /// Boxes a processor.
    pub fn new(processor: impl RecordProcessor) -> Self {
        Self(Box::new(processor))
    }
}

/// The methods of a processor, with boxed futures.
trait DynProcessor: Send {
    fn initialize<'a>(&'a mut self, shard: &'a ShardContext) -> BoxFuture<'a, Result<(), BoxError>>;
    fn prepare<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>>;
    fn process_records(&mut self, input: ProcessRecordsInput) -> BoxFuture<'_, Result<(), BatchError>>;
    fn idle<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>>;
    fn lease_lost(&mut self) -> BoxFuture<'_, ()>;
    fn shard_ended<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>>;
    fn shutdown_requested<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, ()>;
}

impl<P: RecordProcessor> DynProcessor for P {
    fn initialize<'a>(&'a mut self, shard: &'a ShardContext) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(RecordProcessor::initialize(self, shard))
    }

    fn prepare<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(RecordProcessor::prepare(self, checkpointer))
    }

    fn process_records(&mut self, input: ProcessRecordsInput) -> BoxFuture<'_, Result<(), BatchError>> {
        Box::pin(RecordProcessor::process_records(self, input))
    }

    fn idle<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(RecordProcessor::idle(self, checkpointer))
    }

    fn lease_lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(RecordProcessor::lease_lost(self))
    }

    fn shard_ended<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(RecordProcessor::shard_ended(self, checkpointer))
    }

    fn shutdown_requested<'a>(&'a mut self, checkpointer: &'a Checkpointer) -> BoxFuture<'a, ()> {
        Box::pin(RecordProcessor::shutdown_requested(self, checkpointer))
    }
}

impl RecordProcessor for BoxProcessor {
    async fn initialize(&mut self, shard: &ShardContext) -> Result<(), BoxError> {
        self.0.initialize(shard).await
    }

    async fn prepare(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.0.prepare(checkpointer).await
    }

    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.0.process_records(input).await
    }

    async fn idle(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.0.idle(checkpointer).await
    }

    async fn lease_lost(&mut self) {
        self.0.lease_lost().await;
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.0.shard_ended(checkpointer).await
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        self.0.shutdown_requested(checkpointer).await;
    }
}
