//! Processors in other languages: child processes that speak the protocol of KCL's MultiLangDaemon, good ones and others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::kcl_table::{create_keyed_table, lease};
use crate::support::dynamodb_local::required_in_ci;
use crate::support::fixture::{Fixture, TABLE, Worker, with_credentials};
use crate::support::local_service::Written;
use crate::support::shardkeeper;
use crate::support::wait::wait_for;

/// A child in the shell. It appends what it is asked to the file `OUT`, and checkpoints every batch; `$1` tells how the
/// first child of all misbehaves at its second batch, or at the end of the shard.
const CHILD: &str = r#"
answer() { printf '\n{"action":"status","responseFor":"%s"}\n' "$1"; }
checkpoint() { printf '{"action":"checkpoint","sequenceNumber":null}\n'; read -r reply; printf '%s\n' "$reply" >> "$OUT"; }
batch=0
while read -r line; do
  printf '%s\n' "$line" >> "$OUT"
  case "$line" in
    *'"action":"initialize"'*) answer initialize ;;
    *'"action":"processRecords"'*)
      batch=$((batch + 1))
      if [ "$batch" = 2 ] && mkdir "$OUT.misbehaved" 2>/dev/null; then
        case "$1" in
          die) exit 3 ;;
          hang) sleep 1000 ;;
          wrong) answer initialize ;;
          deaf) trap '' TERM; sleep 1000 & sleep 1000 ;;
          long) head -c 100000000 /dev/zero; echo ;;
          forget) answer processRecords; continue ;;
        esac
      fi
      echo "a line that is no message"
      if [ "$1" != die ] || [ $((batch % 2)) = 0 ]; then checkpoint; fi
      answer processRecords ;;
    *'"action":"shardEnded"'*)
      if [ "$1" != endless ] || ! mkdir "$OUT.forgotten" 2>/dev/null; then checkpoint; fi
      answer shardEnded ;;
    *'"action":"shutdownRequested"'*) checkpoint; answer shutdownRequested ;;
    *'"action":"leaseLost"'*) checkpoint; answer leaseLost ;;
  esac
done
"#;

/// An application whose children write to a file.
struct Application {
    fixture: Fixture,
    folder: PathBuf,
}

impl Application {
    fn new(flags: &str, name: &str, source: &str, command: &str) -> Self {
        let fixture = Fixture::new(flags);
        let folder = fixture.log("any").parent().expect("a folder").to_owned();
        let child = folder.join(name);
        std::fs::write(&child, source).expect("a child's source");
        let properties = format!(
            "executableName = {}\nstreamName = {TABLE}\napplicationName = audit\nfailoverTimeMillis = 2000\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\nidleTimeBetweenReadsInMillis = 100\n\
             initialPositionInStream = TRIM_HORIZON\nmaxRecords = 10\nmetricsLevel = NONE\n",
            command.replace("CHILD", child.to_str().expect("a path")),
        );
        std::fs::write(folder.join("app.properties"), properties).expect("a properties file");
        Self { fixture, folder }
    }

    fn worker(&self, id: &str, environment: &[(&str, String)], flags: &str) -> Worker {
        let class = "software.amazon.kinesis.multilang.MultiLangDaemon";
        let line = format!("multilang -cp a.jar {class} --properties-file app.properties --worker-id {id}");
        let url = self.fixture.service.url();
        let mut command = shardkeeper();
        with_credentials(&mut command)
            .current_dir(&self.folder)
            .args(line.split(' ').chain(["--endpoint-url", &url, "--metrics-addr", "off"]))
            .args(flags.split_whitespace())
            .env("OUT", self.folder.join("out"))
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .envs(environment.iter().map(|(name, value)| (name, value)));
        Worker::start(&mut command, id, self.fixture.log(id))
    }

