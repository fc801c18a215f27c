//! The service's behaviour, asked for as clients ask: through requests, at times of the test's choosing.

mod indexes;
mod items;
mod reading;
mod shards;
mod snapshots;
mod streams;
mod tables;
mod transactions;
mod transports;

use std::time::Duration;

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::{LocalOptions, Request, Timestamp};

/// A emulator at a time that only moves when told.
pub(super) struct Fixture {
    pub(super) emulator: Emulator,
    pub(super) now: Timestamp,
}

/// An error's name and text.
pub(super) type Refusal = (String, String);

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(LocalOptions::default())
    }

    pub(super) fn with(options: LocalOptions) -> Self {
        Self { emulator: Emulator::new(options), now: Timestamp::from_millis(1_795_346_529_400) }
    }

    /// The answer's body, of a good call or of an error.
    pub(super) fn raw(&mut self, operation: &str, body: &Value) -> (u16, Value) {
        let service = match operation {
            "ListStreams" | "DescribeStream" | "GetShardIterator" | "GetRecords" => "DynamoDBStreams_20120810",
            _ => "DynamoDB_20120810",
        };
        let request = Request { target: format!("{service}.{operation}"), body: body.to_string().into() };
        let answer = self.emulator.handle(self.now, &request);
        let body = serde_json::from_slice(&answer.body).expect("every answer is JSON");
        (answer.status, body)
    }

    pub(super) fn call(&mut self, operation: &str, body: Value) -> Result<Value, Refusal> {
        match self.raw(operation, &body) {
            (200, body) => Ok(body),
            (_, error) => {
                let kind = error["__type"].as_str().unwrap_or_default();
                let code = kind.rsplit('#').next().unwrap_or_default().to_owned();
                Err((code, error["message"].as_str().unwrap_or_default().to_owned()))
            }
        }
    }

    pub(super) fn ok(&mut self, operation: &str, body: Value) -> Value {
        let shown = body.to_string();
        self.call(operation, body).unwrap_or_else(|error| panic!("{operation} {shown}: {error:?}"))
    }

    pub(super) fn err(&mut self, operation: &str, body: Value) -> Refusal {
        let shown = body.to_string();
        match self.call(operation, body) {
            Err(refusal) => refusal,
            Ok(answer) => panic!("{operation} {shown} was answered {answer}"),
        }
    }

    /// The error's name, with a part of its message checked.
    pub(super) fn refused(&mut self, operation: &str, body: Value, code: &str, part: &str) {
        let shown = body.to_string();
        let (found, message) = self.err(operation, body);
        assert_eq!(found, code, "{operation} {shown}: {message}");
        assert!(message.contains(part), "{operation} {shown}: {message}");
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// A table `T` with the string key `k` and a stream of both images; answers the stream's ARN.
    pub(super) fn table(&mut self) -> String {
        self.table_with_view("NEW_AND_OLD_IMAGES")
    }

    pub(super) fn table_with_view(&mut self, view: &str) -> String {
        let mut body = simple_table("Tab");
        body["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": view});
        let answer = self.ok("CreateTable", body);
        text(&answer["TableDescription"]["LatestStreamArn"])
    }

    pub(super) fn put(&mut self, key: &str, value: u64) {
        self.ok("PutItem", json!({"TableName": "Tab", "Item": {"k": {"S": key}, "v": {"N": value.to_string()}}}));
    }

    pub(super) fn shards(&mut self, arn: &str) -> Vec<Value> {
        let mut shards = Vec::new();
        let mut request = json!({"StreamArn": arn});
        loop {
            let answer = self.ok("DescribeStream", request.clone());
            let description = &answer["StreamDescription"];
            shards.extend(description["Shards"].as_array().expect("a list").iter().cloned());
            if description["LastEvaluatedShardId"].is_null() {
                return shards;
            }
            request["ExclusiveStartShardId"] = description["LastEvaluatedShardId"].clone();
        }
    }

    pub(super) fn iterator(&mut self, arn: &str, shard: &str, kind: &str) -> String {
        let body = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind});
        text(&self.ok("GetShardIterator", body)["ShardIterator"])
    }

    /// One shard's records from its trim horizon, and whether it ended.
    pub(super) fn read_shard(&mut self, arn: &str, shard: &str) -> (Vec<Value>, bool) {
        let mut iterator = self.iterator(arn, shard, "TRIM_HORIZON");
        let mut records = Vec::new();
        loop {
            let page = self.ok("GetRecords", json!({"ShardIterator": iterator}));
            let taken = page["Records"].as_array().expect("a list");
            records.extend(taken.iter().cloned());
            match page["NextShardIterator"].as_str() {
                None => return (records, true),
                Some(_) if taken.is_empty() => return (records, false),
                Some(next) => iterator = next.to_owned(),
            }
        }
    }

    /// The records of all shards, parents first.
    pub(super) fn read_all(&mut self, arn: &str) -> Vec<Value> {
        let shards = self.shards(arn);
        shards.iter().flat_map(|shard| self.read_shard(arn, &text(&shard["ShardId"])).0).collect()
    }
}

pub(super) fn simple_table(name: &str) -> Value {
    json!({
        "TableName": name,
        "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    })
}

pub(super) fn ranged_table(name: &str) -> Value {
    json!({
        "TableName": name,
        "AttributeDefinitions": [
            {"AttributeName": "k", "AttributeType": "S"},
            {"AttributeName": "r", "AttributeType": "N"},
        ],
        "KeySchema": [
            {"AttributeName": "k", "KeyType": "HASH"},
            {"AttributeName": "r", "KeyType": "RANGE"},
        ],
        "BillingMode": "PAY_PER_REQUEST",
    })
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
