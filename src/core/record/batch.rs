//! Records of one page, cheap to hand on, to cut and to choose from.

use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use super::Record;
use super::page::PageData;
use crate::core::sequence_number::{SequenceNumber, compare_digits};

/// A run of the records of one page, less those that were [left out](Self::retain) of it.
///
/// It shares the page's bytes: a clone or a slice costs a reference count, and any of them keeps the whole page alive.
#[derive(Clone)]
pub struct RecordBatch {
    page: Arc<PageData>,
    /// The run of the page's records for which the batch stands, those left out included.
    run: Range<u32>,
    /// What is chosen of the run; `None` is all of it.
    chosen: Option<Choice>,
}

/// Some records of a page, in order.
#[derive(Clone)]
struct Choice {
    /// Their places in the page.
    places: Arc<[u32]>,
    /// Those of them that the batch has.
    start: usize,
    end: usize,
}

impl Choice {
    fn places(&self) -> &[u32] {
        &self.places[self.start..self.end]
    }
}

impl RecordBatch {
    pub(super) fn whole(page: Arc<PageData>) -> Self {
        let end = page.entries().len() as u32;
        Self { page, run: 0..end, chosen: None }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        match &self.chosen {
            None => self.run.len(),
            Some(choice) => choice.places().len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of the records as the service sent them, in bytes, without what stands between them.
    pub fn bytes_len(&self) -> usize {
        self.iter().map(|record| record.json().len()).sum()
    }

    /// The heap that this batch keeps alive, in bytes: the whole page with its index, however short the batch is.
    pub fn memory_bytes(&self) -> usize {
        let places = self.chosen.as_ref().map_or(0, |choice| size_of_val(&*choice.places));
        self.page.memory_bytes() + places
    }

    /// The record at `index`, counted from the batch's first.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        if index >= self.len() {
            return None;
        }
        Record::at(&self.page, self.place(index))
    }

    /// The first record.
    pub fn first(&self) -> Option<Record<'_>> {
        self.get(0)
    }

    /// The last record.
    pub fn last(&self) -> Option<Record<'_>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The position up to which the shard is dealt with once the batch is: the sequence number of its last record, or
    /// of a later one that was left out. `None` when the batch stands for no record at all.
    pub fn through(&self) -> Option<&str> {
        let last = self.run.clone().next_back()?;
        Record::at(&self.page, last).map(|record| record.sequence_number())
    }

    /// How many records were left out of the batch.
    pub fn left_out(&self) -> usize {
        self.run.len() - self.len()
    }

    /// The records in order.
    pub fn iter(&self) -> Records<'_> {
        let places = match &self.chosen {
            None => Places::Run(self.run.clone()),
            Some(choice) => Places::Chosen(choice.places().iter()),
        };
        Records { page: &self.page, places }
    }

    /// The batch with only those records that `keep` says yes to; it is asked once for each record, in order.
    ///
    /// Nothing is copied, and the batch still stands for the others: [`through`](Self::through) does not change. Costs
    /// four bytes a record that is kept, and nothing when all are.
    pub fn retain(self, mut keep: impl FnMut(&Record<'_>) -> bool) -> RecordBatch {
        let Some(first_out) = self.iter().position(|record| !keep(&record)) else {
            return self;
        };
        let mut places: Vec<u32> = (0..first_out).map(|index| self.place(index)).collect();
        for index in first_out + 1..self.len() {
            let place = self.place(index);
            if Record::at(&self.page, place).is_some_and(|record| keep(&record)) {
                places.push(place);
            }
        }
        let end = places.len();
        Self { chosen: Some(Choice { places: places.into(), start: 0, end }), ..self }
    }

    /// The records at the given places. Records that were left out go with the record before them; those before the
    /// first, with the first place.
    ///
    /// # Panics
    /// Like a slice's, when the range begins after its end or ends after the batch.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> RecordBatch {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&to) => to,
            Bound::Unbounded => self.len(),
        };
        assert!(from <= to && to <= self.len(), "records {from}..{to} of a batch of {}", self.len());
        let run_start = if from == 0 { self.run.start } else { self.cut(from) };
        let run = run_start..self.cut(to);
        let chosen = self.chosen.as_ref().map(|choice| Choice {
            places: Arc::clone(&choice.places),
            start: choice.start + from,
            end: choice.start + to,
        });
        Self { page: Arc::clone(&self.page), run, chosen }
    }

    /// The batch without the records up to and including `position`, for going on after it.
    ///
    /// Only a leading run is dropped, so that no record above the position could be lost even if a service sent its
    /// records out of order.
    pub fn skip_through(&self, position: &SequenceNumber) -> RecordBatch {
        let is_done = |record: &Record<'_>| compare_digits(record.sequence_number(), position.as_str()).is_le();
        self.slice(self.iter().take_while(is_done).count()..)
    }

    /// The first `index` records and the rest.
    ///
    /// # Panics
    /// When the batch is shorter than `index`.
    pub fn split_at(&self, index: usize) -> (RecordBatch, RecordBatch) {
        (self.slice(..index), self.slice(index..))
    }

    /// Where the record at `index`, which is below the batch's length, is in the page.
    #[inline]
    fn place(&self, index: usize) -> u32 {
        match &self.chosen {
            None => self.run.start + index as u32,
            Some(choice) => choice.places()[index],
        }
    }

    /// Where in the page the batch is cut before the record at `index`.
    fn cut(&self, index: usize) -> u32 {
        if index == self.len() { self.run.end } else { self.place(index) }
    }
}

impl Default for RecordBatch {
    /// A batch without records.
    fn default() -> Self {
        Self::whole(Arc::default())
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("len", &self.len())
            .field("first", &self.first().map(|record| record.sequence_number()))
            .field("last", &self.last().map(|record| record.sequence_number()))
            .field("left_out", &self.left_out())
            .finish()
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = Record<'a>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// The records of a batch, one after the other.
#[derive(Clone)]
pub struct Records<'a> {
    page: &'a Arc<PageData>,
    places: Places<'a>,
}

/// Places of records in a page.
#[derive(Clone)]
enum Places<'a> {
    Run(Range<u32>),
    Chosen(std::slice::Iter<'a, u32>),
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        let place = match &mut self.places {
            Places::Run(run) => run.next(),
            Places::Chosen(places) => places.next().copied(),
        };
        Record::at(self.page, place?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.places {
            Places::Run(run) => run.size_hint(),
            Places::Chosen(places) => places.size_hint(),
        }
    }
}

impl DoubleEndedIterator for Records<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let place = match &mut self.places {
            Places::Run(run) => run.next_back(),
            Places::Chosen(places) => places.next_back().copied(),
        };
        Record::at(self.page, place?)
    }
}

impl ExactSizeIterator for Records<'_> {}
