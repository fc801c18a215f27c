//! A shared world with a clock: what the shells call.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::ServiceError;
use super::faults::{Effect, Fault, FaultPlan};
use super::options::LocalOptions;
use super::preload::Preload;
use super::stats::Stats;
use super::stream::StreamAction;
use super::timestamp::Timestamp;
use super::world::{Answer, Request, World};

/// Where a [`LocalService`] takes the time from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

/// A cheap handle to one local service; clones share its world.
#[derive(Clone)]
pub struct LocalService {
    world: Arc<Mutex<World>>,
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

    /// A clock that stands at `start` now and goes with tokio's, also where that is paused. Call it in the runtime.
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
    /// A service without tables.
    pub fn new(options: LocalOptions, clock: Clock) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(options))), clock }
    }

    /// The service's time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Carries out one call now, whatever the fault plan says.
    pub fn handle(&self, request: &Request) -> Answer {
        self.world().handle(self.now(), request)
    }

    /// Carries out one call as the fault plan has it, with its delays.
    ///
    /// # Errors
    /// The plan broke the connection.
    pub async fn call(&self, request: Request) -> Result<Answer, LostCall> {
        let fault = self.world().draw_fault(&request, None);
        self.call_with(request, fault).await
    }

    /// The same for a caller with this access key id, who is held to a policy if the plan has one for it.
    ///
    /// # Errors
    /// The plan broke the connection.
    pub async fn call_as(&self, caller: &str, request: Request) -> Result<Answer, LostCall> {
        let fault = self.world().draw_fault(&request, Some(caller));
        self.call_with(request, fault).await
    }

    /// Carries out one call that meets this fault.
    ///
    /// # Errors
    /// The fault broke the connection.
    pub async fn call_with(&self, request: Request, fault: Fault) -> Result<Answer, LostCall> {
        pause(fault.delay_before).await;
        let outcome = self.outcome(request, fault.effect).await;
        pause(fault.delay_after).await;
        outcome
    }

    /// Does by itself what is due by now; the shells call it every now and then.
    pub fn tick(&self) {
        let now = self.now();
        self.world().tick(now);
    }

    /// The counters so far.
    pub fn stats(&self) -> Stats {
        self.world().stats().clone()
    }

    /// The fault plan in force.
    pub fn faults(&self) -> FaultPlan {
        self.world().faults().clone()
    }

    /// Replaces the fault plan.
    pub fn set_faults(&self, faults: FaultPlan) {
        self.world().set_faults(faults);
    }

    /// Changes the shards of a table's latest stream: see [`World::change_shards`].
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
        self.world().change_shards(now, table, action, shard)
    }

    /// Writes made-up records to a table's stream: see [`World::preload`].
    ///
    /// # Errors
    /// No such table, or its stream is not enabled; more keys wanted than can be found for each shard.
    pub fn preload(&self, table: &str, preload: &Preload) -> Result<u64, ServiceError> {
        let now = self.now();
        self.world().preload(now, table, preload)
    }

    async fn outcome(&self, request: Request, effect: Effect) -> Result<Answer, LostCall> {
        match effect {
            Effect::None => Ok(self.handle(&request)),
            Effect::Refuse(error) => Ok(self.world().refuse(request.operation(), error)),
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

    /// The world; a panic in another call leaves it usable, since each call ends what it began or not at all.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
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
