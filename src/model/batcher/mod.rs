//! Batches of a shard's records, and the position up to which all of them are acknowledged.
//!
//! Records come in by pages and go out in [`Unit`]s, batches that are acknowledged in any order and in parts. Records of
//! one item go out in order, and while one of them is in flight no other goes out. The position is the highest one up to
//! which all records are acknowledged; it skips none.
//!
//! - `ack_snapshot`: the records acknowledged beyond the position
//! - `page`: a page and its acknowledged records
//! - `take`: records that wait for their turn, by item
//!
//! Without a rule that concerns single records, a unit is a page, and no work is done for each record.

mod ack_snapshot;
mod page;
mod take;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use self::ack_snapshot::AckSnapshot;
use self::page::Page;
use self::take::{Queues, TakeLimits, Waiting};
use super::out_of_order_acks::OutOfOrderAcks;
use super::record::{PageSummary, RecordBatch};
use super::sequence_number::SequenceNumber;

/// The most records of one shard, from the page of the oldest open one to the newest, before no further page is taken
/// in: those left out count too. One page more may come that was already on its way.
pub const MOST_RECORDS: usize = 10_000;
/// The most bytes of them.
pub const MOST_BYTES: usize = 4 << 20;
/// The most records of a batch without a size of its own: those of a page (GetRecords).
const PAGE_RECORDS: usize = 1_000;

/// The rules for batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether batches of different items may be in flight at once. Otherwise one batch follows the other.
    pub by_key: bool,
    /// The most records of a batch.
    pub batch_records: Option<usize>,
    /// The most bytes of a batch, as JSON; a single record may be larger.
    pub batch_bytes: Option<usize>,
    /// The time for which a batch waits to fill up to one of those limits.
    pub window: Duration,
}

impl Rules {
    fn is_by_page(self) -> bool {
        !self.by_key && self.batch_records.is_none() && self.batch_bytes.is_none()
    }
}

/// A batch in flight.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its name in its batcher.
    pub id: u64,
    /// Its records; never empty.
    pub records: RecordBatch,
}

/// The next step of a delivery.
#[derive(Clone, Debug)]
pub enum Next {
    /// Deliver this batch.
    Unit(Unit),
    /// A batch is filling: ask again at this time, or when something happens.
    At(Duration),
    /// Nothing to deliver until something is acknowledged or comes in.
    Nothing,
}

/// The pages and batches of one shard. A `T` is kept for each page until all its records are acknowledged.
#[derive(Debug)]
pub struct Batcher<T> {
    rules: Rules,
    /// The pages from the oldest with an open record on.
    pages: VecDeque<Page<T>>,
    next_number: u64,
    /// Without keys: the number of the next record to deliver.
    next_delivered: u64,
    /// With keys: the records to deliver.
    queues: Queues,
    units: BTreeMap<u64, InFlight>,
    next_unit: u64,
    /// The end of the last acknowledged page.
    position: Option<SequenceNumber>,
    /// The creation times of the newest records of acknowledged pages that [`Batcher::take_passed`] has not returned yet.
    passed: Vec<Option<u64>>,
    records: usize,
    bytes: usize,
    /// Records acknowledged by an earlier owner, beyond the position where the reading began.
    inherited: Option<OutOfOrderAcks>,
    flushes: bool,
    /// Whether one batch is to follow the other again, once all records that came in are acknowledged.
    leaves_keys: bool,
}

/// The numbers of a unit's records, and how many of them are open.
#[derive(Debug)]
struct InFlight {
    numbers: Numbers,
    open: usize,
}

#[derive(Debug)]
enum Numbers {
    Run(u64),
    /// Each with its item.
    ByKey(Vec<(u64, u64)>),
}

impl<T> Batcher<T> {
    /// A batcher for a shard of which `inherited` is acknowledged, after the position where its pages begin.
    pub fn new(rules: Rules, inherited: Option<OutOfOrderAcks>) -> Self {
        Self {
            rules,
            pages: VecDeque::new(),
            next_number: 0,
            next_delivered: 0,
            queues: Queues::default(),
            units: BTreeMap::new(),
            next_unit: 0,
            position: None,
            passed: Vec::new(),
            records: 0,
            bytes: 0,
            inherited,
            flushes: false,
            leaves_keys: false,
        }
    }

