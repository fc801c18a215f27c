//! The worker: start-up, threads and shutdown.
//!
//! A [`Worker`] finds its stream, ensures that its tables exist, joins its fleet and reads shards until it is asked to
//! stop. Coordination runs on a thread and HTTP connections of its own, so that neither decoding nor a processor that
//! blocks can delay a heartbeat.

use std::collections::BTreeSet;
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
use crate::aws::lease_table::{LeaseTable, Outcome};
use crate::aws::stream::{Described, FindError, Stream, find_stream};
use crate::aws::{self, TableError};
use crate::consumer::{
    Budget, ConsumerDeps, ConsumerSpawner, Counters, FatalError, LeaseDeadline, OnFailure, ProcessorFactory, Totals,
};
use crate::coordination::{self, Coordinator, Identity, WorkerExit};
use crate::dead_letters::queue::PrepareError;
use crate::error::{Phase, Verdict, on_table_error};
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::filter;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::record::ViewType;
use crate::model::worker_record::LeaderRecord;
use crate::options::{OnGap, OptionsError, StreamSelector, WorkerOptions};
use crate::shard_directory::ShardDirectory;
use crate::telemetry::WorkerTelemetry;

/// The answers that prove an earlier stream of a table gone, and the pause between them.
const DENIALS: u32 = 4;
const DENIAL_PAUSE: Duration = Duration::from_millis(300);

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
    /// The lease table belongs to another stream, or to several.
    #[error(
        "lease table \"{app}\" has leases of other streams, such as {lease}, and none of {stream}: use another --app, or \
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
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The service may answer later.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
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
            error if on_table_error(&error, Phase::Starting) == Verdict::Retry => Self::Unavailable(error.to_string()),
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
        let (counters, deadline) = (Counters::default(), LeaseDeadline::new(options.clock));
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

    /// Reads one stream after the other: a worker that is given a table follows it to the table's next stream.
    async fn run_until(self, mut stop: watch::Receiver<bool>) -> Result<WorkerExit, Error> {
        let Self { options, factory, config, counters, deadline, telemetry } = self;
        let is_callers_config = config.is_some();
        options.validate()?;
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
            options: &options,
            credentials: (!is_callers_config).then_some(&config),
            clients: &clients,
            counters: &counters,
            rng: rng.fork(),
            is_first: true,
            ended: None,
        };
        loop {
            let (stream, leader) = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(WorkerExit::Stopped),
                ready = startup.until_ready() => ready?,
            };
            let directory = ShardDirectory::default();
            let deps = ConsumerDeps::new(
                stream.clone(),
                leases.clone(),
                worker.clone(),
                deadline.clone(),
                budget.clone(),
                Arc::clone(&factory),
                Arc::clone(&options),
                leader.started_at_ms,
                counters.clone(),
                directory.clone(),
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
            let ending = if own_thread { on_own_thread(coordinate).await? } else { coordinate().await };
            if !startup.is_followed(stream.arn(), &ending).await {
                return Ok(ending?);
            }
            ended_epoch.end_epoch();
            restarted.set_starting();
        }
    }
}

/// A stream that is gone and was not read to its end, with its unfinished leases.
pub(crate) struct LostStream {
    pub(crate) arn: String,
    pub(crate) unfinished: Vec<Lease>,
}

/// The steps before a worker joins its fleet, retried until the services answer or the start timeout is over. A preflight
/// takes those that write nothing.
pub(crate) struct Startup<'a> {
    options: &'a WorkerOptions,
    /// The configuration whose credentials are checked, unless they are the caller's.
    credentials: Option<&'a SdkConfig>,
    clients: &'a Clients,
    counters: &'a Counters,
    rng: Rng,
    /// Whether the worker has read no stream yet. It waits for the table's next one without a limit.
    is_first: bool,
    /// The stream that is read to its end.
    ended: Option<String>,
}

impl<'a> Startup<'a> {
    /// The steps of a worker that is not to start.
    #[cfg(feature = "cli")]
    pub(crate) fn for_preflight(options: &'a WorkerOptions, clients: &'a Clients, counters: &'a Counters) -> Self {
        Self { options, credentials: None, clients, counters, rng: Rng::with_seed(0), is_first: true, ended: None }
    }