    /// The lines that the children wrote.
    fn lines(&self) -> Vec<Value> {
        let content = std::fs::read_to_string(self.folder.join("out")).unwrap_or_default();
        content.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn records(&self) -> Vec<Value> {
        let batches = self.lines().into_iter().filter(|line| line["action"] == "processRecords");
        batches.flat_map(|batch| batch["records"].as_array().expect("records").clone()).collect()
    }

    fn wait_for_all(&self) {
        let shards = self.fixture.service.shards(TABLE);
        let all: BTreeSet<String> = shards.into_iter().flat_map(|shard| shard.records).collect();
        wait_for("every record to reach a child", || {
            let numbers = self.records();
            let seen: BTreeSet<&str> = numbers.iter().filter_map(|record| record["sequenceNumber"].as_str()).collect();
            all.iter().all(|number| seen.contains(&**number))
        });
    }

    /// Checks that the first deliveries of each item are in the order of its writes.
    fn assert_in_order(&self) {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for record in self.records() {
            let data = base64::engine::general_purpose::STANDARD.decode(record["data"].as_str().expect("data"));
            let data: Value = serde_json::from_slice(&data.expect("base64")).expect("JSON");
            let image = &data["dynamodb"]["NewImage"];
            let n: u64 = image["n"]["N"].as_str().expect("a number").parse().expect("a number");
            let last = last.entry(image["key"]["S"].as_str().expect("a key").to_owned()).or_default();
            assert!(n <= *last + 1, "{image} after {last}");
            *last = n.max(*last);
        }
    }

    /// The processes whose command line names this test's folder, but for the worker itself.
    fn children(&self) -> usize {
        let folder = self.folder.to_str().expect("a path").to_owned();
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&folder)).count()
    }
}

fn misbehaves(how: &str, flags: &str, words: &str) {
    let app = Application::new("--shards 2", "child.sh", CHILD, &format!("sh CHILD {how}"));
    app.fixture.service.write(TABLE, &mut Written::default(), 200);
    let mut worker = app.worker("w", &[], flags);
    app.wait_for_all();
    app.fixture.wait_for_checkpoints("audit");
    assert!(worker.log().contains(words), "no {words:?} in the log");
    assert_eq!(worker.stop(), 0);
    app.assert_in_order();
    assert_eq!(app.children(), 0, "children are left");
}

#[test]
fn a_child_that_dies_is_followed_by_one_that_gets_again_what_was_not_checkpointed() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD die");
    app.fixture.service.write(TABLE, &mut Written::default(), 100);
    let mut worker = app.worker("w", &[], "");
    app.wait_for_all();
    // The child that died at its second batch had not checkpointed the first.
    let starts = app.lines().into_iter().filter(|line| line["action"] == "initialize");
    let positions: Vec<Value> = starts.map(|line| line["sequenceNumber"].clone()).collect();
    assert_eq!(positions, ["TRIM_HORIZON", "TRIM_HORIZON"]);
    let first = app.records()[0]["sequenceNumber"].clone();
    assert_eq!(app.records().iter().filter(|record| record["sequenceNumber"] == first).count(), 2);
    assert_eq!(worker.stop(), 0);
    app.fixture.wait_for_checkpoints("audit");
    app.assert_in_order();
}

#[test]
fn a_child_that_never_answers_is_killed_at_the_handlers_timeout() {
    misbehaves("hang", "--handler-timeout 1s", "did not answer processRecords within 1s");
}

#[test]
fn a_child_that_answers_wrongly_is_replaced() {
    misbehaves("wrong", "", "answered processRecords with the status of initialize");
}

#[test]
fn a_child_that_ignores_signals_is_killed_with_its_own_children() {
    misbehaves("deaf", "--handler-timeout 1s", "did not answer processRecords within 1s");
}

#[test]
fn a_line_without_end_on_standard_output_is_cut_off_and_logged() {
    misbehaves("long", "", "child process printed a line that is no message");
}

#[test]
fn a_program_that_cannot_run_stops_no_other_and_is_shown() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "/nowhere/at/all");
    app.fixture.service.write(TABLE, &mut Written::default(), 10);
    let mut worker = app.worker("w", &[], "--retry-attempts 1 --on-failure skip");
    worker.wait_for_log("cannot run /nowhere/at/all");
    worker.wait_for_log("processor failed, retrying");
    assert_eq!(worker.stop(), 0);
    let leases = app.fixture.service.leases("audit");
    assert!(leases.values().all(|lease| lease.checkpoint == "TRIM_HORIZON"), "records were skipped");
}

