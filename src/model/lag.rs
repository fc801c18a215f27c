//! The lag of one shard: how long the oldest change that is not yet fetched, processed or checkpointed has been waiting.
//!
//! The service says nothing of it, so it follows from what was fetched and what became of it. Each answer is a moment:
//! no change created before it is waiting, and the lag is the time since then. The moment lies a little ahead while the
//! shard was just seen to be empty, so the lag is 0. It stays where it is when polls fail, so the lag grows, also for an
//! observer that heard of it from a worker that has died since.
//!
//! Records' times are whole seconds, rounded down. While records are waiting their lag is therefore up to a second too
//! long. When none is known to wait, what may have been created since the last one counts from the end of its second; or
//! from when the page was asked for that brought it, if that was fresh and not full, and so held all that there was as
//! far as a single page can tell.

use std::collections::VecDeque;
use std::time::Duration;

use super::millis;
use super::sequence_number::SequenceNumber;

/// The allowance for a call, on top of the poll interval, before an idle shard's lag begins to grow.
const POLL_SLACK_MS: u64 = 500;
/// Records' times are whole seconds.
const TIME_STEP_MS: u64 = 1_000;
/// A page whose newest record is younger than this is no part of a backlog.
const FRESH_MS: u64 = 2_500;
/// The most processed batches that are told apart before they are checkpointed. Beyond that the newest count as one.
const MOST_UNSAVED: usize = 64;

/// The step that a change must reach to no longer be waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Fetched,
    Processed,
    Checkpointed,
}

/// The lag of one shard. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    /// The batches not yet checkpointed, the oldest first: `done` processed ones, then the others.
    batches: VecDeque<Batch>,
    done: usize,
    seen: Seen,
}

/// Records that were fetched together, as a page.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The position of the last one.
    pub last: SequenceNumber,
    /// The number of records.
    pub records: u64,
    /// The creation time of the first record.
    pub oldest_ms: u64,
    /// The creation time of the last record.
    pub newest_ms: u64,
    /// The time of the call that fetched the page.
    pub fetched_ms: u64,
    /// Whether it held as much as a page can.
    pub is_full: bool,
}

#[derive(Clone, Debug)]
struct Batch {
    last: SequenceNumber,
    oldest_ms: u64,
    records: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Seen {
    /// The shard was not taken up yet.
    #[default]
    Never,
    /// No page yet: the lag counts from here. Unless it is exact, changes may have waited for longer.
    Nothing { since_ms: u64, is_exact: bool },
    /// Records: others may have come since this moment.
    Records(u64),
    /// At this moment, after enough empty pages, that nothing more was there.
    Tip(u64),
}

impl Lag {
    /// The lag of a shard that nobody has read yet: all its changes came after `since_ms`.
    pub fn of_new_shard(since_ms: u64) -> Self {
        Self { seen: Seen::Nothing { since_ms, is_exact: true }, ..Self::default() }
    }

    /// The lag of a shard that others have read before: until a page shows more, it counts from `now_ms`.
    pub fn of_known_shard(now_ms: u64) -> Self {
        Self { seen: Seen::Nothing { since_ms: now_ms, is_exact: false }, ..Self::default() }
    }

    /// Adds records that were fetched, in place of those that are fetched again.
    pub fn fetched(&mut self, page: Fetched) {
        let Fetched { last, records, oldest_ms, newest_ms, fetched_ms, is_full } = page;
        while self.batches.len() > self.done && self.batches.back().is_some_and(|batch| batch.last >= last) {
            self.batches.pop_back();
        }
        self.batches.push_back(Batch { last, oldest_ms, records });
        let is_fresh = !is_full && fetched_ms.saturating_sub(newest_ms) < FRESH_MS;
        let next_ms = newest_ms + TIME_STEP_MS;
        self.seen = Seen::Records(if is_fresh { next_ms.max(fetched_ms) } else { next_ms });
    }

    /// Notes that every record up to `position` is processed.
    pub fn processed(&mut self, position: &SequenceNumber) {
        while self.batches.get(self.done).is_some_and(|batch| batch.last <= *position) {
            self.done += 1;
            if self.done > MOST_UNSAVED {
                self.merge_newest_done();
            }
        }
    }