    async fn until_ready(&mut self) -> Result<(Stream, LeaderRecord), Error> {
        let limit = self.options.start_timeout;
        let latest = Instant::now() + limit;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut has_warned = false;
        let mut reason = "no answer, or the tables are not ready yet".to_owned();
        loop {
            let attempt = match self.is_first {
                true => tokio::time::timeout_at(latest, self.prepare()).await,
                false => Ok(self.prepare().await),
            };
            match attempt {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(StartError::Unavailable(newest))) => reason = newest,
                Ok(Err(StartError::Fatal(Error::NoStream(error)))) if !self.is_first => reason = error.to_string(),
                Ok(Err(StartError::Fatal(error))) => return Err(error),
                Err(_) => {} // cut off: the reason of the last complete attempt says more
            }
            if self.is_first && Instant::now() >= latest {
                return Err(Error::Unreachable { waited: limit, reason });
            }
            if !has_warned {
                has_warned = true;
                match self.is_first {
                    true => tracing::warn!(reason, limit_s = limit.as_secs(), "service not reachable yet, retrying"),
                    false => tracing::info!(reason, "waiting for the table's next stream"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50) + backoff.next(&mut self.rng)).await;
        }
    }

    /// Whether the worker looks for its table's next stream after it has left the stream `arn`.
    async fn is_followed(&mut self, arn: &str, ending: &Result<WorkerExit, coordination::Error>) -> bool {
        if !matches!(self.options.stream, StreamSelector::Table(_)) {
            return false;
        }
        self.is_first = false;
        match ending {
            Ok(WorkerExit::Stopped) => return false,
            Ok(WorkerExit::CaughtUp) => {}
            Ok(WorkerExit::StreamEnded) => self.ended = Some(arn.to_owned()),
            Err(coordination::Error::OtherStream { .. }) => {}
            Err(coordination::Error::Consumer(FatalError::StreamGone(reason))) => {
                tracing::warn!(arn, reason, "the stream is gone");
            }
            Err(_) => return false,
        }
        // One that ends by itself reads the streams that are there by then.
        !self.options.until_caught_up || self.find_arn().await.is_ok_and(|newest| newest != arn)
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
        // Before any table is made: an --app that names somebody's table must leave nothing behind.
        leases.check().await.map_err(|error| StartError::of_table(error, create))?;
        let newest = self.find_arn().await?;
        if self.ended.as_ref() == Some(&newest) {
            return Err(StartError::Unavailable(format!("{newest} is read to its end, and there is no newer one")));
        }
        let of_table = |error| StartError::of_table(error, create);
        let (arn, lost) = self.stream_to_read(newest, &leases, &fleet).await?;
        if let Some(lost) = lost {
            self.end_lost_shards(&leases, lost).await?;
        }
        let stream = self.stream(arn);
        let dead_letters = async {
            match &self.options.failure.on_failure {
                OnFailure::DeadLetter(queue) => queue.prepare(create).await,
                _ => Ok(()),
            }
        };
        let (checked, leases_ready, fleet_ready, dead_letters_ready) =
            tokio::join!(self.check(&stream), leases.ensure(create), fleet.ensure(create), dead_letters);
        checked?;
        leases_ready.map_err(of_table)?;
        fleet_ready.map_err(of_table)?;
        dead_letters_ready.map_err(|error| match error {
            PrepareError::Table(error) => of_table(error),
            error => Error::DeadLetters(error).into(),
        })?;
        match coordination::bind_stream(&leases, &fleet, &stream, self.options).await {
            Ok(leader) => Ok((stream, leader)),
            Err(coordination::Error::Table(error)) => Err(of_table(error)),
            Err(error) => Err(Error::Fleet(error).into()),
        }
    }