    /// Changes the rules for all further batches. From batches of different items at once to one after the other, it
    /// takes until all records that came in are acknowledged; meanwhile there is no room for pages.
    pub fn set_rules(&mut self, rules: Rules) {
        if rules.by_key && !self.rules.by_key {
            self.sort_by_key();
        }
        self.leaves_keys = self.rules.by_key && !rules.by_key;
        self.rules = Rules { by_key: rules.by_key || self.leaves_keys, ..rules };
        self.pass();
    }

    /// Whether batches of different items may be in flight at once.
    pub fn is_by_key(&self) -> bool {
        self.rules.by_key
    }

    /// Puts the records that wait into the queues of their items, behind those in flight.
    fn sort_by_key(&mut self) {
        for in_flight in self.units.values_mut() {
            let Numbers::Run(first) = in_flight.numbers else { continue };
            let picked = (first..self.next_delivered).map(|number| {
                let open = open_record(&self.pages, number);
                open.iter().for_each(|(key, _)| self.queues.hold(*key));
                (number, open.map_or(0, |(key, _)| key))
            });
            in_flight.numbers = Numbers::ByKey(picked.collect());
        }
        for number in self.next_delivered..self.next_number {
            if let Some((key, bytes)) = open_record(&self.pages, number) {
                self.queues.push(key, Waiting { number, bytes });
            }
        }
    }

    /// Whether there is room for another page.
    pub fn has_room(&self) -> bool {
        match self.rules.is_by_page() {
            true => self.pages.is_empty(),
            false => !self.leaves_keys && self.records < MOST_RECORDS && self.bytes < MOST_BYTES,
        }
    }

    /// Whether all records that came in are acknowledged.
    pub fn is_idle(&self) -> bool {
        self.pages.is_empty()
    }

    /// Takes in a page at the time `now`: the records to deliver, and the summary of the whole page.
    ///
    /// # Panics
    /// When the page does not lie after those that came in before: the caller has mixed up the shard's order.
    pub fn add(&mut self, now: Duration, records: RecordBatch, page: &PageSummary, tag: T) {
        let through = &page.last;
        let before = self.pages.back().map(|page| &page.through).or(self.position.as_ref());
        assert!(before.is_none_or(|before| before < through), "{through} came in after {before:?}");
        let records = match &self.inherited {
            Some(inherited) => records.retain(|record| !inherited.has(record.sequence_number())),
            None => records,
        };
        let page = Page::new(self.next_number, records, page, now, tag);
        if self.rules.by_key {
            for (number, record) in (page.first..).zip(page.records.iter()) {
                self.queues.push(record.key_hash(), Waiting { number, bytes: record.json().len() });
            }
        }
        self.next_number = page.end();
        self.records += page.read_records;
        self.bytes += page.read_bytes;
        self.pages.push_back(page);
        self.pass();
    }

    /// Makes all further batches go out without waiting to fill up.
    pub fn flush(&mut self) {
        self.flushes = true;
    }

    /// Whether a batch is ready, or filling.
    pub fn has_next(&self) -> bool {
        match self.rules.by_key {
            true => self.queues.oldest(self.most_skipped()).is_some(),
            false => self.units.is_empty() && self.next_delivered < self.next_number,
        }
    }

    /// The next step at the time `now`, with `free_processors` free.
    pub fn next(&mut self, now: Duration, free_processors: usize) -> Next {
        if !self.has_next() {
            return Next::Nothing;
        }
        if let Some(due) = self.fills_until().filter(|due| *due > now) {
            return Next::At(due);
        }
        let numbers = match self.rules.by_key {
            true => Numbers::ByKey(self.queues.take(self.limits(free_processors))),
            false => Numbers::Run(self.next_delivered),
        };
        let records = match &numbers {
            Numbers::Run(_) => self.next_run(),
            Numbers::ByKey(picked) => self.pick(picked.iter().map(|(number, _)| *number)),
        };
        let id = self.next_unit;
        self.next_unit += 1;
        self.units.insert(id, InFlight { numbers, open: records.len() });
        Next::Unit(Unit { id, records })
    }

    /// Acknowledges some records of a unit, by their places in it.
    pub fn acknowledge(&mut self, unit: u64, places: Range<usize>) {
        let Some(in_flight) = self.units.get_mut(&unit) else { return };
        in_flight.open -= places.len();
        let is_over = in_flight.open == 0;
        match &in_flight.numbers {
            Numbers::Run(first) => {
                let run = first + places.start as u64..first + places.end as u64;
                let mut index = page_of(&self.pages, run.start);
                let mut from = run.start;
                while from < run.end {
                    let page = &mut self.pages[index];
                    let to = run.end.min(page.end());
                    if from < to {
                        page.mark(place_in(page, from)..place_in(page, to));
                    }
                    (from, index) = (to, index + 1);
                }
            }
            Numbers::ByKey(picked) => {
                for (number, key) in &picked[places] {
                    let index = page_of(&self.pages, *number);
                    let place = place_in(&self.pages[index], *number);
                    self.pages[index].mark(place..place + 1);
                    self.queues.release(*key);
                }
            }
        }
        if is_over {
            self.units.remove(&unit);
        }
        self.pass();
    }

