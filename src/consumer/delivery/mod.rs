//! The delivery of a shard's records to its processors, and the checkpoints of what they acknowledge.
//!
//! The reader's pages go into a [`Batcher`], which decides what may be handed out. Each batch of it is processed by a
//! [`BatchTask`], as many at once as the [`ProcessorPool`] allows. The tasks report what they have done to the loop
//! here, the only place that writes automatic checkpoints to the lease's row.

mod batch_task;
mod checkpoint_timer;
mod context;
mod endings;
mod processor_pool;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::batch_task::BatchTask;
use self::checkpoint_timer::CheckpointTimer;
use self::context::{BatchReport, DeliveryContext, FailureLog, Interrupted};
pub use self::endings::DROP_LIMIT;
use self::processor_pool::ProcessorPool;
pub(super) use self::processor_pool::catch_panic;
use super::ConsumerDeps;
use super::budget::Reservation;
use super::checkpointer::Checkpointer;
use super::lease_handle::{LeaseHandle, Progress, WriteError};
use super::processor::{ProcessorFactory, ShardContext};
use super::reader::{FetchedRecords, Reader, ReaderEvent, RunningReader};
use super::shard_consumer::{ConsumerCommand, ConsumerExit, FatalError, aborted, commanded};
use super::status::ConsumerStatus;
use crate::model::batcher::{Batcher, Next, Rules};
use crate::model::checkpoint::Checkpoint;
use crate::model::filter::Filters;
use crate::model::lease::LeaseLost;
use crate::model::out_of_order_acks::OutOfOrderAcks;
use crate::model::shard_graph::Shard;
use crate::options::{Checkpoints, OnGap, WorkerOptions};
use crate::telemetry::scope::inherit;

pub(super) struct Delivery<F: ProcessorFactory> {
    ctx: Arc<DeliveryContext<F>>,
    /// `None` while a blocked record leaves nothing to read for.
    reader: Option<RunningReader>,
    batcher: Batcher<Option<Reservation>>,
    tasks: JoinSet<Option<Result<(), LeaseLost>>>,
    reports: mpsc::UnboundedReceiver<BatchReport>,
    checkpoints: CheckpointTimer,
    /// The newest creation time up to which all is acknowledged; published with the next checkpoint.
    caught_up_to_ms: u64,
    /// The tip, seen while records before it were still unacknowledged.
    tip: Option<Tip>,
    /// Set once the reader has found everything in the shard.
    end: Option<ShardEnd>,
    /// The children, once the service has proved the shard's end. The end is read again behind the proof.
    children: Option<Vec<Shard>>,
    /// The checkpoint on its way to the lease's row.
    write: Option<CheckpointWrite>,
    /// When idle processors are next told so.
    idle_due: Option<Instant>,
    /// The origin of the batcher's times.
    origin: Instant,
    rng: Rng,
    commands: watch::Receiver<ConsumerCommand>,
    options: watch::Receiver<Arc<WorkerOptions>>,
    /// The filters of these options, bound to the stream.
    filters: Filters,
}

/// A write of the progress, which the loop does not wait for. It stops with the consumer alone: the row's content stays
/// known until the lease is given away.
struct CheckpointWrite {
    task: AbortOnDropHandle<Result<bool, WriteError>>,
    /// The newest creation time that it covers.
    caught_up_to_ms: u64,
}

/// The outcome of a write.
struct Saved {
    /// Whether the row has changed.
    is_news: bool,
    caught_up_to_ms: u64,
}

#[derive(Clone, Copy)]
struct Tip {
    moment_ms: u64,
    is_sure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ShardEnd {
    Closed,
    /// The service no longer knows the shard.
    Gone,
}

/// The reason that the delivery stops before the end of the shard.
enum LoopEnd {
    /// A command from the coordinator. [`ConsumerCommand::Abort`] also stands for a lease whose loss shows here first.
    Command(ConsumerCommand),
    Failed(FatalError),
}

impl From<LeaseLost> for LoopEnd {
    fn from(LeaseLost: LeaseLost) -> Self {
        Self::Command(ConsumerCommand::Abort)
    }
}

impl From<WriteError> for LoopEnd {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::LeaseLost(lost) => lost.into(),
            WriteError::Table(error) => Self::Failed(FatalError::LeaseTable(error)),
        }
    }
}

