//! The cost of planning for a large fleet: 10,000 leases on 200 workers, counted and by weight.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shardkeeper::internals::model::assignment::{LeaseToPlace, Member, plan};

criterion_group!(benches, assignment);
criterion_main!(benches);

const LEASES: usize = 10_000;
const WORKERS: usize = 200;

fn assignment(criterion: &mut Criterion) {
    for (kind, rate) in [("counted", unknown as Rate), ("weighted", uneven as Rate)] {
        let mut group = criterion.benchmark_group(format!("assignment/{kind}"));
        group.sample_size(20);
        let cases = [
            ("from-scratch", leases(rate, |_| None), members(0..WORKERS)),
            (
                "one-lost",
                leases(rate, |number| (number % WORKERS > 0).then_some(number % WORKERS)),
                members(1..WORKERS),
            ),
            ("one-joined", leases(rate, |number| Some(number % (WORKERS - 1))), members(0..WORKERS)),
            ("steady", leases(rate, |number| Some(number % WORKERS)), members(0..WORKERS)),
            ("one-holds-all", leases(rate, |_| Some(0)), members(0..WORKERS)),
        ];
        for (case, leases, members) in cases {
            println!("assignment/{kind}/{case}: {} moves", plan(&leases, &members, usize::MAX).len());
            group.bench_function(case, |bencher| {
                bencher.iter(|| black_box(plan(black_box(&leases), &members, usize::MAX)));
            });
        }
        group.finish();
    }
}

/// A lease's rate, by its number.
type Rate = fn(usize) -> Option<f64>;

fn unknown(_: usize) -> Option<f64> {
    None
}

/// From nothing to 5 MiB/s, most of them small, some not known.
fn uneven(number: usize) -> Option<f64> {
    let spread = (number * 7919 % 1000) as f64 / 1000.0;
    (!number.is_multiple_of(17)).then_some(spread.powi(6) * 5000.0)
}

fn leases(rate: Rate, owner: impl Fn(usize) -> Option<usize>) -> Vec<LeaseToPlace> {
    let lease = |number: usize| LeaseToPlace {
        key: format!("shardId-{number:020}-{number:08x}").into(),
        owner: owner(number).map(worker),
        moving: None,
        placed: false,
        weight: rate(number),
        avoid: Vec::new(),
    };
    (0..LEASES).map(lease).collect()
}

fn members(workers: std::ops::Range<usize>) -> Vec<Member> {
    workers.map(|number| Member { id: worker(number), leaving: false, overloaded: false, max_leases: None }).collect()
}

fn worker<T: From<String>>(number: usize) -> T {
    format!("worker-{number:03}").into()
}
