//! A lease table that a fleet of the Kinesis Client Library left behind: the worker resumes at each checkpoint and
//! leaves alone what is not its own. While a KCL worker is alive on the table, it says which, and stops.
//!
//! The rows are as KCL 3.5 writes them (`DynamoDBLeaseSerializer`), with all that it may leave: owners that no longer
//! live, a hand-off that never ended, prepared checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{call, good, send};
use crate::support::program::{Ended, Program, environment};
use crate::support::services::Service;
use crate::support::wait::{eventually, now};

const TABLE: &str = "Phones";
const APP: &str = "kcl-application";

/// A record as the tests need it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    key: String,
    sequence: String,
}

/// A shard and its records, in their order.
type Shards = BTreeMap<String, Vec<Written>>;

#[test]
fn the_worker_goes_on_from_each_checkpoint_that_kcl_left() {
    let service = Service::shardkeeper_local("--shards 3");
    let at = service.address;
    let stream = create_table(at);
    let keys: Vec<String> = (0..40).map(|index| format!("key-{index}")).collect();
    put(at, &keys, 1);
    let parents = read_shards(at, &stream);
    assert_eq!(parents.len(), 3);
    assert!(parents.values().all(|records| records.len() >= 4), "40 keys leave no shard bare: {parents:?}");
    roll_over(at);
    let [finished, half_read, quiet] = [0, 1, 2].map(|index| parents.keys().nth(index).unwrap().clone());
    // Of the third lineage nothing is written after the roll-over: its child stays at TRIM_HORIZON.
    let busy: Vec<String> = [&finished, &half_read]
        .into_iter()
        .flat_map(|shard| &parents[shard])
        .map(|record| record.key.clone())
        .collect();
    put(at, &busy, 2);
    let all = read_shards(at, &stream);
    let children = children(at, &stream);
    let [finished_child, half_read_child, quiet_child] =
        [&finished, &half_read, &quiet].map(|parent| children[parent].clone());

    create_lease_table(at);
    let shard_end = |key: &str, child: &str| {
        let mut row = lease(key, "SHARD_END", Some("kcl-gone-1"));
        row["childShardIds"] = json!({"SS": [child]});
        row["throughputKBps"] = json!({"N": "1.2E-4"});
        row
    };
    let mut moved = lease(&finished_child, &all[&finished_child][2].sequence, Some("kcl-gone-2"));
    moved["parentShardId"] = json!({"SS": [finished]});
    moved["checkpointOwner"] = json!({"S": "kcl-gone-1"});
    let mut prepared = lease(&half_read, &all[&half_read][1].sequence, Some("kcl-gone-1"));
    prepared["pendingCheckpoint"] = json!({"S": all[&half_read][2].sequence});
    prepared["pendingCheckpointSubSequenceNumber"] = json!({"N": "0"});
    prepared["pendingCheckpointState"] = json!({"B": "c3RhdGU="});
    let mut waiting = lease(&half_read_child, "TRIM_HORIZON", None);
    waiting["parentShardId"] = json!({"SS": [half_read]});
    let mut untouched = lease(&quiet_child, "TRIM_HORIZON", None);
    untouched["parentShardId"] = json!({"SS": [quiet]});
    let rows =
        [shard_end(&finished, &finished_child), shard_end(&quiet, &quiet_child), moved, prepared, waiting, untouched];
    rows.iter().for_each(|row| put_row(at, row));
    let before = lease_rows(at);

    let ended = run(&service);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let delivered: Vec<String> = ended.out.iter().map(|line| sequence(&serde_json::from_str(line).unwrap())).collect();
    let rest = |shard: &str, skip: usize| all[shard][skip..].iter().map(|record| record.sequence.clone());
    let wanted: BTreeSet<String> =
        rest(&half_read, 2).chain(rest(&half_read_child, 0)).chain(rest(&finished_child, 3)).collect();
    assert_eq!(delivered.iter().cloned().collect::<BTreeSet<_>>(), wanted, "{}", ended.log);
    assert_eq!(delivered.len(), wanted.len(), "nothing twice: {delivered:?}");
    let place = |sequence: &String| delivered.iter().position(|found| found == sequence).unwrap();
    let last_of_parent = rest(&half_read, 2).map(|sequence| place(&sequence)).max().unwrap();
    assert!(rest(&half_read_child, 0).all(|sequence| place(&sequence) > last_of_parent), "no child before its parent");

    let after = lease_rows(at);
    // KCL keeps a finished lease while a child of it stands at TRIM_HORIZON, and never deletes unfinished ones.
    for key in [&quiet, &finished_child, &half_read_child, &quiet_child] {
        assert!(after.contains_key(key), "the lease of {key} is gone: {after:#?}");
    }
    assert_eq!(after[&quiet], before[&quiet], "a finished lease needs no write");
    check_foreign_attributes(&before, &after);
    let last = |shard: &str| json!({"S": all[shard].last().unwrap().sequence});
    assert_eq!(after[&finished_child]["checkpoint"], last(&finished_child));
    assert_eq!(after[&half_read_child]["checkpoint"], last(&half_read_child));
    assert_eq!(after[&quiet_child]["checkpoint"], json!({"S": "TRIM_HORIZON"}));
    assert_eq!(after[&finished_child].get("checkpointOwner"), None, "the hand-off is over");
    if let Some(row) = after.get(&half_read) {
        assert_eq!(row["checkpoint"], json!({"S": "SHARD_END"}));
        assert_eq!(row["childShardIds"], json!({"SS": [half_read_child]}));
    }
}

