//! Records and how they are read.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Fixture, simple_table, text};
use crate::{FaultPlan, LocalOptions, StreamFaults};

fn one_shard() -> LocalOptions {
    LocalOptions { initial_shards: 1, ..LocalOptions::default() }
}

fn delete(fixture: &mut Fixture, key: &str) {
    fixture.ok("DeleteItem", json!({"TableName": "Tab", "Key": {"k": {"S": key}}}));
}

#[test]
fn each_change_gives_a_record_and_no_change_none() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    fixture.put("a", 1);
    fixture.put("a", 1);
    fixture.put("a", 2);
    fixture.ok("UpdateItem", json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}}));
    delete(&mut fixture, "a");
    delete(&mut fixture, "a");
    let records = fixture.read_all(&arn);
    let events: Vec<_> = records.iter().map(|record| record["eventName"].clone()).collect();
    assert_eq!(events, ["INSERT", "MODIFY", "REMOVE"]);
    let numbers: Vec<u128> =
        records.iter().map(|record| text(&record["dynamodb"]["SequenceNumber"]).parse().expect("a number")).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next));
    assert_eq!(fixture.emulator.stats().records_written, 3);
}

#[test]
fn a_record_has_every_member_of_the_services() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    fixture.put("a", 1);
    fixture.put("a", 22);
    let record = fixture.read_all(&arn).remove(1);
    let id = text(&record["eventID"]);
    assert_eq!(id.len(), 32);
    assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(record["eventVersion"], "1.1");
    assert_eq!(record["eventSource"], "aws:dynamodb");
    assert_eq!(record["awsRegion"], "us-east-1");
    assert_eq!(
        record["dynamodb"],
        json!({
            "ApproximateCreationDateTime": 1_795_346_529,
            "Keys": {"k": {"S": "a"}},
            "NewImage": {"k": {"S": "a"}, "v": {"N": "22"}},
            "OldImage": {"k": {"S": "a"}, "v": {"N": "1"}},
            "SequenceNumber": "100000000000000000003",
            "SizeBytes": 2 + 5 + 5,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        })
    );
    assert!(record.get("userIdentity").is_none());
}

#[test]
fn the_view_type_says_which_images_a_record_has() {
    for (view, has_new, has_old) in [
        ("KEYS_ONLY", false, false),
        ("NEW_IMAGE", true, false),
        ("OLD_IMAGE", false, true),
        ("NEW_AND_OLD_IMAGES", true, true),
    ] {
        let mut fixture = Fixture::with(one_shard());
        let arn = fixture.table_with_view(view);
        fixture.put("a", 1);
        fixture.put("a", 2);
        let record = fixture.read_all(&arn).remove(1);
        assert_eq!(record["dynamodb"]["NewImage"].is_object(), has_new, "{view}");
        assert_eq!(record["dynamodb"]["OldImage"].is_object(), has_old, "{view}");
        assert_eq!(record["dynamodb"]["StreamViewType"], view);
    }
}

#[test]
fn each_kind_of_iterator_begins_where_it_says() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    for value in 0..4 {
        fixture.put("a", value);
    }
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let second = text(&fixture.read_all(&arn)[1]["dynamodb"]["SequenceNumber"]);
    let latest = fixture.iterator(&arn, &shard, "LATEST");
    fixture.put("a", 4);
    let mut read = |body: Value| -> Vec<String> {
        let iterator = fixture.ok("GetShardIterator", body)["ShardIterator"].clone();
        let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
        let records = page["Records"].as_array().expect("a list");
        records.iter().map(|record| text(&record["dynamodb"]["NewImage"]["v"]["N"])).collect()
    };
    let body = |kind: &str| json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind});
    let numbered = |kind: &str| {
        let mut body = body(kind);
        body["SequenceNumber"] = second.clone().into();
        body
    };
    assert_eq!(read(body("TRIM_HORIZON")), ["0", "1", "2", "3", "4"]);
    assert_eq!(read(numbered("AT_SEQUENCE_NUMBER")), ["1", "2", "3", "4"]);
    assert_eq!(read(numbered("AFTER_SEQUENCE_NUMBER")), ["2", "3", "4"]);
    assert_eq!(read(body("LATEST")), [""; 0]);
    let page = fixture.ok("GetRecords", json!({"ShardIterator": latest}));
    assert_eq!(page["Records"].as_array().map(Vec::len), Some(1), "what came after LATEST was asked for");
}