    /// Takes some records of a unit back, by their places in it, to deliver them again. They must not come before any
    /// others of their items in the unit that are still in flight. Only with [`Rules::by_key`].
    pub fn give_back(&mut self, unit: u64, places: Range<usize>) {
        let Some(in_flight) = self.units.get_mut(&unit) else { return };
        let Numbers::ByKey(picked) = &in_flight.numbers else { return };
        in_flight.open -= places.len();
        let is_over = in_flight.open == 0;
        let given_back: Vec<(u64, u64)> = picked[places].to_vec();
        for (number, key) in given_back.iter().rev() {
            let page = &self.pages[page_of(&self.pages, *number)];
            let bytes = page.records.get(place_in(page, *number)).map_or(0, |record| record.json().len());
            self.queues.push(*key, Waiting { number: *number, bytes });
        }
        for (_, key) in given_back {
            self.queues.release(key);
        }
        if is_over {
            self.units.remove(&unit);
        }
    }

    /// The last position up to which all records are acknowledged; `None` while that is where the reading began.
    pub fn position(&self) -> Option<SequenceNumber> {
        // Also what was left out before the first open record.
        let partly = self.pages.front();
        let through = partly.and_then(|page| page.records.slice(..page.done_prefix()).through()?.parse().ok());
        through.or_else(|| self.position.clone())
    }

    /// The position up to which records came in; `None` while that is where the reading began.
    pub fn taken_in(&self) -> Option<SequenceNumber> {
        self.pages.back().map(|page| &page.through).or(self.position.as_ref()).cloned()
    }

    /// The records acknowledged beyond the position, as far as they can be stored.
    pub fn done_beyond(&self) -> Option<OutOfOrderAcks> {
        let inherited = self.inherited.as_ref();
        if !self.rules.by_key && inherited.is_none() {
            return None;
        }
        let mut snapshot = AckSnapshot::new(inherited);
        for (place, page) in self.pages.iter().enumerate() {
            if page.is_done() {
                snapshot.done(page.through.as_str());
                continue;
            }
            // The position has passed the acknowledged records at the very beginning.
            let from = if place == 0 { page.done_prefix() } else { 0 };
            for index in from..page.count {
                let record = page.records.get(index)?;
                let has_room = match page.has_done(index) {
                    true => snapshot.done(record.sequence_number()),
                    false => snapshot.open(record.sequence_number()),
                };
                if !has_room {
                    return snapshot.finish();
                }
            }
        }
        let read = self.pages.back().map(|page| &page.through).or(self.position.as_ref());
        let unread = inherited.map(|inherited| match read {
            Some(read) => inherited.open_after(read),
            None => &inherited.open,
        });
        for open in unread.into_iter().flatten() {
            if !snapshot.open(open.as_str()) {
                return snapshot.finish();
            }
        }
        snapshot.reach_inherited();
        snapshot.finish()
    }

    /// Takes the pages that the position has passed since the last call: the creation time of each one's newest record, the
    /// oldest page first.
    pub fn take_passed(&mut self) -> Vec<Option<u64>> {
        std::mem::take(&mut self.passed)
    }

    /// Moves the position over the acknowledged pages.
    fn pass(&mut self) {
        while let Some(page) = self.pages.pop_front_if(|page| page.is_done()) {
            self.records -= page.read_records;
            self.bytes -= page.read_bytes;
            self.passed.push(page.created_ms);
            if self.inherited.as_ref().is_some_and(|inherited| inherited.through <= page.through) {
                self.inherited = None;
            }
            self.position = Some(page.through);
        }
        if self.leaves_keys && self.pages.is_empty() {
            (self.leaves_keys, self.rules.by_key) = (false, false);
            self.next_delivered = self.next_number;
        }
    }

