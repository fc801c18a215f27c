//! In which order records arrived, when several pipes bring them.
//!
//! Each worker writes to a pipe of its own. One pipe keeps its order, but between two pipes nothing tells what came
//! first: when a shard moves from one worker to another, the old one's last lines and the new one's first can both be
//! waiting when we look. So all pipes are looked at in one sweep, each until it is empty, and what a sweep finds is
//! judged only after the next one. Whatever a worker wrote before another one wrote a line that we found is then here
//! too, because the next sweep looked at its pipe after that line was there. Of records of one phone by different
//! workers, in the same two sweeps, the earlier version is taken to have come first; within one worker, order is as it
//! is. So this forgives only what nobody outside of the workers could tell.

use super::ledger::{Arrival, Ledger};
use super::phone::PhoneRecord;

/// A record and who delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The worker, by its place among all that were started.
    pub worker: usize,
    /// What it delivered.
    pub record: PhoneRecord,
}

/// What the last sweep found and is not judged yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    held: Vec<Delivery>,
}

impl Arrivals {
    /// Takes what a sweep found and has `ledger` judge what the sweep before had found, together with what must have
    /// come ahead of that. With nothing held back after two empty sweeps, everything is judged.
    pub fn sweep(&mut self, ledger: &Ledger, found: Vec<Delivery>) -> Vec<(Delivery, Arrival)> {
        let mut due = self.held.len();
        let mut waiting = std::mem::take(&mut self.held);
        waiting.extend(found);
        let mut judged = Vec::new();
        while due > 0 {
            let next = first_of(ledger, &waiting);
            let delivery = waiting.remove(next);
            due -= usize::from(next < due);
            let arrival = ledger.deliver(&delivery.record.key, delivery.record.event, delivery.record.version);
            judged.push((delivery, arrival));
        }
        self.held = waiting;
        judged
    }

    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The place of the delivery that is to be judged next: the first one, unless it would skip an earlier version that
/// another worker delivered and that is the first of this phone by that worker.
fn first_of(ledger: &Ledger, waiting: &[Delivery]) -> usize {
    let first = &waiting[0];
    if !ledger.would_skip(&first.record.key, first.record.version) {
        return 0;
    }
    let mut best = 0;
    let mut seen = vec![first.worker];
    for (index, delivery) in waiting.iter().enumerate().skip(1) {
        if delivery.record.key != first.record.key || seen.contains(&delivery.worker) {
            continue;
        }
        seen.push(delivery.worker);
        if delivery.record.version < waiting[best].record.version {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::phone::{Event, PhoneKey};
    use super::*;

    fn delivery(worker: usize, version: u64) -> Delivery {
        let key = PhoneKey::new("Nokia", "3310");
        Delivery { worker, record: PhoneRecord { key, event: Event::Modify, version, changes: String::new() } }
    }

    /// How many records are out of order, twice and missing when these sweeps find these (worker, version) pairs.
    fn judge(sweeps: &[&[(usize, u64)]]) -> (u64, u64, u64) {
        let (ledger, mut arrivals) = (Ledger::default(), Arrivals::default());
        for _ in 0..6 {
            ledger.write(&delivery(0, 0).record.key, Event::Modify);
        }
        for sweep in sweeps {
            arrivals.sweep(&ledger, sweep.iter().map(|(worker, version)| delivery(*worker, *version)).collect());
        }
        arrivals.sweep(&ledger, Vec::new());
        assert!(arrivals.is_empty());
        let verdict = ledger.verdict();
        (verdict.out_of_order, verdict.twice, verdict.missing())
    }

    #[test]
    fn a_hand_over_seen_in_one_look_is_in_order_whichever_pipe_is_read_first() {
        assert_eq!(judge(&[&[(1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3)]]), (0, 0, 0));
        assert_eq!(judge(&[&[(1, 4), (1, 5)], &[(1, 6), (2, 1), (2, 2), (2, 3)]]), (0, 0, 0));
    }

    #[test]
    fn one_worker_that_delivers_out_of_order_is_found_also_in_one_look() {
        assert_eq!(judge(&[&[(1, 1), (1, 3), (1, 2), (1, 4), (1, 5), (1, 6)]]), (1, 0, 0));
        assert_eq!(judge(&[&[(1, 2), (2, 3), (1, 1), (2, 4), (2, 5), (2, 6)]]), (1, 0, 0));
    }

    #[test]
    fn a_worker_that_is_a_sweep_too_late_is_out_of_order() {
        assert_eq!(judge(&[&[(2, 4), (2, 5), (2, 6)], &[], &[(1, 1), (1, 2), (1, 3)]]), (3, 0, 0));
    }

    #[test]
    fn what_a_second_worker_brings_again_is_twice_and_not_out_of_order() {
        assert_eq!(judge(&[&[(1, 1), (1, 2), (1, 3)], &[(2, 2), (2, 3), (2, 4), (2, 5), (2, 6)]]), (0, 2, 0));
    }
}
