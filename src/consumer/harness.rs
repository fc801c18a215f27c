//! The harness of a processor under test: the life of a shard, step by step, without a service.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::checkpointer::Checkpointer;
use super::failure::BatchError;
use super::journal::Journal;
use super::processor::{BoxError, ProcessRecordsInput, RecordProcessor, ShardContext};
use crate::aws::lease_table::TransactWriteItem;
use crate::model::checkpoint::Checkpoint;
use crate::model::record::{Page, RecordBatch};
use crate::model::sequence_number::SequenceNumber;

/// A change of an item, given as plain JSON: `{"id": "1", "price": 5}`.
#[derive(Clone, Debug)]
pub struct Change {
    old: Option<Value>,
    new: Option<Value>,
}

impl Change {
    /// A new item.
    pub fn insert(new: Value) -> Self {
        Self { old: None, new: Some(new) }
    }

    /// A changed item, before and after.
    pub fn modify(old: Value, new: Value) -> Self {
        Self { old: Some(old), new: Some(new) }
    }

    /// A deleted item.
    pub fn remove(old: Value) -> Self {
        Self { old: Some(old), new: None }
    }

    /// The stream's record of it.
    fn record(&self, number: usize, key: &[String]) -> Value {
        let item = self.new.as_ref().or(self.old.as_ref()).unwrap_or(&Value::Null);
        let of_key = |name: &String| {
            let value =
                item.get(name).unwrap_or_else(|| panic!("the item {item} lacks {name:?}, an attribute of its key"));
            (name.clone(), value.clone())
        };
        let key = Value::Object(key.iter().map(of_key).collect());
        let name = match (&self.old, &self.new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        };
        let mut stream_record = json!({
            "ApproximateCreationDateTime": 1_700_000_000, "Keys": shardkeeper_local::attributes(&key),
            "SequenceNumber": position(number).as_str(), "SizeBytes": item.to_string().len(),
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        });
        for (image, item) in [("NewImage", &self.new), ("OldImage", &self.old)] {
            if let Some(item) = item {
                stream_record[image] = shardkeeper_local::attributes(item);
            }
        }
        json!({
            "eventID": format!("event-{number}"), "eventName": name, "eventVersion": "1.1",
            "eventSource": "aws:dynamodb", "awsRegion": "us-east-1", "dynamodb": stream_record,
        })
    }
}

/// The position of a shard's record, which are counted from 1.
fn position(number: usize) -> SequenceNumber {
    format!("{number:021}").parse().unwrap_or_else(|_| unreachable!("it has digits alone"))
}

/// Drives a [`RecordProcessor`] through the life of a shard, and shows its checkpoints.
///
/// ```
/// # use shardkeeper::{BatchError, BoxError, Checkpointer, ProcessRecordsInput, RecordProcessor};
/// use serde_json::json;
/// use shardkeeper::testing::{Change, Harness};
///
/// # #[derive(Default)]
/// # struct Counter { records: usize }
/// # impl RecordProcessor for Counter {
/// #     async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
/// #         self.records += input.records.len();
/// #         Ok(())
/// #     }
/// #     async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
/// #         Ok(checkpointer.checkpoint().await?)
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mut shard = Harness::new(Counter::default());
/// shard.deliver([Change::insert(json!({"id": "1"})), Change::remove(json!({"id": "1"}))]).await?;
/// assert_eq!(shard.processor().records, 2);
/// assert!(shard.checkpoints().is_empty(), "nothing is durable yet");
/// shard.end().await?;
/// assert_eq!(shard.checkpoints(), [2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Harness<P> {
    processor: P,
    is_initialized: bool,
    key: Vec<String>,
    changes: Vec<Change>,
    /// The place of the last batch among the changes.
    last_batch: std::ops::Range<usize>,
    attempt: u32,
    journal: Journal,
    leaving: CancellationToken,
}

impl<P: RecordProcessor> Harness<P> {
    /// A shard without records, for a processor that is not initialized yet. The key of its items is the attribute `id`.
    pub fn new(processor: P) -> Self {
        Self {
            processor,
            is_initialized: false,
            key: vec!["id".to_owned()],
            changes: Vec::new(),
            last_batch: 0..0,
            attempt: 0,
            journal: Journal::default(),
            leaving: CancellationToken::new(),
        }
    }

    /// Sets the attributes of the items' key.
    #[must_use]
    pub fn key(self, attributes: &[&str]) -> Self {
        Self { key: attributes.iter().map(ToString::to_string).collect(), ..self }
    }

