//! Records that the service dropped before they were read.

use crate::support::deliveries::Deliveries;
use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;

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
fn a_gap_is_logged_and_the_worker_goes_on_behind_it() {
    let (fixture, mut deliveries, written) = with_a_gap();
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let gaps = worker.log().lines().filter(|line| line.contains("gap: records were trimmed")).count();
    assert_eq!(gaps, 2, "one line a shard: {}", worker.log());
    assert_eq!(deliveries.repeats(), []);
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