#[test]
fn a_shard_ends_and_its_children_start_when_the_child_has_checkpointed_its_end() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD none");
    let mut written = Written::default();
    app.fixture.service.write(TABLE, &mut written, 60);
    let mut worker = app.worker("w", &[], "");
    app.fixture.service.change_shards(TABLE, "split");
    app.fixture.service.write(TABLE, &mut written, 60);
    app.wait_for_all();
    assert!(app.lines().iter().any(|line| line["action"] == "shardEnded"));
    assert_eq!(worker.stop(), 0);
    let leases = app.fixture.service.leases("audit");
    assert!(leases.values().any(|lease| lease.checkpoint == "SHARD_END"), "{leases:?}");
    app.assert_in_order();
}

#[test]
fn a_batch_without_a_checkpoint_comes_again_where_it_counts_as_failed() {
    let delivered = |flags: &str| {
        let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD forget");
        app.fixture.service.write(TABLE, &mut Written::default(), 30);
        let mut worker = app.worker("w", &[], flags);
        app.wait_for_all();
        app.fixture.wait_for_checkpoints("audit");
        assert_eq!(worker.stop(), 0);
        app.assert_in_order();
        app.records().len()
    };
    assert_eq!(delivered(""), 30, "an answer is enough");
    assert_eq!(delivered("--unacknowledged fail"), 40, "the second batch of ten comes twice");
}

#[test]
fn an_end_of_a_shard_that_a_child_did_not_checkpoint_is_told_to_the_next_child() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD endless");
    app.fixture.service.write(TABLE, &mut Written::default(), 20);
    let mut worker = app.worker("w", &[], "");
    app.wait_for_all();
    app.fixture.service.change_shards(TABLE, "split");
    wait_for("the end to be checkpointed", || {
        app.fixture.service.leases("audit").values().any(|lease| lease.checkpoint == "SHARD_END")
    });
    assert!(worker.log().contains("answered shardEnded without a checkpoint"), "{}", worker.log());
    assert_eq!(app.lines().iter().filter(|line| line["action"] == "shardEnded").count(), 2);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_child_without_records_ends_until_the_next_record() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD none");
    let mut written = Written::default();
    app.fixture.service.write(TABLE, &mut written, 20);
    let mut worker = app.worker("w", &[], "--child-idle-timeout 1s");
    app.wait_for_all();
    wait_for("the child to end", || app.children() == 0);
    app.fixture.service.write(TABLE, &mut written, 20);
    app.wait_for_all();
    assert_eq!(worker.stop(), 0);
    let starts = app.lines().into_iter().filter(|line| line["action"] == "initialize");
    let positions: Vec<Value> = starts.map(|line| line["sequenceNumber"].clone()).collect();
    let twentieth = app.records()[19]["sequenceNumber"].clone();
    assert_eq!(positions, [Value::from("TRIM_HORIZON"), twentieth], "the second child begins behind the first one's");
    assert_eq!(app.records().len(), 40, "nothing twice");
}

#[test]
fn a_child_whose_lease_was_taken_is_told_and_its_checkpoints_are_refused() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD none");
    let mut written = Written::default();
    app.fixture.service.write(TABLE, &mut written, 20);
    let mut first = app.worker("first", &[], "");
    app.wait_for_all();
    app.fixture.wait_for_checkpoints("audit");
    first.signal("STOP");
    let mut second = app.worker("second", &[], "");
    wait_for("the second worker to take the lease", || {
        app.fixture.service.leases("audit").values().all(|lease| lease.owner.as_deref() == Some("second"))
    });
    first.signal("CONT");
    wait_for("the child to be told", || app.lines().iter().any(|line| line["action"] == "leaseLost"));
    wait_for("the refusal", || app.lines().iter().any(|line| line["error"] == "InvalidStateException"));
    app.fixture.service.write(TABLE, &mut written, 20);
    app.wait_for_all();
    assert_eq!(first.stop(), 0);
    assert_eq!(second.stop(), 0);
    app.fixture.wait_for_checkpoints("audit");
    app.assert_in_order();
    assert_eq!(app.children(), 0, "children are left");
}