#[test]
fn iterators_that_cannot_be_are_refused() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let with = |kind: &str, number: &str| json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind, "SequenceNumber": number});
    let unknown_shard = json!({"StreamArn": arn, "ShardId": "shardId-00000000000000000001-aaaaaaaa",
        "ShardIteratorType": "LATEST"});
    fixture.refused("GetShardIterator", unknown_shard, "ResourceNotFoundException", "Shard");
    let far = "9".repeat(40);
    for (body, part) in [
        (with("LATEST", "100000000000000000001"), "should not be passed"),
        (with("AT_SEQUENCE_NUMBER", "12"), "length greater than or equal to 21"),
        (with("AT_SEQUENCE_NUMBER", "100000000000000000000"), "Invalid SequenceNumber"),
        (with("AFTER_SEQUENCE_NUMBER", &far), "Invalid SequenceNumber"),
        (with("AT_TIMESTAMP", "100000000000000000001"), "should not be passed"),
        (with("AT_SOME_TIME", "100000000000000000001"), "enum value set"),
    ] {
        fixture.refused("GetShardIterator", body, "ValidationException", part);
    }
    let junk = json!({"ShardIterator": "junk"});
    fixture.refused("GetRecords", junk, "ValidationException", "Invalid ShardIterator");
}

#[test]
fn an_iterator_at_a_time_begins_with_the_first_record_created_then_or_later() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let begin = fixture.now.as_secs();
    for value in 0..3 {
        fixture.put("a", value); // at begin + 0.4, 2.4 and 4.4 seconds
        fixture.pass(Duration::from_secs(2));
    }
    let body = |time: Value| json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": time});
    let read = |fixture: &mut Fixture, time: Value| {
        let iterator = fixture.ok("GetShardIterator", body(time))["ShardIterator"].clone();
        let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
        let records = page["Records"].as_array().expect("a list");
        records.iter().map(|record| text(&record["dynamodb"]["NewImage"]["v"]["N"])).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut fixture, json!(begin)), ["0", "1", "2"]);
    assert_eq!(read(&mut fixture, json!(begin + 1)), ["1", "2"]);
    assert_eq!(read(&mut fixture, json!(begin + 2)), ["1", "2"]);
    // Records tell their time in whole seconds, and so are they found.
    assert_eq!(read(&mut fixture, json!(begin as f64 + 2.1)), ["2"]);
    assert_eq!(read(&mut fixture, json!(begin + 5)), [""; 0]);
    fixture.put("a", 3);
    assert_eq!(read(&mut fixture, json!(begin + 5)), ["3"]);
    for (time, part) in [(json!(begin + 7), "future"), (Value::Null, "required")] {
        fixture.refused("GetShardIterator", body(time), "ValidationException", part);
    }
    let mut latest = body(json!(begin));
    latest["ShardIteratorType"] = "LATEST".into();
    fixture.refused("GetShardIterator", latest, "ValidationException", "should not be passed");

    fixture.emulator.change_shards(fixture.now, "Tab", crate::StreamAction::Trim, None).expect("trimmed");
    assert_eq!(read(&mut fixture, json!(begin)), [""; 0], "no error tells that records are gone");
    fixture.emulator.change_shards(fixture.now, "Tab", crate::StreamAction::Rollover, None).expect("rolled over");
    let iterator = fixture.ok("GetShardIterator", body(json!(begin)))["ShardIterator"].clone();
    let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
    assert_eq!(page, json!({"Records": []}), "a closed shard without records from then on is at its end");
}

