//! `shardkeeper local` as a process of its own, and what tests do with it: call its API, write counted records, break
//! it, and look behind the workers' backs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::support::http::{self, Answer};
use crate::support::services::Service;
use crate::support::wait::{pause, wait_for};

/// Keys of the items that [`LocalService::write`] writes; no fewer than a batch has items.
const KEYS: u64 = 40;
/// BatchWriteItem takes no more.
const BATCH: usize = 25;
/// A running local service.
pub struct LocalService(Service);

/// The number of records written for each key: its items hold `n` = 1, 2, … in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(pub BTreeMap<String, u64>);

/// A row of a lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    pub owner: Option<String>,
    pub checkpoint: String,
    pub counter: String,
}

/// A shard as the service has it.
#[derive(Clone, Debug)]
pub struct ShardContent {
    pub id: String,
    pub parent: Option<String>,
    /// The sequence numbers of its records, oldest first.
    pub records: Vec<String>,
}

impl LocalService {
    /// Starts the service with these further flags on any free port.
    pub fn start(flags: &str) -> LocalService {
        LocalService(Service::shardkeeper_local(flags))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Makes a table with the string hash key `key` and, if asked for, a stream.
    pub fn create_table(&self, table: &str, has_stream: bool) {
        let mut request = json!({
            "TableName": table,
            "AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
        });
        if has_stream {
            request["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"});
        }
        self.call("CreateTable", &request);
        wait_for("the table to be active", || {
            self.call("DescribeTable", &json!({"TableName": table}))["Table"]["TableStatus"] == "ACTIVE"
        });
    }

    /// Calls an operation that must succeed.
    pub fn call(&self, operation: &str, request: &Value) -> Value {
        self.try_call(operation, request).unwrap_or_else(|error| panic!("{operation} {request}: {error:?}"))
    }

    /// Calls an operation; the error is in the service's words, or says how the connection ended.
    pub fn try_call(&self, operation: &str, request: &Value) -> Result<Value, String> {
        self.call_as("local", operation, request)
    }

    /// Calls an operation as somebody with this access key id.
    pub fn call_as(&self, caller: &str, operation: &str, request: &Value) -> Result<Value, String> {
        body(http::try_call(self.address(), caller, operation, request))
    }

    /// Replaces the plan of faults; `{}` ends them.
    pub fn faults(&self, plan: &Value) {
        self.send("POST", "/_local/faults", plan).expect("a good plan");
    }

    /// Splits, rolls over or trims the open shards of a table's stream.
    pub fn change_shards(&self, table: &str, action: &str) {
        let request = json!({"table": table, "action": action});
        self.send("POST", "/_local/streams", &request).expect("a table with a stream");
    }

    /// All that the service has counted so far.
    pub fn stats(&self) -> Value {
        self.send("GET", "/_local/stats", &json!({})).expect("the service counts")
    }

    /// The number of calls of an operation.
    pub fn calls(&self, operation: &str) -> u64 {
        self.stats()["calls"][operation].as_u64().unwrap_or(0)
    }

    /// The number of calls of an operation that ended with this error.
    pub fn errors(&self, operation: &str, code: &str) -> u64 {
        self.stats()["errors"][operation][code].as_u64().unwrap_or(0)
    }

    /// Sends the service's process a signal.
    pub fn signal(&self, name: &str) {
        signal(&self.0.process, name);
    }

