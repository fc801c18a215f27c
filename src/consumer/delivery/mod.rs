//! The side of a consumer that hands records to the processors and writes down what is done.
//!
//! What the reader finds goes into a [`Batcher`], which says what may be handed out; each [unit](settle) of it is
//! worked on by a task of its own, as many at once as there are [processors](slots). They report here what is done, and
//! this is the only place that writes to the lease's row.
//!
//! - `desk`: what the units of a shard share
//! - `settle`: one unit, from its first attempt until all of it is done with
//! - `slots`: the processors
//! - `checkpoints`: when the next checkpoint is due

mod batch_task;
mod checkpoints;
mod context;
mod processor_pool;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::batch_task::BatchTask;
use self::checkpoints::CheckpointTimer;
use self::context::{DeliveryContext, Report};
pub(super) use self::processor_pool::catch_panic;
use self::processor_pool::{PooledProcessor, ProcessorPool};
use super::ConsumerDeps;
use super::budget::Reservation;
use super::checkpointer::Checkpointer;
use super::lease_handle::{Done, LeaseHandle, WriteError};
use super::processor::{BoxError, ProcessorFactory, RecordProcessor, ShardContext};
use super::reader::{ReaderEvent, last_position, seconds_to_ms};
use super::shard_consumer::{ConsumerCommand, Exit, Failure, give_up, wished};
use super::status::ShardStatus;
use crate::model::batcher::{Batcher, Next, Rules};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId};
use crate::model::out_of_order_acks::OutOfOrderAcks;
use crate::model::polling::Backoff;
use crate::model::record::RecordBatch;
use crate::options::{Checkpoints, OnGap};

/// The longest a failing processor is left in peace before it is called again, where no failure policy says.
const LONGEST_RETRY_WAIT: Duration = Duration::from_secs(30);
/// This many empty pages in a row are proof enough that nothing of the past is left in an open shard.
const SURE_TIP_EMPTY_PAGES: u32 = 10;

/// A reader, and what it finds.
pub(super) type ReaderEvents = (AbortOnDropHandle<()>, mpsc::Receiver<ReaderEvent>);

/// See the file's head.
pub(super) struct Delivery<F: ProcessorFactory> {
    desk: Arc<DeliveryContext<F>>,
    schedule: Batcher<Option<Reservation>>,
    units: JoinSet<()>,
    reports: mpsc::UnboundedReceiver<Report>,
    checkpoints: CheckpointTimer,
    /// What [`ShardStatus::caught_up_to_ms`] becomes with the next checkpoint.
    caught_up_to_ms: u64,
    /// The tip, as it was seen while records before it were still open: its moment and the empty pages that prove it.
    tip: Option<(u64, u32)>,
    /// Set when everything in the shard was found: whether the service knows the shard no more.
    ending: Option<bool>,
    /// What the schedule's times count from.
    origin: Instant,
    rng: Rng,
    wishes: watch::Receiver<ConsumerCommand>,
}

/// The end of a step of the delivery that is no success.
enum Break {
    ConsumerCommand(ConsumerCommand),
    Write(WriteError),
    Failed(Failure),
}

impl From<WriteError> for Break {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl<F: ProcessorFactory> Delivery<F> {
    /// The delivery of a shard of which `done` is done beyond its checkpoint.
    pub(super) fn new(
        shared: Arc<ConsumerDeps<F>>,
        context: ShardContext,
        lease: Arc<LeaseHandle>,
        status: Arc<ShardStatus>,
        wishes: watch::Receiver<ConsumerCommand>,
        done: Option<OutOfOrderAcks>,
        rng: Rng,
    ) -> Self {
        let options = &shared.options;
        let rules = Rules {
            by_key: options.shard_concurrency > 1,
            batch_records: options.batch_size,
            batch_bytes: options.batch_bytes,
            window: options.batch_window,
        };
        let checkpoints = CheckpointTimer::new(options.checkpoints);
        let (reporter, reports) = mpsc::unbounded_channel();
        let desk = Arc::new(DeliveryContext {
            slots: ProcessorPool::new(options.shard_concurrency),
            checkpointer: Checkpointer::new(Arc::clone(&lease)),
            shared,
            context,
            lease,
            status,
            leaving: CancellationToken::new(),
            reports: reporter,
        });
        Self {
            desk,
            schedule: Batcher::new(rules, done),
            units: JoinSet::new(),
            reports,
            checkpoints,
            caught_up_to_ms: 0,
            tip: None,
            ending: None,
            origin: Instant::now(),
            rng,
            wishes,
        }
    }

