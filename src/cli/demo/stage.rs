//! The course of the demonstration: who comes when, and what is looked at all along.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::ledger::{Arrival, Ledger};
use super::screen::{Row, Screen, Total};
use super::workers::Workers;
use super::{table, writer};
use crate::cli::demo_config::DemoConfig;
use crate::cli::signals::{self, StopSignal};
use shardkeeper_local::{Clock, LocalOptions, LocalService};

/// How often the workers' pipes are looked at.
const SWEEP: Duration = Duration::from_millis(10);
/// How often the table is shown, and how often where it is renewed in its place.
const TABLE: Duration = Duration::from_secs(2);
const LIVE_TABLE: Duration = Duration::from_millis(500);
/// When a worker is killed and when another starts, unless the whole is too short for that.
const KILL_AT: Duration = Duration::from_secs(15);
const START_AT: Duration = Duration::from_secs(30);
/// For how long the last records may be on their way: time for a lease to run out and be taken over, and more.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// For how long workers may take to stop, a little more than they allow themselves.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// For how long the end of killed processes is waited for.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Everything on stage.
struct Stage {
    service: LocalService,
    ledger: Ledger,
    writer: JoinHandle<Result<(), anyhow::Error>>,
    workers: Workers,
    arrivals: Arrivals,
    screen: Screen,
    /// What each worker delivered, by its place among all.
    tallies: Vec<Tally>,
    /// Workers that ended without being asked to.
    crashes: usize,
    next_table: Instant,
    /// Resolves when somebody wants it to end; gone once it has.
    signal: Option<Pin<Box<dyn Future<Output = StopSignal> + Send>>>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    delivered: u64,
    /// The slowest delivery since the last table.
    slowest: Option<Duration>,
    was_killed: bool,
}

/// Why a part of the course is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cue {
    /// Its time is over.
    Time,
    /// What it waited for is there.
    Done,
    /// Somebody asked for the end.
    Signal,
}

/// Runs the demonstration to its verdict.
///
/// # Errors
/// It could not be run, or the verdict is bad.
pub async fn run(config: DemoConfig) -> Result<(), anyhow::Error> {
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let rollover = Some(config.rollover);
    let options = LocalOptions { initial_shards: config.shards, rollover, ..LocalOptions::default() };
    let service = LocalService::new(options, Clock::system());
    table::create(&service)?;
    let closing = CancellationToken::new();
    let served = tokio::spawn(service.clone().serve(listener, closing.clone().cancelled_owned()));

    let workers = Workers::new(address)?;
    let mut screen = Screen::new();
    screen.text(&opening(&config, &workers, &format!("http://{address}")));
    screen.flush()?;
    let writer_stop = CancellationToken::new();
    let ledger = Ledger::default();
    let writing = writer::write(service.clone(), ledger.clone(), config.records_per_second, writer_stop.clone());
    let mut stage = Stage {
        service,
        ledger,
        writer: tokio::spawn(writing),
        workers,
        arrivals: Arrivals::default(),
        screen,
        tallies: Vec::new(),
        crashes: 0,
        next_table: Instant::now() + TABLE,
        signal: Some(Box::pin(signal)),
    };
    stage.main_part(&config).await?;
    writer_stop.cancel();
    stage.end().await?;
    closing.cancel();
    served.await.context("the local service died")?.context("the local service failed")?;
    stage.verdict()
}

impl Stage {
    /// From the first worker's start to the writer's end.
    async fn main_part(&mut self, config: &DemoConfig) -> Result<(), anyhow::Error> {
        let start = Instant::now();
        for _ in 0..config.workers {
            self.start_worker()?;
        }
        if self.play(Some(start + KILL_AT.min(config.length / 4)), Self::is_over).await? != Cue::Time {
            return Ok(());
        }
        self.kill_worker()?;
        if self.play(Some(start + START_AT.min(config.length / 2)), Self::is_over_for_the_living).await? != Cue::Time {
            return Ok(());
        }
        let index = self.start_worker()?;
        let text = format!("starting {}: it takes its share of the shards", self.workers.all()[index].name);
        self.screen.happening(&text);
        let end = (!config.keep_going).then(|| start + config.length);
        self.play(end, Self::is_over).await?;
        Ok(())
    }

    /// From the writer's end to the workers'.
    async fn end(&mut self) -> Result<(), anyhow::Error> {
        (&mut self.writer).await.context("the writer died")??;
        let verdict = self.ledger.verdict();
        let written = counted(verdict.written, "record");
        let text = match verdict.missing() {
            0 => format!("the writer stopped after {written}; all are delivered"),
            missing => format!(
                "the writer stopped after {written}; waiting for {missing} still on the way (at most {}s)",
                DELIVERY_LIMIT.as_secs()
            ),
        };
        self.screen.happening(&text);
        let limit = Instant::now() + DELIVERY_LIMIT;
        let all_there = |stage: &Self| stage.ledger.verdict().missing() == 0 || !stage.workers.any_running();
        if self.play(Some(limit), all_there).await? == Cue::Time {
            let missing = counted(self.ledger.verdict().missing(), "record");
            self.screen.trouble(&format!("{missing} did not come in time"));
        }
        self.screen.happening("asking the workers to stop (SIGTERM)");
        self.workers.stop();
        let all_gone = |stage: &Self| stage.workers.all_ended() && stage.arrivals.is_empty();
        if self.play(Some(Instant::now() + STOP_LIMIT), all_gone).await? != Cue::Done {
            let left = self.workers.kill_all();
            let text = format!("killed {} that did not stop in time", counted(left as u64, "worker"));
            self.screen.trouble(&text);
            self.crashes += left;
            self.play(Some(Instant::now() + KILL_LIMIT), all_gone).await?;
        }
        Ok(())
    }

