//! A handler's writes and the position in one transaction: what is written, and what is said of it, when conditions
//! fail, the lease moves or is lost, and answers get lost or requests arrive late. A worker with the real SDK on the
//! local service, in this process, on a paused clock.

#![cfg(feature = "local")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use serde_json::{Value, json};
use shardkeeper::{
    BatchError, CheckpointError, Checkpointer, Checkpoints, CommitError, Committed, ProcessRecordsInput, RecordBatch,
    RecordProcessor, ShardContext,
};
use shardkeeper_local::{Effect, InjectedFault};
use tokio::sync::{mpsc, oneshot};

use crate::fleet::Fleet;

/// The SDK makes this many attempts of one call.
const SDK_ATTEMPTS: usize = 3;

/// A batch that was handed over. Its processor waits until it is told how the call ends.
struct HandedOver {
    records: RecordBatch,
    checkpointer: Checkpointer,
    end: oneshot::Sender<()>,
}

struct Processor(mpsc::UnboundedSender<HandedOver>);

impl RecordProcessor for Processor {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let (end, ended) = oneshot::channel();
        let handed = HandedOver { records: input.records, checkpointer: input.checkpointer, end };
        self.0.send(handed).map_err(|_| "the test is over")?;
        Ok(ended.await?)
    }
}

/// A worker with its service, and what goes wrong with the next transactions.
struct Harness {
    fleet: Fleet,
    faults: Arc<Mutex<VecDeque<InjectedFault>>>,
    batches: mpsc::UnboundedReceiver<HandedOver>,
    /// The number of batches written: no two hold the same item, which would be no change.
    written: usize,
}

impl Harness {
    fn new() -> Harness {
        let fleet = Fleet::new(1);
        fleet.create_table("Counts", json!({"StreamEnabled": false}));
        let (sender, batches) = mpsc::unbounded_channel();
        let faults: Arc<Mutex<VecDeque<InjectedFault>>> = Arc::default();
        let next_faults = Arc::clone(&faults);
        let client = fleet.client().hook(move |call| {
            let is_transaction = call.request.target.ends_with(".TransactWriteItems");
            is_transaction.then(|| next_faults.lock().expect("no panic").pop_front()).flatten()
        });
        let factory = move |_: &ShardContext| Processor(sender.clone());
        let worker = fleet.worker("w", 1, client, |options| options.checkpoints = Checkpoints::Manual, factory);
        tokio::task::spawn_local(worker.run(std::future::pending()));
        Harness { fleet, faults, batches, written: 0 }
    }

    /// Writes three records and waits until the worker hands them over.
    async fn batch(&mut self) -> HandedOver {
        let puts: Vec<Value> = ["a", "b", "c"]
            .map(|key| json!({"Put": {"TableName": "Things", "Item": {"k": {"S": format!("{key}{}", self.written)}}}}))
            .into();
        self.written += 1;
        self.fleet.call("TransactWriteItems", &json!({"TransactItems": puts}));
        let handed = tokio::time::timeout(Duration::from_secs(60), self.batches.recv()).await;
        let handed = handed.expect("a batch within a minute").expect("a worker");
        assert_eq!(handed.records.len(), 3);
        handed
    }

    /// Makes the next attempts of a transaction go wrong.
    fn next_faults(&self, count: usize, effect: &Effect) {
        let fault = InjectedFault { effect: effect.clone(), ..InjectedFault::default() };
        self.faults.lock().expect("no panic").extend(std::iter::repeat_n(fault, count));
    }

    fn count(&self) -> u64 {
        let found = self.fleet.call("GetItem", &json!({"TableName": "Counts", "Key": {"k": {"S": "all"}}}));
        found["Item"]["n"]["N"].as_str().map_or(0, |n| n.parse().expect("a number"))
    }

    fn lease(&self) -> Value {
        self.fleet.leases()[0].clone()
    }

    fn checkpoint(&self) -> String {
        self.lease()["checkpoint"]["S"].as_str().expect("a checkpoint").to_owned()
    }