    /// Notes that every record up to `position` is checkpointed.
    pub fn checkpointed(&mut self, position: &SequenceNumber) {
        self.processed(position);
        while self.batches.front().is_some_and(|batch| batch.last <= *position) {
            self.batches.pop_front();
            self.done -= 1;
        }
    }

    /// Enough empty pages in a row show that the shard holds nothing more.
    pub fn at_tip(&mut self, now_ms: u64) {
        self.seen = Seen::Tip(now_ms);
    }

    /// The moment from which the lag counts, with `idle_poll` between two polls of an empty shard; `None` before the
    /// shard is taken up.
    pub fn waiting_since_ms(&self, stage: Stage, idle_poll: Duration) -> Option<u64> {
        let waiting = match stage {
            Stage::Fetched => None,
            Stage::Processed => self.batches.get(self.done),
            Stage::Checkpointed => self.batches.front(),
        };
        match (waiting, self.seen) {
            (Some(batch), _) => Some(batch.oldest_ms),
            (None, Seen::Never) => None,
            (None, Seen::Nothing { since_ms, .. }) => Some(since_ms),
            (None, Seen::Records(next_ms)) => Some(next_ms),
            (None, Seen::Tip(moment_ms)) => {
                Some(moment_ms.saturating_add(millis(idle_poll)).saturating_add(POLL_SLACK_MS))
            }
        }
    }

    /// Whether changes may have waited for longer than the lag says: others have read the shard before, and no page has
    /// shown yet where they left it.
    pub fn is_at_least(&self) -> bool {
        matches!(self.seen, Seen::Never | Seen::Nothing { is_exact: false, .. })
    }

    /// Records that are fetched and not yet processed.
    pub fn in_flight(&self) -> u64 {
        self.batches.iter().skip(self.done).map(|batch| batch.records).sum()
    }

