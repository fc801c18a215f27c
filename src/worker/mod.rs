//! The worker: threads, shutdown, and the streams one after the other.
//!
//! A [`Worker`] finds its stream, ensures that its tables exist, joins its fleet and reads shards until it is asked to
//! stop. Coordination runs on a thread and HTTP connections of its own, so that neither decoding nor a processor that
//! blocks can delay a heartbeat.

mod builder;
mod default_id;
mod handle;
mod startup;

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{oneshot, watch};
use tracing::Instrument;

pub use self::builder::{WithState, WorkerBuilder};
pub(crate) use self::default_id::default_worker_id;
pub use self::handle::WorkerHandle;
use self::startup::Ready;
#[cfg(feature = "cli")]
pub(crate) use self::startup::StartError;
pub(crate) use self::startup::Startup;
use crate::aws::clients::{self, Clients, ConfigError, SdkConfig};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::{FindError, Stream};
use crate::consumer::{
    Budget, ConsumerDeps, ConsumerSpawner, Counters, LeaseDeadline, Lifetime, LiveOptions, ProcessorFactory, Totals,
};
use crate::coordination::{self, Coordinator, Identity, WorkerExit};
use crate::dead_letters::queue::PrepareError;
use crate::model::filter;
use crate::model::lease::{ShardId, WorkerId};
use crate::options::{Checkpoints, OptionsError, StreamSelector, WorkerOptions};
use crate::shard_directory::ShardDirectory;
use crate::telemetry::scope::{SPANS, Scope};
use crate::telemetry::{WorkerTelemetry, catalogue};

/// The end of a worker that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The reason that the worker ended.
    pub ending: WorkerExit,
    /// The counts of its work.
    pub totals: Totals,
    /// The shards whose processors did not finish within the drain timeout. Their calls were dropped, and what is
    /// not checkpointed comes again.
    pub undrained: Vec<ShardId>,
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
    /// The lease table belongs to another stream, or to several.
    #[error(
        "lease table \"{app}\" has leases of other streams, such as {lease}, and none of {stream}: choose another application, or \
         delete the table if its application is no longer wanted"
    )]
    ForeignTable {
        /// The application.
        app: String,
        /// One of the leases.
        lease: ShardId,
        /// The stream that was to be read.
        stream: String,
    },
    /// There is no stream to read.
    #[error(transparent)]
    NoStream(#[from] FindError),
    /// A table is missing, and this worker may not create it.
    #[error("table {0} does not exist, and this worker is told not to create it")]
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
    #[error("could not reach the service within {waited:?}: {source}")]
    Unreachable {
        /// The start timeout.
        waited: Duration,
        /// The failure of the last attempt, such as [`Error::Fleet`] for a table that takes no calls.
        source: Box<Error>,
    },
}

/// A worker that is not yet started. It does its work in [`Worker::run`].
pub struct Worker<F> {
    options: LiveOptions,
    factory: F,
    config: Option<SdkConfig>,
    counters: Counters,
    deadline: LeaseDeadline,
    telemetry: WorkerTelemetry,
    scope: Scope,
}

impl Worker<()> {
    /// Begins a worker of the application `app`, which reads `stream`: a table's name, or a stream's ARN.
    ///
    /// ```no_run
    /// # use shardkeeper::Worker;
    /// # async fn example() -> Result<(), shardkeeper::Error> {
    /// let worker = Worker::builder("phone-audit", "Phones").for_each(async |record| println!("{}", record.json()));
    /// worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(app: impl Into<String>, stream: impl Into<StreamSelector>) -> WorkerBuilder {
        WorkerBuilder::new(app.into(), stream.into())
    }
}

impl<F: ProcessorFactory> Worker<F> {
    /// A worker that reads the stream of `options` and hands its records to the processors that `factory` makes.
    ///
    /// A factory is a [`for_each`](crate::for_each) of a closure, a function from a
    /// [`ShardContext`](crate::ShardContext) to a [`RecordProcessor`](crate::RecordProcessor), or any other
    /// [`ProcessorFactory`].
    pub fn new(options: WorkerOptions, factory: F) -> Self {
        let options = Arc::new(options);
        let (counters, deadline) = (Counters::default(), LeaseDeadline::new(options.clock));
        let telemetry = WorkerTelemetry::new(Arc::clone(&options), deadline.clone(), counters.clone());
        let options = LiveOptions::new(options);
        Self { options, factory, config: None, counters, deadline, telemetry, scope: Scope::default() }
    }

