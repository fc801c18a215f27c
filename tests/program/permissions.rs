//! The policies in deploy/iam are enough, and not more than that: a fleet lives through everything that fleets meet,
//! an operator looks at it and intervenes, and somebody makes its tables, each held to its own policy file.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use aws_sdk_dynamodb::Client as TableClient;
use serde_json::{Value, json};
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::internals::dead_letters::table::DeadLetterTable;

use crate::support::deliveries::Deliveries;
use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::local_service::{LeaseRow, LocalService, Written};
use crate::support::wait::wait_for;
use crate::support::{Finished, finish, sdk, shardkeeper};

/// The application of all workers here.
const APP: &str = "audit";
const QUICK: &str = "--lease-duration 2s --idle-poll 100ms --checkpoint-interval 500ms";

#[test]
fn a_fleet_needs_exactly_what_the_workers_policy_allows_and_an_operator_the_operators() {
    let fixture = Fixture::new("--shards 4");
    hold_to_policies(&fixture.service, &["worker", "operator", "table-creator"], APP);
    make_tables(&fixture.service);
    let mut deliveries = fixture.deliveries(APP);
    let mut written = Written::default();
    live_through_everything(&fixture, &mut deliveries, &mut written);
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));

    let stats = fixture.service.stats();
    for caller in ["worker", "operator", "table-creator"] {
        assert_eq!(unused(&stats, caller, &policy(caller, APP)), BTreeSet::<String>::new(), "allowed to the {caller}");
    }
    let is_denied = |(_, codes): (&String, &Value)| codes.get("AccessDeniedException").is_some();
    assert!(!stats["errors"].as_object().expect("counts").iter().any(is_denied), "{}", stats["errors"]);
}

#[test]
fn a_worker_may_make_its_tables_itself_with_both_policies_and_without_them_says_what_is_missing() {
    let fixture = Fixture::new("--shards 2");
    let mut both = policy("worker", APP);
    let creator = policy("table-creator", APP);
    let more = creator["Statement"].as_array().expect("statements").clone();
    both["Statement"].as_array_mut().expect("statements").extend(more);
    let poor = policy("worker", APP);
    fixture.service.faults(&json!({"policies": {"both": both, "poor": poor, "nobody": {"Statement": []}}}));

    let nobody = run_once(&fixture, "nobody");
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("dynamodb:DescribeTable"), "{}", nobody.stderr);
    let poor = run_once(&fixture, "poor");
    assert_eq!(poor.code, 1);
    assert!(poor.stderr.contains("dynamodb:CreateTable"), "{}", poor.stderr);
    let both = run_once(&fixture, "both");
    assert_eq!(both.code, 0, "{}", both.stderr);
    assert!(fixture.service.leases(APP).len() == 2);
}

#[tokio::test]
async fn dead_letters_need_exactly_what_their_policy_allows() {
    const CALLER: &str = "dead-letters";
    let fixture = Fixture::empty("");
    make_tables(&fixture.service);
    hold_to_policies(&fixture.service, &[CALLER], APP);
    let table = DeadLetterTable::new(TableClient::new(&sdk::config_of(CALLER, &fixture.service.url())), APP);
    table.ensure(false).await.expect("it is there");
    for number in 1..=3 {
        let record = format!(r#"{{"dynamodb":{{"SequenceNumber":"{number}"}},"x":"{}"}}"#, "y".repeat(400_000));
        let position = number.to_string().parse().expect("a sequence number");
        let letter = DeadLetter::new("arn:x", "shardId-1".into(), position, record, "no", 1);
        for _ in 0..2 {
            table.put(&letter).await.expect("it is kept");
        }
    }
    for line in
        ["list", "show shardId-1/2", "replay shardId-1/1 --to null", "replay --all --to null", "purge --all --yes"]
    {
        let mut command = shardkeeper();
        command.env("AWS_ACCESS_KEY_ID", CALLER).env("AWS_SECRET_ACCESS_KEY", CALLER).arg("dead-letters");
        let command = command.args(line.split(' ')).args(["--app", APP, "--endpoint-url", &fixture.service.url()]);
        let finished = finish(command.stdin(Stdio::null()));
        assert_eq!(finished.code, 0, "{line}: {}", finished.stderr);
    }
    let stats = fixture.service.stats();
    assert_eq!(unused(&stats, CALLER, &policy(CALLER, APP)), BTreeSet::<String>::new());
}

/// Puts each caller, named like its policy's file, under that policy.
fn hold_to_policies(service: &LocalService, names: &[&str], app: &str) {
    let policies: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), policy(name, app))).collect();
    service.faults(&json!({"policies": policies}));
}

