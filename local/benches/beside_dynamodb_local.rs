//! Operations a second and memory, beside the official DynamoDB Local.
//!
//!     SHARDKEEPER_TEST_DYNAMODB_LOCAL=… cargo bench -p shardkeeper-local --bench beside_dynamodb_local
//!
//! Both services get the same bytes over the same number of kept connections, one after the other. Prints ratios.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shardkeeper_local::{Clock, LocalOptions, LocalService};

#[path = "../../tests/support/dynamodb_local.rs"]
mod dynamodb_local;
#[path = "../../tests/support/wait.rs"]
#[expect(dead_code, reason = "the program's tests use the rest")]
mod wait;

/// Connections, each of which has one call in flight.
const CONNECTIONS: u64 = 4;
/// The JVM compiles what is called often, so that the first seconds of each operation don't count.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(6);
/// Items of the table that is read, ten a partition.
const ITEMS: u64 = 10_000;
const MILLION: u64 = 1_000_000;

fn main() {
    let Some((process, official)) = dynamodb_local::start() else { return };
    let official = Official { process, address: official };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let service = LocalService::new(LocalOptions::default(), Clock::system());
    let server = runtime.block_on(service.listen()).expect("a free port");
    let addresses = [server.address(), official.address];
    let iterators = addresses.map(prepare);
    println!("{:<12} {:>12} {:>16} {:>7}", "operation", "shardkeeper", "DynamoDB Local", "ratio");
    for operation in ["PutItem", "GetItem", "Query", "GetRecords"] {
        let [ours, theirs] = [0, 1].map(|side: usize| {
            let body = |number: u64| body(operation, number, &iterators[side]);
            run(addresses[side], operation, WARM_UP, &body);
            run(addresses[side], operation, MEASURED, &body)
        });
        println!("{operation:<12} {ours:>10.0}/s {theirs:>14.0}/s {:>7.1}", ours / theirs);
    }
    let [ours, theirs] =
        [(addresses[0], std::process::id()), (addresses[1], official.process.id())].map(|(address, process)| {
            let before = resident_mb(process);
            fill(address, "Million", MILLION);
            resident_mb(process) - before
        });
    println!("a million items of about 100 bytes: {ours:.0} MB, DynamoDB Local {theirs:.0} MB");
}

/// DynamoDB Local's process, which ends with this value.
struct Official {
    process: Child,
    address: SocketAddr,
}

impl Drop for Official {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A kept connection to a service.
struct Connection {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the service takes connections");
        stream.set_nodelay(true).expect("a socket sends at once");
        Self { address, stream: BufReader::new(stream) }
    }

    /// Calls an operation, which must succeed.
    fn call(&mut self, operation: &str, body: &str) -> Vec<u8> {
        let api =
            if ["DescribeStream", "GetShardIterator", "GetRecords"].contains(&operation) { "Streams" } else { "" };
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.0\r\n\
             X-Amz-Target: DynamoDB{api}_20120810.{operation}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("the service takes a request");
        let (mut length, mut is_chunked) = (0, false);
        let mut status = String::new();
        self.stream.read_line(&mut status).expect("a status line");
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a header");
            match line.trim_end().split_once(": ") {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().expect("a length");
                }
                Some((name, _)) => is_chunked |= name.eq_ignore_ascii_case("transfer-encoding"),
            }
        }
        let mut answer = Vec::new();
        loop {
            if is_chunked {
                let mut size = String::new();
                self.stream.read_line(&mut size).expect("a chunk's size");
                length = usize::from_str_radix(size.trim_end(), 16).expect("a size");
            }
            let begin = answer.len();
            answer.resize(begin + length, 0);
            self.stream.read_exact(&mut answer[begin..]).expect("a whole body");
            if is_chunked {
                self.stream.read_line(&mut String::new()).expect("the end of a chunk");
            }
            if !is_chunked || length == 0 {
                break;
            }
        }
        assert!(status.contains(" 200 "), "{operation} {body}: {}", String::from_utf8_lossy(&answer));
        answer
    }

    fn json(&mut self, operation: &str, body: &Value) -> Value {
        serde_json::from_slice(&self.call(operation, &body.to_string())).expect("an answer of JSON")
    }
}

