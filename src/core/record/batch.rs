//! A run of records of one page, cheap to hand on and to cut.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::Record;
use super::page::PageData;
use crate::core::sequence_number::{SequenceNumber, compare_digits};

/// A contiguous range of the records of one page.
///
/// It shares the page's bytes: a clone or a slice costs a reference count, and any of them keeps the whole page alive.
#[derive(Clone)]
pub struct RecordBatch {
    page: Arc<PageData>,
    start: u32,
    end: u32,
}

impl RecordBatch {
    pub(super) fn whole(page: Arc<PageData>) -> Self {
        let end = page.entries().len() as u32;
        Self { page, start: 0, end }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The size of the records as the service sent them, in bytes, without what stands between them.
    pub fn bytes_len(&self) -> usize {
        let range = self.start as usize..self.end as usize;
        self.page.entries()[range].iter().map(|entry| entry.record.len()).sum()
    }

    /// The heap that this batch keeps alive, in bytes: the whole page with its index, however short the batch is.
    pub fn memory_bytes(&self) -> usize {
        self.page.memory_bytes()
    }

    /// The record at `index`, counted from the batch's first.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        if index >= self.len() {
            return None;
        }
        Record::at(&self.page, self.start + index as u32)
    }

    /// The first record.
    pub fn first(&self) -> Option<Record<'_>> {
        self.get(0)
    }

    /// The last record.
    pub fn last(&self) -> Option<Record<'_>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The records in order.
    pub fn iter(&self) -> Records<'_> {
        Records { page: &self.page, next: self.start, end: self.end }
    }

    /// The records at the given places.
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
        Self { page: Arc::clone(&self.page), start: self.start + from as u32, end: self.start + to as u32 }
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
    next: u32,
    end: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        if self.next == self.end {
            return None;
        }
        let record = Record::at(self.page, self.next);
        self.next += 1;
        record
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end - self.next) as usize;
        (left, Some(left))
    }
}

impl DoubleEndedIterator for Records<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        self.end -= 1;
        Record::at(self.page, self.end)
    }
}

impl ExactSizeIterator for Records<'_> {}