    fn verdict(mut self) -> Result<(), anyhow::Error> {
        let verdict = self.ledger.verdict();
        self.screen.verdict(&verdict, self.crashes);
        self.screen.flush()?;
        if verdict.is_good() && self.crashes == 0 {
            return Ok(());
        }
        let logs = self.workers.folder().display();
        bail!("the demonstration did not go as it should; the workers' logs are in {logs}")
    }

    /// Whether nothing more can come of going on: the writer failed, or all workers are gone.
    fn is_over(&self) -> bool {
        self.writer.is_finished() || !self.workers.any_running()
    }

    /// The same while another worker is still to be started.
    fn is_over_for_the_living(&self) -> bool {
        self.writer.is_finished()
    }

    fn start_worker(&mut self) -> Result<usize, anyhow::Error> {
        self.tallies.push(Tally::default());
        self.workers.start()
    }

    fn kill_worker(&mut self) -> Result<(), anyhow::Error> {
        let Some(victim) = self.workers.victim() else { return Ok(()) };
        let name = self.workers.all()[victim].name.clone();
        let held = table::shards_held(&self.service)?.get(&name).copied().unwrap_or_default();
        self.workers.kill(victim).with_context(|| format!("cannot kill {name}"))?;
        self.tallies[victim].was_killed = true;
        let held = counted(held as u64, "shard");
        let text = format!("killed {name} (kill -9), which held {held}: the others take over once its leases run out");
        self.screen.happening(&text);
        Ok(())
    }

    /// Goes on until `end`, or until `is_done`, or until somebody asks for the end, and shows all the while what comes.
    async fn play(&mut self, end: Option<Instant>, is_done: impl Fn(&Self) -> bool) -> Result<Cue, anyhow::Error> {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                signal = wait_for(&mut self.signal) => {
                    self.signal = None;
                    self.screen.happening(&format!("{signal}: ending in good order; once more ends it at once"));
                    return Ok(Cue::Signal);
                }
                _ = ticks.tick() => {}
            }
            self.look()?;
            if is_done(self) {
                return Ok(Cue::Done);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(Cue::Time);
            }
        }
    }

    /// Looks at everything once.
    fn look(&mut self) -> Result<(), anyhow::Error> {
        // Before the pipes are read: what a process wrote before its end is then found in this sweep.
        let deaths = self.workers.deaths();
        let sweep = self.workers.sweep();
        for (delivery, arrival) in self.arrivals.sweep(&self.ledger, sweep.deliveries) {
            let tally = &mut self.tallies[delivery.worker];
            tally.delivered += 1;
            if let Arrival::InOrder(delay) | Arrival::OutOfOrder(delay) = arrival {
                tally.slowest = tally.slowest.max(Some(delay));
            }
            self.screen.record(&self.workers.all()[delivery.worker].name, &delivery, arrival);
        }
        for (worker, line) in sweep.strange_lines {
            let name = &self.workers.all()[worker].name;
            self.screen.trouble(&format!("{name} wrote a line that is no record of a phone: {line}"));
        }
        for death in deaths {
            self.crashes += 1;
            let name = &self.workers.all()[death.worker].name;
            self.screen.trouble(&format!("{name} died ({}); the end of its log:", death.status));
            for line in death.last_lines {
                self.screen.text(&format!("           {line}"));
            }
        }
        if Instant::now() >= self.next_table {
            self.next_table = Instant::now() + if self.screen.is_live() { LIVE_TABLE } else { TABLE };
            self.show_table()?;
        }
        self.screen.flush()
    }

    fn show_table(&mut self) -> Result<(), anyhow::Error> {
        let held = table::shards_held(&self.service)?;
        let mut rows = Vec::new();
        for (worker, tally) in self.workers.all().iter().zip(&mut self.tallies) {
            rows.push(Row {
                name: worker.name.clone(),
                shards: held.get(&worker.name).copied().unwrap_or_default(),
                delivered: tally.delivered,
                lag: tally.slowest.take(),
                remark: match (tally.was_killed, worker.is_running()) {
                    (true, _) => "killed",
                    (false, true) => "",
                    (false, false) => "stopped",
                },
            });
        }
        let total = Total { verdict: self.ledger.verdict(), longest_wait: self.ledger.longest_wait() };
        self.screen.table(&rows, total);
        Ok(())
    }
}

async fn wait_for(signal: &mut Option<Pin<Box<dyn Future<Output = StopSignal> + Send>>>) -> StopSignal {
    match signal {
        Some(signal) => signal.await,
        None => std::future::pending().await,
    }
}

/// A number of things: `1 shard`, `2 shards`.
fn counted(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

fn opening(config: &DemoConfig, workers: &Workers, endpoint: &str) -> String {
    let (shards, rollover) = (counted(config.shards.into(), "shard"), config.rollover);
    let count = counted(config.workers.into(), "worker");
    let until = match config.keep_going {
        true => "until Ctrl-C".to_string(),
        false => format!("for {:?}", config.length),
    };
    format!(
        "shardkeeper demo, {until}: {count}, the stream of the table {phones}\n  \
         stream   {shards}, each closed and followed by a child after {rollover:?}\n  \
         writer   {rate} inserts, changes and removals a second\n  \
         service  {endpoint} (DynamoDB with Streams, in this process; data in memory)\n  \
         workers  shardkeeper run --table {phones} --app {app} --worker-id worker-N --to stdout\n  \
         logs     {logs}/worker-N.log\n",
        rate = config.records_per_second,
        phones = table::TABLE,
        app = table::APP,
        logs = workers.folder().display(),
    )
}