#[test]
fn a_table_that_a_jvms_daemon_left_is_resumed_at_its_checkpoints() {
    let app = Application::new("--shards 1", "child.sh", CHILD, "sh CHILD none");
    app.fixture.service.write(TABLE, &mut Written::default(), 40);
    let shard = app.fixture.service.shards(TABLE).remove(0);
    create_keyed_table(app.fixture.service.address(), "audit", "leaseKey");
    let row = lease(&shard.id, &shard.records[24], Some("jvm-1"));
    app.fixture.service.call("PutItem", &json!({"TableName": "audit", "Item": row}));
    let mut worker = app.worker("w", &[], "");
    wait_for("the rest to reach the child", || app.records().len() >= 15);
    app.fixture.wait_for_checkpoints("audit");
    assert_eq!(worker.stop(), 0);
    let numbers: Vec<Value> = app.records().iter().map(|record| record["sequenceNumber"].clone()).collect();
    assert_eq!(numbers, shard.records[25..].iter().cloned().map(Value::from).collect::<Vec<_>>());
    assert_eq!(app.lines()[0]["sequenceNumber"], shard.records[24], "where the child is told that it begins");
}

/// The first child of all takes 100 records without a checkpoint, and dies.
const HOARDER: &str = r#"
import json, os, sys

def answer(message):
    print(json.dumps(message), flush=True)

first, taken = not os.path.exists(os.environ["OUT"]), 0
with open(os.environ["OUT"], "a", buffering=1) as out:
    for line in sys.stdin:
        request = json.loads(line)
        for record in request.get("records", []):
            record.pop("data")
        out.write(json.dumps(request) + "\n")
        taken += len(request.get("records", []))
        if first and taken >= 100:
            sys.exit(1)
        if request["action"] == "processRecords" and not first:
            answer({"action": "checkpoint", "sequenceNumber": None})
            sys.stdin.readline()
        answer({"action": "status", "responseFor": request["action"]})
"#;

#[test]
fn a_shard_is_read_again_for_a_child_that_died_with_more_than_is_kept() {
    let Some(python) = required_in_ci("SHARDKEEPER_TEST_PYTHON") else { return };
    let command = format!("{} CHILD", python.to_str().expect("a path"));
    let app = Application::new("--shards 1", "child.py", HOARDER, &command);
    let padding = "x".repeat(100_000);
    for n in 0..100 {
        let item = json!({"key": {"S": format!("k{n}")}, "padding": {"S": padding}});
        app.fixture.service.call("PutItem", &json!({"TableName": TABLE, "Item": item}));
    }
    let mut worker = app.worker("w", &[], "");
    worker.wait_for_log("reading the shard again");
    app.fixture.wait_for_checkpoints("audit");
    assert_eq!(worker.stop(), 0);
    let numbers: Vec<Value> = app.records().iter().map(|record| record["sequenceNumber"].clone()).collect();
    assert_eq!(numbers.len(), 200, "each record comes to both children");
    assert_eq!(numbers[..100], numbers[100..], "in the same order");
}

#[test]
fn children_end_when_their_worker_is_killed() {
    let app = Application::new("--shards 2", "child.sh", CHILD, "sh CHILD none");
    app.fixture.service.write(TABLE, &mut Written::default(), 40);
    let mut worker = app.worker("w", &[], "");
    app.wait_for_all();
    assert!(app.children() > 0);
    worker.kill();
    wait_for("the children to end", || app.children() == 0);
}

#[test]
fn the_example_in_python_prints_the_keys_of_each_record() {
    let Some(client) = required_in_ci("SHARDKEEPER_TEST_KCLPY") else { return };
    let example = include_str!("../../examples/multilang/python/processor.py");
    let app = Application::new("--shards 1", "child.py", example, "python3 CHILD");
    app.fixture.service.write(TABLE, &mut Written::default(), 30);
    let mut worker = app.worker("w", &[("PYTHONPATH", client.into_string().expect("a path"))], "");
    worker.wait_for_log("begins after TRIM_HORIZON");
    app.fixture.wait_for_checkpoints("audit");
    assert_eq!(worker.stop(), 0);
    assert_eq!(worker.log().matches("INSERT").count() + worker.log().matches("MODIFY").count(), 30, "{}", worker.log());
}

/// A processor of Amazon's Python client.
const PYTHON: &str = r#"
import json, os, sys
from amazon_kclpy import kcl
from amazon_kclpy.v3 import processor

