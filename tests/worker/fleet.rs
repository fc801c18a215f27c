//! A table with its stream on the in-memory service, and workers with the real SDK beside it, in this process and on a
//! paused clock.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedAsyncSleep, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use serde_json::{Value, json};
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::internals::consumer::{ProcessorFactory, WallClock};
use shardkeeper::{StreamSelector, Worker, WorkerOptions};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Request, Timestamp};
use tokio::time::Instant;

/// The time of day at which a test starts.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
static NEVER_SUSPENDED: AtomicU64 = AtomicU64::new(0);
/// The table whose stream the workers read.
pub const TABLE: &str = "Things";
/// The operations of the streams' API; all others are the tables'.
const STREAM_OPERATIONS: [&str; 4] = ["ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"];

/// The service and its clock.
#[derive(Clone)]
pub struct Fleet {
    pub service: LocalService,
    start: Instant,
}

/// The paused clock as a time of day.
#[derive(Debug)]
struct TimeOfDay(Instant);

impl TimeSource for TimeOfDay {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS) + self.0.elapsed()
    }
}

impl Fleet {
    /// A service with [`TABLE`], whose stream has so many shards.
    pub fn new(shards: u32) -> Self {
        Self::with(LocalOptions { initial_shards: shards, ..LocalOptions::default() })
    }

    /// A service with [`TABLE`] and these options, but that shards roll over by themselves.
    pub fn with(options: LocalOptions) -> Self {
        let options = LocalOptions { rollover: None, ..options };
        let service = LocalService::new(options, Clock::tokio(Timestamp::from_millis(EPOCH_MS)));
        let fleet = Self { service, start: Instant::now() };
        fleet.create_table(TABLE, json!({"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}));
        fleet
    }

    /// Makes a table with the string hash key `k`.
    pub fn create_table(&self, table: &str, stream: Value) {
        let request = json!({
            "TableName": table, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            "StreamSpecification": stream,
        });
        self.call("CreateTable", &request);
    }

    /// Calls an operation; the body as the service sends it.
    pub fn try_call(&self, operation: &str, request: &Value) -> Result<bytes::Bytes, String> {
        let api = if STREAM_OPERATIONS.contains(&operation) { "DynamoDBStreams" } else { "DynamoDB" };
        let target = format!("{api}_20120810.{operation}");
        let answer = self.service.handle(&Request { target, body: request.to_string().into() });
        let refusal = || format!("{operation} {request}: {}", String::from_utf8_lossy(&answer.body));
        if answer.status == 200 { Ok(answer.body) } else { Err(refusal()) }
    }

    /// Calls an operation that must succeed.
    pub fn call(&self, operation: &str, request: &Value) -> Value {
        let body = self.try_call(operation, request).unwrap_or_else(|refusal| panic!("{refusal}"));
        serde_json::from_slice(&body).expect("JSON")
    }

    pub fn put(&self, item: &Value) {
        self.call("PutItem", &json!({"TableName": TABLE, "Item": item}));
    }

    pub fn now_ms(&self) -> u64 {
        EPOCH_MS + u64::try_from(self.start.elapsed().as_millis()).expect("a short test")
    }

    /// The rows of the lease table; none before there is one.
    pub fn leases(&self) -> Vec<Value> {
        let Ok(body) = self.try_call("Scan", &json!({"TableName": "app"})) else { return Vec::new() };
        let page: Value = serde_json::from_slice(&body).expect("JSON");
        page["Items"].as_array().expect("a list of items").clone()
    }

    /// The keys of those rows.
    pub fn keys(&self) -> BTreeSet<String> {
        self.leases().iter().map(|row| row["leaseKey"]["S"].as_str().expect("a key").to_owned()).collect()
    }

    /// The number of unfinished leases that a worker owns.
    pub fn owned_by(&self, worker: &str) -> usize {
        let is_its = |row: &&Value| row["leaseOwner"]["S"] == worker && row["checkpoint"]["S"] != "SHARD_END";
        self.leases().iter().filter(is_its).count()
    }

    /// The item of a worker in the fleet table; null before there is one.
    pub fn worker_item(&self, worker: &str) -> Value {
        let key = json!({"key": {"S": format!("worker/{worker}")}});
        let Ok(body) = self.try_call("GetItem", &json!({"TableName": "app-Fleet", "Key": key})) else {
            return Value::Null;
        };
        serde_json::from_slice::<Value>(&body).expect("JSON")["Item"].clone()
    }

    /// A worker with options that suit tests, then `set`.
    pub fn worker<F: ProcessorFactory>(
        &self,
        id: &str,
        seed: u64,
        client: InMemoryClient,
        set: impl FnOnce(&mut WorkerOptions),
        factory: F,
    ) -> Worker<F> {
        let mut options = WorkerOptions::new("app", StreamSelector::Table(TABLE.into()), id);
        options.seed = Some(seed);
        options.own_thread = false;
        options.clock = WallClock::Simulated { start_ms: EPOCH_MS, start: self.start, suspended_ms: &NEVER_SUSPENDED };
        set(&mut options);
        let credentials = Credentials::new("simulated", "simulated", None, None, "test");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(client.shared())
            .time_source(SharedTimeSource::new(TimeOfDay(self.start)))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .build();
        Worker::new(options, factory).sdk_config(config)
    }

    /// A client of the service.
    pub fn client(&self) -> InMemoryClient {
        InMemoryClient::new(self.service.clone())
    }

    /// Waits until `is_so` holds; fails the test when it does not within `limit`.
    pub async fn until(&self, what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < limit, "{what} within {limit:?}; leases: {:?}", self.leases());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
