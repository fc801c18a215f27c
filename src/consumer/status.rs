//! What the consumer of one shard shows of itself while it runs: how far it has come, and what keeps it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::busy_time::{BusyTime, InFlightCalls};
use super::clock::WallClock;
use super::reader::{last_position, seconds_to_ms};
use crate::aws::stream::Error;
use crate::model::app_lag::unread_since_ms;
use crate::model::blocked_record::BlockedRecord;
use crate::model::lag::{Fetched, Lag, Stage};
use crate::model::lease::Lease;
use crate::model::record::{Page, Record, RecordBatch};
use crate::model::sequence_number::SequenceNumber;
use crate::telemetry::catalogue;

/// What a consumer shows of itself while it runs.
#[derive(Debug)]
pub struct ShardStatus {
    /// Everything in the shard that was created before this moment (ms since the epoch) is delivered and
    /// checkpointed; 0 while that isn't known.
    caught_up_to_ms: AtomicU64,
    /// See [`Lag`].
    lag: Mutex<Lag>,
    /// Whether the consumer waits for the shard's parents.
    blocked: AtomicBool,
    /// The processors' calls.
    pub(crate) calls: InFlightCalls,
    /// The reader's waiting for the processor and for memory.
    pub(super) waits: BusyTime,
    /// The processor's calls, while they fail one after the other.
    pub(super) retrying: FailureStreak,
    /// The reader's calls, while they fail one after the other.
    failing: FailureStreak,
    /// When everything in the shard was handed over, its end included.
    ended: OnceLock<Instant>,
    /// When a page came or a batch was done last (ms since the epoch).
    progress_ms: AtomicU64,
    /// The records that keep failing, by the unit that they are in.
    halts: Mutex<BTreeMap<u64, BlockedRecord>>,
}

/// What keeps a shard from moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StallCause {
    /// A call of the processor lasts.
    Processor,
    /// The processor keeps failing.
    Retrying,
    /// Reading keeps failing.
    Reading,
}

impl ShardStatus {
    /// Of a consumer that begins at `now_ms` (ms since the epoch), with the lease's row as it is; `started_at_ms` is what
    /// `LATEST` stands for.
    pub fn of(lease: &Lease, started_at_ms: u64, now_ms: u64) -> Self {
        let unread = unread_since_ms(&lease.key, &lease.checkpoint, started_at_ms, now_ms);
        // A row that was never written has no reader before this one.
        let lag = match unread.filter(|_| lease.counter == 0) {
            Some(since_ms) => Lag::of_new_shard(since_ms),
            None => Lag::of_known_shard(now_ms),
        };
        Self {
            caught_up_to_ms: AtomicU64::default(),
            lag: Mutex::new(lag),
            blocked: AtomicBool::default(),
            calls: InFlightCalls::default(),
            waits: BusyTime::default(),
            retrying: FailureStreak::default(),
            failing: FailureStreak::default(),
            ended: OnceLock::new(),
            progress_ms: AtomicU64::default(),
            halts: Mutex::default(),
        }
    }

