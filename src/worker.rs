//! The worker: everything wired together.
//!
//! A [`Worker`] finds its stream, makes sure of its tables, joins its fleet and reads shards until it is asked to
//! stop. Coordination runs on a thread and HTTP connections of its own, so that neither decoding nor a processor that
//! blocks can keep it from proving the worker alive.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::aws::clients::{self, Clients, ConfigError, Endpoints, SdkConfig};
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::{FindError, Stream, find_stream};
use crate::aws::worker_table::{LeaderRecord, WorkerTable};
use crate::aws::{self, TableError};
use crate::consumer::{
    Budget, Checkpoints, ConsumerDeps, ConsumerSpawner, Counters, FailurePolicy, LeaseDeadline, OnFailure, OnGap,
    ProcessorFactory, Totals, WallClock,
};
use crate::coordination::{self, Coordinator, WorkerExit};
use crate::model::batcher::{MOST_BYTES, MOST_RECORDS};
use crate::model::checkpoint::Checkpoint;
use crate::model::filter::{self, Filters};
use crate::model::lease::WorkerId;
use crate::model::polling::Backoff;
use crate::model::rng::Rng;
use crate::model::scaling::ScalingOptions;
use crate::telemetry::{self, WorkerTelemetry};

/// Which stream a worker reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSelector {
    /// The latest stream of this table.
    Table(String),
    /// The stream with this ARN.
    Arn(String),
}

/// How a worker reads and takes part in its fleet. SpawnConsumer from [`Options::new`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The application: the name of its lease table. Workers of one application share the stream's shards.
    pub app: String,
    /// The stream.
    pub stream: StreamSelector,
    /// This worker's id: unique in the application, and best the same after a restart, which then takes its own leases
    /// back at once.
    pub worker_id: String,
    /// Where the services are, if not where the AWS environment says.
    pub endpoints: Endpoints,
    /// Where a new application begins: [`Checkpoint::TrimHorizon`] (default) or [`Checkpoint::Latest`].
    pub start: Checkpoint,
    /// Whether missing tables are made (default: yes).
    pub create_tables: bool,
    /// Whether to end when everything that was in the stream at the start is delivered (default: no).
    pub until_caught_up: bool,
    /// For how long a worker that shows no sign of life keeps its leases (default: 5 s). The same for all workers.
    pub lease_duration: Duration,
    /// When checkpoints are written (default: automatically, each 5 s).
    pub checkpoints: Checkpoints,
    /// What follows when a batch fails (default: it is tried again for ever, in ever smaller parts, while its shard
    /// waits).
    pub failure: FailurePolicy,
    /// The most batches that are worked on at once, over all shards (default: no limit but one a shard).
    pub concurrency: Option<usize>,
    /// The most batches of one shard that are worked on at once (default: 1, in the shard's order). Above one, the
    /// records of one item stay in order and come one batch at a time, those of different items do not.
    pub shard_concurrency: usize,
    /// The most records of a batch, from 1 to 10,000 (default: as many as a page has).
    pub batch_size: Option<usize>,
    /// The most bytes of a batch, as JSON, up to 4 MiB; a single record may be larger (default: no limit).
    pub batch_bytes: Option<usize>,
    /// How long a batch waits to fill up to `batch_size` or `batch_bytes` (default: not at all).
    pub batch_window: Duration,
    /// The longest gap between two calls on an empty shard (default: 1 s).
    pub idle_poll: Duration,
    /// The most bytes of records held in memory, for all shards together (default: 128 MiB).
    pub buffer_bytes: u64,
    /// The most leases that this worker will hold (default: no limit).
    pub max_leases: Option<usize>,
    /// How long a call of a processor may last before the worker gives its shard to another one, if there is any
    /// (default: no limit). What the call still does to the outside is not undone; what it returns is refused.
    pub stuck_after: Option<Duration>,
    /// How long a shard may stand still, by its processor or by reading that fails, before the worker says that it is
    /// not ready (default: 60 s).
    pub unready_after: Duration,
    /// By what the number of workers is judged that the load calls for (default: at least one, each of which processes
    /// 10 MiB a second, and a backlog worked off in ten minutes).
    pub desired_workers: ScalingOptions,
    /// How long to try to reach the services at the start (default: 60 s).
    pub start_timeout: Duration,
    /// How long a worker that is asked to stop waits for its processors and for its leases to be handed over
    /// (default: 25 s).
    pub drain_timeout: Duration,
    /// What to do when records were trimmed before they were read (default: go on).
    pub on_gap: OnGap,
    /// Which records the processors get (default: all). The others are read and passed over.
    pub filters: Filters,
    /// For how long leases whose owner isn't in the fleet table must stand still before the owner counts as dead
    /// (default: 10 s, KCL's own).
    pub kcl_failover_time: Duration,
    /// What everything that is left to chance follows from; `None` for a seed that nobody knows.
    pub seed: Option<u64>,
    /// The time of day, for lag and logs.
    pub clock: WallClock,
    /// Whether coordination gets a thread and connections of its own (default), or shares the caller's runtime, as a
    /// simulation wants it.
    pub own_thread: bool,
}

