//! The reader of one shard: iterators, GetRecords, pace and gaps. It fetches ahead of the processor, within the byte
//! budget, and says what it found, in the shard's order.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::budget::{Budget, PAGE_BYTES, Reservation};
use super::clock::WallClock;
use super::status::ShardStatus;
use crate::aws::stream::{Error, Stream};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;
use crate::model::polling::{PollPacer, PollResult};
use crate::model::record::{Page, RecordBatch};
use crate::model::sequence_number::SequenceNumber;
use crate::model::shard_graph::Shard;

/// A page of this many records is full (GetRecords).
const FULL_PAGE_RECORDS: usize = 1000;
/// A page of this size is full: 1 MB of records is no less of JSON.
const FULL_PAGE_BYTES: usize = 900_000;
/// Records older than this are a backlog: more follow at once, however small the page.
const BACKLOG_AGE_MS: u64 = 2_000;
/// An open shard counts as read to its tip after this many empty pages in a row, and for no less than
/// [`TIP_PROOF`]: a single empty page proves nothing.
const TIP_EMPTY_PAGES: u32 = 3;
const TIP_PROOF: Duration = Duration::from_secs(1);
/// How far the clocks of workers and service may differ: a start at `LATEST` that has to be found again by time
/// begins this much earlier, and delivers again what lies between.
const CLOCK_SLACK_MS: u64 = 30_000;
/// How long a shard that the service denies must stay out of the listing before it counts as gone.
const GONE_PROOF: Duration = Duration::from_secs(1);

/// What a reader found, in the order of the shard.
#[derive(Debug)]
pub(super) enum ReaderEvent {
    /// Records, with the part of the byte budget that they take.
    Records(RecordBatch, Option<Reservation>),
    /// The open shard is read to its tip, as far as some empty pages in a row can say.
    Tip {
        /// The moment of the last of them (ms since the epoch).
        moment_ms: u64,
        /// How many there were: the more, the surer.
        empty_pages: u32,
    },
    /// Records behind the position are gone: trimmed before they were read. Reading goes on with the oldest there is.
    Gap,
    /// The shard is closed and everything in it was found.
    End,
    /// The service doesn't know the shard any more; nothing of it can be read.
    Gone,
    /// The service doesn't know the stream any more.
    StreamGone(String),
}

/// Reads one shard.
pub(super) struct Reader {
    pub(super) stream: Stream,
    pub(super) shard: ShardId,
    /// The position behind which the next iterator begins.
    pub(super) position: Checkpoint,
    /// The moment (ms since the epoch) for which `LATEST` stands, when the lease began there.
    pub(super) latest_since_ms: u64,
    /// Records created before this moment are passed over: set while the start of a `LATEST` lease is sought by time.
    pub(super) not_before_ms: Option<u64>,
    pub(super) budget: Budget,
    pub(super) pacer: PollPacer,
    pub(super) rng: Rng,
    pub(super) clock: WallClock,
    /// Where the reader shows what it has fetched, and how long it waits for others.
    pub(super) status: Arc<ShardStatus>,
    pub(super) found: mpsc::Sender<ReaderEvent>,
}

