//! A fleet under Kubernetes: a new version rolled out under load, and nodes lost.
//!
//! Lag is measured from outside: from when a write was answered to when its record stands in the workers' output.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::deliveries::Deliveries;
use crate::support::fixture::{Fixture, TABLE, Worker};
use crate::support::local_service::{LocalService, Written};
use crate::support::wait::{let_last, pause, wait_for};

const APP: &str = "audit";
/// The lease duration of the fixture's workers.
const LEASE_DURATION: Duration = Duration::from_secs(2);
/// The most lag that a rolling update may cost.
const ROLLING_LAG: Duration = Duration::from_secs(3);
/// The most lag that lost workers may cost beyond the lease duration.
const FAILOVER_LAG: Duration = Duration::from_secs(2);
/// The Deployment's minReadySeconds, made short.
const MIN_READY: Duration = Duration::from_secs(1);
/// Records a turn; some 25 turns a second.
const RECORDS: usize = 20;
/// The lifetime of shards here.
const ROLLOVER: Duration = Duration::from_secs(3);

/// Measurements of the load.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    rollovers: usize,
    /// The longest time from a write to its delivery.
    lag: Duration,
    /// The longest time that the observer itself took for a turn.
    stall: Duration,
}

impl Seen {
    /// The part of the lag that may be the machine's. From a lost worker to the next one's line some eight processes' turns
    /// follow each other, and on a machine with nothing else to do a turn takes some hundredths of a second.
    fn of_machine(&self) -> Duration {
        8 * self.stall
    }
}

#[test]
fn a_rolling_update_with_surge_loses_repeats_and_delays_nothing() {
    let fixture = Fixture::new("--shards 8");
    let mut deliveries = fixture.deliveries(APP);
    let mut outputs = Outputs::new(&deliveries, 8);
    let mut old: Vec<Worker> = (0..4).map(|n| worker(&fixture, &format!("old-{n}"), outputs.next())).collect();
    old.iter().for_each(wait_until_ready);
    let mut new = Vec::new();
    let (written, seen) = under_load(&fixture.service, &mut deliveries, || {
        for n in 0..4 {
            new.push(worker(&fixture, &format!("new-{n}"), outputs.next()));
            wait_until_ready(&new[n]);
            let_last(MIN_READY);
            // Kubernetes doesn't wait for the old one's end before it starts the next new one.
            old[n].signal("TERM");
        }
        for worker in &mut old {
            assert_eq!(worker.exit_code(), 0, "{}", worker.log());
        }
    });
    assert_unharmed(&fixture, &mut deliveries, &written, &seen);
    new.iter_mut().for_each(|worker| assert_eq!(worker.stop(), 0));
}

#[test]
fn a_rolling_update_of_workers_that_keep_their_names_loses_repeats_and_delays_nothing() {
    let fixture = Fixture::new("--shards 8");
    let mut deliveries = fixture.deliveries(APP);
    let mut outputs = Outputs::new(&deliveries, 8);
    let mut workers: Vec<Worker> = (0..4).map(|n| worker(&fixture, &format!("w-{n}"), outputs.next())).collect();
    workers.iter().for_each(wait_until_ready);
    let (written, seen) = under_load(&fixture.service, &mut deliveries, || {
        for n in (0..4).rev() {
            assert_eq!(workers[n].stop(), 0, "{}", workers[n].log());
            workers[n] = worker(&fixture, &format!("w-{n}"), outputs.next());
            wait_until_ready(&workers[n]);
            let_last(MIN_READY);
        }
    });
    assert_unharmed(&fixture, &mut deliveries, &written, &seen);
    workers.iter_mut().for_each(|worker| assert_eq!(worker.stop(), 0));
}

#[test]
fn a_fleet_that_loses_half_of_its_workers_and_the_leader_is_back_within_a_lease_and_two_seconds() {
    let fixture = Fixture::new("--shards 8");
    let mut deliveries = fixture.deliveries(APP);
    let mut outputs = Outputs::new(&deliveries, 4);
    let mut workers: Vec<Worker> = (0..4).map(|n| worker(&fixture, &format!("w-{n}"), outputs.next())).collect();
    workers.iter().for_each(wait_until_ready);
    let (written, seen) = under_load(&fixture.service, &mut deliveries, || {
        wait_for("all workers to know of two shards each", || known_shares(&fixture.service) == [2; 4]);
        let leader = leader(&fixture.service);
        let at = (0..4).find(|n| format!("w-{n}") == leader).expect("one of them leads");
        for n in [at, (at + 1) % 4] {
            workers[n].kill();
        }
        wait_for("the others to have all", || {
            let shares = fixture.service.shares(APP);
            shares.len() == 2 && shares.values().sum::<usize>() == 8
        });
        let_last(MIN_READY);
    });
    eprintln!("lost two of four: {seen:?}");
    deliveries.assert_complete(&written, &fixture.service.shards(TABLE));
    let limit = LEASE_DURATION + FAILOVER_LAG + seen.of_machine();
    assert!(seen.lag <= limit, "back after {:?}, more than {limit:?}: {seen:?}", seen.lag);
}

