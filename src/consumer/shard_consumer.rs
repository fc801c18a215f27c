//! The consumer of one shard: from the lease to its end, loss or hand-over.
//!
//! It waits for the shard's parents, starts the reader, hands what the reader finds to the processor, and writes
//! checkpoints of what is done. All writes to the lease's row are made here. Before each batch it looks at the
//! deadline up to which this worker may deliver.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::checkpointer::Checkpointer;
use super::held_lease::{HeldLease, WriteError};
use super::processor::{Error, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use super::reader::{Found, Reader, channel, last_position, seconds_to_ms};
use super::status::ShardStatus;
use super::{Checkpoints, OnGap, Shared};
use crate::aws::TableError;
use crate::core::checkpoint::Checkpoint;
use crate::core::lease::{Lease, ShardId};
use crate::core::pacing::{Backoff, Pacer};
use crate::core::progress::Progress;
use crate::core::record::RecordBatch;
use crate::core::rng::Rng;
use crate::core::sequence_number::SequenceNumber;

/// How often a consumer looks whether its shard's parents are finished, when nobody tells it.
const PARENT_LOOK: Duration = Duration::from_secs(1);
/// A busy shard is checkpointed after this many records, however short the time.
const CHECKPOINT_RECORDS: usize = 10_000;
/// A consumer's first checkpoint comes after this part of the interval, the next after twice that, and so on: so a
/// worker that keeps crashing gets on all the same.
const FIRST_CHECKPOINT_PART: u32 = 16;
/// The longest a failing processor is left in peace before it is called again.
const LONGEST_RETRY_WAIT: Duration = Duration::from_secs(30);
/// This many empty pages in a row are proof enough that nothing of the past is left in an open shard.
const SURE_TIP_EMPTY_PAGES: u32 = 10;

/// What the coordinator wants of a consumer. A later wish takes the place of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read on.
    Run,
    /// Finish what is at hand, checkpoint, and hand the lease to its new owner.
    HandOver,
    /// Finish what is at hand, checkpoint, and give the lease up.
    Release,
    /// The lease is lost: stop, and write nothing.
    Stop,
}

/// How a consumer ended.
#[derive(Clone, Debug)]
pub enum Exit {
    /// The shard is read to its end; its children's leases, as far as they went to the parent's owner.
    Ended {
        /// The finished row.
        row: Lease,
        /// The children, owned by the row's owner.
        children: Vec<Lease>,
    },
    /// The lease was handed over or given up; the row as this worker left it.
    Released(Lease),
    /// The lease is lost.
    Lost,
    /// Something that the whole worker must stop for.
    Failed(Failure),
}

/// What a worker must stop for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The lease table is gone or refuses us.
    #[error("{0}")]
    LeaseTable(TableError),
    /// The stream is gone.
    #[error("the stream no longer exists: {0}")]
    StreamGone(String),
    /// Records were trimmed before they were read, and the worker is to stop at that.
    #[error("records of shard {0} were trimmed before they were read")]
    Gap(ShardId),
}

/// The consumer of one shard.
pub(super) struct ShardConsumer<F: ProcessorFactory> {
    pub(super) shared: Arc<Shared<F>>,
    pub(super) lease: Lease,
    pub(super) wishes: watch::Receiver<Wish>,
    /// Told when the parents should be looked at.
    pub(super) look: Arc<Notify>,
    pub(super) status: Arc<ShardStatus>,
    pub(super) rng: Rng,
}

/// The end of a step of the consumer that is no success.
enum Break {
    Wish(Wish),
    Write(WriteError),
    Failed(Failure),
}

impl From<WriteError> for Break {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl<F: ProcessorFactory> ShardConsumer<F> {
    pub(super) async fn run(mut self) -> Exit {
        if let Err(exit) = self.wait_for_parents().await {
            return exit;
        }
        let context = ShardContext {
            shard_id: self.lease.key.clone(),
            stream_arn: self.shared.stream.arn().into(),
            checkpoint: self.lease.checkpoint.clone(),
        };
        let lease = Arc::new(HeldLease::new(
            self.lease.clone(),
            self.shared.worker.clone(),
            self.shared.table.clone(),
            self.shared.alive.clone(),
            Arc::clone(&self.status),
            self.rng.fork(),
        ));
        let reader = self.reader(); // fetches ahead, also of the claim
        match lease.claim().await {
            Ok(()) => {}
            Err(WriteError::Lost) => return Exit::Lost,
            Err(WriteError::Table(error)) => return Exit::Failed(Failure::LeaseTable(error)),
        }
        let mut delivery = Delivery {
            processor: self.shared.factory.create(&context),
            checkpointer: Checkpointer::new(Arc::clone(&lease)),
            checkpoints: CheckpointTimer::new(self.shared.options.checkpoints),
            progress: Progress::default(),
            caught_up_to_ms: 0,
            rng: self.rng.fork(),
            lease,
            shared: self.shared.clone(),
            wishes: self.wishes.clone(),
            status: self.status.clone(),
        };
        delivery.run(&context, reader).await
    }

