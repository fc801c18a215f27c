//! The lag of one shard: how long the oldest change that is not yet delivered has been waiting.
//!
//! The service says nothing of it, so it follows from what is fetched and done. The times of records are whole seconds,
//! rounded down, so a lag may be up to a second too long, never too short.

use std::collections::VecDeque;

/// How long the last look at an open shard's tip counts as recent, in milliseconds, on top of the poll interval: when
/// polls fail for longer, the lag grows from that look on.
const TIP_SLACK_MS: u64 = 2_000;

/// What is known of one shard. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    /// The creation times of what is fetched and not yet done, a batch each, the oldest first.
    in_flight: VecDeque<u64>,
    /// The creation time of the last record that is done.
    done: Option<u64>,
    /// When the shard was last seen to hold nothing more, if that was after the last record.
    tip: Option<u64>,
}

impl Lag {
    /// A batch was fetched, whose oldest record was created at `created_ms`.
    pub fn fetched(&mut self, created_ms: u64) {
        self.in_flight.push_back(created_ms);
        self.tip = None;
    }

    /// The oldest batch in flight is done; its newest record was created at `created_ms`.
    pub fn done(&mut self, created_ms: u64) {
        self.in_flight.pop_front();
        self.done = Some(created_ms);
    }

    /// The shard was looked at, and enough empty pages in a row say that it holds nothing more.
    pub fn at_tip(&mut self, now_ms: u64) {
        self.tip = Some(now_ms);
    }

    /// The lag in milliseconds, with `idle_poll_ms` between two polls of an empty shard; nothing before the first
    /// page.
    pub fn read(&self, now_ms: u64, idle_poll_ms: u64) -> Option<u64> {
        let since = |moment: u64| now_ms.saturating_sub(moment);
        if let Some(oldest) = self.in_flight.front() {
            return Some(since(*oldest));
        }
        match (self.tip, self.done) {
            (Some(tip), _) if since(tip) <= idle_poll_ms * 3 + TIP_SLACK_MS => Some(0),
            (Some(tip), _) => Some(since(tip)),
            (None, done) => done.map(since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: u64 = 1_000;

    #[test]
    fn nothing_is_known_before_the_first_page() {
        assert_eq!(Lag::default().read(5_000, POLL), None);
    }

    #[test]
    fn what_is_in_flight_counts_from_its_oldest_record() {
        let mut lag = Lag::default();
        lag.fetched(1_000);
        lag.fetched(4_000);
        assert_eq!(lag.read(9_000, POLL), Some(8_000));
        lag.done(3_000);
        assert_eq!(lag.read(9_000, POLL), Some(5_000));
        assert_eq!(lag.read(60_000, POLL), Some(56_000), "a stuck processor's lag grows");
    }

    #[test]
    fn an_idle_shard_at_its_tip_has_none_and_not_before_that_is_proved() {
        let mut lag = Lag::default();
        lag.fetched(1_000);
        lag.done(1_000);
        assert_eq!(lag.read(2_500, POLL), Some(1_500));
        lag.at_tip(3_000);
        assert_eq!(lag.read(3_500, POLL), Some(0));
        lag.at_tip(90_000);
        assert_eq!(lag.read(91_000, POLL), Some(0), "however long it has been idle");
    }

    #[test]
    fn failing_polls_make_it_grow_from_the_last_look() {
        let mut lag = Lag::default();
        lag.at_tip(10_000);
        assert_eq!(lag.read(15_000, POLL), Some(0));
        assert_eq!(lag.read(15_001, POLL), Some(5_001));
        assert_eq!(lag.read(70_000, POLL), Some(60_000));
    }
}