    /// The time until which the next batch may fill up; `None` when it is full or need not be.
    fn fills_until(&self) -> Option<Duration> {
        if self.rules.window.is_zero() || self.flushes || !self.has_room() {
            return None;
        }
        let (oldest, (records, bytes)) = match self.rules.by_key {
            true => (self.queues.oldest(self.most_skipped())?, self.queues.ready()),
            false => (self.next_delivered, self.waiting_run()),
        };
        let is_full = self.rules.batch_records.is_some_and(|most| records >= most)
            || self.rules.batch_bytes.is_some_and(|most| bytes >= most);
        let arrived = self.pages[page_of(&self.pages, oldest)].arrived;
        (!is_full).then_some(arrived + self.rules.window)
    }

    /// The limits of a batch. Without a size for batches, the ready items are spread over all free processors.
    fn limits(&self, free_processors: usize) -> TakeLimits {
        let Rules { batch_records, batch_bytes, .. } = self.rules;
        let is_sized = batch_records.is_some() || batch_bytes.is_some();
        TakeLimits {
            records: batch_records.unwrap_or(PAGE_RECORDS),
            bytes: batch_bytes.unwrap_or(usize::MAX),
            keys: if is_sized { usize::MAX } else { self.queues.ready_keys().div_ceil(free_processors.max(1)) },
            skipped: self.most_skipped(),
        }
    }

    /// The most waiting records before one that goes out. Each batch in flight may leave one open, too.
    fn most_skipped(&self) -> usize {
        OutOfOrderAcks::MOST_OPEN.saturating_sub(self.units.len())
    }

    /// Takes the records, in order, that make the next batch.
    fn next_run(&mut self) -> RecordBatch {
        let index = page_of(&self.pages, self.next_delivered);
        let page = &self.pages[index];
        if self.rules.is_by_page() {
            let from = place_in(page, self.next_delivered);
            self.next_delivered = page.end();
            return page.records.slice(from..);
        }
        let most = self.rules.batch_records.unwrap_or(PAGE_RECORDS) as u64;
        let mut end = self.next_number.min(self.next_delivered + most);
        if let Some(most_bytes) = self.rules.batch_bytes {
            let mut bytes = 0;
            let fits = self.waiting_records().take_while(|size| {
                bytes += size;
                bytes <= most_bytes
            });
            end = end.min(self.next_delivered + fits.count().max(1) as u64);
        }
        let records = self.pick(self.next_delivered..end);
        self.next_delivered = end;
        records
    }

    /// The sizes of the records that wait.
    fn waiting_records(&self) -> impl Iterator<Item = usize> {
        let from = page_of(&self.pages, self.next_delivered);
        self.pages.iter().skip(from).flat_map(|page| {
            let skipped = place_in(page, self.next_delivered);
            page.records.iter().skip(skipped).map(|record| record.json().len())
        })
    }

    fn waiting_run(&self) -> (usize, usize) {
        let records = usize::try_from(self.next_number - self.next_delivered).unwrap_or(usize::MAX);
        let bytes = self.rules.batch_bytes.map_or(0, |_| self.waiting_records().sum());
        (records, bytes)
    }

    /// The records of these numbers, which ascend: a part of their page where they are one.
    fn pick(&self, numbers: impl Iterator<Item = u64> + Clone) -> RecordBatch {
        let (Some(first), Some(last)) = (numbers.clone().next(), numbers.clone().last()) else {
            return RecordBatch::default();
        };
        let index = page_of(&self.pages, first);
        let page = &self.pages[index];
        if last < page.end() && last - first + 1 == numbers.clone().count() as u64 {
            return page.records.slice(place_in(page, first)..place_in(page, last) + 1);
        }
        let owned = |number: u64| {
            let page = &self.pages[page_of(&self.pages, number)];
            page.records.get(place_in(page, number)).map(|record| record.to_owned())
        };
        numbers.filter_map(owned).collect()
    }
}

/// The page of the record of this number.
fn page_of<T>(pages: &VecDeque<Page<T>>, number: u64) -> usize {
    pages.partition_point(|page| page.first <= number).saturating_sub(1)
}

/// The item and the bytes of the record of this number, unless it is acknowledged.
fn open_record<T>(pages: &VecDeque<Page<T>>, number: u64) -> Option<(u64, usize)> {
    let page = pages.get(page_of(pages, number)).filter(|page| page.first <= number)?;
    let place = place_in(page, number);
    let record = page.records.get(place).filter(|_| !page.has_done(place))?;
    Some((record.key_hash(), record.json().len()))
}

fn place_in<T>(page: &Page<T>, number: u64) -> usize {
    usize::try_from(number.saturating_sub(page.first)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