/// A policy's file, for the local service's region and account.
fn policy(name: &str, app: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/iam").join(format!("{name}.json"));
    let mut text = std::fs::read_to_string(path).expect("the policy's file");
    let values = [("AWS_REGION", "us-east-1"), ("AWS_ACCOUNT_ID", "000000000000"), ("TABLE", TABLE), ("APP", app)];
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    assert!(!text.contains("${"), "a name that this test does not know: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Actions that the policy allows and the caller never needed.
fn unused(stats: &Value, caller: &str, policy: &Value) -> BTreeSet<String> {
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        list.iter().map(|word| word.as_str().expect("a string").to_owned()).collect()
    };
    let mut unused = BTreeSet::new();
    for statement in policy["Statement"].as_array().expect("statements") {
        for action in strings(&statement["Action"]) {
            let used: Vec<&str> =
                stats["actions"][caller][&action].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for resource in strings(&statement["Resource"]) {
                let is_meant = |arn: &&str| match resource.strip_suffix('*') {
                    Some(start) => arn.starts_with(start),
                    None => **arn == resource,
                };
                if !used.iter().any(is_meant) {
                    unused.insert(format!("{action} on {resource}"));
                }
            }
        }
    }
    unused
}

/// The table creator's steps in docs/kubernetes.md: make the tables, and wait until they can be used.
fn make_tables(service: &LocalService) {
    for (suffix, keys) in [("", vec!["leaseKey"]), ("-Fleet", vec!["key"]), ("-DeadLetters", vec!["shard", "position"])]
    {
        let table = format!("{APP}{suffix}");
        let attributes = keys.iter().map(|key| json!({"AttributeName": key, "AttributeType": "S"}));
        let schema = keys.iter().zip(["HASH", "RANGE"]);
        let request = json!({
            "TableName": table,
            "AttributeDefinitions": attributes.collect::<Vec<Value>>(),
            "KeySchema": schema.map(|(key, kind)| json!({"AttributeName": key, "KeyType": kind})).collect::<Vec<Value>>(),
            "BillingMode": "PAY_PER_REQUEST",
        });
        service.call_as("table-creator", "CreateTable", &request).expect("the table is made");
        wait_for("the table to be active", || {
            let described = service.call_as("table-creator", "DescribeTable", &json!({"TableName": table}));
            described.expect("the table is described")["Table"]["TableStatus"] == "ACTIVE"
        });
    }
}

/// Start, new shards, a hand-off, a worker's leaving, its death, an operator's visit, the clean-up.
fn live_through_everything(fixture: &Fixture, deliveries: &mut Deliveries, written: &mut Written) {
    let mut first = worker(fixture, "w-1", deliveries);
    fixture.service.write(TABLE, written, 400);
    deliveries.wait_for_all(written);
    let mut second = worker(fixture, "w-2", deliveries);
    wait_for("two shards each", || owners(fixture) == [("w-1".to_owned(), 2), ("w-2".to_owned(), 2)]);
    for action in ["split", "rollover"] {
        fixture.service.change_shards(TABLE, action);
        fixture.service.write(TABLE, written, 400);
        deliveries.wait_for_all(written);
    }
    second.kill();
    operate_on_the_dead(fixture, "w-2");
    wait_for("the survivor to have all", || owners(fixture) == [("w-1".to_owned(), 8)]);
    assert_eq!(first.stop(), 0);

    let mut first = worker(fixture, "w-1", deliveries);
    wait_for("finished leases to be deleted", || {
        let lease_table = json!(format!("arn:aws:dynamodb:us-east-1:000000000000:table/{APP}"));
        let deleted = &fixture.service.stats()["actions"]["worker"]["dynamodb:DeleteItem"];
        deleted.as_array().is_some_and(|tables| tables.contains(&lease_table))
    });
    let mut third = worker(fixture, "w-3", deliveries);
    wait_for("four shards each", || owners(fixture) == [("w-1".to_owned(), 4), ("w-3".to_owned(), 4)]);
    let shards = fixture.service.leases(APP);
    let is_read = |row: &LeaseRow| row.owner.as_deref() == Some("w-1") && row.checkpoint != "SHARD_END";
    let shard = shards.iter().find(|(_, row)| is_read(row)).expect("w-1 has four").0;
    let assigned = operator(fixture, &format!("lease assign --app {APP} --to w-3 --yes {shard}"));
    assert_eq!(assigned.code, 0, "{}", assigned.stderr);
    fixture.service.write(TABLE, written, 400);
    deliveries.wait_for_all(written);
    assert_eq!([first.stop(), third.stop()], [0, 0]);
    replace_a_kcl_fleet(fixture, deliveries);
}

/// A KCL worker's name is in the rows: its own tables are looked at, though they are not there.
fn replace_a_kcl_fleet(fixture: &Fixture, deliveries: &Deliveries) {
    let rows = fixture.service.leases(APP);
    let unfinished = rows.iter().find(|(_, row)| row.checkpoint != "SHARD_END").expect("shards are open").0;
    let request = json!({
        "TableName": APP,
        "Key": {"leaseKey": {"S": unfinished}},
        "UpdateExpression": "SET leaseOwner = :kcl",
        "ExpressionAttributeValues": {":kcl": {"S": "kcl-gone-1"}},
    });
    fixture.service.call("UpdateItem", &request);
    let checked = finish(worker_command().args(line_of(fixture, "check", "w-1")).stdin(Stdio::null()));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    assert!(!checked.stdout.contains("is refused"), "{}", checked.stdout);
    let status = operator(fixture, &format!("status --app {APP}"));
    assert!(status.stdout.contains("kcl-gone-1") && !status.stdout.contains("could not be read"), "{}", status.stdout);
    let mut first = worker(fixture, "w-1", deliveries);
    wait_for("the KCL worker's lease to be taken over", || owners(fixture) == [("w-1".to_owned(), 8)]);
    assert!(!first.log().contains("cannot be read"), "{}", first.log());
    assert_eq!(first.stop(), 0);
}

/// An operator looks, takes a dead worker's lease from it and has some of its shard delivered again.
fn operate_on_the_dead(fixture: &Fixture, dead: &str) {
    for line in [format!("status --app {APP}"), format!("status --app {APP} --table {TABLE} --json")] {
        let status = operator(fixture, &line);
        assert_eq!(status.code, 0, "{}", status.stderr);
        assert!(status.stdout.contains(dead), "{}", status.stdout);
        assert!(!status.stdout.contains("could not be listed"), "{}", status.stdout);
    }
    let rows = fixture.service.leases(APP);
    let finished = rows.iter().find(|(_, row)| row.checkpoint == "SHARD_END").expect("shards were split").0;
    let records = &fixture.service.shards(TABLE);
    let records = &records.iter().find(|shard| shard.id == *finished).expect("it is still there").records;
    let place = &records[records.len() / 2];
    let reset = operator(fixture, &format!("lease reset --app {APP} --at {place} --yes {finished}"));
    assert_eq!(reset.code, 0, "{}", reset.stderr);
}

fn owners(fixture: &Fixture) -> Vec<(String, usize)> {
    fixture.service.shares(APP).into_iter().collect()
}

/// A worker that may do what the worker's policy allows, and makes no tables.
fn worker(fixture: &Fixture, id: &str, deliveries: &Deliveries) -> Worker {
    let mut command = worker_command();
    command.args(line_of(fixture, "run", id)).stdout(deliveries.stdout());
    Worker::start(&mut command, id, fixture.log(id))
}

fn worker_command() -> Command {
    let mut command = shardkeeper();
    command.env("AWS_ACCESS_KEY_ID", "worker").env("AWS_SECRET_ACCESS_KEY", "worker");
    command
}

/// A worker's command line, for `run` or `check`.
fn line_of(fixture: &Fixture, subcommand: &str, id: &str) -> Vec<String> {
    let url = fixture.service.url();
    let options = format!("--table {TABLE} --app {APP} --worker-id {id} --endpoint-url {url} --no-create-tables");
    let line = format!("{subcommand} {options} --kcl-failover-time 2s {QUICK}");
    line.split_whitespace().map(str::to_owned).collect()
}

/// A worker that ends with what is there, with another's permissions.
fn run_once(fixture: &Fixture, caller: &str) -> Finished {
    let url = fixture.service.url();
    let line = format!("run --table {TABLE} --app {APP} --endpoint-url {url} --until-caught-up --to null {QUICK}");
    let mut command = shardkeeper();
    command.env("AWS_ACCESS_KEY_ID", caller).env("AWS_SECRET_ACCESS_KEY", caller);
    finish(command.args(line.split_whitespace()).stdin(Stdio::null()))
}

fn operator(fixture: &Fixture, line: &str) -> Finished {
    let mut command = shardkeeper();
    command.env("AWS_ACCESS_KEY_ID", "operator").env("AWS_SECRET_ACCESS_KEY", "operator");
    let command = command.args(line.split_whitespace()).args(["--endpoint-url", &fixture.service.url()]);
    finish(command.args(["--lease-duration", "2s"]).stdin(Stdio::null()))
}
