//! Projections: a processor that turns each record into writes to DynamoDB, which take effect once.
//!
//! The writes of as many records as fit go into one transaction with the position behind them.

use super::checkpointer::CommitError;
use super::failure::BatchError;
use super::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::aws::lease_table::MAX_WRITES;
use crate::aws::transaction::Transaction;
use crate::model::record::{Record, RecordBatch};

/// The most bytes of records whose writes share a transaction, which takes 4 MB: a write is seldom larger than its record.
const MOST_BYTES: usize = 3 << 20;

/// A [`ProcessorFactory`] and processor that turns each record into writes
/// ([`WorkerBuilder::project`](crate::WorkerBuilder::project)).
#[derive(Clone, Debug)]
pub struct Projection<M>(M);

impl<M> Projection<M>
where
    M: Fn(&Record<'_>, &mut Transaction) -> Result<(), BoxError> + Clone + Send + Sync + 'static,
{
    /// A projection by a function from a record to its writes.
    pub fn new(map: M) -> Self {
        Self(map)
    }

    /// The writes of one record.
    fn writes(&self, record: &Record<'_>) -> Result<Transaction, BatchError> {
        let mut transaction = Transaction::default();
        let failed = |error: BoxError| BatchError::from_record(record.position(), error);
        (self.0)(record, &mut transaction).map_err(failed)?;
        if transaction.is_ambiguous() {
            return Err(failed("a record has two writes to one item".into()));
        }
        match transaction.len() {
            0..=MAX_WRITES => Ok(transaction),
            many => Err(failed(CommitError::TooMany(many).into())),
        }
    }

    /// The first records of `records` whose writes fit into one transaction, with these.
    fn next(&self, records: &RecordBatch) -> Result<(usize, Transaction), BatchError> {
        let (mut all, mut bytes) = (Transaction::default(), 0);
        for (index, record) in records.iter().enumerate() {
            bytes += record.json().len();
            match self.writes(&record) {
                // What comes before the record is committed first.
                Err(_) if index > 0 => return Ok((index, all)),
                Err(error) => return Err(error),
                Ok(_) if index > 0 && bytes > MOST_BYTES => return Ok((index, all)),
                Ok(writes) if !all.extend(&writes) => return Ok((index, all)),
                Ok(_) => {}
            }
        }
        Ok((records.len(), all))
    }
}

impl<M> ProcessorFactory for Projection<M>
where
    M: Fn(&Record<'_>, &mut Transaction) -> Result<(), BoxError> + Clone + Send + Sync + 'static,
{
    type Processor = Self;

    fn create(&self, _shard: &ShardContext) -> Self {
        self.clone()
    }
}

impl<M> RecordProcessor for Projection<M>
where
    M: Fn(&Record<'_>, &mut Transaction) -> Result<(), BoxError> + Clone + Send + Sync + 'static,
{
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        // A batch that failed halfway comes again as a whole, so some of it may be committed already.
        let mut rest = input.checkpointer.undone(&input.records).await;
        let mut most = usize::MAX;
        while let Some(first) = rest.first() {
            if input.is_cancelled() {
                return Err(input.done_before(&first));
            }
            let (fitting, transaction) = self.next(&rest.slice(..most.min(rest.len())))?;
            let (records, behind) = rest.split_at(fitting);
            match input.checkpointer.commit(&records, transaction.into_items()?).await {
                Ok(_) => (rest, most) = (behind, usize::MAX),
                // Which record's write it was shows when they go one by one.
                Err(CommitError::Refused(_)) if fitting > 1 => most = 1,
                Err(error @ CommitError::Refused(_)) => return Err(BatchError::from_record(first.position(), error)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