    /// Delivers what the reader finds, to the end of the shard or until the lease goes.
    pub(super) async fn run(mut self, (reader, mut finds): ReaderEvents) -> Exit {
        let end = self.read(&mut finds).await;
        drop(reader);
        let end = match end {
            Err(Break::ConsumerCommand(wish)) => Err(Break::ConsumerCommand(self.drain(wish).await)),
            Err(Break::Write(WriteError::Lost)) => Err(Break::ConsumerCommand(self.drain(ConsumerCommand::Stop).await)),
            end => end,
        };
        self.desk.status.clear_halts();
        match end {
            Ok(exit) => exit,
            Err(Break::ConsumerCommand(ConsumerCommand::Stop) | Break::Write(WriteError::Lost)) => {
                self.lose().await;
                Exit::Lost
            }
            Err(Break::ConsumerCommand(wish)) => self.leave(wish).await,
            Err(Break::Write(WriteError::Table(error))) => Exit::Failed(Failure::LeaseTable(error)),
            Err(Break::Failed(failure)) => Exit::Failed(failure),
        }
    }

    async fn read(&mut self, finds: &mut mpsc::Receiver<ReaderEvent>) -> Result<Exit, Break> {
        self.initialize().await?;
        loop {
            let wake = self.hand_out();
            if self.schedule.is_idle() {
                if let Some(is_gone) = self.ending {
                    return self.end(is_gone).await;
                }
                if let Some((moment_ms, empty_pages)) = self.tip.take() {
                    self.at_tip(moment_ms, empty_pages).await?;
                }
            }
            let waits_for_hand = wake.is_none() && self.schedule.has_next();
            tokio::select! {
                biased;
                wish = wished(&mut self.wishes) => return Err(Break::ConsumerCommand(wish)),
                Some(report) = self.reports.recv() => self.take_reports(report).await?,
                Some(ended) = self.units.join_next() => ended.unwrap_or_else(pass_panic),
                () = sleep_until(self.checkpoints.due()) => self.save().await?,
                () = sleep_until(wake) => {}
                () = self.desk.slots.freed(), if waits_for_hand => {}
                find = finds.recv(), if self.ending.is_none() && self.schedule.has_room() => self.take(find)?,
            }
        }
    }

    /// The first processor is ready before anything is handed out.
    async fn initialize(&mut self) -> Result<(), Break> {
        let desk = Arc::clone(&self.desk);
        let Some(mut hand) = desk.slots.try_take(|| desk.make()) else { return Ok(()) };
        let mut retry = Retry::new("initialize", desk.context.shard_id.clone());
        let slot = hand.slot();
        while let Err(error) = timed(&desk.status, slot.processor.initialize(&desk.context)).await {
            self.wait_to_retry(&mut retry, &error).await?;
        }
        slot.is_initialized = true;
        Ok(())
    }

    /// Hands out what is ready, as far as there are processors for it. Returns when a batch that is filling is due.
    fn hand_out(&mut self) -> Option<Instant> {
        while self.schedule.has_next() {
            let desk = &self.desk;
            let hand = desk.slots.try_take(|| desk.make())?;
            match self.schedule.next(self.origin.elapsed(), desk.slots.free() + 1) {
                Next::Unit(unit) => {
                    let settling = BatchTask::new(Arc::clone(desk), unit, hand, self.rng.fork());
                    self.units.spawn(settling.run());
                }
                Next::At(due) => return Some(self.origin + due),
                Next::Nothing => return None,
            }
        }
        None
    }

