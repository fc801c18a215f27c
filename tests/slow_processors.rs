//! Processors that hang or cannot keep up: a shard on which a call hangs goes to the other worker, and what the call
//! returns in the end counts for nothing; a worker that is too slow says so. Workers with the real SDK on the local
//! service, in this process, on a paused clock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedAsyncSleep, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use serde_json::{Value, json};
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::internals::consumer::{BatchError, ProcessRecordsInput, RecordProcessor, ShardContext, WallClock};
use shardkeeper::{Report, StreamSelector, Worker, WorkerOptions};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Request, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const EPOCH_MS: u64 = 1_700_000_000_000;
const STUCK_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct TimeOfDay(Instant);

impl TimeSource for TimeOfDay {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS) + self.0.elapsed()
    }
}

/// What the processors saw, and the switch that lets those of the worker `hangs` return.
#[derive(Clone)]
struct Scene {
    service: LocalService,
    start: Instant,
    /// Worker and shard of each batch that was handed over.
    deliveries: Arc<Mutex<Vec<(&'static str, String)>>>,
    lost: Arc<Mutex<BTreeSet<String>>>,
    release: watch::Sender<bool>,
}

/// On the worker `hangs` its first batch hangs until it is let go, on `slow` each takes a second; elsewhere none takes
/// any time.
struct Processor {
    scene: Scene,
    worker: &'static str,
    shard: String,
}

impl RecordProcessor for Processor {
    async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> {
        self.scene.deliveries.lock().expect("no panic").push((self.worker, self.shard.clone()));
        if self.worker == "hangs" {
            let _ = self.scene.release.subscribe().wait_for(|release| *release).await;
        }
        if self.worker == "slow" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.scene.lost.lock().expect("no panic").insert(self.shard.clone());
    }
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        let options = LocalOptions { initial_shards: 2, rollover: None, ..LocalOptions::default() };
        let service = LocalService::new(options, Clock::tokio(Timestamp::from_millis(EPOCH_MS)));
        let scene = Self {
            service,
            start,
            deliveries: Arc::default(),
            lost: Arc::default(),
            release: watch::Sender::new(false),
        };
        let (status, made) = scene.ask(
            "CreateTable",
            &json!({
                "TableName": "Things", "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
                "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
            }),
        );
        assert_eq!(status, 200, "{made}");
        scene
    }

    fn ask(&self, operation: &str, body: &Value) -> (u16, Value) {
        let request = Request { target: format!("DynamoDB_20120810.{operation}"), body: body.to_string().into() };
        let answer = self.service.handle(&request);
        (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
    }

    fn write(&self, first: u32) {
        for key in first..first + 40 {
            let put = json!({"TableName": "Things", "Item": {"k": {"S": format!("k{key}")}}});
            assert_eq!(self.ask("PutItem", &put).0, 200);
        }
    }

    fn start_worker(&self, worker: &'static str, seed: u64) -> JoinHandle<Result<Report, shardkeeper::Error>> {
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), worker);
        options.stuck_after = Some(STUCK_AFTER);
        options.seed = Some(seed);
        options.own_thread = false;
        options.clock = WallClock::Simulated { start_ms: EPOCH_MS, start: self.start };
        let credentials = Credentials::new("simulated", "simulated", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(InMemoryClient::new(self.service.clone()).shared())
            .time_source(SharedTimeSource::new(TimeOfDay(self.start)))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .build();
        let scene = self.clone();
        let factory =
            move |shard: &ShardContext| Processor { scene: scene.clone(), worker, shard: shard.shard_id.to_string() };
        tokio::task::spawn_local(Worker::new(options, factory).sdk_config(config).run(std::future::pending()))
    }

    /// The unfinished leases' owners and checkpoints, by shard.
    fn leases(&self) -> Vec<(String, String, String)> {
        let text = |item: &Value, name: &str| item[name]["S"].as_str().unwrap_or_default().to_owned();
        let (_, found) = self.ask("Scan", &json!({"TableName": "app"}));
        let items = found["Items"].as_array().into_iter().flatten(); // none before there is a table
        items.map(|item| (text(item, "leaseKey"), text(item, "leaseOwner"), text(item, "checkpoint"))).collect()
    }

    fn delivered_to(&self, worker: &str) -> BTreeSet<String> {
        let deliveries = self.deliveries.lock().expect("no panic");
        deliveries.iter().filter(|(to, _)| *to == worker).map(|(_, shard)| shard.clone()).collect()
    }

