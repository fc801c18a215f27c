//! The reader of one shard: iterators, GetRecords, pace and gaps.
//!
//! It fetches ahead of the processors, within the byte budget, and sends [`ReaderEvent`]s in the shard's order.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::ConsumerDeps;
use super::budget::{Budget, HeldPages, PAGE_BYTES, Reservation};
use super::clock::WallClock;
use super::fault_log::FaultLog;
use super::status::ConsumerStatus;
use crate::aws::stream::{Error, MOST_PAGE_RECORDS, Stream};
use crate::model::app_lag::{may_be_trimmed, unread_since_ms};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::polling::{PollPacer, PollResult, Tip, to_grid};
use crate::model::record::{Page, PageSummary, RecordBatch};
use crate::model::sequence_number::SequenceNumber;
use crate::model::shard_directory::Presence;
use crate::model::shard_graph::SETTLING;
use crate::options::StartPosition;
use crate::shard_directory::ShardDirectory;
use crate::telemetry::spans;

/// The events that wait for the delivery. With the page in delivery and the one being fetched, these are three pages.
const FETCH_AHEAD: usize = 1;
/// Faults in a row, throttling apart, after which an iterator is replaced.
const ITERATOR_TRIES: u64 = 3;

/// A finding of a reader.
#[derive(Debug)]
pub(super) enum ReaderEvent {
    /// Records. Boxed, because a channel has room for many events from its start.
    Records(Box<FetchedRecords>),
    /// The tip of the open shard, as far as empty pages can prove it.
    Tip {
        /// The time of the last empty page (ms since the epoch).
        moment_ms: u64,
        /// Whether everything older was read.
        is_sure: bool,
    },
    /// Records after the position were trimmed before they were read. The reader resumes with the oldest record.
    Gap,
    /// The shard is closed and its last record was sent.
    End,
    /// The service no longer knows the shard, so the rest of it cannot be read.
    Gone,
    /// The service no longer knows the stream.
    StreamGone(String),
}

/// The records of a page, with their facts and their part of the byte budget.
#[derive(Debug)]
pub(super) struct FetchedRecords {
    pub(super) records: RecordBatch,
    pub(super) page: PageSummary,
    pub(super) reservation: Option<Reservation>,
}

pub(super) struct Reader {
    stream: Stream,
    directory: ShardDirectory,
    shard: ShardId,
    /// The position after which the next iterator begins.
    position: Checkpoint,
    /// The last record that the position ever covered: wherever an iterator begins, nothing up to it is delivered.
    floor: Option<SequenceNumber>,
    /// The time (ms since the epoch) that the sentinels `LATEST` and `AT_TIMESTAMP` stand for.
    since_ms: u64,
    /// Whether the lease begins at that time and no record since was found yet.
    seeks_start: bool,
    /// The most records of a page: fewer after one that did not arrive.
    limit: u32,
    /// Whether wanted records may have been trimmed before anybody read the shard.
    begins_late: bool,
    /// A position that the service refused as trimmed, and its words, until a page shows whether a record is lost.
    refused: Option<(SequenceNumber, String)>,
    /// Whether the last page had no successor.
    has_ended: bool,
    budget: Budget,
    held: HeldPages,
    pacer: PollPacer,
    /// The origin of the moments at which the worker's shards are polled.
    origin: Instant,
    /// The turn to read empty pages at full pace.
    full_pace: Option<OwnedSemaphorePermit>,
    rng: Rng,
    clock: WallClock,
    status: Arc<ConsumerStatus>,
    events: mpsc::Sender<ReaderEvent>,
}

/// A running reader, which stops when this is dropped, and its events.
pub(super) struct RunningReader {
    pub(super) events: mpsc::Receiver<ReaderEvent>,
    _task: AbortOnDropHandle<Option<()>>,
}

