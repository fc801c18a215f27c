//! Start positions of workers, and the ends that they find by themselves.

use std::time::Duration;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::{let_last, wait_for};

#[test]
fn until_caught_up_ends_with_everything_delivered_and_checkpointed() {
    let fixture = Fixture::new("--shards 3");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    for action in ["split", "rollover"] {
        fixture.service.write(TABLE, &mut written, 600);
        fixture.service.change_shards(TABLE, action);
    }
    fixture.service.write(TABLE, &mut written, 600);
    let start = |id| fixture.worker("audit", id, &deliveries, "--until-caught-up");
    let mut both = [start("a"), start("b")];
    assert_eq!(both.each_mut().map(|worker| worker.exit_code()), [0, 0]);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);

    let mut again = fixture.worker("audit", "a", &deliveries, "--until-caught-up");
    assert_eq!(again.exit_code(), 0);
    assert_eq!(deliveries.repeats(), [], "all of it was checkpointed");
}

#[test]
fn a_stream_that_is_switched_off_is_read_to_its_end() {
    let fixture = Fixture::new("--shards 2 --get-records-per-second 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 2_500);
    fixture.service.change_shards(TABLE, "rollover");
    fixture.service.write(TABLE, &mut written, 500);
    let source = format!("--stream-arn {}", fixture.service.stream_arn(TABLE));
    let mut worker = fixture.worker_on(&source, "audit", "w", deliveries.stdout(), "");
    wait_for("the first records", || deliveries.firsts() > 0);
    let off = json!({"TableName": TABLE, "StreamSpecification": {"StreamEnabled": false}});
    fixture.service.call("UpdateTable", &off);
    assert_eq!(worker.exit_code(), 0, "{}", worker.log());
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(fixture.service.shares("audit").len(), 0, "all leases are finished");
}

#[test]
fn a_start_at_the_latest_record_delivers_what_is_written_from_then_on() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.begin_after(&written);
    let_last(Duration::from_millis(1_100)); // times of records are whole seconds
    let mut worker = fixture.worker("audit", "w", &deliveries, "--start latest");
    wait_for("both shards to be read", || fixture.service.calls("GetRecords") >= 6);
    fixture.service.write(TABLE, &mut written, 200);
    fixture.service.change_shards(TABLE, "split");
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

/// The service's clock is behind the worker's: the start is a moment of the service's.
#[test]
fn a_start_at_the_latest_record_survives_iterators_that_expire_before_it() {
    let behind_ms = 25_000;
    let fixture = Fixture::new(&format!("--shards 2 --iterator-ttl 400ms --clock {}", now_ms() - behind_ms));
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.begin_after(&written);
    let_last(Duration::from_millis(1_100)); // times of records are whole seconds
    let mut worker = fixture.worker("audit", "w", &deliveries, "--start latest --idle-poll 1s");
    wait_for("iterators to expire", || fixture.service.errors("GetRecords", "ExpiredIteratorException") >= 4);
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), [], "delivered from before the start");
}

#[expect(clippy::disallowed_methods, reason = "the service's clock is set against the machine's")]
fn now_ms() -> u128 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis()
}
