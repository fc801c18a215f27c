//! Records that the service dropped before they were read.

use crate::support::deliveries::Deliveries;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;

/// Leaves an application at a checkpoint whose next records are gone, and newer ones that are there.
fn with_a_gap() -> (Fixture, Deliveries, Written) {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    fixture.service.write(TABLE, &mut written, 200);
    fixture.service.change_shards(TABLE, "trim");
    deliveries.begin_after(&written);
    fixture.service.write(TABLE, &mut written, 200);
    (fixture, deliveries, written)
}

#[test]
fn a_gap_is_logged_and_the_worker_continues_behind_it() {
    let (fixture, mut deliveries, written) = with_a_gap();
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let gaps = worker.log().lines().filter(|line| line.contains("gap: records were trimmed")).count();
    assert_eq!(gaps, 2, "one line a shard: {}", worker.log());
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_whole_shard_that_is_gone_is_logged_as_a_gap_too() {
    let fixture = Fixture::new("--shards 1 --retention 1s");
    let deliveries = fixture.deliveries("audit");
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    worker.wait_for_log("lease taken");
    assert_eq!(worker.stop(), 0);
    let shard = fixture.service.leases("audit").into_keys().next().expect("a lease");
    fixture.service.change_shards(TABLE, "rollover");
    wait_for("the shard to vanish", || fixture.service.shards(TABLE).iter().all(|listed| listed.id != shard));

    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    worker.wait_for_log("shard finished");
    assert_eq!(worker.stop(), 0);
    let log = worker.log();
    let gaps: Vec<&str> = log.lines().filter(|line| line.contains("gap: ")).collect();
    assert_eq!(gaps.len(), 1, "{log}");
    for words in ["ERROR", "the stream no longer has this shard", &shard, "\"not_found\"", "\"TRIM_HORIZON\""] {
        assert!(gaps[0].contains(words), "no {words:?} in {}", gaps[0]);
    }
}

#[test]
fn a_gap_stops_a_worker_that_is_told_to_stop_at_one_and_is_still_there_for_the_next() {
    let (fixture, mut deliveries, written) = with_a_gap();
    let before = fixture.service.leases("audit");
    let mut worker = fixture.worker("audit", "w", &deliveries, "--on-gap stop");
    worker.assert_fails(&["trimmed before they were read"]);
    let error = worker.log().lines().last().unwrap_or_default().to_owned();
    let after = fixture.service.leases("audit");
    let named: Vec<&String> = before.keys().filter(|shard| error.contains(*shard)).collect();
    assert_eq!(named.len(), 1, "one shard is named: {error}");
    assert_eq!(after[named[0]].checkpoint, before[named[0]].checkpoint, "its position stays in front of the gap");
    assert!(!deliveries.has_all(&written));

    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
}

/// 300 open shards of four generations are 12 pages.
#[test]
fn a_fleet_that_was_away_for_longer_than_the_retention_reads_again_soon_and_spares_the_service() {
    let fixture = Fixture::new("--shards 300 --retention 40s --describe-stream-per-second 10");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let arn = fixture.service.stream_arn(TABLE);
    let old: Vec<String> = fixture.service.leases("audit").into_keys().collect();
    for _ in 0..3 {
        fixture.service.change_shards(TABLE, "rollover");
    }
    wait_for("the old shards to be gone", || {
        old.iter().all(|shard| {
            let request = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
            fixture.service.try_call("GetShardIterator", &request).is_err()
        })
    });
    fixture.service.write(TABLE, &mut written, 200);
    let called = fixture.service.calls("DescribeStream");
    let mut workers = ["a", "b"].map(|id| fixture.worker("audit", id, &deliveries, ""));
    deliveries.wait_for_all(&written);
    wait_for("the old leases to be finished", || {
        let leases = fixture.service.leases("audit");
        old.iter().all(|shard| leases.get(shard).is_none_or(|lease| lease.checkpoint == "SHARD_END"))
    });
    let calls = fixture.service.calls("DescribeStream") - called;
    assert!(calls < 200, "{calls} calls");
    assert_eq!(workers.each_mut().map(|worker| worker.stop()), [0, 0]);
}