    /// Asks the service to end, and waits until it has.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.0.process.wait().expect("its state is known");
        assert!(status.success(), "the service ended with {status}");
    }

    /// Writes `count` records more, over all keys in turn. Each is tried until it is written: a second write of the
    /// same item changes nothing, so it makes no record.
    pub fn write(&self, table: &str, written: &mut Written, count: usize) {
        let mut wanted = Vec::with_capacity(count);
        let turns: u64 = written.0.values().sum();
        for turn in (turns..).take(count) {
            let key = format!("key-{:02}", turn % KEYS);
            let n = written.0.entry(key.clone()).and_modify(|n| *n += 1).or_insert(1);
            wanted.push(json!({"PutRequest": {"Item": {"key": {"S": key}, "n": {"N": n.to_string()}}}}));
        }
        for batch in wanted.chunks(BATCH) {
            let request = json!({"RequestItems": {table: batch}});
            wait_for("a batch to be written", || {
                let answer = self.try_call("BatchWriteItem", &request);
                answer.is_ok_and(|answer| answer["UnprocessedItems"].as_object().is_none_or(|left| left.is_empty()))
            });
        }
    }

    /// The ARN of a table's latest stream.
    pub fn stream_arn(&self, table: &str) -> String {
        let described = self.call("DescribeTable", &json!({"TableName": table}));
        described["Table"]["LatestStreamArn"].as_str().expect("a table with a stream").to_owned()
    }

    /// The rows of an application's lease table, by shard; none while there is no such table.
    pub fn leases(&self, app: &str) -> BTreeMap<String, LeaseRow> {
        let Ok(answer) = self.try_call("Scan", &json!({"TableName": app, "ConsistentRead": true})) else {
            return BTreeMap::new();
        };
        let items = answer["Items"].as_array().expect("a list of items").iter();
        let text = |item: &Value, name: &str, kind: &str| item[name][kind].as_str().map(str::to_owned);
        items
            .map(|item| {
                let row = LeaseRow {
                    owner: text(item, "leaseOwner", "S"),
                    checkpoint: text(item, "checkpoint", "S").unwrap_or_default(),
                    counter: text(item, "leaseCounter", "N").unwrap_or_default(),
                };
                (text(item, "leaseKey", "S").expect("a lease has a key"), row)
            })
            .collect()
    }

    /// The number of unfinished leases of each owner.
    pub fn shares(&self, app: &str) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for row in self.leases(app).into_values().filter(|row| row.checkpoint != "SHARD_END") {
            *shares.entry(row.owner.unwrap_or_default()).or_default() += 1;
        }
        shares
    }

    /// The shards of a table's stream with all records that they still hold, as the service itself serves them.
    pub fn shards(&self, table: &str) -> Vec<ShardContent> {
        let arn = self.stream_arn(table);
        let mut shards = Vec::new();
        let mut request = json!({"StreamArn": arn});
        loop {
            let page = &self.call("DescribeStream", &request)["StreamDescription"];
            for shard in page["Shards"].as_array().expect("a list of shards") {
                let text = |name: &str| shard[name].as_str().map(str::to_owned);
                let id = text("ShardId").expect("a shard has an id");
                let records = self.records(&arn, &id);
                shards.push(ShardContent { id, parent: text("ParentShardId"), records });
            }
            match page["LastEvaluatedShardId"].as_str() {
                Some(last) => request["ExclusiveStartShardId"] = last.into(),
                None => return shards,
            }
        }
    }

    /// The sequence numbers of a shard's records. An iterator that expires, or a call too many, costs another try.
    fn records(&self, arn: &str, shard: &str) -> Vec<String> {
        let mut numbers: Vec<String> = Vec::new();
        let mut iterator: Option<String> = None;
        loop {
            let current = iterator.take().unwrap_or_else(|| {
                let mut request = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
                if let Some(last) = numbers.last() {
                    request["ShardIteratorType"] = "AFTER_SEQUENCE_NUMBER".into();
                    request["SequenceNumber"] = last.as_str().into();
                }
                let answer = self.call("GetShardIterator", &request);
                answer["ShardIterator"].as_str().expect("an iterator").to_owned()
            });
            let Ok(page) = self.try_call("GetRecords", &json!({"ShardIterator": current})) else {
                pause();
                continue;
            };
            let records = page["Records"].as_array().expect("a list of records");
            numbers.extend(records.iter().map(sequence_number));
            iterator = page["NextShardIterator"].as_str().map(str::to_owned);
            if records.is_empty() || iterator.is_none() {
                return numbers;
            }
        }
    }

    fn send(&self, method: &str, path: &str, request: &Value) -> Result<Value, String> {
        body(http::send(self.address(), method, path, "", &request.to_string()))
    }
}

/// The body of a good answer; else the service's words, or the end of the connection.
fn body(answer: io::Result<Answer>) -> Result<Value, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(answer.body) } else { Err(answer.body.to_string()) }
}

/// The sequence number of a record as the service sends it.
pub fn sequence_number(record: &Value) -> String {
    record["dynamodb"]["SequenceNumber"].as_str().expect("a record has a sequence number").to_owned()
}

/// Sends a signal, such as `TERM`, to a process.
pub fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
    assert!(status.expect("kill runs").success(), "SIG{name} was not sent");
}