/// How a worker came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What ended it.
    pub ending: WorkerExit,
    /// What it did.
    pub totals: Totals,
}

/// Why a worker ended without having been asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The AWS environment lacks something.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that no worker of this fleet could go on after.
    #[error(transparent)]
    Fleet(#[from] coordination::Error),
    /// A filter makes no sense on the stream.
    #[error(transparent)]
    Filter(#[from] filter::Error),
    /// There is no stream to read.
    #[error(transparent)]
    NoStream(#[from] FindError),
    /// A table is missing, and this worker is told not to make it.
    #[error("table {0} does not exist, and this worker is told not to create it (--no-create-tables)")]
    NoTable(String),
    /// Options that make no sense together.
    #[error("{0}")]
    Options(&'static str),
    /// Records that are given up could not be kept.
    #[error("dead letters cannot be kept: {0}")]
    DeadLetters(String),
    /// The coordination thread could not be started, or died.
    #[error("the coordination thread failed: {0}")]
    Thread(String),
    /// The services could not be reached in time.
    #[error("could not reach the service within {waited:?}: {reason}")]
    Unreachable {
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt met.
        reason: String,
    },
}

impl Options {
    /// The defaults.
    pub fn new(app: impl Into<String>, stream: StreamSelector, worker_id: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            stream,
            worker_id: worker_id.into(),
            endpoints: Endpoints::default(),
            start: Checkpoint::TrimHorizon,
            create_tables: true,
            until_caught_up: false,
            lease_duration: Duration::from_secs(5),
            checkpoints: Checkpoints::Automatic { interval: Duration::from_secs(5) },
            failure: FailurePolicy::default(),
            concurrency: None,
            shard_concurrency: 1,
            batch_size: None,
            batch_bytes: None,
            batch_window: Duration::ZERO,
            idle_poll: Duration::from_secs(1),
            buffer_bytes: 128 << 20,
            max_leases: None,
            stuck_after: None,
            unready_after: Duration::from_secs(60),
            desired_workers: ScalingOptions {
                min: 1,
                max: None,
                capacity_kbps: 10.0 * 1024.0,
                catch_up: Duration::from_secs(600),
            },
            start_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(25),
            on_gap: OnGap::Continue,
            filters: Filters::new(),
            kcl_failover_time: Duration::from_secs(10),
            seed: None,
            clock: WallClock::System,
            own_thread: true,
        }
    }

    /// Refuses what makes no sense.
    fn check(&self) -> Result<(), Error> {
        let is_sized = self.batch_size.is_some() || self.batch_bytes.is_some();
        let wrong = if self.shard_concurrency == 0 || self.concurrency == Some(0) {
            "a worker that may work on nothing at once does nothing"
        } else if self.shard_concurrency > 1 && self.checkpoints == Checkpoints::Manual {
            "a processor cannot checkpoint by hand when several items of a shard are worked on at once: what it has \
             done is not one position"
        } else if self.concurrency.is_some_and(|most| most < self.shard_concurrency) {
            "more batches of one shard than of all shards cannot be worked on at once"
        } else if self.batch_size.is_some_and(|size| !(1..=MOST_RECORDS).contains(&size)) {
            "a batch has from 1 to 10,000 records"
        } else if self.batch_bytes.is_some_and(|size| !(1..=MOST_BYTES).contains(&size)) {
            "a batch has from 1 byte to 4 MiB"
        } else if !self.batch_window.is_zero() && !is_sized {
            "a batch without a size has nothing to fill up to"
        } else if self.failure.attempts == Some(0) {
            "a batch is tried once at least"
        } else {
            return Ok(());
        };
        Err(Error::Options(wrong))
    }
}

/// A worker that is not yet started.
pub struct Worker<F> {
    options: Options,
    factory: F,
    config: Option<SdkConfig>,
    counters: Counters,
    alive: LeaseDeadline,
    board: WorkerTelemetry,
}

impl<F: ProcessorFactory> Worker<F> {
    /// A worker that reads as `options` say and hands records to the processors that `factory` makes.
    pub fn new(options: Options, factory: F) -> Self {
        let (counters, alive) = (Counters::default(), LeaseDeadline::new());
        let settings = telemetry::Settings {
            lease_duration: options.lease_duration,
            idle_poll: options.idle_poll,
            unready_after: options.unready_after,
            desired: options.desired_workers,
            clock: options.clock,
        };
        let board = WorkerTelemetry::new(settings, alive.clone(), counters.clone());
        Self { options, factory, config: None, counters, alive, board }
    }

    /// Uses this AWS configuration instead of loading the environment's.
    #[must_use]
    pub fn sdk_config(mut self, config: SdkConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// What the worker has done so far, also while it runs.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// What the worker shows of itself while it runs: its metrics, and whether it gets on.
    pub fn board(&self) -> WorkerTelemetry {
        self.board.clone()
    }

    /// Runs until `stop` completes, the work is done or going on is impossible. Asked to stop, it hands its leases
    /// over, with everything that is done checkpointed, before it returns.
    ///
    /// # Errors
    /// When there is nothing to read, the services cannot be reached, or something happened that needs somebody to
    /// look at it.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<Report, Error> {
        let counters = self.counters.clone();
        let (stop_sender, stopped) = watch::channel(false);
        let mut worker = std::pin::pin!(self.run_until(stopped));
        let mut stop = std::pin::pin!(stop);
        let ending = tokio::select! {
            biased;
            ending = &mut worker => ending?,
            () = &mut stop => {
                stop_sender.send_replace(true);
                worker.await?
            }
        };
        Ok(Report { ending, totals: counters.totals() })
    }

    async fn run_until(self, mut stop: watch::Receiver<bool>) -> Result<WorkerExit, Error> {
        let Self { options, factory, config, counters, alive, board } = self;
        options.check()?;
        let started_ms = options.clock.now_ms();
        let mut rng = Rng::new(options.seed.unwrap_or_else(random_seed));
        let incarnation = format!("{:016x}", rng.next_u64());
        let partition = retry_partition(&options.worker_id);
        let prepare = async {
            let config = match config {
                Some(config) => config,
                None => clients::load(&options.endpoints).await?,
            };
            let clients = clients_for(&options, &config, &partition);
            let start = SpawnConsumer { options: &options, clients: &clients, rng: rng.fork() };
            let (stream, leadership) = start.until_ready().await?;
            Ok::<_, Error>((config, clients, stream, leadership))
        };
        let (config, clients, stream, leadership) = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(WorkerExit::Stopped),
            ready = prepare => ready?,
        };
        let worker = WorkerId::from(options.worker_id.as_str());
        let budget = Budget::new(options.buffer_bytes, clients::MAX_CALLS_IN_FLIGHT);
        board.set_budget(budget.clone());
        let shared = ConsumerDeps::new(
            stream.clone(),
            LeaseTable::new(clients.tables.clone(), &options.app).watched(board.lease_table()),
            worker.clone(),
            alive.clone(),
            budget,
            factory,
            crate::consumer::Options {
                checkpoints: options.checkpoints,
                failure: options.failure.clone(),
                shard_concurrency: options.shard_concurrency,
                concurrency: options.concurrency,
                batch_size: options.batch_size,
                batch_bytes: options.batch_bytes,
                batch_window: options.batch_window,
                idle_poll: options.idle_poll,
                on_gap: options.on_gap,
                filters: options.filters.clone().for_stream(stream.arn()),
                started_at_ms: leadership.started_at_ms,
                checkpoint_at_tip: options.until_caught_up,
            },
            options.clock,
            counters,
            rng.fork(),
        );
        let starter = Arc::new(ConsumerSpawner::new(shared, tokio::runtime::Handle::current()));
        let fleet_options = coordination::Options {
            worker,
            incarnation,
            lease_duration: options.lease_duration,
            max_leases: options.max_leases,
            stuck_after: options.stuck_after,
            drain_timeout: options.drain_timeout,
            kcl_failover_time: options.kcl_failover_time,
            start: options.start.clone(),
            until_caught_up: options.until_caught_up,
            idle_poll: options.idle_poll,
            clock: options.clock,
            started_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let coordination_rng = rng.fork();
        let own_thread = options.own_thread;
        let coordinate = move || {
            // A pool of its own: a connection lives on the runtime that opened it.
            let config = if own_thread { clients::with_own_pool(&config) } else { config };
            let clients = clients_for(&options, &config, &partition);
            let coordinator = Coordinator::new(
                fleet_options,
                Stream::new(clients.streams.clone(), stream.arn()),
                LeaseTable::new(clients.tables.clone(), &options.app),
                WorkerTable::new(clients.tables, &options.app),
                alive,
                board,
                coordination_rng,
            );
            coordinator.run(starter, stop)
        };
        let ending = if own_thread { on_own_thread(coordinate).await? } else { coordinate().await };
        Ok(ending?)
    }
}

/// The first steps, tried again for as long as the services may take to answer.
struct SpawnConsumer<'a> {
    options: &'a Options,
    clients: &'a Clients,
    rng: Rng,
}

impl SpawnConsumer<'_> {
    async fn until_ready(mut self) -> Result<(Stream, LeaderRecord), Error> {
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut has_warned = false;
        let mut reason = "no answer, or the tables are not ready yet".to_owned();
        loop {
            match tokio::time::timeout_at(started + self.options.start_timeout, self.prepare()).await {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(Error::Unreachable { reason: newest, .. })) => reason = newest,
                Ok(Err(error)) => return Err(error),
                Err(_) => {} // the attempt was cut off: what the last whole one met says more
            }
            let waited = started.elapsed();
            if waited >= self.options.start_timeout {
                return Err(Error::Unreachable { waited: self.options.start_timeout, reason });
            }
            if !has_warned {
                has_warned = true;
                let limit = self.options.start_timeout;
                tracing::warn!(reason, ?limit, "the service cannot be reached yet, trying on");
            }
            tokio::time::sleep(Duration::from_millis(50) + backoff.next(&mut self.rng)).await;
        }
    }

    async fn prepare(&self) -> Result<(Stream, LeaderRecord), Error> {
        let leases = LeaseTable::new(self.clients.tables.clone(), &self.options.app);
        let fleet = WorkerTable::new(self.clients.tables.clone(), &self.options.app);
        let create = self.options.create_tables;
        let arn = async {
            match &self.options.stream {
                StreamSelector::Arn(arn) => Ok(arn.clone()),
                StreamSelector::Table(table) => find_stream(self.clients, table).await,
            }
        };
        let arn = arn.await.map_err(|error| match error {
            FindError::Unavailable(reason) => Error::Unreachable { waited: Duration::ZERO, reason },
            error => Error::NoStream(error),
        })?;
        let stream = Stream::new(self.clients.streams.clone(), arn);
        let described = async {
            match stream.describe(None).await {
                Ok(described) => {
                    Ok(self.options.filters.clone().for_stream(stream.arn()).check(described.view_type)?)
                }
                Err(aws::stream::Error::NotFound(_)) => {
                    Err(Error::NoStream(FindError::NoSuchStream(stream.arn().to_owned())))
                }
                Err(aws::stream::Error::Refused(reason)) => Err(Error::NoStream(FindError::Refused(reason))),
                Err(error) => Err(Error::Unreachable { waited: Duration::ZERO, reason: error.to_string() }),
            }
        };
        let letters = async {
            match &self.options.failure.on_failure {
                OnFailure::DeadLetter(queue) => queue.prepare(create).await,
                _ => Ok(()),
            }
        };
        let (described, leases_ready, fleet_ready, letters_ready) =
            tokio::join!(described, leases.ensure(create), fleet.ensure(create), letters);
        described?;
        leases_ready.map_err(|error| start_error(error, create))?;
        fleet_ready.map_err(|error| start_error(error, create))?;
        letters_ready.map_err(|error| match error.downcast::<TableError>() {
            Ok(error) => start_error(*error, create),
            Err(error) => Error::DeadLetters(error.to_string()),
        })?;
        let leadership = coordination::bind_stream(&leases, &fleet, &stream, self.options.clock).await;
        match leadership {
            Ok(leadership) => Ok((stream, leadership)),
            Err(coordination::Error::Table(error)) => Err(start_error(error, create)),
            Err(error) => Err(error.into()),
        }
    }
}

