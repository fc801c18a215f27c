//! The short form of a processor: a closure that is called with each record.

use std::future::Future;
use std::sync::Arc;

use super::failure::BatchError;
use super::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::model::record::OwnedRecord;

/// Makes processors that call a closure with each record: one at a time for each shard, in the shard's order, or for
/// each item if [`shard_concurrency`](crate::WorkerOptions::shard_concurrency) is above one. No call begins once the
/// worker leaves the shard or has lost its lease.
///
/// When a call fails, the [`FailurePolicy`](crate::FailurePolicy) decides about its record. The records before it in the
/// batch are not repeated.
///
/// ```
/// use shardkeeper::{BoxError, OwnedRecord, for_each};
///
/// let prints = for_each(async |record: OwnedRecord| println!("{}", record.json()));
/// let may_fail = for_each(async |record: OwnedRecord| -> Result<(), BoxError> {
///     let keys = record.keys();
///     let company = keys.get("Company").and_then(|company| company.as_s()).ok_or("a phone without a company")?;
///     println!("{company} {:?}", record.event_name());
///     Ok(())
/// });
/// # let _: [Box<dyn std::any::Any>; 2] = [Box::new(prints), Box::new(may_fail)];
/// ```
pub fn for_each<H, C>(handler: H) -> ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output: HandlerOutcome> + Send,
{
    ForEach { handler: Arc::new(handler) }
}

/// The outcome of a handler: nothing, or a result with an error of any type that a [`BoxError`] can hold (anyhow's too).
pub trait HandlerOutcome {
    /// The outcome as a result.
    ///
    /// # Errors
    /// The handler's own.
    fn into_result(self) -> Result<(), BoxError>;
}

impl HandlerOutcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> HandlerOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// A [`ProcessorFactory`] made by [`for_each`].
#[derive(Debug)]
pub struct ForEach<H> {
    handler: Arc<H>,
}

/// A processor made by a [`ForEach`].
#[derive(Debug)]
#[doc(hidden)]
pub struct ForEachRecord<H> {
    handler: Arc<H>,
}

impl<H, C> ProcessorFactory for ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output: HandlerOutcome> + Send,
{
    type Processor = ForEachRecord<H>;

    fn create(&self, _shard: &ShardContext) -> ForEachRecord<H> {
        ForEachRecord { handler: Arc::clone(&self.handler) }
    }

    fn can_checkpoint(&self) -> bool {
        false
    }
}

impl<H, C> RecordProcessor for ForEachRecord<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output: HandlerOutcome> + Send,
{
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        for record in &input.records {
            if input.is_cancelled() {
                return Err(input.done_before(&record));
            }
            let outcome = (self.handler)(record.to_owned()).await.into_result();
            outcome.map_err(|error| BatchError::from_record(record.position(), error))?;
        }
        Ok(())
    }
}
