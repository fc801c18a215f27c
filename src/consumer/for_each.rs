//! The short form of a processor: one closure that is called with each record.

use std::future::Future;
use std::sync::Arc;

use super::failure::BatchError;
use super::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::model::record::OwnedRecord;

/// Makes processors that call one closure with each record, in order and one at a time for each item, and for each
/// shard unless the worker is told to work on several items at once. What follows on a call that fails is up to the
/// worker's failure policy; the records before it in its batch are not repeated.
pub fn for_each<H, C>(handler: H) -> ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), BoxError>> + Send,
{
    ForEach { handler: Arc::new(handler) }
}

/// See [`for_each`].
#[derive(Debug)]
pub struct ForEach<H> {
    handler: Arc<H>,
}

/// The processor of one shard that [`for_each`] makes.
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
            let position = record.sequence_number();
            (self.handler)(record.to_owned()).await.map_err(|error| match position.parse() {
                Ok(position) => BatchError::from_record(position, error),
                Err(_) => error.into(),
            })?;
        }
        Ok(())
    }
}
