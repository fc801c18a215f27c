//! The course of the demonstration: when workers start, are killed and stop, and what is shown meanwhile.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::checker::{Check, DeliveryChecker};
use super::reorder::ReorderBuffer;
use super::screen::{Row, Screen, Total};
use super::workers::Workers;
use super::{browser, table, writer};
use crate::cli::args::demo::DemoArgs;
use crate::cli::signals::{self, StopSignal};
use shardkeeper_local::{Clock, LocalOptions, LocalService};

/// The time between two reads of the workers' pipes.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// The time between two tables, and between two updates of one that stays on the screen.
const TABLE_INTERVAL: Duration = Duration::from_secs(2);
const LIVE_TABLE_INTERVAL: Duration = Duration::from_millis(500);
/// The times at which a worker is killed and another one starts, unless the demonstration is too short.
const KILL_AT: Duration = Duration::from_secs(15);
const START_AT: Duration = Duration::from_secs(30);
/// The limit for the last deliveries. A lease may have to expire and be taken over meanwhile.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// The limit for stopping, a little longer than the workers' own.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The limit for the end of killed processes.
const KILL_LIMIT: Duration = Duration::from_secs(5);

struct Scenario {
    service: LocalService,
    checker: DeliveryChecker,
    writer: JoinHandle<Result<(), anyhow::Error>>,
    workers: Workers,
    reorder: ReorderBuffer,
    screen: Screen,
    /// The deliveries of each worker, by its index.
    tallies: Vec<Tally>,
    crashes: usize,
    next_table: Instant,
    /// Whether the page is opened in a browser as soon as it is there; none once it is shown.
    page: Option<bool>,
    /// The first signal to stop, until it came.
    signal: Option<Pin<Box<dyn Future<Output = StopSignal> + Send>>>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    delivered: u64,
    /// Since the last table.
    slowest: Option<Duration>,
    was_killed: bool,
}

/// The reason why a phase of the demonstration ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PhaseEnd {
    Timeout,
    Done,
    Signal,
}

/// Runs the demonstration to its verdict.
///
/// # Errors
/// When it could not be run, or the verdict is bad.
pub async fn run(args: &DemoArgs) -> Result<(), anyhow::Error> {
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let rollover = Some(args.rollover);
    let options = LocalOptions { initial_shards: args.shards, rollover, ..LocalOptions::default() };
    let service = LocalService::new(options, Clock::system());
    table::create(&service)?;
    let closing = CancellationToken::new();
    let served = tokio::spawn(service.clone().serve(listener, closing.clone().cancelled_owned()));

    let workers = Workers::new(address)?;
    let mut screen = Screen::new();
    screen.text(&opening(args, &workers, &format!("http://{address}")));
    screen.flush()?;
    let writer_stop = CancellationToken::new();
    let checker = DeliveryChecker::default();
    let writing = writer::write(service.clone(), checker.clone(), args.rate, writer_stop.clone());
    let mut scenario = Scenario {
        service,
        checker,
        writer: tokio::spawn(writing),
        workers,
        reorder: ReorderBuffer::default(),
        screen,
        tallies: Vec::new(),
        crashes: 0,
        next_table: Instant::now() + TABLE_INTERVAL,
        page: Some(args.open),
        signal: Some(Box::pin(signal)),
    };
    scenario.run_workers(args).await?;
    writer_stop.cancel();
    scenario.shut_down().await?;
    closing.cancel();
    served.await.context("the local service panicked")?.context("the local service failed")?;
    scenario.verdict()
}

impl Scenario {
    /// Starts the workers, kills one of them and starts another, until the end of the demonstration.
    async fn run_workers(&mut self, args: &DemoArgs) -> Result<(), anyhow::Error> {
        let start = Instant::now();
        for _ in 0..args.workers {
            self.start_worker()?;
        }
        if self.run_until(Some(start + KILL_AT.min(args.length / 4)), Self::is_over).await? != PhaseEnd::Timeout {
            return Ok(());
        }
        self.kill_worker()?;
        if self.run_until(Some(start + START_AT.min(args.length / 2)), Self::has_writer_failed).await?
            != PhaseEnd::Timeout
        {
            return Ok(());
        }
        let index = self.start_worker()?;
        let text = format!("starting {}: it gets a share of the shards", self.workers.all()[index].name);
        self.screen.event(&text);
        let end = (!args.keep_going).then(|| start + args.length);
        self.run_until(end, Self::is_over).await?;
        Ok(())
    }

    /// Waits for the last deliveries and stops the workers.
    async fn shut_down(&mut self) -> Result<(), anyhow::Error> {
        (&mut self.writer).await.context("the writer panicked")??;
        let verdict = self.checker.verdict();
        let written = counted(verdict.written, "record");
        let text = match verdict.missing() {
            0 => format!("the writer stopped after {written}; all are delivered"),
            missing => format!(
                "the writer stopped after {written}; waiting for {missing} that are not delivered yet (at most {}s)",
                DELIVERY_LIMIT.as_secs()
            ),
        };
        self.screen.event(&text);
        let limit = Instant::now() + DELIVERY_LIMIT;
        let all_delivered =
            |scenario: &Self| scenario.checker.verdict().missing() == 0 || !scenario.workers.any_running();
        if self.run_until(Some(limit), all_delivered).await? == PhaseEnd::Timeout {
            let missing = counted(self.checker.verdict().missing(), "record");
            self.screen.error(&format!("{missing} did not arrive in time"));
        }
        self.screen.event("asking the workers to stop (SIGTERM)");
        self.workers.stop();
        let all_stopped = |scenario: &Self| scenario.workers.all_ended() && scenario.reorder.is_empty();
        if self.run_until(Some(Instant::now() + STOP_LIMIT), all_stopped).await? != PhaseEnd::Done {
            let left = self.workers.kill_all();
            let text = format!("killed {} that did not stop in time", counted(left as u64, "worker"));
            self.screen.error(&text);
            self.crashes += left;
            self.run_until(Some(Instant::now() + KILL_LIMIT), all_stopped).await?;
        }
        Ok(())
    }

