//! A lease that this worker holds: the row as last written, and all writes to it, one after the other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::clock::LeaseDeadline;
use super::status::ShardStatus;
use crate::aws::TableError;
use crate::aws::lease_table::{CommitOutcome, EndOutcome, LeaseTable, Outcome, RefusedWrite, TransactWriteItem};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, TransitionError, WorkerId};
use crate::model::out_of_order_acks::OutOfOrderAcks;
use crate::model::polling::Backoff;
use crate::model::sequence_number::SequenceNumber;
use crate::model::throughput::Throughput;
use crate::telemetry::catalogue;

/// How often a commit is tried that other writers of its items stand in the way of.
const COMMIT_ATTEMPTS: u32 = 6;

/// A lease while this worker holds it.
#[derive(Debug)]
pub struct LeaseHandle {
    key: ShardId,
    worker: WorkerId,
    table: LeaseTable,
    alive: LeaseDeadline,
    /// The term of `alive` in which the lease was taken.
    term: u64,
    row: Mutex<Lease>,
    /// The last record that was handed to the processor.
    delivered: StdMutex<Option<SequenceNumber>>,
    /// What was delivered, by time since `taken`.
    throughput: StdMutex<Throughput>,
    taken: Instant,
    /// Where it shows what is checkpointed.
    status: Arc<ShardStatus>,
    rng: StdMutex<Rng>,
}

/// How far a shard is done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Everything up to here; nothing when that is where the row says.
    pub position: Option<SequenceNumber>,
    /// What is done beyond.
    pub beyond: Option<OutOfOrderAcks>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The writes are made, and the position stands behind their records.
    Now,
    /// The position stood there already, and nothing was written: the records' writes were made with it.
    Earlier,
}

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq)]
pub enum RefusedCommit {
    /// The lease's part of it.
    Lease(WriteError),
    /// These of the handler's writes.
    Writes(Vec<RefusedWrite>),
    /// The position stands between the records.
    Begun(Checkpoint),
}

impl From<WriteError> for RefusedCommit {
    fn from(error: WriteError) -> Self {
        Self::Lease(error)
    }
}

/// Why a write to a held lease did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The row says that somebody else has the lease, it is gone, or this worker could not prove itself alive in time.
    #[error("the lease is lost")]
    Lost,
    /// The table refused the write for a reason that waiting does not mend.
    #[error("{0}")]
    Table(TableError),
}

impl LeaseHandle {
    /// A lease whose row is as given and names `worker` as its holder.
    pub(super) fn new(
        row: Lease,
        worker: WorkerId,
        table: LeaseTable,
        alive: LeaseDeadline,
        status: Arc<ShardStatus>,
        rng: Rng,
    ) -> Self {
        let delivered = row.checkpoint.sequence_number().cloned();
        Self {
            throughput: StdMutex::new(Throughput::new(Duration::ZERO, row.throughput_kbps)),
            taken: Instant::now(),
            key: row.key.clone(),
            worker,
            table,
            term: alive.term(),
            alive,
            row: Mutex::new(row),
            delivered: StdMutex::new(delivered),
            status,
            rng: StdMutex::new(rng),
        }
    }

    /// The shard.
    pub fn key(&self) -> &ShardId {
        &self.key
    }

    /// Whether deliveries may begin now.
    pub fn is_alive(&self) -> bool {
        self.alive.holds(self.term)
    }

    /// Takes the lease up, before the first delivery: a take-over that was decided on in an earlier term of this worker
    /// may still be on its way, and fails from then on.
    pub async fn claim(&self) -> Result<(), WriteError> {
        let mut row = self.row.lock().await;
        self.write(&mut row, |row| row.claim(&self.worker)).await
    }

    /// The checkpoint in the row.
    pub async fn saved(&self) -> Checkpoint {
        self.row.lock().await.checkpoint.clone()
    }

    /// The last record that was handed to the processor.
    pub fn delivered(&self) -> Option<SequenceNumber> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that everything up to `position` was handed to the processor.
    pub fn set_delivered(&self, position: SequenceNumber) {
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    /// Notes that the processor took `bytes` of records.
    pub fn note_taken(&self, bytes: usize) {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).note(self.taken.elapsed(), bytes);
    }

    /// How much the shard delivers, in KiB/s, once that is known.
    pub fn throughput_kbps(&self) -> Option<f64> {
        self.throughput.lock().unwrap_or_else(PoisonError::into_inner).kbps(self.taken.elapsed())
    }

    /// Moves the checkpoint forward; nothing is written when it stands there already.
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

