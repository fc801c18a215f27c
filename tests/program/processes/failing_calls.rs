//! Calls that fail, and a service that goes away: nothing is lost, and order is kept.

use std::time::Duration;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::{let_last, wait_for};

/// Longer than a lease lives, so that the worker cannot count on its leases afterwards.
const OUTAGE: Duration = Duration::from_secs(4);

#[test]
fn a_worker_goes_on_when_a_service_that_refused_connections_is_back() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    fixture.service.faults(&json!({"refuse": ["tables", "streams"]}));
    worker.wait_for_log("reading failed, retrying");
    let_last(OUTAGE);
    fixture.service.faults(&json!({}));
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_worker_goes_on_when_a_service_that_fell_silent_is_back() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    fixture.service.signal("STOP");
    let_last(OUTAGE);
    fixture.service.signal("CONT");
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(worker.stop(), 0);
}

#[test]
fn truncated_answers_are_asked_for_again_and_nothing_is_skipped() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let half = json!({"rules": [{"share": 0.5, "effect": "truncate", "operations": ["GetRecords"]}]});
    fixture.service.faults(&half);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    for action in ["split", "rollover", "rollover"] {
        fixture.service.write(TABLE, &mut written, 1_000);
        fixture.service.change_shards(TABLE, action);
    }
    fixture.service.write(TABLE, &mut written, 1_000);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    fixture.service.faults(&json!({}));
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn with_a_twentieth_of_all_calls_failing_nothing_is_lost_over_generations_of_shards() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let rule = |effect: &str| json!({"share": 0.0125, "effect": effect});
    let rules = ["error", "drop", "drop_after", "truncate"].map(rule);
    fixture.service.faults(&json!({"rules": rules}));
    let mut workers = ["a", "b"].map(|id| fixture.worker("audit", id, &deliveries, ""));
    for action in ["split", "rollover", "split", "rollover"] {
        fixture.service.write(TABLE, &mut written, 4_000);
        fixture.service.change_shards(TABLE, action);
    }
    fixture.service.write(TABLE, &mut written, 4_000);
    deliveries.wait_for_all(&written);
    for worker in &mut workers {
        assert_eq!(worker.stop(), 0);
    }
    fixture.service.faults(&json!({}));
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
}

#[test]
fn iterators_that_expire_between_calls_cost_nothing_but_another_call() {
    let fixture = Fixture::new("--shards 2 --iterator-ttl 400ms");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 500);
    let mut worker = fixture.worker("audit", "w", &deliveries, "--idle-poll 1s");
    for action in ["split", "rollover"] {
        let so_far = fixture.service.errors("GetRecords", "ExpiredIteratorException");
        wait_for("iterators to expire", || {
            fixture.service.errors("GetRecords", "ExpiredIteratorException") >= so_far + 2
        });
        fixture.service.write(TABLE, &mut written, 500);
        fixture.service.change_shards(TABLE, action);
        fixture.service.write(TABLE, &mut written, 500);
        deliveries.wait_for_all(&written);
    }
    assert_eq!(worker.stop(), 0);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);
}
