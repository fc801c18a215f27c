//! Metrics, lags and readiness of workers: every metric of the list is shown, lags are right by the service's own clock,
//! and readiness follows what the worker does.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use shardkeeper::internals::telemetry::catalogue::{ALL, Shown};
use shardkeeper_local::StreamAction;

pub use harness::Notes;
use harness::{Harness, Running};

const SECOND: Duration = Duration::from_secs(1);
/// The tolerance of a lag that is shown.
const CLOSE: Duration = Duration::from_millis(1_500);

/// Metrics that only workers with a failure policy show.
const OF_FAILURE_POLICIES: [&str; 3] =
    ["shardkeeper_record_retries_total", "shardkeeper_batch_bisects_total", "shardkeeper_dead_letters_failed_total"];

/// Runs on for a while, and looks each tenth of a second.
async fn watch(lasts: Duration, mut look: impl FnMut()) {
    for _ in 0..lasts.as_millis() / 100 {
        tokio::time::sleep(SECOND / 10).await;
        look();
    }
}

/// The lag of the one shard that the worker reads.
fn shown_lag(worker: &Running) -> Duration {
    let lags = worker.telemetry.shard_lags();
    assert_eq!(lags.len(), 1, "one shard and its lag");
    lags[0].1
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn every_metric_is_shown_by_workers_that_have_occasion_to() {
    let notes = Notes::default();
    let _guard = metrics::set_default_local_recorder(&notes);
    let harness = Harness::new(4);
    let first = harness.start_worker("first", 1);
    harness.until("all leases", 30 * SECOND, || harness.owned_by("first") == 4).await;
    harness.fail_once();
    harness.write(50);
    tokio::time::sleep(20 * SECOND).await;
    let _second = harness.start_worker("second", 2);
    harness.until("an even share", 60 * SECOND, || harness.owned_by("second") == 2).await;
    harness.change_shards(StreamAction::Rollover);
    harness.write(50);
    tokio::time::sleep(20 * SECOND).await;
    harness.faults(&json!({"rules": [
        {"share": 1.0, "effect": "error", "code": "ExpiredIteratorException", "operations": ["GetRecords"]}
    ]}));
    tokio::time::sleep(SECOND).await;
    harness.faults(&json!({}));
    first.task.abort();
    harness.write(50);
    harness.change_shards(StreamAction::Trim);
    harness.until("a take-over", 60 * SECOND, || harness.owned_by("second") == 4).await;
    tokio::time::sleep(20 * SECOND).await;

    let is_shown_here = |shown: Shown| !matches!(shown, Shown::PerShard | Shown::ByProgram);
    let expected: BTreeSet<String> = ALL
        .iter()
        .filter(|metric| is_shown_here(metric.shown) && !OF_FAILURE_POLICIES.contains(&metric.name))
        .map(|metric| metric.name.to_owned())
        .collect();
    let names = notes.names();
    let missing: Vec<&String> = expected.difference(&names).collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let unknown: Vec<&String> = names.difference(&known).collect();
    assert!(unknown.is_empty(), "not on the list: {unknown:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shards_lag_is_right_by_the_services_clock_while_it_flows_hangs_and_idles() {
    let harness = Harness::new(1);
    let worker = harness.start_worker("worker", 3);
    harness.until("the lease", 30 * SECOND, || harness.owned_by("worker") == 1).await;
    tokio::time::sleep(10 * SECOND).await;
    let check = |phase: &str| {
        let (shown, real) = (shown_lag(&worker), harness.true_lag());
        assert!(shown.abs_diff(real) <= CLOSE, "{phase}: {shown:?} is shown, {real:?} is so");
    };
    watch(5 * SECOND, || check("idle from the start")).await;
    let mut tick = 0;
    watch(20 * SECOND, || {
        tick += 1;
        if tick % 3 == 0 {
            harness.write(2);
        }
        check("flowing");
    })
    .await;
    watch(20 * SECOND, || check("idle after a flow")).await;
    assert_eq!(shown_lag(&worker), Duration::ZERO, "caught up and idle");
    for _ in 0..8 {
        harness.write(1);
        watch(Duration::from_millis(3_700), || check("a record now and then")).await;
    }
    harness.hang(true);
    harness.write(3);
    watch(30 * SECOND, || check("a processor that hangs")).await;
    assert!(shown_lag(&worker) >= 29 * SECOND);
    harness.hang(false);
    watch(10 * SECOND, || check("after it went on")).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_lag_grows_while_polls_fail_and_never_freezes() {
    let harness = Harness::new(1);
    let worker = harness.start_worker("worker", 4);
    harness.until("the lease", 30 * SECOND, || harness.owned_by("worker") == 1).await;
    tokio::time::sleep(10 * SECOND).await;
    harness.faults(&json!({"rules": [
        {"share": 1.0, "effect": "error", "code": "InternalServerError", "operations": ["GetRecords"]}
    ]}));
    harness.write(1);
    let mut last = Duration::ZERO;
    watch(30 * SECOND, || {
        let (shown, real) = (shown_lag(&worker), harness.true_lag());
        assert!(shown.abs_diff(real) <= CLOSE, "{shown:?} is shown, {real:?} is so");
        assert!(shown >= last, "it went back from {last:?} to {shown:?}");
        last = shown;
    })
    .await;
    assert!(worker.telemetry.health().not_ready_reasons[0].contains("reading it keeps failing"));
    harness.faults(&json!({}));
    harness.until("it is caught up", 20 * SECOND, || shown_lag(&worker) == Duration::ZERO).await;
    assert!(worker.telemetry.health().is_ready(), "{:?}", worker.telemetry.health());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_groups_lag_covers_the_shards_of_a_dead_worker_and_of_one_that_hangs() {
    let notes = Notes::default();
    let _guard = metrics::set_default_local_recorder(&notes);
    let harness = Harness::new(4);
    let leader = harness.start_worker("leader", 5);
    harness.until("all leases", 30 * SECOND, || harness.owned_by("leader") == 4).await;
    let other = harness.start_worker("other", 6);
    harness.until("an even share", 60 * SECOND, || harness.owned_by("other") == 2).await;
    tokio::time::sleep(10 * SECOND).await;
    let group = || {
        leader.telemetry.record_gauges();
        let lag = notes.value("shardkeeper_group_lag_seconds").expect("a leader shows it");
        Duration::from_secs_f64(lag)
    };
    watch(10 * SECOND, || assert_eq!(group(), Duration::ZERO, "caught up and idle")).await;
    let headroom = notes.value("shardkeeper_group_trim_headroom_seconds");
    assert!(headroom.is_some_and(|seconds| (86_399.0..=86_400.0).contains(&seconds)), "{headroom:?}");
    assert_eq!(notes.value("shardkeeper_group_shards{state=reading}"), Some(4.0));

    harness.hang(true);
    harness.write(40);
    watch(10 * SECOND, || {
        // Workers tell of it with their heartbeats, a second apart.
        let (shown, real) = (group(), harness.true_lag());
        assert!(shown.abs_diff(real) <= CLOSE + SECOND, "hanging: {shown:?} is shown, {real:?} is so");
    })
    .await;
    harness.hang(false);
    harness.until("it is caught up", 20 * SECOND, || group() == Duration::ZERO).await;
    tokio::time::sleep(10 * SECOND).await;

    other.task.abort();
    harness.write(40);
    let mut most = Duration::ZERO;
    harness
        .until("a take-over", 20 * SECOND, || {
            most = most.max(group());
            let (shown, real) = (group(), harness.true_lag());
            assert!(shown + CLOSE + SECOND >= real, "nobody reads: {shown:?} is shown, {real:?} is so");
            harness.owned_by("leader") == 4
        })
        .await;
    assert!(most >= 3 * SECOND, "the dead worker's shards are forgotten: {most:?}");
    harness
        .until("it is caught up", 20 * SECOND, || group() == Duration::ZERO && harness.true_lag() == Duration::ZERO)
        .await;
    assert!(notes.value("shardkeeper_failover_seconds").is_some_and(|seconds| (4.9..8.0).contains(&seconds)));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn figures_that_only_a_leader_has_go_with_its_office() {
    let notes = Notes::default();
    let _guard = metrics::set_default_local_recorder(&notes);
    let harness = Harness::new(2);
    let leader = harness.start_worker("leader", 7);
    harness.until("all leases", 30 * SECOND, || harness.owned_by("leader") == 2).await;
    leader.telemetry.record_gauges();
    assert!(notes.value("shardkeeper_desired_workers").is_some_and(|wanted| wanted == 1.0));
    // Its item in the fleet table is overwritten, as by another worker that takes its office.
    let successor = json!({
        "TableName": "app-Fleet", "Key": {"key": {"S": "leader"}},
        "UpdateExpression": "SET worker = :w ADD #t :one", "ExpressionAttributeNames": {"#t": "term"},
        "ExpressionAttributeValues": {":w": {"S": "another"}, ":one": {"N": "1"}},
    });
    harness.fleet.call("UpdateItem", &successor);
    tokio::time::sleep(2 * SECOND).await;
    leader.telemetry.record_gauges();
    assert!(notes.value("shardkeeper_desired_workers").is_some_and(f64::is_nan));
    assert!(notes.value("shardkeeper_group_lag_seconds").is_some_and(f64::is_nan));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_age_of_the_last_listing_grows_while_listings_are_refused() {
    let notes = Notes::default();
    let _guard = metrics::set_default_local_recorder(&notes);
    let harness = Harness::new(2);
    let leader = harness.start_worker("leader", 7);
    harness.until("all leases", 30 * SECOND, || harness.owned_by("leader") == 2).await;
    let age = || {
        leader.telemetry.record_gauges();
        notes.value("shardkeeper_discovery_age_seconds").expect("it leads")
    };
    tokio::time::sleep(90 * SECOND).await;
    assert!(age() < 90.0, "listings come each minute, the last one {} s ago", age());
    harness.faults(&json!({"deny": ["DescribeStream"]}));
    tokio::time::sleep(150 * SECOND).await;
    assert!(age() > 140.0, "a refused listing counted as one: {} s", age());
    assert!(!leader.task.is_finished(), "it reads on without listings");
    harness.faults(&json!({}));
    harness.until("a listing comes in", 120 * SECOND, || age() < 90.0).await;
    leader.task.abort();
}