impl Reader {
    /// Starts to read a shard after a position. `since_ms` is the time of a sentinel, where it is not the application's.
    pub(super) fn start<F>(
        deps: &ConsumerDeps<F>,
        shard: ShardId,
        position: Checkpoint,
        since_ms: Option<u64>,
        status: Arc<ConsumerStatus>,
        rng: Rng,
    ) -> RunningReader {
        let (sender, events) = mpsc::channel(FETCH_AHEAD);
        let clock = deps.options.clock;
        let begins_late = may_be_trimmed(&shard, &position, since_ms, deps.started_at_ms, clock.now_ms());
        let (position, since_ms) = match (position, since_ms, deps.options.start) {
            // KCL keeps the time in its configuration.
            (Checkpoint::AtTimestamp, None, StartPosition::TrimHorizon | StartPosition::Latest) => {
                tracing::warn!(
                    %shard,
                    "the lease begins at a time that is not in its row, reading from the oldest record"
                );
                (Checkpoint::TrimHorizon, 0)
            }
            (position, since_ms, _) => (position, since_ms.unwrap_or(deps.started_at_ms)),
        };
        let now_ms = clock.now_ms();
        let unread_ms = match position.is_start() {
            true => {
                Some(now_ms.saturating_sub(unread_since_ms(&shard, &position, since_ms, now_ms).unwrap_or_default()))
            }
            // Mostly a lease that moves: little is unread. No row tells, so a worker that ends by it makes sure.
            false => deps.options.until_caught_up.then_some(0),
        };
        let pacer =
            PollPacer::new(deps.options.idle_poll, deps.options.idle_poll_max(), unread_ms.map(Duration::from_millis));
        let reader = Self {
            stream: deps.stream.clone(),
            directory: deps.directory.clone(),
            shard,
            seeks_start: position.is_time(),
            begins_late,
            refused: None,
            has_ended: false,
            floor: position.sequence_number().cloned(),
            position,
            since_ms,
            limit: MOST_PAGE_RECORDS,
            budget: deps.budget.clone(),
            held: HeldPages::default(),
            pacer,
            origin: deps.origin,
            full_pace: None,
            rng,
            clock,
            status,
            events: sender,
        };
        RunningReader { events, _task: AbortOnDropHandle::new(tokio::spawn(deps.lifetime.bind(reader.run()))) }
    }

