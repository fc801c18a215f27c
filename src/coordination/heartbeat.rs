//! This worker's item in the fleet table: taking the id, proving itself alive, reading its inbox, leaving.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{Error, Notice};
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::consumer::LeaseDeadline;
use crate::model::lease::{ShardId, WorkerId};
use crate::model::worker_record::{Hints, WorkerRecord, heartbeat_interval};
use crate::telemetry::{Loop, WorkerTelemetry};

/// How often a worker looks at its own item, at the most.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a new process waits for one that may live under its id to answer: more than the other's look interval
/// and the way there and back.
const CHALLENGE_WAIT: Duration = Duration::from_millis(400);
/// How often the challenger looks for the answer.
const CHALLENGE_LOOK: Duration = Duration::from_millis(50);
/// The part of the lease duration that a worker counts on: clocks may differ in their rate.
const CLOCK_RATE_MARGIN: f64 = 0.98;
/// The wait before a failed heartbeat is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// What this worker says of itself, shared by all its tasks.
#[derive(Clone, Debug)]
pub(super) struct SharedWorkerRecord {
    presence: Arc<Mutex<WorkerRecord>>,
    changed: Arc<Notify>,
}

impl SharedWorkerRecord {
    pub(super) fn new(presence: WorkerRecord) -> Self {
        Self { presence: Arc::new(Mutex::new(presence)), changed: Arc::default() }
    }

    pub(super) fn get(&self) -> WorkerRecord {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut WorkerRecord)) {
        change(&mut self.presence.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the next heartbeat written at once.
    pub(super) fn publish(&self) {
        self.changed.notify_one();
    }
}

/// Keeps this worker's item up to date.
pub(super) struct Membership {
    pub(super) table: FleetTable,
    pub(super) worker: WorkerId,
    pub(super) lease_duration: Duration,
    pub(super) alive: LeaseDeadline,
    pub(super) presence: SharedWorkerRecord,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) board: WorkerTelemetry,
}

/// For how long a heartbeat proves a worker alive, from when it was sent.
pub(crate) fn proved_for(lease_duration: Duration) -> Duration {
    lease_duration.mul_f64(CLOCK_RATE_MARGIN)
}

