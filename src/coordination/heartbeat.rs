//! This worker's record in the fleet table: it takes the id, proves the worker alive and holds its inbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::{Deps, Error, Notice};
use crate::aws::TableError;
use crate::consumer::LeaseDeadline;
use crate::error::Refusals;
use crate::model::lease::ShardId;
use crate::model::worker_record::{Hints, WorkerRecord, heartbeat_interval, proved_for};
use crate::telemetry::Loop;

/// The longest interval at which a worker reads its own record.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// The time that a process which may live under this worker's id has to answer: more than its read interval. Ways there
/// and back take no part of it, for the id is taken on the condition that no answer has come by then.
const PROBE_WAIT: Duration = Duration::from_millis(400);
/// The interval at which the new process looks for the answer.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// The wait before a failed heartbeat is retried.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// This worker's record as the next heartbeat will show it, shared by all its tasks.
#[derive(Clone, Debug)]
pub(super) struct SharedWorkerRecord {
    record: watch::Sender<WorkerRecord>,
    is_urgent: Arc<Notify>,
}

impl SharedWorkerRecord {
    pub(super) fn new(record: WorkerRecord) -> Self {
        Self { record: watch::Sender::new(record), is_urgent: Arc::default() }
    }

    pub(super) fn get(&self) -> WorkerRecord {
        self.record.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<WorkerRecord> {
        self.record.subscribe()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut WorkerRecord)) {
        self.record.send_modify(change);
    }

    /// Has the next heartbeat written at once.
    pub(super) fn publish(&self) {
        self.is_urgent.notify_one();
    }
}

/// Keeps this worker's record up to date.
pub(super) struct HeartbeatTask {
    pub(super) deps: Deps,
    pub(super) alive: LeaseDeadline,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) refusals: Refusals,
}