    /// Reads until the shard ends or the receiver is dropped.
    async fn run(mut self) {
        let mut faults = FaultLog::new(self.shard.clone());
        let mut iterator: Option<String> = None;
        let mut page_bytes = PAGE_BYTES;
        if self.begins_late {
            tracing::error!(
                shard = %self.shard, cause = "trimmed", from = %self.position, to = "the oldest record",
                "gap: nobody has read the shard for as long as the service keeps records"
            );
            if !self.send(ReaderEvent::Gap).await {
                return;
            }
        }
        loop {
            let mut reservation = Some(self.reserve(page_bytes).await);
            let called = Instant::now();
            let fetched_ms = self.clock.now_ms();
            let page = self.fetch(&mut iterator).await;
            self.status.read(&page, self.clock);
            let wait = match page {
                Ok(page) => {
                    faults.clear();
                    self.limit = (self.limit * 2).min(MOST_PAGE_RECORDS);
                    let bytes = page.records.memory_bytes() as u64;
                    page_bytes = bytes.max(PAGE_BYTES);
                    let mut taken = reservation.take();
                    if let Some(taken) = &mut taken {
                        Budget::settle(taken, bytes);
                    }
                    iterator = page.next_shard_iterator.clone();
                    let polled = PollResult::of(page.summary.as_ref(), self.clock.now_ms(), self.origin.elapsed());
                    let wait = self.pacer.next(polled, self.full_pace.is_some(), &mut self.rng);
                    self.status.set_idle_poll_interval(wait, page.summary.is_none());
                    match page.summary.is_none() && self.pacer.is_unread() {
                        true => self.full_pace = self.full_pace.take().or_else(|| self.budget.full_pace()),
                        false => self.full_pace = None,
                    }
                    if !self.send_page(page, taken, fetched_ms).await {
                        return;
                    }
                    if self.has_ended { Duration::ZERO } else { wait }
                }
                Err(Error::ExpiredIterator) => {
                    faults.note("the iterator has expired");
                    iterator = None;
                    // Without a pause, a service that takes each iterator for expired would be called in a tight loop.
                    self.pacer.next(PollResult::Failed, false, &mut self.rng)
                }
                Err(Error::Trimmed(reason)) => {
                    faults.note(&reason);
                    // Before the first wanted record, nothing wanted was trimmed: emulators answer so on new streams.
                    if let Checkpoint::At(position) = &self.position
                        && !self.seeks_start
                    {
                        self.refused = Some((position.clone(), reason));
                    }
                    self.position = Checkpoint::TrimHorizon;
                    iterator = None;
                    self.pacer.next(PollResult::Failed, false, &mut self.rng)
                }
                Err(Error::NotFound(reason)) => {
                    iterator = None;
                    faults.note(&reason);
                    if let Some(event) = self.explain_not_found(&faults) {
                        self.send(event).await;
                        return;
                    }
                    self.pacer.next(PollResult::Failed, false, &mut self.rng)
                }
                Err(Error::Throttled(reason)) => {
                    faults.note_throttled(&reason);
                    self.pacer.next(PollResult::Throttled, false, &mut self.rng)
                }
                Err(error) => {
                    if error == Error::Still {
                        self.limit = (self.limit / 8).max(1);
                    }
                    faults.note(&error.to_string());
                    if faults.count().is_multiple_of(ITERATOR_TRIES) {
                        // The service may not know it any more, whatever error it answers.
                        iterator = None;
                    }
                    self.pacer.next(PollResult::Failed, false, &mut self.rng)
                }
            };
            drop(reservation); // a waiting shard holds none of the budget
            tokio::time::sleep_until(called + to_grid(called - self.origin, wait)).await;
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn reserve(&self, bytes: u64) -> Reservation {
        let (_waiting, _for_memory) = (self.status.waits.start(), self.status.memory_waits.start());
        self.budget.reserve(bytes, &self.held).await
    }

    /// Waits until the delivery has room for an event. Returns whether the delivery is still there.
    async fn send(&self, event: ReaderEvent) -> bool {
        let _waiting = self.status.waits.start();
        self.events.send(event).await.is_ok()
    }

    async fn fetch(&mut self, iterator: &mut Option<String>) -> Result<Page, Error> {
        let _call = self.budget.call().await;
        let current = match iterator {
            Some(current) => current,
            None => {
                let call = self.stream.shard_iterator(&self.shard, &self.position, self.since_ms);
                iterator.insert(Box::pin(call).await?)
            }
        };
        let span = spans::fetch(&self.shard);
        let page = self.stream.records(current, self.limit).instrument(span.clone()).await;
        match &page {
            Ok(page) => drop(span.record("records", page.records.len())),
            Err(error) => spans::fail(&span, error),
        }
        let page = page?;
        let Some(floor) = &self.floor else { return Ok(page) };
        let received = page.records.len();
        let page = page.skip_through(floor);
        if page.records.len() < received {
            self.refused = None; // what came before the position is still there, so nothing after it was trimmed
        }
        if page.summary.as_ref().is_some_and(|page| page.last <= *floor) {
            return Err(Error::Transient(format!("the answer's records are out of order after {floor}")));
        }
        Ok(page)
    }

    /// Sends the events of a page. Returns whether there is more to read.
    ///
    /// A shard has ended when a second answer without a next iterator confirms that nothing follows: emulators leave one
    /// out now and then.
    async fn send_page(&mut self, page: Page, reservation: Option<Reservation>, fetched_ms: u64) -> bool {
        self.status.count_page(page.summary.as_ref());
        let had_ended = std::mem::replace(&mut self.has_ended, page.next_shard_iterator.is_none());
        let is_last = had_ended && self.has_ended && page.summary.is_none();
        let tells = page.summary.is_some() || is_last || self.pacer.tip() != Tip::Unproved;
        if tells && !self.send_gap().await {
            return false;
        }
        let event = match page.summary {
            Some(summary) => {
                self.position = Checkpoint::At(summary.last.clone());
                self.floor = Some(summary.last.clone());
                let is_full = summary.is_full();
                self.without_old(page.records, summary).map(|(records, summary)| {
                    self.status.fetched(&summary, fetched_ms, is_full);
                    ReaderEvent::Records(Box::new(FetchedRecords { records, page: summary, reservation }))
                })
            }
            None if self.has_ended || self.pacer.tip() == Tip::Unproved => None,
            None => {
                self.status.note(|lag| lag.at_tip(fetched_ms));
                Some(ReaderEvent::Tip { moment_ms: fetched_ms, is_sure: self.pacer.tip() == Tip::Sure })
            }
        };
        for event in event.into_iter().chain(is_last.then_some(ReaderEvent::End)) {
            if !self.send(event).await {
                return false;
            }
        }
        !is_last
    }

    /// Tells of a gap if the position was refused and nothing has shown since that all after it is there. Returns whether
    /// the delivery is still there.
    async fn send_gap(&mut self) -> bool {
        let Some((position, reason)) = self.refused.take() else { return true };
        if self.is_ending(&position).await {
            return true;
        }
        tracing::error!(
            shard = %self.shard, cause = "trimmed", from = %position, to = "the oldest record", reason,
            "gap: records were trimmed before they were read"
        );
        self.send(ReaderEvent::Gap).await
    }

    /// Leaves out the records before the moment at which the lease begins, where the iterator began earlier.
    fn without_old(&mut self, records: RecordBatch, summary: PageSummary) -> Option<(RecordBatch, PageSummary)> {
        if !self.seeks_start {
            return Some((records, summary));
        }
        let is_new = |created_ms: u64| may_be_from(created_ms, self.since_ms);
        let first = records.iter().position(|record| record.created_ms().is_none_or(is_new))?;
        self.seeks_start = false;
        let records = records.slice(first..);
        let summary = PageSummary::of(&records)?;
        Some((records, summary))
    }

    /// Whether a position is the shard's ending number, so that no record after it can have been trimmed unread.
    async fn is_ending(&self, position: &SequenceNumber) -> bool {
        let Ok(listing) = self.directory.listing(SETTLING).await else { return false };
        let shards = listing.graph.shards_named([&self.shard]);
        shards.first().and_then(|shard| shard.ending.as_ref()).is_some_and(|ending| ending <= position)
    }

    /// Tells a stream or a shard that is gone from a passing fault, after a "not found".
    fn explain_not_found(&self, faults: &FaultLog) -> Option<ReaderEvent> {
        match self.directory.presence(&self.shard, faults.since(), self.clock.now_ms()) {
            Err(error) => Some(ReaderEvent::StreamGone(error.to_string())),
            Ok(Presence::Gone) => {
                tracing::error!(
                    shard = %self.shard, cause = "not_found", from = %self.position, to = "the shard's end",
                    "gap: the stream no longer has this shard, and records in it may never have been read"
                );
                Some(ReaderEvent::Gone)
            }
            Ok(Presence::Listed | Presence::Unknown) => None,
        }
    }
}

/// Whether a record may be from `since_ms` or later. Its time is rounded down: to a second, by DynamoDB Local to a minute.
fn may_be_from(created_ms: u64, since_ms: u64) -> bool {
    let unit = if created_ms.is_multiple_of(60_000) { 60_000 } else { 1_000 };
    created_ms / unit >= since_ms / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_as_new_if_its_rounded_time_leaves_that_open() {
        const MINUTE: u64 = 1_795_626_720_000;
        let since = MINUTE + 20_300;
        assert!(may_be_from(MINUTE + 20_000, since) && !may_be_from(MINUTE + 19_000, since), "whole seconds");
        assert!(may_be_from(MINUTE, since) && !may_be_from(MINUTE - 60_000, since), "whole minutes");
        assert!(may_be_from(MINUTE + 60_000, since));
    }
}