    /// No record of a child before its parents' end is in the lease table: read there, strongly consistent.
    async fn wait_for_parents(&mut self) -> Result<(), Exit> {
        loop {
            let blocked = match self.unfinished_parent().await {
                Ok(parent) => parent.is_some(),
                Err(error) if error.is_transient() => true,
                Err(error) => return Err(Exit::Failed(Failure::LeaseTable(error))),
            };
            self.status.set_blocked(blocked);
            if !blocked {
                return Ok(());
            }
            let wait = PARENT_LOOK.mul_f64(1.0 - 0.2 * self.rng.unit());
            tokio::select! {
                biased;
                wish = wished(&mut self.wishes) => return Err(self.leave_unread(wish).await),
                () = self.look.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn unfinished_parent(&self) -> Result<Option<ShardId>, TableError> {
        for parent in &self.lease.parents {
            match self.shared.table.read(parent).await? {
                Some(Ok(row)) if !row.is_finished() => return Ok(Some(parent.clone())),
                Some(Err(bad)) => {
                    tracing::warn!(shard = %self.lease.key, %bad, "the shard waits for a parent whose lease is broken");
                    return Ok(Some(parent.clone()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Gives a lease up of which nothing was read.
    async fn leave_unread(&mut self, wish: Wish) -> Exit {
        let lease = HeldLease::new(
            self.lease.clone(),
            self.shared.worker.clone(),
            self.shared.table.clone(),
            self.shared.alive.clone(),
            Arc::clone(&self.status),
            self.rng.fork(),
        );
        give_up(&lease, wish, None).await
    }

    fn reader(&mut self) -> (AbortOnDropHandle<()>, tokio::sync::mpsc::Receiver<Found>) {
        let (found, finds) = channel();
        let mut reader = Reader {
            stream: self.shared.stream.clone(),
            shard: self.lease.key.clone(),
            position: self.lease.checkpoint.clone(),
            latest_since_ms: self.shared.options.started_at_ms,
            not_before_ms: None,
            budget: self.shared.budget.clone(),
            pacer: Pacer::new(self.shared.options.idle_poll),
            rng: self.rng.fork(),
            clock: self.shared.clock,
            status: Arc::clone(&self.status),
            found,
        };
        if self.lease.counter > 0 {
            // Only a lease that was never touched since it was made can begin at the newest record there is now.
            reader.seek_latest_by_time();
        }
        (AbortOnDropHandle::new(tokio::spawn(reader.run())), finds)
    }
}

/// The side of a consumer that hands records to the processor and writes down what is done.
struct Delivery<F: ProcessorFactory> {
    shared: Arc<Shared<F>>,
    processor: F::Processor,
    lease: Arc<HeldLease>,
    checkpointer: Checkpointer,
    checkpoints: CheckpointTimer,
    progress: Progress,
    /// What [`ShardStatus::caught_up_to_ms`] becomes with the next checkpoint.
    caught_up_to_ms: u64,
    rng: Rng,
    wishes: watch::Receiver<Wish>,
    status: Arc<ShardStatus>,
}

impl<F: ProcessorFactory> Delivery<F> {
    async fn run(
        &mut self,
        context: &ShardContext,
        (reader, mut finds): (AbortOnDropHandle<()>, tokio::sync::mpsc::Receiver<Found>),
    ) -> Exit {
        let end = async {
            self.initialize(context).await?;
            loop {
                let due = self.checkpoints.due();
                let find = tokio::select! {
                    biased;
                    wish = wished(&mut self.wishes) => return Err(Break::Wish(wish)),
                    () = sleep_until(due) => {
                        self.save().await?;
                        continue;
                    }
                    find = finds.recv() => find,
                };
                match find {
                    Some(Found::Records(records, reservation)) => {
                        self.deliver(records).await?;
                        drop(reservation);
                        if self.checkpoints.is_full() {
                            self.save().await?;
                        }
                    }
                    Some(Found::Tip { moment_ms, empty_pages }) => self.at_tip(moment_ms, empty_pages).await?,
                    Some(Found::Gap) => self.gap("trimmed")?,
                    Some(Found::End) => return self.end(false).await,
                    Some(Found::Gone) => {
                        self.gap("not_found")?;
                        return self.end(true).await;
                    }
                    Some(Found::StreamGone(reason)) => return Err(Break::Failed(Failure::StreamGone(reason))),
                    None => return Err(Break::Wish(Wish::Stop)), // the reader has died
                }
            }
        };
        let end: Result<Exit, Break> = end.await;
        drop(reader);
        match end {
            Ok(exit) => exit,
            Err(Break::Wish(Wish::Stop) | Break::Write(WriteError::Lost)) => {
                self.processor.lease_lost().await;
                Exit::Lost
            }
            Err(Break::Wish(wish)) => self.leave(wish).await,
            Err(Break::Write(WriteError::Table(error))) => Exit::Failed(Failure::LeaseTable(error)),
            Err(Break::Failed(failure)) => Exit::Failed(failure),
        }
    }

    async fn initialize(&mut self, context: &ShardContext) -> Result<(), Break> {
        let mut retry = Retry::new("initialize", context.shard_id.clone());
        loop {
            match timed(&self.status, self.processor.initialize(context)).await {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_to_retry(&mut retry, &error).await?,
            }
        }
    }

    /// Hands a batch to the processor until it takes it.
    async fn deliver(&mut self, records: RecordBatch) -> Result<(), Break> {
        let Some(last) = last_position(&records) else { return Ok(()) };
        let created_ms = records.last().and_then(|record| record.created_at()).map(seconds_to_ms);
        let ticket = self.progress.hand_out(last.clone());
        let records = self.shared.filtered(records);
        let mut retry = Retry::new("process_records", self.lease.key().clone());
        // What is left out altogether is done as it is, and moves the position on.
        while !records.is_empty() {
            // After a pause of the process the deadline may have passed: others may be reading.
            if !self.lease.is_alive() {
                return Err(Break::Write(WriteError::Lost));
            }
            self.lease.set_delivered(last.clone());
            let input = ProcessRecordsInput {
                records: records.clone(),
                checkpointer: self.checkpointer.clone(),
                age: created_ms
                    .map(|created| Duration::from_millis(self.shared.clock.now_ms().saturating_sub(created))),
                attempt: retry.attempts,
            };
            let started = Instant::now();
            let outcome = timed(&self.status, self.processor.process_records(input)).await;
            self.shared.counters.batch(&records, outcome.is_ok(), started.elapsed(), self.shared.clock);
            match outcome {
                Ok(()) => break,
                Err(error) => self.wait_to_retry(&mut retry, &error).await?,
            }
        }
        self.progress.acknowledge(ticket);
        self.status.processed(&last, self.shared.clock);
        self.lease.note_taken(records.bytes_len());
        self.checkpoints.note(records.len());
        if let Some(created_ms) = created_ms {
            self.caught_up_to_ms = self.caught_up_to_ms.max(created_ms);
        }
        Ok(())
    }

    async fn at_tip(&mut self, moment_ms: u64, empty_pages: u32) -> Result<(), Break> {
        if empty_pages < SURE_TIP_EMPTY_PAGES {
            return Ok(());
        }
        self.caught_up_to_ms = self.caught_up_to_ms.max(moment_ms);
        if self.shared.options.checkpoint_at_tip && self.checkpoints.due().is_some() {
            self.save().await?;
        } else if self.checkpoints.due().is_none() {
            self.publish();
        }
        Ok(())
    }

    fn gap(&self, reason: &'static str) -> Result<(), Break> {
        self.shared.counters.gap(reason);
        match self.shared.options.on_gap {
            OnGap::Continue => Ok(()),
            OnGap::Stop => Err(Break::Failed(Failure::Gap(self.lease.key().clone()))),
        }
    }

    /// The end of a closed shard: the processor's last word, then the parent's end and the children's start.
    async fn end(&mut self, is_gone: bool) -> Result<Exit, Break> {
        self.status.set_ended();
        let mut retry = Retry::new("shard_ended", self.lease.key().clone());
        loop {
            if !self.lease.is_alive() {
                return Err(Break::Write(WriteError::Lost));
            }
            match timed(&self.status, self.processor.shard_ended(&self.checkpointer)).await {
                Ok(()) => break,
                Err(error) => self.wait_to_retry(&mut retry, &error).await?,
            }
        }
        let key = self.lease.key().clone();
        let children = if is_gone { Vec::new() } else { self.shared.children.children(&key).await };
        // What the shard delivered its children will deliver: they have its keys.
        let throughput_kbps = self.lease.throughput_kbps().map(|rate| rate / children.len().max(1) as f64);
        let children: Vec<Lease> = children
            .into_iter()
            .map(|child| Lease {
                throughput_kbps,
                ..Lease::new(child.id, child.parent.into_iter().collect(), Checkpoint::TrimHorizon)
            })
            .collect();
        let (row, children) = self.lease.end(&children).await?;
        Ok(Exit::Ended { row, children })
    }

    /// Stops on the coordinator's wish, with everything that is done written down.
    async fn leave(&mut self, wish: Wish) -> Exit {
        {
            let _call = self.status.calls.start();
            self.processor.shutdown_requested(&self.checkpointer).await;
        }
        let exit = give_up(&self.lease, wish, self.position()).await;
        if matches!(exit, Exit::Lost) {
            self.processor.lease_lost().await;
        }
        exit
    }

    /// Writes the position down and shows how far that is.
    async fn save(&mut self) -> Result<(), Break> {
        if let Some(position) = self.position() {
            self.lease.checkpoint(position).await?;
            self.shared.counters.checkpoint();
        }
        self.checkpoints.saved();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.status.set_caught_up(self.caught_up_to_ms);
    }

    /// What to checkpoint; nothing for processors that do so themselves.
    fn position(&self) -> Option<SequenceNumber> {
        match self.shared.options.checkpoints {
            Checkpoints::Automatic { .. } => self.progress.position().cloned(),
            Checkpoints::Manual => None,
        }
    }

    async fn wait_to_retry(&mut self, retry: &mut Retry, error: &Error) -> Result<(), Break> {
        let wait = retry.next(error, &mut self.rng);
        tokio::select! {
            biased;
            wish = wished(&mut self.wishes) => Err(Break::Wish(wish)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

/// When the next checkpoint is due.
struct CheckpointTimer {
    interval: Option<Duration>,
    next_delay: Duration,
    due: Option<Instant>,
    records: usize,
}

impl CheckpointTimer {
    fn new(checkpoints: Checkpoints) -> Self {
        let interval = match checkpoints {
            Checkpoints::Automatic { interval } => Some(interval),
            Checkpoints::Manual => None,
        };
        let next_delay = interval.unwrap_or_default() / FIRST_CHECKPOINT_PART;
        Self { interval, next_delay, due: None, records: 0 }
    }

    fn note(&mut self, records: usize) {
        if self.interval.is_some() {
            self.records += records;
            self.due.get_or_insert_with(|| Instant::now() + self.next_delay);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn is_full(&self) -> bool {
        self.records >= CHECKPOINT_RECORDS
    }

    fn saved(&mut self) {
        if let (Some(interval), Some(_)) = (self.interval, self.due.take()) {
            self.next_delay = (self.next_delay * 2).min(interval);
        }
        self.records = 0;
    }
}

/// The calls of a failing processor.
struct Retry {
    call: &'static str,
    shard: ShardId,
    attempts: u32,
    backoff: Backoff,
}

impl Retry {
    fn new(call: &'static str, shard: ShardId) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), LONGEST_RETRY_WAIT);
        Self { call, shard, attempts: 0, backoff }
    }

    fn next(&mut self, error: &Error, rng: &mut Rng) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let wait = self.backoff.next(rng);
        let (call, attempts) = (self.call, self.attempts);
        // The first few of a series, then ever fewer: a log line each time the count doubles.
        if attempts.is_power_of_two() {
            tracing::warn!(shard = %self.shard, call, attempts, %error, "the processor failed, trying again");
        }
        wait
    }
}

async fn give_up(lease: &HeldLease, wish: Wish, position: Option<SequenceNumber>) -> Exit {
    let given = match wish {
        Wish::HandOver => lease.transfer(position).await,
        Wish::Release => lease.release(position).await,
        Wish::Run | Wish::Stop => return Exit::Lost,
    };
    match given {
        Ok(row) => Exit::Released(row),
        Err(WriteError::Lost) => Exit::Lost,
        Err(WriteError::Table(error)) => Exit::Failed(Failure::LeaseTable(error)),
    }
}

/// Waits for a wish other than to run on.
async fn wished(wishes: &mut watch::Receiver<Wish>) -> Wish {
    match wishes.wait_for(|wish| *wish != Wish::Run).await {
        Ok(wish) => *wish,
        Err(_) => Wish::Stop, // the coordinator is gone
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A processor's call, with its duration shown.
async fn timed(status: &ShardStatus, call: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let outcome = {
        let _call = status.calls.start();
        catch_panic(call).await
    };
    status.retrying.note(outcome.is_err());
    outcome
}

/// Turns a panic of a processor into an error, so that its shard alone waits.
pub(super) async fn catch_panic(call: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let mut call = Box::pin(call);
    let polled = std::future::poll_fn(|context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    });
    match polled.await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().map(ToString::to_string);
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("the processor panicked: {}", words.unwrap_or_else(|| "no message".into())).into())
        }
    }
}
