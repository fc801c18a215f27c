//! Fleets whose workers come and go.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;

/// A lease so long that none is lost on a busy machine, for fleets in which nobody dies.
const CALM: &str = "--lease-duration 15s";

/// The number of shards that each worker is due.
fn shares<const N: usize>(counts: [(&str, usize); N]) -> BTreeMap<String, usize> {
    counts.map(|(id, count)| (id.to_owned(), count)).into()
}

/// The worker that leads, as the fleet table has it.
fn leader(fixture: &Fixture) -> Option<String> {
    let key = json!({"TableName": "audit-Fleet", "Key": {"key": {"S": "leader"}}, "ConsistentRead": true});
    fixture.service.try_call("GetItem", &key).ok()?["Item"]["worker"]["S"].as_str().map(str::to_owned)
}

#[test]
fn a_worker_and_the_leader_killed_at_once_leave_all_shards_to_the_third() {
    let fixture = Fixture::new("--shards 9");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let mut workers = ["a", "b", "c"].map(|id| (id, fixture.worker("audit", id, &deliveries, "")));
    wait_for("three shards each", || fixture.service.shares("audit") == shares([("a", 3), ("b", 3), ("c", 3)]));
    fixture.service.write(TABLE, &mut written, 1_000);
    let leads = leader(&fixture).expect("a fleet that has shared its shards has a leader");
    // The leader first, and one other with it.
    workers.sort_by_key(|(id, _)| *id != leads);
    let [(_, leading), (_, other), (last, survivor)] = &mut workers;
    leading.kill();
    other.kill();
    fixture.service.write(TABLE, &mut written, 1_000);
    wait_for("all shards in one hand", || fixture.service.shares("audit") == shares([(*last, 9)]));
    assert_eq!(leader(&fixture).as_deref(), Some(*last));
    fixture.service.change_shards(TABLE, "rollover");
    fixture.service.write(TABLE, &mut written, 1_000);
    deliveries.wait_for_all(&written);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(survivor.stop(), 0);
}

#[test]
fn a_rolling_restart_of_all_workers_loses_and_repeats_nothing() {
    let fixture = Fixture::new("--shards 6");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let mut workers = ["a", "b", "c"].map(|id| (id, fixture.worker("audit", id, &deliveries, CALM)));
    let even = shares([("a", 2), ("b", 2), ("c", 2)]);
    wait_for("two shards each", || fixture.service.shares("audit") == even);
    for (id, worker) in &mut workers {
        fixture.service.write(TABLE, &mut written, 500);
        assert_eq!(worker.stop(), 0, "{}", worker.log());
        fixture.service.write(TABLE, &mut written, 500);
        *worker = fixture.worker("audit", id, &deliveries, CALM);
        wait_for("two shards each again", || fixture.service.shares("audit") == even);
    }
    fixture.service.write(TABLE, &mut written, 500);
    deliveries.wait_for_all(&written);
    assert_eq!(deliveries.repeats(), []);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    for (_, worker) in &mut workers {
        assert_eq!(worker.stop(), 0);
    }
}

#[test]
fn from_one_worker_to_four_and_back_nothing_is_lost_or_repeated() {
    let fixture = Fixture::new("--shards 8");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let start = |id| fixture.worker("audit", id, &deliveries, CALM);
    let mut first: Worker = start("a");
    wait_for("all shards in one hand", || fixture.service.shares("audit") == shares([("a", 8)]));
    fixture.service.write(TABLE, &mut written, 1_000);
    let mut others = ["b", "c", "d"].map(start);
    fixture.service.write(TABLE, &mut written, 1_000);
    let even = shares([("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
    wait_for("two shards each", || fixture.service.shares("audit") == even);
    fixture.service.change_shards(TABLE, "rollover");
    fixture.service.write(TABLE, &mut written, 1_000);
    for worker in &others {
        worker.signal("TERM");
    }
    assert_eq!(others.each_mut().map(Worker::exit_code), [0, 0, 0]);
    wait_for("all shards in one hand again", || fixture.service.shares("audit") == shares([("a", 8)]));
    fixture.service.write(TABLE, &mut written, 1_000);
    deliveries.wait_for_all(&written);
    assert_eq!(deliveries.repeats(), []);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(first.stop(), 0);
}