/// Fills the tables that are read; the iterator is of the shard with the most records.
fn prepare(address: SocketAddr) -> String {
    let mut connection = Connection::open(address);
    let schema = json!([{"AttributeName": "k", "KeyType": "HASH"}, {"AttributeName": "r", "KeyType": "RANGE"}]);
    let kinds = json!([{"AttributeName": "k", "AttributeType": "S"}, {"AttributeName": "r", "AttributeType": "N"}]);
    let create = |connection: &mut Connection, name: &str, stream: Value| {
        let body = json!({
            "TableName": name, "KeySchema": schema, "AttributeDefinitions": kinds, "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": stream,
        });
        connection.json("CreateTable", &body)
    };
    for name in ["Read", "Written", "Million"] {
        create(&mut connection, name, json!({"StreamEnabled": false}));
    }
    fill(address, "Read", ITEMS);
    let stream = json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
    let created = create(&mut connection, "Streamed", stream);
    let arn = &created["TableDescription"]["LatestStreamArn"];
    for number in 0..1000 {
        connection.json("PutItem", &json!({"TableName": "Streamed", "Item": item(number, "one")}));
    }
    wait::eventually("a shard has the thousand records", || {
        let description = connection.json("DescribeStream", &json!({"StreamArn": arn}));
        description["StreamDescription"]["Shards"].as_array()?.iter().find_map(|shard| {
            let request = json!({"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"});
            let iterator = connection.json("GetShardIterator", &request)["ShardIterator"].as_str()?.to_owned();
            let page = connection.json("GetRecords", &json!({"ShardIterator": iterator}));
            (page["Records"].as_array()?.len() == 1000).then_some(iterator)
        })
    })
}

/// Writes this number of items in batches.
fn fill(address: SocketAddr, table: &str, count: u64) {
    let mut connection = Connection::open(address);
    for first in (0..count).step_by(25) {
        let puts: Vec<Value> = (first..count.min(first + 25))
            .map(|number| json!({"PutRequest": {"Item": item(number, &format!("partition {}", number / 10))}}))
            .collect();
        connection.json("BatchWriteItem", &json!({"RequestItems": {table: puts}}));
    }
}

fn item(number: u64, partition: &str) -> Value {
    json!({
        "k": {"S": partition}, "r": {"N": number.to_string()}, "count": {"N": "42"}, "name": {"S": "a name of some length"},
        "text": {"S": "about as much text as a small item has"},
    })
}

/// The request of the call with this number.
fn body(operation: &str, number: u64, iterator: &str) -> String {
    let read = number * 7919 % ITEMS;
    let partition = format!("partition {}", read / 10);
    match operation {
        "PutItem" => json!({"TableName": "Written", "Item": item(read, &partition)}),
        "GetItem" => {
            json!({"TableName": "Read", "Key": {"k": {"S": partition}, "r": {"N": read.to_string()}}})
        }
        "Query" => json!({
            "TableName": "Read", "KeyConditionExpression": "k = :k",
            "ExpressionAttributeValues": {":k": {"S": partition}},
        }),
        _ => json!({"ShardIterator": iterator}),
    }
    .to_string()
}

/// Calls a second over all connections.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^53")]
fn run(address: SocketAddr, operation: &str, duration: Duration, body: &(impl Fn(u64) -> String + Sync)) -> f64 {
    let started = Instant::now();
    let calls: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address);
                    let mut calls = 0;
                    while started.elapsed() < duration {
                        connection.call(operation, &body(thread + CONNECTIONS * calls));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a connection's calls")).sum()
    });
    calls as f64 / started.elapsed().as_secs_f64()
}

/// The memory that a process holds, as Linux tells it.
fn resident_mb(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux's /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the resident memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("kilobytes") / 1024.0
}
