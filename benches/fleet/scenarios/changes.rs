//! A live stream: how long a record takes, in quiet times and when the fleet changes.

use std::time::Duration;

use anyhow::ensure;

use super::{MIB, Rates, Scenario, Stage, rates, wait_for_balance};
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
/// How much of the time behind a change counts to it.
const AFTERMATH: Duration = Duration::from_secs(15);

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
    let aftermath = stage.pick(Duration::from_secs(6), AFTERMATH);
    let mut fleet = Fleet::start(stage, shards, per_second, &["worker-1", "worker-2", "worker-3"])?;
    stage.let_pass("settling", Duration::from_secs(stage.pick(1, 10)));
    let mut windows = vec![("at rest", fleet.deliveries.now(), None)];
    stage.let_pass("at rest", aftermath / 3);

    stage.progress.step("killing a worker");
    windows.push(("kill -9", fleet.deliveries.now(), None));
    fleet.drop_worker("worker-3", "KILL")?;
    windows[1].2 = Some(fleet.balance()?);
    stage.let_pass("after the kill", aftermath);

    windows.push(("a worker joins", fleet.deliveries.now(), None));
    fleet.add("worker-4")?;
    windows[2].2 = Some(fleet.balance()?);
    stage.let_pass("after the join", aftermath);

    windows.push(("a worker leaves (SIGTERM)", fleet.deliveries.now(), None));
    fleet.drop_worker("worker-2", "TERM")?;
    windows[3].2 = Some(fleet.balance()?);
    stage.let_pass("after it left", aftermath);

    windows.push(("all shards roll over", fleet.deliveries.now(), None));
    fleet.client.roll_over()?;
    windows[4].2 = Some(fleet.balance()?);
    stage.let_pass("after the roll-over", aftermath);

    let deliveries = fleet.deliveries.clone();
    let end = deliveries.now();
    fleet.finish(Duration::ZERO, end)?;
    let mut runs = Vec::new();
    for (index, (label, from, balance)) in windows.iter().enumerate() {
        // A record that was written just before a change may wait for its end too.
        let slack = Duration::from_secs(if balance.is_some() { 1 } else { 0 });
        let to = windows.get(index + 1).map_or(end, |(_, next, _)| *next - Duration::from_secs(1));
        let delays = deliveries.delays(*from - slack, to, |_| true);
        let mut figures = delay_figures(&delays)?;
        figures.push(Figure::any("records delivered again", delays.again as f64, ""));
        if let Some(balance) = balance {
            figures.push(Figure::any("until the shards are divided evenly", balance.as_secs_f64() * 1000.0, "ms"));
        }
        runs.push(Run { label: (*label).to_owned(), figures });
    }
    let setup = format!(
        "{per_second} records a second in {shards} shards, three workers (two from the kill to the join and at the end) \
         with default settings (leases of 5 s). The longest delay is how long a shard stood still."
    );
    Ok(outcome(&CHANGES, setup, runs))
}

/// Workers on a live stream.
struct Fleet<'a> {
    stage: &'a Stage,
    service: Service,
    client: Client,
    deliveries: Deliveries,
    flow: Flow,
    workers: Vec<(&'static str, Reader)>,
    shards: usize,
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
        let mut fleet = Self { stage, service, client, deliveries, flow, workers: Vec::new(), shards };
        for id in ids {
            fleet.add(id)?;
        }
        fleet.balance()?;
        Ok(fleet)
    }

    fn add(&mut self, id: &'static str) -> Result<(), anyhow::Error> {
        let mut worker = Reader::worker(&self.service, self.stage.folder(), APP, id, "--to stdout")?;
        self.deliveries.read(worker.stdout()?);
        self.workers.push((id, worker));
        Ok(())
    }

    /// Sends a worker a signal and counts on it no more. One that was asked to stop must come to a good end.
    fn drop_worker(&mut self, id: &str, signal: &str) -> Result<(), anyhow::Error> {
        let index = self.workers.iter().position(|(name, _)| *name == id);
        let (_, worker) = self.workers.remove(index.unwrap_or(0));
        worker.process.signal(signal)?;
        if signal == "TERM" {
            worker.finish(LIMIT)?;
        }
        Ok(())
    }

    /// Waits until the shards are divided evenly.
    fn balance(&mut self) -> Result<Duration, anyhow::Error> {
        let ids: Vec<&str> = self.workers.iter().map(|(id, _)| *id).collect();
        wait_for_balance(&mut self.client, APP, &ids, self.shards, LIMIT)
    }

    fn cpu(&self) -> Result<Duration, anyhow::Error> {
        self.workers.iter().map(|(_, worker)| worker.process.cpu()).sum()
    }

    /// Ends the flow; everything written must have come out. Answers the delays in a time.
    fn finish(self, from: Duration, to: Duration) -> Result<Delays, anyhow::Error> {
        self.stage.progress.step("waiting for the last records");
        let balance = self.flow.finish(&self.deliveries, LIMIT)?;
        ensure!(balance.written > 0, "nothing was written");
        for (_, worker) in self.workers {
            worker.process.signal("TERM")?;
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

/// What the service was asked for, a second.
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
