//! The order of records that arrive through several pipes.
//!
//! Each worker writes to its own pipe. One pipe keeps its order, but nothing tells which of two pipes was written first:
//! when a shard moves from one worker to another, the last lines of the old owner and the first lines of the new one can
//! both be waiting. So the demonstration reads all pipes in sweeps, each pipe until it is empty, and checks the records
//! of a sweep only after the next sweep. Anything that a worker wrote before another worker wrote one of these records
//! has arrived by then, because the next sweep read its pipe later. Among records of one phone from different workers,
//! in the same two sweeps, the earlier version counts as the first; within one worker, the order is as written. This
//! forgives only what nobody outside the workers could tell.

use super::checker::{Check, DeliveryChecker};
use super::phone::PhoneRecord;

/// A record that a worker delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The index of the worker, in the order of their starts.
    pub worker: usize,
    /// The record.
    pub record: PhoneRecord,
}

/// The deliveries of the last sweep, which are not checked yet.
#[derive(Debug, Default)]
pub struct ReorderBuffer {
    held: Vec<Delivery>,
}

impl ReorderBuffer {
    /// Holds back the deliveries of a sweep and has `checker` check those of the sweep before, with those that must have
    /// come ahead of them.
    pub fn sweep(&mut self, checker: &DeliveryChecker, found: Vec<Delivery>) -> Vec<(Delivery, Check)> {
        let mut due = self.held.len();
        let mut waiting = std::mem::take(&mut self.held);
        waiting.extend(found);
        let mut checked = Vec::new();
        while due > 0 {
            let next = first_of(checker, &waiting);
            let delivery = waiting.remove(next);
            due -= usize::from(next < due);
            let check = checker.deliver(&delivery.record.key, delivery.record.event, delivery.record.version);
            checked.push((delivery, check));
        }
        self.held = waiting;
        checked
    }

    /// Whether every delivery is checked.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The index of the delivery to check next: the first one, unless it would skip an earlier version that is another
/// worker's first delivery of this phone.
fn first_of(checker: &DeliveryChecker, waiting: &[Delivery]) -> usize {
    let first = &waiting[0];
    if !checker.would_skip(&first.record.key, first.record.version) {
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

    /// The numbers of records out of order, delivered twice and missing after sweeps with these (worker, version) pairs.
    fn check(sweeps: &[&[(usize, u64)]]) -> (u64, u64, u64) {
        let (checker, mut buffer) = (DeliveryChecker::default(), ReorderBuffer::default());
        for _ in 0..6 {
            checker.write(&delivery(0, 0).record.key, Event::Modify);
        }
        for sweep in sweeps {
            buffer.sweep(&checker, sweep.iter().map(|(worker, version)| delivery(*worker, *version)).collect());
        }
        buffer.sweep(&checker, Vec::new());
        assert!(buffer.is_empty());
        let verdict = checker.verdict();
        (verdict.out_of_order, verdict.twice, verdict.missing())
    }

    #[test]
    fn a_hand_over_within_one_sweep_is_in_order_whichever_pipe_is_read_first() {
        assert_eq!(check(&[&[(1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3)]]), (0, 0, 0));
        assert_eq!(check(&[&[(1, 4), (1, 5)], &[(1, 6), (2, 1), (2, 2), (2, 3)]]), (0, 0, 0));
    }

    #[test]
    fn one_worker_that_delivers_out_of_order_is_found_even_within_one_sweep() {
        assert_eq!(check(&[&[(1, 1), (1, 3), (1, 2), (1, 4), (1, 5), (1, 6)]]), (1, 0, 0));
        assert_eq!(check(&[&[(1, 2), (2, 3), (1, 1), (2, 4), (2, 5), (2, 6)]]), (1, 0, 0));
    }

    #[test]
    fn a_worker_that_is_a_sweep_too_late_is_out_of_order() {
        assert_eq!(check(&[&[(2, 4), (2, 5), (2, 6)], &[], &[(1, 1), (1, 2), (1, 3)]]), (3, 0, 0));
    }

    #[test]
    fn a_record_that_a_second_worker_repeats_is_delivered_twice_and_not_out_of_order() {
        assert_eq!(check(&[&[(1, 1), (1, 2), (1, 3)], &[(2, 2), (2, 3), (2, 4), (2, 5), (2, 6)]]), (0, 2, 0));
    }
}
