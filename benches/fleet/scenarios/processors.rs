//! Processors that are slow, or stop.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::changes::{curve, delay_figures};
use super::{MIB, Scenario, Stage, wait_for_rest};
use crate::embedded::Behaviour;
use crate::live::{Delays, Deliveries, Flow};
use crate::report::{Figure, Goal, Outcome, Run, outcome};
use crate::service::{Backlog, Service};
use crate::workers::Reader;

/// One shard whose processor is slow.
pub const SLOW: Scenario =
    Scenario { name: "slow-processor", title: "one shard's processor takes 50 ms a record", run: slow };
/// All processors stand still.
pub const STOPPED: Scenario = Scenario {
    name: "stopped",
    title: "no processor ever returns, and the service has much more than fits into the buffer",
    run: stopped,
};

const APP: &str = "moody";
const LIMIT: Duration = Duration::from_secs(60);
/// The default of `--buffer-bytes`.
const BUFFER_MIB: f64 = 128.0;

fn slow(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let (usual, _) = flow_past(stage, "all processors quick", Duration::ZERO)?;
    let (others, slow) = flow_past(stage, "one is slow", Duration::from_millis(50))?;
    ensure!(slow.count() > 0, "the slow processor did nothing");
    let run = |label: &str, delays: &Delays| {
        Ok::<_, anyhow::Error>(Run { label: label.to_owned(), figures: delay_figures(delays)? })
    };
    let runs = vec![
        run("all processors quick", &usual)?,
        run("the others beside a slow one", &others)?,
        run("the slow one", &slow)?,
    ];
    let setup = format!(
        "{} records a second in {} shards, one worker with a processor of its own.",
        rate(stage),
        shards(stage)
    );
    let mut outcome = outcome(&SLOW, setup, runs);
    outcome.curves = vec![curve("all processors quick", &usual)?, curve("the others beside a slow one", &others)?];
    let grown = others.quantile_ms(0.99)? / usual.quantile_ms(0.99)?;
    outcome.goals =
        vec![Goal::at_most("delay of the others, 99 % below, against all quick", grown * 100.0, 120.0, " %")];
    Ok(outcome)
}

fn shards(stage: &Stage) -> u32 {
    stage.pick(10, 100)
}

fn rate(stage: &Stage) -> u64 {
    stage.pick(200, 2000)
}

/// The delays in the quick shards and in the slow one, whose processor takes so long for a record.
fn flow_past(stage: &Stage, what: &str, each: Duration) -> Result<(Delays, Delays), anyhow::Error> {
    let service = Service::start(shards(stage), "NEW_IMAGE")?;
    let mut client = service.client()?;
    let behaviour = Behaviour::Slow { shard: client.first_shard()?, each };
    let mut worker = Reader::embedded(&service, stage.folder(), APP, &behaviour)?;
    let deliveries = Deliveries::new();
    deliveries.read(worker.stdout()?);
    wait_for_rest(&mut client, APP, &["worker-1"], shards(stage) as usize, |_| true)?;
    let flow = Flow::start(service.client()?, &deliveries, rate(stage), u64::from(shards(stage)) * 10);
    stage.let_pass("settling", Duration::from_secs(stage.pick(1, 5)));
    let from = deliveries.now();
    stage.let_pass(what, Duration::from_secs(stage.pick(1, 20)));
    let to = deliveries.now();
    flow.finish(&deliveries, LIMIT)?;
    let quick = deliveries.delays(from, to, |delivery| !delivery.is_slow);
    Ok((quick, deliveries.delays(from, to, |delivery| delivery.is_slow)))
}

fn stopped(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    stage.progress.step("making the backlog");
    let shards = stage.pick(32, 256);
    let service = Service::start(shards, "NEW_AND_OLD_IMAGES")?;
    let mut client = service.client()?;
    let records_per_shard = stage.pick(400, 1600);
    client.preload(&Backlog { records_per_shard, value_bytes: 950, value_attributes: 7 })?;
    let mut worker = Reader::embedded(&service, stage.folder(), APP, &Behaviour::Stopped)?;

    stage.progress.step("until nothing more is fetched");
    let (start, mut served, mut since) = (Instant::now(), 0, Instant::now());
    let quiet = Duration::from_secs(stage.pick(1, 5));
    while served == 0 || since.elapsed() < quiet {
        ensure!(start.elapsed() < LIMIT, "fetching went on for {LIMIT:?}");
        let now = client.stats()?.served();
        if now != served {
            (served, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(worker.process.is_running()?, "the worker ended");
    let peak = worker.process.peak_bytes() as f64 / MIB;
    let total = u64::from(shards) * records_per_shard;
    let figures = vec![
        Figure::some("records fetched before it stalled", served as f64, ""),
        Figure::some("peak memory", peak, "MiB"),
    ];
    let setup = format!(
        "{total} records with two images of 1 KB in {shards} shards, one worker with the default --buffer-bytes of \
         128 MiB."
    );
    let mut outcome = outcome(&STOPPED, setup, vec![Run { label: "one worker".to_owned(), figures }]);
    outcome.goals = vec![Goal::at_most("peak memory", peak, BUFFER_MIB + 64.0, " MiB")];
    Ok(outcome)
}
