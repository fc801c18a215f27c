//! A lease that this worker holds: the row as last written, and every write to it, one at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::ConsumerDeps;
use super::lease_deadline::LeaseDeadline;
use super::lifetime::Lifetime;
use super::status::ConsumerStatus;
use crate::aws::TableError;
use crate::aws::lease_table::{CommitOutcome, EndOutcome, LeaseTable, Outcome, RefusedWrite, TransactWriteItem};
use crate::error::Refusals;
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, LeaseLost, ShardId, Transition, TransitionError, WorkerId};
use crate::model::out_of_order_acks::OutOfOrderAcks;
use crate::model::sequence_number::SequenceNumber;
use crate::model::throughput::Throughput;
use crate::telemetry::{catalogue, spans};

/// The attempts at a commit whose items other transactions are writing.
const COMMIT_ATTEMPTS: u32 = 6;

/// A lease while this worker holds it, in the epoch in which it was taken.
#[derive(Debug)]
pub struct LeaseHandle {
    key: ShardId,
    /// The time of the checkpoint with which it was taken ([`Lease::since_ms`]).
    since_ms: Option<u64>,
    worker: WorkerId,
    table: LeaseTable,
    deadline: LeaseDeadline,
    epoch: u64,
    row: Mutex<Lease>,
    /// The last record handed to the processor.
    delivered: StdMutex<Option<SequenceNumber>>,
    throughput: StdMutex<Throughput>,
    /// The origin of the throughput's times.
    started: Instant,
    /// Cancelled when a write meets a hand-off.
    met_hand_off: CancellationToken,
    status: Arc<ConsumerStatus>,
    lifetime: Lifetime,
    refusals: Refusals,
    rng: StdMutex<Rng>,
}

/// The progress of a shard: the acknowledged records.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The position up to which every record is acknowledged; `None` if that is the row's checkpoint.
    pub position: Option<SequenceNumber>,
    /// The records acknowledged beyond the position.
    pub beyond: Option<OutOfOrderAcks>,
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The writes are made, and the checkpoint covers their records.
    Now,
    /// The checkpoint covered the records already: their writes were made with it, and nothing was written now.
    Earlier,
}

/// The reason that a commit did not happen.
#[derive(Debug, Clone, PartialEq)]
pub enum RefusedCommit {
    /// The lease row could not be written.
    Lease(WriteError),
    /// DynamoDB refused these of the handler's writes.
    Writes(Vec<RefusedWrite>),
    /// The checkpoint lies between the records.
    Begun(Checkpoint),
}

impl<E: Into<WriteError>> From<E> for RefusedCommit {
    fn from(error: E) -> Self {
        Self::Lease(error.into())
    }
}

/// The reason that a write to a held lease did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    LeaseLost(#[from] LeaseLost),
    /// The table refuses the write, and a retry would not help.
    #[error(transparent)]
    Table(TableError),
}

impl LeaseHandle {
    /// A lease whose row is `row`, which names this worker as its holder.
    pub(super) fn new<F>(deps: &ConsumerDeps<F>, row: Lease, status: Arc<ConsumerStatus>, rng: Rng) -> Self {
        let delivered = row.checkpoint.sequence_number().cloned();
        Self {
            throughput: StdMutex::new(Throughput::new(Duration::ZERO, row.throughput_kbps)),
            started: Instant::now(),
            key: row.key.clone(),
            since_ms: row.since_ms,
            worker: deps.worker.clone(),
            table: deps.table.clone(),
            epoch: deps.deadline.epoch(),
            deadline: deps.deadline.clone(),
            row: Mutex::new(row),
            delivered: StdMutex::new(delivered),
            met_hand_off: CancellationToken::new(),
            status,
            lifetime: deps.lifetime.clone(),
            refusals: Refusals::default(),
            rng: StdMutex::new(rng),
        }
    }

    /// The tasks that end with the worker.
    pub fn lifetime(&self) -> &Lifetime {
        &self.lifetime
    }