fn start_error(error: TableError, create: bool) -> Error {
    match error {
        TableError::Missing { table } if !create => Error::NoTable(table),
        error if error.is_transient() => Error::Unreachable { waited: Duration::ZERO, reason: error.to_string() },
        error => Error::Fleet(error.into()),
    }
}

fn clients_for(options: &Options, config: &SdkConfig, partition: &str) -> Clients {
    clients::clients(config, &options.endpoints, options.lease_duration, partition)
}

/// A name for the retry budgets of one worker. The SDK keeps budgets by name for the whole process: one worker must not
/// use up another's, nor, in a simulation, leave its state to the next one of the same seed.
fn retry_partition(worker_id: &str) -> String {
    static WORKERS: AtomicU64 = AtomicU64::new(0);
    format!("{worker_id}-{}", WORKERS.fetch_add(1, Ordering::Relaxed))
}

/// Runs a future on a thread with a runtime of its own, and waits for its output without blocking this one.
async fn on_own_thread<T, M, C>(make: M) -> Result<T, Error>
where
    T: Send + 'static,
    M: FnOnce() -> C + Send + 'static,
    C: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Thread(error.to_string()))?;
    let (done, output) = oneshot::channel();
    std::thread::Builder::new()
        .name("coordination".into())
        .spawn(move || {
            let _ = done.send(runtime.block_on(async { make().await }));
        })
        .map_err(|error| Error::Thread(error.to_string()))?;
    output.await.map_err(|_| Error::Thread("it panicked".into()))
}

/// A seed from the operating system's randomness, which the standard library draws for its hash maps.
fn random_seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place where a worker's chance comes from")]
    RandomState::new().build_hasher().finish()
}