#[test]
fn on_dynamodb_local_the_worker_goes_on_from_the_checkpoint_that_kcl_left() {
    let Some(service) = Service::dynamodb_local() else { return };
    let (before, shard, records) = one_lease(&service, "kcl-gone-1");
    let ended = run(&service);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let delivered: Vec<String> = ended.out.iter().map(|line| sequence(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(delivered, [&records[2].sequence, &records[3].sequence, &records[4].sequence].map(String::clone));
    let after = lease_rows(service.address);
    check_foreign_attributes(&before, &after);
    assert_eq!(after[&shard]["checkpoint"], json!({"S": records[4].sequence}));
}

#[test]
fn a_living_kcl_worker_is_named_and_left_alone() {
    check_living_kcl_worker(&Service::shardkeeper_local("--shards 1"));
}

#[test]
fn a_living_kcl_worker_on_dynamodb_local_is_named_and_left_alone() {
    if let Some(service) = Service::dynamodb_local() {
        check_living_kcl_worker(&service);
    }
}

fn check_living_kcl_worker(service: &Service) {
    let at = service.address;
    let (before, shard, _) = one_lease(service, "kcl-alive-7");
    let line = format!("run --table {TABLE} --app {APP}");
    let ended = while_renewed(at, &shard, || Program::start(&environment(&service.url()), &line).end());
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("kcl-alive-7"), "{}", ended.log);
    assert_eq!(ended.out, Vec::<String>::new());
    let without_counter = |mut rows: BTreeMap<String, Value>| {
        rows.values_mut().for_each(|row| row["leaseCounter"] = Value::Null);
        rows
    };
    assert_eq!(without_counter(lease_rows(at)), without_counter(before), "the worker changed the lease table");
}

#[test]
fn status_shows_kcl_workers_their_leases_and_that_the_fleet_left_for_them() {
    let service = Service::shardkeeper_local("--shards 1");
    let at = service.address;
    let (_, shard, _) = one_lease(&service, "kcl-alive-7");
    let status = |flags: &str| -> String {
        let ended = Program::start(&environment(&service.url()), &format!("status --app {APP} {flags}")).end();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        ended.out.join("\n")
    };
    let json_status = || -> Value { serde_json::from_str(&status("--json")).expect("JSON") };
    let line = format!("run --table {TABLE} --app {APP}");
    let (ended, shown, text) = while_renewed(at, &shard, || {
        let ended = Program::start(&environment(&service.url()), &line).end();
        (ended, json_status(), status(""))
    });
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    let worker = |id: &str, is_alive: bool, is_leader: bool, metrics: Value, shards: &[&str]| json!({"id": id, "is_alive": is_alive, "is_leader": is_leader, "last_metrics_ms": metrics, "shards": shards});
    assert_eq!(shown["kcl_workers"], json!([worker("kcl-alive-7", true, false, Value::Null, &[&shard])]));
    assert_eq!((&shown["shards"][0]["state"], &shown["waits"]), (&json!("reading"), &json!([])), "{shown}");
    assert_eq!(shown["left_for_kcl"]["worker"], "kcl-alive-7", "{shown}");
    assert_eq!(shown["left_for_kcl"]["shard"], shard.as_str());
    assert!(shown["left_for_kcl"]["at_ms"].as_u64().is_some_and(|at_ms| at_ms.abs_diff(now_ms()) < 120_000), "{shown}");
    assert!(text.contains("ago, because KCL worker kcl-alive-7 was alive"), "{text}");
    assert!(text.contains("whose workers are alive: kcl-alive-7") && !text.contains("nothing is read"), "{text}");

    // Its leases are quiet now, and another worker leads, as its metrics and its lock tell.
    write_signs(at, "kcl-leader-1", now_ms() / 1000);
    let shown = json_status();
    let metrics = json!(now_ms() / 1000 * 1000);
    let leader = &shown["kcl_workers"][1];
    assert_eq!(shown["kcl_workers"][0], worker("kcl-alive-7", false, false, Value::Null, &[&shard]));
    assert_eq!(
        (&leader["is_alive"], &leader["is_leader"], &leader["shards"]),
        (&json!(true), &json!(true), &json!([]))
    );
    assert!(leader["last_metrics_ms"].as_u64() <= metrics.as_u64(), "{shown}");
    assert_eq!(shown["shards"][0]["state"], "owner_silent", "{shown}");
    write_signs(at, "kcl-leader-1", now_ms() / 1000 - 100);
    let text = status("");
    assert!(text.contains("nothing is read") && !text.contains("are alive"), "{text}");
}

#[test]
fn a_kcl_fleet_that_writes_its_metrics_is_found_however_quiet_its_leases_are() {
    let service = Service::shardkeeper_local("--shards 1");
    let at = service.address;
    let (before, _, _) = one_lease(&service, "kcl-quiet-1");
    let metrics = format!("{APP}-WorkerMetricStats");
    create_keyed_table(at, &metrics, "wid");
    let report = |second: u64| {
        let row = json!({"wid": {"S": "kcl-quiet-1"}, "lut": {"N": second.to_string()}, "sts": {"M": {}}});
        good(at, "PutItem", &json!({"TableName": metrics, "Item": row}));
    };
    let start = now_ms() / 1000;
    report(start);
    let line = format!("run --table {TABLE} --app {APP} --kcl-failover-time 1s");
    let worker = Program::start(&environment(&service.url()), &line);
    let ended = std::thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        scope.spawn(move || {
            // Every 30 s in KCL.
            for second in 1.. {
                if stopped.recv_timeout(Duration::from_secs(3)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                report(start + second * 3);
            }
        });
        let ended = worker.end();
        drop(stop);
        ended
    });
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("kcl-quiet-1"), "{}", ended.log);
    assert_eq!(lease_rows(at), before, "the worker changed the lease table");
}

