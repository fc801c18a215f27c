//! Records of one page, or picked from several, cheap to pass along, to cut and to choose from.

use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use super::page::PageData;
use super::{OwnedRecord, Record};
use crate::model::sequence_number::{SequenceNumber, compare_digits};

/// Records of a shard, in order: a run of one page's records, less those that were [left out](Self::retain) of it, or
/// records picked from several pages.
///
/// It shares the pages' bytes: a clone or a slice costs a reference count, and any of them keeps its whole pages alive.
#[derive(Clone)]
pub struct RecordBatch(Content);

#[derive(Clone)]
enum Content {
    Run(PageRun),
    Picked(Picked),
}

/// A part of one page.
#[derive(Clone)]
struct PageRun {
    page: Arc<PageData>,
    /// The run of the page's records for which the batch stands, those left out included.
    run: Range<u32>,
    /// The chosen records of the run; `None` is all of them.
    chosen: Option<Choice>,
}

/// Records of any pages.
#[derive(Clone)]
struct Picked {
    records: Arc<[OwnedRecord]>,
    /// Those of them that the batch has.
    start: usize,
    end: usize,
}

impl Picked {
    fn records(&self) -> &[OwnedRecord] {
        &self.records[self.start..self.end]
    }
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

impl PageRun {
    fn len(&self) -> usize {
        match &self.chosen {
            None => self.run.len(),
            Some(choice) => choice.places().len(),
        }
    }

    /// The place in the page of the record at `index`, which is below the length.
    #[inline]
    fn place(&self, index: usize) -> u32 {
        match &self.chosen {
            None => self.run.start + index as u32,
            Some(choice) => choice.places()[index],
        }
    }

    /// The place in the page of a cut before the record at `index`.
    fn cut(&self, index: usize) -> u32 {
        if index == self.len() { self.run.end } else { self.place(index) }
    }

    fn slice(&self, from: usize, to: usize) -> Self {
        let run_start = if from == 0 { self.run.start } else { self.cut(from) };
        let run = run_start..self.cut(to);
        let chosen = self.chosen.as_ref().map(|choice| Choice {
            places: Arc::clone(&choice.places),
            start: choice.start + from,
            end: choice.start + to,
        });
        Self { page: Arc::clone(&self.page), run, chosen }
    }

    fn retain(self, mut keep: impl FnMut(&Record<'_>) -> bool) -> Self {
        let mut keeps = |place| Record::at(&self.page, place).is_some_and(|record| keep(&record));
        let Some(first_out) = (0..self.len()).position(|index| !keeps(self.place(index))) else {
            return self;
        };
        let mut places: Vec<u32> = (0..first_out).map(|index| self.place(index)).collect();
        places.extend((first_out + 1..self.len()).map(|index| self.place(index)).filter(|place| keeps(*place)));
        let end = places.len();
        Self { chosen: Some(Choice { places: places.into(), start: 0, end }), ..self }
    }
}

impl RecordBatch {
    pub(super) fn whole(page: Arc<PageData>) -> Self {
        let end = page.entries().len() as u32;
        Self(Content::Run(PageRun { page, run: 0..end, chosen: None }))
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        match &self.0 {
            Content::Run(run) => run.len(),
            Content::Picked(picked) => picked.records().len(),
        }
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of the records as the service sent them, in bytes, without what stands between them.
    pub fn bytes_len(&self) -> usize {
        self.iter().map(|record| record.json().len()).sum()
    }

    /// The heap that this batch keeps alive, in bytes: whole pages with their index, however short the batch is.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Content::Run(run) => {
                let places = run.chosen.as_ref().map_or(0, |choice| size_of_val(&*choice.places));
                run.page.memory_bytes() + places
            }
            Content::Picked(picked) => {
                let mut pages: Vec<&Arc<PageData>> = picked.records.iter().map(OwnedRecord::page).collect();
                pages.dedup_by(|left, right| Arc::ptr_eq(left, right));
                size_of_val(&*picked.records) + pages.iter().map(|page| page.memory_bytes()).sum::<usize>()
            }
        }
    }