    /// What is known of the shard's lag.
    pub fn lag<T>(&self, look: impl FnOnce(&Lag) -> T) -> T {
        look(&self.lag.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes something that the lag follows from.
    pub(super) fn note(&self, change: impl FnOnce(&mut Lag)) {
        change(&mut self.lag.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// See the field.
    pub fn caught_up_to_ms(&self) -> u64 {
        self.caught_up_to_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_caught_up(&self, moment_ms: u64) {
        self.caught_up_to_ms.fetch_max(moment_ms, Ordering::Relaxed);
    }

    /// How long the oldest call of a processor has lasted that is under way, if one is.
    pub fn call_lasts(&self) -> Option<Duration> {
        self.calls.runs_for()
    }

    /// For how long, in all, what was read has waited for the processor or for memory.
    pub fn waited(&self) -> Duration {
        self.waits.total()
    }

    /// Whether the shard waits for its parents.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// How long ago everything in the shard was handed over, once it was.
    pub fn ended_for(&self) -> Option<Duration> {
        self.ended.get().map(Instant::elapsed)
    }

    pub(super) fn set_ended(&self) {
        let _ = self.ended.set(Instant::now());
    }

    /// When a page came or a batch was done last (ms since the epoch); 0 before the first.
    pub fn progress_ms(&self) -> u64 {
        self.progress_ms.load(Ordering::Relaxed)
    }

    /// What has kept the shard from moving for at least `limit`, and for how long.
    pub fn trouble(&self, limit: Duration) -> Option<(StallCause, Duration)> {
        let troubles = [
            (StallCause::Processor, self.calls.runs_for()),
            (StallCause::Retrying, self.retrying.lasts()),
            (StallCause::Reading, self.failing.lasts()),
        ];
        let lasting = troubles.into_iter().filter_map(|(trouble, lasts)| Some((trouble, lasts?)));
        lasting.filter(|(_, lasts)| *lasts >= limit).max_by_key(|(_, lasts)| *lasts)
    }

    /// The record that the shard has waited for longest, if there is one.
    pub fn halt(&self) -> Option<BlockedRecord> {
        self.halts().values().min_by_key(|halt| halt.since_ms).cloned()
    }

    /// Whether the shard waits for a record that keeps failing.
    pub fn is_halted(&self) -> bool {
        !self.halts().is_empty()
    }

    /// Shows that a unit waits for a record that keeps failing.
    pub(super) fn set_halt(&self, unit: u64, halt: BlockedRecord) {
        self.halts().insert(unit, halt);
    }

    /// A unit waits no more.
    pub(super) fn clear_halt(&self, unit: u64) {
        self.halts().remove(&unit);
    }

    /// Nothing of the shard is tried here any more.
    pub(super) fn clear_halts(&self) {
        self.halts().clear();
    }

    fn halts(&self) -> MutexGuard<'_, BTreeMap<u64, BlockedRecord>> {
        self.halts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What reader and delivery note.

    /// A call of the reader has come back.
    pub(super) fn read(&self, outcome: &Result<Page, Error>, clock: WallClock) {
        if outcome.is_ok() {
            self.progress_ms.store(clock.now_ms(), Ordering::Relaxed);
        }
        if matches!(outcome, Err(Error::ExpiredIterator)) {
            catalogue::ITERATORS_EXPIRED.inc([]);
        }
        self.failing.note(outcome.is_err());
    }

    /// A page has come, as the service sent it.
    pub(super) fn show_page(&self, records: &RecordBatch, is_full: bool) {
        let kind = match records.len() {
            0 => "empty",
            _ if is_full => "full",
            _ => "partial",
        };
        catalogue::PAGES.inc([kind]);
        catalogue::RECORDS_FETCHED.add([], records.len() as u64);
        catalogue::BYTES_FETCHED.add([], records.bytes_len() as u64);
    }

    /// Records are on their way to the processor.
    pub(super) fn fetched(&self, records: &RecordBatch, looked_ms: u64, is_full: bool) {
        let Some(last) = last_position(records) else { return };
        let created_ms =
            |record: Option<Record<'_>>| record.and_then(|record| record.created_at()).map_or(looked_ms, seconds_to_ms);
        let (oldest_ms, newest_ms) = (created_ms(records.first()), created_ms(records.last()));
        let records = records.len() as u64;
        self.note(|lag| lag.fetched(Fetched { last, records, oldest_ms, newest_ms, looked_ms, is_full }));
    }

    /// The processor is done with everything up to `position`.
    pub(super) fn processed(&self, position: &SequenceNumber, clock: WallClock) {
        self.progress_ms.store(clock.now_ms(), Ordering::Relaxed);
        self.note(|lag| lag.processed(position));
    }

    /// From when the shard's lag counts (ms since the epoch), once it is known.
    pub fn waiting_since_ms(&self, stage: Stage, idle_poll: Duration) -> Option<u64> {
        self.lag(|lag| lag.waiting_since_ms(stage, idle_poll))
    }
}

/// Something that goes on for a while.
#[derive(Debug, Default)]
pub(super) struct FailureStreak(Mutex<Option<Instant>>);

impl FailureStreak {
    /// Notes whether it goes on.
    pub(super) fn note(&self, goes_on: bool) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match goes_on {
            true => drop(since.get_or_insert_with(Instant::now)),
            false => *since = None,
        }
    }

    fn lasts(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

impl StallCause {
    /// The trouble in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Processor => "a call of the processor does not return",
            Self::Retrying => "the processor keeps failing",
            Self::Reading => "reading it keeps failing",
        }
    }

    /// The trouble in a word: a value of the label `cause`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Retrying => "retrying",
            Self::Reading => "reading",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::Checkpoint;

    const LIMIT: Duration = Duration::from_secs(10);

    fn status() -> ShardStatus {
        ShardStatus::of(&Lease::new("s".into(), Default::default(), Checkpoint::TrimHorizon), 0, 1_000)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_lasts_or_keeps_failing_is_trouble_until_one_succeeds() {
        let status = status();
        assert_eq!(status.trouble(LIMIT), None);
        let call = status.calls.start();
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.trouble(LIMIT), Some((StallCause::Processor, LIMIT)));
        drop(call);
        status.retrying.note(true);
        tokio::time::advance(LIMIT / 2).await;
        status.retrying.note(true);
        assert_eq!(status.trouble(LIMIT), None);
        tokio::time::advance(LIMIT / 2).await;
        assert_eq!(status.trouble(LIMIT), Some((StallCause::Retrying, LIMIT)));
        status.retrying.note(false);
        assert_eq!(status.trouble(LIMIT), None);
    }

    #[tokio::test(start_paused = true)]
    async fn reading_that_keeps_failing_is_trouble() {
        let status = status();
        status.read(&Err(Error::Throttled("slow down".into())), WallClock::System);
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.trouble(LIMIT), Some((StallCause::Reading, LIMIT)));
        let page = Page::decode(bytes::Bytes::from_static(br#"{"Records":[]}"#)).expect("a page");
        status.read(&Ok(page), WallClock::System);
        assert_eq!(status.trouble(LIMIT), None);
    }
}
