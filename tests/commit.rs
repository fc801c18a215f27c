//! A handler's writes and the position in one transaction: what is written, and what is said of it, when conditions
//! fail, the lease moves or is lost, and answers get lost or requests arrive late. A worker with the real SDK on the
//! local service, in this process, on a paused clock.

#![cfg(feature = "local")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedAsyncSleep, SharedCredentialsProvider};
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use serde_json::{Value, json};
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::internals::consumer::WallClock;
use shardkeeper::{
    BatchError, CheckpointError, Checkpointer, Checkpoints, CommitError, Committed, ProcessRecordsInput, RecordBatch,
    RecordProcessor, ShardContext, StreamSelector, Worker, WorkerOptions,
};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Request, Timestamp};
use shardkeeper_local::{Effect, InjectedFault};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

const EPOCH_MS: u64 = 1_700_000_000_000;
/// The SDK makes this many attempts of one call.
const SDK_ATTEMPTS: usize = 3;

#[derive(Clone, Copy, Debug)]
struct TimeOfDay(Instant);

impl TimeSource for TimeOfDay {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS) + self.0.elapsed()
    }
}

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
struct Scene {
    service: LocalService,
    faults: Arc<Mutex<VecDeque<InjectedFault>>>,
    batches: mpsc::UnboundedReceiver<HandedOver>,
    /// How many batches were written: no two hold the same item, which would be no change.
    written: usize,
}

