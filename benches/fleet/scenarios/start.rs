//! The start of a new application and the stop of its worker, by the number of shards.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Scenario, Stage, wait_until};
use crate::report::{Figure, Goal, Outcome, Run, outcome};
use crate::service::{Backlog, Service};
use crate::workers::Reader;

/// A new application on few shards and on thousands.
pub const START: Scenario =
    Scenario { name: "start", title: "first record and exit, by the number of shards", run: start };

const LIMIT: Duration = Duration::from_secs(180);
/// The interval at which the service is asked for its progress.
const LOOK: Duration = Duration::from_millis(5);

fn start(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let (mut runs, mut goals) = (Vec::new(), Vec::new());
    for (shards, most_first) in [(24, 0.3), (stage.pick(100, 5000), 1.5)] {
        let Times { first, all, exit } = Times::measure(stage, shards)?;
        let label = format!("{shards} shards");
        goals.push(Goal::at_most(format!("first record, {label}"), first, most_first, " s"));
        goals.push(Goal::at_most(format!("exit, {label}"), exit, 5.0, " s"));
        let figures = vec![
            Figure::some("first record after the start", first * 1000.0, "ms"),
            Figure::some("a record of each shard after the start", all, "s"),
            Figure::some("from SIGTERM to the exit", exit, "s"),
        ];
        runs.push(Run { label, figures });
    }
    let setup = "one record in each shard, one new worker that creates all the leases, and releases them at its end.";
    let mut outcome = outcome(&START, setup.to_owned(), runs);
    outcome.goals = goals;
    Ok(outcome)
}

/// Seconds.
struct Times {
    first: f64,
    all: f64,
    exit: f64,
}

impl Times {
    fn measure(stage: &Stage, shards: u32) -> Result<Self, anyhow::Error> {
        stage.progress.step(&format!("{shards} shards"));
        let service = Service::start(shards, "NEW_IMAGE")?;
        let mut client = service.client()?;
        let total = client.preload(&Backlog { records_per_shard: 1, value_bytes: 250, value_attributes: 3 })?;
        ensure!(total == u64::from(shards), "the backlog has {total} records");
        let started = Instant::now();
        let app = format!("start-{shards}");
        let worker = Reader::worker(&service, stage.folder(), &app, "worker-1", "--to null")?;
        let mut first = None;
        wait_until("all shards are read", LIMIT, LOOK, || {
            let served = client.stats()?.served();
            stage.progress.part("reading", served, total);
            first = first.or((served > 0).then(|| started.elapsed()));
            Ok(served >= total)
        })?;
        let all = started.elapsed();
        let stopped = Instant::now();
        worker.process.signal("TERM")?;
        worker.finish(LIMIT)?;
        let seconds = |time: Duration| time.as_secs_f64();
        Ok(Self { first: seconds(first.unwrap_or(all)), all: seconds(all), exit: seconds(stopped.elapsed()) })
    }
}