impl<F: ProcessorFactory> Delivery<F> {
    /// A delivery that continues after the lease's checkpoint, without the records of `acknowledged` beyond it.
    pub(super) fn new(
        deps: Arc<ConsumerDeps<F>>,
        shard: ShardContext,
        lease: Arc<LeaseHandle>,
        status: Arc<ConsumerStatus>,
        commands: watch::Receiver<ConsumerCommand>,
        acknowledged: Option<OutOfOrderAcks>,
        rng: Rng,
    ) -> Self {
        let mut changes = deps.live.subscribe();
        let options = Arc::clone(&changes.borrow_and_update());
        let rules = rules(&options);
        let filters = deps.filters();
        let checkpoints = CheckpointTimer::new(options.checkpoints);
        let (report_sender, reports) = mpsc::unbounded_channel();
        let ctx = Arc::new(DeliveryContext {
            processors: ProcessorPool::new(options.shard_concurrency),
            checkpointer: Checkpointer::new(Arc::clone(&lease)),
            deps,
            shard,
            lease,
            status,
            failures: FailureLog::default(),
            leaving: CancellationToken::new(),
            reports: report_sender,
            by_key: AtomicBool::new(rules.by_key),
        });
        Self {
            ctx,
            reader: None,
            batcher: Batcher::new(rules, acknowledged),
            tasks: JoinSet::new(),
            reports,
            checkpoints,
            caught_up_to_ms: 0,
            tip: None,
            end: None,
            children: None,
            write: None,
            idle_due: None,
            origin: Instant::now(),
            rng,
            commands,
            options: changes,
            filters,
        }
    }

    /// Delivers the reader's records until the shard ends, the coordinator commands otherwise or the lease is lost.
    pub(super) async fn run(mut self, reader: RunningReader) -> ConsumerExit {
        self.reader = Some(reader);
        let end = self.deliver().await;
        self.reader = None;
        let end = match end {
            Err(LoopEnd::Command(command)) => Err(LoopEnd::Command(self.drain(command).await)),
            end => end,
        };
        self.ctx.status.clear_blocked_records();
        match end {
            Ok(exit) => exit,
            Err(LoopEnd::Command(ConsumerCommand::Abort)) => {
                Box::pin(self.tell_lease_lost()).await;
                ConsumerExit::LeaseLost
            }
            Err(LoopEnd::Command(ConsumerCommand::Surrender)) => Box::pin(self.surrender()).await,
            Err(LoopEnd::Command(command)) => Box::pin(self.leave(command)).await,
            Err(LoopEnd::Failed(error)) => ConsumerExit::Failed(error),
        }
    }

