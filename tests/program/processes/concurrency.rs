//! Workers that work on many items of one shard at once, whose handler fails at times, and which are killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::wait::{let_last, wait_for};

const RECORDS: u64 = 10_000;
const KEYS: u64 = 100;
/// The time that the handler takes for a record.
const WORK: Duration = Duration::from_millis(5);

/// A handler over HTTP in this process. Its threads end with the test's.
struct Handler {
    url: String,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// By key, each `n` in the order in which it was first taken.
    first: BTreeMap<String, Vec<u64>>,
    repeats: u64,
    calls: u64,
}

impl Handler {
    /// One call in `fails_one_in` is answered with an error, and each whose batch holds this number of any key.
    fn start(fails_one_in: u64, poison: Option<u64>) -> Handler {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let shared = Arc::clone(&taken);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let taken = Arc::clone(&shared);
                thread::spawn(move || serve(connection, &taken, fails_one_in, poison));
            }
        });
        Handler { url, taken }
    }

    fn count(&self) -> u64 {
        let taken = self.taken.lock().expect("nobody panics holding it");
        taken.first.values().map(|numbers| numbers.len() as u64).sum()
    }
}

/// Answers the requests of one connection, until the worker that made it is gone.
fn serve(connection: TcpStream, taken: &Mutex<Taken>, fails_one_in: u64, poison: Option<u64>) -> Option<()> {
    let mut answers = connection.try_clone().ok()?;
    let mut requests = BufReader::new(connection);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).ok()?;
        let event: Value = serde_json::from_slice(&body).expect("an event");
        let status = handle(&event, taken, fails_one_in, poison);
        answers.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()?;
    }
}

fn handle(event: &Value, taken: &Mutex<Taken>, fails_one_in: u64, poison: Option<u64>) -> &'static str {
    let records: Vec<(String, u64)> = event["Records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| {
            let image = &record["dynamodb"]["NewImage"];
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            (text(&image["key"]["S"]), text(&image["n"]["N"]).parse().expect("a number"))
        })
        .collect();
    let is_poisoned = records.iter().any(|(_, n)| poison == Some(*n));
    let fails = is_poisoned || {
        let mut taken = taken.lock().expect("nobody panics holding it");
        taken.calls += 1;
        taken.calls.is_multiple_of(fails_one_in)
    };
    let_last(WORK * u32::try_from(records.len()).expect("few"));
    let mut taken = taken.lock().expect("nobody panics holding it");
    for (key, n) in records {
        if fails {
            break;
        }
        let first = taken.first.entry(key).or_default();
        if first.contains(&n) {
            taken.repeats += 1;
        } else {
            first.push(n);
        }
    }
    if fails { "500 Internal Server Error" } else { "200 OK" }
}

/// Ten thousand records in one shard, over a hundred keys in turn.
fn fixture() -> Fixture {
    let fixture = Fixture::new("--shards 1");
    let all: Vec<Value> = (0..RECORDS)
        .map(|turn| {
            let (key, n) = (format!("key-{:03}", turn % KEYS), (turn / KEYS + 1).to_string());
            json!({"PutRequest": {"Item": {"key": {"S": key}, "n": {"N": n}}}})
        })
        .collect();
    for batch in all.chunks(25) {
        fixture.service.call("BatchWriteItem", &json!({"RequestItems": {TABLE: batch}}));
    }
    fixture
}

#[test]
fn items_stay_in_order_and_nothing_is_lost_when_calls_fail_and_workers_are_killed_each_second() {
    let fixture = fixture();
    let handler = Handler::start(50, None);
    let flags = format!("--to {} --concurrency 100 --batch-size 1 --lease-duration 1s", handler.url);
    let out = fixture.deliveries("many");
    let mut kills = 0;
    // Two ids in turn: every second worker takes over, the others come back to their own.
    while handler.count() < RECORDS {
        let mut worker = fixture.worker("many", ["a", "a", "b", "b"][kills % 4], &out, &flags);
        let before = handler.count();
        wait_for("some records to be taken", || handler.count() > before || handler.count() == RECORDS);
        let_last(Duration::from_secs(1));
        worker.kill();
        kills += 1;
        assert!(kills < 60, "{} of {RECORDS} taken by {kills} workers", handler.count());
    }
    let mut worker = fixture.worker("many", "a", &out, &flags);
    fixture.wait_for_checkpoints("many");
    assert_eq!(worker.stop(), 0);
    let taken = handler.taken.lock().expect("nobody panics holding it");
    for (key, numbers) in &taken.first {
        assert!(numbers.is_sorted() && numbers.len() as u64 == RECORDS / KEYS, "{key}: {numbers:?}");
    }
    assert_eq!(taken.first.len() as u64, KEYS);
    println!("{kills} workers killed, {} records delivered again, {} calls", taken.repeats, taken.calls);
}

#[test]
fn each_poison_record_has_one_dead_letter_when_workers_are_killed_in_the_midst_of_keeping_them() {
    const POISON: u64 = 40;
    let fixture = fixture();
    let handler = Handler::start(u64::MAX, Some(POISON));
    let flags = format!(
        "--to {} --concurrency 100 --retry-attempts 0 --on-failure dead-letter --lease-duration 1s",
        handler.url
    );
    let out = fixture.deliveries("poisoned");
    let letters = || {
        let found = fixture.service.try_call("Scan", &json!({"TableName": "poisoned-DeadLetters"}));
        found.map_or_else(|_| Vec::new(), |found| found["Items"].as_array().cloned().unwrap_or_default())
    };
    for kill in 0..20 {
        let mut worker = fixture.worker("poisoned", "w", &out, &flags);
        let before = (letters().len(), handler.count());
        wait_for("a letter, or a record", || (letters().len(), handler.count()) != before || kill > 3);
        let_last(Duration::from_millis(100));
        worker.kill();
    }
    let mut worker = fixture.worker("poisoned", "w", &out, &flags);
    wait_for("all other records", || handler.count() == RECORDS - KEYS);
    fixture.wait_for_checkpoints("poisoned");
    assert_eq!(worker.stop(), 0);
    let mut kept: Vec<String> = Vec::new();
    for letter in letters() {
        let record: Value = serde_json::from_str(letter["record"]["S"].as_str().expect("a record")).expect("JSON");
        let image = &record["dynamodb"]["NewImage"];
        assert_eq!(image["n"]["N"], POISON.to_string(), "{letter}");
        kept.push(image["key"]["S"].as_str().expect("a key").to_owned());
    }
    kept.sort();
    assert_eq!(kept, (0..KEYS).map(|key| format!("key-{key:03}")).collect::<Vec<_>>());
}
