//! Workers that are stopped, killed, paused or no longer listened to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;

/// Slow enough to be stopped in the middle of a backlog.
const SLOW: &str = "--shards 2 --get-records-per-second 1";

#[test]
fn a_stopped_worker_releases_its_leases_and_nothing_is_delivered_twice() {
    let fixture = Fixture::new(SLOW);
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 6_000);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    wait_for("the first records", || deliveries.firsts() > 0);
    assert_eq!(worker.stop(), 0);
    assert!(!deliveries.has_all(&written), "it was stopped in the middle");
    assert!(fixture.service.leases("audit").values().all(|row| row.owner.is_none()), "all leases are released");

    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_killed_worker_goes_on_from_its_checkpoints() {
    let fixture = Fixture::new(SLOW);
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 8_000);
    let mut worker = fixture.worker("audit", "w", &deliveries, "--checkpoint-interval 4s");
    wait_for("half of a backlog", || deliveries.firsts() >= 3_000);
    worker.kill();
    assert!(!deliveries.has_all(&written), "it was killed in the middle");
    let left = fixture.service.leases("audit");
    let is_number = |checkpoint: &str| checkpoint.parse::<u128>().is_ok();
    assert!(left.values().any(|row| is_number(&row.checkpoint)), "{left:?}");

    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let shards = fixture.service.shards(TABLE);
    deliveries.assert_complete(&written, &shards);
    // Records that are delivered again were not checkpointed.
    let number = |text: &str| text.parse::<u128>().unwrap_or(0);
    for shard in &shards {
        let checkpoint = number(&left[&shard.id].checkpoint);
        let repeats = deliveries.repeats();
        let own = repeats.iter().filter(|repeat| shard.records.contains(&repeat.sequence_number));
        let checkpointed = own.filter(|repeat| number(&repeat.sequence_number) <= checkpoint).count();
        assert_eq!(checkpointed, 0, "of {} repeats", repeats.len());
    }
}

#[test]
fn three_workers_share_shards_evenly_and_take_over_from_a_killed_one() {
    let fixture = Fixture::new("--shards 12");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let start = |id| fixture.worker("audit", id, &deliveries, "");
    let mut workers = [start("a"), start("b"), start("c")];
    fixture.service.write(TABLE, &mut written, 1_000);
    let even = |shares: &[(&str, usize)]| -> BTreeMap<String, usize> {
        shares.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
    };
    wait_for("four shards each", || fixture.service.shares("audit") == even(&[("a", 4), ("b", 4), ("c", 4)]));
    fixture.service.write(TABLE, &mut written, 1_000);
    workers[1].kill();
    fixture.service.write(TABLE, &mut written, 1_000);
    wait_for("six shards each", || fixture.service.shares("audit") == even(&[("a", 6), ("c", 6)]));
    fixture.service.change_shards(TABLE, "rollover");
    fixture.service.write(TABLE, &mut written, 1_000);
    deliveries.wait_for_all(&written);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!([workers[0].stop(), workers[2].stop()], [0, 0]);
}

#[test]
fn a_worker_that_was_paused_past_its_leases_delivers_nothing_of_them_and_joins_again() {
    let fixture = Fixture::new("--shards 4");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let mut paused = fixture.worker("audit", "a", &deliveries, "");
    let mut other = fixture.worker("audit", "b", &deliveries, "");
    let both = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)]);
    wait_for("two shards each", || fixture.service.shares("audit") == both);
    fixture.service.write(TABLE, &mut written, 400);
    deliveries.wait_for_all(&written);
    // With a checkpoint still to be written, that write would tell it that the lease is lost.
    fixture.wait_for_checkpoints("audit");

    paused.signal("STOP");
    fixture.service.write(TABLE, &mut written, 400);
    wait_for("all shards to be taken over", || fixture.service.shares("audit").get("b") == Some(&4));
    deliveries.wait_for_all(&written);
    let mark = deliveries.all.len();

    // Its heartbeat is answered slowly, so that it must know by itself that its time is over.
    fixture.service.faults(&json!({"latency_ms": {"GetRecords": 0, "GetShardIterator": 0, "*": 200}}));
    paused.signal("CONT");
    paused.wait_for_log("heartbeat deadline missed");
    fixture.service.faults(&json!({}));
    wait_for("two shards each again", || fixture.service.shares("audit") == both);
    fixture.service.write(TABLE, &mut written, 400);
    deliveries.wait_for_all(&written);
    let late: Vec<_> = deliveries.all[mark..].iter().filter(|delivery| delivery.is_repeat).collect();
    assert!(late.is_empty(), "delivered past the deadline: {late:?}");
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!([paused.stop(), other.stop()], [0, 0]);
}

#[test]
fn a_closed_pipe_stops_the_worker_and_nothing_unwritten_is_acknowledged() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let source = format!("--table {TABLE}");
    let mut worker = fixture.worker_on(&source, "audit", "w", Stdio::piped(), "");
    let lines = BufReader::new(worker.take_stdout()).lines().take(200);
    assert_eq!(lines.filter(Result::is_ok).count(), 200);
    deliveries.begin_after(&written); // the pipe is closed now, with all of this read
    fixture.service.write(TABLE, &mut written, 200);
    assert_eq!(worker.exit_code(), 0, "{}", worker.log());
    assert!(!worker.log().lines().any(|line| line.starts_with("error: ")), "{}", worker.log());
    assert!(fixture.service.leases("audit").values().all(|row| row.owner.is_none()), "all leases are released");

    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_worker_whose_leases_ran_out_ends_at_once_though_its_tables_refuse_all_calls() {
    let fixture = Fixture::new("--shards 2");
    let deliveries = fixture.deliveries("audit");
    let mut worker = fixture.worker("audit", "w", &deliveries, "--drain-timeout 1h");
    worker.wait_for_log("lease taken");
    let plan = json!({"rules": [{"share": 1.0, "effect": "error", "code": "AccessDeniedException", "operations": [
        "UpdateItem", "PutItem", "GetItem", "Scan", "BatchGetItem", "DeleteItem", "TransactWriteItems", "Query"
    ]}]});
    fixture.service.faults(&plan);
    worker.wait_for_log("every call on the table failed, retrying");
    worker.signal("TERM");
    worker.exit_code(); // which waits for less than the drain timeout
    assert!(!worker.log().contains("processors did not finish"), "{}", worker.log());
}

#[test]
fn a_drain_that_times_out_releases_its_leases_and_says_only_that() {
    let fixture = Fixture::new("--shards 1");
    let source = format!("--table {TABLE}");
    let mut worker = fixture.worker_on(&source, "audit", "w", Stdio::piped(), "--drain-timeout 1s --unready-after 1s");
    // Nobody reads its standard output: the pipe fills up, and the sink behind it.
    fixture.service.write(TABLE, &mut Written::default(), 20_000);
    worker.wait_for_log("shard stalled");
    worker.signal("TERM");
    worker.exit_code();
    let log = worker.log();
    let says = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(
        (says("processors did not finish in time, dropping their calls"), says("lease released"), says("lease lost")),
        (1, 1, 0),
        "{log}"
    );
    assert!(fixture.service.leases("audit").values().all(|row| row.owner.is_none()), "{log}");
}
