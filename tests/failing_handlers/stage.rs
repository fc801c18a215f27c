//! A table with its stream on the local service, a handler that can be told how to behave, and workers beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedAsyncSleep, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use serde_json::{Value, json};
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::internals::consumer::{BoxError, WallClock};
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::{
    BatchError, DeadLetterQueue, ProcessRecordsInput, RecordProcessor, Report, ShardContext, StreamSelector, Worker,
    WorkerOptions,
};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Request, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const EPOCH_MS: u64 = 1_700_000_000_000;

/// One record of a call that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub number: u32,
    pub item: String,
}

type Answer = Pin<Box<dyn Future<Output = Result<(), BatchError>> + Send>>;
type Handler = dyn Fn(&ProcessRecordsInput, &[u32]) -> Answer + Send + Sync;

#[derive(Clone, Copy, Debug)]
struct TimeOfDay(Instant);

impl TimeSource for TimeOfDay {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS) + self.0.elapsed()
    }
}

/// See the file's head.
#[derive(Clone)]
pub struct Stage {
    service: LocalService,
    start: Instant,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The numbers that the handler fails on.
    poison: Mutex<BTreeSet<u32>>,
    handler: Mutex<Option<Arc<Handler>>>,
    /// How long a record takes.
    takes: Mutex<Duration>,
    seen: Mutex<Vec<Seen>>,
    batches: Mutex<Vec<usize>>,
    calls: Mutex<Vec<Vec<u32>>>,
    /// The items of the calls under way.
    under_way: Mutex<BTreeMap<String, usize>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    most_of_an_item: AtomicUsize,
}

struct Processor(Stage);

impl RecordProcessor for Processor {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let inner = &self.0.inner;
        let records: Vec<Seen> = input.records.iter().map(|record| seen(record.json())).collect();
        let numbers: Vec<u32> = records.iter().map(|seen| seen.number).collect();
        inner.calls.lock().expect("no panic").push(numbers.clone());
        let _under_way = UnderWay::begin(Arc::clone(inner), &records);
        let takes = *inner.takes.lock().expect("no panic");
        if !takes.is_zero() {
            tokio::time::sleep(takes * u32::try_from(records.len()).expect("few")).await;
        }
        let handler = inner.handler.lock().expect("no panic").clone();
        if let Some(handler) = handler {
            let answer = handler(&input, &numbers).await;
            if let Err(error) = &answer
                && let Some(failed) = error.failed_from()
            {
                let before = records.iter().zip(&input.records);
                let done = before.take_while(|(_, record)| record.sequence_number() != failed.as_str());
                inner.seen.lock().expect("no panic").extend(done.map(|(seen, _)| seen.clone()));
            }
            answer?;
        }
        if inner.poison.lock().expect("no panic").iter().any(|poison| numbers.contains(poison)) {
            return Err("poison".into());
        }
        inner.batches.lock().expect("no panic").push(records.len());
        inner.seen.lock().expect("no panic").extend(records);
        Ok(())
    }
}

/// Counts a call while it lasts.
struct UnderWay {
    inner: Arc<Inner>,
    items: BTreeSet<String>,
}

impl UnderWay {
    fn begin(inner: Arc<Inner>, records: &[Seen]) -> Self {
        let items: BTreeSet<String> = records.iter().map(|seen| seen.item.clone()).collect();
        let at_once = inner.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        inner.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        {
            let mut under_way = inner.under_way.lock().expect("no panic");
            for item in &items {
                let count = under_way.entry(item.clone()).or_default();
                *count += 1;
                inner.most_of_an_item.fetch_max(*count, Ordering::Relaxed);
            }
        }
        Self { inner, items }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.inner.at_once.fetch_sub(1, Ordering::Relaxed);
        let mut under_way = self.inner.under_way.lock().expect("no panic");
        for item in &self.items {
            *under_way.get_mut(item).expect("it was counted") -= 1;
        }
    }
}

impl Stage {
    pub fn new() -> Self {
        Self::with_shards(1)
    }

    pub fn with_shards(shards: u32) -> Self {
        let options = LocalOptions { initial_shards: shards, rollover: None, ..LocalOptions::default() };
        let service = LocalService::new(options, Clock::tokio(Timestamp::from_millis(EPOCH_MS)));
        let stage = Self { service, start: Instant::now(), inner: Arc::default() };
        stage.ask(
            "DynamoDB_20120810.CreateTable",
            &json!({
                "TableName": "Things", "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
                "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
            }),
        );
        stage
    }

