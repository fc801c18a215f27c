//! One suite of requests and expected answers, run against two services: this crate's and the official DynamoDB Local.
//!
//! The suite is tests/transcripts, in the format of transcript.rs. It expects the answers that AWS documents; where
//! DynamoDB Local differs, the transcript has its answer too, with the difference in words. Differences in every answer
//! are in [`as_documented`]. Requests and answers are compared as they are on the wire.

#[path = "../../../tests/support/dynamodb_local.rs"]
mod dynamodb_local;
mod random;
mod services;
mod transcript;
#[path = "../../../tests/support/wait.rs"]
#[expect(dead_code, reason = "the program's tests use the rest")]
mod wait;
mod wire;

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use services::Service;
use transcript::{Names, Step};
use wait::eventually;
use wire::{Answer, call, good};

#[test]
fn the_local_service_answers_as_documented() {
    check(&Service::shardkeeper_local());
}

#[test]
fn dynamodb_local_answers_as_documented_but_where_the_transcripts_say_otherwise() {
    if let Some(service) = Service::dynamodb_local() {
        check(&service);
    }
}

#[test]
fn random_operations_leave_both_services_alike() {
    if let Some(official) = Service::dynamodb_local() {
        let ours = Service::shardkeeper_local();
        for seed in 0..5 {
            random::check([&ours, &official], seed);
        }
    }
}

#[test]
fn an_answer_that_differs_is_found() {
    let mut names = Names::new();
    let mut unlike = |expected, found| transcript::compare(&expected, &found, &mut names).is_err();
    assert!(!unlike(json!({"a": "$text", "s": {"SS": ["x", "y"]}}), json!({"a": "b", "s": {"SS": ["y", "x"]}})));
    assert!(unlike(json!({"a": 1}), json!({"a": 2})));
    assert!(unlike(json!({"a": 1}), json!({"a": 1, "b": 2})));
    assert!(unlike(json!({"a": 1, "b": 2}), json!({"a": 1})));
    assert!(unlike(json!({"$has": {"a": "$absent"}}), json!({"a": 1})));
    assert!(unlike(json!({"$unordered": [1, 2]}), json!([2, 2])));
    assert!(unlike(json!({"$unordered": [1, 2]}), json!([2, 1, 3])));
    assert!(unlike(json!([1, 2]), json!([2, 1])));
    assert!(unlike(json!("$number"), json!("1")));
    assert!(!unlike(json!("$name"), json!("first")));
    assert!(unlike(json!("$name"), json!("second")));
}

/// Runs every transcript on the service and fails with all differences at once.
fn check(service: &Service) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = folder.read_dir().expect("the suite's folder").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut steps = 0;
    let mut differences = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let transcript = transcript::parse(&std::fs::read_to_string(&file).unwrap());
        steps += transcript.len();
        let mut names = Names::from([("region".to_owned(), service.region.into())]);
        for step in transcript {
            if let Err(difference) = run(service, &step, &mut names) {
                differences.push(format!("{name}:{}: {} {difference}", step.line, step.operation));
            }
        }
    }
    println!("{}: {steps} requests", service.name);
    assert!(steps > 200, "only {steps} requests were found in {}", folder.display());
    assert!(differences.is_empty(), "{} differs:\n{}", service.name, differences.join("\n"));
}

fn run(service: &Service, step: &Step, names: &mut Names) -> Result<(), String> {
    let body = transcript::fill(&step.body, names);
    let expected = step.expected_of(service.name);
    let compare = |answer: &Answer, names: &mut Names| {
        if answer.status != expected.status {
            return Err(format!("expected {}, found {} {}", expected.status, answer.status, answer.body));
        }
        transcript::compare(&expected.body, &answer.body, names)
    };
    let address = service.address;
    match step.operation.as_str() {
        // These are of the suite, not of the API: several calls whose answers belong together.
        "WholeScan" => compare(&Answer { status: 200, body: whole_scan(address, &body) }, names),
        "ShardWithRecords" => compare(&Answer { status: 200, body: shard_with_records(address, &body) }, names),
        "SettledTable" => compare(&Answer { status: 200, body: settled_table(address, &body) }, names),
        "AllRecords" => {
            let wanted = expected.body["Records"].as_array().map_or(0, Vec::len);
            compare(&Answer { status: 200, body: all_records(address, &body, wanted) }, names)
        }
        operation => compare(&as_documented(service, call(address, operation, &body)), names),
    }
}

