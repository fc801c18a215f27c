//! Copies a table into another one, change by change, and counts the changes of each item in a third. Every change counts
//! once, however often workers are killed and records are delivered again.
//!
//! An ordinary handler counts a change again when it is delivered again. Here one transaction holds the writes for some
//! records and the position after them: all of it happens, or nothing.
//!
//!     shardkeeper local &
//!     cargo run --example effectively_once -- Phones PhonesCopy PhonesCounts http://127.0.0.1:8000
//!
//! The arguments are the table, whose stream must have new images; the copy and the counts, which must exist and have the
//! table's key; and the endpoint. Without an endpoint it uses AWS.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem, Update};
use shardkeeper::{
    BatchError, BoxError, Checkpoints, MAX_WRITES, ProcessRecordsInput, Record, RecordBatch, RecordProcessor,
    ShardContext, StreamSelector, Worker, WorkerOptions,
};

/// One write to the copy and one to the counts.
const WRITES_A_RECORD: usize = 2;

#[derive(Clone)]
struct Copier {
    copy: String,
    counts: String,
}

impl RecordProcessor for Copier {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        // A batch that failed halfway comes again as a whole, so some of it may be committed already.
        let mut rest = input.checkpointer.undone(&input.records).await;
        while !rest.is_empty() {
            let (records, behind) = rest.split_at(records_of_one_transaction(&rest));
            let mut writes = Vec::new();
            for record in records.iter() {
                writes.extend(self.writes(&record)?);
            }
            input.checkpointer.commit(&records, writes).await?;
            rest = behind;
        }
        Ok(())
    }
}

impl Copier {
    /// Returns the writes of one change: to the copy and to the counts.
    fn writes(&self, record: &Record<'_>) -> Result<[TransactWriteItem; WRITES_A_RECORD], BoxError> {
        let write = TransactWriteItem::builder();
        let copied = match record.new_image()? {
            Some(image) => {
                let item = Some(image.into_attributes());
                write.put(Put::builder().table_name(&self.copy).set_item(item).build()?)
            }
            None => {
                let key = Some(record.keys().into_attributes());
                write.delete(Delete::builder().table_name(&self.copy).set_key(key).build()?)
            }
        };
        let counted = Update::builder()
            .table_name(&self.counts)
            .set_key(Some(record.keys().into_attributes()))
            .update_expression("ADD changes :one")
            .expression_attribute_values(":one", AttributeValue::N("1".into()))
            .build()?;
        Ok([copied.build(), TransactWriteItem::builder().update(counted).build()])
    }
}

/// Returns the number of records, from the first, that fit into one transaction, which allows one write to an item.
fn records_of_one_transaction(records: &RecordBatch) -> usize {
    let mut keys = BTreeSet::new();
    let most = MAX_WRITES / WRITES_A_RECORD;
    records.iter().take(most).take_while(|record| keys.insert(record.keys_json())).count()
}

#[tokio::main]
async fn main() -> Result<(), shardkeeper::Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (table, copy, counts) = (argument("Phones"), argument("PhonesCopy"), argument("PhonesCounts"));
    let mut options = WorkerOptions::new("effectively-once", StreamSelector::Table(table), "copier-1");
    options.endpoints.url = arguments.next();
    run(options, copy, counts).await
}

/// Copies until Ctrl-C.
pub async fn run(mut options: WorkerOptions, copy: String, counts: String) -> Result<(), shardkeeper::Error> {
    options.checkpoints = Checkpoints::Manual;
    let copier = Copier { copy, counts };
    let worker = Worker::new(options, move |_: &ShardContext| copier.clone());
    let report = worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    eprintln!("{} records", report.totals.records);
    Ok(())
}
