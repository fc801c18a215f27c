//! The live status of one consumer: its progress, its lag and the causes of a stall.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::busy_time::{BusyTime, FailureStreak, InFlightCalls};
use super::clock::WallClock;
use crate::aws::stream::Error;
use crate::model::app_lag::unread_since_ms;
use crate::model::blocked_record::{BlockedRecord, RunningCall, StallCause};
use crate::model::lag::{Fetched, Lag, Stage};
use crate::model::lease::Lease;
use crate::model::millis;
use crate::model::record::{Page, PageSummary};
use crate::model::sequence_number::SequenceNumber;
use crate::telemetry::catalogue;

/// The live status of one consumer, written by its reader and its delivery and read by coordination and telemetry.
#[derive(Debug)]
pub struct ConsumerStatus {
    caught_up_to_ms: AtomicU64,
    lag: Mutex<Lag>,
    blocked_on_parent: AtomicBool,
    pub(crate) calls: InFlightCalls<RunningCall>,
    /// The reader's waits for the delivery and for memory.
    pub(super) waits: BusyTime,
    /// Those for memory.
    pub(super) memory_waits: BusyTime,
    /// The waits of batches until the worker may make another call.
    pub(super) permit_waits: InFlightCalls,
    pub(super) processing_failures: FailureStreak,
    /// Calls that found the processor unavailable.
    pub(super) unavailability: FailureStreak,
    pub(super) dead_letter_failures: FailureStreak,
    reading_failures: FailureStreak,
    ended: OnceLock<Instant>,
    progress_ms: AtomicU64,
    /// The time until the next poll after an empty page; 0 after one with records.
    idle_poll_interval_ms: AtomicU64,
    /// The records that keep failing, by their batch.
    blocked_records: Mutex<BTreeMap<u64, BlockedRecord>>,
}