    /// Writes the lease's row as another worker would, the counter with it.
    fn change_lease(&self, update: &str, values: Value) {
        let mut values = values;
        values[":one"] = json!({"N": "1"});
        let request = json!({
            "TableName": "app", "Key": {"leaseKey": self.lease()["leaseKey"]},
            "UpdateExpression": format!("{update} ADD leaseCounter :one"), "ExpressionAttributeValues": values,
        });
        self.fleet.call("UpdateItem", &request);
    }
}

fn position(records: &RecordBatch) -> &str {
    records.last().expect("a record").sequence_number()
}

/// Counts the records: done twice, it counts twice.
fn counting(records: &RecordBatch) -> Vec<TransactWriteItem> {
    let count = Update::builder()
        .table_name("Counts")
        .key("k", AttributeValue::S("all".into()))
        .update_expression("ADD n :n")
        .expression_attribute_values(":n", AttributeValue::N(records.len().to_string()))
        .build();
    vec![TransactWriteItem::builder().update(count.expect("whole")).build()]
}

/// A write that goes well only while there is no item `k`, or only while there is one.
fn put_if(k: &str, is_there: bool) -> TransactWriteItem {
    let condition = if is_there { "attribute_exists(k)" } else { "attribute_not_exists(k)" };
    let put = Put::builder()
        .table_name("Counts")
        .item("k", AttributeValue::S(k.into()))
        .condition_expression(condition)
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build();
    TransactWriteItem::builder().put(put.expect("whole")).build()
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_writes_and_the_position_are_made_together_and_a_second_time_not_at_all() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    let (first, rest) = batch.records.split_at(2);
    assert_eq!(batch.checkpointer.commit(&first, counting(&first)).await, Ok(Committed::Now));
    assert_eq!((harness.count(), harness.checkpoint().as_str()), (2, position(&first)));
    assert_eq!(batch.checkpointer.commit(&first, counting(&first)).await, Ok(Committed::Earlier));

    let begun = batch.checkpointer.commit(&batch.records, counting(&batch.records)).await;
    assert!(matches!(begun, Err(CommitError::Begun(_))), "{begun:?}");
    let undone = batch.checkpointer.undone(&batch.records).await;
    assert_eq!((undone.len(), position(&undone)), (1, position(&rest)));
    assert_eq!(batch.checkpointer.commit(&undone, counting(&undone)).await, Ok(Committed::Now));
    assert_eq!((harness.count(), harness.checkpoint().as_str()), (3, position(&rest)));

    batch.end.send(()).expect("it waits");
    let next = harness.batch().await;
    assert_eq!(next.checkpointer.commit(&next.records, counting(&next.records)).await, Ok(Committed::Now));
    assert_eq!(harness.count(), 6);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_commit_counts_as_a_checkpoint() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    batch.end.send(()).expect("it waits");
    let committed_ms = harness.fleet.now_ms();
    let unsaved_since_ms = || {
        let item = harness.fleet.worker_item("w");
        item["unsavedSince"]["N"].as_str().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or_default()
    };
    harness.fleet.until("all saved", Duration::from_secs(30), || unsaved_since_ms() >= committed_ms - 5_000).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_left_out_of_a_batch_is_passed_over_with_it() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    let mut is_first = true;
    let chosen = batch.records.clone().retain(|_| std::mem::take(&mut is_first));
    assert_eq!(chosen.len(), 1);
    assert_eq!(batch.checkpointer.commit(&chosen, counting(&chosen)).await, Ok(Committed::Now));
    assert_eq!((harness.count(), harness.checkpoint().as_str()), (1, position(&batch.records)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_failed_condition_of_a_write_is_told_with_its_item_and_the_lease_is_kept() {
    let mut harness = Harness::new();
    harness.fleet.call("PutItem", &json!({"TableName": "Counts", "Item": {"k": {"S": "there"}, "x": {"N": "1"}}}));
    let batch = harness.batch().await;
    let before = harness.checkpoint();
    let mut writes = counting(&batch.records);
    writes.push(put_if("there", false));
    let error = batch.checkpointer.commit(&batch.records, writes).await.expect_err("the item is there");
    let CommitError::Refused(refused) = &error else { panic!("{error:?}") };
    assert_eq!((refused.len(), refused[0].index, refused[0].is_condition()), (1, 1, true));
    assert_eq!(refused[0].item.as_ref().expect("it was asked for")["x"], AttributeValue::N("1".into()));
    assert!(error.to_string().contains("number 1: ConditionalCheckFailed"), "{error}");
    assert_eq!((harness.count(), harness.checkpoint()), (0, before));
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(harness.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_lost_lease_is_told_apart_from_a_failed_condition_also_when_both_come_together() {
    for writes in [counting as fn(&RecordBatch) -> Vec<TransactWriteItem>, |_| vec![put_if("nowhere", true)]] {
        let mut harness = Harness::new();
        let batch = harness.batch().await;
        harness.change_lease("SET leaseOwner = :other", json!({":other": {"S": "other"}}));
        let error = batch.checkpointer.commit(&batch.records, writes(&batch.records)).await;
        assert_eq!(error, Err(CommitError::Checkpoint(CheckpointError::LeaseLost)));
        assert_eq!(harness.count(), 0);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_hand_off_that_began_in_between_is_taken_up() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    let names = json!({":other": {"S": "other"}, ":w": {"S": "w"}});
    harness.change_lease("SET leaseOwner = :other, checkpointOwner = :w", names);
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!((harness.count(), harness.checkpoint().as_str()), (3, position(&batch.records)));
    assert_eq!(harness.lease()["leaseOwner"]["S"], "other");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_transaction_whose_answer_is_lost_is_found_in_the_row() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    harness.next_faults(SDK_ATTEMPTS, &Effect::LoseAnswer);
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(harness.count(), 3);
    assert!(harness.faults.lock().expect("no panic").is_empty(), "no answer came");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_transaction_that_arrives_late_changes_nothing_more() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    harness.next_faults(SDK_ATTEMPTS, &Effect::ApplyLate(Duration::from_secs(4)));
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(harness.count(), 3);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(harness.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_was_told_to_be_refused_does_not_happen_later() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    harness.next_faults(SDK_ATTEMPTS, &Effect::ApplyLate(Duration::from_secs(4)));
    let mut writes = counting(&batch.records);
    writes.push(put_if("later", true));
    let refused = batch.checkpointer.commit(&batch.records, writes).await;
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    // From now on the condition would hold, when the first requests arrive.
    harness.fleet.call("PutItem", &json!({"TableName": "Counts", "Item": {"k": {"S": "later"}}}));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(harness.count(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_commit_that_its_caller_gives_up_is_seen_through() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    let slow = InjectedFault { delay_before: Duration::from_millis(500), ..InjectedFault::default() };
    harness.faults.lock().expect("no panic").push_back(slow);
    let commit = batch.checkpointer.commit(&batch.records, counting(&batch.records));
    tokio::time::timeout(Duration::from_millis(100), commit).await.expect_err("it takes longer");
    assert_eq!(harness.count(), 0, "not yet");
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Earlier));
    assert_eq!(harness.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_writes_and_a_wrong_one_are_refused_before_anything_is_written() {
    let mut harness = Harness::new();
    let batch = harness.batch().await;
    let many: Vec<TransactWriteItem> = (0..100).map(|n| put_if(&format!("k{n}"), false)).collect();
    assert_eq!(batch.checkpointer.commit(&batch.records, many).await, Err(CommitError::TooMany(100)));
    let most: Vec<TransactWriteItem> = (0..99).map(|n| put_if(&format!("k{n}"), false)).collect();
    let twice = [counting(&batch.records), counting(&batch.records)].concat();
    let wrong = batch.checkpointer.commit(&batch.records, twice).await.expect_err("two writes of one item");
    assert!(matches!(wrong, CommitError::Checkpoint(CheckpointError::Table(_))), "{wrong:?}");
    assert!(wrong.to_string().contains("multiple operations on one item"), "{wrong}");
    assert_eq!(batch.checkpointer.commit(&batch.records, most).await, Ok(Committed::Now));
}