    pub fn key(&self) -> &ShardId {
        &self.key
    }

    pub fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    /// Checks that deliveries may start now. After a pause of the process the deadline may have passed, and another
    /// worker may read the shard.
    pub fn check(&self) -> Result<(), LeaseLost> {
        if self.deadline.is_held(self.epoch) { Ok(()) } else { Err(LeaseLost) }
    }

    /// Claims the lease before the first delivery: the higher counter fences a take-over that another worker decided on
    /// in an earlier epoch of this one and that may still be on its way.
    pub async fn claim(&self) -> Result<(), WriteError> {
        let mut row = self.row.lock().await;
        self.write(&mut row, |row| row.claim(&self.worker)).await
    }

    /// Waits until a write meets the hand-off of this lease to another worker.
    pub async fn met_hand_off(&self) {
        self.met_hand_off.cancelled().await;
    }

    /// The checkpoint in the row.
    pub async fn saved(&self) -> Checkpoint {
        self.row.lock().await.checkpoint.clone()
    }

    /// The last record handed to the processor.
    pub fn delivered(&self) -> Option<SequenceNumber> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that every record up to `position` was handed to the processor.
    pub fn set_delivered(&self, position: SequenceNumber) {
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    /// Adds `bytes` of processed records to the throughput.
    pub fn note_processed(&self, bytes: usize) {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).note(self.started.elapsed(), bytes);
    }