impl Membership {
    /// Takes the worker id. A process that lives under it is given the time to say so; one that is dead is replaced.
    pub(super) async fn register(&self) -> Result<(), Error> {
        let mut seen = None;
        loop {
            let sent = Instant::now();
            let presence = self.presence.get();
            let expected = seen.as_ref().map(|(incarnation, heartbeat): &(String, u64)| (&**incarnation, *heartbeat));
            match self.table.register(&self.worker, &presence, expected).await {
                Ok(true) => {
                    self.prove(sent);
                    return Ok(());
                }
                Ok(false) => seen = self.challenge(&presence.incarnation).await?,
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// ReaderEvents out whether the process that holds the id still lives. Returns what its item shows when it does not.
    async fn challenge(&self, incarnation: &str) -> Result<Option<(String, u64)>, Error> {
        let Some(before) = self.look_until_answered().await? else { return Ok(None) };
        self.table.challenge(&self.worker, incarnation).await.or_else(pass_transient)?;
        let started = Instant::now();
        while started.elapsed() < CHALLENGE_WAIT {
            tokio::time::sleep(CHALLENGE_LOOK).await;
            match self.look_until_answered().await? {
                Some(now) if (&now.incarnation, now.heartbeat) == (&before.incarnation, before.heartbeat) => {}
                Some(_) => return Err(Error::WorkerIdInUse(self.worker.clone())),
                None => return Ok(None),
            }
        }
        Ok(Some((before.incarnation, before.heartbeat)))
    }

    async fn look_until_answered(&self) -> Result<Option<WorkerRecord>, TableError> {
        loop {
            match self.table.get(&self.worker).await {
                Err(error) if error.is_transient() => tokio::time::sleep(RETRY_WAIT).await,
                outcome => return Ok(outcome?.map(|member| member.record)),
            }
        }
    }

    /// Heartbeats and looks until something makes going on impossible.
    pub(super) async fn run(self) -> Error {
        let interval = heartbeat_interval(self.lease_duration);
        let look_interval = LOOK_INTERVAL.min(interval / 3);
        let mut next_heartbeat = Instant::now() + interval;
        loop {
            let next_look = Instant::now() + look_interval;
            self.board.beat(Loop::Heartbeat, next_look);
            let asked = tokio::select! {
                biased;
                () = self.presence.changed.notified() => true,
                () = tokio::time::sleep_until(next_look.min(next_heartbeat)) => false,
            };
            let outcome = if asked || Instant::now() >= next_heartbeat {
                next_heartbeat = Instant::now() + interval;
                self.heartbeat().await
            } else {
                self.look().await
            };
            match outcome {
                Ok(()) => {}
                Err(Error::Table(error)) if error.is_transient() => {
                    tracing::debug!(%error, "the heartbeat failed, trying again");
                    next_heartbeat = next_heartbeat.min(Instant::now() + RETRY_WAIT);
                }
                Err(error) => return error,
            }
        }
    }

    async fn heartbeat(&self) -> Result<(), Error> {
        self.presence.update(|presence| presence.heartbeat += 1);
        let presence = self.presence.get();
        let sent = Instant::now();
        let Some(member) = self.table.heartbeat(&self.worker, &presence).await? else {
            return self.rejoin(&presence).await;
        };
        self.prove(sent);
        self.read_inbox(member.inbox).await
    }

    async fn look(&self) -> Result<(), Error> {
        let incarnation = self.presence.get().incarnation;
        match self.table.get(&self.worker).await? {
            Some(member) if member.record.incarnation != incarnation => Err(Error::Replaced(self.worker.clone())),
            Some(member) => {
                if member.challenger.is_some() {
                    tracing::warn!("another process wants this worker's id, and is told that it is taken");
                    self.heartbeat().await?;
                }
                self.read_inbox(member.inbox).await
            }
            None => self.heartbeat().await,
        }
    }

    /// The item is gone, or another's; or the answer to the heartbeat could not be made sense of.
    async fn rejoin(&self, presence: &WorkerRecord) -> Result<(), Error> {
        match self.table.get(&self.worker).await? {
            Some(member) if member.record.incarnation == presence.incarnation => return Ok(()),
            Some(_) => return Err(Error::Replaced(self.worker.clone())),
            None => {}
        }
        tracing::warn!("this worker was taken for dead and joins again");
        let sent = Instant::now();
        if !self.table.register(&self.worker, presence, None).await? {
            return Err(Error::Replaced(self.worker.clone()));
        }
        self.alive.end_epoch();
        self.prove(sent);
        let _ = self.notices.send(Notice::Lapsed);
        Ok(())
    }

    /// The answer to a heartbeat has come: leases are good for a lease duration from when it was sent, less what two
    /// clocks may differ in their rate. When it comes after the last deadline, others may have taken the leases.
    fn prove(&self, sent: Instant) {
        if self.alive.extend_to(sent + proved_for(self.lease_duration)) {
            tracing::warn!("this worker could not prove itself alive in time; its leases may be others' now");
            let _ = self.notices.send(Notice::Lapsed);
        }
    }

    async fn read_inbox(&self, inbox: Hints) -> Result<(), Error> {
        if inbox.is_empty() {
            return Ok(());
        }
        // First out of the box, then the rows: what is put in between stays.
        self.table.clear_inbox(&self.worker, &inbox).await?;
        let _ = self.notices.send(Notice::Look(inbox));
        Ok(())
    }

    async fn wait_after(&self, error: TableError) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error.into());
        }
        tracing::warn!(%error, "joining the fleet failed, trying again");
        tokio::time::sleep(RETRY_WAIT * 5).await;
        Ok(())
    }
}

/// Hints for a worker to look at one lease.
pub(super) fn hint(key: &ShardId) -> Hints {
    Hints { keys: [key.clone()].into(), everything: false }
}

fn pass_transient(error: TableError) -> Result<(), TableError> {
    if error.is_transient() { Ok(()) } else { Err(error) }
}
