//! An operator's commands on real fleets: `shardkeeper status` and `shardkeeper lease`.

mod harness;
mod watch;

use std::io::{Read as _, Write as _};

use harness::Harness;
use serde_json::{Value, json};

use crate::documents::world::{Handler, Manner};
use crate::support::wait::eventually;

fn all_read(status: &Value, shards: u64) -> bool {
    status["totals"]["shards"] == json!({"reading": shards}) && status["waits"] == json!([])
}

/// The shards of a worker, by the status.
fn shards_of(status: &Value, worker: &str) -> Vec<String> {
    let shards = status["shards"].as_array().unwrap().iter().filter(|shard| shard["owner"] == worker);
    shards.map(|shard| shard["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_running_fleet_shows_its_workers_shards_and_leader_and_a_dead_one_says_so() {
    let harness = Harness::new("status", 4);
    let workers = [harness.worker("w-1"), harness.worker("w-2")];
    let is_balanced = |status: &Value| {
        let is_even = ["w-1", "w-2"].iter().all(|worker| shards_of(status, worker).len() == 2);
        is_even && all_read(status, 4) && status["totals"]["workers"] == json!({"active": 2})
    };
    let status = harness.wait_for_status("two workers with two shards each", is_balanced);
    assert_eq!(status["app"], harness::APP);
    assert_eq!(status["stream"]["is_disabled"], false);
    assert_eq!((&status["stream"]["listed_shards"], &status["stream"]["open_shards"]), (&json!(4), &json!(4)));
    let leader = status["leader"]["worker"].as_str().unwrap();
    assert!(["w-1", "w-2"].contains(&leader) && status["leader"]["is_alive"] == true, "{status}");
    assert_eq!(status["workers"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["shards"][0]["checkpoint"], "TRIM_HORIZON");

    let table = harness.operator("status");
    assert_eq!(table.code, 0, "{}", table.stderr);
    let lines: Vec<&str> = table.stdout.lines().collect();
    let header = lines.iter().position(|line| line.starts_with("SHARD ")).expect("a table of shards");
    let column = lines[header].find("WORKER").unwrap();
    for line in &lines[header + 1..header + 5] {
        assert!(line[column..].starts_with("w-"), "not aligned:\n{}", table.stdout);
    }
    assert!(table.stdout.contains(&format!("{leader} (leader)")), "{}", table.stdout);

    drop(workers); // killed
    let status =
        harness.wait_for_status("two dead workers", |status| status["totals"]["workers"].get("active").is_none());
    assert_eq!(status["totals"]["shards"], json!({"owner_silent": 4}));
    assert_eq!(status["waits"].as_array().unwrap().len(), 4);
    assert_eq!(status["remarks"][0], "no worker is alive: nothing is read");
    let table = harness.operator("status --table Phones").stdout;
    assert!(table.contains("shows no sign of life"), "{table}");
}

#[test]
fn a_fleet_that_was_stopped_has_no_worker_and_unowned_shards() {
    let harness = Harness::new("stopped", 2);
    let worker = harness.worker("w-1");
    harness.wait_for_status("a worker with two shards", |status| status["app"] == harness::APP && all_read(status, 2));
    let killed = harness.worker("w-2");
    harness.wait_for_status("a second worker", |status| status["totals"]["workers"] == json!({"active": 2}));
    drop(killed); // killed
    let status = harness.wait_for_status("the death to be kept", |status| status["ends"] != json!([]));
    let end = &status["ends"][0];
    assert_eq!((&end["worker"], &end["was_found_dead"]), (&json!("w-2"), &json!(true)), "{status}");
    assert!(end["at_ms"].is_u64() && end["reason"].as_str().unwrap().starts_with("no heartbeat for "), "{end}");

    worker.stop();
    let status = harness.status();
    assert_eq!((&status["workers"], &status["leader"]), (&json!([]), &Value::Null));
    assert_eq!(status["totals"]["shards"], json!({"unowned": 2}));
    let end = &status["ends"][1];
    assert_eq!(
        (&end["worker"], &end["reason"], &end["was_found_dead"]),
        (&json!("w-1"), &json!("stopped"), &json!(false))
    );
    let left = status["trim_headroom_at_least_ms"].as_u64().expect("the time that is left");
    assert!((23 * 3_600_000..=24 * 3_600_000).contains(&left), "{left}");
    assert!(
        status["remarks"][1].as_str().unwrap().starts_with("no undelivered record is trimmed within the next 23 h")
    );
    let table = harness.operator("status").stdout;
    assert!(table.contains("found dead: no heartbeat for "), "{table}");
}

#[test]
fn a_killed_fleet_is_not_called_alive_where_its_lease_duration_is_longer_than_the_status_assumes() {
    let harness = Harness::new("long-leases", 2);
    let workers = ["w-1", "w-2"].map(|id| harness.worker_with(id, "--lease-duration 10s"));
    harness.wait_for_status("two workers", |status| {
        status["totals"]["workers"] == json!({"active": 2}) && all_read(status, 2)
    });
    drop(workers); // killed
    let status = harness.status();
    assert_eq!(status["totals"]["workers"], json!({"silent": 2}), "{status}");
    assert_eq!(status["verdict"]["troubles"][0]["text"], "no worker is alive: nothing is read");
    let table = harness.operator("status").stdout;
    assert!(
        table.contains("verdict      no worker is alive: nothing is read: see docs/runbooks/no-workers.md"),
        "{table}"
    );
}

#[test]
fn a_call_that_hangs_is_named_with_its_record_by_status_and_by_readiness() {
    let mut harness = Harness::new("hung", 1);
    // Takes connections and never answers.
    let handler = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (to, metrics) = (handler.local_addr().expect("its address"), free_address());
    let _worker = harness.worker_with("w-1", &format!("--to http://{to}/ --metrics-addr {metrics} --unready-after 2s"));
    harness.write(3);
    let status =
        harness.wait_for_status("the call to show", |status| status["shards"][0]["running_call"] != Value::Null);
    let call = &status["shards"][0]["running_call"];
    assert_eq!(
        (&call["attempts"], &call["records"].as_u64().map(|count| count > 0)),
        (&json!(1), &Some(true)),
        "{call}"
    );
    let position = call["sequence_number"].as_str().expect("a record");
    let text = status["waits"][0]["text"].as_str().unwrap();
    assert!(text.contains("worker w-1's processor call has not returned for ") && text.contains(position), "{text}");
    let _other = harness.worker("w-2");
    harness.wait_for_status("a second worker", |status| status["totals"]["workers"] == json!({"active": 2}));
    let shard = status["shards"][0]["id"].as_str().unwrap();
    let plan = harness.operator(&format!("lease assign {shard} --to w-2 --dry-run")).stdout;
    assert!(plan.contains("w-1's processor call has not returned for ") && plan.contains("it is dropped"), "{plan}");
    let reason = not_ready_reason(metrics);
    assert!(
        reason.ends_with(&format!("a call of the processor does not return (record {position}, attempt 1)")),
        "{reason}"
    );
}

#[test]
fn reading_that_is_refused_is_told_by_status_and_readiness_in_the_services_words() {
    let harness = Harness::new("refused", 1);
    let metrics = free_address();
    let _worker = harness.worker_with("w-1", &format!("--metrics-addr {metrics} --unready-after 2s"));
    harness.wait_for_status("a worker", |status| all_read(status, 1));
    harness.faults(&json!({"rules": [
        {"share": 1.0, "effect": "error", "code": "AccessDeniedException", "operations": ["GetRecords"]}
    ]}));
    let status = harness.wait_for_status("the stall to show", |status| status["waits"] != json!([]));
    let stall = &status["shards"][0]["stall"];
    assert_eq!(stall["cause"], "reading");
    let error = stall["error"].as_str().expect("the service's words");
    assert!(error.contains("AccessDenied"), "{error}");
    let text = status["waits"][0]["text"].as_str().unwrap();
    assert!(text.contains("worker w-1 has made no progress with it for ") && text.ends_with(error), "{text}");
    let trouble = &status["verdict"]["troubles"][0];
    assert!(trouble["text"].as_str().unwrap().ends_with(" makes no progress: reading it keeps failing"), "{trouble}");
    assert_eq!(trouble["runbook"], "shards-stuck");
    let reason = not_ready_reason(metrics);
    assert!(reason.contains(": reading it keeps failing: ") && reason.contains("AccessDenied"), "{reason}");
    harness.faults(&json!({}));
    harness.wait_for_status("reading to resume", |status| all_read(status, 1));
}

#[test]
fn a_dead_letter_store_that_fails_is_told_from_a_processor_that_fails() {
    let mut harness = Harness::new("letters", 1);
    let metrics = free_address();
    let handler = Handler::start();
    handler.set(Manner::Failing);
    let flags = format!("--to http://{}/ --metrics-addr {metrics} --unready-after 2s", handler.address);
    let _worker = harness.worker_with("w-1", &format!("{flags} --on-failure dead-letter --retry-attempts 1"));
    harness.wait_for_status("a worker", |status| status["totals"]["workers"] == json!({"active": 1}));
    harness.call("DeleteTable", &json!({"TableName": format!("{}-DeadLetters", harness::APP)}));
    harness.write(1);
    let reason = not_ready_reason(metrics);
    assert!(reason.contains(": its dead letters cannot be written: "), "{reason}");
}

fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The first reason of a worker's /ready, once a shard is one.
fn not_ready_reason(metrics: std::net::SocketAddr) -> String {
    eventually("a worker that is not ready for its shard", || {
        let mut connection = std::net::TcpStream::connect(metrics).ok()?;
        write!(connection, "GET /ready HTTP/1.0\r\nhost: {metrics}\r\n\r\n").ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        answer.lines().find(|line| line.contains("has made no progress")).map(str::to_owned)
    })
}

#[test]
fn an_application_that_does_not_exist_is_told_in_a_sentence() {
    let harness = Harness::new("nothing", 1);
    for line in ["status --app nobody", "lease release shardId-1 --app nobody"] {
        let finished = harness.operator(line);
        assert_eq!((finished.code, finished.stdout.as_str()), (1, ""));
        assert!(finished.stderr.contains("there is no application \"nobody\" here"), "{}", finished.stderr);
    }
    let finished = harness.operator("lease assign --to w-1");
    assert_eq!(finished.code, 64);
    assert!(finished.stderr.contains("<SHARD_ID>"), "{}", finished.stderr);
}

#[test]
fn leases_of_the_living_are_handed_over_and_taken_only_by_force() {
    let harness = Harness::new("living", 3);
    let _workers = [harness.worker("w-1"), harness.worker("w-2")];
    let is_balanced = |status: &Value| {
        let counts = ["w-1", "w-2"].map(|worker| shards_of(status, worker).len());
        all_read(status, 3) && counts.contains(&1) && counts.contains(&2)
    };
    let status = harness.wait_for_status("two workers with two shards and one", is_balanced);
    let (rich, poor) = if shards_of(&status, "w-1").len() == 2 { ("w-1", "w-2") } else { ("w-2", "w-1") };
    let shard = &shards_of(&status, rich)[0];
    let row = harness.row(shard);

    let refused = harness.operator(&format!("lease release {shard} --yes"));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("it would break: a shard has one reader"), "{}", refused.stderr);
    let refused = harness.operator(&format!("lease reset {shard} --at trim-horizon --yes --force"));
    assert_eq!(refused.code, 1);
    let refused = harness.operator(&format!("lease assign {shard} --to w-3 --yes"));
    assert!(refused.stderr.contains("there is no worker w-3 in the fleet"), "{}", refused.stderr);
    let dry = harness.operator(&format!("lease assign {shard} --to {poor} --dry-run"));
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    assert!(dry.stdout.contains("dry run: nothing is written"), "{}", dry.stdout);
    let unasked = harness.operator(&format!("lease assign {shard} --to {poor}"));
    assert_eq!(unasked.code, 1);
    assert!(unasked.stderr.contains("there is no terminal to ask on"), "{}", unasked.stderr);
    assert_eq!(harness.row(shard), row, "nothing was written so far");

    let done = harness.operator(&format!("lease assign {shard} --to {poor} --yes"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains(&format!("after   owner {poor}, handed over by {rich}")), "{}", done.stdout);
    harness.wait_for_status("the hand-over", |status| {
        all_read(status, 3) && shards_of(status, poor).contains(shard) && shards_of(status, rich).len() == 1
    });

    let forced = harness.operator(&format!("lease release {shard} --yes --force"));
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    assert!(forced.stdout.contains("no owner"), "{}", forced.stdout);
    harness.wait_for_status("the lease to be assigned again", is_balanced);
}

#[test]
fn leases_that_an_operator_placed_stay_there() {
    let harness = Harness::new("placed", 4);
    let _workers = [harness.worker("w-1"), harness.worker("w-2")];
    let status = harness.wait_for_status("two shards each", |status| {
        all_read(status, 4) && ["w-1", "w-2"].iter().all(|worker| shards_of(status, worker).len() == 2)
    });
    for shard in shards_of(&status, "w-1") {
        let done = harness.operator(&format!("lease assign {shard} --to w-2 --yes"));
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    harness.wait_for_status("all shards at w-2", |status| all_read(status, 4) && shards_of(status, "w-2").len() == 4);
    // Each status sees a new heartbeat of both workers, and the leader plans with each of its own.
    for _ in 0..5 {
        assert_eq!(shards_of(&harness.status(), "w-2").len(), 4);
    }
}

#[test]
fn a_reset_shard_is_delivered_again_from_there() {
    let mut harness = Harness::new("reset", 1);
    harness.write(10);
    let worker = harness.worker("w-1");
    let records = worker.wait_for_records(10);
    let number = |record: &Value| record["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned();
    let last = number(&records[9]);
    let status = harness.wait_for_status("the last checkpoint", |status| status["shards"][0]["checkpoint"] == last);
    let shard = status["shards"][0]["id"].as_str().unwrap().to_owned();
    drop(worker); // killed: its lease stays its own

    let released = harness.operator(&format!("lease release {shard} --yes"));
    assert_eq!(released.code, 0, "{}", released.stderr);
    assert_eq!(harness.row(&shard).get("leaseOwner"), None, "a dead worker's lease is given up without force");
    let row = harness.row(&shard);

    let skip = harness.operator(&format!("lease reset {shard} --at latest --yes"));
    assert_eq!(skip.code, 1);
    assert!(skip.stderr.contains("it would break: no record is skipped"), "{}", skip.stderr);
    let gone = harness.operator(&format!("lease reset {shard} --at 1 --yes --force"));
    assert!(gone.stderr.contains("the stream has no such place"), "{}", gone.stderr);
    let fourth = number(&records[3]);
    let dry = harness.operator(&format!("lease reset {shard} --at {fourth} --dry-run"));
    assert!(dry.code == 0 && dry.stdout.contains("are delivered again"), "{}", dry.stderr);
    assert_eq!(harness.row(&shard), row, "nothing was written so far");

    let done = harness.operator(&format!("lease reset {shard} --at {fourth} --yes"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains(&format!("now     no owner, checkpoint {fourth}")), "{}", done.stdout);
    let worker = harness.worker("w-1");
    assert_eq!(worker.wait_for_records(6), records[4..]);
    worker.stop();

    let done = harness.operator(&format!("lease reset {shard} --at shard-end --yes --force"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let status = harness.status();
    assert_eq!(status["shards"][0]["state"], "finished");
}

#[test]
fn a_finished_shard_is_reset_under_a_running_fleet_and_read_again_to_its_end() {
    let mut harness = Harness::new("finished", 1);
    harness.write(5);
    let worker = harness.worker("w-1");
    let records = worker.wait_for_records(5);
    harness.roll_over();
    let is_rolled_over = |status: &Value| status["totals"]["shards"] == json!({"finished": 1, "reading": 1});
    let status = harness.wait_for_status("the child to be read", is_rolled_over);
    let shards = status["shards"].as_array().unwrap();
    let finished = shards.iter().find(|shard| shard["state"] == "finished").unwrap();
    let parent = finished["id"].as_str().unwrap();

    let done = harness.operator(&format!("lease reset {parent} --at trim-horizon --yes"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(worker.wait_for_records(10)[5..], records);
    harness.wait_for_status("the parent to be finished again", is_rolled_over);
}

#[test]
fn a_replay_delivers_all_that_the_stream_has_although_the_leases_of_read_shards_are_gone() {
    let mut harness = Harness::new("replay", 1);
    let worker = harness.worker("w-1");
    for generation in 1..=3 {
        harness.write(5);
        worker.wait_for_records(5 * generation);
        harness.roll_over();
    }
    harness.write(5);
    let records = worker.wait_for_records(20);
    // The leases of the first shards are deleted once their children are read.
    harness.wait_for_status("a cleaned-up lease table", |status| {
        status["stream"]["listed_shards"] == 4 && status["shards"].as_array().is_some_and(|shards| shards.len() < 4)
    });
    let refused = harness.operator("replay --from beginning --yes");
    assert!(refused.code == 1 && refused.stderr.contains("w-1 of this application is alive"), "{}", refused.stderr);
    worker.stop();

    let plan = harness.operator("replay --from beginning --dry-run");
    assert!(plan.stdout.contains(": gets a lease again, at TRIM_HORIZON"), "{}", plan.stdout);
    assert!(plan.stdout.ends_with("dry run: nothing is written\n"), "{}", plan.stdout);
    let unasked = harness.operator("replay --from beginning");
    assert!(unasked.stderr.contains("there is no terminal to ask on"), "{}", unasked.stderr);
    let done = harness.operator("replay --from beginning --yes");
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.ends_with("4 leases written: start the workers\n"), "{}", done.stdout);
    assert_eq!(harness.worker("w-2").wait_for_records(20), records);
}
