//! Thousands of shards in a process, with records and without.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::changes::rate_figures;
use super::{MIB, Scenario, Stage, rates, wait_for_rest};
use crate::report::{Figure, Goal, Outcome, Run, outcome};
use crate::service::{Backlog, Service};
use crate::workers::Reader;

/// Many shards with a little each.
pub const BACKLOG: Scenario =
    Scenario { name: "many-shards", title: "thousands of shards with a backlog of 100 records each", run: backlog };
/// Many shards with nothing.
pub const IDLE: Scenario = Scenario { name: "idle", title: "many shards without records, two workers", run: idle };

const APP: &str = "many";
const LIMIT: Duration = Duration::from_secs(180);

fn backlog(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    stage.progress.step("making the backlog");
    let shards = stage.pick(100, 5000);
    let service = Service::start(shards, "NEW_IMAGE")?;
    let mut client = service.client()?;
    let total = client.preload(&Backlog { records_per_shard: 100, value_bytes: 250, value_attributes: 3 })?;
    ensure!(total == u64::from(shards) * 100, "the backlog has {total} records");

    stage.progress.step("reading");
    let start = Instant::now();
    let mut worker = Reader::worker(&service, stage.folder(), APP, "worker-1", "--to null --until-caught-up")?;
    let (mut first, mut all) = (None, None);
    while worker.process.is_running()? {
        ensure!(start.elapsed() < LIMIT, "not within {LIMIT:?}");
        let served = client.stats()?.served();
        stage.progress.part("reading", served, total);
        first = first.or((served > 0).then(|| start.elapsed()));
        all = all.or((served >= total).then(|| start.elapsed()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (ended, counted) = worker.finish(LIMIT)?;
    ensure!(counted.records == total, "{} of {total} records were delivered", counted.records);
    let (first, all) = (first.unwrap_or_default().as_secs_f64(), all.unwrap_or_default().as_secs_f64());
    let peak = ended.peak_bytes as f64 / MIB;
    let figures = vec![
        Figure::some("first record after the start", first * 1000.0, "ms"),
        Figure::some("all records after the start", all, "s"),
        Figure::some("CPU a record", ended.cpu.as_secs_f64() * 1e6 / total as f64, "µs"),
        Figure::some("peak memory", peak, "MiB"),
    ];
    let setup = format!("{shards} shards of 100 records each, one new worker that creates all the leases first.");
    let runs = vec![Run { label: "one worker".to_owned(), figures }];
    let mut outcome = outcome(&BACKLOG, setup, runs);
    outcome.goals =
        vec![Goal::at_most("all records after", all, 60.0, " s"), Goal::at_most("peak memory", peak, 400.0, " MiB")];
    Ok(outcome)
}

fn idle(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let shards = stage.pick(100, 1000);
    let service = Service::start(shards, "NEW_IMAGE")?;
    let mut client = service.client()?;
    stage.progress.step("starting two workers");
    let mut workers = Vec::new();
    for id in ["worker-1", "worker-2"] {
        workers.push(Reader::worker(&service, stage.folder(), APP, id, "--to null")?);
    }
    wait_for_rest(&mut client, APP, &["worker-1", "worker-2"], shards as usize, |_| true)?;
    stage.let_pass("settling", Duration::from_secs(stage.pick(1, 15)));
    let before = total_cpu(&workers)?;
    let service_before = service.process.cpu()?;
    let rates = rates(stage, &mut client, "measuring", Duration::from_secs(stage.pick(2, 30)))?;
    let cpu = total_cpu(&workers)?.saturating_sub(before).as_secs_f64() / rates.seconds * 100.0;
    let service_cpu = service.process.cpu()?.saturating_sub(service_before).as_secs_f64() / rates.seconds * 100.0;
    let peak = workers.iter_mut().map(|worker| worker.process.peak_bytes()).max().unwrap_or(0) as f64 / MIB;
    for worker in workers {
        worker.process.signal("TERM")?;
        worker.finish(LIMIT)?;
    }
    let calls = rates.calls("GetRecords");
    let mut figures = vec![
        Figure::some("CPU of both workers", cpu, "% of a core"),
        Figure::some("peak memory of the larger worker", peak, "MiB"),
        Figure::any("the service's CPU", service_cpu, "% of a core"),
    ];
    figures.extend(rate_figures(&rates, APP));
    let setup = format!("{shards} open shards without records, two workers with default settings (--idle-poll 1s).");
    let mut outcome = outcome(&IDLE, setup, vec![Run { label: "two workers".to_owned(), figures }]);
    outcome.goals = vec![
        Goal::at_most("CPU of both workers", cpu, 25.0, " % of a core"),
        Goal::at_most("peak memory of the larger worker", peak, 100.0, " MiB"),
        Goal::at_most("GetRecords calls a second", calls, 1100.0, ""),
    ];
    Ok(outcome)
}

fn total_cpu(workers: &[Reader]) -> Result<Duration, anyhow::Error> {
    workers.iter().map(|worker| worker.process.cpu()).sum()
}