    /// The stream to read first: an older one of the same table, as long as it has records for this application. With
    /// it, the unfinished leases of a stream that is gone.
    ///
    /// Refuses a lease table of another stream, which no worker of this program has bound.
    pub(crate) async fn stream_to_read(
        &self,
        newest: String,
        leases: &LeaseTable,
        fleet: &FleetTable,
    ) -> Result<(String, Option<LostStream>), StartError> {
        let create = self.options.create_tables;
        let of_table = |error| StartError::of_table(error, create);
        let bound = if_there(fleet.leader().await).map_err(of_table)?.flatten().and_then(|leader| leader.stream_arn);
        if bound.as_ref() == Some(&newest) {
            return Ok((newest, None));
        }
        let mut rows = if_there(leases.scan().await).map_err(of_table)?.unwrap_or_default();
        rows.retain(|row| row.as_ref().map_or(true, |row| !row.is_finished()));
        let mut rows: Vec<Lease> = rows.into_iter().flatten().collect();
        rows.sort_by(|left, right| left.key.cmp(&right.key));
        let Some(first) = rows.first() else { return Ok((newest, None)) };
        let Some(bound) = bound else {
            let is_foreign = rows.iter().any(|row| row.key.as_str().contains(':'))
                || !self.lists_one_of(&self.stream(newest.clone()), &rows).await?;
            if is_foreign {
                let (app, lease) = (self.options.app.clone(), first.key.clone());
                return Err(Error::ForeignTable { app, lease, stream: newest }.into());
            }
            return Ok((newest, None));
        };
        if !self.is_gone(&self.stream(bound.clone())).await? {
            let table = |arn: &str| arn.split("/stream/").next().map(ToOwned::to_owned);
            let is_older = matches!(self.options.stream, StreamSelector::Table(_)) && table(&bound) == table(&newest);
            return Ok((if is_older { bound } else { newest }, None));
        }
        Ok((newest, Some(LostStream { arn: bound, unfinished: rows })))
    }

    /// Ends the leases of a stream that is gone and was not read to its end.
    async fn end_lost_shards(&self, leases: &LeaseTable, lost: LostStream) -> Result<(), StartError> {
        for row in lost.unfinished {
            if self.options.on_gap == OnGap::Stop {
                return Err(Error::Fleet(FatalError::Gap(row.key).into()).into());
            }
            let ended = row.reset(Checkpoint::ShardEnd, None);
            let applied = leases.apply(&ended).await;
            let applied = applied.map_err(|error| StartError::of_table(error, self.options.create_tables))?;
            if let Outcome::Applied(row) = applied {
                tracing::error!(shard = %row.key, stream = lost.arn, "gap: the stream is gone and was not read to its end");
                self.counters.gap("not_found");
            }
        }
        Ok(())
    }

    /// Whether a stream has one of the shards of `rows`, or a child of one.
    async fn lists_one_of(&self, stream: &Stream, rows: &[Lease]) -> Result<bool, StartError> {
        let keys: BTreeSet<&ShardId> = rows.iter().map(|row| &row.key).collect();
        let mut after = None;
        loop {
            let page = match stream.describe(after.as_ref()).await {
                Ok(page) => page,
                Err(aws::stream::Error::NotFound(_)) => return Ok(true), // no stream: `check` says so
                Err(error) => return Err(StartError::Unavailable(error.to_string())),
            };
            if page
                .shards
                .iter()
                .any(|shard| [Some(&shard.id), shard.parent.as_ref()].into_iter().flatten().any(|id| keys.contains(id)))
            {
                return Ok(true);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(false),
            }
        }
    }

    /// Whether the service denies a stream that is not its table's newest, several times in a row.
    async fn is_gone(&self, stream: &Stream) -> Result<bool, StartError> {
        for _ in 0..DENIALS {
            match stream.describe(None).await {
                Ok(_) => return Ok(false),
                Err(aws::stream::Error::NotFound(_)) => tokio::time::sleep(DENIAL_PAUSE).await,
                Err(error) => return Err(StartError::Unavailable(error.to_string())),
            }
        }
        Ok(true)
    }

    pub(crate) fn stream(&self, arn: String) -> Stream {
        Stream::new(self.clients.streams.clone(), arn)
    }

    pub(crate) async fn find_arn(&self) -> Result<String, StartError> {
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
        let described = self.describe(stream).await?;
        Ok(self.check_filters(stream, described.view_type)?)
    }

    /// The stream's first page of shards.
    pub(crate) async fn describe(&self, stream: &Stream) -> Result<Described, StartError> {
        stream.describe(None).await.map_err(|error| match error {
            aws::stream::Error::NotFound(_) => Error::NoStream(FindError::NoSuchStream(stream.arn().to_owned())).into(),
            aws::stream::Error::Refused(reason) => Error::NoStream(FindError::Refused(reason)).into(),
            error => StartError::Unavailable(error.to_string()),
        })
    }

    pub(crate) fn check_filters(&self, stream: &Stream, view_type: Option<ViewType>) -> Result<(), Error> {
        let filters = self.options.filters.clone().for_stream(stream.arn());
        filters.check(view_type).map_err(Error::Filter)
    }
}

/// The answer of a table that may be missing.
fn if_there<T>(answer: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(TableError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
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
