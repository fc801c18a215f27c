//! The positions at which workers begin: a shard that nobody read for as long as the service keeps records may have lost
//! some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use shardkeeper::{BatchError, OnGap, ProcessRecordsInput, RecordProcessor, Report, ShardContext, WorkerOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fleet::Fleet;

const LIMIT: Duration = Duration::from_secs(60);
const LONGER_THAN_RETENTION: Duration = Duration::from_secs(25 * 3600);

/// A processor that counts records.
struct Counting(Arc<AtomicUsize>);

impl RecordProcessor for Counting {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.0.fetch_add(input.records.len(), Ordering::SeqCst);
        Ok(())
    }
}

struct Running {
    delivered: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Report, shardkeeper::Error>>,
}

/// A worker that stops at gaps.
fn start(fleet: &Fleet, seed: u64) -> Running {
    start_with(fleet, seed, |options| options.on_gap = OnGap::Stop)
}

fn start_with(fleet: &Fleet, seed: u64, set: impl FnOnce(&mut WorkerOptions)) -> Running {
    let delivered = Arc::new(AtomicUsize::new(0));
    let (stop, stopped) = oneshot::channel();
    let count = Arc::clone(&delivered);
    let factory = move |_: &ShardContext| Counting(Arc::clone(&count));
    let worker = fleet.worker("w", seed, fleet.client(), set, factory);
    let task = tokio::task::spawn_local(worker.run(async { drop(stopped.await) }));
    Running { delivered, stop, task }
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.task.await.expect("no panic").expect("no error");
    }
}

fn put(fleet: &Fleet, key: &str) {
    fleet.put(&json!({"k": {"S": key}}));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shard_that_stood_empty_while_the_fleet_was_away_for_longer_than_the_retention_is_a_gap() {
    let fleet = Fleet::new(1);
    let first = start(&fleet, 1);
    fleet.until("the lease is taken", LIMIT, || fleet.owned_by("w") == 1).await;
    first.stop().await;
    put(&fleet, "trimmed");
    tokio::time::sleep(LONGER_THAN_RETENTION).await;
    put(&fleet, "kept");
    let second = start(&fleet, 2);
    let error = second.task.await.expect("no panic").expect_err("records were trimmed unread").to_string();
    assert!(error.contains("were trimmed before they were read"), "{error}");

    // An operator who resets the lease wants what is left.
    let row = &fleet.leases()[0];
    let request = json!({
        "TableName": "app", "Key": {"leaseKey": row["leaseKey"]}, "UpdateExpression": "SET shardkeeperSince = :now",
        "ExpressionAttributeValues": {":now": {"N": fleet.now_ms().to_string()}},
    });
    fleet.call("UpdateItem", &request);
    let third = start(&fleet, 3);
    fleet.until("the record is delivered", LIMIT, || third.delivered.load(Ordering::SeqCst) == 1).await;
    third.stop().await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_old_shard_is_no_gap_for_a_new_application() {
    let fleet = Fleet::new(1);
    put(&fleet, "trimmed");
    tokio::time::sleep(LONGER_THAN_RETENTION).await;
    put(&fleet, "kept");
    let worker = start(&fleet, 1);
    fleet.until("the record is delivered", LIMIT, || worker.delivered.load(Ordering::SeqCst) == 1).await;
    worker.stop().await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_without_an_item_counts_as_alive_for_the_longest_lease_duration_of_the_fleet() {
    const LONG: Duration = Duration::from_secs(20);
    let fleet = Fleet::new(1);
    let set = |id: &'static str, lease_duration: Duration| {
        let (fleet, count) = (fleet.clone(), Arc::new(AtomicUsize::new(0)));
        let factory = move |_: &ShardContext| Counting(Arc::clone(&count));
        let worker = fleet.worker(
            id,
            1,
            fleet.client(),
            |options| {
                options.lease_duration = lease_duration;
                options.kcl_failover_time = Duration::from_secs(2);
            },
            factory,
        );
        tokio::task::spawn_local(worker.run(std::future::pending()))
    };
    let leader = set("short", Duration::from_secs(2));
    fleet.until("the lease is taken", LIMIT, || fleet.owned_by("short") == 1).await;
    let other = set("long", LONG);
    fleet.until("the other has joined", LIMIT, || !fleet.worker_item("long").is_null()).await;
    // A third one, whose item was lost, is cut off from the tables while it reads.
    let key = fleet.leases()[0]["leaseKey"].clone();
    let request = json!({
        "TableName": "app", "Key": {"leaseKey": key}, "UpdateExpression": "SET leaseOwner = :lost ADD leaseCounter :one",
        "ExpressionAttributeValues": {":lost": {"S": "lost"}, ":one": {"N": "1"}},
    });
    fleet.call("UpdateItem", &request);
    let taken = Instant::now();
    fleet.until("another takes over", LIMIT, || fleet.owned_by("lost") == 0).await;
    assert!(taken.elapsed() >= LONG, "taken over after {:?}", taken.elapsed());
    leader.abort();
    other.abort();
}
