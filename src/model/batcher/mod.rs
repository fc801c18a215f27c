//! What of a shard is handed out when, and how far the shard is done.
//!
//! Records come in by pages and go out in [`Unit`]s, batches that are acknowledged in any order and in parts. Records of
//! one item go out in order, and while one of them is under way no other does. The position is the highest one up to
//! which everything is done; it passes no hole.
//!
//! - `page`: a page and which of its records are done
//! - `waiting`: records that wait for their turn, by item
//!
//! Without a rule that looks at single records, a unit is a page, and no work is done for each record.

mod page;
mod take;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use self::page::Page;
use self::take::{Queues, TakeLimits, Waiting};
use super::out_of_order_acks::OutOfOrderAcks;
use super::record::{PageSummary, RecordBatch};
use super::sequence_number::{SequenceNumber, compare_digits};

/// The most records of one shard from the oldest that is not done to the newest that came in, and the most bytes, before
/// no more are taken in. A page more may come that was on its way.
pub const MOST_RECORDS: usize = 10_000;
/// See [`MOST_RECORDS`].
pub const MOST_BYTES: usize = 4 << 20;
/// A batch without a size of its own has no more records than a page (GetRecords).
const PAGE_RECORDS: usize = 1_000;

/// How batches are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether batches of different items may be under way at once. Otherwise it is one batch after the other.
    pub by_key: bool,
    /// The most records of a batch.
    pub batch_records: Option<usize>,
    /// The most bytes of a batch, as JSON; a single record may be larger.
    pub batch_bytes: Option<usize>,
    /// How long a batch waits to fill up to one of those limits.
    pub window: Duration,
}

impl Rules {
    fn is_by_page(self) -> bool {
        !self.by_key && self.batch_records.is_none() && self.batch_bytes.is_none()
    }
}

/// A batch that is under way.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Names it, to its schedule.
    pub id: u64,
    /// Its records; never empty.
    pub records: RecordBatch,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Hand this out.
    Unit(Unit),
    /// A batch is filling; hand it out at this time, if nothing happens before.
    At(Duration),
    /// Nothing, until something is acknowledged or comes in.
    Nothing,
}

/// See the file's head. A `T` is kept for each page until all its records are done.
#[derive(Debug)]
pub struct Batcher<T> {
    rules: Rules,
    /// From the oldest that is not done on.
    pages: VecDeque<Page<T>>,
    /// The number of the next record that comes in.
    next_number: u64,
    /// Without keys: the next record to hand out.
    cursor: u64,
    /// With keys: the records to hand out.
    queues: Queues,
    units: BTreeMap<u64, UnderWay>,
    next_unit: u64,
    /// Everything up to here is done: the end of the last page that was.
    position: Option<SequenceNumber>,
    /// When the newest records of pages were created that are passed by now, and not yet told of.
    passed: Vec<Option<u64>>,
    /// Records and bytes of `pages`.
    records: usize,
    bytes: usize,
    /// What was done before the first page came, beyond the position where the reading began.
    inherited: Option<OutOfOrderAcks>,
    flushes: bool,
}

/// The records of a unit.
#[derive(Debug)]
struct UnderWay {
    numbers: Numbers,
    left: usize,
}

#[derive(Debug)]
enum Numbers {
    Run(u64),
    /// With their items.
    Picked(Vec<(u64, u64)>),
}

impl<T> Batcher<T> {
    /// A schedule for a shard of which `inherited` is done, behind the position where its pages begin.
    pub fn new(rules: Rules, inherited: Option<OutOfOrderAcks>) -> Self {
        Self {
            rules,
            pages: VecDeque::new(),
            next_number: 0,
            cursor: 0,
            queues: Queues::default(),
            units: BTreeMap::new(),
            next_unit: 0,
            position: None,
            passed: Vec::new(),
            records: 0,
            bytes: 0,
            inherited,
            flushes: false,
        }
    }

    /// Whether another page may come in.
    pub fn has_room(&self) -> bool {
        match self.rules.is_by_page() {
            true => self.pages.is_empty(),
            false => self.records < MOST_RECORDS && self.bytes < MOST_BYTES,
        }
    }

