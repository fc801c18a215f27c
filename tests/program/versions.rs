//! Two versions in one fleet: this one beside rows as 0.1.0 wrote them. tests/data/record_version.py recorded them from
//! workers of that version, while they read, during a hand-off, and after they had left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::{LocalService, ShardContent, Written};
use crate::support::wait::{now, pause, wait_for};

const APP: &str = "app";
/// The worker of the last version that had all leases.
const OLD: &str = "old-1";
/// Records that the recorded workers had checkpointed.
const READ: usize = 80;

fn recorded() -> Value {
    serde_json::from_str(include_str!("../data/last_version.json")).expect("JSON")
}

/// The rows of a recorded moment, for the shards and the stream of another service that holds the same records.
fn rows(moment: &str, service: &LocalService) -> (Vec<Value>, Vec<Value>) {
    let recorded = recorded();
    let mut text = recorded[moment].to_string();
    // The keys lie in the shards as they did then, and each shard has another number of them.
    let mut shards = service.shards(TABLE);
    shards.sort_by_key(|shard| shard.records.len());
    let records = recorded["records"].as_object().expect("records by shard");
    let mut then: Vec<(&String, &Vec<Value>)> =
        records.iter().map(|(shard, positions)| (shard, positions.as_array().expect("records"))).collect();
    then.sort_by_key(|(_, positions)| positions.len());
    assert_eq!(shards.len(), then.len());
    for ((shard, positions), ShardContent { id, records, .. }) in then.into_iter().zip(&shards) {
        for (then, now) in positions.iter().zip(records) {
            text = text.replace(&then.to_string(), &json!(now).to_string());
        }
        text = text.replace(&json!(shard).to_string(), &json!(id).to_string());
    }
    text = text.replace(&recorded["stream"].to_string(), &json!(service.stream_arn(TABLE)).to_string());
    let mut rows: Value = serde_json::from_str(&text).expect("JSON");
    // The application began to read now, not on the day of the record.
    let started = now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    for row in rows["fleet"].as_array_mut().expect("rows").iter_mut().filter(|row| row["key"]["S"] == "leader") {
        row["startedAt"]["N"] = started.to_string().into();
    }
    let list = |name: &str| rows[name].as_array().expect("rows").clone();
    (list("leases"), list("fleet"))
}

fn put(service: &LocalService, leases: &[Value], fleet: &[Value]) {
    for (table, key, rows) in [(APP, "leaseKey", leases), ("app-Fleet", "key", fleet)] {
        service.call(
            "CreateTable",
            &json!({
                "TableName": table, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
            }),
        );
        for row in rows {
            service.call("PutItem", &json!({"TableName": table, "Item": row}));
        }
    }
}

fn scan(service: &LocalService, table: &str) -> Vec<Value> {
    let answer = service.call("Scan", &json!({"TableName": table, "ConsistentRead": true}));
    answer["Items"].as_array().expect("items").clone()
}

fn named<'a>(rows: &'a [Value], key: &str, name: &str) -> &'a Value {
    rows.iter().find(|row| row[key]["S"] == name).unwrap_or_else(|| panic!("{name} is not in {rows:?}"))
}

/// The attributes of a row with their types.
fn attributes(row: &Value) -> BTreeSet<(String, String)> {
    let kind = |value: &Value| value.as_object().and_then(|kinds| kinds.keys().next().cloned()).unwrap_or_default();
    row.as_object().expect("a row").iter().map(|(name, value)| (name.clone(), kind(value))).collect()
}

#[test]
fn a_worker_continues_where_workers_of_the_last_version_died_handed_off_or_left() {
    for moment in ["reading", "moving", "left"] {
        let fixture = Fixture::new("--shards 4");
        let mut written = Written::default();
        fixture.service.write(TABLE, &mut written, READ);
        let mut deliveries = fixture.deliveries(APP);
        deliveries.begin_after(&written);
        fixture.service.write(TABLE, &mut written, 40);
        let (leases, fleet) = rows(moment, &fixture.service);
        assert_eq!(leases.len(), 4);
        put(&fixture.service, &leases, &fleet);
        let is_at = |row: &Value, shard: &ShardContent| {
            row["checkpoint"]["S"].as_str() == shard.records.last().map(|last| &**last)
        };
        let is_read =
            fixture.service.shards(TABLE).iter().all(|shard| is_at(named(&leases, "leaseKey", &shard.id), shard));
        assert_eq!(is_read, moment == "left", "{moment}: the workers that left had read all");

        let mut worker = fixture.worker(APP, "new-1", &deliveries, "--until-caught-up");
        assert_eq!(worker.exit_code(), 0, "{}", worker.log());
        fixture.wait_for_checkpoints(APP);
        let delivered = deliveries.refresh();
        let again = delivered.iter().filter(|delivery| delivery.n <= 2).count();
        assert_eq!(again, 0, "{moment}: records before the checkpoints come again");
        assert_eq!(delivered.len(), if moment == "left" { 0 } else { 40 }, "{moment}");

        // Rows that are kept, and those of shards that only this version has seen.
        fixture.service.change_shards(TABLE, "rollover");
        let mut worker = fixture.worker(APP, "new-2", &deliveries, "--until-caught-up");
        assert_eq!(worker.exit_code(), 0, "{}", worker.log());
        let after = scan(&fixture.service, APP);
        assert_eq!(after.len(), 8);
        let mut needed = attributes(&leases[0]);
        needed.retain(|(name, _)| !["leaseOwner", "checkpointOwner"].contains(&name.as_str()));
        for row in after {
            assert!(attributes(&row).is_superset(&needed), "{moment}: {needed:?} became {row}");
        }
    }
}