impl Scene {
    fn new() -> Scene {
        let start = Instant::now();
        let options = LocalOptions { initial_shards: 1, rollover: None, ..LocalOptions::default() };
        let service = LocalService::new(options, Clock::tokio(Timestamp::from_millis(EPOCH_MS)));
        let (sender, batches) = mpsc::unbounded_channel();
        let scene = Scene { service, faults: Arc::default(), batches, written: 0 };
        for (table, has_stream) in [("Things", true), ("Counts", false)] {
            let stream = json!({"StreamEnabled": has_stream, "StreamViewType": has_stream.then_some("NEW_IMAGE")});
            let mut table = json!({
                "TableName": table, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            });
            if has_stream {
                table["StreamSpecification"] = stream;
            }
            scene.ask("CreateTable", &table);
        }
        let faults = Arc::clone(&scene.faults);
        let client = InMemoryClient::new(scene.service.clone()).hook(move |call| {
            let is_transaction = call.request.target.ends_with(".TransactWriteItems");
            is_transaction.then(|| faults.lock().expect("no panic").pop_front()).flatten()
        });
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), "w");
        options.seed = Some(1);
        options.own_thread = false;
        options.checkpoints = Checkpoints::Manual;
        options.clock = WallClock::Simulated { start_ms: EPOCH_MS, start };
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new("a", "b", None, None, "test")))
            .http_client(client.shared())
            .time_source(SharedTimeSource::new(TimeOfDay(start)))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .build();
        let factory = move |_: &ShardContext| Processor(sender.clone());
        tokio::task::spawn_local(Worker::new(options, factory).sdk_config(config).run(std::future::pending()));
        scene
    }

    fn ask(&self, operation: &str, body: &Value) -> Value {
        let request = Request { target: format!("DynamoDB_20120810.{operation}"), body: body.to_string().into() };
        let answer = self.service.handle(&request);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{operation} {body}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Writes three records and waits until the worker hands them over.
    async fn batch(&mut self) -> HandedOver {
        let puts: Vec<Value> = ["a", "b", "c"]
            .map(|key| json!({"Put": {"TableName": "Things", "Item": {"k": {"S": format!("{key}{}", self.written)}}}}))
            .into();
        self.written += 1;
        self.ask("TransactWriteItems", &json!({"TransactItems": puts}));
        let handed = tokio::time::timeout(Duration::from_secs(60), self.batches.recv()).await;
        let handed = handed.expect("a batch within a minute").expect("a worker");
        assert_eq!(handed.records.len(), 3);
        handed
    }

    /// What goes wrong with the next attempts of a transaction.
    fn next_faults(&self, count: usize, effect: &Effect) {
        let fault = InjectedFault { effect: effect.clone(), ..InjectedFault::default() };
        self.faults.lock().expect("no panic").extend(std::iter::repeat_n(fault, count));
    }

    fn count(&self) -> u64 {
        let found = self.ask("GetItem", &json!({"TableName": "Counts", "Key": {"k": {"S": "all"}}}));
        found["Item"]["n"]["N"].as_str().map_or(0, |n| n.parse().expect("a number"))
    }

    fn lease(&self) -> Value {
        self.ask("Scan", &json!({"TableName": "app"}))["Items"][0].clone()
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
        self.ask("UpdateItem", &request);
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
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    let (first, rest) = batch.records.split_at(2);
    assert_eq!(batch.checkpointer.commit(&first, counting(&first)).await, Ok(Committed::Now));
    assert_eq!((scene.count(), scene.checkpoint().as_str()), (2, position(&first)));
    assert_eq!(batch.checkpointer.commit(&first, counting(&first)).await, Ok(Committed::Earlier));

    let begun = batch.checkpointer.commit(&batch.records, counting(&batch.records)).await;
    assert!(matches!(begun, Err(CommitError::Begun(_))), "{begun:?}");
    let undone = batch.checkpointer.undone(&batch.records).await;
    assert_eq!((undone.len(), position(&undone)), (1, position(&rest)));
    assert_eq!(batch.checkpointer.commit(&undone, counting(&undone)).await, Ok(Committed::Now));
    assert_eq!((scene.count(), scene.checkpoint().as_str()), (3, position(&rest)));

    batch.end.send(()).expect("it waits");
    let next = scene.batch().await;
    assert_eq!(next.checkpointer.commit(&next.records, counting(&next.records)).await, Ok(Committed::Now));
    assert_eq!(scene.count(), 6);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_left_out_of_a_batch_is_passed_over_with_it() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    let mut is_first = true;
    let chosen = batch.records.clone().retain(|_| std::mem::take(&mut is_first));
    assert_eq!(chosen.len(), 1);
    assert_eq!(batch.checkpointer.commit(&chosen, counting(&chosen)).await, Ok(Committed::Now));
    assert_eq!((scene.count(), scene.checkpoint().as_str()), (1, position(&batch.records)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_failed_condition_of_a_write_is_told_with_its_item_and_the_lease_is_kept() {
    let mut scene = Scene::new();
    scene.ask("PutItem", &json!({"TableName": "Counts", "Item": {"k": {"S": "there"}, "x": {"N": "1"}}}));
    let batch = scene.batch().await;
    let before = scene.checkpoint();
    let mut writes = counting(&batch.records);
    writes.push(put_if("there", false));
    let error = batch.checkpointer.commit(&batch.records, writes).await.expect_err("the item is there");
    let CommitError::Refused(refused) = &error else { panic!("{error:?}") };
    assert_eq!((refused.len(), refused[0].index, refused[0].is_condition()), (1, 1, true));
    assert_eq!(refused[0].item.as_ref().expect("it was asked for")["x"], AttributeValue::N("1".into()));
    assert!(error.to_string().contains("number 1: ConditionalCheckFailed"), "{error}");
    assert_eq!((scene.count(), scene.checkpoint()), (0, before));
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(scene.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_lost_lease_is_told_apart_from_a_failed_condition_also_when_both_come_together() {
    for writes in [counting as fn(&RecordBatch) -> Vec<TransactWriteItem>, |_| vec![put_if("nowhere", true)]] {
        let mut scene = Scene::new();
        let batch = scene.batch().await;
        scene.change_lease("SET leaseOwner = :other", json!({":other": {"S": "other"}}));
        let error = batch.checkpointer.commit(&batch.records, writes(&batch.records)).await;
        assert_eq!(error, Err(CommitError::Checkpoint(CheckpointError::LeaseLost)));
        assert_eq!(scene.count(), 0);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_hand_off_that_began_in_between_is_taken_up() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    let names = json!({":other": {"S": "other"}, ":w": {"S": "w"}});
    scene.change_lease("SET leaseOwner = :other, checkpointOwner = :w", names);
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!((scene.count(), scene.checkpoint().as_str()), (3, position(&batch.records)));
    assert_eq!(scene.lease()["leaseOwner"]["S"], "other");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_transaction_whose_answer_is_lost_is_found_in_the_row() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    scene.next_faults(SDK_ATTEMPTS, &Effect::LoseAnswer);
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(scene.count(), 3);
    assert!(scene.faults.lock().expect("no panic").is_empty(), "no answer came");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_transaction_that_arrives_late_changes_nothing_more() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    scene.next_faults(SDK_ATTEMPTS, &Effect::ApplyLate(Duration::from_secs(4)));
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Now));
    assert_eq!(scene.count(), 3);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_was_told_to_be_refused_does_not_happen_later() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    scene.next_faults(SDK_ATTEMPTS, &Effect::ApplyLate(Duration::from_secs(4)));
    let mut writes = counting(&batch.records);
    writes.push(put_if("later", true));
    let refused = batch.checkpointer.commit(&batch.records, writes).await;
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    // From now on the condition would hold, when the first requests arrive.
    scene.ask("PutItem", &json!({"TableName": "Counts", "Item": {"k": {"S": "later"}}}));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.count(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_commit_that_its_caller_gives_up_is_seen_through() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    let slow = InjectedFault { delay_before: Duration::from_millis(500), ..InjectedFault::default() };
    scene.faults.lock().expect("no panic").push_back(slow);
    let commit = batch.checkpointer.commit(&batch.records, counting(&batch.records));
    tokio::time::timeout(Duration::from_millis(100), commit).await.expect_err("it takes longer");
    assert_eq!(scene.count(), 0, "not yet");
    assert_eq!(batch.checkpointer.commit(&batch.records, counting(&batch.records)).await, Ok(Committed::Earlier));
    assert_eq!(scene.count(), 3);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_writes_and_a_wrong_one_are_refused_before_anything_is_written() {
    let mut scene = Scene::new();
    let batch = scene.batch().await;
    let many: Vec<TransactWriteItem> = (0..100).map(|n| put_if(&format!("k{n}"), false)).collect();
    assert_eq!(batch.checkpointer.commit(&batch.records, many).await, Err(CommitError::TooMany(100)));
    let most: Vec<TransactWriteItem> = (0..99).map(|n| put_if(&format!("k{n}"), false)).collect();
    let twice = [counting(&batch.records), counting(&batch.records)].concat();
    let wrong = batch.checkpointer.commit(&batch.records, twice).await.expect_err("two writes of one item");
    assert!(matches!(wrong, CommitError::Checkpoint(CheckpointError::Failed(_))), "{wrong:?}");
    assert!(wrong.to_string().contains("multiple operations on one item"), "{wrong}");
    assert_eq!(batch.checkpointer.commit(&batch.records, most).await, Ok(Committed::Now));
}
