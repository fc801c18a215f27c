//! The examples, each on a local service of its own, and their processors in the harness.

use std::time::Duration;

use serde_json::{Value, json};
use shardkeeper::testing::{Change, Harness, LocalService};
use shardkeeper::{OnFailure, Totals, Worker, WorkerBuilder, WorkerExit};
use tokio::time::Instant;

macro_rules! examples {
    ($($name:ident: $path:literal;)*) => {
        $(
            #[path = $path]
            #[expect(dead_code, reason = "its own main reads arguments")]
            mod $name;
        )*
    };
}

examples! {
    attribute_counts: "../../examples/attribute_counts.rs";
    chosen_at_run_time: "../../examples/chosen_at_run_time.rs";
    closure: "../../examples/closure.rs";
    effectively_once: "../../examples/effectively_once.rs";
    sink: "../../examples/sink.rs";
    two_workers: "../../examples/two_workers.rs";
}

const LIMIT: Duration = Duration::from_secs(20);

/// A service with three phones, one of which is changed and one deleted.
fn phones() -> LocalService {
    let service = LocalService::start();
    service.create_table("Phones", &["id"]);
    for id in 1..=3 {
        service.put("Phones", &json!({"id": id.to_string(), "price": id}));
    }
    service.put("Phones", &json!({"id": "1", "price": 9}));
    service.delete("Phones", &json!({"id": "3"}));
    service
}

fn builder(service: &LocalService) -> WorkerBuilder {
    Worker::builder("example", "Phones").sdk_config(service.sdk_config()).until_caught_up()
}

async fn run<F: shardkeeper::ProcessorFactory>(worker: Worker<F>) -> Totals {
    let report = worker.run(std::future::pending()).await.expect("it ends well");
    assert_eq!(report.ending, WorkerExit::CaughtUp);
    report.totals
}

/// The items of a table by their `id`.
fn sorted(service: &LocalService, table: &str) -> Vec<Value> {
    let mut items = service.items(table);
    items.sort_by_key(|item| item["id"].to_string());
    items
}

#[tokio::test]
async fn the_closure_keeps_the_newest_change_of_each_item() {
    let (service, newest) = (phones(), closure::Newest::default());
    assert_eq!(run(closure::worker(builder(&service), &newest)).await.records, 5);
    let newest = newest.lock().expect("no panic").clone();
    let of = |id: &str| newest[&json!({"id": {"S": id}}).to_string()].as_str();
    assert!(of("1").contains("\"9\""), "{newest:?}");
    assert_eq!(of("3"), "deleted");
}

#[tokio::test]
async fn the_projection_copies_and_counts_each_change_once() {
    let service = phones();
    service.create_table("Copy", &["id"]);
    service.create_table("Counts", &["id"]);
    for _ in 0..2 {
        run(effectively_once::worker(builder(&service), "Copy".into(), "Counts".into())).await;
        assert_eq!(sorted(&service, "Copy"), sorted(&service, "Phones"));
        let counts = [("1", 2), ("2", 1), ("3", 2)];
        assert_eq!(sorted(&service, "Counts"), counts.map(|(id, count)| json!({"id": id, "changes": count})));
    }
}

#[tokio::test]
async fn the_sink_retries_what_it_was_busy_for_and_skips_what_it_refuses() {
    let (service, stored) = (phones(), sink::Stored::default());
    service.put("Phones", &json!({"id": "4", "state": "busy"}));
    let totals = run(sink::worker(builder(&service), OnFailure::Skip, &stored)).await;
    assert_eq!((totals.records, totals.skipped), (5, 1));
    assert_eq!(stored.lock().expect("no panic").len(), 5);
}

#[tokio::test]
async fn a_processor_chosen_at_run_time_reads_what_is_there() {
    for counts in [true, false] {
        assert_eq!(run(chosen_at_run_time::worker(builder(&phones()), counts)).await.records, 5);
    }
}

#[tokio::test]
async fn two_workers_read_beside_each_other_and_stop_together() {
    let service = phones();
    service.create_table("Orders", &["id"]);
    let builder = |app: &str, table: &str| Worker::builder(app, table).sdk_config(service.sdk_config());
    let workers = two_workers::start(builder("phones", "Phones"), builder("orders", "Orders"));
    let started = Instant::now();
    while !workers.iter().all(|worker| worker.health().is_ready() && has_records(&service)) {
        assert!(started.elapsed() < LIMIT, "{:?}", workers.map(|worker| worker.health()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [phones, orders] = two_workers::shutdown(workers).await.expect("they stop");
    assert_eq!((phones.ending, orders.ending), (WorkerExit::Stopped, WorkerExit::Stopped));
    assert_eq!((phones.totals.records, phones.totals.filtered), (4, 1), "the deleted one is left out");
    assert_eq!(orders.totals.records, 0);
}

/// Whether the phones are checkpointed.
fn has_records(service: &LocalService) -> bool {
    let leases = service.items("phones");
    leases.iter().any(|lease| lease["checkpoint"].as_str().is_some_and(|at| at.parse::<u128>().is_ok()))
}

#[tokio::test]
async fn the_counts_are_checkpointed_when_they_are_durable_and_not_before() {
    let mut shard = Harness::new(attribute_counts::AttributeCounts::default());
    let phone = |id: &str| json!({"id": id, "price": 5});
    shard.deliver([Change::insert(phone("1")), Change::insert(phone("2"))]).await.expect("they are counted");
    assert!(shard.checkpoints().is_empty());
    shard.fail_checkpoints(true);
    shard.idle().await.expect_err("the lease table does not answer");
    shard.fail_checkpoints(false);
    shard.idle().await.expect("it does now");
    shard.deliver([Change::remove(phone("1"))]).await.expect("it is counted");
    assert_eq!(shard.processor().counts["price"], 2);
    assert_eq!(shard.checkpoints(), [2]);
    shard.take_over(attribute_counts::AttributeCounts::default()).await.expect("the next one begins there");
    assert!(shard.processor().counts.is_empty(), "it got the removal alone");
    shard.end().await.expect("it ends");
    assert_eq!(shard.checkpoints(), [2, 3]);
}

#[tokio::test]
async fn counts_stop_at_the_record_where_the_worker_leaves_and_a_lost_lease_checkpoints_nothing() {
    let mut shard = Harness::new(attribute_counts::AttributeCounts::default());
    shard.deliver([Change::insert(json!({"id": "1"}))]).await.expect("it is counted");
    shard.leave();
    let left = shard.deliver([Change::insert(json!({"id": "2"}))]).await.expect_err("it stops");
    assert!(left.batch_error().failed_from().is_some_and(|at| at.as_str().ends_with("02")), "{left}");
    shard.lose_lease().await;
    shard.hand_off().await;
    assert!(shard.checkpoints().is_empty());
}
