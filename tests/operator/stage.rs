//! A local service, workers on it, and an operator's commands: all of them processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Finished, finish, shardkeeper};

/// The application of all workers here.
pub const APP: &str = "audit";
const TABLE: &str = "Phones";
const LEASE_DURATION: &str = "3s";
/// Nothing that is waited for takes this long on a machine that does anything at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A local service with a table whose stream is empty. It ends with this value.
pub struct Stage {
    service: Child,
    address: String,
    name: &'static str,
    written: u32,
}

/// A worker process; killed with this value.
pub struct Worker {
    process: Child,
    output: PathBuf,
}

impl Stage {
    /// A stage of this name, whose stream has so many shards.
    pub fn new(name: &'static str, shards: u32) -> Stage {
        let mut service = shardkeeper()
            .args(["local", "--port", "0", "--log-level", "warn", "--shards", &shards.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let mut line = String::new();
        let stdout = service.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("the service says where it is");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        let stage = Stage { service, address, name, written: 0 };
        stage.call(
            "CreateTable",
            &json!({
                "TableName": TABLE,
                "AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
                "BillingMode": "PAY_PER_REQUEST",
                "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
            }),
        );
        stage
    }

    /// Calls an operation of DynamoDB that must succeed.
    pub fn call(&self, operation: &str, request: &Value) -> Value {
        self.post("/", &format!("x-amz-target: DynamoDB_20120810.{operation}\r\n"), request)
    }

    /// Closes the open shards; each goes on in a child.
    pub fn roll_over(&self) {
        self.post("/_local/streams", "", &json!({"table": TABLE, "action": "rollover"}));
    }

    fn post(&self, path: &str, headers: &str, request: &Value) -> Value {
        let body = request.to_string();
        let mut connection = TcpStream::connect(&self.address).expect("the service is there");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("the service listens");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("the service answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{request}: {answer}");
        serde_json::from_str(body).expect("JSON")
    }

    /// Writes this many records.
    pub fn write(&mut self, count: u32) {
        for _ in 0..count {
            self.written += 1;
            let n = self.written.to_string();
            self.call("PutItem", &json!({"TableName": TABLE, "Item": {"key": {"S": n}}}));
        }
    }

    /// The lease of a shard, as it is in the table.
    pub fn row(&self, shard: &str) -> Value {
        let answer = self.call("GetItem", &json!({"TableName": APP, "Key": {"leaseKey": {"S": shard}}}));
        answer["Item"].clone()
    }

    /// Starts a worker.
    pub fn worker(&self, id: &str) -> Worker {
        let name = format!("operator-{}-{id}-{}", self.name, std::process::id());
        let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = std::fs::File::create(&output).expect("a file for the output");
        let process = self
            .command()
            .args(["run", "--table", TABLE, "--worker-id", id, "--checkpoint-interval", "100ms"])
            .args(["--log-level", "warn", "--idle-poll", "100ms"])
            .stdout(file)
            .spawn()
            .expect("the worker starts");
        Worker { process, output }
    }

    /// Runs a line of the operator's, split at spaces.
    pub fn operator(&self, line: &str) -> Finished {
        finish(self.command().args(line.split(' ')))
    }

    /// What `status --json` shows.
    pub fn status(&self) -> Value {
        let finished = self.operator("status --json");
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).expect("JSON")
    }

    /// Looks until the status is as wanted; at first the workers have yet to make the tables.
    pub fn wait_for_status(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let finished = self.operator("status --json");
            let status = serde_json::from_str(&finished.stdout).ok();
            status.filter(|status| finished.code == 0 && is_wanted(status))
        })
    }

    fn command(&self) -> Command {
        let mut command = shardkeeper();
        command
            .env("SHARDKEEPER_APP", APP)
            .env("SHARDKEEPER_LEASE_DURATION", LEASE_DURATION)
            .env("SHARDKEEPER_KCL_FAILOVER_TIME", LEASE_DURATION)
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

impl Worker {
    /// The records that it has written out, oldest first.
    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).expect("the output");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// Waits until it has written out this many.
    pub fn wait_for_records(&self, count: usize) -> Vec<Value> {
        wait_for("records", || Some(self.records()).filter(|records| records.len() >= count))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let status = Command::new("kill").args(["-s", "TERM", &self.process.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        assert!(self.process.wait().expect("the worker ends").success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.output);
    }
}

/// Tries until there is something, and fails the test when there never is.
fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let (_sender, silence) = mpsc::channel::<()>();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        let _ = silence.recv_timeout(Duration::from_millis(50));
    }
}