    fn merge_newest_done(&mut self) {
        let newest = self.batches.remove(self.done - 1);
        if let (Some(newest), Some(before)) = (newest, self.batches.get_mut(self.done - 2)) {
            before.last = newest.last;
            before.records += newest.records;
        }
        self.done -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    fn at(number: u64) -> SequenceNumber {
        number.to_string().parse().expect("digits")
    }

    /// A page that was asked for when its newest record was five seconds old.
    fn page(last: u64, records: u64, oldest_ms: u64, newest_ms: u64) -> Fetched {
        let fetched_ms = newest_ms + 5_000;
        Fetched { last: at(last), records, oldest_ms, newest_ms, fetched_ms, is_full: false }
    }

    /// The lag in milliseconds.
    fn lag(lag: &Lag, stage: Stage, now_ms: u64) -> Option<u64> {
        lag.waiting_since_ms(stage, POLL).map(|since| now_ms.saturating_sub(since))
    }

    fn processing(shard: &Lag, now_ms: u64) -> Option<u64> {
        lag(shard, Stage::Processed, now_ms)
    }

    #[test]
    fn nothing_is_known_before_the_shard_is_taken_up() {
        assert_eq!(processing(&Lag::default(), 5_000), None);
    }

    #[test]
    fn a_shard_that_was_never_begun_is_as_late_as_it_is_old() {
        let shard = Lag::of_new_shard(10_000);
        assert_eq!(processing(&shard, 70_000), Some(60_000));
        assert!(!shard.is_at_least());
    }

    #[test]
    fn a_shard_that_others_have_read_grows_until_the_first_page_and_says_that_it_may_be_more() {
        let mut shard = Lag::of_known_shard(10_000);
        assert_eq!(processing(&shard, 17_000), Some(7_000));
        assert!(shard.is_at_least());
        shard.fetched(page(1, 1, 2_000, 2_000));
        assert_eq!(processing(&shard, 17_000), Some(15_000));
        assert!(!shard.is_at_least());
    }

    #[test]
    fn what_is_in_flight_counts_from_its_oldest_record() {
        let mut shard = Lag::default();
        shard.fetched(page(10, 5, 1_000, 3_000));
        shard.fetched(page(20, 7, 4_000, 6_000));
        assert_eq!((processing(&shard, 9_000), shard.in_flight()), (Some(8_000), 12));
        shard.processed(&at(10));
        assert_eq!((processing(&shard, 9_000), shard.in_flight()), (Some(5_000), 7));
        assert_eq!(processing(&shard, 60_000), Some(56_000), "a stuck processor's lag grows");
    }

    #[test]
    fn what_is_fetched_again_counts_once() {
        let mut shard = Lag::default();
        for last in [10, 20, 30] {
            shard.fetched(page(last, 5, 1_000, 3_000));
        }
        shard.fetched(page(15, 5, 2_000, 3_000));
        assert_eq!(shard.in_flight(), 10);
    }

    #[test]
    fn a_batch_that_is_done_in_part_is_not_done() {
        let mut shard = Lag::default();
        shard.fetched(page(10, 5, 1_000, 3_000));
        shard.processed(&at(9));
        assert_eq!(processing(&shard, 9_000), Some(8_000));
    }

    #[test]
    fn an_idle_shard_at_its_tip_has_none_and_not_before_that_is_proved() {
        let mut shard = Lag::default();
        shard.fetched(page(1, 1, 1_000, 1_000));
        shard.processed(&at(1));
        assert_eq!(processing(&shard, 3_500), Some(1_500), "more may have come since the end of that second");
        shard.at_tip(3_600);
        assert_eq!(processing(&shard, 3_600), Some(0));
        shard.at_tip(90_000);
        assert_eq!(processing(&shard, 91_400), Some(0), "however long it has been idle");
    }

    #[test]
    fn a_fresh_page_that_is_not_full_held_all_there_was_and_an_old_or_full_one_did_not() {
        let after = |fetched_ms: u64, is_full: bool| {
            let mut shard = Lag::default();
            shard.fetched(Fetched { fetched_ms, is_full, ..page(1, 1, 10_000, 10_000) });
            shard.processed(&at(1));
            processing(&shard, 14_000)
        };
        assert_eq!(after(12_000, false), Some(2_000));
        assert_eq!(after(12_000, true), Some(3_000));
        assert_eq!(after(13_000, false), Some(3_000));
    }

    #[test]
    fn failing_polls_make_it_grow_without_a_step_from_when_the_next_was_due() {
        let mut shard = Lag::default();
        shard.at_tip(10_000);
        assert_eq!(processing(&shard, 11_500), Some(0));
        assert_eq!(processing(&shard, 11_501), Some(1));
        assert_eq!(processing(&shard, 71_500), Some(60_000));
    }

    #[test]
    fn failing_polls_of_a_flowing_shard_make_it_grow_from_the_last_record() {
        let mut shard = Lag::default();
        shard.fetched(page(1, 1, 5_000, 5_000));
        shard.processed(&at(1));
        assert_eq!(processing(&shard, 66_000), Some(60_000));
    }

    #[test]
    fn each_stage_counts_what_has_not_come_so_far() {
        let mut shard = Lag::default();
        shard.fetched(page(1, 1, 1_000, 1_000));
        shard.fetched(page(2, 1, 4_000, 4_000));
        shard.processed(&at(1));
        let stages =
            |shard: &Lag| [Stage::Fetched, Stage::Processed, Stage::Checkpointed].map(|stage| lag(shard, stage, 9_000));
        assert_eq!(stages(&shard), [Some(4_000), Some(5_000), Some(8_000)]);
        shard.checkpointed(&at(1));
        assert_eq!(stages(&shard), [Some(4_000), Some(5_000), Some(5_000)]);
        shard.processed(&at(2));
        shard.checkpointed(&at(2));
        shard.at_tip(8_000);
        assert_eq!(stages(&shard), [Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn a_processor_that_never_checkpoints_costs_no_memory_and_forgets_no_age() {
        let mut shard = Lag::default();
        for number in 1..=10_000 {
            shard.fetched(page(number, 1, number * 1_000, number * 1_000));
            shard.processed(&at(number));
        }
        assert!(shard.batches.len() <= MOST_UNSAVED);
        assert_eq!(lag(&shard, Stage::Checkpointed, 10_000_000), Some(9_999_000));
        shard.checkpointed(&at(5));
        assert_eq!(lag(&shard, Stage::Checkpointed, 10_000_000), Some(9_994_000));
        shard.checkpointed(&at(10_000));
        assert!(shard.batches.is_empty());
        assert_eq!(shard.in_flight(), 0);
    }
}