#[test]
fn a_kcl_leader_that_was_killed_holds_up_nothing_by_what_it_left() {
    let service = Service::shardkeeper_local("--shards 1");
    let at = service.address;
    let (_, _, records) = one_lease(&service, "kcl-gone-1");
    write_signs(at, "kcl-gone-1", 1_764_000_000);
    let ended = run(&service);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(ended.out.len(), records.len() - 2, "{}", ended.log);
}

#[test]
fn a_fleet_whose_leases_kcl_takes_leaves_together_and_lets_go_of_the_rest() {
    let service = Service::shardkeeper_local("--shards 4");
    let at = service.address;
    create_table(at);
    let line = format!("run --table {TABLE} --app {APP} --kcl-failover-time 3s --lease-duration 1s --worker-id");
    let workers = ["one", "two"].map(|id| Program::start(&environment(&service.url()), &format!("{line} {id}")));
    let owners = || -> BTreeSet<String> {
        let owner = |row: &Value| row["leaseOwner"]["S"].as_str().unwrap_or_default().to_owned();
        if call(at, "Scan", &json!({"TableName": APP})).status != 200 {
            return BTreeSet::new();
        }
        lease_rows(at).values().map(owner).collect()
    };
    eventually("both workers hold leases", || (owners() == ["one", "two"].map(str::to_owned).into()).then_some(()));
    let taken = lease_rows(at).into_keys().next().expect("a lease");
    let request = json!({
        "TableName": APP,
        "Key": {"leaseKey": {"S": taken}},
        "UpdateExpression": "SET leaseOwner = :owner ADD leaseCounter :one, ownerSwitchesSinceCheckpoint :one REMOVE checkpointOwner",
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":owner": {"S": "kcl-taker"}},
    });
    good(at, "UpdateItem", &request);
    for worker in workers {
        let ended = worker.end();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        assert!(ended.log.contains("kcl-taker"), "{}", ended.log);
    }
    for (key, row) in lease_rows(at) {
        let owner = (key == taken).then(|| json!({"S": "kcl-taker"}));
        assert_eq!(row.get("leaseOwner").cloned(), owner, "{key}");
    }
    let fleet = good(at, "Scan", &json!({"TableName": format!("{APP}-Fleet"), "ConsistentRead": true}));
    let items = fleet["Items"].as_array().expect("items");
    let workers = items.iter().filter(|item| item["key"]["S"].as_str().is_some_and(|key| key.starts_with("worker/")));
    assert_eq!(workers.count(), 0, "each says goodbye: {items:?}");
}