    /// Sets the AWS configuration, which is otherwise loaded from the environment. Its HTTP client makes every call of
    /// the worker, coordination's too.
    #[must_use]
    pub fn sdk_config(mut self, config: SdkConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Sets labels of the worker's metrics, which tell it from others of the process.
    #[must_use]
    pub fn metric_labels<N: Into<String>, V: Into<String>>(mut self, labels: impl IntoIterator<Item = (N, V)>) -> Self {
        self.scope.set_labels(labels.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets the recorder of the worker's metrics (default: the one that is installed for the process).
    #[must_use]
    pub fn metrics_recorder(mut self, recorder: Arc<dyn metrics::Recorder + Send + Sync>) -> Self {
        self.scope.set_recorder(recorder);
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

    /// The worker's options, some of which may change while it runs.
    #[cfg(feature = "cli")]
    pub(crate) fn live_options(&self) -> LiveOptions {
        self.options.clone()
    }

    /// Runs until `stop` completes, the work is done or the worker cannot continue. After `stop`, the worker lets the
    /// calls in flight return, checkpoints and hands its leases off, for at most the drain timeout. When this returns, all
    /// calls of processors have ended, but for one that blocks its thread.
    ///
    /// Dropping the future ends the worker at once, as a crash would: calls are dropped where they wait, nothing is
    /// checkpointed, and the leases expire. Processors run on the runtime that polls the future.
    ///
    /// # Errors
    /// When there is nothing to read, the services cannot be reached in time, or an operator is needed.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<Report, Error> {
        let (counters, telemetry) = (self.counters.clone(), self.telemetry.clone());
        let mut scope = self.scope.clone();
        let options = self.options.now();
        let (app, worker) = (&options.app, &options.worker_id);
        scope.set_span(tracing::info_span!(target: SPANS, "worker", app = %app, worker = %worker));
        telemetry.set_scope(scope.clone());
        if scope.has_recorder() {
            scope.enter(catalogue::describe);
        }
        let _ended = Ended(telemetry.clone());
        let (stop_sender, stopped) = watch::channel(false);
        let mut worker = std::pin::pin!(scope.run(self.run_until(stopped)));
        let mut stop = std::pin::pin!(stop);
        let ending = tokio::select! {
            biased;
            ending = &mut worker => ending?,
            () = &mut stop => {
                stop_sender.send_replace(true);
                worker.await?
            }
        };
        Ok(Report { ending, totals: counters.totals(), undrained: telemetry.take_undrained() })
    }

    /// Runs the worker in a task of its own.
    pub fn spawn(self) -> WorkerHandle {
        WorkerHandle::spawn(self)
    }

    /// Reads one stream after the other: a worker that is given a table follows it to the table's next stream.
    async fn run_until(self, mut stop: watch::Receiver<bool>) -> Result<WorkerExit, Error> {
        let Self { options: live, factory, config, counters, deadline, telemetry, scope: _ } = self;
        let options = live.now();
        let is_callers_config = config.is_some();
        options.validate()?;
        check_surroundings(&options, factory.can_checkpoint(), is_callers_config)?;
        let started_ms = options.clock.now_ms();
        let mut rng = Rng::with_seed(options.seed.unwrap_or_else(random_seed));
        let partition = retry_partition(&options.worker_id);
        let config = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(WorkerExit::Stopped),
            config = async {
                match config {
                    Some(config) => Ok(config),
                    None => clients::load(&options.endpoints).await,
                }
            } => config?,
        };
        let clients = clients_for(&options, &config, &partition);
        let worker = WorkerId::from(options.worker_id.as_str());
        let factory = Arc::new(factory);
        let budget = Budget::new(options.buffer_bytes, clients::MAX_CALLS_IN_FLIGHT);
        telemetry.follow_budget(budget.clone());
        let leases = LeaseTable::new(clients.tables.clone(), &options.app).with_health(telemetry.lease_table());
        telemetry.follow_lease_table(leases.clone());
        let mut startup = Startup {
            options: Arc::clone(&options),
            credentials: (!is_callers_config).then_some(&config),
            clients: &clients,
            counters: &counters,
            rng: rng.fork(),
            is_first: true,
            ended: None,
        };
        loop {
            startup.options = live.now();
            let Ready { stream, layout, leader } = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(WorkerExit::Stopped),
                ready = startup.until_ready() => ready?,
            };
            live.set_stream(stream.arn(), layout);
            let directory = ShardDirectory::default();
            let lifetime = Lifetime::default();
            let _end = lifetime.end_on_drop();
            let deps = ConsumerDeps::new(
                stream.clone(),
                leases.clone(),
                worker.clone(),
                deadline.clone(),
                budget.clone(),
                Arc::clone(&factory),
                live.clone(),
                leader.started_at_ms,
                counters.clone(),
                directory.clone(),
                lifetime.clone(),
            );
            let spawner = Arc::new(ConsumerSpawner::new(deps, tokio::runtime::Handle::current()));
            let incarnation = format!("{:016x}", rng.u64(..));
            let me = Identity { worker: worker.clone(), incarnation, started_ms };
            let coordination_rng = rng.fork();
            let own_thread = options.own_thread;
            let (arn, config, stop) = (stream.arn().to_owned(), config.clone(), stop.clone());
            let (options, deadline, telemetry) = (Arc::clone(&options), deadline.clone(), telemetry.clone());
            let partition = partition.clone();
            let ended_epoch = deadline.clone();
            let restarted = telemetry.clone();
            let coordinate = move || {
                // A pool of its own, as a connection lives on the runtime that opened it; a caller's client is kept.
                let config = if own_thread && !is_callers_config { clients::with_own_pool(&config) } else { config };
                let clients = clients_for(&options, &config, &partition);
                let coordinator = Coordinator {
                    me,
                    stream: Stream::new(clients.streams.clone(), arn),
                    leases: LeaseTable::new(clients.tables.clone(), &options.app).with_health(telemetry.lease_table()),
                    fleet: FleetTable::new(clients.tables, &options.app).with_health(telemetry.fleet_table()),
                    options: Arc::clone(&options),
                    directory,
                    alive: deadline,
                    telemetry,
                    rng: coordination_rng,
                };
                coordinator.run(spawner, stop)
            };
            let ending =
                if own_thread { on_own_thread(coordinate, lifetime.clone()).await? } else { coordinate().await };
            lifetime.end().await;
            if !startup.is_followed(stream.arn(), &ending).await {
                return Ok(ending?);
            }
            ended_epoch.end_epoch();
            restarted.set_starting();
        }
    }
}

/// Shows the end of a worker, however its run ends.
struct Ended(WorkerTelemetry);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}

