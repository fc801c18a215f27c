//! Progress in a shard: positions are acknowledged in any order, the shard stands at the highest contiguous one.

use std::collections::VecDeque;

use super::sequence_number::SequenceNumber;

/// What was handed out of one shard and how much of it is done.
#[derive(Debug, Default)]
pub struct Progress {
    /// What lies beyond the position, oldest first.
    outstanding: VecDeque<Outstanding>,
    /// The ticket of the first outstanding entry.
    first_ticket: u64,
    position: Option<SequenceNumber>,
}

#[derive(Debug)]
struct Outstanding {
    last: SequenceNumber,
    done: bool,
}

/// Stands for something handed out, until it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl Progress {
    /// Notes that everything up to `last`, behind what was handed out before, is handed out.
    ///
    /// # Panics
    /// When `last` does not lie behind what was handed out before: the caller has mixed up the shard's order.
    pub fn hand_out(&mut self, last: SequenceNumber) -> Ticket {
        let before = self.outstanding.back().map(|entry| &entry.last).or(self.position.as_ref());
        assert!(before.is_none_or(|before| *before < last), "{last} was handed out behind {before:?}");
        self.outstanding.push_back(Outstanding { last, done: false });
        Ticket(self.first_ticket + self.outstanding.len() as u64 - 1)
    }

    /// Notes that what the ticket stands for is done, and moves the position over all that is now contiguous.
    pub fn acknowledge(&mut self, ticket: Ticket) {
        let index = ticket.0.checked_sub(self.first_ticket).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.outstanding.get_mut(index)) {
            entry.done = true;
        }
        while self.outstanding.front().is_some_and(|entry| entry.done) {
            self.position = self.outstanding.pop_front().map(|entry| entry.last);
            self.first_ticket += 1;
        }
    }

    /// The last position up to which everything is done.
    pub fn position(&self) -> Option<&SequenceNumber> {
        self.position.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(value: usize) -> SequenceNumber {
        value.to_string().parse().expect("digits")
    }

    #[test]
    fn the_position_waits_for_the_oldest() {
        let mut progress = Progress::default();
        let tickets: Vec<_> = (1..=3).map(|value| progress.hand_out(number(value * 10))).collect();
        progress.acknowledge(tickets[2]);
        progress.acknowledge(tickets[1]);
        assert_eq!(progress.position(), None);
        progress.acknowledge(tickets[0]);
        assert_eq!(progress.position(), Some(&number(30)));
        progress.acknowledge(tickets[0]);
        assert_eq!(progress.position(), Some(&number(30)), "twice is once");
    }

    proptest! {
        #[test]
        fn the_position_is_the_highest_contiguous_one(order in Just((0..30_usize).collect::<Vec<_>>()).prop_shuffle()) {
            let mut progress = Progress::default();
            let tickets: Vec<_> = (0..30).map(|value| progress.hand_out(number(value + 1))).collect();
            let mut done = [false; 30];
            for index in order {
                progress.acknowledge(tickets[index]);
                done[index] = true;
                let contiguous = done.iter().take_while(|done| **done).count();
                prop_assert_eq!(progress.position().cloned(), (contiguous > 0).then(|| number(contiguous)));
            }
        }
    }
}