/// Nothing lost, out of order, delivered twice or late.
fn assert_unharmed(fixture: &Fixture, deliveries: &mut Deliveries, written: &Written, seen: &Seen) {
    eprintln!("rolled: {seen:?}");
    assert!(seen.rollovers > 0 && seen.records > 1_000, "hardly any load: {seen:?}");
    deliveries.assert_complete(written, &fixture.service.shards(TABLE));
    assert_eq!(deliveries.repeats(), []);
    let limit = ROLLING_LAG + seen.of_machine();
    assert!(seen.lag <= limit, "a record waited {:?}, more than {limit:?}: {seen:?}", seen.lag);
}

/// Plays `act` while records are written and shards roll over; then waits until all is delivered.
fn under_load(service: &LocalService, deliveries: &mut Deliveries, act: impl FnOnce()) -> (Written, Seen) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| Load::new(service, deliveries).run(&is_over));
        {
            // Also when it panics: the load would never end.
            let _end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
            act();
        }
        load.join().expect("the load's own assertions hold")
    })
}

/// Writes, and watches what arrives.
struct Load<'a> {
    service: &'a LocalService,
    deliveries: &'a mut Deliveries,
    written: Written,
    /// When each record was written that has not arrived.
    waiting: HashMap<(String, u64), Instant>,
    /// The number of deliveries measured.
    looked: usize,
    seen: Seen,
}

#[expect(clippy::disallowed_methods, reason = "the lag of real processes goes by the machine's clock")]
impl<'a> Load<'a> {
    fn new(service: &'a LocalService, deliveries: &'a mut Deliveries) -> Self {
        let (written, waiting, seen) = Default::default();
        Self { service, deliveries, written, waiting, looked: 0, seen }
    }

    fn run(mut self, is_over: &AtomicBool) -> (Written, Seen) {
        let mut turn = Instant::now();
        let mut next_rollover = turn + ROLLOVER;
        while !is_over.load(Ordering::Relaxed) {
            self.write();
            if turn >= next_rollover {
                self.service.change_shards(TABLE, "rollover");
                self.seen.rollovers += 1;
                next_rollover += ROLLOVER;
            }
            self.watch();
            pause();
            let now = Instant::now();
            self.seen.stall = self.seen.stall.max(now - turn);
            turn = now;
        }
        wait_for("everything written to be delivered", || {
            self.watch();
            self.waiting.is_empty()
        });
        (self.written, self.seen)
    }

    fn write(&mut self) {
        let before = self.written.clone();
        self.service.write(TABLE, &mut self.written, RECORDS);
        let at = Instant::now();
        for (key, last) in &self.written.0 {
            for n in before.0.get(key).map_or(1, |n| n + 1)..=*last {
                self.waiting.insert((key.clone(), n), at);
            }
        }
        self.seen.records += RECORDS;
    }

    fn watch(&mut self) {
        let now = Instant::now();
        let all = self.deliveries.refresh();
        for delivery in &all[self.looked..] {
            if let Some(at) = self.waiting.remove(&(delivery.key.clone(), delivery.n)) {
                self.seen.lag = self.seen.lag.max(now.saturating_duration_since(at));
            }
        }
        self.looked = all.len();
    }
}

/// A worker that serves probes on a port of its own.
fn worker(fixture: &Fixture, id: &str, stdout: Stdio) -> Worker {
    fixture.worker_on(&format!("--table {TABLE}"), APP, id, stdout, "--metrics-addr 127.0.0.1:0 --log-format json")
}

/// The readiness probe: waits until `/ready` answers 200.
fn wait_until_ready(worker: &Worker) {
    worker.wait_for_log("serving /metrics");
    let log = worker.log();
    let line = log.lines().find(|line| line.contains("serving /metrics")).expect("it was just there");
    let line: serde_json::Value = serde_json::from_str(line).expect("logs are JSON");
    let address = line["address"].as_str().expect("an address").to_owned();
    wait_for("a worker to be ready", || probe(&address).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
}

fn probe(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(b"GET /ready HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The leader by the fleet table.
fn leader(service: &LocalService) -> String {
    let request = json!({"TableName": format!("{APP}-Fleet"), "Key": {"key": {"S": "leader"}}, "ConsistentRead": true});
    let item = &service.call("GetItem", &request)["Item"];
    item["worker"]["S"].as_str().expect("somebody leads").to_owned()
}

/// The number of leases that each worker reports.
fn known_shares(service: &LocalService) -> Vec<u64> {
    let items = service.call("Scan", &json!({"TableName": format!("{APP}-Fleet"), "ConsistentRead": true}));
    let items = items["Items"].as_array().expect("a list of items");
    items.iter().filter_map(|item| item["leases"]["N"].as_str()?.parse().ok()).collect()
}

/// The standard outputs of workers to come, all the same file.
struct Outputs(Vec<Stdio>);

impl Outputs {
    fn new(deliveries: &Deliveries, count: usize) -> Self {
        Self((0..count).map(|_| deliveries.stdout()).collect())
    }

    fn next(&mut self) -> Stdio {
        self.0.pop().expect("as many as workers")
    }
}

/// Calls its function at its end.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