impl Reader {
    /// Reads until the shard ends or nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut faults = FaultLog::new(self.shard.clone());
        let mut iterator: Option<String> = None;
        let mut at_tip = TipProof::default();
        let mut page_bytes = PAGE_BYTES;
        loop {
            let mut reservation = Some(self.reserve(page_bytes).await);
            let called = Instant::now();
            let looked_ms = self.clock.now_ms();
            let page = self.fetch(&mut iterator).await;
            self.status.read(&page, self.clock);
            let wait = match page {
                Ok(page) => {
                    faults.over();
                    let bytes = page.records.memory_bytes() as u64;
                    page_bytes = page_bytes.max(bytes);
                    let mut taken = reservation.take();
                    if let Some(taken) = &mut taken {
                        self.budget.settle(taken, bytes);
                    }
                    iterator = page.next_shard_iterator.clone();
                    let polled = self.judge(&page);
                    let wait = self.pacer.next(polled, &mut self.rng);
                    if !self.pass_on(page, taken, &mut at_tip, looked_ms).await {
                        return;
                    }
                    wait
                }
                Err(Error::ExpiredIterator) => {
                    self.seek_latest_by_time();
                    iterator = None;
                    // A service that finds each iterator too old is not to be asked without pause.
                    self.pacer.next(PollResult::Failed, &mut self.rng)
                }
                Err(Error::Trimmed(reason)) => {
                    tracing::error!(
                        shard = %self.shard, position = %self.position, reason,
                        "gap: records were trimmed before they were read"
                    );
                    self.position = Checkpoint::TrimHorizon;
                    iterator = None;
                    if !self.send(ReaderEvent::Gap).await {
                        return;
                    }
                    self.pacer.next(PollResult::Failed, &mut self.rng)
                }
                Err(Error::NotFound(reason)) => {
                    iterator = None;
                    faults.note(&reason);
                    if let Some(found) = self.look_for_shard(&mut faults).await {
                        let _ = self.found.send(found).await;
                        return;
                    }
                    self.pacer.next(PollResult::Failed, &mut self.rng)
                }
                Err(Error::Throttled(reason)) => {
                    faults.throttled(&reason);
                    self.pacer.next(PollResult::Throttled, &mut self.rng)
                }
                Err(error) => {
                    faults.note(&error.to_string());
                    self.pacer.next(PollResult::Failed, &mut self.rng)
                }
            };
            drop(reservation); // a shard that waits holds nothing of the budget
            tokio::time::sleep_until(called + wait).await;
            if self.found.is_closed() {
                return;
            }
        }
    }

    async fn reserve(&self, bytes: u64) -> Reservation {
        let _waiting = self.status.waits.start();
        self.budget.reserve(bytes).await
    }

    /// Passes a find on, when the processor has room for it; says whether anybody listens.
    async fn send(&self, find: ReaderEvent) -> bool {
        let _waiting = self.status.waits.start();
        self.found.send(find).await.is_ok()
    }

    async fn fetch(&mut self, iterator: &mut Option<String>) -> Result<Page, Error> {
        let _call = self.budget.call().await;
        let current = match iterator {
            Some(current) => current,
            None => iterator.insert(self.stream.shard_iterator(&self.shard, &self.position).await?),
        };
        let page = self.stream.records(current).await?;
        // Behind a position only what lies behind it is passed on, whatever the service answers.
        let Some(position) = self.position.sequence_number() else { return Ok(page) };
        let records = page.records.skip_through(position);
        if last_position(&records).is_some_and(|last| last <= *position) {
            return Err(Error::Transient(format!("the answer's records are out of order behind {position}")));
        }
        Ok(Page { records, ..page })
    }

    fn judge(&self, page: &Page) -> PollResult {
        let Some(newest) = page.records.last() else { return PollResult::Empty };
        let created_ms = newest.created_at().map_or(0, seconds_to_ms);
        let is_old = self.clock.now_ms().saturating_sub(created_ms) >= BACKLOG_AGE_MS;
        if is_full(&page.records) || is_old { PollResult::Backlog } else { PollResult::Some }
    }

    /// Sends what a page holds; says whether the reading goes on.
    async fn pass_on(
        &mut self,
        page: Page,
        reservation: Option<Reservation>,
        at_tip: &mut TipProof,
        looked_ms: u64,
    ) -> bool {
        let is_full = is_full(&page.records);
        self.status.show_page(&page.records, is_full);
        let ends = page.next_shard_iterator.is_none();
        let find = match last_position(&page.records) {
            Some(last) => {
                self.position = Checkpoint::At(last);
                at_tip.reset();
                let records = self.not_too_old(page.records);
                self.status.fetched(&records, looked_ms, is_full);
                (!records.is_empty()).then_some(ReaderEvent::Records(records, reservation))
            }
            None => {
                let tip = at_tip.empty_page(self.clock.now_ms()).filter(|_| !ends);
                if tip.is_some() {
                    self.status.note(|lag| lag.at_tip(looked_ms));
                }
                tip
            }
        };
        for find in find.into_iter().chain(ends.then_some(ReaderEvent::End)) {
            if !self.send(find).await {
                return false;
            }
        }
        !ends
    }

    /// Leaves out what was created before a `LATEST` start.
    fn not_too_old(&mut self, records: RecordBatch) -> RecordBatch {
        let Some(not_before_ms) = self.not_before_ms else { return records };
        // Times are whole seconds, rounded down: the second of the start counts as after it.
        let is_new = |created: f64| seconds_to_ms(created) + 999 >= not_before_ms;
        let first = records.iter().position(|record| record.created_at().is_none_or(is_new));
        match first {
            Some(first) => {
                self.not_before_ms = None;
                records.slice(first..records.len())
            }
            None => records.slice(0..0),
        }
    }

    /// A new `LATEST` iterator would skip what came since the first one. So the shard is read from its beginning, less
    /// what was there before, by the records' times.
    pub(super) fn seek_latest_by_time(&mut self) {
        if self.position == Checkpoint::Latest {
            self.position = Checkpoint::TrimHorizon;
            self.not_before_ms = Some(self.latest_since_ms.saturating_sub(CLOCK_SLACK_MS));
        }
    }

    /// Decides what a "not found" means: the stream is gone, the shard is gone, or a passing fault.
    async fn look_for_shard(&self, faults: &mut FaultLog) -> Option<ReaderEvent> {
        match self.is_listed().await {
            Err(Error::NotFound(reason)) => Some(ReaderEvent::StreamGone(reason)),
            Ok(Some(false)) if faults.lasted() >= GONE_PROOF => Some(ReaderEvent::Gone),
            _ => None,
        }
    }

    /// Whether a complete listing holds the shard; nothing when the listing is empty.
    async fn is_listed(&self) -> Result<Option<bool>, Error> {
        let (mut after, mut any) = (None, false);
        loop {
            let page = self.stream.describe(after.as_ref()).await?;
            any |= !page.shards.is_empty();
            if page.shards.iter().any(|Shard { id, .. }| *id == self.shard) {
                return Ok(Some(true));
            }
            after = page.next;
            if after.is_none() {
                return Ok(any.then_some(false));
            }
        }
    }
}

