//! Records acknowledged out of order, beyond the checkpoint. Small enough to store in the lease row.
//!
//! With several items' records in flight at once, a checkpoint waits for the oldest of them, and the next owner of the
//! shard would repeat the records acknowledged after it. So the lease also says: all records up to a position are
//! acknowledged, except these. The text holds the one checkpoint for which that is true, so it is ignored once a worker
//! that does not know of it has moved the checkpoint.

use std::cmp::Ordering;

use super::checkpoint::Checkpoint;
use super::sequence_number::{SequenceNumber, compare_digits};

/// The acknowledged records after one checkpoint: all up to a position, except some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfOrderAcks {
    /// The last acknowledged record. All from the checkpoint up to it are acknowledged, except the open ones.
    pub through: SequenceNumber,
    /// The records not yet acknowledged, in order; all lie after the checkpoint and before `through`.
    pub open: Vec<SequenceNumber>,
}

impl OutOfOrderAcks {
    /// The most records that may be open: with more, `through` lies before the first that has no room.
    pub const MOST_OPEN: usize = 100;

    /// Whether the record at this position, after the checkpoint, is acknowledged.
    pub fn has(&self, position: &str) -> bool {
        compare_digits(position, self.through.as_str()).is_le()
            && self.open.binary_search_by(|open| compare_digits(open.as_str(), position)).is_err()
    }

    /// The part after this checkpoint.
    pub fn behind(&self, base: &Checkpoint) -> Option<Self> {
        let Some(position) = base.sequence_number() else { return Some(self.clone()) };
        (self.through > *position)
            .then(|| Self { through: self.through.clone(), open: self.open_after(position).to_vec() })
    }

    /// The lease's text, for this checkpoint: the checkpoint, the open records, and `through`, with blanks between. A number may be written as `+` and the digits in which it differs from the number before it.
    pub fn to_text(&self, base: &Checkpoint) -> String {
        let mut text = base.to_string();
        let mut before = base.sequence_number();
        for number in self.open.iter().chain([&self.through]) {
            text.push(' ');
            match before.and_then(|before| differing_tail(before, number)) {
                Some(tail) => {
                    text.push('+');
                    text.push_str(tail);
                }
                None => text.push_str(number.as_str()),
            }
            before = Some(number);
        }
        text
    }

    /// Reads the text of [`to_text`](Self::to_text); `None` when it was written for another checkpoint or is malformed.
    pub fn parse(text: &str, base: &Checkpoint) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != base.as_str() {
            return None;
        }
        let mut numbers: Vec<SequenceNumber> = Vec::new();
        for word in words {
            let before = numbers.last().or(base.sequence_number());
            let number = match (word.strip_prefix('+'), before) {
                (None, _) => word.parse().ok()?,
                (Some(tail), Some(before)) => {
                    let head = before.as_str().len().checked_sub(tail.len())?;
                    [&before.as_str()[..head], tail].concat().parse().ok()?
                }
                (Some(_), None) => return None,
            };
            if before.is_some_and(|before| number <= *before) {
                return None;
            }
            numbers.push(number);
        }
        let through = numbers.pop()?;
        (numbers.len() <= Self::MOST_OPEN).then_some(Self { through, open: numbers })
    }

    /// The open records after this position.
    pub(super) fn open_after(&self, position: &SequenceNumber) -> &[SequenceNumber] {
        &self.open[self.open.partition_point(|open| open.cmp(position) != Ordering::Greater)..]
    }
}

/// The last digits of `number`, from the first in which it differs from `before`; `None` when they differ in length.
fn differing_tail<'a>(before: &SequenceNumber, number: &'a SequenceNumber) -> Option<&'a str> {
    let (before, number) = (before.as_str(), number.as_str());
    let common = before.bytes().zip(number.bytes()).take_while(|(left, right)| left == right).count();
    (before.len() == number.len()).then(|| &number[common..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(digits: impl ToString) -> SequenceNumber {
        digits.to_string().parse().expect("digits")
    }

    fn at(text: &str) -> Checkpoint {
        Checkpoint::parse(text).expect("a checkpoint")
    }

    #[test]
    fn the_text_is_short_and_reads_back_for_its_own_checkpoint_only() {
        let done = OutOfOrderAcks {
            through: number("100000000000000000000"),
            open: vec![number("99999999999999999123"), number("99999999999999999125")],
        };
        let base = at("99999999999999999100");
        let text = done.to_text(&base);
        assert_eq!(text, "99999999999999999100 +23 +5 100000000000000000000");
        assert_eq!(OutOfOrderAcks::parse(&text, &base), Some(done.clone()));
        assert_eq!(OutOfOrderAcks::parse(&text, &at("99999999999999999101")), None);
        let start = done.to_text(&Checkpoint::TrimHorizon);
        assert_eq!(start, "TRIM_HORIZON 99999999999999999123 +5 100000000000000000000");
        assert_eq!(OutOfOrderAcks::parse(&start, &Checkpoint::TrimHorizon), Some(done));
    }

    #[test]
    fn what_is_not_well_formed_means_nothing() {
        for text in ["", "5", "5 ", "5 x", "5 4", "5 5", "5 9 8", "5 +", "5 +1", "5 +123", "5 7  9", "TRIM_HORIZON +7"]
        {
            assert_eq!(OutOfOrderAcks::parse(text, &at("5")), None, "{text:?}");
        }
        let long: Vec<String> = (5..200).map(|n| n.to_string()).collect();
        assert_eq!(OutOfOrderAcks::parse(&long.join(" "), &at("5")), None);
    }

    proptest! {
        #[test]
        fn every_state_reads_back_and_names_what_is_done(
            numbers in prop::collection::btree_set(1_u64..5_000, 2..100),
            padded: bool,
        ) {
            let all: Vec<SequenceNumber> =
                numbers.iter().map(|n| number(if padded { format!("{n:025}") } else { n.to_string() })).collect();
            let base = Checkpoint::At(all[0].clone());
            let done = OutOfOrderAcks { through: all[all.len() - 1].clone(), open: all[1..all.len() - 1].to_vec() };
            prop_assert_eq!(OutOfOrderAcks::parse(&done.to_text(&base), &base), Some(done.clone()));
            let (first, last) = (numbers.first().copied().expect("some"), numbers.last().copied().expect("some"));
            for n in first + 1..last + 3 {
                let is_done = n <= last && (n == last || !numbers.contains(&n));
                prop_assert_eq!(done.has(&n.to_string()), is_done, "{}", n);
            }
        }
    }
}
