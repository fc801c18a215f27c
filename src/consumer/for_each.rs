//! The short form of a processor: a closure that is called with each record.

use std::future::Future;
use std::sync::Arc;

use super::failure::BatchError;
use super::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::model::record::OwnedRecord;

/// Makes processors that call a closure with each record: one at a time for each shard, in the shard's order, or for
/// each item if [`shard_concurrency`](crate::WorkerOptions::shard_concurrency) is above one.
///
/// When a call fails, the [`FailurePolicy`](crate::FailurePolicy) decides about its record. The records before it in the
/// batch are not repeated.
///
/// ```
/// use shardkeeper::{BoxError, OwnedRecord, for_each};
///
/// let factory = for_each(async |record: OwnedRecord| -> Result<(), BoxError> {
///     let record = record.view();
///     println!("{:?} {}", record.event_name(), record.sequence_number());
///     Ok(())
/// });
/// # let _: Box<dyn std::any::Any> = Box::new(factory);
/// ```
pub fn for_each<H, C>(handler: H) -> ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), BoxError>> + Send,
{
    ForEach { handler: Arc::new(handler) }
}

/// A [`ProcessorFactory`] made by [`for_each`].
#[derive(Debug)]
pub struct ForEach<H> {
    handler: Arc<H>,
}

/// A processor made by a [`ForEach`].
#[derive(Debug)]
pub struct ForEachRecord<H> {
    handler: Arc<H>,
}

impl<H, C> ProcessorFactory for ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), BoxError>> + Send,
{
    type Processor = ForEachRecord<H>;

    fn create(&self, _shard: &ShardContext) -> ForEachRecord<H> {
        ForEachRecord { handler: Arc::clone(&self.handler) }
    }
}

impl<H, C> RecordProcessor for ForEachRecord<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), BoxError>> + Send,
{
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        for record in &input.records {
            let called = match input.is_cancelled() {
                false => (self.handler)(record.to_owned()).await,
                true => Err("the worker leaves the shard".into()),
            };
            called.map_err(|error| match record.sequence_number().parse() {
                Ok(position) => BatchError::from_record(position, error),
                Err(_) => error.into(),
            })?;
        }
        Ok(())
    }
}