/// Refuses options that make no sense with a worker's other parts.
fn check_surroundings(
    options: &WorkerOptions,
    can_checkpoint: bool,
    is_callers_config: bool,
) -> Result<(), OptionsError> {
    if options.checkpoints == Checkpoints::Manual && !can_checkpoint {
        let reason = "a closure has no checkpointer, so nothing would ever be checkpointed: use a processor";
        return Err(OptionsError { option: "checkpoints", reason });
    }
    if is_callers_config && (options.endpoints.region.is_some() || options.endpoints.url.is_some()) {
        let reason = "region and URL are part of the AWS configuration that this worker was given: set them there";
        return Err(OptionsError { option: "endpoints", reason });
    }
    Ok(())
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

/// Runs a future on a thread with a runtime of its own, until it is done or the lifetime ends, and waits for its output
/// without blocking this thread.
async fn on_own_thread<T, M, C>(make: M, lifetime: Lifetime) -> Result<T, Error>
where
    T: Send + 'static,
    M: FnOnce() -> C + Send + 'static,
    C: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Thread(error.to_string()))?;
    let (done, output) = oneshot::channel();
    let (scope, span) = (Scope::current(), tracing::Span::current());
    std::thread::Builder::new()
        .name("coordination".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = lifetime.ended() => {}
                    outcome = scope.run(make().instrument(span)) => {
                        let _ = done.send(outcome);
                    }
                }
            });
            runtime.shutdown_background();
        })
        .map_err(|error| Error::Thread(error.to_string()))?;
    output.await.map_err(|_| Error::Thread("it panicked".into()))
}

/// A seed from the operating system's randomness, by way of the standard library's hash maps.
fn random_seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one source of a worker's randomness")]
    RandomState::new().build_hasher().finish()
}