/// Five records in a shard and its lease, two records on, held by `owner`.
fn one_lease(service: &Service, owner: &str) -> (BTreeMap<String, Value>, String, Vec<Written>) {
    let at = service.address;
    let stream = create_table(at);
    put(at, &["a", "b", "c", "d", "e"].map(str::to_owned), 1);
    let (shard, records) = read_shards(at, &stream).pop_first().expect("a shard");
    create_lease_table(at);
    let mut row = lease(&shard, &records[1].sequence, Some(owner));
    row["throughputKBps"] = json!({"N": "0.25"});
    row["pendingCheckpoint"] = json!({"S": records[2].sequence});
    row["pendingCheckpointSubSequenceNumber"] = json!({"N": "0"});
    row["pendingCheckpointState"] = json!({"B": "c3RhdGU="});
    put_row(at, &row);
    (lease_rows(at), shard, records)
}

/// Reads all that is in the stream and ends.
fn run(service: &Service) -> Ended {
    let line = format!("run --table {TABLE} --app {APP} --kcl-failover-time 2s --until-caught-up");
    Program::start(&environment(&service.url()), &line).end()
}

/// Checks that attributes foreign to shardkeeper are unchanged in each row that is still there, but for a prepared
/// checkpoint that the checkpoint has passed.
fn check_foreign_attributes(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) {
    const FOREIGN: [&str; 6] =
        ["leaseKey", "entityType", "startingHashKey", "endingHashKey", "parentShardId", "checkpointSubSequenceNumber"];
    const PENDING: [&str; 3] = ["pendingCheckpoint", "pendingCheckpointSubSequenceNumber", "pendingCheckpointState"];
    for (key, row) in after {
        for name in FOREIGN {
            assert_eq!(row.get(name), before[key].get(name), "{name} of {key}");
        }
        let is_passed = row["checkpoint"] != before[key]["checkpoint"];
        for name in PENDING {
            assert_eq!(row.get(name), before[key].get(name).filter(|_| !is_passed), "{name} of {key}");
        }
    }
}

// The lease table, as KCL writes it.

fn create_lease_table(at: SocketAddr) {
    create_keyed_table(at, APP, "leaseKey");
}

pub fn create_keyed_table(at: SocketAddr, name: &str, key: &str) {
    let request = json!({
        "TableName": name,
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    });
    good(at, "CreateTable", &request);
}

/// The attributes that every lease of KCL 3.5 has.
pub fn lease(key: &str, checkpoint: &str, owner: Option<&str>) -> Value {
    let mut row = json!({
        "leaseKey": {"S": key},
        "leaseCounter": {"N": "17"},
        "ownerSwitchesSinceCheckpoint": {"N": "0"},
        "checkpoint": {"S": checkpoint},
        "checkpointSubSequenceNumber": {"N": "0"},
        "startingHashKey": {"S": "0"},
        "endingHashKey": {"S": "1"},
        "entityType": {"S": "LEASE"},
    });
    if let Some(owner) = owner {
        row["leaseOwner"] = json!({"S": owner});
    }
    row
}

fn put_row(at: SocketAddr, row: &Value) {
    good(at, "PutItem", &json!({"TableName": APP, "Item": row}));
}

/// Runs `work` while a KCL worker renews a lease: every tenth of a second, not every 3.3 s.
fn while_renewed<T>(at: SocketAddr, key: &str, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        scope.spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                renew(at, key);
            }
        });
        let outcome = work();
        // Its end, also by a panic, ends the renewals.
        drop(stop);
        outcome
    })
}