    /// The shard's throughput in KiB/s, once it is known.
    pub fn throughput_kbps(&self) -> Option<f64> {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).kbps(self.started.elapsed())
    }

    /// Moves the checkpoint to `position`; writes nothing if it is there already.
    pub async fn checkpoint(&self, position: SequenceNumber) -> Result<(), WriteError> {
        let wanted = Checkpoint::At(position.clone());
        let mut row = self.row.lock().await;
        if row.checkpoint < wanted {
            let started = Instant::now();
            let outcome = self.write(&mut row, |row| row.checkpoint(&self.worker, wanted.clone())).await;
            count_checkpoint(&outcome, started.elapsed());
            outcome?;
        }
        self.status.note(|lag| lag.checkpointed(&position));
        Ok(())
    }

    /// Moves the checkpoint over the records from `first` to `last` and makes a handler's writes, all or nothing.
    pub async fn commit(
        &self,
        first: &SequenceNumber,
        last: &SequenceNumber,
        writes: &[TransactWriteItem],
    ) -> Result<Committed, RefusedCommit> {
        let started = Instant::now();
        let outcome = self.try_commit(first, last, writes).await;
        match &outcome {
            Ok(_) => {
                count_checkpoint(&Ok(()), started.elapsed());
                self.status.note(|lag| lag.checkpointed(last));
            }
            Err(RefusedCommit::Lease(error)) => count_checkpoint(&Err(error.clone()), started.elapsed()),
            Err(_) => {}
        }
        outcome
    }

    async fn try_commit(
        &self,
        first: &SequenceNumber,
        last: &SequenceNumber,
        writes: &[TransactWriteItem],
    ) -> Result<Committed, RefusedCommit> {
        let mut row = self.row.lock().await;
        match row.checkpoint.sequence_number() {
            Some(saved) if last <= saved => return Ok(Committed::Earlier),
            Some(saved) if first <= saved => return Err(RefusedCommit::Begun(row.checkpoint.clone())),
            _ => {}
        }
        let mut backoff = Backoff::default();
        let mut attempts = 1;
        loop {
            let transition = row.checkpoint(&self.worker, Checkpoint::At(last.clone())).map_err(|_| LeaseLost)?;
            let transition = transition.with_throughput(self.throughput_kbps());
            match self.table.commit(&transition, writes).await {
                Ok(CommitOutcome::Applied(found)) => {
                    *row = found;
                    return Ok(Committed::Now);
                }
                Ok(CommitOutcome::Conflict(found)) => self.adopt(&mut row, found)?,
                Ok(CommitOutcome::Refused(refused)) => {
                    if attempts == COMMIT_ATTEMPTS || !refused.iter().all(RefusedWrite::is_transient) {
                        return self.fence(&mut row, &transition, refused).await;
                    }
                    attempts += 1;
                    self.pause(&mut backoff).await;
                }
                Err(error) => self.wait_after(error, &mut backoff).await?,
            }
        }
    }

    /// Fences a refused commit with a higher counter: an earlier request of the same content, whose answer never came,
    /// may still be on its way. If that one was quicker, the commit has happened after all.
    async fn fence(
        &self,
        row: &mut Lease,
        commit: &Transition,
        refused: Vec<RefusedWrite>,
    ) -> Result<Committed, RefusedCommit> {
        let mut backoff = Backoff::default();
        loop {
            let claim = row.claim(&self.worker).map_err(|_| LeaseLost)?;
            match self.table.apply(&claim).await {
                Ok(Outcome::Applied(found)) => {
                    *row = found;
                    return Err(RefusedCommit::Writes(refused));
                }
                Ok(Outcome::Conflict(Some(found)))
                    if commit.is_done_in(&found) || Transition::met_hand_off(&commit.after, &found) =>
                {
                    *row = found;
                    return Ok(Committed::Now);
                }
                Ok(Outcome::Conflict(found)) => self.adopt(row, found)?,
                Err(error) => self.wait_after(error, &mut backoff).await?,
            }
        }
    }

    /// Writes the shard's progress to the row. Returns whether there was anything to write.
    pub async fn save(&self, progress: &Progress) -> Result<bool, WriteError> {
        let mut row = self.row.lock().await;
        let change = |row: &Lease| {
            let transition = row.checkpoint(&self.worker, forward(row, progress.position.clone()))?;
            Ok(transition.with_done(progress.beyond.as_ref()))
        };
        let is_news = change(&row).is_ok_and(|wanted: Transition| {
            wanted.after.checkpoint != wanted.before.checkpoint || wanted.after.done != wanted.before.done
        });
        if is_news {
            let started = Instant::now();
            let span = spans::checkpoint(&row.key);
            let outcome = self.write(&mut row, change).instrument(span.clone()).await;
            if let Err(error) = &outcome {
                spans::fail(&span, error);
            }
            count_checkpoint(&outcome, started.elapsed());
            outcome?;
        }
        if let Some(position) = &progress.position {
            self.status.note(|lag| lag.checkpointed(position));
        }
        Ok(is_news)
    }

    /// Hands the lease off to its new owner, with the shard's progress, and returns the row. Without `progress`, the row
    /// keeps what was last written.
    pub async fn transfer(&self, progress: Option<&Progress>) -> Result<Lease, WriteError> {
        let mut row = self.row.lock().await;
        if !row.is_handed_over() {
            // The leader wrote the row after this worker's last write.
            self.read_hand_off(&mut row).await?;
        }
        self.write(&mut row, |row| Ok(with(row.transfer(&self.worker, at(row, progress))?, progress))).await?;
        Ok(row.clone())
    }

    /// Releases the lease with the shard's progress, or completes its hand-off if one is under way. Returns the row.
    /// Without `progress`, the row keeps what was last written.
    pub async fn release(&self, progress: Option<&Progress>) -> Result<Lease, WriteError> {
        let mut row = self.row.lock().await;
        self.write(&mut row, |row| {
            let given = match row.is_handed_over() {
                true => row.transfer(&self.worker, at(row, progress)),
                false => row.release(&self.worker, at(row, progress)),
            };
            Ok(with(given?, progress))
        })
        .await?;
        Ok(row.clone())
    }

    /// Marks the shard as finished and assigns its children to the lease's owner (during a hand-off, the new one), in
    /// one transaction. Returns the finished row and the children that now belong to that owner.
    pub async fn end(&self, children: &[Lease]) -> Result<(Lease, Vec<Lease>), WriteError> {
        let ids: BTreeSet<ShardId> = children.iter().map(|child| child.key.clone()).collect();
        let mut row = self.row.lock().await;
        let mut backoff = Backoff::default();
        loop {
            let transition = row.end(&self.worker, &ids).map_err(|_| LeaseLost)?;
            let transition = transition.with_throughput(self.throughput_kbps());
            let owner = row.owner.clone().unwrap_or_else(|| self.worker.clone());
            match self.table.end_shard(&transition, children, &owner).await {
                Ok(EndOutcome::Applied { parent, children }) => {
                    *row = parent.clone();
                    return Ok((parent, children));
                }
                Ok(EndOutcome::Conflict(found)) => self.adopt(&mut row, found)?,
                Err(error) => self.wait_after(error, &mut backoff).await?,
            }
        }
    }

    async fn read_hand_off(&self, row: &mut Lease) -> Result<(), WriteError> {
        let mut backoff = Backoff::default();
        loop {
            match self.table.read(&self.key).await {
                Ok(found) => return Ok(self.adopt(row, found.and_then(Result::ok))?),
                Err(error) => self.wait_after(error, &mut backoff).await?,
            }
        }
    }

    async fn write(
        &self,
        row: &mut Lease,
        change: impl Fn(&Lease) -> Result<Transition, TransitionError>,
    ) -> Result<(), WriteError> {
        let mut backoff = Backoff::default();
        loop {
            let transition = change(row).map_err(|_| LeaseLost)?;
            let transition = transition.with_throughput(self.throughput_kbps());
            match self.table.apply(&transition).await {
                Ok(Outcome::Applied(found)) => {
                    *row = found;
                    return Ok(());
                }
                Ok(Outcome::Conflict(found)) => self.adopt(row, found)?,
                Err(error) => self.wait_after(error, &mut backoff).await?,
            }
        }
    }

    /// Adopts the row found if it differs by a hand-off alone; otherwise the lease is lost.
    fn adopt(&self, row: &mut Lease, found: Option<Lease>) -> Result<(), LeaseLost> {
        match found {
            Some(found) if Transition::met_hand_off(row, &found) && found.holder() == Some(&self.worker) => {
                *row = found;
                self.met_hand_off.cancel();
                Ok(())
            }
            _ => Err(LeaseLost),
        }
    }

    /// Waits before retrying a write whose outcome is unknown, while the lease is held.
    async fn wait_after(&self, error: TableError, backoff: &mut Backoff) -> Result<(), WriteError> {
        if !self.refusals.allow(&error) {
            return Err(WriteError::Table(error));
        }
        self.check()?;
        tracing::debug!(shard = %self.key, %error, "writing the lease failed, retrying");
        self.pause(backoff).await;
        Ok(())
    }

    async fn pause(&self, backoff: &mut Backoff) {
        let wait = backoff.next(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::time::sleep(wait).await;
    }
}

fn count_checkpoint(outcome: &Result<(), WriteError>, took: Duration) {
    let result = match outcome {
        Ok(()) => "ok",
        Err(WriteError::LeaseLost(_)) => "fenced",
        Err(WriteError::Table(_)) => "error",
    };
    catalogue::CHECKPOINTS.inc([result]);
    catalogue::CHECKPOINT_SECONDS.record([], took.as_secs_f64());
}

fn at(row: &Lease, progress: Option<&Progress>) -> Checkpoint {
    forward(row, progress.and_then(|progress| progress.position.clone()))
}

fn with(transition: Transition, progress: Option<&Progress>) -> Transition {
    match progress {
        Some(progress) => transition.with_done(progress.beyond.as_ref()),
        None => transition,
    }
}

/// The position as a checkpoint, or the row's own if the position is not beyond it.
fn forward(row: &Lease, position: Option<SequenceNumber>) -> Checkpoint {
    let position = position.map(Checkpoint::At).filter(|position| *position > row.checkpoint);
    position.unwrap_or_else(|| row.checkpoint.clone())
}
