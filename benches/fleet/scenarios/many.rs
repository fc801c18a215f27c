//! Thousands of shards in a process, with records and without.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::changes::rate_figures;
use super::{MIB, Rates, Scenario, Stage, rates, wait_for_rest};
use crate::report::{Figure, Goal, Outcome, Run, outcome};
use crate::service::{Backlog, Service};
use crate::workers::Reader;

/// Many shards with a little each.
pub const BACKLOG: Scenario =
    Scenario { name: "many-shards", title: "thousands of shards with a backlog of 100 records each", run: backlog };
/// Very many shards with nothing, in one process.
pub const TEN_THOUSAND: Scenario =
    Scenario { name: "ten-thousand", title: "ten thousand shards without records, one worker", run: ten_thousand };
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
        vec![Goal::at_most("all records after", all, 60.0, " s"), Goal::at_most("peak memory", peak, 200.0, " MiB")];
    Ok(outcome)
}

fn idle(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let shards = stage.pick(100, 1000);
    let run = Idle::measure(stage, shards, &["worker-1", "worker-2"])?;
    let setup = format!("{shards} open shards without records, two workers with default settings (--idle-poll 1s).");
    run.outcome(&IDLE, setup, "two workers", [10.0, 100.0, 1100.0])
}

fn ten_thousand(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let shards = stage.pick(200, 10_000);
    let run = Idle::measure(stage, shards, &["worker-1"])?;
    let setup = format!("{shards} open shards without records, one worker with default settings (--idle-poll 1s).");
    run.outcome(&TEN_THOUSAND, setup, "one worker", [100.0, 250.0, 11_000.0])
}

/// Workers whose shards have no records.
struct Idle {
    /// Percent of a core.
    cpu: f64,
    service_cpu: f64,
    /// MiB of the larger worker.
    peak: f64,
    rates: Rates,
}

impl Idle {
    fn measure(stage: &Stage, shards: u32, ids: &[&str]) -> Result<Self, anyhow::Error> {
        let service = Service::start(shards, "NEW_IMAGE")?;
        let mut client = service.client()?;
        stage.progress.step("starting the workers");
        let mut workers = Vec::new();
        for id in ids {
            workers.push(Reader::worker(&service, stage.folder(), APP, id, "--to null")?);
        }
        wait_for_rest(&mut client, APP, ids, shards as usize, |_| true)?;
        stage.let_pass("settling", Duration::from_secs(stage.pick(1, 15)));
        let before = total_cpu(&workers)?;
        let service_before = service.process.cpu()?;
        let rates = rates(stage, &mut client, "measuring", Duration::from_secs(stage.pick(2, 30)))?;
        let percent = |cpu: Duration| cpu.as_secs_f64() / rates.seconds * 100.0;
        let cpu = percent(total_cpu(&workers)?.saturating_sub(before));
        let service_cpu = percent(service.process.cpu()?.saturating_sub(service_before));
        let peak = workers.iter_mut().map(|worker| worker.process.peak_bytes()).max().unwrap_or(0) as f64 / MIB;
        for worker in workers {
            worker.process.signal("TERM")?;
            worker.finish(LIMIT)?;
        }
        Ok(Self { cpu, service_cpu, peak, rates })
    }

    /// The outcome, with the most that CPU, memory and calls a second may be.
    fn outcome(
        &self,
        scenario: &Scenario,
        setup: String,
        label: &str,
        [cpu, peak, calls]: [f64; 3],
    ) -> Result<Outcome, anyhow::Error> {
        let mut figures = vec![
            Figure::some("CPU of the workers", self.cpu, "% of a core"),
            Figure::some("peak memory of the larger worker", self.peak, "MiB"),
            Figure::any("the service's CPU", self.service_cpu, "% of a core"),
        ];
        figures.extend(rate_figures(&self.rates, APP));
        let mut outcome = outcome(scenario, setup, vec![Run { label: label.to_owned(), figures }]);
        outcome.goals = vec![
            Goal::at_most("CPU of the workers", self.cpu, cpu, " % of a core"),
            Goal::at_most("peak memory of the larger worker", self.peak, peak, " MiB"),
            Goal::at_most("GetRecords calls a second", self.rates.calls("GetRecords"), calls, ""),
        ];
        Ok(outcome)
    }
}

fn total_cpu(workers: &[Reader]) -> Result<Duration, anyhow::Error> {
    workers.iter().map(|worker| worker.process.cpu()).sum()
}