#[test]
fn a_worker_takes_leases_from_a_live_one_of_the_last_version_by_hand_off_and_hands_them_back() {
    let fixture = Fixture::new("--shards 4");
    let service = &fixture.service;
    let mut written = Written::default();
    service.write(TABLE, &mut written, READ);
    let deliveries = fixture.deliveries(APP);
    let (leases, mut fleet) = rows("reading", service);
    let (_, left) = rows("left", service);
    // The last version's leader has left: nobody leads, and its worker stays.
    fleet.retain(|row| row["key"]["S"] != "leader");
    fleet.push(named(&left, "key", "leader").clone());
    put(service, &leases, &fleet);
    let old = OldWorker { service, item: named(&fleet, "key", &format!("worker/{OLD}")).clone() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&is_over);
        scope.spawn(|| {
            let mut beats = 1;
            while !is_over.load(Ordering::Relaxed) {
                old.beat(beats);
                old.transfer();
                beats += 1;
                pause();
            }
        });
        let mut worker = fixture.worker(APP, "new-1", &deliveries, "");
        let shares = |wanted: &[(&str, usize)]| {
            let wanted: BTreeMap<String, usize> =
                wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            wait_for(&format!("shares of {wanted:?}"), || {
                let is_moving = scan(service, APP).iter().any(|row| row.get("checkpointOwner").is_some());
                !is_moving && service.shares(APP) == wanted
            });
        };
        shares(&[(OLD, 2), ("new-1", 2)]);
        let rows = scan(service, "app-Fleet");
        // Of a worker that had just begun, and so has nothing to tell but what each worker tells.
        let (_, moving) = self::rows("moving", service);
        let mut begun = attributes(named(&moving, "key", "worker/old-2"));
        begun.retain(|(name, _)| name != "inbox");
        for (row, needed) in [("worker/new-1", begun), ("leader", attributes(named(&left, "key", "leader")))] {
            let written = attributes(named(&rows, "key", row));
            assert!(written.is_superset(&needed), "{row} has {written:?}, and the last version {needed:?}");
        }
        let kinds: BTreeMap<String, String> = attributes(&old.item).into_iter().collect();
        let new = named(&rows, "key", "worker/new-1");
        for (name, kind) in attributes(new) {
            assert_eq!(kinds.get(&name).unwrap_or(&kind), &kind, "{name} was of another type");
        }
        assert_eq!(new["state"]["S"], "active");
        assert_eq!(worker.stop(), 0, "{}", worker.log());
        shares(&[(OLD, 4)]);
        for row in scan(service, APP) {
            let before = attributes(named(&leases, "leaseKey", row["leaseKey"]["S"].as_str().expect("a key")));
            assert!(attributes(&row).is_superset(&before), "{before:?} became {row}");
        }
    });
}

/// A worker of the last version as the tables see it: its heartbeats, and its ends of hand-offs.
struct OldWorker<'a> {
    service: &'a LocalService,
    item: Value,
}

impl OldWorker<'_> {
    /// Raises the heartbeat alone: that version writes no attribute that its item lacks.
    fn beat(&self, beats: u64) {
        let heartbeat: u64 =
            self.item["heartbeat"]["N"].as_str().and_then(|digits| digits.parse().ok()).expect("a number");
        self.service.call(
            "UpdateItem",
            &json!({
                "TableName": "app-Fleet", "Key": {"key": self.item["key"]},
                "UpdateExpression": "SET heartbeat = :heartbeat REMOVE challenger",
                "ConditionExpression": "incarnation = :mine",
                "ExpressionAttributeValues": {
                    ":heartbeat": {"N": (heartbeat + beats).to_string()}, ":mine": self.item["incarnation"],
                },
            }),
        );
    }

    /// Ends the hand-offs that the leader has begun: all records before them are checkpointed.
    fn transfer(&self) {
        for row in scan(self.service, APP).iter().filter(|row| row["checkpointOwner"]["S"] == OLD) {
            let counter: u64 =
                row["leaseCounter"]["N"].as_str().and_then(|digits| digits.parse().ok()).expect("a number");
            // A refusal means that the row has changed since it was read; it is read again.
            let _ = self.service.try_call(
                "UpdateItem",
                &json!({
                    "TableName": APP, "Key": {"leaseKey": row["leaseKey"]},
                    "UpdateExpression": "SET leaseCounter = :next REMOVE checkpointOwner",
                    "ConditionExpression": "leaseCounter = :seen AND checkpointOwner = :me",
                    "ExpressionAttributeValues": {
                        ":next": {"N": (counter + 1).to_string()}, ":seen": row["leaseCounter"], ":me": {"S": OLD},
                    },
                }),
            );
        }
    }
}

/// Ends the played worker also when the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