impl HeartbeatTask {
    /// Takes the worker id. A process that lives under it has the time to say so; a dead one is replaced.
    pub(super) async fn register(&self) -> Result<(), Error> {
        let mut seen = None;
        loop {
            let sent = self.alive.now();
            let record = self.deps.record.get();
            let expected = seen.as_ref().map(|(incarnation, heartbeat): &(String, u64)| (&**incarnation, *heartbeat));
            match self.deps.fleet.register(&self.deps.me.worker, &record, expected).await {
                Ok(true) => {
                    self.prove(sent);
                    return Ok(());
                }
                Ok(false) => seen = self.probe_previous_incarnation(&record.incarnation).await?,
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Learns whether the process that holds the id still lives. Returns the incarnation and heartbeat of a dead one.
    async fn probe_previous_incarnation(&self, incarnation: &str) -> Result<Option<(String, u64)>, Error> {
        let Some(before) = self.read_record().await? else { return Ok(None) };
        self.deps.fleet.challenge(&self.deps.me.worker, incarnation).await.or_else(pass_transient)?;
        let started = Instant::now();
        while started.elapsed() < PROBE_WAIT {
            tokio::time::sleep(PROBE_INTERVAL).await;
            match self.read_record().await? {
                Some(now) if (&now.incarnation, now.heartbeat) == (&before.incarnation, before.heartbeat) => {}
                Some(_) => return Err(Error::WorkerIdInUse(self.deps.me.worker.clone())),
                None => return Ok(None),
            }
        }
        Ok(Some((before.incarnation, before.heartbeat)))
    }

    async fn read_record(&self) -> Result<Option<WorkerRecord>, TableError> {
        loop {
            match self.deps.fleet.get(&self.deps.me.worker).await {
                Err(error) if error.is_transient() => tokio::time::sleep(RETRY_WAIT).await,
                outcome => return Ok(outcome?.map(|member| member.record)),
            }
        }
    }

    /// Writes heartbeats and reads the record in between, until an error ends the worker.
    pub(super) async fn run(self) -> Error {
        let interval = heartbeat_interval(self.deps.options.lease_duration);
        let read_interval = READ_INTERVAL.min(interval / 3);
        let mut next_heartbeat = Instant::now() + interval;
        loop {
            let next_read = Instant::now() + read_interval;
            self.deps.telemetry.loop_tick(Loop::Heartbeat, next_read);
            let is_urgent = tokio::select! {
                biased;
                () = self.deps.record.is_urgent.notified() => true,
                () = tokio::time::sleep_until(next_read.min(next_heartbeat)) => false,
            };
            let outcome = if is_urgent || Instant::now() >= next_heartbeat {
                next_heartbeat = Instant::now() + interval;
                self.heartbeat().await
            } else {
                self.read().await
            };
            match outcome {
                Ok(()) => {}
                Err(Error::Table(error)) if self.refusals.allow(&error) => {
                    tracing::debug!(%error, "heartbeat failed, retrying");
                    next_heartbeat = next_heartbeat.min(Instant::now() + RETRY_WAIT);
                }
                Err(error) => return error,
            }
        }
    }

    async fn heartbeat(&self) -> Result<(), Error> {
        let now_ms = self.deps.options.clock.now_ms();
        self.deps.record.update(|record| {
            record.heartbeat += 1;
            record.written_ms = Some(now_ms);
        });
        let record = self.deps.record.get();
        let sent = self.alive.now();
        let Some(member) = self.deps.fleet.heartbeat(&self.deps.me.worker, &record).await? else {
            return self.rejoin(&record).await;
        };
        self.prove(sent);
        self.read_inbox(member.inbox).await
    }

    async fn read(&self) -> Result<(), Error> {
        let incarnation = self.deps.record.get().incarnation;
        match self.deps.fleet.get(&self.deps.me.worker).await? {
            Some(member) if member.record.incarnation != incarnation => {
                Err(Error::Replaced(self.deps.me.worker.clone()))
            }
            Some(member) => {
                if member.challenger.is_some() {
                    tracing::warn!("another process wants this worker's id and is told that it is taken");
                    self.heartbeat().await?;
                }
                self.read_inbox(member.inbox).await
            }
            None => self.heartbeat().await,
        }
    }

    /// The record is gone, or another process's; or the answer to the heartbeat could not be understood.
    async fn rejoin(&self, record: &WorkerRecord) -> Result<(), Error> {
        match self.deps.fleet.get(&self.deps.me.worker).await? {
            Some(member) if member.record.incarnation == record.incarnation => return Ok(()),
            Some(_) => return Err(Error::Replaced(self.deps.me.worker.clone())),
            None => {}
        }
        tracing::warn!("this worker was taken for dead and rejoins the fleet");
        // First of all, since the answer to what follows may be lost, and the next heartbeat finds the record there.
        self.alive.end_epoch();
        let _ = self.notices.send(Notice::Expired);
        let sent = self.alive.now();
        if !self.deps.fleet.register(&self.deps.me.worker, record, None).await? {
            return Err(Error::Replaced(self.deps.me.worker.clone()));
        }
        self.prove(sent);
        Ok(())
    }

    /// Extends the lease deadline once the answer to a heartbeat has come. When that is after the last deadline, others
    /// may have taken the leases.
    fn prove(&self, sent: Duration) {
        if self.alive.extend_to(sent + proved_for(self.deps.options.lease_duration)) {
            tracing::warn!("heartbeat deadline missed; leases may have been taken over");
            let _ = self.notices.send(Notice::Expired);
        }
    }

    async fn read_inbox(&self, inbox: Hints) -> Result<(), Error> {
        if inbox.is_empty() {
            return Ok(());
        }
        // The inbox is cleared before the rows are read: a hint that comes in between stays.
        self.deps.fleet.clear_inbox(&self.deps.me.worker, &inbox).await?;
        let _ = self.notices.send(Notice::LeasesChanged(inbox));
        Ok(())
    }

    async fn wait_after(&self, error: TableError) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error.into());
        }
        tracing::warn!(%error, "joining the fleet failed, retrying");
        tokio::time::sleep(RETRY_WAIT * 5).await;
        Ok(())
    }
}

/// A hint to read one lease row.
pub(super) fn hint(key: &ShardId) -> Hints {
    Hints { keys: [key.clone()].into(), everything: false }
}

fn pass_transient(error: TableError) -> Result<(), TableError> {
    if error.is_transient() { Ok(()) } else { Err(error) }
}