    /// Whether a worker says that it is overloaded.
    fn is_overloaded(&self, worker: &str) -> bool {
        let key = json!({"key": {"S": format!("worker/{worker}")}});
        let (_, found) = self.ask("GetItem", &json!({"TableName": "app-Fleet", "Key": key}));
        found["Item"]["overloaded"]["BOOL"].as_bool().unwrap_or_default()
    }

    async fn until(&self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < limit, "{what} within {limit:?}; leases: {:?}", self.leases());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn owned_by(&self, worker: &str) -> usize {
        self.leases().iter().filter(|(_, owner, _)| owner == worker).count()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shard_whose_processor_hangs_goes_to_the_other_worker_and_late_results_count_for_nothing() {
    let scene = Scene::new();
    let hangs = scene.start_worker("hangs", 1);
    let works = scene.start_worker("works", 2);
    scene
        .until("an even share", Duration::from_secs(30), |scene| {
            scene.owned_by("hangs") == 1 && scene.owned_by("works") == 1
        })
        .await;
    scene.write(0);
    scene.until("a batch that hangs", Duration::from_secs(5), |scene| scene.delivered_to("hangs").len() == 1).await;
    let stuck = scene.delivered_to("hangs").pop_first().expect("one");
    let handed = scene.deliveries.lock().expect("no panic").iter().filter(|(to, _)| *to == "hangs").count();

    tokio::time::sleep(STUCK_AFTER - Duration::from_secs(1)).await;
    assert_eq!(scene.owned_by("works"), 1, "not before its time");
    let taken = |scene: &Scene| scene.delivered_to("works").contains(&stuck);
    scene.until("the shard read by the other", Duration::from_secs(4), taken).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.owned_by("works"), 2, "it is not given back while the call lasts");
    let before = scene.leases();

    scene.release.send_replace(true);
    scene
        .until("the loss noticed", Duration::from_secs(5), |scene| {
            scene.lost.lock().expect("no panic").contains(&stuck)
        })
        .await;
    assert_eq!(scene.leases(), before, "the late call writes nothing");
    let now = scene.deliveries.lock().expect("no panic").iter().filter(|(to, _)| *to == "hangs").count();
    assert_eq!(now, handed, "and nothing more is handed to it");
    // A worker that works again is a worker like any other.
    scene.until("an even share again", Duration::from_secs(30), |scene| scene.owned_by("hangs") == 1).await;
    assert!(!hangs.is_finished() && !works.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_shard_that_nobody_else_could_read_is_kept() {
    let scene = Scene::new();
    let hangs = scene.start_worker("hangs", 3);
    scene.until("all leases", Duration::from_secs(30), |scene| scene.owned_by("hangs") == 2).await;
    scene.write(0);
    tokio::time::sleep(STUCK_AFTER * 6).await;
    assert_eq!(scene.owned_by("hangs"), 2);
    let is_at_the_start = |(_, _, checkpoint): &(String, String, String)| checkpoint == "TRIM_HORIZON";
    assert!(scene.leases().iter().all(is_at_the_start));
    scene.release.send_replace(true);
    let is_done = |scene: &Scene| scene.leases().iter().all(|lease| !is_at_the_start(lease));
    scene.until("the late results written", Duration::from_secs(20), is_done).await;
    assert!(!hangs.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_that_cannot_keep_up_says_so_until_it_can_again_and_its_leases_show_their_rate() {
    let scene = Scene::new();
    let slow = scene.start_worker("slow", 4);
    scene.until("all leases", Duration::from_secs(30), |scene| scene.owned_by("slow") == 2).await;
    for round in 0..250 {
        assert!(round > 120 || !scene.is_overloaded("slow"), "not after {round} tenths of a second");
        scene.write(round * 40);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(scene.is_overloaded("slow"));
    scene.until("relief", Duration::from_secs(40), |scene| !scene.is_overloaded("slow")).await;
    let (_, found) = scene.ask("Scan", &json!({"TableName": "app"}));
    for row in found["Items"].as_array().expect("rows") {
        let rate: f64 = row["throughputKBps"]["N"].as_str().expect("a rate").parse().expect("a number");
        assert!((1.0..10_000.0).contains(&rate), "{row}");
    }
    assert!(!slow.is_finished());
}
