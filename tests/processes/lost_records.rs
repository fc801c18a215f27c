//! Records that the service dropped before they were read.

use crate::deliveries::Deliveries;
use crate::local_service::Written;
use crate::scene::{Scene, TABLE};

/// Leaves an application at a checkpoint whose next records are gone, and newer ones that are there.
fn with_a_gap() -> (Scene, Deliveries, Written) {
    let scene = Scene::new("--shards 2");
    let mut deliveries = scene.deliveries("audit");
    let mut written = Written::default();
    scene.service.write(TABLE, &mut written, 200);
    let mut worker = scene.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    scene.service.write(TABLE, &mut written, 200);
    scene.service.change_shards(TABLE, "trim");
    deliveries.begin_after(&written);
    scene.service.write(TABLE, &mut written, 200);
    (scene, deliveries, written)
}

#[test]
fn a_gap_is_logged_and_the_worker_goes_on_behind_it() {
    let (scene, mut deliveries, written) = with_a_gap();
    let mut worker = scene.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let gaps = worker.log().lines().filter(|line| line.contains("gap: records were trimmed")).count();
    assert_eq!(gaps, 2, "one line a shard: {}", worker.log());
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_gap_stops_a_worker_that_is_told_to_stop_at_one_and_is_still_there_for_the_next() {
    let (scene, mut deliveries, written) = with_a_gap();
    let before = scene.service.leases("audit");
    let mut worker = scene.worker("audit", "w", &deliveries, "--on-gap stop");
    worker.assert_fails(&["trimmed before they were read"]);
    let error = worker.log().lines().last().unwrap_or_default().to_owned();
    let after = scene.service.leases("audit");
    let named: Vec<&String> = before.keys().filter(|shard| error.contains(*shard)).collect();
    assert_eq!(named.len(), 1, "one shard is named: {error}");
    assert_eq!(after[named[0]].checkpoint, before[named[0]].checkpoint, "its position stays in front of the gap");
    assert!(!deliveries.has_all(&written));

    let mut worker = scene.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
}