/// Whether a page holds as much as one can.
fn is_full(records: &RecordBatch) -> bool {
    records.len() >= FULL_PAGE_RECORDS || records.bytes_len() >= FULL_PAGE_BYTES
}

/// When a shard counts as read to its tip.
#[derive(Default)]
struct TipProof {
    empty_pages: u32,
    since: Option<Instant>,
}

impl TipProof {
    fn reset(&mut self) {
        *self = Self::default();
    }

    /// Notes an empty page; says so when the tip is proved by it.
    fn empty_page(&mut self, moment_ms: u64) -> Option<ReaderEvent> {
        self.empty_pages += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let empty_pages = self.empty_pages;
        let proved = empty_pages >= TIP_EMPTY_PAGES && since.elapsed() >= TIP_PROOF;
        proved.then_some(ReaderEvent::Tip { moment_ms, empty_pages })
    }
}

/// Sums repeated faults of one shard up, so that an outage is a few lines of log.
struct FaultLog {
    shard: ShardId,
    count: u64,
    since: Instant,
    next_report: Duration,
}

impl FaultLog {
    fn new(shard: ShardId) -> Self {
        Self { shard, count: 0, since: Instant::now(), next_report: Duration::from_secs(1) }
    }

    fn note(&mut self, reason: &str) {
        if self.count == 0 {
            *self = Self::new(self.shard.clone());
        }
        self.count += 1;
        let lasted = self.since.elapsed();
        if lasted >= self.next_report {
            self.next_report = lasted * 4;
            tracing::warn!(shard = %self.shard, faults = self.count, ?lasted, reason, "reading fails, trying on");
        }
    }

    fn throttled(&self, reason: &str) {
        tracing::debug!(shard = %self.shard, reason, "throttled");
    }

    fn lasted(&self) -> Duration {
        self.since.elapsed()
    }

    fn over(&mut self) {
        if self.count > 0 && self.next_report > Duration::from_secs(1) {
            tracing::info!(shard = %self.shard, faults = self.count, "reading goes on");
        }
        self.count = 0;
    }
}

/// The position of a batch's last record.
pub(super) fn last_position(records: &RecordBatch) -> Option<SequenceNumber> {
    records.last().and_then(|record| record.sequence_number().parse().ok())
}

/// Seconds since the epoch as the service gives them, in whole milliseconds.
pub(super) fn seconds_to_ms(seconds: f64) -> u64 {
    let ms = (seconds * 1000.0).clamp(0.0, 1e15);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let ms = ms as u64;
    ms
}

/// How many finds wait for the processor: with the one being processed and the one being fetched, up to three pages.
const FETCH_AHEAD: usize = 1;

/// A channel for a reader.
pub(super) fn channel() -> (mpsc::Sender<ReaderEvent>, mpsc::Receiver<ReaderEvent>) {
    mpsc::channel(FETCH_AHEAD)
}
