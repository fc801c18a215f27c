//! The example `effectively_once` as a process that is killed again and again, on a service whose answers get lost: its
//! copy equals the table, and each change was counted once.
//!
//! `SHARDKEEPER_TEST_KILLS` sets how often it is killed.

#[path = "../../examples/effectively_once.rs"]
#[expect(dead_code, reason = "its own main reads arguments")]
mod example;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use shardkeeper::Worker;

use crate::support::local_service::LocalService;
use crate::support::wait::wait_for;

const TABLE: &str = "Things";
const COPY: &str = "Copy";
const COUNTS: &str = "Counts";
const KEYS: u64 = 12;
/// The variable that tells a process of this test to be a copier, and where the service is.
const BE_COPIER: &str = "COPIER_ENDPOINT";
const KILLS: usize = 20;

/// Writes to the table: for each key the item as it is, and its number of changes.
#[derive(Default)]
struct Source {
    items: BTreeMap<String, Value>,
    changes: BTreeMap<String, u64>,
    written: u64,
}

impl Source {
    /// Puts an item that differs from all before, or deletes one.
    fn change(&mut self, service: &LocalService, rng: &mut Rng) {
        let key = format!("key-{:02}", rng.u64(..) % KEYS);
        self.written += 1;
        if self.items.contains_key(&key) && rng.f64() < 0.2 {
            service.call("DeleteItem", &json!({"TableName": TABLE, "Key": {"key": {"S": key}}}));
            self.items.remove(&key);
        } else {
            let item = json!({"key": {"S": key}, "n": {"N": self.written.to_string()}});
            service.call("PutItem", &json!({"TableName": TABLE, "Item": item}));
            self.items.insert(key.clone(), item);
        }
        *self.changes.entry(key).or_default() += 1;
    }
}

fn items(service: &LocalService, table: &str) -> BTreeMap<String, Value> {
    let found = service.call("Scan", &json!({"TableName": table, "ConsistentRead": true}));
    let items = found["Items"].as_array().expect("a list").iter().cloned();
    items.map(|item| (item["key"]["S"].as_str().expect("a key").to_owned(), item)).collect()
}

fn counts(service: &LocalService) -> BTreeMap<String, u64> {
    let count = |item: Value| item["changes"]["N"].as_str().expect("a count").parse().expect("a number");
    items(service, COUNTS).into_iter().map(|(key, item)| (key, count(item))).collect()
}

struct Copier(Child);

impl Copier {
    fn start(service: &LocalService) -> Copier {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args([
            "--ignored",
            "--exact",
            "effectively_once::the_copier_that_the_other_test_starts",
            "--nocapture",
        ]);
        command.env(BE_COPIER, service.url()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
        Copier(command.spawn().expect("it starts"))
    }
}

impl Drop for Copier {
    /// SIGKILL.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "the other test starts it as a process of its own, to kill it"]
fn the_copier_that_the_other_test_starts() {
    let Ok(url) = std::env::var(BE_COPIER) else { return };
    let builder = Worker::builder("copiers", TABLE).worker_id("copier-1").endpoint_url(url).configure(|options| {
        options.lease_duration = Duration::from_secs(2);
        options.idle_poll = Duration::from_millis(50);
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let worker = example::worker(builder, COPY.into(), COUNTS.into());
    runtime.block_on(worker.run(std::future::pending())).expect("nothing but a kill ends it");
}

#[test]
fn a_copier_that_is_killed_at_random_applies_each_change_once() {
    let kills = std::env::var("SHARDKEEPER_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let service = LocalService::start("--shards 2");
    service.create_table(TABLE, true);
    service.create_table(COPY, false);
    service.create_table(COUNTS, false);
    // A third of the transactions is carried out without the copier's learning of it.
    let lost = json!({"share": 0.3, "effect": "drop_after", "operations": ["TransactWriteItems"]});
    service.faults(&json!({"rules": [lost], "latency_ms": {"TransactWriteItems": 10}}));

    let mut rng = Rng::with_seed(7);
    let mut source = Source::default();
    let copied = || counts(&service).values().sum::<u64>();
    for kill in 0..kills {
        let target = copied() + 1 + rng.u64(..) % 40;
        while source.written < target + 40 {
            source.change(&service, &mut rng);
        }
        let copier = Copier::start(&service);
        wait_for(&format!("progress before kill {kill}"), || copied() >= target);
        drop(copier);
        assert!(copied() <= source.written, "after kill {kill}: more changes were counted than made");
    }
    let _copier = Copier::start(&service);
    wait_for("everything to be copied", || copied() >= source.written);
    assert_eq!(counts(&service), source.changes, "each change counts once");
    assert_eq!(items(&service, COPY), source.items, "the copy equals the table");
}