    async fn deliver(&mut self) -> Result<ConsumerExit, LoopEnd> {
        Box::pin(self.initialize()).await?;
        loop {
            // What a crash would repeat is bounded, however slow the lease table is.
            let may_start = self.write.is_none() || !self.checkpoints.is_full();
            let batch_due = if may_start { self.start_batches() } else { None };
            if self.batcher.is_idle() {
                match (self.end.take(), self.children.take()) {
                    (Some(ShardEnd::Gone), _) => return Box::pin(self.end_shard(Vec::new())).await,
                    (Some(ShardEnd::Closed), Some(children)) => return Box::pin(self.end_shard(children)).await,
                    // Records may have come before the proof, behind a page that lacked its iterator.
                    (Some(ShardEnd::Closed), None) => self.children = Box::pin(self.find_children()).await?,
                    (None, children) => self.children = children,
                }
                if let Some(tip) = self.tip.take() {
                    self.at_tip(tip);
                }
            }
            self.read_ahead_or_not();
            self.note_idle();
            let waits_for_processor = may_start && batch_due.is_none() && self.batcher.has_next();
            let checkpoint_due = self.checkpoints.due().filter(|_| self.write.is_none());
            let lease = Arc::clone(&self.ctx.lease);
            tokio::select! {
                biased;
                command = commanded(&mut self.commands) => return Err(LoopEnd::Command(command)),
                // The sender lives as long as this consumer.
                Ok(()) = self.options.changed() => self.take_options(),
                () = lease.met_hand_off() => return Err(LoopEnd::Command(ConsumerCommand::HandOff)),
                Some(report) = self.reports.recv() => self.take_reports(report),
                Some(ended) = self.tasks.join_next() => finished(ended)?,
                written = written(&mut self.write) => self.saved(written?),
                () = sleep_until(checkpoint_due) => self.save(),
                () = sleep_until(batch_due) => {}
                () = sleep_until(self.idle_due) => self.tell_idle(),
                () = self.ctx.processors.freed(), if waits_for_processor => {}
                event = next_event(&mut self.reader), if self.end.is_none() && self.batcher.has_room() => {
                    self.take_event(event)?;
                }
            }
        }
    }

    /// Notes when idle processors are to be told so: an interval after the last work, and after each call.
    fn note_idle(&mut self) {
        let is_idle = self.tasks.is_empty() && !self.batcher.has_next();
        match self.ctx.deps.options.idle_interval {
            Some(interval) if is_idle => {
                self.idle_due.get_or_insert_with(|| Instant::now() + interval);
            }
            _ => self.idle_due = None,
        }
    }

    fn tell_idle(&mut self) {
        self.idle_due = None;
        if let Some(processors) = self.ctx.processors.try_take_all(self.options.borrow().shard_concurrency) {
            let ctx = Arc::clone(&self.ctx);
            self.tasks.spawn(self.ctx.deps.lifetime.bind(async move { ctx.idle(processors).await }));
        }
    }

    /// Follows new options, from the next page and the next batch on.
    fn take_options(&mut self) {
        let options = Arc::clone(&self.options.borrow_and_update());
        self.filters = self.ctx.deps.filters();
        self.ctx.processors.set_limit(options.shard_concurrency);
        self.batcher.set_rules(rules(&options));
        self.ctx.by_key.store(self.batcher.is_by_key(), Ordering::Relaxed);
    }

    /// Gives the read-ahead back while a blocked record leaves no room for it, and reads again from there afterwards: the
    /// memory is that of all shards.
    fn read_ahead_or_not(&mut self) {
        if self.ctx.status.is_halted() && !self.batcher.has_room() {
            self.reader = None;
        } else if self.reader.is_none() && self.end.is_none() {
            let ctx = &self.ctx;
            let position = self.batcher.taken_in().map_or_else(|| ctx.shard.checkpoint.clone(), Checkpoint::At);
            let (shard, since_ms, status) = (ctx.shard.shard_id.clone(), ctx.lease.since_ms(), Arc::clone(&ctx.status));
            self.reader = Some(Reader::start(&ctx.deps, shard, position, since_ms, status, self.rng.fork()));
        }
    }

    /// Initializes the first processor, before there is anything to deliver.
    async fn initialize(&mut self) -> Result<(), LoopEnd> {
        let ctx = Arc::clone(&self.ctx);
        let Some(mut guard) = ctx.try_take_processor() else { return Ok(()) };
        let mut rng = self.rng.fork();
        self.until_commanded(async { ctx.initialize(guard.get(), &mut rng).await.map(drop) }).await
    }

