//! Processors that hang or cannot keep up: a shard on which a call hangs goes to the other worker, no call outlives its
//! lease, and a worker that is too slow says so. Workers with the real SDK on the local service, in this process, on a
//! paused clock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use shardkeeper::{BatchError, ProcessRecordsInput, RecordProcessor, Report, ShardContext, WorkerOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::fleet::Fleet;

const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Batches that the processors saw, and the switch that lets those of the worker `hangs` return.
#[derive(Clone)]
struct Harness {
    fleet: Fleet,
    /// Worker and shard of each batch that was handed over.
    deliveries: Arc<Mutex<Vec<(&'static str, String)>>>,
    lost: Arc<Mutex<BTreeSet<String>>>,
    release: watch::Sender<bool>,
}

/// On the worker `hangs` its first batch hangs until it is let go, on `slow` each takes a second; elsewhere none takes
/// any time.
struct Processor {
    harness: Harness,
    worker: &'static str,
    shard: String,
}

impl RecordProcessor for Processor {
    async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> {
        self.harness.deliveries.lock().expect("no panic").push((self.worker, self.shard.clone()));
        if self.worker == "hangs" {
            let _ = self.harness.release.subscribe().wait_for(|release| *release).await;
        }
        if self.worker == "slow" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.harness.lost.lock().expect("no panic").insert(self.shard.clone());
    }
}

impl Harness {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(2),
            deliveries: Arc::default(),
            lost: Arc::default(),
            release: watch::Sender::new(false),
        }
    }

    fn write(&self, first: u32) {
        for key in first..first + 40 {
            self.fleet.put(&json!({"k": {"S": format!("k{key}")}}));
        }
    }

    fn start_worker(&self, worker: &'static str, seed: u64) -> JoinHandle<Result<Report, shardkeeper::Error>> {
        let set = |options: &mut WorkerOptions| options.stuck_after = Some(STUCK_AFTER);
        self.start_worker_with(worker, seed, std::future::pending(), set)
    }

    fn start_worker_with(
        &self,
        worker: &'static str,
        seed: u64,
        stop: impl Future<Output = ()> + Send + 'static,
        set: impl FnOnce(&mut WorkerOptions),
    ) -> JoinHandle<Result<Report, shardkeeper::Error>> {
        let harness = self.clone();
        let factory = move |shard: &ShardContext| Processor {
            harness: harness.clone(),
            worker,
            shard: shard.shard_id.to_string(),
        };
        let worker = self.fleet.worker(worker, seed, self.fleet.client(), set, factory);
        tokio::task::spawn_local(worker.run(stop))
    }

    /// The calls that hang: each waits for the release.
    fn hanging(&self) -> usize {
        self.release.receiver_count()
    }

    /// The owners and checkpoints of the leases, by shard.
    fn leases(&self) -> Vec<(String, String, String)> {
        let text = |row: &Value, name: &str| row[name]["S"].as_str().unwrap_or_default().to_owned();
        let rows = self.fleet.leases().into_iter();
        rows.map(|row| (text(&row, "leaseKey"), text(&row, "leaseOwner"), text(&row, "checkpoint"))).collect()
    }

    fn delivered_to(&self, worker: &str) -> BTreeSet<String> {
        let deliveries = self.deliveries.lock().expect("no panic");
        deliveries.iter().filter(|(to, _)| *to == worker).map(|(_, shard)| shard.clone()).collect()
    }

    fn is_overloaded(&self, worker: &str) -> bool {
        self.fleet.worker_item(worker)["overloaded"]["BOOL"].as_bool().unwrap_or_default()
    }

    async fn until(&self, what: &str, limit: Duration, is_so: impl FnMut() -> bool) {
        self.fleet.until(what, limit, is_so).await;
    }

    fn owned_by(&self, worker: &str) -> usize {
        self.fleet.owned_by(worker)
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shard_whose_processor_hangs_goes_to_the_other_worker_and_the_call_ends_with_its_lease() {
    let harness = Harness::new();
    let hangs = harness.start_worker("hangs", 1);
    let works = harness.start_worker("works", 2);
    harness
        .until("an even share", Duration::from_secs(30), || {
            harness.owned_by("hangs") == 1 && harness.owned_by("works") == 1
        })
        .await;
    harness.write(0);
    harness.until("a batch that hangs", Duration::from_secs(5), || harness.hanging() == 1).await;
    let stuck = harness.delivered_to("hangs").pop_first().expect("one");

    tokio::time::sleep(STUCK_AFTER - Duration::from_secs(1)).await;
    assert_eq!(harness.owned_by("works"), 1, "not before its time");
    let taken = || harness.delivered_to("works").contains(&stuck);
    harness.until("the shard read by the other", Duration::from_secs(4), taken).await;
    assert_eq!(harness.hanging(), 0, "the call was dropped before");
    assert!(harness.lost.lock().expect("no panic").contains(&stuck));
    tokio::time::sleep(STUCK_AFTER / 2).await;
    assert_eq!(harness.owned_by("works"), 2, "it is not given straight back");
    // A worker that works again is a worker like any other.
    harness.until("an even share again", Duration::from_secs(30), || harness.owned_by("hangs") == 1).await;
    assert!(!hangs.is_finished() && !works.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn hung_calls_that_use_up_the_concurrency_delay_other_shards_only_until_they_are_dropped() {
    let harness = Harness { fleet: Fleet::new(8), ..Harness::new() };
    let set = |options: &mut WorkerOptions| {
        options.stuck_after = Some(STUCK_AFTER);
        options.concurrency = Some(2);
    };
    let _hangs = harness.start_worker_with("hangs", 6, std::future::pending(), set);
    let _works = harness.start_worker_with("works", 7, std::future::pending(), set);
    harness
        .until("an even share", Duration::from_secs(60), || {
            harness.owned_by("hangs") == 4 && harness.owned_by("works") == 4
        })
        .await;
    harness.write(0);
    harness.until("as many calls as there may be", Duration::from_secs(5), || harness.hanging() == 2).await;
    harness.until("all shards read", STUCK_AFTER * 3, || harness.delivered_to("works").len() == 8).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn no_call_outlives_a_worker_whose_drain_times_out() {
    let harness = Harness::new();
    let (stop, stopped) = oneshot::channel();
    let hangs = harness.start_worker_with("hangs", 5, async { stopped.await.expect("it is told to stop") }, |_| {});
    harness.until("all leases", Duration::from_secs(30), || harness.owned_by("hangs") == 2).await;
    harness.write(0);
    harness.until("batches that hang", Duration::from_secs(5), || harness.hanging() == 2).await;
    stop.send(()).expect("it runs");
    hangs.await.expect("no panic").expect("it stops");
    assert_eq!(harness.hanging(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shard_that_nobody_else_could_read_is_kept() {
    let harness = Harness::new();
    let hangs = harness.start_worker("hangs", 3);
    harness.until("all leases", Duration::from_secs(30), || harness.owned_by("hangs") == 2).await;
    harness.write(0);
    tokio::time::sleep(STUCK_AFTER * 6).await;
    assert_eq!(harness.owned_by("hangs"), 2);
    let is_at_the_start = |(_, _, checkpoint): &(String, String, String)| checkpoint == "TRIM_HORIZON";
    assert!(harness.leases().iter().all(is_at_the_start));
    harness.release.send_replace(true);
    let is_done = || harness.leases().iter().all(|lease| !is_at_the_start(lease));
    harness.until("the late results written", Duration::from_secs(20), is_done).await;
    assert!(!hangs.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_that_cannot_keep_up_says_so_until_it_can_again_and_its_leases_show_their_rate() {
    let harness = Harness::new();
    let slow = harness.start_worker("slow", 4);
    harness.until("all leases", Duration::from_secs(30), || harness.owned_by("slow") == 2).await;
    for round in 0..250 {
        assert!(round > 120 || !harness.is_overloaded("slow"), "not after {round} tenths of a second");
        harness.write(round * 40);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(harness.is_overloaded("slow"));
    harness.until("relief", Duration::from_secs(40), || !harness.is_overloaded("slow")).await;
    for row in harness.fleet.leases() {
        let rate: f64 = row["throughputKBps"]["N"].as_str().expect("a rate").parse().expect("a number");
        assert!((1.0..10_000.0).contains(&rate), "{row}");
    }
    assert!(!slow.is_finished());
}

/// Fails with the records of the first shard that it gets any of, and notes the keys of the others'.
#[derive(Clone, Default)]
struct FailsOneShard {
    fails: Arc<OnceLock<String>>,
    delivered: Arc<Mutex<BTreeSet<String>>>,
    shard: String,
}

impl RecordProcessor for FailsOneShard {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        if *self.fails.get_or_init(|| self.shard.clone()) == self.shard {
            return Err("a record that fails".into());
        }
        let keys = input.records.iter().map(|record| record.keys_json().expect("keys").to_owned());
        self.delivered.lock().expect("no panic").extend(keys);
        Ok(())
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_blocked_shard_gives_its_read_ahead_back_to_the_others() {
    let fleet = Fleet::new(2);
    let processor = FailsOneShard::default();
    let made = processor.clone();
    let factory = move |shard: &ShardContext| FailsOneShard { shard: shard.shard_id.to_string(), ..made.clone() };
    let set = |options: &mut WorkerOptions| options.buffer_bytes = 2 << 20;
    tokio::task::spawn_local(fleet.worker("w", 8, fleet.client(), set, factory).run(std::future::pending()));
    let put = |name: &str, number: u32| {
        let value = "x".repeat(300_000); // three of them are a page
        fleet.put(&json!({"k": {"S": format!("{name}{number}")}, "v": {"S": value}}));
    };
    (0..40).for_each(|number| put("k", number));
    fleet.until("a blocked shard", Duration::from_secs(30), || fleet.worker_item("w")["halted"].is_object()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    (0..10).for_each(|number| put("later", number));
    let is_later = |keys: &String| keys.contains("later");
    let is_delivered = || processor.delivered.lock().expect("no panic").iter().any(is_later);
    fleet.until("later records of the other shard", Duration::from_secs(30), is_delivered).await;
}
