//! Records and how they are read.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, simple_table, text};
use crate::LocalOptions;

fn one_shard() -> LocalOptions {
    LocalOptions { initial_shards: 1, ..LocalOptions::default() }
}

fn delete(bench: &mut Bench, key: &str) {
    bench.ok("DeleteItem", json!({"TableName": "Tab", "Key": {"k": {"S": key}}}));
}

#[test]
fn each_change_gives_a_record_and_no_change_none() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table();
    bench.put("a", 1);
    bench.put("a", 1);
    bench.put("a", 2);
    bench.ok("UpdateItem", json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}}));
    delete(&mut bench, "a");
    delete(&mut bench, "a");
    let records = bench.read_all(&arn);
    let events: Vec<_> = records.iter().map(|record| record["eventName"].clone()).collect();
    assert_eq!(events, ["INSERT", "MODIFY", "REMOVE"]);
    let numbers: Vec<u128> =
        records.iter().map(|record| text(&record["dynamodb"]["SequenceNumber"]).parse().expect("a number")).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next));
    assert_eq!(bench.world.stats().records_written, 3);
}

#[test]
fn a_record_has_every_member_of_the_services() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table();
    bench.put("a", 1);
    bench.put("a", 22);
    let record = bench.read_all(&arn).remove(1);
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
        let mut bench = Bench::with(one_shard());
        let arn = bench.table_with_view(view);
        bench.put("a", 1);
        bench.put("a", 2);
        let record = bench.read_all(&arn).remove(1);
        assert_eq!(record["dynamodb"]["NewImage"].is_object(), has_new, "{view}");
        assert_eq!(record["dynamodb"]["OldImage"].is_object(), has_old, "{view}");
        assert_eq!(record["dynamodb"]["StreamViewType"], view);
    }
}

#[test]
fn each_kind_of_iterator_begins_where_it_says() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table();
    for value in 0..4 {
        bench.put("a", value);
    }
    let shard = text(&bench.shards(&arn)[0]["ShardId"]);
    let second = text(&bench.read_all(&arn)[1]["dynamodb"]["SequenceNumber"]);
    let latest = bench.iterator(&arn, &shard, "LATEST");
    bench.put("a", 4);
    let mut read = |body: Value| -> Vec<String> {
        let iterator = bench.ok("GetShardIterator", body)["ShardIterator"].clone();
        let page = bench.ok("GetRecords", json!({"ShardIterator": iterator}));
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
    let page = bench.ok("GetRecords", json!({"ShardIterator": latest}));
    assert_eq!(page["Records"].as_array().map(Vec::len), Some(1), "what came after LATEST was asked for");
}

#[test]
fn iterators_that_cannot_be_are_refused() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table();
    let shard = text(&bench.shards(&arn)[0]["ShardId"]);
    let with = |kind: &str, number: &str| json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind, "SequenceNumber": number});
    let unknown_shard = json!({"StreamArn": arn, "ShardId": "shardId-00000000000000000001-aaaaaaaa",
        "ShardIteratorType": "LATEST"});
    bench.refused("GetShardIterator", unknown_shard, "ResourceNotFoundException", "Shard");
    let far = "9".repeat(40);
    for (body, part) in [
        (with("LATEST", "100000000000000000001"), "should not be passed"),
        (with("AT_SEQUENCE_NUMBER", "12"), "length greater than or equal to 21"),
        (with("AT_SEQUENCE_NUMBER", "100000000000000000000"), "Invalid SequenceNumber"),
        (with("AFTER_SEQUENCE_NUMBER", &far), "Invalid SequenceNumber"),
        (with("AT_TIMESTAMP", "1"), "enum value set"),
    ] {
        bench.refused("GetShardIterator", body, "ValidationException", part);
    }
    let junk = json!({"ShardIterator": "junk"});
    bench.refused("GetRecords", junk, "ValidationException", "Invalid ShardIterator");
}