/// Writes what a KCL 3 worker that leads writes apart from its leases: its metrics, at a time (s), and its lock.
fn write_signs(at: SocketAddr, worker: &str, written_s: u64) {
    let (metrics, coordination) = (format!("{APP}-WorkerMetricStats"), format!("{APP}-CoordinatorState"));
    for (table, key) in [(&metrics, "wid"), (&coordination, "key")] {
        if call(at, "DescribeTable", &json!({"TableName": table})).status != 200 {
            create_keyed_table(at, table, key);
        }
    }
    let sign = json!({"wid": {"S": worker}, "lut": {"N": written_s.to_string()}, "sts": {"M": {}}, "opr": {"M": {}}});
    good(at, "PutItem", &json!({"TableName": metrics, "Item": sign}));
    let lock = json!({
        "key": {"S": "Leader"},
        "ownerName": {"S": worker},
        "recordVersionNumber": {"S": "0f6a1c6e-9a8b-4e0e-8a57-2f5a3f4b6c11"},
        "leaseDuration": {"S": "120000"},
    });
    good(at, "PutItem", &json!({"TableName": coordination, "Item": lock}));
}

fn now_ms() -> u64 {
    let since = now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    u64::try_from(since.as_millis()).expect("milliseconds")
}

/// Renews a lease as a KCL worker does.
fn renew(at: SocketAddr, key: &str) {
    let request = json!({
        "TableName": APP,
        "Key": {"leaseKey": {"S": key}},
        "UpdateExpression": "ADD leaseCounter :one",
        "ExpressionAttributeValues": {":one": {"N": "1"}},
    });
    good(at, "UpdateItem", &request);
}

fn lease_rows(at: SocketAddr) -> BTreeMap<String, Value> {
    let page = good(at, "Scan", &json!({"TableName": APP, "ConsistentRead": true}));
    let rows = page["Items"].as_array().expect("rows");
    rows.iter().map(|row| (row["leaseKey"]["S"].as_str().expect("a key").to_owned(), row.clone())).collect()
}

// The table and its stream.

/// Makes the table; answers its stream's ARN.
fn create_table(at: SocketAddr) -> String {
    let request = json!({
        "TableName": TABLE,
        "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
        "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
    });
    let answer = good(at, "CreateTable", &request);
    answer["TableDescription"]["LatestStreamArn"].as_str().expect("a stream").to_owned()
}

fn put(at: SocketAddr, keys: &[String], version: u32) {
    for key in keys {
        let item = json!({"k": {"S": key}, "version": {"N": version.to_string()}});
        good(at, "PutItem", &json!({"TableName": TABLE, "Item": item}));
    }
}

/// Closes every open shard, each followed by one child.
fn roll_over(at: SocketAddr) {
    let body = json!({"table": TABLE, "action": "rollover"}).to_string();
    let answer = send(at, "POST", "/_local/streams", "", &body).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn describe(at: SocketAddr, stream: &str) -> Vec<Value> {
    let answer = good(at, "DescribeStream", &json!({"StreamArn": stream}));
    answer["StreamDescription"]["Shards"].as_array().expect("shards").clone()
}

fn shard_id(shard: &Value) -> String {
    shard["ShardId"].as_str().expect("an id").to_owned()
}

fn children(at: SocketAddr, stream: &str) -> BTreeMap<String, String> {
    let shards = describe(at, stream);
    let with_parent = shards.iter().filter_map(|shard| Some((shard["ParentShardId"].as_str()?, shard)));
    with_parent.map(|(parent, shard)| (parent.to_owned(), shard_id(shard))).collect()
}

fn read_shards(at: SocketAddr, stream: &str) -> Shards {
    describe(at, stream).iter().map(|shard| (shard_id(shard), read_shard(at, stream, &shard_id(shard)))).collect()
}

/// The first page of a shard, which holds all that a test writes; DynamoDB Local may need a moment to have it there.
fn read_shard(at: SocketAddr, stream: &str, shard: &str) -> Vec<Written> {
    let request = json!({"StreamArn": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
    let iterator = good(at, "GetShardIterator", &request);
    let answer = eventually("a page is read", || {
        let answer = call(at, "GetRecords", &json!({"ShardIterator": iterator["ShardIterator"]}));
        (answer.status == 200).then_some(answer.body)
    });
    let records = answer["Records"].as_array().expect("records");
    let key = |record: &Value| record["dynamodb"]["Keys"]["k"]["S"].as_str().expect("a key").to_owned();
    records.iter().map(|record| Written { key: key(record), sequence: sequence(record) }).collect()
}

fn sequence(record: &Value) -> String {
    record["dynamodb"]["SequenceNumber"].as_str().expect("a sequence number").to_owned()
}