    /// Writes the numbers 0, 1, … to so many items in turn.
    pub fn write(&self, items: u32, count: u32) {
        self.write_more(items, 0, count);
    }

    pub fn write_more(&self, items: u32, first: u32, count: u32) {
        for number in first..first + count {
            let item = json!({"k": {"S": format!("item-{:03}", number % items)}, "n": {"N": number.to_string()}});
            self.ask("DynamoDB_20120810.PutItem", &json!({"TableName": "Things", "Item": item}));
        }
    }

    pub fn fail_on<const N: usize>(&self, numbers: [u32; N]) {
        *self.inner.poison.lock().expect("no panic") = numbers.into();
    }

    /// What each call answers, before anything else is looked at.
    pub fn handle<H, A>(&self, handler: H)
    where
        H: Fn(&ProcessRecordsInput, &[u32]) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), BatchError>> + Send + 'static,
    {
        let boxed = move |input: &ProcessRecordsInput, numbers: &[u32]| Box::pin(handler(input, numbers)) as Answer;
        *self.inner.handler.lock().expect("no panic") = Some(Arc::new(boxed));
    }

    /// How long each record takes.
    pub fn take(&self, length: Duration) {
        *self.inner.takes.lock().expect("no panic") = length;
    }

    pub fn start(
        &self,
        worker: &str,
        set: impl FnOnce(&mut WorkerOptions),
    ) -> JoinHandle<Result<Report, shardkeeper::Error>> {
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), worker);
        options.seed = Some(7);
        options.own_thread = false;
        options.clock = WallClock::Simulated { start_ms: EPOCH_MS, start: self.start };
        set(&mut options);
        let credentials = Credentials::new("simulated", "simulated", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(InMemoryClient::new(self.service.clone()).shared())
            .time_source(SharedTimeSource::new(TimeOfDay(self.start)))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .build();
        let stage = self.clone();
        let factory = move |_: &ShardContext| Processor(stage.clone());
        tokio::task::spawn_local(async move {
            // What was written before is of an earlier second than the start.
            tokio::time::sleep(Duration::from_secs(2)).await;
            Worker::new(options, factory).sdk_config(config).run(std::future::pending()).await
        })
    }

    pub async fn until(&self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < limit, "{what} within {limit:?}; {} seen", self.seen().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().expect("no panic").clone()
    }

    pub fn delivered(&self) -> BTreeSet<u32> {
        self.seen().iter().map(|seen| seen.number).collect()
    }

    /// The sizes of the batches that were taken.
    pub fn batches(&self) -> Vec<usize> {
        self.inner.batches.lock().expect("no panic").clone()
    }

    /// How many calls had this number in their batch first, or alone.
    pub fn calls_with(&self, number: u32) -> usize {
        let calls = self.inner.calls.lock().expect("no panic");
        calls.iter().filter(|call| call.contains(&number)).count()
    }

    pub fn most_at_once(&self) -> usize {
        self.inner.most_at_once.load(Ordering::Relaxed)
    }

    pub fn most_at_once_of_an_item(&self) -> usize {
        self.inner.most_of_an_item.load(Ordering::Relaxed)
    }

    /// Whether first deliveries came in each item's order.
    pub fn is_in_order(&self) -> bool {
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        let mut known = BTreeSet::new();
        self.seen().into_iter().filter(|seen| known.insert(seen.number)).all(|seen| {
            let before = last.insert(seen.item, seen.number);
            before.is_none_or(|before| before < seen.number)
        })
    }

    /// A number's record, byte for byte.
    pub fn record(&self, number: u32) -> String {
        let all = self.records();
        let found = all.iter().flatten().find(|json| seen(json).number == number);
        found.expect("it was written").clone()
    }

    /// A number's position.
    pub fn position(&self, number: u32) -> String {
        let record: Value = serde_json::from_str(&self.record(number)).expect("JSON");
        record["dynamodb"]["SequenceNumber"].as_str().expect("a position").to_owned()
    }

    /// The numbers of the shard that holds this one, in order, and those of the others.
    pub fn shards_with_and_without(&self, number: u32) -> (Vec<u32>, Vec<u32>) {
        let shards = self.records().into_iter();
        let numbers = shards.map(|shard| shard.iter().map(|json| seen(json).number).collect::<Vec<u32>>());
        let (with, without): (Vec<_>, Vec<_>) = numbers.partition(|shard| shard.contains(&number));
        (with.concat(), without.concat())
    }

    pub fn numbers_of_other(&self, number: u32) -> Vec<u32> {
        self.shards_with_and_without(number).1
    }

    /// The checkpoint of the only shard, and what is done beyond it.
    pub fn lease(&self) -> (String, Option<String>) {
        let row = self.row();
        let text = |name: &str| row[name]["S"].as_str().map(ToOwned::to_owned);
        (text("checkpoint").unwrap_or_default(), text("shardkeeperDone"))
    }

    /// What a worker's heartbeat says that its shards wait for.
    pub fn halted(&self, worker: &str) -> Vec<Value> {
        let key = json!({"key": {"S": format!("worker/{worker}")}});
        let found = self.ask("DynamoDB_20120810.GetItem", &json!({"TableName": "app-Fleet", "Key": key}));
        let halted = found["Item"]["halted"]["M"].as_object().into_iter().flatten();
        let read = |halt: &Value| serde_json::from_str(halt["S"].as_str().expect("a text")).expect("JSON");
        halted.map(|(_, halt)| read(halt)).collect()
    }

    /// Moves the only shard's checkpoint to a number's position, as a worker does that knows KCL's attributes alone.
    pub fn move_checkpoint(&self, number: u32) {
        let mut row = self.row();
        row["checkpoint"] = json!({"S": self.position(number)});
        row.as_object_mut().expect("a row").remove("leaseOwner");
        self.ask("DynamoDB_20120810.PutItem", &json!({"TableName": "app", "Item": row}));
    }

    fn row(&self) -> Value {
        let request = json!({"TableName": "app"}).to_string();
        let request = Request { target: "DynamoDB_20120810.Scan".into(), body: request.into() };
        let found: Value = serde_json::from_slice(&self.service.handle(&request).body).expect("JSON");
        found["Items"][0].clone()
    }

    /// The records of each shard, as the service sends them.
    fn records(&self) -> Vec<Vec<String>> {
        let arn = self.ask("DynamoDB_20120810.DescribeTable", &json!({"TableName": "Things"}));
        let arn = arn["Table"]["LatestStreamArn"].clone();
        let streams = |operation: &str| format!("DynamoDBStreams_20120810.{operation}");
        let shards = self.ask(&streams("DescribeStream"), &json!({"StreamArn": arn}));
        let shards = shards["StreamDescription"]["Shards"].as_array().expect("shards").clone();
        let read = |shard: &Value| {
            let wanted = json!({"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"});
            let mut iterator = self.ask(&streams("GetShardIterator"), &wanted)["ShardIterator"].clone();
            let mut records = Vec::new();
            loop {
                let request = json!({"ShardIterator": iterator}).to_string();
                let request = Request { target: streams("GetRecords"), body: request.into() };
                let body = self.service.handle(&request).body;
                let page = shardkeeper::internals::model::record::Page::decode(body).expect("a page");
                if page.records.is_empty() {
                    return records;
                }
                records.extend(page.records.iter().map(|record| record.json().to_owned()));
                iterator = page.next_shard_iterator.expect("the shard is open").into();
            }
        };
        shards.iter().map(read).collect()
    }

    fn ask(&self, target: &str, body: &Value) -> Value {
        let request = Request { target: target.into(), body: body.to_string().into() };
        let answer = self.service.handle(&request);
        assert_eq!(answer.status, 200, "{target} {body}: {:?}", answer.body);
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

fn seen(json: &str) -> Seen {
    let record: Value = serde_json::from_str(json).expect("a record is JSON");
    let image = &record["dynamodb"]["NewImage"];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Seen { number: text(&image["n"]["N"]).parse().expect("digits"), item: text(&image["k"]["S"]) }
}

/// Dead letters in memory, by shard and position.
#[derive(Clone, Default)]
pub struct Letters {
    kept: Arc<Mutex<BTreeMap<(String, String), DeadLetter>>>,
    refusals: Arc<AtomicUsize>,
}

impl Letters {
    /// The next so many letters are refused.
    pub fn refuse(&self, count: usize) {
        self.refusals.store(count, Ordering::Relaxed);
    }

    pub fn kept(&self) -> BTreeMap<(String, String), DeadLetter> {
        self.kept.lock().expect("no panic").clone()
    }
}

impl DeadLetterQueue for Letters {
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let left = self.refusals.load(Ordering::Relaxed);
            if left > 0 {
                self.refusals.store(left - 1, Ordering::Relaxed);
                return Err("no room".into());
            }
            let id = (letter.shard_id.to_string(), letter.sequence_number.to_string());
            self.kept.lock().expect("no panic").insert(id, letter.clone());
            Ok(())
        })
    }
}