    /// Whether everything that came in is done.
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
        self.records += page.count;
        self.bytes += page.bytes;
        self.pages.push_back(page);
        self.pass();
    }

    /// Lets no batch wait to fill up any more.
    pub fn flush(&mut self) {
        self.flushes = true;
    }

    /// Whether a batch is ready, or filling.
    pub fn has_next(&self) -> bool {
        match self.rules.by_key {
            true => self.queues.ready_keys() > 0,
            false => self.units.is_empty() && self.cursor < self.next_number,
        }
    }

    /// What to hand out at the time `now`, where `hands` batches more could be worked on.
    pub fn next(&mut self, now: Duration, hands: usize) -> Next {
        if !self.has_next() {
            return Next::Nothing;
        }
        if let Some(due) = self.fills_until().filter(|due| *due > now) {
            return Next::At(due);
        }
        let numbers = match self.rules.by_key {
            true => Numbers::Picked(self.queues.take(self.limits(hands))),
            false => Numbers::Run(self.cursor),
        };
        let records = match &numbers {
            Numbers::Run(_) => self.next_run(),
            Numbers::Picked(picked) => self.pick(picked.iter().map(|(number, _)| *number)),
        };
        let id = self.next_unit;
        self.next_unit += 1;
        self.units.insert(id, UnderWay { numbers, left: records.len() });
        Next::Unit(Unit { id, records })
    }

    /// Notes that some records of a unit are done, by their places in it.
    pub fn acknowledge(&mut self, unit: u64, places: Range<usize>) {
        let Some(under_way) = self.units.get_mut(&unit) else { return };
        under_way.left -= places.len();
        let is_over = under_way.left == 0;
        match &under_way.numbers {
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
            Numbers::Picked(picked) => {
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

    /// Takes some records of a unit back, by their places in it, to hand them out again. They must not come before any
    /// others of their items in the unit that are still under way. Only with [`Rules::by_key`].
    pub fn give_back(&mut self, unit: u64, places: Range<usize>) {
        let Some(under_way) = self.units.get_mut(&unit) else { return };
        let Numbers::Picked(picked) = &under_way.numbers else { return };
        under_way.left -= places.len();
        let is_over = under_way.left == 0;
        let given_back: Vec<(u64, u64)> = picked[places].to_vec();
        for (number, key) in given_back.iter().rev() {
            let page = &self.pages[page_of(&self.pages, *number)];
            let bytes = page.records.get(place_in(page, *number)).map_or(0, |record| record.json().len());
            self.queues.put_back(*key, Waiting { number: *number, bytes });
        }
        for (_, key) in given_back {
            self.queues.release(key);
        }
        if is_over {
            self.units.remove(&unit);
        }
    }

    /// The last position up to which everything is done; nothing while that is where the reading began.
    pub fn position(&self) -> Option<SequenceNumber> {
        // Also what was left out before the first open record.
        let partly = self.pages.front();
        let through = partly.and_then(|page| page.records.slice(..page.done_prefix()).through()?.parse().ok());
        through.or_else(|| self.position.clone())
    }

    /// What is done beyond the position, as far as it can be said.
    pub fn done_beyond(&self) -> Option<OutOfOrderAcks> {
        let inherited = self.inherited.as_ref();
        if !self.rules.by_key && inherited.is_none() {
            return None;
        }
        let mut picture = AckSnapshot { inherited, ..AckSnapshot::default() };
        for (place, page) in self.pages.iter().enumerate() {
            if page.is_done() {
                picture.done(page.through.as_str());
                continue;
            }
            // The position has passed what is done at the very beginning.
            let from = if place == 0 { page.done_prefix() } else { 0 };
            for index in from..page.count {
                let record = page.records.get(index)?;
                let has_room = match page.has_done(index) {
                    true => picture.done(record.sequence_number()),
                    false => picture.open(record.sequence_number()),
                };
                if !has_room {
                    return picture.finish();
                }
            }
        }
        let read = self.pages.back().map(|page| &page.through).or(self.position.as_ref());
        let unread = inherited.map(|inherited| match read {
            Some(read) => inherited.open_after(read),
            None => &inherited.open,
        });
        for open in unread.into_iter().flatten() {
            if !picture.open(open.as_str()) {
                return picture.finish();
            }
        }
        picture.reach_inherited();
        picture.finish()
    }

    /// The pages that everything is done of, and of all before them, since this was last asked: when the newest record
    /// of each was created, the oldest page first.
    pub fn take_passed(&mut self) -> Vec<Option<u64>> {
        std::mem::take(&mut self.passed)
    }

    /// Moves the position over the pages that are done.
    fn pass(&mut self) {
        while let Some(page) = self.pages.pop_front_if(|page| page.is_done()) {
            self.records -= page.count;
            self.bytes -= page.bytes;
            self.passed.push(page.created_ms);
            if self.inherited.as_ref().is_some_and(|inherited| inherited.through <= page.through) {
                self.inherited = None;
            }
            self.position = Some(page.through);
        }
    }

    /// Until when the next batch may fill up; nothing when it is full, or needs not be.
    fn fills_until(&self) -> Option<Duration> {
        if self.rules.window.is_zero() || self.flushes || !self.has_room() {
            return None;
        }
        let (oldest, (records, bytes)) = match self.rules.by_key {
            true => (self.queues.oldest()?, self.queues.ready()),
            false => (self.cursor, self.waiting_run()),
        };
        let is_full = self.rules.batch_records.is_some_and(|most| records >= most)
            || self.rules.batch_bytes.is_some_and(|most| bytes >= most);
        let arrived = self.pages[page_of(&self.pages, oldest)].arrived;
        (!is_full).then_some(arrived + self.rules.window)
    }

    /// How much a batch may take. Without a size for batches, the items that are ready are spread over all hands.
    fn limits(&self, hands: usize) -> TakeLimits {
        let Rules { batch_records, batch_bytes, .. } = self.rules;
        let is_sized = batch_records.is_some() || batch_bytes.is_some();
        TakeLimits {
            records: batch_records.unwrap_or(PAGE_RECORDS),
            bytes: batch_bytes.unwrap_or(usize::MAX),
            keys: if is_sized { usize::MAX } else { self.queues.ready_keys().div_ceil(hands.max(1)) },
        }
    }

    /// The records, in order, from the cursor on that make a batch; moves the cursor behind them.
    fn next_run(&mut self) -> RecordBatch {
        let index = page_of(&self.pages, self.cursor);
        let page = &self.pages[index];
        if self.rules.is_by_page() {
            self.cursor = page.end();
            return page.records.clone();
        }
        let most = self.rules.batch_records.unwrap_or(PAGE_RECORDS) as u64;
        let mut end = self.next_number.min(self.cursor + most);
        if let Some(most_bytes) = self.rules.batch_bytes {
            let mut bytes = 0;
            let fits = self.waiting_records().take_while(|size| {
                bytes += size;
                bytes <= most_bytes
            });
            end = end.min(self.cursor + fits.count().max(1) as u64);
        }
        let records = self.pick(self.cursor..end);
        self.cursor = end;
        records
    }

    /// The sizes of the records from the cursor on.
    fn waiting_records(&self) -> impl Iterator<Item = usize> {
        let from = page_of(&self.pages, self.cursor);
        self.pages.iter().skip(from).flat_map(|page| {
            let skipped = place_in(page, self.cursor);
            page.records.iter().skip(skipped).map(|record| record.json().len())
        })
    }

    fn waiting_run(&self) -> (usize, usize) {
        let records = usize::try_from(self.next_number - self.cursor).unwrap_or(usize::MAX);
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

fn place_in<T>(page: &Page<T>, number: u64) -> usize {
    usize::try_from(number.saturating_sub(page.first)).unwrap_or(usize::MAX)
}

/// What is done beyond the position, put together from the oldest record on.
#[derive(Default)]
struct AckSnapshot<'a> {
    open: Vec<&'a str>,
    /// The last done record, and how many were open before it.
    through: Option<(&'a str, usize)>,
    /// What is known from before, until the picture has come that far.
    inherited: Option<&'a OutOfOrderAcks>,
}

impl<'a> AckSnapshot<'a> {
    fn done(&mut self, position: &'a str) -> bool {
        self.note(position);
        self.through = Some((position, self.open.len()));
        true
    }

    /// Says whether there was room for the record.
    fn open(&mut self, position: &'a str) -> bool {
        self.note(position);
        if self.open.len() == OutOfOrderAcks::MOST_OPEN {
            return false;
        }
        self.open.push(position);
        true
    }

    /// Before the first record behind what is known from before, everything is done that is not open.
    fn note(&mut self, position: &str) {
        let is_before = |inherited: &OutOfOrderAcks| compare_digits(inherited.through.as_str(), position).is_lt();
        if self.inherited.is_some_and(is_before) {
            self.reach_inherited();
        }
    }

    fn reach_inherited(&mut self) {
        if let Some(inherited) = self.inherited.take() {
            self.through = Some((inherited.through.as_str(), self.open.len()));
        }
    }

    fn finish(self) -> Option<OutOfOrderAcks> {
        let (through, open) = self.through?;
        let through = through.parse().ok()?;
        let open: Result<Vec<_>, _> = self.open[..open].iter().map(|open| open.parse()).collect();
        Some(OutOfOrderAcks { through, open: open.ok()? })
    }
}

#[cfg(test)]
mod tests;