    /// Runs a step of the processors to its end; on a command, only to its next wait. [`ConsumerCommand::Abort`] drops it.
    async fn until_commanded(&mut self, step: impl Future<Output = Result<(), Interrupted>>) -> Result<(), LoopEnd> {
        let mut step = std::pin::pin!(step);
        let (mut aborts, mut command) = (self.commands.clone(), ConsumerCommand::Run);
        let outcome = loop {
            tokio::select! {
                biased;
                command = aborted(&mut aborts) => return Err(LoopEnd::Command(command)),
                wanted = commanded(&mut self.commands), if command == ConsumerCommand::Run => {
                    self.ctx.leaving.cancel();
                    command = wanted;
                }
                outcome = &mut step => break outcome,
            }
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Interrupted::LeaseLost) => Err(LeaseLost.into()),
            Err(Interrupted::Leaving) => Err(LoopEnd::Command(command)),
        }
    }

    /// Starts a task for each batch that is ready, while processors are free. Returns the time at which a batch that is
    /// still filling is due.
    fn start_batches(&mut self) -> Option<Instant> {
        while self.batcher.has_next() {
            let ctx = &self.ctx;
            let processor = ctx.try_take_processor()?;
            match self.batcher.next(self.origin.elapsed(), ctx.processors.free() + 1) {
                Next::Unit(batch) => {
                    let task = BatchTask::new(Arc::clone(ctx), batch, processor, self.rng.fork());
                    self.tasks.spawn(ctx.deps.lifetime.bind(task.run()));
                }
                Next::At(due) => return Some(self.origin + due),
                Next::Nothing => return None,
            }
        }
        None
    }

    fn take_event(&mut self, event: Option<ReaderEvent>) -> Result<(), LoopEnd> {
        match event {
            Some(ReaderEvent::Records(page)) => self.take_records(*page),
            Some(ReaderEvent::Tip { moment_ms, is_sure }) => self.tip = Some(Tip { moment_ms, is_sure }),
            // All records of a shard whose end is proved were read once already.
            Some(ReaderEvent::Gap) if self.children.is_some() => {}
            Some(ReaderEvent::Gone) if self.children.is_some() => self.take_end(ShardEnd::Closed),
            Some(ReaderEvent::Gap) => self.gap("trimmed")?,
            Some(ReaderEvent::End) => self.take_end(ShardEnd::Closed),
            Some(ReaderEvent::Gone) => {
                self.gap("not_found")?;
                self.take_end(ShardEnd::Gone);
            }
            Some(ReaderEvent::StreamGone(reason)) => return Err(LoopEnd::Failed(FatalError::StreamGone(reason))),
            // The reader has panicked. The coordinator starts the shard anew when its consumer drops the lease.
            None => return Err(LeaseLost.into()),
        }
        Ok(())
    }

    fn take_records(&mut self, FetchedRecords { records, page, reservation }: FetchedRecords) {
        (self.tip, self.children) = (None, None);
        let records = self.ctx.deps.filtered(&self.filters, records);
        // Filtered records are acknowledged as they are and move the checkpoint. Reading them is part of the shard's
        // load all the same.
        if records.left_out() > 0 {
            self.checkpoints.note(records.left_out());
            self.ctx.lease.note_processed(page.bytes - records.bytes_len());
        }
        self.batcher.add(self.origin.elapsed(), records, &page, reservation);
        self.note_progress();
    }

    fn take_end(&mut self, end: ShardEnd) {
        self.end = Some(end);
        self.reader = None;
        self.batcher.flush();
    }

    /// Takes this report and all others that have come in.
    fn take_reports(&mut self, first: BatchReport) {
        self.take_report(first);
        while let Ok(report) = self.reports.try_recv() {
            self.take_report(report);
        }
        self.note_progress();
        if self.checkpoints.is_full() {
            self.checkpoints.hasten();
        }
    }

    fn take_report(&mut self, report: BatchReport) {
        match report {
            BatchReport::Done { batch, range, bytes } => {
                self.ctx.lease.note_processed(bytes);
                self.checkpoints.note(range.len());
                self.batcher.acknowledge(batch, range);
            }
            BatchReport::Requeued { batch, range } => self.batcher.give_back(batch, range),
            BatchReport::Blocked => self.tip = None,
        }
    }

    fn note_progress(&mut self) {
        if let Some(position) = self.batcher.position() {
            self.ctx.status.processed(&position, self.ctx.deps.options.clock);
        }
        for created_ms in self.batcher.take_passed().into_iter().flatten() {
            self.caught_up_to_ms = self.caught_up_to_ms.max(created_ms);
        }
    }

    fn at_tip(&mut self, tip: Tip) {
        if !tip.is_sure {
            return;
        }
        self.caught_up_to_ms = self.caught_up_to_ms.max(tip.moment_ms);
        if self.checkpoints.due().is_none() && self.write.is_none() {
            self.ctx.status.set_caught_up(self.caught_up_to_ms);
        } else if self.ctx.deps.options.until_caught_up {
            self.checkpoints.hasten();
        }
    }

    fn gap(&self, reason: &'static str) -> Result<(), LoopEnd> {
        self.ctx.counters().gap(reason);
        match self.ctx.deps.options.on_gap {
            OnGap::Continue => Ok(()),
            OnGap::Stop => Err(LoopEnd::Failed(FatalError::Gap(self.ctx.lease.key().clone()))),
        }
    }

    /// Begins to write the progress to the lease's row.
    fn save(&mut self) {
        let Some(progress) = self.progress() else { return };
        self.checkpoints.started();
        let lease = Arc::clone(&self.ctx.lease);
        let task = AbortOnDropHandle::new(tokio::spawn(inherit(async move { lease.save(&progress).await })));
        self.write = Some(CheckpointWrite { task, caught_up_to_ms: self.caught_up_to_ms });
    }

    /// Counts a checkpoint, and publishes how far the shard is caught up.
    fn saved(&mut self, Saved { is_news, caught_up_to_ms }: Saved) {
        if is_news {
            self.ctx.counters().checkpoint();
        }
        let is_all = self.checkpoints.due().is_none();
        self.ctx.status.set_caught_up(if is_all { self.caught_up_to_ms } else { caught_up_to_ms });
    }

    /// The progress to write to the lease; `None` for processors that checkpoint by hand.
    fn progress(&self) -> Option<Progress> {
        match self.ctx.deps.options.checkpoints {
            Checkpoints::Automatic { .. } => {
                Some(Progress { position: self.batcher.position(), beyond: self.batcher.done_beyond() })
            }
            Checkpoints::Manual => None,
        }
    }
}

