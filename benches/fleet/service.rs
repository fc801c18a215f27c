//! The local service as a process of its own, and the few calls that a bench makes to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::process::Process;

/// The table whose stream is read.
pub const TABLE: &str = "Load";

/// A running service. It ends with this value.
pub struct Service {
    /// Its process.
    pub process: Process,
    address: String,
}

/// The service's counts.
#[derive(Clone, Debug, Default)]
pub struct Stats(Value);

/// A connection to the service.
pub struct Client {
    address: String,
    connection: BufReader<TcpStream>,
}

/// A made-up backlog.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    pub records_per_shard: u64,
    pub value_bytes: u64,
    pub value_attributes: u64,
}

impl Service {
    /// Starts a service whose streams have so many shards, with [`TABLE`] and its stream.
    pub fn start(shards: u32, view: &str) -> Result<Self, anyhow::Error> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardkeeper"));
        let flags = "local --port 0 --log-level warn --rollover 24h --iterator-ttl 24h --seed 1 --shards";
        command.args(flags.split(' ')).arg(shards.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, "the service")?;
        let mut line = String::new();
        let stdout = process.take_stdout().context("the service has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.with_context(|| format!("the service does not say where it is: {line:?}"))?.to_owned();
        let service = Self { process, address };
        service.client()?.create_table(view)?;
        Ok(service)
    }

    /// The address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new connection to it.
    pub fn client(&self) -> Result<Client, anyhow::Error> {
        Ok(Client { connection: connect(&self.address)?, address: self.address.clone() })
    }
}

impl Client {
    /// Calls an operation.
    pub fn call(&mut self, operation: &str, request: &Value) -> Result<Value, anyhow::Error> {
        let streams = ["DescribeStream", "GetShardIterator", "GetRecords"];
        let api = if streams.contains(&operation) { "DynamoDBStreams_20120810" } else { "DynamoDB_20120810" };
        let target = format!("x-amz-target: {api}.{operation}\r\n");
        self.exchange("POST", "/", &target, &request.to_string()).with_context(|| operation.to_owned())
    }

    /// The counts so far.
    pub fn stats(&mut self) -> Result<Stats, anyhow::Error> {
        Ok(Stats(self.exchange("GET", "/_local/stats", "", "")?))
    }

    /// Writes a backlog, its pages made ahead; answers how many records it has.
    pub fn preload(&mut self, backlog: &Backlog) -> Result<u64, anyhow::Error> {
        let request = json!({
            "table": TABLE,
            "records_per_shard": backlog.records_per_shard,
            "keys_per_shard": 4,
            "value_bytes": backlog.value_bytes,
            "value_attributes": backlog.value_attributes,
            // Not the first versions of their items: each record has an old image too.
            "first_version": 1,
            "pages_ahead": true,
        });
        let answer = self.exchange("POST", "/_local/preload", "", &request.to_string())?;
        answer["records"].as_u64().context("the service does not say how many records it made")
    }

    /// Closes every open shard; a child goes on with each.
    pub fn roll_over(&mut self) -> Result<(), anyhow::Error> {
        let request = json!({"table": TABLE, "action": "rollover"});
        self.exchange("POST", "/_local/streams", "", &request.to_string()).map(drop)
    }

    /// The ARN of the table's stream.
    pub fn stream_arn(&mut self) -> Result<String, anyhow::Error> {
        let described = self.call("DescribeTable", &json!({"TableName": TABLE}))?;
        Ok(described["Table"]["LatestStreamArn"].as_str().context("the table has no stream")?.to_owned())
    }

    /// The id of the stream's first shard.
    pub fn first_shard(&mut self) -> Result<String, anyhow::Error> {
        let arn = self.stream_arn()?;
        let described = self.call("DescribeStream", &json!({"StreamArn": arn}))?;
        let id = described["StreamDescription"]["Shards"][0]["ShardId"].as_str();
        Ok(id.context("the stream has no shard")?.to_owned())
    }

    /// The unfinished shards of an application with the owners of their leases: empty for nobody, with a word more for
    /// one that waits for another worker to hand the lease over.
    pub fn owners(&mut self, app: &str) -> Result<BTreeMap<String, String>, anyhow::Error> {
        let mut owners = BTreeMap::new();
        let mut request = json!({"TableName": app});
        loop {
            let page = self.call("Scan", &request)?;
            for item in page["Items"].as_array().into_iter().flatten() {
                if item["checkpoint"]["S"] != "SHARD_END" {
                    let text = |name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
                    let waiting = if item["checkpointOwner"].is_object() { " (waiting)" } else { "" };
                    owners.insert(text("leaseKey"), text("leaseOwner") + waiting);
                }
            }
            match &page["LastEvaluatedKey"] {
                Value::Null => return Ok(owners),
                key => request["ExclusiveStartKey"] = key.clone(),
            }
        }
    }

    fn create_table(&mut self, view: &str) -> Result<(), anyhow::Error> {
        let request = json!({
            "TableName": TABLE,
            "AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": view},
        });
        self.call("CreateTable", &request)?;
        while self.call("DescribeTable", &json!({"TableName": TABLE}))?["Table"]["TableStatus"] != "ACTIVE" {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn exchange(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Result<Value, anyhow::Error> {
        let (host, length) = (&self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n");
        self.connection.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut line = String::new();
        self.connection.read_line(&mut line)?;
        let is_good = line.starts_with("HTTP/1.1 200");
        let mut length = 0;
        while !line.trim().is_empty() {
            line.clear();
            self.connection.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        match is_good {
            true => Ok(serde_json::from_slice(&body)?),
            false => bail!("the service answers {}", String::from_utf8_lossy(&body)),
        }
    }
}

impl Stats {
    /// Records answered to GetRecords.
    pub fn served(&self) -> u64 {
        self.0["records_served"].as_u64().unwrap_or(0)
    }

    /// Calls of an operation.
    pub fn calls(&self, operation: &str) -> u64 {
        self.0["calls"][operation].as_u64().unwrap_or(0)
    }

    /// Read and write units that a table's requests took.
    pub fn units(&self, table: &str) -> (f64, f64) {
        let units = &self.0["units"][table];
        (units["read"].as_f64().unwrap_or(0.0), units["write"].as_f64().unwrap_or(0.0))
    }
}

fn connect(address: &str) -> Result<BufReader<TcpStream>, anyhow::Error> {
    let stream = TcpStream::connect(address).with_context(|| format!("no service at {address}"))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}
