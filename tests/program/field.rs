//! Cases from public reports of people with this job: emulators that answer oddly, streams and tables that are replaced,
//! tables of other applications, and refusals that do not last.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_types::date_time::{DateTime, Format};
use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::http::{self, Answer};
use crate::support::local_service::{LocalService, Written};
use crate::support::proxy::Proxy;
use crate::support::rewriter::Rewriter;
use crate::support::wait::{let_last, now, wait_for};

/// The digits that an emulator writes before the 21 digits of a sequence number of ours.
const LONG_PREFIX: &str = "49611974300205315735694662545343430";

/// Makes a lease table as KCL has it, with one unfinished row for each key.
fn kcl_table(service: &LocalService, table: &str, keys: &[String]) {
    service.call(
        "CreateTable",
        &json!({
            "TableName": table, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "leaseKey", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        }),
    );
    for key in keys {
        let row = json!({
            "leaseKey": {"S": key}, "leaseCounter": {"N": "7"}, "checkpoint": {"S": "111100000000000000000001"},
            "checkpointSubSequenceNumber": {"N": "0"}, "ownerSwitchesSinceCheckpoint": {"N": "0"},
        });
        service.call("PutItem", &json!({"TableName": table, "Item": row}));
    }
}

fn assert_refused(keys: &[String]) {
    let fixture = Fixture::new("");
    let deliveries = fixture.deliveries("orders");
    fixture.service.write(TABLE, &mut Written::default(), 50);
    kcl_table(&fixture.service, "orders", keys);
    let before = fixture.service.call("Scan", &json!({"TableName": "orders"}));
    let mut worker = fixture.worker("orders", "w", &deliveries, "");
    worker.assert_fails(&["orders", &keys[0]]);
    assert_eq!(fixture.service.call("Scan", &json!({"TableName": "orders"})), before);
}

#[test]
fn a_lease_table_of_another_stream_is_refused_before_anything_is_written() {
    assert_refused(&[1, 2].map(|number| format!("shardId-0000000179550000000{number}-aaaaaaa{number}")));
}

#[test]
fn a_lease_table_of_several_streams_is_refused_before_anything_is_written() {
    assert_refused(&["000000000000:Orders:1795569366:shardId-00000001795500000001-aaaaaaa1".to_owned()]);
}