impl ConsumerStatus {
    /// The status of a consumer that starts at `now_ms` (ms since the epoch) with this lease; `started_at_ms` is the time
    /// that `LATEST` stands for.
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
            blocked_on_parent: AtomicBool::default(),
            calls: InFlightCalls::default(),
            waits: BusyTime::default(),
            memory_waits: BusyTime::default(),
            permit_waits: InFlightCalls::default(),
            processing_failures: FailureStreak::default(),
            unavailability: FailureStreak::default(),
            dead_letter_failures: FailureStreak::default(),
            reading_failures: FailureStreak::default(),
            ended: OnceLock::new(),
            progress_ms: AtomicU64::default(),
            idle_poll_interval_ms: AtomicU64::default(),
            blocked_records: Mutex::default(),
        }
    }

    /// Reads the shard's lag.
    pub fn lag<T>(&self, read: impl FnOnce(&Lag) -> T) -> T {
        read(&self.lag.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Lag)) {
        change(&mut self.lag.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The time (ms since the epoch) before which every record of the shard was created that is delivered and
    /// checkpointed; 0 while that is unknown.
    pub fn caught_up_to_ms(&self) -> u64 {
        self.caught_up_to_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_caught_up(&self, moment_ms: u64) {
        self.caught_up_to_ms.fetch_max(moment_ms, Ordering::Relaxed);
    }

    /// The age of the oldest processor call in flight.
    pub fn oldest_call(&self) -> Option<Duration> {
        self.calls.oldest()
    }

    /// The time for which processor calls were made and none has returned: the processor hangs, not only a record.
    pub fn silence(&self) -> Duration {
        self.calls.silence()
    }

    /// The duration of the longest processor call that has returned: one that lasts much longer hangs.
    pub fn longest_call(&self) -> Duration {
        self.calls.longest()
    }

    /// The oldest processor call in flight, if it has lasted for `limit`.
    pub fn long_call(&self, limit: Duration) -> Option<RunningCall> {
        self.calls.oldest_beyond(limit)
    }

    /// The total time for which the reader has waited for the delivery or for memory.
    pub fn waited(&self) -> Duration {
        self.waits.total()
    }

    /// Whether the consumer waits for its shard's parents.
    pub fn is_blocked_on_parent(&self) -> bool {
        self.blocked_on_parent.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked_on_parent(&self, is_blocked: bool) {
        self.blocked_on_parent.store(is_blocked, Ordering::Relaxed);
    }

    /// The time since every record of the shard was acknowledged, its end included.
    pub fn ended_for(&self) -> Option<Duration> {
        self.ended.get().map(Instant::elapsed)
    }

    pub(super) fn set_ended(&self) {
        let _ = self.ended.set(Instant::now());
    }

    /// The time (ms since the epoch) of the last page or acknowledged batch; 0 before the first.
    pub fn progress_ms(&self) -> u64 {
        self.progress_ms.load(Ordering::Relaxed)
    }

    /// The cause that has stalled the shard longest, for at least `limit`, and its duration.
    pub fn stall(&self, limit: Duration) -> Option<(StallCause, Duration)> {
        let stalls = [
            (StallCause::Processor, self.calls.oldest()),
            (StallCause::Retrying, self.processing_failures.lasts()),
            (StallCause::Unavailable, self.unavailability.lasts()),
            (StallCause::DeadLetters, self.dead_letter_failures.lasts()),
            (StallCause::Reading, self.reading_failures.lasts()),
            (StallCause::Memory, self.memory_waits.lasts()),
            (StallCause::Concurrency, self.permit_waits.oldest()),
        ];
        let lasting = stalls.into_iter().filter_map(|(cause, lasts)| Some((cause, lasts?)));
        lasting.filter(|(_, lasts)| *lasts >= limit).max_by_key(|(_, lasts)| *lasts)
    }

    /// The last error of a cause, while it lasts.
    pub fn last_error(&self, cause: StallCause) -> Option<String> {
        match cause {
            StallCause::Retrying => self.processing_failures.last_error(),
            StallCause::Unavailable => self.unavailability.last_error(),
            StallCause::DeadLetters => self.dead_letter_failures.last_error(),
            StallCause::Reading => self.reading_failures.last_error(),
            StallCause::Processor | StallCause::Memory | StallCause::Concurrency => None,
        }
    }

    /// The record that has blocked the shard longest.
    pub fn blocked_record(&self) -> Option<BlockedRecord> {
        self.blocked_records().values().min_by_key(|record| record.since_ms).cloned()
    }

    /// Whether a record that keeps failing blocks the shard.
    pub fn is_halted(&self) -> bool {
        !self.blocked_records().is_empty()
    }

    /// Whether the last call found the processor busy or away.
    pub fn is_processor_unavailable(&self) -> bool {
        self.unavailability.lasts().is_some()
    }

    pub(super) fn set_blocked_record(&self, batch: u64, record: BlockedRecord) {
        self.blocked_records().insert(batch, record);
    }

    pub(super) fn clear_blocked_record(&self, batch: u64) {
        self.blocked_records().remove(&batch);
    }

    pub(super) fn clear_blocked_records(&self) {
        self.blocked_records().clear();
    }

    fn blocked_records(&self) -> MutexGuard<'_, BTreeMap<u64, BlockedRecord>> {
        self.blocked_records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the outcome of a GetRecords call.
    pub(super) fn read(&self, outcome: &Result<Page, Error>, clock: WallClock) {
        if outcome.is_ok() {
            self.progress_ms.store(clock.now_ms(), Ordering::Relaxed);
        }
        if matches!(outcome, Err(Error::ExpiredIterator)) {
            catalogue::ITERATORS_EXPIRED.inc([]);
        }
        self.reading_failures.note(outcome.as_ref().err());
    }

    /// Notes the wait after a page, and whether that was empty.
    pub(super) fn set_idle_poll_interval(&self, wait: Duration, is_empty: bool) {
        self.idle_poll_interval_ms.store(if is_empty { millis(wait) } else { 0 }, Ordering::Relaxed);
    }

    /// The interval at which the shard is polled while it has no records; `None` while it has.
    pub fn idle_poll_interval(&self) -> Option<Duration> {
        let interval_ms = self.idle_poll_interval_ms.load(Ordering::Relaxed);
        (interval_ms > 0).then(|| Duration::from_millis(interval_ms))
    }

    /// Counts a page.
    pub(super) fn count_page(&self, page: Option<&PageSummary>) {
        let kind = match page {
            None => "empty",
            Some(page) if page.is_full() => "full",
            Some(_) => "partial",
        };
        catalogue::PAGES.inc([kind]);
        if let Some(page) = page {
            catalogue::RECORDS_FETCHED.add([], page.records as u64);
            catalogue::BYTES_FETCHED.add([], page.bytes as u64);
        }
    }

    /// Notes records on their way to the delivery.
    pub(super) fn fetched(&self, records: &PageSummary, fetched_ms: u64, is_full: bool) {
        self.note(|lag| {
            lag.fetched(Fetched {
                last: records.last.clone(),
                records: records.records as u64,
                oldest_ms: records.oldest_ms.unwrap_or(fetched_ms),
                newest_ms: records.newest_ms.unwrap_or(fetched_ms),
                fetched_ms,
                is_full,
            });
        });
    }

    /// Notes that every record up to `position` is acknowledged.
    pub(super) fn processed(&self, position: &SequenceNumber, clock: WallClock) {
        self.progress_ms.store(clock.now_ms(), Ordering::Relaxed);
        self.note(|lag| lag.processed(position));
    }

    /// The time (ms since the epoch) from which the shard's lag counts, once it is known.
    pub fn waiting_since_ms(&self, stage: Stage, idle_poll: Duration) -> Option<u64> {
        let interval = self.idle_poll_interval().map_or(idle_poll, |interval| interval.max(idle_poll));
        self.lag(|lag| lag.waiting_since_ms(stage, interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::Checkpoint;

    const LIMIT: Duration = Duration::from_secs(10);

    fn status() -> ConsumerStatus {
        ConsumerStatus::of(&Lease::new("s".into(), Default::default(), Checkpoint::TrimHorizon), 0, 1_000)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_lasts_or_keeps_failing_is_a_stall_until_one_succeeds() {
        let status = status();
        assert_eq!(status.stall(LIMIT), None);
        let call = status.calls.start(RunningCall::without_records(0));
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.stall(LIMIT), Some((StallCause::Processor, LIMIT)));
        drop(call);
        status.processing_failures.note(Some(&"busy"));
        tokio::time::advance(LIMIT / 2).await;
        status.processing_failures.note(Some(&"no room"));
        assert_eq!(status.stall(LIMIT), None);
        tokio::time::advance(LIMIT / 2).await;
        assert_eq!(status.stall(LIMIT), Some((StallCause::Retrying, LIMIT)));
        assert_eq!(status.last_error(StallCause::Retrying).as_deref(), Some("no room"));
        status.processing_failures.clear();
        assert_eq!(status.stall(LIMIT), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_what_other_shards_hold_is_a_stall() {
        let status = status();
        let waiting = status.memory_waits.start();
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.stall(LIMIT), Some((StallCause::Memory, LIMIT)));
        drop(waiting);
        let _waiting = status.permit_waits.start(());
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.stall(LIMIT), Some((StallCause::Concurrency, LIMIT)));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_that_keeps_failing_is_a_stall() {
        let status = status();
        status.read(&Err(Error::Throttled("slow down".into())), WallClock::System);
        tokio::time::advance(LIMIT).await;
        assert_eq!(status.stall(LIMIT), Some((StallCause::Reading, LIMIT)));
        assert_eq!(status.last_error(StallCause::Reading).as_deref(), Some("throttled: slow down"));
        let page = Page::decode(bytes::Bytes::from_static(br#"{"Records":[]}"#)).expect("a page");
        status.read(&Ok(page), WallClock::System);
        assert_eq!(status.stall(LIMIT), None);
    }
}