    fn verdict(mut self) -> Result<(), anyhow::Error> {
        let verdict = self.checker.verdict();
        self.screen.verdict(&verdict, self.crashes);
        self.screen.flush()?;
        if verdict.is_good() && self.crashes == 0 {
            return Ok(());
        }
        let logs = self.workers.logs().display();
        bail!("the demonstration failed; the workers' logs are in {logs}")
    }

    /// Whether the writer failed or all workers are gone.
    fn is_over(&self) -> bool {
        self.writer.is_finished() || !self.workers.any_running()
    }

    fn has_writer_failed(&self) -> bool {
        self.writer.is_finished()
    }

    fn start_worker(&mut self) -> Result<usize, anyhow::Error> {
        self.tallies.push(Tally::default());
        self.workers.start()
    }

    fn kill_worker(&mut self) -> Result<(), anyhow::Error> {
        let Some(index) = self.workers.worker_to_kill() else { return Ok(()) };
        let name = self.workers.all()[index].name.clone();
        let held = table::shards_held(&self.service)?.get(&name).copied().unwrap_or_default();
        self.workers.kill(index).with_context(|| format!("cannot kill {name}"))?;
        self.tallies[index].was_killed = true;
        let held = counted(held as u64, "shard");
        let text = format!("killed {name} (kill -9), which held {held}: the others take over when its leases expire");
        self.screen.event(&text);
        Ok(())
    }

    /// Shows everything that happens until `end`, `is_done` or a signal.
    async fn run_until(
        &mut self,
        end: Option<Instant>,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<PhaseEnd, anyhow::Error> {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                signal = wait_for(&mut self.signal) => {
                    self.signal = None;
                    self.screen.event(&format!("{signal}: stopping in order; a second signal stops at once"));
                    return Ok(PhaseEnd::Signal);
                }
                _ = ticks.tick() => {}
            }
            self.update()?;
            if is_done(self) {
                return Ok(PhaseEnd::Done);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(PhaseEnd::Timeout);
            }
        }
    }

    /// Reads and shows everything that has happened since the last call.
    fn update(&mut self) -> Result<(), anyhow::Error> {
        // Before the pipes are read, so that this sweep finds the last lines of a process that ended.
        let crashes = self.workers.crashes();
        let sweep = self.workers.sweep();
        for (delivery, check) in self.reorder.sweep(&self.checker, sweep.deliveries) {
            let tally = &mut self.tallies[delivery.worker];
            tally.delivered += 1;
            if let Check::InOrder(delay) | Check::OutOfOrder(delay) = check {
                tally.slowest = tally.slowest.max(Some(delay));
            }
            self.screen.record(&self.workers.all()[delivery.worker].name, &delivery, check);
        }
        for (worker, line) in sweep.other_lines {
            let name = &self.workers.all()[worker].name;
            self.screen.error(&format!("{name} wrote a line that is no record of a phone: {line}"));
        }
        for crash in crashes {
            self.crashes += 1;
            let name = &self.workers.all()[crash.worker].name;
            self.screen.error(&format!("{name} crashed ({}); the end of its log:", crash.status));
            for line in crash.last_lines {
                self.screen.text(&format!("           {line}"));
            }
        }
        if let Some(is_opened) = self.page
            && let Some(page) = self.workers.page(0)
        {
            self.page = None;
            self.screen.event(&format!("the page of worker-1 shows the whole fleet: {page}"));
            if is_opened && !browser::open(&page) {
                self.screen.event("no browser could be started: open that page yourself");
            }
        }
        if Instant::now() >= self.next_table {
            self.next_table = Instant::now() + if self.screen.is_live() { LIVE_TABLE_INTERVAL } else { TABLE_INTERVAL };
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
                note: match (tally.was_killed, worker.is_running()) {
                    (true, _) => "killed",
                    (false, true) => "",
                    (false, false) => "stopped",
                },
            });
        }
        let total = Total { verdict: self.checker.verdict(), longest_wait: self.checker.longest_wait() };
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

/// `1 shard`, `2 shards`.
fn counted(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

fn opening(args: &DemoArgs, workers: &Workers, endpoint: &str) -> String {
    let (shards, rollover) = (counted(args.shards.into(), "shard"), args.rollover);
    let count = counted(args.workers.into(), "worker");
    let until = match args.keep_going {
        true => "until Ctrl-C".to_string(),
        false => format!("for {:?}", args.length),
    };
    format!(
        "shardkeeper demo, {until}: {count}, the stream of the table {phones}\n  \
         stream   {shards}, each closed and followed by a child after {rollover:?}\n  \
         writer   {rate} inserts, changes and removals a second\n  \
         service  {endpoint} (DynamoDB with Streams, in this process; data in memory)\n  \
         workers  shardkeeper run --table {phones} --app {app} --worker-id worker-N --to stdout\n  \
         logs     {logs}/worker-N.log\n",
        rate = args.rate,
        phones = table::TABLE,
        app = table::APP,
        logs = workers.logs().display(),
    )
}