#[test]
fn malformed_arguments_of_the_streams_api_are_named() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let long = "a".repeat(40);
    for (operation, body, part) in [
        ("DescribeStream", json!({"StreamArn": "no arn"}), "'streamArn' failed to satisfy constraint"),
        ("DescribeStream", json!({"StreamArn": long}), "Invalid StreamArn"),
        ("ListStreams", json!({"ExclusiveStartStreamArn": "no arn"}), "'exclusiveStartStreamArn' failed"),
        ("ListStreams", json!({"TableName": "a b"}), "Invalid table/index name"),
        (
            "GetShardIterator",
            json!({"StreamArn": arn, "ShardId": "short", "ShardIteratorType": "LATEST"}),
            "'shardId' failed",
        ),
        ("GetRecords", json!({"ShardIterator": ""}), "'shardIterator' failed"),
    ] {
        fixture.refused(operation, body, "ValidationException", part);
    }
}

#[test]
fn an_iterator_expires_and_its_successor_lives_on() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let iterator = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    fixture.pass(Duration::from_secs(15 * 60));
    let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
    fixture.pass(Duration::from_millis(1));
    fixture.refused("GetRecords", json!({"ShardIterator": iterator}), "ExpiredIteratorException", "expired");
    fixture.ok("GetRecords", json!({"ShardIterator": page["NextShardIterator"]}));
}

#[test]
fn pages_end_at_a_thousand_records_or_a_megabyte() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table_with_view("NEW_IMAGE");
    for value in 0..1001 {
        fixture.put("a", value);
    }
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let iterator = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    let first = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
    assert_eq!(first["Records"].as_array().map(Vec::len), Some(1000));
    for index in 0..4 {
        let item = json!({"k": {"S": format!("big{index}")}, "x": {"S": "y".repeat(390_000)}});
        fixture.ok("PutItem", json!({"TableName": "Tab", "Item": item}));
    }
    let second = fixture.ok("GetRecords", json!({"ShardIterator": first["NextShardIterator"]}));
    assert_eq!(second["Records"].as_array().map(Vec::len), Some(3));
    let few = fixture.ok("GetRecords", json!({"ShardIterator": second["NextShardIterator"], "Limit": 1}));
    assert_eq!(few["Records"].as_array().map(Vec::len), Some(1));
}

#[test]
fn rates_are_limited_where_that_is_asked_for() {
    let options = LocalOptions { get_records_per_second: Some(2), describe_stream_per_second: Some(3), ..one_shard() };
    let mut fixture = Fixture::with(options);
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let body = json!({"ShardIterator": fixture.iterator(&arn, &shard, "TRIM_HORIZON")});
    fixture.ok("GetRecords", body.clone());
    fixture.ok("GetRecords", body.clone());
    fixture.refused("GetRecords", body.clone(), "LimitExceededException", &shard);
    fixture.pass(Duration::from_millis(500));
    fixture.ok("GetRecords", body);
    let describe = json!({"StreamArn": arn});
    for _ in 0..3 {
        fixture.ok("DescribeStream", describe.clone());
    }
    fixture.refused("DescribeStream", describe, "ThrottlingException", "Rate exceeded");
}

#[test]
fn streams_are_listed_by_pages_and_by_table() {
    let mut fixture = Fixture::new();
    for name in ["aaa", "bbb"] {
        let mut table = simple_table(name);
        table["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"});
        fixture.ok("CreateTable", table);
    }
    let first = fixture.ok("ListStreams", json!({"Limit": 1}));
    assert_eq!(first["Streams"][0]["TableName"], "aaa");
    let second = fixture.ok("ListStreams", json!({"ExclusiveStartStreamArn": first["LastEvaluatedStreamArn"]}));
    assert_eq!(second["Streams"][0]["TableName"], "bbb");
    assert!(second["LastEvaluatedStreamArn"].is_null());
    let one = fixture.ok("ListStreams", json!({"TableName": "bbb"}));
    assert_eq!(one["Streams"].as_array().map(Vec::len), Some(1));
}