    /// Delivers a batch of new records; initializes the processor before the first one.
    ///
    /// # Errors
    /// The processor's.
    ///
    /// # Panics
    /// When an item lacks an attribute of its key; and where the processor does.
    pub async fn deliver(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<(), DeliveryError> {
        let first = self.changes.len();
        self.changes.extend(changes);
        self.attempt = 0;
        self.call(first..self.changes.len()).await
    }

    /// Delivers the last batch again, as after a failure.
    ///
    /// # Errors
    /// The processor's.
    pub async fn deliver_again(&mut self) -> Result<(), DeliveryError> {
        self.attempt += 1;
        self.call(self.last_batch.clone()).await
    }

    /// Hands the shard to a new processor, as after a crash: it gets all records behind the last checkpoint.
    ///
    /// # Errors
    /// The processor's.
    pub async fn take_over(&mut self, processor: P) -> Result<(), DeliveryError> {
        (self.processor, self.is_initialized, self.attempt) = (processor, false, 0);
        self.journal.lose_lease(false);
        self.leaving = CancellationToken::new();
        let first = self.checkpoints().last().copied().unwrap_or_default();
        self.journal.set_delivered((first > 0).then(|| position(first)));
        self.call(first..self.changes.len()).await
    }

    async fn call(&mut self, records: std::ops::Range<usize>) -> Result<(), DeliveryError> {
        self.initialize().await?;
        self.last_batch = records.clone();
        if records.is_empty() {
            return Ok(());
        }
        self.journal.set_delivered(Some(position(records.end)));
        self.processor.prepare(&self.checkpointer()).await?;
        let input = ProcessRecordsInput {
            records: self.batch(records),
            checkpointer: self.checkpointer(),
            age: Some(Duration::ZERO),
            attempt: self.attempt,
            shard_id: self.shard().shard_id,
            leaving: self.leaving.clone(),
        };
        Ok(self.processor.process_records(input).await?)
    }

    async fn initialize(&mut self) -> Result<(), BoxError> {
        if !self.is_initialized {
            let shard = self.shard();
            self.processor.initialize(&shard).await?;
            self.is_initialized = true;
        }
        Ok(())
    }

    fn batch(&self, records: std::ops::Range<usize>) -> RecordBatch {
        let first = records.start + 1;
        let changes = self.changes[records].iter().enumerate();
        let records: Vec<Value> = changes.map(|(index, change)| change.record(first + index, &self.key)).collect();
        let page = Page::decode(Bytes::from(json!({"Records": records}).to_string()));
        page.unwrap_or_else(|error| panic!("a change makes no record: {error}")).records
    }

    fn shard(&self) -> ShardContext {
        ShardContext {
            shard_id: "shardId-00000000000000000001-test".into(),
            stream_arn: "arn:aws:dynamodb:us-east-1:000000000000:table/Test/stream/2026-01-01T00:00:00.000".into(),
            checkpoint: self.journal.saved(),
        }
    }

    fn checkpointer(&self) -> Checkpointer {
        Checkpointer::of_test(self.journal.clone())
    }

    /// Lets the processor learn that there is nothing to deliver.
    ///
    /// # Errors
    /// The processor's.
    pub async fn idle(&mut self) -> Result<(), BoxError> {
        self.initialize().await?;
        self.processor.idle(&self.checkpointer()).await
    }

    /// Tells the processor that the worker leaves the shard: calls from now on find that they are cancelled.
    pub fn leave(&mut self) {
        self.leaving.cancel();
    }

    /// Hands the shard to another worker: the processor's last opportunity to checkpoint.
    pub async fn hand_off(&mut self) {
        self.leave();
        self.processor.shutdown_requested(&self.checkpointer()).await;
    }

    /// Ends the shard.
    ///
    /// # Errors
    /// The processor's.
    pub async fn end(&mut self) -> Result<(), BoxError> {
        self.initialize().await?;
        self.processor.prepare(&self.checkpointer()).await?;
        self.processor.shard_ended(&self.checkpointer()).await
    }

    /// Takes the lease away: checkpoints are refused from now on.
    pub async fn lose_lease(&mut self) {
        self.journal.lose_lease(true);
        self.leave();
        self.processor.lease_lost().await;
    }

    /// Sets whether checkpoints and commits fail, as when the lease table does not answer.
    pub fn fail_checkpoints(&mut self, fail: bool) {
        self.journal.fail(fail);
    }

    /// The checkpoints in order, each as the number of the shard's records that it covers.
    pub fn checkpoints(&self) -> Vec<usize> {
        let count = |position: SequenceNumber| position.as_str().parse().unwrap_or_default();
        self.journal.all_saved().into_iter().map(count).collect()
    }

    /// The writes that were committed, in order.
    pub fn committed(&self) -> Vec<TransactWriteItem> {
        self.journal.writes()
    }

    /// The processor.
    pub fn processor(&self) -> &P {
        &self.processor
    }

    /// The processor, to change it.
    pub fn processor_mut(&mut self) -> &mut P {
        &mut self.processor
    }
}

/// The failure of a delivery in a [`Harness`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeliveryError(BatchError);

impl DeliveryError {
    /// The processor's error.
    pub fn batch_error(&self) -> &BatchError {
        &self.0
    }
}

impl From<BatchError> for DeliveryError {
    fn from(error: BatchError) -> Self {
        Self(error)
    }
}

impl From<BoxError> for DeliveryError {
    fn from(error: BoxError) -> Self {
        Self(error.into())
    }
}

impl<P> Harness<P> {
    /// The last checkpoint as a worker would read it.
    pub fn checkpoint(&self) -> Checkpoint {
        self.journal.saved()
    }
}
