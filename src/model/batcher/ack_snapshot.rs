//! The records that a lease names as acknowledged beyond its position.

use crate::model::out_of_order_acks::OutOfOrderAcks;
use crate::model::sequence_number::compare_digits;

/// The records acknowledged beyond the position, collected from the oldest record on.
#[derive(Default)]
pub(super) struct AckSnapshot<'a> {
    open: Vec<&'a str>,
    /// The last acknowledged record, and the number of open ones before it.
    through: Option<(&'a str, usize)>,
    /// The acknowledgments of an earlier owner, until the snapshot has reached their end.
    inherited: Option<&'a OutOfOrderAcks>,
}

impl<'a> AckSnapshot<'a> {
    pub(super) fn new(inherited: Option<&'a OutOfOrderAcks>) -> Self {
        Self { inherited, ..Self::default() }
    }

    pub(super) fn done(&mut self, position: &'a str) -> bool {
        self.note(position);
        self.through = Some((position, self.open.len()));
        true
    }

    /// Returns whether there was room for the record.
    pub(super) fn open(&mut self, position: &'a str) -> bool {
        self.note(position);
        if self.open.len() == OutOfOrderAcks::MOST_OPEN {
            return false;
        }
        self.open.push(position);
        true
    }

    /// Includes the inherited acknowledgments before the first record after them.
    fn note(&mut self, position: &str) {
        let is_before = |inherited: &OutOfOrderAcks| compare_digits(inherited.through.as_str(), position).is_lt();
        if self.inherited.is_some_and(is_before) {
            self.reach_inherited();
        }
    }

    pub(super) fn reach_inherited(&mut self) {
        if let Some(inherited) = self.inherited.take() {
            self.through = Some((inherited.through.as_str(), self.open.len()));
        }
    }

    pub(super) fn finish(self) -> Option<OutOfOrderAcks> {
        let (through, open) = self.through?;
        let through = through.parse().ok()?;
        let open: Result<Vec<_>, _> = self.open[..open].iter().map(|open| open.parse()).collect();
        Some(OutOfOrderAcks { through, open: open.ok()? })
    }
}