#[test]
fn equal_seeds_and_calls_give_equal_answers() {
    let run = |seed| {
        let mut fixture = Fixture::with(LocalOptions { seed, ..LocalOptions::default() });
        let arn = fixture.table();
        for value in 0..50 {
            fixture.put(&format!("key{value}"), value);
        }
        (fixture.shards(&arn), fixture.read_all(&arn))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// The faults of the streams' API in force from now on.
fn set(fixture: &mut Fixture, streams: StreamFaults) {
    fixture.emulator.set_faults(fixture.now, FaultPlan { streams, ..FaultPlan::default() });
}

#[test]
fn an_account_has_its_own_limit_of_descriptions() {
    let mut fixture = Fixture::with(one_shard());
    let first = json!({"StreamArn": fixture.table()});
    let mut other = simple_table("Other");
    other["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"});
    let second = json!({"StreamArn": fixture.ok("CreateTable", other)["TableDescription"]["LatestStreamArn"]});
    set(&mut fixture, StreamFaults { describe_per_second: Some(2), ..StreamFaults::default() });
    fixture.ok("DescribeStream", first.clone());
    fixture.ok("DescribeStream", second.clone());
    fixture.refused("DescribeStream", second, "ThrottlingException", "Rate exceeded");
    fixture.pass(Duration::from_millis(500));
    fixture.ok("DescribeStream", first);
}

#[test]
fn a_stale_listing_shows_shards_as_they_were() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let parent = text(&fixture.shards(&arn)[0]["ShardId"]);
    set(&mut fixture, StreamFaults { stale_listing: Duration::from_secs(5), ..StreamFaults::default() });
    assert_eq!(fixture.shards(&arn), [Value::Null; 0]);
    fixture.pass(Duration::from_secs(5));
    fixture.emulator.change_shards(fixture.now, "Tab", crate::StreamAction::Rollover, None).expect("rolled over");
    let ending = |shards: &[Value]| !shards[0]["SequenceNumberRange"]["EndingSequenceNumber"].is_null();
    let stale = fixture.shards(&arn);
    assert_eq!((stale.len(), ending(&stale)), (1, false));
    let children = json!({"StreamArn": arn, "ShardFilter": {"Type": "CHILD_SHARDS", "ShardId": parent}});
    assert_eq!(fixture.ok("DescribeStream", children)["StreamDescription"]["Shards"], json!([]));
    fixture.pass(Duration::from_secs(5));
    let fresh = fixture.shards(&arn);
    assert_eq!((fresh.len(), ending(&fresh)), (2, true));
}

#[test]
fn a_young_shard_is_listed_before_it_can_be_read() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let iterator = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    set(&mut fixture, StreamFaults { young_shard: Duration::from_secs(5), ..StreamFaults::default() });
    assert_eq!(fixture.shards(&arn).len(), 1);
    let ask = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
    fixture.refused("GetShardIterator", ask.clone(), "ResourceNotFoundException", &shard);
    let read = json!({"ShardIterator": iterator});
    fixture.refused("GetRecords", read.clone(), "ResourceNotFoundException", &shard);
    fixture.pass(Duration::from_secs(5));
    fixture.ok("GetShardIterator", ask);
    fixture.ok("GetRecords", read);
}

#[test]
fn an_open_shards_answer_may_lack_its_next_iterator_and_lead_through_empty_pages() {
    let mut fixture = Fixture::with(one_shard());
    let arn = fixture.table();
    fixture.put("a", 1);
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    set(&mut fixture, StreamFaults { empty_pages: 3, ..StreamFaults::default() });
    let mut iterator = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    for _ in 0..3 {
        let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
        assert_eq!(page["Records"], json!([]));
        iterator = text(&page["NextShardIterator"]);
    }
    set(&mut fixture, StreamFaults { missing_next_iterator: 1.0, ..StreamFaults::default() });
    let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
    assert_eq!(page["Records"].as_array().map(Vec::len), Some(1));
    assert!(page["NextShardIterator"].is_null());
    assert!(fixture.shards(&arn)[0]["SequenceNumberRange"]["EndingSequenceNumber"].is_null());
}