    /// Takes in what the reader found.
    fn take(&mut self, find: Option<ReaderEvent>) -> Result<(), Break> {
        match find {
            Some(ReaderEvent::Records(records, reservation)) => self.take_records(records, reservation),
            Some(ReaderEvent::Tip { moment_ms, empty_pages }) => self.tip = Some((moment_ms, empty_pages)),
            Some(ReaderEvent::Gap) => self.gap("trimmed")?,
            Some(ReaderEvent::End) => self.see_end(false),
            Some(ReaderEvent::Gone) => {
                self.gap("not_found")?;
                self.see_end(true);
            }
            Some(ReaderEvent::StreamGone(reason)) => return Err(Break::Failed(Failure::StreamGone(reason))),
            None => return Err(Break::ConsumerCommand(ConsumerCommand::Stop)), // the reader has died
        }
        Ok(())
    }

    fn take_records(&mut self, records: RecordBatch, reservation: Option<Reservation>) {
        let Some(through) = last_position(&records) else { return };
        let created_ms = records.last().and_then(|record| record.created_at()).map(seconds_to_ms);
        self.tip = None;
        let read_bytes = records.bytes_len();
        let records = self.desk.shared.filtered(records);
        // What is left out is done as it is, and moves the position on. That it was read is work of this worker's.
        if records.left_out() > 0 {
            self.checkpoints.note(records.left_out());
            self.desk.lease.note_taken(read_bytes - records.bytes_len());
        }
        self.schedule.add(self.origin.elapsed(), records, through, created_ms, reservation);
        self.show_progress();
    }

    fn see_end(&mut self, is_gone: bool) {
        self.ending = Some(is_gone);
        self.schedule.flush();
    }

    /// Notes what became of units: of all that have told by now.
    async fn take_reports(&mut self, first: Report) -> Result<(), Break> {
        let mut report = first;
        loop {
            self.note(report)?;
            match self.reports.try_recv() {
                Ok(next) => report = next,
                Err(_) => break,
            }
        }
        self.show_progress();
        if self.checkpoints.is_full() {
            self.save().await?;
        }
        Ok(())
    }

    fn note(&mut self, report: Report) -> Result<(), Break> {
        match report {
            Report::Done { unit, places, bytes } => {
                self.desk.lease.note_taken(bytes);
                self.checkpoints.note(places.len());
                self.schedule.acknowledge(unit, places);
            }
            Report::GivenBack { unit, places } => self.schedule.give_back(unit, places),
            Report::LeaseLost => return Err(Break::Write(WriteError::Lost)),
        }
        Ok(())
    }

    /// Shows how far everything is done.
    fn show_progress(&mut self) {
        if let Some(position) = self.schedule.position() {
            self.desk.status.processed(&position, self.desk.shared.options.clock);
        }
        for created_ms in self.schedule.take_passed().into_iter().flatten() {
            self.caught_up_to_ms = self.caught_up_to_ms.max(created_ms);
        }
    }

    async fn at_tip(&mut self, moment_ms: u64, empty_pages: u32) -> Result<(), Break> {
        if empty_pages < SURE_TIP_EMPTY_PAGES {
            return Ok(());
        }
        self.caught_up_to_ms = self.caught_up_to_ms.max(moment_ms);
        if self.desk.shared.options.until_caught_up && self.checkpoints.due().is_some() {
            self.save().await?;
        } else if self.checkpoints.due().is_none() {
            self.publish();
        }
        Ok(())
    }

    fn gap(&self, reason: &'static str) -> Result<(), Break> {
        self.desk.shared.counters.gap(reason);
        match self.desk.shared.options.on_gap {
            OnGap::Continue => Ok(()),
            OnGap::Stop => Err(Break::Failed(Failure::Gap(self.desk.lease.key().clone()))),
        }
    }

    /// The end of a closed shard: the processors' last word, then the parent's end and the children's start.
    async fn end(&mut self, is_gone: bool) -> Result<Exit, Break> {
        let desk = Arc::clone(&self.desk);
        desk.status.set_ended();
        let mut slots = desk.slots.take_all();
        let told = self.tell_end(&mut slots).await;
        desk.slots.put_back(slots); // their lives may still hold more
        told?;
        let key = desk.context.shard_id.clone();
        let children = if is_gone { Vec::new() } else { desk.shared.children.children(&key).await };
        // What the shard delivered its children will deliver: they have its keys.
        let throughput_kbps = desk.lease.throughput_kbps().map(|rate| rate / children.len().max(1) as f64);
        let children: Vec<Lease> = children
            .into_iter()
            .map(|child| Lease {
                throughput_kbps,
                ..Lease::new(child.id, child.parent.into_iter().collect(), Checkpoint::TrimHorizon)
            })
            .collect();
        let (row, children) = desk.lease.end(&children).await?;
        Ok(Exit::Ended { row, children })
    }

