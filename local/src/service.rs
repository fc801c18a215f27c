//! The shared emulator with a clock, which the transports call.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_types::retry::RetryConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::net::TcpListener;

use crate::connector::InMemoryClient;
use crate::emulator::{Answer, Emulator, Request};
use crate::error::ServiceError;
use crate::faults::{Effect, FaultPlan, InjectedFault};
use crate::options::LocalOptions;
use crate::preload::Preload;
use crate::server::{self, Server};
use crate::snapshot;
use crate::stats::Stats;
use crate::stream::StreamAction;
use crate::timestamp::Timestamp;

/// The time as a [`LocalService`] sees it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

/// A cheap handle to one local service; clones share its tables and streams.
#[derive(Clone)]
pub struct LocalService {
    emulator: Arc<Mutex<Emulator>>,
    clock: Clock,
}

/// A call that got no answer because its connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostCall;

impl Clock {
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The machine's wall clock.
    #[expect(clippy::disallowed_methods, reason = "a service that people run tells the real time")]
    pub fn system() -> Self {
        Self::new(|| {
            let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
            Timestamp::default().plus(elapsed.unwrap_or_default())
        })
    }

    /// A clock that reads `start` now and advances with tokio's, paused or not. Call it in the runtime.
    pub fn tokio(start: Timestamp) -> Self {
        let zero = tokio::time::Instant::now();
        Self::new(move || start.plus(zero.elapsed()))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl LocalService {
    /// Starts a service without tables, with the default options and the machine's clock.
    pub fn start() -> Self {
        Self::new(LocalOptions::default(), Clock::system())
    }

    /// A service without tables.
    pub fn new(options: LocalOptions, clock: Clock) -> Self {
        Self { emulator: Arc::new(Mutex::new(Emulator::new(options))), clock }
    }

    /// A service with the tables and streams that [`Self::save`] put into this folder, or without tables if there are
    /// none. Creates the folder.
    ///
    /// # Errors
    /// The folder cannot be used, or its snapshot is damaged.
    pub fn open(folder: &Path, options: LocalOptions, clock: Clock) -> io::Result<Self> {
        let emulator = snapshot::load(folder, options)?;
        Ok(Self { emulator: Arc::new(Mutex::new(emulator)), clock })
    }

    /// Saves all tables and streams into an existing folder, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written to; what was saved before is still there.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let snapshot = self.emulator().snapshot();
        snapshot::save(folder, &snapshot)
    }

    /// A configuration whose SDK clients call this service in memory, with the SDK's standard retries.
    ///
    /// Change it by [`SdkConfig::into_builder`].
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new("local", "local", None, None, "shardkeeper-local");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.emulator().options.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url("http://shardkeeper.local")
            .http_client(InMemoryClient::new(self.clone()).shared())
            .retry_config(RetryConfig::standard())
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .time_source(SharedTimeSource::new(SystemTimeSource::new()))
            .build()
    }

    /// Serves this service over HTTP on a free port of 127.0.0.1, until the answer is dropped.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn listen(&self) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Server::start(listener, self.clone())
    }

    /// Serves this service over HTTP until `shutdown` completes, then lets calls in flight finish for up to a second.
    ///
    /// # Errors
    /// The listener failed for good. A single connection's failure ends that connection only.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        server::serve(listener, self, shutdown).await
    }

    /// The service's time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Carries out one call now, whatever the fault plan says.
    pub fn handle(&self, request: &Request) -> Answer {
        self.emulator().handle(self.now(), request)
    }

    /// Carries out one call as the fault plan has it, with its delays.
    ///
    /// # Errors
    /// The plan broke the connection.
    pub async fn call(&self, request: Request) -> Result<Answer, LostCall> {
        let now = self.now();
        let fault = self.emulator().draw_fault(now, &request, None);
        self.call_with(request, fault).await
    }

    /// The same for a caller with this access key id, who is held to a policy if the plan has one for it.
    ///
    /// # Errors
    /// The plan broke the connection.
    pub async fn call_as(&self, caller: &str, request: Request) -> Result<Answer, LostCall> {
        let now = self.now();
        let fault = self.emulator().draw_fault(now, &request, Some(caller));
        self.call_with(request, fault).await
    }

    /// Carries out one call that meets this fault.
    ///
    /// # Errors
    /// The fault broke the connection.
    pub async fn call_with(&self, request: Request, fault: InjectedFault) -> Result<Answer, LostCall> {
        pause(fault.delay_before).await;
        let outcome = self.outcome(request, fault.effect).await;
        pause(fault.delay_after).await;
        outcome
    }

    /// Carries out the roll-over, trimming and expiry that are due. Every call does so too.
    pub fn tick(&self) {
        let now = self.now();
        self.emulator().tick(now);
    }

    /// The counters so far.
    pub fn stats(&self) -> Stats {
        self.emulator().stats().clone()
    }

    /// The fault plan in force.
    pub fn faults(&self) -> FaultPlan {
        self.emulator().faults().clone()
    }

    /// Replaces the fault plan.
    pub fn set_faults(&self, faults: FaultPlan) {
        let now = self.now();
        self.emulator().set_faults(now, faults);
    }

    /// Changes the shards of a table's latest stream: the named one, or all that the action fits.
    /// Answers the ids of the shards that were touched.
    ///
    /// # Errors
    /// No such table, stream or shard; a split or roll-over of a closed shard.
    pub fn change_shards(
        &self,
        table: &str,
        action: StreamAction,
        shard: Option<&str>,
    ) -> Result<Vec<String>, ServiceError> {
        let now = self.now();
        self.emulator().change_shards(now, table, action, shard)
    }

    /// Writes made-up records to a table's stream: see [`Preload`]. Answers how many.
    ///
    /// # Errors
    /// No such table, or its stream is not enabled; more keys wanted than can be found for each shard.
    pub fn preload(&self, table: &str, preload: &Preload) -> Result<u64, ServiceError> {
        let now = self.now();
        self.emulator().preload(now, table, preload)
    }

    async fn outcome(&self, request: Request, effect: Effect) -> Result<Answer, LostCall> {
        match effect {
            Effect::None => Ok(self.handle(&request)),
            Effect::Refuse(error) => Ok(self.emulator().refuse(request.operation(), error)),
            Effect::LoseCall => Err(LostCall),
            Effect::LoseAnswer => {
                self.handle(&request);
                Err(LostCall)
            }
            Effect::HangCall => std::future::pending().await,
            Effect::HangAnswer => {
                self.handle(&request);
                std::future::pending().await
            }
            Effect::TruncateAnswer => {
                let mut answer = self.handle(&request);
                answer.body.truncate(answer.body.len() / 2);
                Ok(answer)
            }
            Effect::ApplyLate(delay) => {
                let service = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    service.handle(&request);
                });
                Err(LostCall)
            }
        }
    }

    fn emulator(&self) -> MutexGuard<'_, Emulator> {
        // A panic in another call leaves it usable: a call changes nothing before all that may fail is done.
        self.emulator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

impl fmt::Debug for LocalService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalService").finish_non_exhaustive()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl fmt::Display for LostCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection to the local service broke")
    }
}

impl std::error::Error for LostCall {}
