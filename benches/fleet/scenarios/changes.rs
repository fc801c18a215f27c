//! A live stream: how long a record takes, in quiet times and when the fleet changes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{MIB, Rates, Scenario, Stage, rates, wait_for_rest};
use crate::live::{Delays, Deliveries, Flow};
use crate::report::{Curve, Figure, Outcome, Run, outcome};
use crate::service::{Client, Service};
use crate::workers::Reader;

/// A fleet at rest.
pub const LIVE: Scenario = Scenario { name: "live", title: "delivery delay of a steady flow", run: live };
/// A fleet in which something happens.
pub const CHANGES: Scenario = Scenario {
    name: "changes",
    title: "how long records wait when a worker is killed, joins or leaves, and at roll-over",
    run: changes,
};

const APP: &str = "live";
const LIMIT: Duration = Duration::from_secs(60);
/// The time behind a change that counts to it.
const AFTERMATH: Duration = Duration::from_secs(15);
/// Records that were written this long before a change count to it.
const SLACK: Duration = Duration::from_millis(500);

fn live(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let (shards, per_second) = stage.pick((4, 200), (16, 2000));
    let time = Duration::from_secs(stage.pick(2, 30));
    let mut fleet = Fleet::start(stage, shards, per_second, &["worker-1", "worker-2"])?;
    stage.let_pass("settling", Duration::from_secs(stage.pick(1, 10)));
    let (from, cpu) = (fleet.deliveries.now(), fleet.cpu()?);
    let rates = rates(stage, &mut fleet.client, "measuring", time)?;
    let cpu = fleet.cpu()?.saturating_sub(cpu).as_secs_f64() / rates.seconds;
    let peak = fleet.workers.iter_mut().map(|(_, worker)| worker.process.peak_bytes()).max().unwrap_or(0);
    let delays = fleet.finish(from, from + time)?;
    let mut figures = delay_figures(&delays)?;
    figures.extend(rate_figures(&rates, APP));
    figures.push(Figure::any("CPU of both workers", cpu * 100.0, "% of a core"));
    figures.push(Figure::some("peak memory of the larger worker", peak as f64 / MIB, "MiB"));
    let setup = format!(
        "{per_second} records a second in {shards} shards, two workers with default settings, {} s; {} records.",
        time.as_secs(),
        delays.count()
    );
    let mut outcome = outcome(&LIVE, setup, vec![Run { label: "two workers".to_owned(), figures }]);
    outcome.curves = vec![curve("two workers", &delays)?];
    Ok(outcome)
}