#[test]
fn an_iterator_expires_and_its_successor_lives_on() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table();
    let shard = text(&bench.shards(&arn)[0]["ShardId"]);
    let iterator = bench.iterator(&arn, &shard, "TRIM_HORIZON");
    bench.pass(Duration::from_secs(15 * 60));
    let page = bench.ok("GetRecords", json!({"ShardIterator": iterator}));
    bench.pass(Duration::from_millis(1));
    bench.refused("GetRecords", json!({"ShardIterator": iterator}), "ExpiredIteratorException", "expired");
    bench.ok("GetRecords", json!({"ShardIterator": page["NextShardIterator"]}));
}

#[test]
fn pages_end_at_a_thousand_records_or_a_megabyte() {
    let mut bench = Bench::with(one_shard());
    let arn = bench.table_with_view("NEW_IMAGE");
    for value in 0..1001 {
        bench.put("a", value);
    }
    let shard = text(&bench.shards(&arn)[0]["ShardId"]);
    let iterator = bench.iterator(&arn, &shard, "TRIM_HORIZON");
    let first = bench.ok("GetRecords", json!({"ShardIterator": iterator}));
    assert_eq!(first["Records"].as_array().map(Vec::len), Some(1000));
    for index in 0..4 {
        let item = json!({"k": {"S": format!("big{index}")}, "x": {"S": "y".repeat(390_000)}});
        bench.ok("PutItem", json!({"TableName": "Tab", "Item": item}));
    }
    let second = bench.ok("GetRecords", json!({"ShardIterator": first["NextShardIterator"]}));
    assert_eq!(second["Records"].as_array().map(Vec::len), Some(3));
    let few = bench.ok("GetRecords", json!({"ShardIterator": second["NextShardIterator"], "Limit": 1}));
    assert_eq!(few["Records"].as_array().map(Vec::len), Some(1));
}

#[test]
fn rates_are_limited_where_that_is_asked_for() {
    let options = LocalOptions { get_records_per_second: Some(2), describe_stream_per_second: Some(3), ..one_shard() };
    let mut bench = Bench::with(options);
    let arn = bench.table();
    let shard = text(&bench.shards(&arn)[0]["ShardId"]);
    let body = json!({"ShardIterator": bench.iterator(&arn, &shard, "TRIM_HORIZON")});
    bench.ok("GetRecords", body.clone());
    bench.ok("GetRecords", body.clone());
    bench.refused("GetRecords", body.clone(), "LimitExceededException", &shard);
    bench.pass(Duration::from_millis(500));
    bench.ok("GetRecords", body);
    let describe = json!({"StreamArn": arn});
    for _ in 0..3 {
        bench.ok("DescribeStream", describe.clone());
    }
    bench.refused("DescribeStream", describe, "ThrottlingException", "Rate exceeded");
}

#[test]
fn streams_are_listed_by_pages_and_by_table() {
    let mut bench = Bench::new();
    for name in ["aaa", "bbb"] {
        let mut table = simple_table(name);
        table["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"});
        bench.ok("CreateTable", table);
    }
    let first = bench.ok("ListStreams", json!({"Limit": 1}));
    assert_eq!(first["Streams"][0]["TableName"], "aaa");
    let second = bench.ok("ListStreams", json!({"ExclusiveStartStreamArn": first["LastEvaluatedStreamArn"]}));
    assert_eq!(second["Streams"][0]["TableName"], "bbb");
    assert!(second["LastEvaluatedStreamArn"].is_null());
    let one = bench.ok("ListStreams", json!({"TableName": "bbb"}));
    assert_eq!(one["Streams"].as_array().map(Vec::len), Some(1));
}

#[test]
fn equal_seeds_and_calls_give_equal_answers() {
    let run = |seed| {
        let mut bench = Bench::with(LocalOptions { seed, ..LocalOptions::default() });
        let arn = bench.table();
        for value in 0..50 {
            bench.put(&format!("key{value}"), value);
        }
        (bench.shards(&arn), bench.read_all(&arn))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
