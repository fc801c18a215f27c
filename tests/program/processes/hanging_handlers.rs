//! Handlers that take a request and never answer it: all of them for a while, or for some records always.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::http::Answer;
use crate::support::rewriter::Rewriter;
use crate::support::wait::{pause, wait_for};

/// The keys that a handler has answered for.
#[derive(Clone, Default)]
struct Handled(Arc<Mutex<BTreeSet<String>>>);

impl Handled {
    fn count(&self) -> usize {
        self.0.lock().expect("nobody panics holding it").len()
    }

    /// A handler that answers a request when `wait` returns for its keys.
    fn handler(&self, wait: impl Fn(&[String]) + Send + Sync + 'static) -> Rewriter {
        let handled = self.clone();
        Rewriter::new(move |_, event| {
            let records = event["Records"].as_array().map(Vec::as_slice).unwrap_or_default();
            let key_of =
                |record: &Value| record["dynamodb"]["Keys"]["key"]["S"].as_str().unwrap_or_default().to_owned();
            let keys: Vec<String> = records.iter().map(key_of).collect();
            wait(&keys);
            handled.0.lock().expect("nobody panics holding it").extend(keys);
            Answer { status: 200, body: json!({}) }
        })
    }
}

fn put(fixture: &Fixture, keys: impl Iterator<Item = String>) {
    for key in keys {
        fixture.service.call("PutItem", &json!({"TableName": TABLE, "Item": {"key": {"S": key}}}));
    }
}

#[test]
fn hung_calls_that_use_up_the_concurrency_of_all_workers_hold_up_no_other_record() {
    const OTHERS: usize = 200;
    let fixture = Fixture::new("--shards 8");
    let out = fixture.deliveries("audit");
    let handled = Handled::default();
    let hung = Mutex::new(BTreeSet::new());
    let handler = handled.handler(move |keys| {
        let is_first = |key: &String| hung.lock().expect("nobody panics holding it").insert(key.clone());
        let hangs = keys.iter().filter(|key| key.starts_with("hangs")).any(is_first);
        if hangs {
            loop {
                pause();
            }
        }
    });
    let flags = format!("--to {} --batch-size 1 --concurrency 2 --stuck-after 3s", handler.url());
    let _workers = ["a", "b"].map(|id| fixture.worker("audit", id, &out, &flags));
    wait_for("both workers to have leases", || fixture.service.shares("audit").len() == 2);
    put(&fixture, (0..4).map(|number| format!("hangs-{number}")));
    put(&fixture, (0..OTHERS).map(|number| format!("other-{number}")));
    wait_for("all records, those of the calls that hung by other calls", || handled.count() == OTHERS + 4);
}

#[test]
fn records_whose_calls_hang_every_time_hold_up_no_others() {
    for (workers, batch_size, hanging) in [(&["a", "b"][..], 1, 4), (&["a"][..], 1, 10), (&["a", "b"][..], 10, 4)] {
        let fixture = Fixture::new("--shards 2");
        let out = fixture.deliveries("audit");
        let handled = Handled::default();
        let handler = handled.handler(|keys| {
            while keys.iter().any(|key| key.starts_with("hangs")) {
                pause();
            }
        });
        put(&fixture, (0..hanging).map(|number| format!("hangs-{number}")));
        let flags = format!("--to {} --batch-size {batch_size} --concurrency 2 --stuck-after 1s", handler.url());
        let _workers: Vec<_> = workers.iter().map(|id| fixture.worker("audit", id, &out, &flags)).collect();
        for round in 1..=3 {
            put(&fixture, (0..100).map(|number| format!("other-{round}-{number}")));
            wait_for("all records but those that hang", || handled.count() == 100 * round);
        }
    }
}

#[test]
fn a_handler_that_answers_nothing_for_a_while_costs_no_record_a_dead_letter() {
    let fixture = Fixture::new("--shards 2");
    let out = fixture.deliveries("audit");
    let (handled, is_silent) = (Handled::default(), Arc::new(AtomicBool::new(false)));
    let silent = Arc::clone(&is_silent);
    let handler = handled.handler(move |_| {
        while silent.load(Ordering::SeqCst) {
            pause();
        }
    });
    let flags = "--handler-timeout 200ms --retry-attempts 1 --on-failure dead-letter";
    let mut worker = fixture.worker("audit", "w", &out, &format!("--to {} {flags}", handler.url()));
    put(&fixture, (0..20).map(|number| format!("before-{number}")));
    wait_for("the first records", || handled.count() == 20);
    is_silent.store(true, Ordering::SeqCst);
    put(&fixture, (0..20).map(|number| format!("behind-{number}")));
    // Far more than the attempts that are allowed.
    wait_for("several time-outs", || worker.log().matches("processor unavailable, retrying").count() >= 6);
    is_silent.store(false, Ordering::SeqCst);
    wait_for("the other records", || handled.count() == 40);
    assert_eq!(worker.stop(), 0);
    assert_eq!(fixture.service.call("Scan", &json!({"TableName": "audit-DeadLetters"}))["Count"], 0);
}
