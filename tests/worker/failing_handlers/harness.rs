//! A table with its stream on the local service, a handler that can be told how to behave, and workers beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use shardkeeper::internals::consumer::BoxError;
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::{
    BatchError, DeadLetterQueue, ProcessRecordsInput, RecordProcessor, Report, ShardContext, WorkerOptions,
};
use tokio::task::JoinHandle;

use crate::fleet::Fleet;

/// One record of a call that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub number: u32,
    pub item: String,
}

type Answer = Pin<Box<dyn Future<Output = Result<(), BatchError>> + Send>>;
type Handler = dyn Fn(&ProcessRecordsInput, &[u32]) -> Answer + Send + Sync;

#[derive(Clone)]
pub struct Harness {
    fleet: Fleet,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The numbers that the handler fails on.
    poison: Mutex<BTreeSet<u32>>,
    handler: Mutex<Option<Arc<Handler>>>,
    /// The time that a record takes.
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

struct Processor(Harness);

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

impl Harness {
    pub fn new() -> Self {
        Self::with_shards(1)
    }

    pub fn with_shards(shards: u32) -> Self {
        Self { fleet: Fleet::new(shards), inner: Arc::default() }
    }

    /// Writes the numbers 0, 1, … to so many items in turn.
    pub fn write(&self, items: u32, count: u32) {
        self.write_more(items, 0, count);
    }

    pub fn write_more(&self, items: u32, first: u32, count: u32) {
        for number in first..first + count {
            let item = format!("item-{:03}", number % items);
            self.fleet.put(&json!({"k": {"S": item}, "n": {"N": number.to_string()}}));
        }
    }

    pub fn fail_on<const N: usize>(&self, numbers: [u32; N]) {
        *self.inner.poison.lock().expect("no panic") = numbers.into();
    }

    /// Sets each call's answer, which comes before anything else.
    pub fn handle<H, A>(&self, handler: H)
    where
        H: Fn(&ProcessRecordsInput, &[u32]) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), BatchError>> + Send + 'static,
    {
        let boxed = move |input: &ProcessRecordsInput, numbers: &[u32]| Box::pin(handler(input, numbers)) as Answer;
        *self.inner.handler.lock().expect("no panic") = Some(Arc::new(boxed));
    }

    /// Sets the time that each record takes.
    pub fn take(&self, length: Duration) {
        *self.inner.takes.lock().expect("no panic") = length;
    }

    pub fn start(
        &self,
        worker: &str,
        set: impl FnOnce(&mut WorkerOptions),
    ) -> JoinHandle<Result<Report, shardkeeper::Error>> {
        let harness = self.clone();
        let factory = move |_: &ShardContext| Processor(harness.clone());
        let worker = self.fleet.worker(worker, 7, self.fleet.client(), set, factory);
        tokio::task::spawn_local(async move {
            // The first item must be of an earlier second than the start.
            tokio::time::sleep(Duration::from_secs(2)).await;
            worker.run(std::future::pending()).await
        })
    }

    pub async fn until(&self, what: &str, limit: Duration, is_so: impl FnMut() -> bool) {
        self.fleet.until(what, limit, is_so).await;
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

    /// The number of calls that had this number in their batch.
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

    /// The causes for which a worker's shards wait, by its heartbeat.
    pub fn halted(&self, worker: &str) -> Vec<Value> {
        let item = self.fleet.worker_item(worker);
        let halted = item["halted"]["M"].as_object().into_iter().flatten();
        let read = |halt: &Value| serde_json::from_str(halt["S"].as_str().expect("a text")).expect("JSON");
        halted.map(|(_, halt)| read(halt)).collect()
    }

    /// Moves the only shard's checkpoint to a number's position, as a worker does that knows KCL's attributes alone.
    pub fn move_checkpoint(&self, number: u32) {
        let mut row = self.row();
        row["checkpoint"] = json!({"S": self.position(number)});
        row.as_object_mut().expect("a row").remove("leaseOwner");
        self.fleet.call("PutItem", &json!({"TableName": "app", "Item": row}));
    }

    fn row(&self) -> Value {
        self.fleet.leases().into_iter().next().unwrap_or_default()
    }

    /// The records of each shard, as the service sends them.
    fn records(&self) -> Vec<Vec<String>> {
        let arn = self.fleet.call("DescribeTable", &json!({"TableName": "Things"}));
        let arn = arn["Table"]["LatestStreamArn"].clone();
        let shards = self.fleet.call("DescribeStream", &json!({"StreamArn": arn}));
        let shards = shards["StreamDescription"]["Shards"].as_array().expect("shards").clone();
        let read = |shard: &Value| {
            let wanted = json!({"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"});
            let mut iterator = self.fleet.call("GetShardIterator", &wanted)["ShardIterator"].clone();
            let mut records = Vec::new();
            loop {
                let body = self.fleet.try_call("GetRecords", &json!({"ShardIterator": iterator})).expect("a page");
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