    /// Moves the checkpoint over the records from `first` to `last` and makes a handler's writes, all of it or nothing.
    pub async fn commit(
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
            let transition =
                row.checkpoint(&self.worker, Checkpoint::At(last.clone())).map_err(|_| WriteError::Lost)?;
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

    /// Makes sure that a refused commit stays undone: an earlier request of the same content, whose answer never came,
    /// may still be on its way, and is shut out by a higher counter. If it was quicker, the commit is done after all.
    async fn fence(
        &self,
        row: &mut Lease,
        commit: &Transition,
        refused: Vec<RefusedWrite>,
    ) -> Result<Committed, RefusedCommit> {
        let mut backoff = Backoff::default();
        loop {
            let claim = row.claim(&self.worker).map_err(|_| WriteError::Lost)?;
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

    /// Writes down how far the shard is done. Says whether there was anything to write.
    pub async fn save(&self, done: &Done) -> Result<bool, WriteError> {
        let mut row = self.row.lock().await;
        let change = |row: &Lease| {
            let transition = row.checkpoint(&self.worker, forward(row, done.position.clone()))?;
            Ok(transition.with_done(done.beyond.as_ref()))
        };
        let is_news = change(&row).is_ok_and(|wanted: Transition| {
            wanted.after.checkpoint != wanted.before.checkpoint || wanted.after.done != wanted.before.done
        });
        if is_news {
            let started = Instant::now();
            let outcome = self.write(&mut row, change).await;
            count_checkpoint(&outcome, started.elapsed());
            outcome?;
        }
        if let Some(position) = &done.position {
            self.status.note(|lag| lag.checkpointed(position));
        }
        Ok(is_news)
    }

    /// Hands the lease to its new owner, with how far the shard is done, and returns the row. Without `done`, that stays
    /// as it was last written.
    pub async fn transfer(&self, done: Option<&Done>) -> Result<Lease, WriteError> {
        let mut row = self.row.lock().await;
        if !row.is_handed_over() {
            // The leader has written the row since this worker last did.
            self.read_hand_off(&mut row).await?;
        }
        self.write(&mut row, |row| Ok(with(row.transfer(&self.worker, at(row, done))?, done))).await?;
        Ok(row.clone())
    }

    /// Gives the lease up, with how far the shard is done; to the new owner when it is being handed over. Returns the
    /// row. Without `done`, that stays as it was last written.
    pub async fn release(&self, done: Option<&Done>) -> Result<Lease, WriteError> {
        let mut row = self.row.lock().await;
        self.write(&mut row, |row| {
            let given = match row.is_handed_over() {
                true => row.transfer(&self.worker, at(row, done)),
                false => row.release(&self.worker, at(row, done)),
            };
            Ok(with(given?, done))
        })
        .await?;
        Ok(row.clone())
    }

    /// Marks the shard as finished and gives its children to the lease's owner (during a hand-off the new one), in
    /// one transaction. Returns the finished row and the children that now belong to that owner.
    pub async fn end(&self, children: &[Lease]) -> Result<(Lease, Vec<Lease>), WriteError> {
        let ids: BTreeSet<ShardId> = children.iter().map(|child| child.key.clone()).collect();
        let mut row = self.row.lock().await;
        let mut backoff = Backoff::default();
        loop {
            let transition = row.end(&self.worker, &ids).map_err(|_| WriteError::Lost)?;
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
                Ok(found) => return self.adopt(row, found.and_then(Result::ok)),
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
            let transition = change(row).map_err(|_| WriteError::Lost)?;
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

    /// Goes on from the row found when it differs by a hand-off alone; otherwise the lease is lost.
    fn adopt(&self, row: &mut Lease, found: Option<Lease>) -> Result<(), WriteError> {
        match found {
            Some(found) if Transition::met_hand_off(row, &found) && found.holder() == Some(&self.worker) => {
                *row = found;
                Ok(())
            }
            _ => Err(WriteError::Lost),
        }
    }

    /// Waits before a write whose outcome is unknown is tried again, for as long as this worker counts as alive.
    async fn wait_after(&self, error: TableError, backoff: &mut Backoff) -> Result<(), WriteError> {
        if !error.is_transient() {
            return Err(WriteError::Table(error));
        }
        if !self.alive.holds(self.term) {
            return Err(WriteError::Lost);
        }
        tracing::debug!(shard = %self.key, %error, "writing the lease failed, trying again");
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
        Err(WriteError::Lost) => "fenced",
        Err(WriteError::Table(_)) => "error",
    };
    catalogue::CHECKPOINTS.inc([result]);
    catalogue::CHECKPOINT_SECONDS.record([], took.as_secs_f64());
}

fn at(row: &Lease, done: Option<&Done>) -> Checkpoint {
    forward(row, done.and_then(|done| done.position.clone()))
}

fn with(transition: Transition, done: Option<&Done>) -> Transition {
    match done {
        Some(done) => transition.with_done(done.beyond.as_ref()),
        None => transition,
    }
}

/// The position as a checkpoint, or the row's own when nothing was delivered since.
fn forward(row: &Lease, position: Option<SequenceNumber>) -> Checkpoint {
    let position = position.map(Checkpoint::At).filter(|position| *position > row.checkpoint);
    position.unwrap_or_else(|| row.checkpoint.clone())
}
