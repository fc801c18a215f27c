//! Overload of a worker: most of its shards wait for their processors most of the time, for a while.
//!
//! The state changes slowly in both directions, so that a burst, a catch-up of some seconds or a single slow
//! shard does not sway the assignment.

use std::time::Duration;

/// A shard is saturated when what was read waits for the processor or for memory for at least this part of the time.
const SATURATED_SHARE: f64 = 0.5;
/// A worker is pressed when more than this part of its shards are saturated.
const PRESSED_PART: f64 = 0.5;
/// A worker that is overloaded is relieved when at most this part is.
const RELIEVED_PART: f64 = 0.25;
/// The time for which a worker must be pressed to count as overloaded.
const TO_OVERLOADED: Duration = Duration::from_secs(15);
/// The time for which it must be relieved to no longer count as overloaded.
const TO_RELIEVED: Duration = Duration::from_secs(10);

/// Whether a worker is overloaded.
#[derive(Clone, Debug, Default)]
pub struct Overload {
    is_overloaded: bool,
    /// The start of the time in which all notes speak for the other state.
    against_since: Option<Duration>,
}

impl Overload {
    /// Takes each shard's share of the last interval (0 to 1) in which it waited, and returns whether the worker is
    /// overloaded. `now` is a duration since any fixed moment.
    pub fn note(&mut self, now: Duration, shares: impl IntoIterator<Item = f64>) -> bool {
        let (mut shards, mut saturated) = (0_u32, 0_u32);
        for share in shares {
            shards += 1;
            saturated += u32::from(share >= SATURATED_SHARE);
        }
        let (saturated, shards) = (f64::from(saturated), f64::from(shards));
        let (is_against, patience) = if self.is_overloaded {
            (saturated <= shards * RELIEVED_PART, TO_RELIEVED)
        } else {
            (saturated > shards * PRESSED_PART, TO_OVERLOADED)
        };
        if !is_against {
            self.against_since = None;
        } else if now.saturating_sub(*self.against_since.get_or_insert(now)) >= patience {
            self.is_overloaded = !self.is_overloaded;
            self.against_since = None;
        }
        self.is_overloaded
    }

    /// The outcome of the last note.
    pub fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes the same shares each second, and returns for how many seconds the answer stayed as it was.
    fn seconds_to_change(overload: &mut Overload, from: u64, shares: &[f64]) -> Option<u64> {
        let before = overload.is_overloaded();
        let changed =
            |second: &u64| overload.note(Duration::from_secs(from + second), shares.iter().copied()) != before;
        (0..120).find(changed)
    }

    #[test]
    fn a_worker_is_overloaded_when_most_shards_wait_for_a_while_and_relieved_when_few_do() {
        let mut overload = Overload::default();
        assert_eq!(seconds_to_change(&mut overload, 0, &[0.9, 0.6, 0.1]), Some(15));
        assert_eq!(seconds_to_change(&mut overload, 1000, &[0.9, 0.6, 0.1]), None);
        assert_eq!(seconds_to_change(&mut overload, 2000, &[0.9, 0.0, 0.1]), None, "a third is between the two marks");
        assert_eq!(seconds_to_change(&mut overload, 3000, &[0.2, 0.0, 0.1]), Some(10));
    }

    #[test]
    fn a_single_slow_shard_or_none_at_all_is_no_overload() {
        let mut overload = Overload::default();
        assert_eq!(seconds_to_change(&mut overload, 0, &[1.0, 0.0, 0.0]), None);
        assert_eq!(seconds_to_change(&mut overload, 1000, &[]), None);
    }

    #[test]
    fn a_worker_that_has_lost_all_its_shards_is_relieved() {
        let mut overload = Overload::default();
        assert!(seconds_to_change(&mut overload, 0, &[1.0]).is_some());
        assert_eq!(seconds_to_change(&mut overload, 1000, &[]), Some(10));
    }

    #[test]
    fn a_pause_between_two_bursts_starts_the_count_again() {
        let mut overload = Overload::default();
        for second in 0..100 {
            let share = if second % 14 == 13 { 0.0 } else { 1.0 };
            assert!(!overload.note(Duration::from_secs(second), [share]), "after {second} s");
        }
    }
}