/// The rules for batches.
fn rules(options: &WorkerOptions) -> Rules {
    Rules {
        by_key: options.shard_concurrency > 1,
        batch_records: options.batch_size,
        batch_bytes: options.batch_bytes,
        window: options.batch_window,
    }
}

async fn next_event(reader: &mut Option<RunningReader>) -> Option<ReaderEvent> {
    match reader {
        Some(reader) => reader.events.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for the checkpoint that is on its way, if there is one.
async fn written(write: &mut Option<CheckpointWrite>) -> Result<Saved, WriteError> {
    let Some(under_way) = write else { return std::future::pending().await };
    let outcome = (&mut under_way.task).await;
    let caught_up_to_ms = under_way.caught_up_to_ms;
    *write = None;
    let is_news = outcome.unwrap_or_else(|error| resume_panic(error).and(Err(LeaseLost)).map_err(WriteError::from))?;
    Ok(Saved { is_news, caught_up_to_ms })
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The outcome of a batch's task. One that was dropped has nothing to say: the worker ends.
fn finished(ended: Result<Option<Result<(), LeaseLost>>, JoinError>) -> Result<(), LeaseLost> {
    match ended {
        Ok(outcome) => outcome.unwrap_or(Ok(())),
        Err(error) => resume_panic(error),
    }
}

/// Passes a task's panic on. Panics of processors are caught where they are called, so this one is a fault of ours.
fn resume_panic(ended: JoinError) -> Result<(), LeaseLost> {
    if ended.is_panic() {
        std::panic::resume_unwind(ended.into_panic());
    }
    Ok(())
}