out = open(os.environ["OUT"], "a", buffering=1)

def write(action, **members):
    out.write(json.dumps(dict(action=action, **members)) + "\n")

class Processor(processor.RecordProcessorBase):
    def initialize(self, input):
        write("initialize", sequenceNumber=input.sequence_number)

    def process_records(self, input):
        write("processRecords", records=[
            {"sequenceNumber": r.sequence_number, "data": r._data if isinstance(r._data, str) else r._data.decode()}
            for r in input.records])
        input.checkpointer.checkpoint(input.records[-1].sequence_number)

    def lease_lost(self, input):
        write("leaseLost")

    def shard_ended(self, input):
        input.checkpointer.checkpoint()
        write("shardEnded")

    def shutdown_requested(self, input):
        input.checkpointer.checkpoint()
        write("shutdownRequested")

kcl.KCLProcess(Processor()).run()
"#;

/// A processor of Amazon's client for Node.
const NODE: &str = r#"
const fs = require('fs');
const kcl = require('aws-kcl');
const out = fs.openSync(process.env.OUT, 'a');
const write = (message) => fs.writeSync(out, JSON.stringify(message) + '\n');

kcl({
  initialize(input, done) { write({action: 'initialize', sequenceNumber: input.sequenceNumber}); done(); },
  processRecords(input, done) {
    write({action: 'processRecords', records: input.records.map(({sequenceNumber, data}) => ({sequenceNumber, data}))});
    input.checkpointer.checkpoint(input.records[input.records.length - 1].sequenceNumber, done);
  },
  leaseLost(input, done) { write({action: 'leaseLost'}); done(); },
  shardEnded(input, done) { input.checkpointer.checkpoint((error) => { write({action: 'shardEnded'}); done(); }); },
  shutdownRequested(input, done) {
    input.checkpointer.checkpoint((error) => { write({action: 'shutdownRequested'}); done(); });
  },
}).run();
"#;

#[test]
fn amazons_python_client_gets_every_record_over_a_split_and_a_hand_off() {
    let Some(client) = required_in_ci("SHARDKEEPER_TEST_KCLPY") else { return };
    let environment = [("PYTHONPATH", client.into_string().expect("a path"))];
    split_and_hand_off(&Application::new("--shards 2", "child.py", PYTHON, "python3 CHILD"), &environment);
}

#[test]
fn amazons_node_client_gets_every_record_over_a_split_and_a_hand_off() {
    let Some(client) = required_in_ci("SHARDKEEPER_TEST_AWS_KCL") else { return };
    let environment = [("NODE_PATH", client.into_string().expect("a path"))];
    split_and_hand_off(&Application::new("--shards 2", "child.js", NODE, "node CHILD"), &environment);
}

fn split_and_hand_off(app: &Application, environment: &[(&str, String)]) {
    let mut written = Written::default();
    app.fixture.service.write(TABLE, &mut written, 200);
    let mut first = app.worker("first", environment, "");
    app.wait_for_all();
    app.fixture.service.change_shards(TABLE, "split");
    app.fixture.service.write(TABLE, &mut written, 200);
    app.wait_for_all();
    let mut second = app.worker("second", environment, "");
    wait_for("the second worker to get a share", || {
        app.fixture.service.leases("audit").values().any(|lease| lease.owner.as_deref() == Some("second"))
    });
    app.fixture.service.write(TABLE, &mut written, 200);
    app.wait_for_all();
    assert_eq!(first.stop(), 0);
    app.fixture.service.write(TABLE, &mut written, 100);
    app.wait_for_all();
    wait_for("everything to be checkpointed", || {
        let (shards, leases) = (app.fixture.service.shards(TABLE), app.fixture.service.leases("audit"));
        shards.iter().all(|shard| {
            let checkpoint = leases.get(&shard.id).map(|lease| lease.checkpoint.as_str());
            checkpoint.is_none_or(|at| at == "SHARD_END" || shard.records.last().is_none_or(|last| last == at))
        })
    });
    assert_eq!(second.stop(), 0);
    let has = |action: &str| app.lines().iter().any(|line| line["action"] == action);
    assert!(has("shardEnded") && has("shutdownRequested") && has("leaseLost"));
    app.assert_in_order();
}