/// Takes away what is different in every answer of a service.
fn as_documented(service: &Service, mut answer: Answer) -> Answer {
    // DynamoDB Local: an error's text is the member `Message`, where the service has `message`.
    if service.name == "dynamodb-local"
        && let Some(members) = answer.body.as_object_mut()
        && let Some(text) = members.remove("Message")
    {
        members.insert("message".to_owned(), text);
    }
    answer
}

/// Scans all pages of all segments; no page may be longer than its limit.
fn whole_scan(address: SocketAddr, body: &Value) -> Value {
    let mut items = Vec::new();
    let segments = body["TotalSegments"].as_u64();
    for segment in 0..segments.unwrap_or(1) {
        let mut request = body.clone();
        if segments.is_some() {
            request["Segment"] = segment.into();
        }
        loop {
            let mut page = good(address, "Scan", &request);
            let found = page["Items"].as_array().expect("items");
            assert!(found.len() as u64 <= body["Limit"].as_u64().expect("a limit"), "{page}");
            items.extend(found.iter().cloned());
            match page["LastEvaluatedKey"].take() {
                Value::Null => break,
                key => request["ExclusiveStartKey"] = key,
            }
        }
    }
    json!({"Items": items})
}

/// The description of a table once all its indexes are active.
fn settled_table(address: SocketAddr, body: &Value) -> Value {
    eventually("the indexes settle", || {
        // DynamoDB Local answers with an internal error at the moment at which an index is gone.
        let Answer { status, body: description } = call(address, "DescribeTable", body);
        let indexes = description["Table"]["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
        let settled = status == 200 && indexes.into_iter().all(|index| index["IndexStatus"] == "ACTIVE");
        settled.then_some(description)
    })
}

/// The one shard of a stream that has records.
fn shard_with_records(address: SocketAddr, body: &Value) -> Value {
    eventually("a record arrives in the stream", || {
        let shards = shards(address, &body["StreamArn"]);
        let mut written = shards.iter().filter(|shard| !records(address, &body["StreamArn"], shard).is_empty());
        let shard = written.next()?;
        assert_eq!(written.next(), None, "one partition key has its records in one shard");
        Some(json!({"ShardId": shard}))
    })
}

/// All records of a stream in the order of their sequence numbers, as soon as there are as many as are wanted.
fn all_records(address: SocketAddr, body: &Value, wanted: usize) -> Value {
    let stream = &body["StreamArn"];
    let found = eventually("the records arrive in the stream", || {
        let mut found: Vec<Value> =
            shards(address, stream).iter().flat_map(|shard| records(address, stream, shard)).collect();
        found.sort_by_key(|record| {
            let number = record["dynamodb"]["SequenceNumber"].as_str().expect("a sequence number");
            number.parse::<u128>().expect("digits")
        });
        (found.len() >= wanted).then_some(found)
    });
    json!({"Records": found})
}

fn shards(address: SocketAddr, stream: &Value) -> Vec<Value> {
    let description = good(address, "DescribeStream", &json!({"StreamArn": stream}));
    let shards = description["StreamDescription"]["Shards"].as_array().expect("shards");
    shards.iter().map(|shard| shard["ShardId"].clone()).collect()
}

/// The first page of a shard, which holds what a transcript writes.
fn records(address: SocketAddr, stream: &Value, shard: &Value) -> Vec<Value> {
    let request = json!({"StreamArn": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
    let iterator = good(address, "GetShardIterator", &request);
    let page = good(address, "GetRecords", &json!({"ShardIterator": iterator["ShardIterator"]}));
    page["Records"].as_array().expect("records").clone()
}