    /// The record at `index`, counted from the batch's first.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        match &self.0 {
            Content::Run(run) if index < run.len() => Record::at(&run.page, run.place(index)),
            Content::Run(_) => None,
            Content::Picked(picked) => picked.records().get(index).map(OwnedRecord::view),
        }
    }

    /// The first record.
    pub fn first(&self) -> Option<Record<'_>> {
        self.get(0)
    }

    /// The last record.
    pub fn last(&self) -> Option<Record<'_>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The position up to which the shard is dealt with once the batch is, and everything before it: the sequence
    /// number of its last record, or of a later one that was left out. `None` when the batch stands for no record at
    /// all.
    pub fn through(&self) -> Option<&str> {
        match &self.0 {
            Content::Run(run) => {
                let last = run.run.clone().next_back()?;
                Record::at(&run.page, last).map(|record| record.sequence_number())
            }
            Content::Picked(_) => self.last().map(|record| record.sequence_number()),
        }
    }

    /// The number of records left out of the batch.
    pub fn left_out(&self) -> usize {
        match &self.0 {
            Content::Run(run) => run.run.len() - run.len(),
            Content::Picked(_) => 0,
        }
    }

    /// The records in order.
    pub fn iter(&self) -> Records<'_> {
        Records(match &self.0 {
            Content::Run(PageRun { page, run, chosen: None }) => Places::Run(page, run.clone()),
            Content::Run(PageRun { page, chosen: Some(choice), .. }) => Places::Chosen(page, choice.places().iter()),
            Content::Picked(picked) => Places::Picked(picked.records().iter()),
        })
    }

    /// The batch with only those records that `keep` says yes to; it is asked once for each record, in order.
    ///
    /// Nothing is copied, and a batch of one page still stands for the others: [`through`](Self::through) does not
    /// change. Costs four bytes a record that is kept, and nothing when all are.
    pub fn retain(self, mut keep: impl FnMut(&Record<'_>) -> bool) -> RecordBatch {
        match self.0 {
            Content::Run(run) => Self(Content::Run(run.retain(keep))),
            Content::Picked(picked) => picked.records().iter().filter(|record| keep(&record.view())).cloned().collect(),
        }
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
        Self(match &self.0 {
            Content::Run(run) => Content::Run(run.slice(from, to)),
            Content::Picked(Picked { records, start, .. }) => {
                Content::Picked(Picked { records: Arc::clone(records), start: start + from, end: start + to })
            }
        })
    }

    /// The batch without the records up to and including `position`.
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

impl FromIterator<OwnedRecord> for RecordBatch {
    /// Records of any pages of one shard, which must come in the shard's order.
    fn from_iter<I: IntoIterator<Item = OwnedRecord>>(records: I) -> Self {
        let records: Arc<[OwnedRecord]> = records.into_iter().collect();
        let end = records.len();
        Self(Content::Picked(Picked { records, start: 0, end }))
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
pub struct Records<'a>(Places<'a>);

#[derive(Clone)]
enum Places<'a> {
    Run(&'a Arc<PageData>, Range<u32>),
    Chosen(&'a Arc<PageData>, std::slice::Iter<'a, u32>),
    Picked(std::slice::Iter<'a, OwnedRecord>),
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        match &mut self.0 {
            Places::Run(page, run) => Record::at(page, run.next()?),
            Places::Chosen(page, places) => Record::at(page, *places.next()?),
            Places::Picked(records) => records.next().map(OwnedRecord::view),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Places::Run(_, run) => run.size_hint(),
            Places::Chosen(_, places) => places.size_hint(),
            Places::Picked(records) => records.size_hint(),
        }
    }
}

impl DoubleEndedIterator for Records<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Places::Run(page, run) => Record::at(page, run.next_back()?),
            Places::Chosen(page, places) => Record::at(page, *places.next_back()?),
            Places::Picked(records) => records.next_back().map(OwnedRecord::view),
        }
    }
}

impl ExactSizeIterator for Records<'_> {}