fn changes(stage: &Stage) -> Result<Outcome, anyhow::Error> {
    let (shards, per_second) = stage.pick((6, 150), (24, 1000));
    let aftermath = stage.pick(Duration::from_secs(1), AFTERMATH);
    let mut fleet = Fleet::start(stage, shards, per_second, &["worker-1", "worker-2", "worker-3"])?;
    stage.let_pass("settling", Duration::from_secs(stage.pick(1, 10)));
    let mut phases = vec![Phase { label: "at rest", from: fleet.deliveries.now(), until_rest: None }];
    stage.let_pass("at rest", aftermath);
    let steps: [(&'static str, Step); 4] = [
        ("kill -9", |fleet| fleet.signal("worker-3", "KILL")),
        ("a worker joins", |fleet| fleet.add("worker-4")),
        ("a worker leaves (SIGTERM)", |fleet| fleet.signal("worker-2", "TERM")),
        ("all shards roll over", |fleet| fleet.roll_over()),
    ];
    for (label, step) in steps {
        stage.progress.step(label);
        let from = fleet.deliveries.now();
        step(&mut fleet)?;
        let until_rest = Some(fleet.rest()?);
        phases.push(Phase { label, from, until_rest });
        stage.let_pass("its aftermath", aftermath);
    }
    let deliveries = fleet.deliveries.clone();
    let end = deliveries.now();
    fleet.finish(Duration::ZERO, end)?;
    let mut runs = Vec::new();
    for (index, phase) in phases.iter().enumerate() {
        // A record that was written just before a change may wait for its end too.
        let slack = if phase.until_rest.is_some() { SLACK } else { Duration::ZERO };
        let to = phases.get(index + 1).map_or(end, |next| next.from - SLACK);
        runs.push(phase.to_run(&deliveries.delays(phase.from - slack, to, |_| true))?);
    }
    let setup = format!(
        "{per_second} records a second in {shards} shards, three workers (two from the kill to the join and at the end) \
         with default settings (leases of 5 s). The longest delay is the longest stall of a shard."
    );
    Ok(outcome(&CHANGES, setup, runs))
}

/// A change of the fleet.
type Step = fn(&mut Fleet<'_>) -> Result<(), anyhow::Error>;

/// A time in the life of the fleet, up to the next one.
struct Phase {
    label: &'static str,
    from: Duration,
    /// The time until the last shard had moved.
    until_rest: Option<Duration>,
}

impl Phase {
    fn to_run(&self, delays: &Delays) -> Result<Run, anyhow::Error> {
        let mut figures = delay_figures(delays)?;
        figures.push(Figure::any("records delivered again", delays.again as f64, ""));
        if let Some(time) = self.until_rest {
            figures.push(Figure::any("until the last shard had moved", time.as_secs_f64() * 1000.0, "ms"));
        }
        Ok(Run { label: self.label.to_owned(), figures })
    }
}

/// Workers on a live stream.
struct Fleet<'a> {
    stage: &'a Stage,
    service: Service,
    client: Client,
    deliveries: Deliveries,
    flow: Flow,
    workers: Vec<(&'static str, Reader)>,
    /// Workers that were asked to stop, or killed.
    gone: Vec<Reader>,
    shards: usize,
    /// Shards that have rolled over.
    old_shards: BTreeSet<String>,
}

impl<'a> Fleet<'a> {
    /// Starts workers and the flow, and waits until the shards are divided.
    fn start(stage: &'a Stage, shards: u32, rate: u64, ids: &[&'static str]) -> Result<Self, anyhow::Error> {
        stage.progress.step("starting the fleet");
        let service = Service::start(shards, "NEW_IMAGE")?;
        let (client, deliveries) = (service.client()?, Deliveries::new());
        // Enough keys for each shard to have some.
        let flow = Flow::start(service.client()?, &deliveries, rate, u64::from(shards) * 20);
        let shards = shards as usize;
        let (workers, gone, old_shards) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut fleet = Self { stage, service, client, deliveries, flow, workers, gone, shards, old_shards };
        for id in ids {
            fleet.add(id)?;
        }
        fleet.rest()?;
        Ok(fleet)
    }

    fn add(&mut self, id: &'static str) -> Result<(), anyhow::Error> {
        let mut worker = Reader::worker(&self.service, self.stage.folder(), APP, id, "--to stdout")?;
        self.deliveries.read(worker.stdout()?);
        self.workers.push((id, worker));
        Ok(())
    }

    /// Sends a worker a signal and counts on it no more.
    fn signal(&mut self, id: &str, signal: &str) -> Result<(), anyhow::Error> {
        let index = self.workers.iter().position(|(name, _)| *name == id);
        let (_, worker) = self.workers.remove(index.with_context(|| format!("there is no {id}"))?);
        worker.process.signal(signal)?;
        if signal == "TERM" {
            self.gone.push(worker);
        }
        Ok(())
    }

    fn roll_over(&mut self) -> Result<(), anyhow::Error> {
        self.old_shards.extend(self.client.owners(APP)?.into_keys());
        self.client.roll_over()
    }

    /// Waits until the last shard had moved.
    fn rest(&mut self) -> Result<Duration, anyhow::Error> {
        let ids: Vec<&str> = self.workers.iter().map(|(id, _)| *id).collect();
        let is_new = |shard: &str| !self.old_shards.contains(shard);
        wait_for_rest(&mut self.client, APP, &ids, self.shards, is_new)
    }

    fn cpu(&self) -> Result<Duration, anyhow::Error> {
        self.workers.iter().map(|(_, worker)| worker.process.cpu()).sum()
    }

    /// Ends the flow; everything written must have come out. TableHealth the delays in a time.
    fn finish(self, from: Duration, to: Duration) -> Result<Delays, anyhow::Error> {
        self.stage.progress.step("waiting for the last records");
        let balance = self.flow.finish(&self.deliveries, LIMIT)?;
        ensure!(balance.written > 0, "nothing was written");
        for (_, worker) in &self.workers {
            worker.process.signal("TERM")?;
        }
        // A worker that is asked to stop ends well.
        for worker in self.workers.into_iter().map(|(_, worker)| worker).chain(self.gone) {
            worker.finish(LIMIT)?;
        }
        Ok(self.deliveries.delays(from, to, |_| true))
    }
}

/// The usual three.
pub(super) fn delay_figures(delays: &Delays) -> Result<Vec<Figure>, anyhow::Error> {
    Ok(vec![
        Figure::some("delay, half of the records below", delays.quantile_ms(0.5)?, "ms"),
        Figure::some("delay, 99 % below", delays.quantile_ms(0.99)?, "ms"),
        Figure::some("delay, longest", delays.quantile_ms(1.0)?, "ms"),
    ])
}

/// Calls to the service, a second.
pub(super) fn rate_figures(rates: &Rates, app: &str) -> Vec<Figure> {
    let (reads, writes) = rates.units(app);
    vec![
        Figure::some("GetRecords calls a second", rates.calls("GetRecords"), ""),
        Figure::some("read units a second, lease and fleet table", reads, ""),
        Figure::some("write units a second, lease and fleet table", writes, ""),
    ]
}

/// The distribution, a point each hundredth.
pub(super) fn curve(label: &str, delays: &Delays) -> Result<Curve, anyhow::Error> {
    let parts = (0..=100).map(|hundredth| f64::from(hundredth) / 100.0);
    let points = parts.map(|part| Ok((delays.quantile_ms(part)?, part)));
    Ok(Curve { label: label.to_owned(), points: points.collect::<Result<_, anyhow::Error>>()? })
}