    async fn tell_end(&mut self, slots: &mut [PooledProcessor<F::Processor>]) -> Result<(), Break> {
        let desk = Arc::clone(&self.desk);
        for slot in slots {
            let mut retry = Retry::new("shard_ended", desk.context.shard_id.clone());
            loop {
                if !desk.lease.is_alive() {
                    return Err(Break::Write(WriteError::Lost));
                }
                match timed(&desk.status, slot.processor.shard_ended(&desk.checkpointer)).await {
                    Ok(()) => break,
                    Err(error) => self.wait_to_retry(&mut retry, &error).await?,
                }
            }
        }
        Ok(())
    }

    /// Lets what is under way come to its end, and no further attempt begin. Returns what is wanted by then.
    async fn drain(&mut self, wish: ConsumerCommand) -> ConsumerCommand {
        self.desk.leaving.cancel();
        while let Some(ended) = self.units.join_next().await {
            ended.unwrap_or_else(pass_panic);
        }
        let mut wish = wish;
        while let Ok(report) = self.reports.try_recv() {
            if self.note(report).is_err() {
                wish = ConsumerCommand::Stop;
            }
        }
        match *self.wishes.borrow() {
            // What is lost stays lost, and a wish may have changed meanwhile.
            _ if wish == ConsumerCommand::Stop => ConsumerCommand::Stop,
            ConsumerCommand::Run => wish,
            newest => newest,
        }
    }

    /// Stops on the coordinator's wish, with everything that is done written down.
    async fn leave(&mut self, wish: ConsumerCommand) -> Exit {
        let slots = self.desk.slots.take_all();
        let mut processors: Vec<F::Processor> = slots.into_iter().map(|slot| slot.processor).collect();
        for processor in &mut processors {
            let _call = self.desk.status.calls.start();
            processor.shutdown_requested(&self.desk.checkpointer).await;
        }
        let exit = give_up(&self.desk.lease, wish, self.done().as_ref()).await;
        if matches!(exit, Exit::Lost) {
            for processor in &mut processors {
                processor.lease_lost().await;
            }
        }
        exit
    }

    /// Tells the processors that the lease is lost.
    async fn lose(&mut self) {
        for mut slot in self.desk.slots.take_all() {
            slot.processor.lease_lost().await;
        }
    }

    /// Writes down how far the shard is done, and shows it.
    async fn save(&mut self) -> Result<(), Break> {
        if let Some(done) = self.done()
            && self.desk.lease.save(&done).await?
        {
            self.desk.shared.counters.checkpoint();
        }
        self.checkpoints.saved();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.desk.status.set_caught_up(self.caught_up_to_ms);
    }

    /// What to write down; nothing for processors that do so themselves.
    fn done(&self) -> Option<Done> {
        match self.desk.shared.options.checkpoints {
            Checkpoints::Automatic { .. } => {
                Some(Done { position: self.schedule.position(), beyond: self.schedule.done_beyond() })
            }
            Checkpoints::Manual => None,
        }
    }

    async fn wait_to_retry(&mut self, retry: &mut Retry, error: &BoxError) -> Result<(), Break> {
        let wait = retry.next(error, &mut self.rng);
        tokio::select! {
            biased;
            wish = wished(&mut self.wishes) => Err(Break::ConsumerCommand(wish)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

/// The calls of a processor that fails to begin or to end.
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

    fn next(&mut self, error: &BoxError, rng: &mut Rng) -> Duration {
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

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A processor's call, with its duration shown.
async fn timed(status: &ShardStatus, call: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    let _call = status.calls.start();
    catch_panic(call).await
}

/// Processors' panics are caught where they are called; any other ends the consumer.
fn pass_panic(ended: JoinError) {
    if ended.is_panic() {
        std::panic::resume_unwind(ended.into_panic());
    }
}
