//! The library as a program of one's own meets it: what it refuses, failures record by record, idle processors, boxed
//! ones. On the local service, in this process, on a paused clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use shardkeeper::{
    BatchError, BoxError, BoxProcessor, CallError, Checkpointer, Checkpoints, CoordinationError, DeadLetter,
    DeadLetterQueue, Error, FailurePolicy, FindError, OnFailure, OwnedRecord, ProcessRecordsInput, QueueFuture,
    RecordProcessor, ShardContext, Worker, WorkerOptions, for_each,
};
use shardkeeper_local::{FaultPlan, LocalService};

use crate::fleet::Fleet;

const LIMIT: Duration = Duration::from_secs(60);

/// The key of a record's item.
fn key(record: &OwnedRecord) -> String {
    record.keys().get("k").and_then(|key| key.as_s()).expect("a key").to_owned()
}

fn write(fleet: &Fleet, keys: impl IntoIterator<Item = usize>) {
    for key in keys {
        fleet.put(&json!({"k": {"S": format!("k{key}")}}));
    }
}

fn refusal(outcome: Result<shardkeeper::Report, Error>) -> &'static str {
    match outcome {
        Err(Error::Options(error)) => error.option,
        outcome => panic!("not refused: {outcome:?}"),
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_starts() {
    type Change = fn(&mut WorkerOptions);
    let refusals: [(&str, Change); 10] = [
        ("app", |options| options.app = String::new()),
        ("app", |options| options.app = "ab".into()),
        ("app", |options| options.app = "all phones".into()),
        ("stream", |options| options.stream = "".into()),
        ("worker_id", |options| options.worker_id = String::new()),
        ("lease_duration", |options| options.lease_duration = Duration::ZERO),
        ("start_timeout", |options| options.start_timeout = Duration::ZERO),
        ("idle_poll", |options| options.idle_poll = Duration::ZERO),
        ("checkpoints", |options| options.checkpoints = Checkpoints::Automatic { interval: Duration::ZERO }),
        ("checkpoints", |options| options.checkpoints = Checkpoints::Manual),
    ];
    for (option, change) in refusals {
        let worker = Worker::builder("phone-audit", "Phones").configure(change).for_each(async |_| {});
        assert_eq!(refusal(worker.run(std::future::pending()).await), option);
    }
    let builder = Worker::builder("phone-audit", "Phones").endpoint_url("http://127.0.0.1:1");
    let worker = builder.sdk_config(LocalService::start().sdk_config()).for_each(async |_| {});
    assert_eq!(refusal(worker.run(std::future::pending()).await), "endpoints");
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_told_with_the_last_failure_to_be_matched() {
    let service = LocalService::start();
    service.create_table("Phones", &["k"]);
    let throttle = |table: &str| {
        let rule = json!({"tables": [table], "share": 1, "effect": "error", "code": "ThrottlingException"});
        service.set_faults(FaultPlan::from_json(&json!({"rules": [rule]})).expect("a good plan"));
    };
    let start = || async {
        let builder = Worker::builder("phone-audit", "Phones").sdk_config(service.sdk_config());
        let builder = builder.configure(|options| options.start_timeout = Duration::from_secs(1));
        match builder.for_each(async |_| {}).run(std::future::pending()).await {
            Err(Error::Unreachable { source, .. }) => *source,
            outcome => panic!("reached: {outcome:?}"),
        }
    };
    throttle("phone-audit");
    let error = start().await;
    let Error::Fleet(CoordinationError::Table(table)) = error else { panic!("no error of a table: {error:?}") };
    assert_eq!(table.code(), Some("ThrottlingException"));
    throttle("Phones");
    let error = start().await;
    let is_throttled = |error: &CallError| error.code() == Some("ThrottlingException");
    assert!(matches!(&error, Error::NoStream(FindError::Unavailable(call)) if is_throttled(call)), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_cannot_join_its_fleet_ends_after_the_start_timeout() {
    let service = LocalService::start();
    service.create_table("Phones", &["k"]);
    let worker = |until_caught_up| {
        let builder = Worker::builder("phone-audit", "Phones").sdk_config(service.sdk_config());
        let builder = builder.configure(move |options| {
            (options.start_timeout, options.until_caught_up) = (Duration::from_secs(1), until_caught_up);
        });
        builder.for_each(async |_| {}).run(std::future::pending())
    };
    worker(true).await.expect("the application is bound to its stream");
    let rule = json!({"operations": ["PutItem"], "share": 1, "effect": "error", "code": "ThrottlingException"});
    service.set_faults(FaultPlan::from_json(&json!({"rules": [rule]})).expect("a good plan"));
    let ended = tokio::time::timeout(LIMIT, worker(false)).await.expect("it ends by itself");
    let limit = Duration::from_secs(1);
    assert!(matches!(ended, Err(Error::Fleet(CoordinationError::NotJoined(waited))) if waited == limit), "{ended:?}");
}

/// Retries some keys until their last attempt, rejects others.
struct Picky {
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl RecordProcessor for Picky {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let mut failures = BatchError::partial();
        for record in &input.records {
            let key = key(&record.to_owned());
            let mut calls = self.calls.lock().expect("no panic");
            let count = calls.entry(key.clone()).or_default();
            *count += 1;
            match (key.as_str(), *count) {
                ("k2" | "k3", 1..=2) | ("k7", _) => failures.retry(record.position(), "busy"),
                ("k5", _) => failures.reject(record.position(), "not a phone"),
                _ => {}
            }
        }
        failures.into_result()
    }
}

#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Vec<DeadLetter>>>);

impl DeadLetterQueue for Letters {
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a> {
        self.0.lock().expect("no panic").push(letter.clone());
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn records_that_fail_are_named_one_by_one_and_the_others_come_once() {
    for shard_concurrency in [1, 4] {
        let fleet = Fleet::new(1);
        write(&fleet, 0..9);
        let (calls, letters) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Letters::default());
        let set = |options: &mut WorkerOptions| {
            let policy = FailurePolicy::default().attempts(3);
            options.failure = policy.on_failure(OnFailure::dead_letter(letters.clone()));
            (options.until_caught_up, options.shard_concurrency) = (true, shard_concurrency);
        };
        let seen = Arc::clone(&calls);
        let factory = move |_: &ShardContext| Picky { calls: Arc::clone(&seen) };
        let report = fleet.worker("w", 1, fleet.client(), set, factory).run(std::future::pending()).await;
        let totals = report.expect("it ends well").totals;
        assert_eq!((totals.records, totals.dead_lettered), (7, 2));
        let calls = calls.lock().expect("no panic").clone();
        let expected = [1, 1, 3, 3, 1, 1, 1, 3, 1];
        assert_eq!(calls, (0..9).map(|key| (format!("k{key}"), expected[key])).collect());
        let letters = letters.0.lock().expect("no panic");
        let mut kept: Vec<_> = letters.iter().map(|kept| (kept.reason.as_str(), kept.error.as_str())).collect();
        kept.sort_unstable();
        assert_eq!(kept, [("attempts", "busy"), ("rejected", "not a phone")]);
    }
}

/// Buffers records until it is idle, and only then checkpoints.
struct Buffer {
    buffered: usize,
    flushed: Arc<AtomicUsize>,
}

impl RecordProcessor for Buffer {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.buffered += input.records.len();
        Ok(())
    }

    async fn idle(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        checkpointer.checkpoint().await?;
        self.flushed.fetch_add(std::mem::take(&mut self.buffered), Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_processor_that_buffers_flushes_a_quiet_shard_when_it_is_idle() {
    let fleet = Fleet::new(1);
    write(&fleet, 0..3);
    let flushed = Arc::new(AtomicUsize::new(0));
    let set = |options: &mut WorkerOptions| {
        options.checkpoints = Checkpoints::Manual;
        options.idle_interval = Some(Duration::from_secs(2));
    };
    let counted = Arc::clone(&flushed);
    let factory = move |_: &ShardContext| Buffer { buffered: 0, flushed: Arc::clone(&counted) };
    tokio::task::spawn_local(fleet.worker("w", 1, fleet.client(), set, factory).run(std::future::pending()));
    fleet.until("flushed", LIMIT, || flushed.load(Ordering::Relaxed) == 3).await;
    let saved = |lease: &serde_json::Value| lease["checkpoint"]["S"].as_str().map(ToOwned::to_owned);
    let first = saved(&fleet.leases()[0]);
    assert!(first.as_ref().is_some_and(|position| position.parse::<u128>().is_ok()), "{first:?}");
    write(&fleet, 3..5);
    fleet.until("flushed again", LIMIT, || flushed.load(Ordering::Relaxed) == 5).await;
    assert_ne!(saved(&fleet.leases()[0]), first);
}

/// A processor whose method panics before it returns a future.
struct PanicsAtOnce(Arc<AtomicUsize>);

impl RecordProcessor for PanicsAtOnce {
    fn process_records(&mut self, _: ProcessRecordsInput) -> impl Future<Output = Result<(), BatchError>> + Send {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first call");
        async { Ok(()) }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_panic_before_the_future_is_a_failed_batch_of_a_boxed_processor_too() {
    let fleet = Fleet::new(1);
    write(&fleet, 0..3);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let factory = move |_: &ShardContext| BoxProcessor::new(PanicsAtOnce(Arc::clone(&counted)));
    let until_caught_up = |options: &mut WorkerOptions| options.until_caught_up = true;
    let report = fleet.worker("w", 1, fleet.client(), until_caught_up, factory).run(std::future::pending()).await;
    let totals = report.expect("it ends well").totals;
    assert_eq!((totals.records, totals.failures), (3, 1));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_closure_may_return_any_error_or_none() {
    async fn handle(record: OwnedRecord, seen: Arc<AtomicUsize>) -> Result<(), std::num::ParseIntError> {
        let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
        let key = if first { "none".to_owned() } else { key(&record) };
        key[1..].parse::<u32>().map(drop)
    }
    let fleet = Fleet::new(1);
    write(&fleet, 0..3);
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let factory = for_each(move |record| handle(record, Arc::clone(&counted)));
    let until_caught_up = |options: &mut WorkerOptions| options.until_caught_up = true;
    let report = fleet.worker("w", 1, fleet.client(), until_caught_up, factory).run(std::future::pending()).await;
    assert_eq!(report.expect("it ends well").totals.records, 3);
    assert!(seen.load(Ordering::Relaxed) >= 4, "the first call failed");
}
