//! The speed-up of a shard by several items at once: 10,000 records over 100 keys, a handler that
//! takes 5 ms for each.
//!
//!     cargo bench --bench concurrency
//!
//! Prints the time for each concurrency, on the local service in this process, with the real SDK and the real clock.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use serde_json::json;
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::{StreamSelector, Worker, WorkerOptions, for_each};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Request, Timestamp};

const RECORDS: u64 = 10_000;
const KEYS: u64 = 100;
const WORK: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() {
    let mut first = None;
    for concurrency in [1, 10, 100] {
        let took = work_through(concurrency).await;
        let base = *first.get_or_insert(took);
        let ratio = base.as_secs_f64() / took.as_secs_f64();
        println!("concurrency {concurrency:>3}: {took:>8.2?}, {ratio:>5.1} times as fast as one after the other");
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
async fn work_through(concurrency: usize) -> Duration {
    let options = LocalOptions { initial_shards: 1, rollover: None, ..LocalOptions::default() };
    let service = LocalService::new(options, Clock::tokio(Timestamp::from_millis(1_700_000_000_000)));
    let ask = |operation: &str, body: serde_json::Value| {
        let target = format!("DynamoDB_20120810.{operation}");
        assert_eq!(service.handle(&Request { target, body: body.to_string().into() }).status, 200);
    };
    ask(
        "CreateTable",
        json!({
            "TableName": "Things", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"},
        }),
    );
    for turn in 0..RECORDS {
        let item = json!({"k": {"S": format!("key-{}", turn % KEYS)}, "n": {"N": turn.to_string()}});
        ask("PutItem", json!({"TableName": "Things", "Item": item}));
    }
    let mut options = WorkerOptions::new("bench", StreamSelector::Table("Things".into()), "worker");
    options.own_thread = false; // the coordination shares the client in memory
    (options.concurrency, options.shard_concurrency) = (Some(concurrency), concurrency);
    let credentials = Credentials::new("bench", "bench", None, None, "bench");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(InMemoryClient::new(service.clone()).shared())
        .build();
    let (taken, mut count) = tokio::sync::watch::channel((0_u64, None::<Instant>));
    let handler = move |_| {
        let taken = taken.clone();
        async move {
            taken.send_if_modified(|(_, began)| began.is_none() && began.replace(Instant::now()).is_none());
            tokio::time::sleep(WORK).await;
            taken.send_modify(|(count, _)| *count += 1);
        }
    };
    let worker = Worker::new(options, for_each(handler)).sdk_config(config);
    let done = async move {
        let last = count.wait_for(|(count, _)| *count == RECORDS).await.expect("the handler lives");
        last.1.expect("it began").elapsed()
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (report, took) = tokio::join!(worker.run(async move { drop(stopped.await) }), async move {
        let took = done.await;
        let _ = stop.send(());
        took
    });
    report.expect("the worker ends well");
    took
}
