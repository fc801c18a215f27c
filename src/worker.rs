//! The worker: start-up, threads and shutdown.
//!
//! A [`Worker`] finds its stream, ensures that its tables exist, joins its fleet and reads shards until it is asked to
//! stop. Coordination runs on a thread and HTTP connections of its own, so that neither decoding nor a processor that
//! blocks can delay a heartbeat.

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
use crate::model::backoff::Backoff;
use crate::model::filter;
use crate::model::lease::WorkerId;
use crate::model::worker_record::LeaderRecord;
use crate::options::{OptionsError, StreamSelector, WorkerOptions};
use crate::telemetry::WorkerTelemetry;

/// The end of a worker that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The reason that the worker ended.
    pub ending: WorkerExit,
    /// The counts of its work.
    pub totals: Totals,
}

/// The reason that a worker ended without having been asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The AWS environment is incomplete.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error that no worker of this fleet could continue after.
    #[error(transparent)]
    Fleet(#[from] coordination::Error),
    /// A filter cannot match the stream's records.
    #[error(transparent)]
    Filter(#[from] filter::Error),
    /// There is no stream to read.
    #[error(transparent)]
    NoStream(#[from] FindError),
    /// A table is missing, and this worker may not create it.
    #[error("table {0} does not exist, and this worker is told not to create it (--no-create-tables)")]
    NoTable(String),
    /// Options that contradict each other or are out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The dead-letter queue cannot keep letters.
    #[error("dead letters cannot be kept")]
    DeadLetters(#[source] PrepareError),
    /// The coordination thread could not be started, or panicked.
    #[error("the coordination thread failed: {0}")]
    Thread(String),
    /// The services could not be reached in time.
    #[error("could not reach the service within {waited:?}: {reason}")]
    Unreachable {
        /// The start timeout.
        waited: Duration,
        /// The failure of the last attempt.
        reason: String,
    },
}

/// The reason that an attempt to start failed.
enum StartError {
    /// The service may answer later.
    Unavailable(String),
    Fatal(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl StartError {
    fn of_table(error: TableError, may_create: bool) -> Self {
        match error {
            TableError::Missing { table } if !may_create => Self::Fatal(Error::NoTable(table)),
            error if error.is_transient() => Self::Unavailable(error.to_string()),
            error => Self::Fatal(Error::Fleet(error.into())),
        }
    }
}

/// A worker that is not yet started. It does its work in [`Worker::run`].
pub struct Worker<F> {
    options: Arc<WorkerOptions>,
    factory: F,
    config: Option<SdkConfig>,
    counters: Counters,
    deadline: LeaseDeadline,
    telemetry: WorkerTelemetry,
}

impl<F: ProcessorFactory> Worker<F> {
    /// A worker that reads the stream of `options` and hands its records to the processors that `factory` makes.
    ///
    /// A factory is a [`for_each`](crate::for_each) of a closure, a function from a
    /// [`ShardContext`](crate::ShardContext) to a [`RecordProcessor`](crate::RecordProcessor), or any other
    /// [`ProcessorFactory`].
    pub fn new(options: WorkerOptions, factory: F) -> Self {
        let options = Arc::new(options);
        let (counters, deadline) = (Counters::default(), LeaseDeadline::new());
        let telemetry = WorkerTelemetry::new(Arc::clone(&options), deadline.clone(), counters.clone());
        Self { options, factory, config: None, counters, deadline, telemetry }
    }

    /// Sets the AWS configuration, which is otherwise loaded from the environment. Its HTTP client makes every call of
    /// the worker, coordination's too.
    #[must_use]
    pub fn sdk_config(mut self, config: SdkConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// The counts of the worker's work, also while it runs.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The worker's gauges and health, also while it runs.
    pub fn telemetry(&self) -> WorkerTelemetry {
        self.telemetry.clone()
    }

    /// Runs until `stop` completes, the work is done or the worker cannot continue. After `stop`, the worker lets the
    /// calls in flight return, checkpoints and hands its leases off, for at most the drain timeout, before it returns.
    ///
    /// # Errors
    /// When there is nothing to read, the services cannot be reached in time, or an operator is needed.
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
        let Self { options, factory, config, counters, deadline, telemetry } = self;
        let is_callers_config = config.is_some();
        options.validate()?;
        let started_ms = options.clock.now_ms();
        let mut rng = Rng::with_seed(options.seed.unwrap_or_else(random_seed));
        let incarnation = format!("{:016x}", rng.u64(..));
        let partition = retry_partition(&options.worker_id);
        let prepare = async {
            let loaded = config.is_none();
            let config = match config {
                Some(config) => config,
                None => clients::load(&options.endpoints).await?,
            };
            let clients = clients_for(&options, &config, &partition);
            let credentials = loaded.then_some(&config);
            let startup = Startup { options: &options, credentials, clients: &clients, rng: rng.fork() };
            let (stream, leader) = startup.until_ready().await?;
            Ok::<_, Error>((config, clients, stream, leader))
        };
        let (config, clients, stream, leader) = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(WorkerExit::Stopped),
            ready = prepare => ready?,
        };
        let worker = WorkerId::from(options.worker_id.as_str());
        let budget = Budget::new(options.buffer_bytes, clients::MAX_CALLS_IN_FLIGHT);
        telemetry.follow_budget(budget.clone());
        let leases = LeaseTable::new(clients.tables.clone(), &options.app).with_health(telemetry.lease_table());
        telemetry.follow_lease_table(leases.clone());
        let deps = ConsumerDeps::new(
            stream.clone(),
            leases,
            worker.clone(),
            deadline.clone(),
            budget,
            factory,
            Arc::clone(&options),
            leader.started_at_ms,
            counters,
            rng.fork(),
        );
        let spawner = Arc::new(ConsumerSpawner::new(deps, tokio::runtime::Handle::current()));
        let me = Identity { worker, incarnation, started_ms };
        let coordination_rng = rng.fork();
        let own_thread = options.own_thread;
        let coordinate = move || {
            // A pool of its own, as a connection lives on the runtime that opened it; a caller's client is kept.
            let config = if own_thread && !is_callers_config { clients::with_own_pool(&config) } else { config };
            let clients = clients_for(&options, &config, &partition);
            let coordinator = Coordinator::new(
                me,
                Arc::clone(&options),
                Stream::new(clients.streams.clone(), stream.arn()),
                LeaseTable::new(clients.tables.clone(), &options.app),
                FleetTable::new(clients.tables, &options.app),
                deadline,
                telemetry,
                coordination_rng,
            );
            coordinator.run(spawner, stop)
        };
        let ending = if own_thread { on_own_thread(coordinate).await? } else { coordinate().await };
        Ok(ending?)
    }
}

/// The steps before a worker joins its fleet, retried until the services answer or the start timeout is over.
struct Startup<'a> {
    options: &'a WorkerOptions,
    /// The configuration whose credentials are checked, unless they are the caller's.
    credentials: Option<&'a SdkConfig>,
    clients: &'a Clients,
    rng: Rng,
}

impl Startup<'_> {
    async fn until_ready(mut self) -> Result<(Stream, LeaderRecord), Error> {
        let limit = self.options.start_timeout;
        let latest = Instant::now() + limit;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut has_warned = false;
        let mut reason = "no answer, or the tables are not ready yet".to_owned();
        loop {
            match tokio::time::timeout_at(latest, self.prepare()).await {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(StartError::Unavailable(newest))) => reason = newest,
                Ok(Err(StartError::Fatal(error))) => return Err(error),
                Err(_) => {} // cut off: the reason of the last complete attempt says more
            }
            if Instant::now() >= latest {
                return Err(Error::Unreachable { waited: limit, reason });
            }
            if !has_warned {
                has_warned = true;
                tracing::warn!(reason, ?limit, "service not reachable yet, retrying");
            }
            tokio::time::sleep(Duration::from_millis(50) + backoff.next(&mut self.rng)).await;
        }
    }

    async fn prepare(&self) -> Result<(Stream, LeaderRecord), StartError> {
        if let Some(config) = self.credentials {
            aws::credentials::check(config).await.map_err(|error| match error {
                ConfigError::CredentialsUnavailable(_) => StartError::Unavailable(error.to_string()),
                error => Error::Config(error).into(),
            })?;
        }
        let leases = LeaseTable::new(self.clients.tables.clone(), &self.options.app);
        let fleet = FleetTable::new(self.clients.tables.clone(), &self.options.app);
        let create = self.options.create_tables;
        let stream = Stream::new(self.clients.streams.clone(), self.find_arn().await?);
        let dead_letters = async {
            match &self.options.failure.on_failure {
                OnFailure::DeadLetter(queue) => queue.prepare(create).await,
                _ => Ok(()),
            }
        };
        let (checked, leases_ready, fleet_ready, dead_letters_ready) =
            tokio::join!(self.check(&stream), leases.ensure(create), fleet.ensure(create), dead_letters);
        checked?;
        leases_ready.map_err(|error| StartError::of_table(error, create))?;
        fleet_ready.map_err(|error| StartError::of_table(error, create))?;
        dead_letters_ready.map_err(|error| match error {
            PrepareError::Table(error) => StartError::of_table(error, create),
            error => Error::DeadLetters(error).into(),
        })?;
        match coordination::bind_stream(&leases, &fleet, &stream, self.options.clock).await {
            Ok(leader) => Ok((stream, leader)),
            Err(coordination::Error::Table(error)) => Err(StartError::of_table(error, create)),
            Err(error) => Err(Error::Fleet(error).into()),
        }
    }

    async fn find_arn(&self) -> Result<String, StartError> {
        match &self.options.stream {
            StreamSelector::Arn(arn) => Ok(arn.clone()),
            StreamSelector::Table(table) => find_stream(self.clients, table).await.map_err(|error| match error {
                FindError::Unavailable(reason) => StartError::Unavailable(reason),
                error => Error::NoStream(error).into(),
            }),
        }
    }

    /// Checks that the stream exists and that the filters can match its records.
    async fn check(&self, stream: &Stream) -> Result<(), StartError> {
        match stream.describe(None).await {
            Ok(described) => {
                let filters = self.options.filters.clone().for_stream(stream.arn());
                Ok(filters.check(described.view_type).map_err(Error::Filter)?)
            }
            Err(aws::stream::Error::NotFound(_)) => {
                Err(Error::NoStream(FindError::NoSuchStream(stream.arn().to_owned())).into())
            }
            Err(aws::stream::Error::Refused(reason)) => Err(Error::NoStream(FindError::Refused(reason)).into()),
            Err(error) => Err(StartError::Unavailable(error.to_string())),
        }
    }
}

fn clients_for(options: &WorkerOptions, config: &SdkConfig, partition: &str) -> Clients {
    clients::clients(config, &options.endpoints, clients::table_timeout(options.lease_duration), partition)
}

/// A name for the retry budgets of one worker. The SDK keeps budgets by name for the whole process: a worker must not
/// use up another's budget, nor, in a simulation, leave its state to the next one of the same seed.
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

/// A seed from the operating system's randomness, by way of the standard library's hash maps.
fn random_seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one source of a worker's randomness")]
    RandomState::new().build_hasher().finish()
}
