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

use fastrand::Rng;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::aws::clients::{self, Clients, ConfigError, SdkConfig};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::{FindError, Stream, find_stream};
use crate::aws::{self, TableError};
use crate::consumer::{
    Budget, ConsumerDeps, ConsumerSpawner, Counters, LeaseDeadline, OnFailure, ProcessorFactory, Totals,
};
use crate::coordination::{self, Coordinator, Identity, WorkerExit};
use crate::dead_letters::queue::PrepareError;
use crate::model::filter;
use crate::model::lease::WorkerId;
use crate::model::polling::Backoff;
use crate::model::worker_record::LeaderRecord;
use crate::options::{OptionsError, StreamSelector, WorkerOptions};
use crate::telemetry::WorkerTelemetry;

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
    /// WorkerOptions that make no sense together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The dead letter queue cannot keep letters.
    #[error("dead letters cannot be kept")]
    DeadLetters(#[source] PrepareError),
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

/// A worker that is not yet started.
pub struct Worker<F> {
    options: Arc<WorkerOptions>,
    factory: F,
    config: Option<SdkConfig>,
    counters: Counters,
    alive: LeaseDeadline,
    telemetry: WorkerTelemetry,
}

impl<F: ProcessorFactory> Worker<F> {
    /// A worker that reads as `options` say and hands records to the processors that `factory` makes.
    pub fn new(options: WorkerOptions, factory: F) -> Self {
        let options = Arc::new(options);
        let (counters, alive) = (Counters::default(), LeaseDeadline::new());
        let telemetry = WorkerTelemetry::new(Arc::clone(&options), alive.clone(), counters.clone());
        Self { options, factory, config: None, counters, alive, telemetry }
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
    pub fn telemetry(&self) -> WorkerTelemetry {
        self.telemetry.clone()
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
        let Self { options, factory, config, counters, alive, telemetry } = self;
        options.validate()?;
        let started_ms = options.clock.now_ms();
        let mut rng = Rng::with_seed(options.seed.unwrap_or_else(random_seed));
        let incarnation = format!("{:016x}", rng.u64(..));
        let partition = retry_partition(&options.worker_id);
        let prepare = async {
            let config = match config {
                Some(config) => config,
                None => clients::load(&options.endpoints).await?,
            };
            let clients = clients_for(&options, &config, &partition);
            let start = Startup { options: &options, clients: &clients, rng: rng.fork() };
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
        telemetry.follow_budget(budget.clone());
        let leases = LeaseTable::new(clients.tables.clone(), &options.app).watched(telemetry.lease_table());
        telemetry.follow_lease_table(leases.clone());
        let shared = ConsumerDeps::new(
            stream.clone(),
            leases,
            worker.clone(),
            alive.clone(),
            budget,
            factory,
            Arc::clone(&options),
            leadership.started_at_ms,
            counters,
            rng.fork(),
        );
        let starter = Arc::new(ConsumerSpawner::new(shared, tokio::runtime::Handle::current()));
        let me = Identity { worker, incarnation, started_ms };
        let coordination_rng = rng.fork();
        let own_thread = options.own_thread;
        let coordinate = move || {
            // A pool of its own: a connection lives on the runtime that opened it.
            let config = if own_thread { clients::with_own_pool(&config) } else { config };
            let clients = clients_for(&options, &config, &partition);
            let coordinator = Coordinator::new(
                me,
                Arc::clone(&options),
                Stream::new(clients.streams.clone(), stream.arn()),
                LeaseTable::new(clients.tables.clone(), &options.app),
                FleetTable::new(clients.tables, &options.app),
                alive,
                telemetry,
                coordination_rng,
            );
            coordinator.run(starter, stop)
        };
        let ending = if own_thread { on_own_thread(coordinate).await? } else { coordinate().await };
        Ok(ending?)
    }
}

/// The first steps, tried again for as long as the services may take to answer.
struct Startup<'a> {
    options: &'a WorkerOptions,
    clients: &'a Clients,
    rng: Rng,
}

impl Startup<'_> {
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
        let fleet = FleetTable::new(self.clients.tables.clone(), &self.options.app);
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
        letters_ready.map_err(|error| match error {
            PrepareError::Table(error) => start_error(error, create),
            error => Error::DeadLetters(error),
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

fn clients_for(options: &WorkerOptions, config: &SdkConfig, partition: &str) -> Clients {
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
