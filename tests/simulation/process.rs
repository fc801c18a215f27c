//! One simulated process: a real `Worker` on a runtime and a clock of its own.
//!
//! Each process has its own current-thread runtime whose clock is driven from outside, a few milliseconds at a time.
//! So a crash is what a crash is: the runtime is dropped, with every task wherever it stands. A pause (SIGSTOP, a
//! frozen machine) is a runtime that isn't driven, whose clock then jumps. And the clocks of processes may run at
//! rates of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, Region, SharedAsyncSleep, SharedCredentialsProvider, SharedHttpClient,
};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use shardkeeper::internals::aws::clients::SdkConfig;
use shardkeeper::internals::consumer::WallClock;
use shardkeeper::{Report, StreamSelector, Worker, WorkerOptions};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::field::FieldScenario;
use super::history::{History, Ms};
use super::network::{Outbox, Wire};
use super::processor::{Behavior, Recorders};

/// The time of day at the simulation's start: ms since the epoch.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// The setup of a process.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its number, by which the history names it.
    pub number: usize,
    pub worker_id: String,
    pub seed: u64,
    pub lease_duration: Duration,
    pub kcl_failover_time: Duration,
    pub drain_timeout: Duration,
    /// The rate of its clock, in millionths of the true time.
    pub clock_ppm: u64,
    /// The error of its time of day, in ms.
    pub wall_offset_ms: i64,
    pub behavior: Behavior,
    pub field: FieldScenario,
}

/// A running process.
pub struct Process {
    pub number: usize,
    pub worker_id: String,
    /// Whether it was asked to stop.
    pub is_leaving: bool,
    /// Until when it is stopped, if it is.
    pub paused_until: Option<Ms>,
    /// Since when its machine is suspended, if it is.
    pub suspended_since: Option<Ms>,
    pub started: Ms,
    runtime: Option<Runtime>,
    task: JoinHandle<Result<Report, shardkeeper::Error>>,
    stop: Option<oneshot::Sender<()>>,
    base: Instant,
    clock_ppm: u64,
    /// The time for which its machine was suspended.
    suspended_ms: &'static AtomicU64,
}

impl Process {
    /// Starts a worker at the time `now`.
    pub fn start(setup: Setup, history: &History, outbox: &Outbox, table: &str, app: &str, now: Ms) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let entered = runtime.enter();
        let base = Instant::now();
        let start_ms = (EPOCH_MS + now).saturating_add_signed(setup.wall_offset_ms);
        let mut options = WorkerOptions::new(app, StreamSelector::Table(table.into()), &setup.worker_id);
        options.lease_duration = setup.lease_duration;
        options.kcl_failover_time = setup.kcl_failover_time;
        options.drain_timeout = setup.drain_timeout;
        options.seed = Some(setup.seed);
        let suspended_ms: &'static AtomicU64 = Box::leak(Box::default());
        let clock = WallClock::Simulated { start_ms, start: base, suspended_ms };
        options.clock = clock;
        options.own_thread = false;
        let wire = Wire { process: setup.number, outbox: outbox.clone() };
        let config = sdk_config(wire, SimulatedTime(clock));
        setup.field.apply(&mut options);
        setup.behavior.apply(&mut options, setup.number, history, setup.seed);
        let recorders = Recorders::new(setup.number, history.clone(), setup.behavior, setup.seed);
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = Worker::new(options, recorders).sdk_config(config);
        let task = runtime.spawn(worker.run(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        drop(entered);
        Self {
            number: setup.number,
            worker_id: setup.worker_id,
            is_leaving: false,
            paused_until: None,
            suspended_since: None,
            started: now,
            runtime: Some(runtime),
            task,
            stop: Some(stop),
            base,
            clock_ppm: setup.clock_ppm,
            suspended_ms,
        }
    }

    /// Lets the process run until the true time `now`, unless it is stopped.
    pub fn drive(&mut self, now: Ms) {
        if self.paused_until.is_some() {
            return;
        }
        let local = self.base + Duration::from_millis((now - self.started) * self.clock_ppm / 1_000_000);
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async { tokio::time::sleep_until(local).await });
        }
    }

    /// Lets a stopped process run again: it finds that time has passed at once.
    pub fn resume(&mut self, now: Ms) {
        self.paused_until = None;
        if let Some(since) = self.suspended_since.take() {
            // Its clock stood still, but for the one that counts suspension.
            self.started += now - since;
            self.suspended_ms.fetch_add(now - since, Ordering::AcqRel);
            return;
        }
        let local = self.base + Duration::from_millis((now - self.started) * self.clock_ppm / 1_000_000);
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async {
                let missed = local.saturating_duration_since(Instant::now());
                tokio::time::advance(missed).await;
            });
        }
    }

    /// The tasks that it holds in memory.
    pub fn tasks(&self) -> usize {
        self.runtime.as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
    }

    /// Asks the worker to stop, as SIGTERM does.
    pub fn ask_to_stop(&mut self) {
        self.is_leaving = true;
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// The worker's result, once it has ended.
    pub fn outcome(&mut self) -> Option<Result<Report, String>> {
        if !self.task.is_finished() {
            return None;
        }
        let runtime = self.runtime.as_ref()?;
        let ended = runtime.block_on(async { (&mut self.task).await });
        Some(match ended {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err(format!("{error:?}")),
            Err(panic) => Err(format!("it panicked: {panic}")),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Every task ends where it stands, as in a crash.
        if let Some(runtime) = self.runtime.take() {
            drop(runtime);
        }
    }
}

fn sdk_config(wire: Wire, time: SimulatedTime) -> SdkConfig {
    let credentials = Credentials::new("simulated", "simulated", None, None, "simulation");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(SharedHttpClient::new(wire))
        .time_source(SharedTimeSource::new(time))
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .build()
}

/// The time of day of a process.
#[derive(Debug)]
struct SimulatedTime(WallClock);

impl TimeSource for SimulatedTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.now_ms())
    }
}
