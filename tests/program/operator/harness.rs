//! A local service, workers on it, and an operator's commands: all of them processes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::local_service::{LocalService, signal};
use crate::support::wait::eventually;
use crate::support::{Finished, finish, shardkeeper};

/// The application of all workers here.
pub const APP: &str = "audit";
const TABLE: &str = "Phones";
const LEASE_DURATION: &str = "3s";
/// A local service with a table whose stream is empty.
pub struct Harness {
    service: LocalService,
    name: &'static str,
    written: u32,
}

/// A worker process; killed with this value.
pub struct Worker {
    process: Child,
    output: PathBuf,
}

impl Harness {
    /// A harness of this name, whose stream has so many shards.
    pub fn new(name: &'static str, shards: u32) -> Harness {
        let service = LocalService::start(&format!("--shards {shards}"));
        service.create_table(TABLE, true);
        Harness { service, name, written: 0 }
    }

    pub fn call(&self, operation: &str, request: &Value) -> Value {
        self.service.call(operation, request)
    }

    /// Replaces the plan of faults.
    pub fn faults(&self, plan: &Value) {
        self.service.faults(plan);
    }

    /// Closes the open shards, each with one child.
    pub fn roll_over(&self) {
        self.service.change_shards(TABLE, "rollover");
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
        self.worker_with(id, "")
    }

    /// Starts a worker with further flags, split at spaces.
    pub fn worker_with(&self, id: &str, flags: &str) -> Worker {
        let name = format!("operator-{}-{id}-{}", self.name, std::process::id());
        let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = std::fs::File::create(&output).expect("a file for the output");
        let process = self
            .command()
            .args(["run", "--table", TABLE, "--worker-id", id, "--checkpoint-interval", "100ms"])
            .args(["--log-level", "warn", "--idle-poll", "100ms"])
            .args(flags.split_whitespace())
            .stdout(file)
            .spawn()
            .expect("the worker starts");
        Worker { process, output }
    }

    /// Runs a line of the operator's, split at spaces.
    pub fn operator(&self, line: &str) -> Finished {
        finish(self.command().args(line.split(' ')))
    }

    /// The output of `status --json`.
    pub fn status(&self) -> Value {
        let finished = self.operator("status --json");
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).expect("JSON")
    }

    /// Looks until the status is as wanted; at first the workers have yet to make the tables.
    pub fn wait_for_status(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let finished = self.operator("status --json");
            let status = serde_json::from_str(&finished.stdout).ok();
            status.filter(|status| finished.code == 0 && is_wanted(status))
        })
    }

    /// The program with the settings of an operator.
    pub fn command(&self) -> Command {
        let mut command = shardkeeper();
        command
            .env("SHARDKEEPER_APP", APP)
            .env("SHARDKEEPER_LEASE_DURATION", LEASE_DURATION)
            .env("SHARDKEEPER_KCL_FAILOVER_TIME", LEASE_DURATION)
            .env("AWS_ENDPOINT_URL", self.service.url())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .stdin(Stdio::null());
        command
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
        eventually("records", || Some(self.records()).filter(|records| records.len() >= count))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        signal(&self.process, "TERM");
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