#[test]
fn an_answer_without_the_next_iterator_does_not_end_an_open_shard() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let (address, is_dropped) = (fixture.service.address(), AtomicBool::new(false));
    let emulator = Rewriter::new(move |operation, request| {
        let mut answer = http::call(address, operation, request);
        let has_records = answer.body["Records"].as_array().is_some_and(|records| !records.is_empty());
        if has_records && !is_dropped.swap(true, Ordering::SeqCst) {
            answer.body["NextShardIterator"] = Value::Null;
        }
        answer
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    deliveries.wait_for_all(&written);
    let_last(Duration::from_secs(6)); // longer than a look for children that are not there
    fixture.service.write(TABLE, &mut written, 3);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert!(fixture.service.leases("audit").values().all(|lease| lease.checkpoint != "SHARD_END"));
}

#[test]
fn an_iterator_that_the_service_forgot_is_replaced() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let address = fixture.service.address();
    let forgotten: Mutex<Vec<String>> = Mutex::default();
    let has_restarted = Arc::new(AtomicBool::new(false));
    let restarted = Arc::clone(&has_restarted);
    let emulator = Rewriter::new(move |operation, request| {
        let mut forgotten = forgotten.lock().expect("nobody panics holding it");
        let iterator = request["ShardIterator"].as_str().unwrap_or_default();
        if restarted.load(Ordering::SeqCst) && forgotten.iter().any(|known| known == iterator) {
            let error = "com.amazon.coral.validate#ValidationException";
            return Answer { status: 400, body: json!({"__type": error, "message": "Invalid ShardIterator"}) };
        }
        let answer = http::call(address, operation, request);
        if !restarted.load(Ordering::SeqCst) {
            let given = [&answer.body["ShardIterator"], &answer.body["NextShardIterator"]];
            forgotten.extend(given.into_iter().filter_map(Value::as_str).map(ToOwned::to_owned));
        }
        answer
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    deliveries.wait_for_all(&written);
    has_restarted.store(true, Ordering::SeqCst);
    fixture.service.write(TABLE, &mut written, 3);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn empty_pages_by_the_hundred_before_a_record_neither_end_nor_slow_a_worker() {
    const EMPTY_PAGES: usize = 300;
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let address = fixture.service.address();
    let empty_pages = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&empty_pages);
    let emulator = Rewriter::new(move |operation, request| {
        let mut answer = http::call(address, operation, request);
        let is_left = |left: usize| left.checked_sub(1);
        if operation == "GetRecords" && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok() {
            answer.body = json!({"Records": [], "NextShardIterator": request["ShardIterator"]});
        }
        answer
    });
    // From the oldest record on, and behind a checkpoint.
    for _ in 0..2 {
        fixture.service.write(TABLE, &mut written, 100);
        empty_pages.store(EMPTY_PAGES, Ordering::SeqCst);
        let mut worker = emulated(&fixture, &emulator, &deliveries, "--until-caught-up");
        assert_eq!(worker.exit_code(), 0);
        assert!(deliveries.has_all(&written), "{} of {written:?}", deliveries.firsts());
    }
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn pages_that_lack_their_next_iterator_now_and_then_are_followed_without_a_listing() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let (address, pages) = (fixture.service.address(), AtomicUsize::new(0));
    let emulator = Rewriter::new(move |operation, request| {
        let mut answer = http::call(address, operation, request);
        if operation == "GetRecords" && pages.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            answer.body["NextShardIterator"] = Value::Null;
        }
        answer
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    for _ in 0..10 {
        fixture.service.write(TABLE, &mut written, 10);
        deliveries.wait_for_all(&written);
    }
    assert!(fixture.service.calls("DescribeStream") < 5, "{}", fixture.service.calls("DescribeStream"));
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_stream_that_lists_no_shard_yet_is_not_taken_for_an_empty_one() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let (address, listings) = (fixture.service.address(), AtomicUsize::new(0));
    let emulator = Rewriter::new(move |operation, request| {
        let mut answer = http::call(address, operation, request);
        if operation == "DescribeStream" && listings.fetch_add(1, Ordering::SeqCst) < 3 {
            answer.body["StreamDescription"]["StreamStatus"] = "ENABLING".into();
            answer.body["StreamDescription"]["Shards"] = json!([]);
        }
        answer
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "--until-caught-up");
    assert_eq!(worker.exit_code(), 0);
    assert!(deliveries.has_all(&written), "ended before everything was delivered");
}

#[test]
fn a_position_that_is_refused_now_and_then_is_no_gap_while_its_record_is_there() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 10);
    let mut worker = fixture.worker("audit", "w", &deliveries, "--on-gap stop");
    deliveries.wait_for_all(&written);
    for round in 1..=3 {
        let rule =
            json!({"share": 1, "effect": "error", "code": "TrimmedDataAccessException", "operations": ["GetRecords"]});
        fixture.service.faults(&json!({"rules": [rule]}));
        wait_for("a page to be refused", || {
            fixture.service.errors("GetRecords", "TrimmedDataAccessException") >= round * 2
        });
        fixture.service.faults(&json!({}));
        fixture.service.write(TABLE, &mut written, 10);
        deliveries.wait_for_all(&written);
    }
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn trimmed_data_is_no_gap_where_nothing_older_was_wanted() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    deliveries.begin_after(&written);
    let_last(Duration::from_secs(3)); // times of records are whole seconds
    let rule = json!({
        "operations": ["GetRecords"], "share": 1, "effect": "error", "code": "TrimmedDataAccessException",
    });
    fixture.service.faults(&json!({"rules": [rule]}));
    let mut worker = fixture.worker("audit", "w", &deliveries, "--start latest --on-gap stop");
    wait_for("pages to be refused", || fixture.service.errors("GetRecords", "TrimmedDataAccessException") > 2);
    fixture.service.faults(&json!({}));
    fixture.service.write(TABLE, &mut written, 3);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_closed_shard_whose_last_record_was_read_and_trimmed_is_no_gap() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let address = fixture.service.address();
    // As the service does it: the record that an iterator is to come after must be there.
    let emulator = Rewriter::new(move |operation, request| {
        if request["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER" {
            let error = "com.amazonaws.dynamodb.v20120810#TrimmedDataAccessException";
            return Answer { status: 400, body: json!({"__type": error, "message": "The requested data was trimmed"}) };
        }
        http::call(address, operation, request)
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    deliveries.wait_for_all(&written);
    fixture.wait_for_checkpoints("audit");
    assert_eq!(worker.stop(), 0);
    for action in ["rollover", "trim"] {
        fixture.service.change_shards(TABLE, action);
    }
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = emulated(&fixture, &emulator, &deliveries, "--on-gap stop");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn an_application_begins_at_a_time_also_where_the_service_knows_no_such_iterators() {
    for knows_times in [true, false] {
        let fixture = Fixture::new("--shards 2");
        let mut deliveries = fixture.deliveries("audit");
        let mut written = Written::default();
        fixture.service.write(TABLE, &mut written, 100);
        deliveries.begin_after(&written);
        let_last(Duration::from_millis(2_100)); // times of records are whole seconds
        let start = DateTime::from(now()).fmt(Format::DateTime).expect("a time of this age");
        fixture.service.write(TABLE, &mut written, 50);
        fixture.service.change_shards(TABLE, "rollover");
        fixture.service.write(TABLE, &mut written, 50);
        let address = fixture.service.address();
        let emulator = Rewriter::new(move |operation, request| {
            if !knows_times && request["ShardIteratorType"] == "AT_TIMESTAMP" {
                let error = "com.amazon.coral.validate#ValidationException";
                return Answer {
                    status: 400,
                    body: json!({"__type": error, "message": "1 validation error detected"}),
                };
            }
            http::call(address, operation, request)
        });
        let mut worker = emulated(&fixture, &emulator, &deliveries, &format!("--start {start}"));
        deliveries.wait_for_all(&written);
        assert_eq!(worker.stop(), 0);
        assert_eq!(deliveries.repeats(), []);
    }
}

#[test]
fn sequence_numbers_of_any_length_are_read() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let address = fixture.service.address();
    let emulator = Rewriter::new(move |operation, request| {
        let mut request = request.clone();
        if let Some(number) = request["SequenceNumber"].as_str().and_then(|number| number.strip_prefix(LONG_PREFIX)) {
            request["SequenceNumber"] = number.to_owned().into();
        }
        let mut answer = http::call(address, operation, &request);
        for record in answer.body["Records"].as_array_mut().into_iter().flatten() {
            let number = record["dynamodb"]["SequenceNumber"].as_str().expect("a number");
            record["dynamodb"]["SequenceNumber"] = format!("{LONG_PREFIX}{number}").into();
        }
        answer
    });
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = emulated(&fixture, &emulator, &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn pages_over_a_slow_link_arrive() {
    let fixture = Fixture::new("--shards 1");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 1_000);
    // A page of 1,000 records takes some 15 s.
    let link = Proxy::throttled(fixture.service.address(), 24 * 1024);
    let flags = format!("--endpoint-url {} --streams-endpoint-url {}", fixture.service.url(), link.url());
    let mut worker = fixture.worker("audit", "w", &deliveries, &flags);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_table_made_anew_after_its_old_stream_is_gone_is_read() {
    let fixture = Fixture::new("--shards 2 --retention 3s");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let old = fixture.service.stream_arn(TABLE);
    fixture.service.call("DeleteTable", &json!({"TableName": TABLE}));
    wait_for("the old stream to be gone", || {
        fixture.service.try_call("DescribeStream", &json!({"StreamArn": old})).is_err()
    });
    fixture.service.create_table(TABLE, true);
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_stream_that_is_switched_off_and_on_is_read_on_by_the_running_worker() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = fixture.worker("audit", "w", &deliveries, "--start latest");
    worker.wait_for_log("lease taken");
    deliveries.begin_after(&written);
    let switch = |stream: Value| {
        fixture.service.call("UpdateTable", &json!({"TableName": TABLE, "StreamSpecification": stream}));
    };
    switch(json!({"StreamEnabled": false}));
    let_last(Duration::from_secs(2));
    switch(json!({"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}));
    fixture.service.write(TABLE, &mut written, 100);
    deliveries.wait_for_all(&written);
    assert!(worker.runs());
    assert_eq!(worker.stop(), 0);
}

#[test]
fn refusals_that_do_not_last_end_no_worker() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    for code in ["UnrecognizedClientException", "AccessDeniedException", "ExpiredTokenException"] {
        fixture.service.faults(&json!({"rules": [{"share": 1, "effect": "error", "code": code}]}));
        wait_for("calls to be refused", || fixture.service.errors("UpdateItem", code) > 0);
        let_last(Duration::from_secs(3));
        fixture.service.faults(&json!({}));
        fixture.service.write(TABLE, &mut written, 100);
        deliveries.wait_for_all(&written);
    }
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_worker_that_cannot_join_its_fleet_stops_when_it_is_asked_to() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 100);
    let mut first = fixture.worker("audit", "w1", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(first.stop(), 0);
    let code = "ProvisionedThroughputExceededException";
    let rule = json!({"operations": ["PutItem"], "share": 1, "effect": "error", "code": code});
    fixture.service.faults(&json!({"rules": [rule]}));
    let mut second = fixture.worker("audit", "w2", &deliveries, "");
    wait_for("the worker to try to join", || fixture.service.errors("PutItem", code) > 0);
    assert_eq!(second.stop(), 0);
}

#[test]
fn shards_end_on_a_service_without_transactions() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    let code = "UnknownOperationException";
    let rule = json!({"operations": ["TransactWriteItems"], "share": 1, "effect": "error", "code": code});
    fixture.service.faults(&json!({"rules": [rule]}));
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    for action in ["split", "rollover"] {
        fixture.service.write(TABLE, &mut written, 100);
        fixture.service.change_shards(TABLE, action);
    }
    fixture.service.write(TABLE, &mut written, 100);
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);
}

/// A worker that reads its stream from an emulator.
fn emulated(
    fixture: &Fixture,
    emulator: &Rewriter,
    deliveries: &crate::support::deliveries::Deliveries,
    flags: &str,
) -> crate::support::fixture::Worker {
    let service = fixture.service.url();
    let flags = format!("--endpoint-url {service} --streams-endpoint-url {} {flags}", emulator.url());
    fixture.worker("audit", "w", deliveries, &flags)
}

#[cfg(target_os = "linux")]
#[test]
fn records_left_out_behind_one_that_waits_take_no_memory() {
    const BATCHES: usize = 16;
    const LIMIT: u64 = (8 + 64) << 20;
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("audit");
    let key = json!({"key": {"S": "waits"}});
    fixture.service.call("PutItem", &json!({"TableName": TABLE, "Item": key}));
    fixture.service.call("DeleteItem", &json!({"TableName": TABLE, "Key": key}));
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let handler = Rewriter::new(move |_, _| Answer {
        status: if mended.load(Ordering::SeqCst) { 200 } else { 500 },
        body: json!({}),
    });
    let flags = r#"--batch-size 10 --buffer-bytes 8MiB --filter {"eventName":["REMOVE"]}"#;
    let mut worker = fixture.worker("audit", "w", &deliveries, &format!("--to {} {flags}", handler.url()));
    worker.wait_for_log("processor failed, retrying");
    let padding = "x".repeat(200_000);
    for batch in 0..BATCHES {
        let puts: Vec<Value> = (0..25)
            .map(|number| json!({"key": {"S": format!("{batch}-{number}")}, "padding": {"S": padding}}))
            .map(|item| json!({"PutRequest": {"Item": item}}))
            .collect();
        fixture.service.call("BatchWriteItem", &json!({"RequestItems": {TABLE: puts}}));
    }
    let served = || fixture.service.stats()["records_served"].as_u64().unwrap_or_default();
    // Time enough to read everything, which nothing but memory keeps it from.
    let_last(Duration::from_secs(3));
    let resident = worker.resident_bytes();
    assert!(resident < LIMIT, "{resident} bytes, {} records of 80 MB read", served());
    is_mended.store(true, Ordering::SeqCst);
    wait_for("everything to be read", || served() >= BATCHES as u64 * 25 + 2);
    let resident = worker.resident_bytes();
    assert!(resident < LIMIT, "{resident} bytes after 80 MB");
    assert_eq!(worker.stop(), 0);
}
