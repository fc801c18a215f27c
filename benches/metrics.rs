//! The cost of a scrape: /metrics of a worker that reads 5,000 shards, with a series for each and with none.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use shardkeeper::internals::cli::admin_server::Recorder;
use shardkeeper::internals::consumer::{ConsumerStatus, Counters, LeaseDeadline};
use shardkeeper::internals::model::checkpoint::Checkpoint;
use shardkeeper::internals::model::lease::Lease;
use shardkeeper::internals::telemetry::WorkerTelemetry;
use shardkeeper::{StreamSelector, WorkerOptions};

criterion_group!(benches, scrape);
criterion_main!(benches);

const SHARDS: u64 = 5_000;

fn scrape(criterion: &mut Criterion) {
    let recorder = Recorder::install("phone-audit", "Phones", None).expect("the only recorder here");
    let telemetry = telemetry();
    let mut group = criterion.benchmark_group("scrape");
    group.sample_size(20);
    for (case, has_shards) in [("per-shard", true), ("summed-up", false)] {
        println!("scrape/{case}: {} bytes", recorder.render(&telemetry, has_shards).len());
        group.bench_function(case, |bencher| bencher.iter(|| black_box(recorder.render(&telemetry, has_shards))));
    }
    group.finish();
}

fn telemetry() -> WorkerTelemetry {
    let options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), "worker");
    let clock = options.clock;
    let telemetry = {
        let deadline = LeaseDeadline::new(options.clock);
        WorkerTelemetry::new(Arc::new(options), deadline, Counters::default())
    };
    let now_ms = clock.now_ms();
    for number in 0..SHARDS {
        let key = format!("shardId-{:020}-{number:08x}", now_ms - number);
        let lease = Lease::new(key.into(), BTreeSet::new(), Checkpoint::TrimHorizon);
        let status = ConsumerStatus::of(&lease, 0, now_ms);
        telemetry.begin(lease.key, Arc::new(status));
    }
    telemetry
}
