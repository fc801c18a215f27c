//! The cost of the worker's own bookkeeping: sequence numbers, the shard graph of a large stream, and checkpoints, up to
//! the write through the SDK onto the local service in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shardkeeper::internals::aws::lease_table::{LeaseTable, Outcome};
use shardkeeper::internals::model::batcher::{Batcher, Next, Rules};
use shardkeeper::internals::model::checkpoint::Checkpoint;
use shardkeeper::internals::model::lease::{Lease, ShardId, WorkerId};
use shardkeeper::internals::model::record::{Page, PageSummary, RecordBatch};
use shardkeeper::internals::model::sequence_number::{SequenceNumber, compare_digits};
use shardkeeper::internals::model::shard_graph::{Shard, ShardGraph, Start};
use shardkeeper_local::InMemoryClient;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Timestamp};

criterion_group!(benches, sequence_numbers, shard_graph, checkpoints);
criterion_main!(benches);

const SHARDS: usize = 10_000;
/// A stream keeps a closed shard for a day, and a shard lives for some four hours.
const GENERATIONS: usize = 7;
const BATCHES: usize = 1000;

fn sequence_numbers(criterion: &mut Criterion) {
    let texts: Vec<String> = (0..1000).map(digits).collect();
    let numbers: Vec<SequenceNumber> = texts.iter().map(|text| text.parse().expect("digits")).collect();
    let mut group = criterion.benchmark_group("sequence-number");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| texts.iter().for_each(|text| drop(black_box(text.parse::<SequenceNumber>()))));
    });
    group.bench_function("compare", |bencher| {
        bencher.iter(|| numbers.windows(2).filter(|pair| black_box(&pair[0]) < black_box(&pair[1])).count());
    });
    group.bench_function("compare-text", |bencher| {
        bencher.iter(|| texts.windows(2).filter(|pair| compare_digits(&pair[0], black_box(&pair[1])).is_lt()).count());
    });
    group.finish();
}

fn shard_graph(criterion: &mut Criterion) {
    let listing: Vec<Shard> = (0..SHARDS * GENERATIONS).map(shard).collect();
    let graph = ShardGraph::from_iter(listing.clone());
    let leases: BTreeMap<ShardId, Lease> = listing.iter().map(|shard| (shard.id.clone(), lease(shard))).collect();
    let none: BTreeSet<ShardId> = BTreeSet::new();
    let mut group = criterion.benchmark_group(format!("shard-graph/{SHARDS}-open-{}-listed", listing.len()));
    group.sample_size(20);
    group.bench_function("build", |bencher| {
        bencher.iter_batched(|| listing.clone(), ShardGraph::from_iter, BatchSize::LargeInput);
    });
    let start = Start::TrimHorizon;
    group.bench_function("missing-leases-of-a-new-application", |bencher| {
        bencher.iter(|| black_box(graph.missing_leases(|id| none.contains(id), &start)));
    });
    group.bench_function("missing-leases-when-there-are-none", |bencher| {
        bencher.iter(|| black_box(graph.missing_leases(|id| leases.contains_key(id), &start)));
    });
    group.bench_function("deletable", |bencher| bencher.iter(|| black_box(graph.deletable(&leases))));
    group.finish();
}

fn checkpoints(criterion: &mut Criterion) {
    let page = page_of_items(BATCHES);
    let mut group = criterion.benchmark_group("checkpoint");
    group.bench_function("a-page-at-once", |bencher| {
        bencher.iter(|| black_box(work_through(&page, Rules::default())));
    });
    group.bench_function(format!("{BATCHES}-items-each-by-itself"), |bencher| {
        let each = Rules { by_key: true, batch_records: Some(1), ..Rules::default() };
        bencher.iter(|| black_box(work_through(&page, each)));
    });
    let worker = WorkerId::from("worker-1");
    let row = lease(&shard(0)).owned_by(&worker);
    let at = |number: usize| Checkpoint::At(digits(number).parse().expect("digits"));
    group.bench_function("transition", |bencher| {
        bencher.iter(|| black_box(row.checkpoint(&worker, at(1)).expect("the holder's own")));
    });
    group.bench_function("written", |bencher| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (table, mut row) = runtime.block_on(table_with(&row));
        let mut number = 1;
        bencher.iter(|| {
            number += 1;
            let transition = row.checkpoint(&worker, at(number)).expect("the holder's own");
            row = match runtime.block_on(table.apply(&transition)) {
                Ok(Outcome::Applied(row)) => row,
                other => panic!("{other:?}"),
            };
        });
    });
    group.finish();
}

/// A lease table on a service of its own, with one row.
async fn table_with(row: &Lease) -> (LeaseTable, Lease) {
    let service = LocalService::new(LocalOptions::default(), Clock::tokio(Timestamp::from_millis(0)));
    let config = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("key", "secret", None, None, "static")))
        .retry_config(RetryConfig::disabled())
        .endpoint_url("http://service")
        .http_client(InMemoryClient::new(service).shared())
        .build();
    let table = LeaseTable::new(aws_sdk_dynamodb::Client::new(&config), "bench");
    table.ensure(true).await.expect("a new table");
    table.create(row).await.expect("a new row");
    (table, row.clone())
}

fn digits(number: usize) -> String {
    format!("{}", 442_158_450_000_000_001_745_043_909_u128 + number as u128)
}

/// The shard of this number: each generation goes on with the one before.
fn shard(number: usize) -> Shard {
    let id = |number: usize| ShardId::from(format!("shardId-{:020}-{:08x}", 1_700_000_000_000 + number, number * 7919));
    let (parent, closed) = (number.checked_sub(SHARDS).map(id), number < SHARDS * (GENERATIONS - 1));
    Shard { id: id(number), parent, closed, ending: None }
}

/// Its lease: read to the end if it is closed, with its child known.
fn lease(listed: &Shard) -> Lease {
    let mut lease = Lease::new(listed.id.clone(), listed.parent.iter().cloned().collect(), Checkpoint::TrimHorizon);
    if listed.closed {
        lease.checkpoint = Checkpoint::ShardEnd;
    }
    lease
}

/// A page with a record of each of `count` items.
fn page_of_items(count: usize) -> RecordBatch {
    let record = |n: usize| {
        let number = digits(n);
        format!(r#"{{"dynamodb":{{"SequenceNumber":"{number}","Keys":{{"k":{{"S":"item-{n}"}}}}}}}}"#)
    };
    let records: Vec<String> = (1..=count).map(record).collect();
    Page::decode(format!(r#"{{"Records":[{}]}}"#, records.join(",")).into()).expect("a page").records
}

/// Hands a page's records out and takes them back, the last first: the position where that ends.
fn work_through(page: &RecordBatch, rules: Rules) -> Option<SequenceNumber> {
    let summary = PageSummary::of(page)?;
    let mut schedule = Batcher::new(rules, None);
    schedule.add(std::time::Duration::ZERO, page.clone(), &summary, ());
    let mut units = Vec::new();
    while let Next::Unit(unit) = schedule.next(std::time::Duration::ZERO, usize::MAX) {
        units.push(unit);
    }
    for unit in units.into_iter().rev() {
        schedule.acknowledge(unit.id, 0..unit.records.len());
    }
    schedule.position()
}
