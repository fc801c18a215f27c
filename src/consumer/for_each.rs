//! The short form of a processor: one closure that is called with each record.

use std::future::Future;
use std::sync::Arc;

use super::processor::{Error, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::core::record::OwnedRecord;
use crate::core::sequence_number::SequenceNumber;

/// Makes processors that call one closure with each record, one at a time and in order for each shard. A record whose
/// call fails is tried again with backoff; the ones before it in its batch are not repeated.
pub fn for_each<H, C>(handler: H) -> ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), Error>> + Send,
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
    /// The last record whose call went well.
    done: Option<SequenceNumber>,
}

impl<H, C> ProcessorFactory for ForEach<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), Error>> + Send,
{
    type Processor = ForEachRecord<H>;

    fn create(&self, _shard: &ShardContext) -> ForEachRecord<H> {
        ForEachRecord { handler: Arc::clone(&self.handler), done: None }
    }
}

impl<H, C> RecordProcessor for ForEachRecord<H>
where
    H: Fn(OwnedRecord) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), Error>> + Send,
{
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), Error> {
        let records = match &self.done {
            Some(done) => input.records.skip_through(done),
            None => input.records,
        };
        for index in 0..records.len() {
            let Some(record) = records.get(index).map(|record| record.to_owned()) else { continue };
            let position = record.view().sequence_number().parse()?;
            (self.handler)(record).await?;
            self.done = Some(position);
        }
        Ok(())
    }
}
