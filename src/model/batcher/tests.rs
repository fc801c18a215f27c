use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::checkpoint::Checkpoint;
use crate::model::record::Page as RecordPage;

/// Records are numbered 1, 2, …; each is given the item of its place in `keys`.
fn page(first: u64, keys: &[u8]) -> RecordBatch {
    let records: Vec<String> = (first..)
        .zip(keys)
        .map(|(number, key)| {
            format!(r#"{{"dynamodb":{{"SequenceNumber":"{number}","Keys":{{"k":{{"S":"item-{key}"}}}}}}}}"#)
        })
        .collect();
    let body = format!(r#"{{"Records":[{}]}}"#, records.join(","));
    RecordPage::decode(Bytes::from(body)).expect("a page").records
}

fn number(n: u64) -> SequenceNumber {
    n.to_string().parse().expect("digits")
}

fn numbers(batch: &RecordBatch) -> Vec<u64> {
    batch.iter().map(|record| record.sequence_number().parse().expect("a number")).collect()
}

fn summary(page: &RecordBatch) -> PageSummary {
    PageSummary::of(page).expect("a page with records")
}

fn by_key() -> Rules {
    Rules { by_key: true, ..Rules::default() }
}

fn of_size(records: usize) -> Rules {
    Rules { batch_records: Some(records), ..Rules::default() }
}

fn add(batcher: &mut Batcher<&'static str>, now: u64, first: u64, keys: &[u8]) {
    let page = page(first, keys);
    let summary = PageSummary { newest_ms: Some(first), ..summary(&page) };
    batcher.add(Duration::from_secs(now), page, &summary, "kept");
}

/// All units that go out at this time.
fn next_units<T>(batcher: &mut Batcher<T>, now: u64, free: usize) -> Vec<Unit> {
    let mut units = Vec::new();
    while units.len() < free
        && let Next::Unit(unit) = batcher.next(Duration::from_secs(now), free - units.len())
    {
        units.push(unit);
    }
    units
}

fn batches(units: &[Unit]) -> Vec<Vec<u64>> {
    units.iter().map(|unit| numbers(&unit.records)).collect()
}

#[test]
fn without_rules_a_unit_is_a_page_and_one_follows_the_other() {
    let mut batcher = Batcher::new(Rules::default(), None);
    assert!(batcher.has_room());
    add(&mut batcher, 0, 1, &[1, 2, 3]);
    assert!(!batcher.has_room());
    let units = next_units(&mut batcher, 0, 5);
    assert_eq!(batches(&units), [[1, 2, 3]]);
    batcher.acknowledge(units[0].id, 0..1);
    assert_eq!(batcher.position(), Some(number(1)));
    assert_eq!(batcher.take_passed(), []);
    batcher.acknowledge(units[0].id, 1..3);
    assert!(batcher.is_idle() && batcher.has_room());
    assert_eq!((batcher.position(), batcher.take_passed()), (Some(number(3)), vec![Some(1)]));
    add(&mut batcher, 0, 4, &[1]);
    assert_eq!(batches(&next_units(&mut batcher, 0, 5)), [[4]]);
    assert_eq!(batcher.done_beyond(), None);
}

#[test]
fn what_was_left_out_of_a_page_moves_the_position_with_it() {
    let mut batcher = Batcher::new(by_key(), None);
    let is_even = |record: &crate::model::record::Record<'_>| record.sequence_number().ends_with(['2', '4']);
    let (five, two) = (page(1, &[1, 1, 1, 1, 1]), page(6, &[1, 1]));
    batcher.add(Duration::ZERO, five.clone().retain(is_even), &summary(&five), "first");
    batcher.add(Duration::ZERO, two.clone().retain(|_| false), &summary(&two), "nothing left");
    assert_eq!(batcher.position(), Some(number(1)));
    let units = next_units(&mut batcher, 0, 2);
    assert_eq!(batches(&units), [[2, 4]]);
    batcher.acknowledge(units[0].id, 0..1);
    assert_eq!(batcher.position(), Some(number(3)));
    batcher.acknowledge(units[0].id, 1..2);
    assert_eq!(batcher.position(), Some(number(7)));
    assert!(batcher.is_idle());
}

#[test]
fn items_are_spread_over_all_free_when_batches_have_no_size() {
    let mut batcher = Batcher::new(by_key(), None);
    add(&mut batcher, 0, 1, &[1, 2, 3, 4, 1, 2, 3, 4, 1]);
    let units = next_units(&mut batcher, 0, 2);
    assert_eq!(batches(&units), [vec![1, 2, 5, 6, 9], vec![3, 4, 7, 8]]);
    batcher.acknowledge(units[1].id, 0..4);
    assert_eq!(batcher.position(), None);
    batcher.acknowledge(units[0].id, 0..3);
    assert_eq!(batcher.position(), Some(number(5)));
    let beyond = batcher.done_beyond().expect("7 and 8");
    assert_eq!((beyond.through, beyond.open), (number(8), vec![number(6)]));
}

#[test]
fn a_batch_with_a_size_takes_ready_records_in_order_and_no_item_that_is_under_way() {
    let mut batcher = Batcher::new(Rules { by_key: true, ..of_size(3) }, None);
    add(&mut batcher, 0, 1, &[1, 2, 1, 3, 2, 4]);
    add(&mut batcher, 0, 7, &[1, 5]);
    let units = next_units(&mut batcher, 0, 9);
    assert_eq!(batches(&units), [vec![1, 2, 3], vec![4, 6, 8]], "5 and 7 wait for 2 and 3");
    batcher.acknowledge(units[0].id, 0..2);
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[5]], "of item 1 there is still a record in flight");
    batcher.acknowledge(units[0].id, 2..3);
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[7]]);
}

#[test]
fn what_is_given_back_goes_out_again_but_not_before_what_its_item_has_under_way() {
    let mut batcher = Batcher::new(Rules { by_key: true, ..of_size(10) }, None);
    add(&mut batcher, 0, 1, &[1, 2, 1, 3]);
    let unit = &next_units(&mut batcher, 0, 1)[0];
    add(&mut batcher, 0, 5, &[1, 2]);
    assert!(!batcher.has_next());
    batcher.give_back(unit.id, 1..4);
    let rest = &next_units(&mut batcher, 0, 9)[0];
    assert_eq!(numbers(&rest.records), [2, 4, 6]);
    batcher.acknowledge(rest.id, 0..3);
    assert!(!batcher.has_next(), "3 waits for 1");
    batcher.acknowledge(unit.id, 0..1);
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[3, 5]]);
}

#[test]
fn a_sized_batch_spans_pages_and_keeps_to_its_bytes() {
    let size = page(1, &[1]).bytes_len();
    let rules = Rules { batch_bytes: Some(size * 2), ..of_size(5) };
    for (rules, wanted) in [(of_size(3), vec![1, 2, 3]), (rules, vec![1, 2])] {
        let mut batcher = Batcher::new(rules, None);
        add(&mut batcher, 0, 1, &[1, 1]);
        add(&mut batcher, 0, 3, &[1, 1]);
        let units = next_units(&mut batcher, 0, 5);
        assert_eq!(batches(&units), std::slice::from_ref(&wanted), "one after the other");
        batcher.acknowledge(units[0].id, 0..wanted.len());
        assert_eq!(batcher.position(), wanted.last().copied().map(number));
    }
    let mut tiny = Batcher::new(Rules { batch_bytes: Some(1), ..Rules::default() }, None);
    add(&mut tiny, 0, 1, &[1, 1]);
    assert_eq!(batches(&next_units(&mut tiny, 0, 5)), [[1]], "a record that is larger goes alone");
}

#[test]
fn a_batch_waits_for_its_window_to_fill_and_no_longer() {
    for by_key in [false, true] {
        let rules = Rules { by_key, window: Duration::from_secs(10), ..of_size(3) };
        let mut batcher = Batcher::new(rules, None);
        add(&mut batcher, 100, 1, &[1, 2]);
        assert!(matches!(batcher.next(Duration::from_secs(105), 4), Next::At(at) if at == Duration::from_secs(110)));
        assert_eq!(batches(&next_units(&mut batcher, 110, 1)), [[1, 2]]);
        batcher.acknowledge(0, 0..2);
        add(&mut batcher, 120, 3, &[1, 2]);
        add(&mut batcher, 121, 5, &[3, 4]);
        assert_eq!(batches(&next_units(&mut batcher, 121, 1)), [[3, 4, 5]], "full");
        batcher.acknowledge(1, 0..3);
        assert!(matches!(batcher.next(Duration::from_secs(122), 4), Next::At(at) if at == Duration::from_secs(131)));
        batcher.flush();
        assert_eq!(batches(&next_units(&mut batcher, 122, 1)), [[6]]);
    }
}

#[test]
fn no_more_comes_in_when_the_oldest_holds_up_too_much() {
    let mut batcher = Batcher::new(Rules { by_key: true, ..of_size(1) }, None);
    let keys: Vec<u8> = (0..250).map(|place| (place % 250) as u8).collect();
    let mut first = 1;
    let mut stuck = None;
    while batcher.has_room() {
        add(&mut batcher, 0, first, &keys);
        first += keys.len() as u64;
        // All are done but the very first.
        for unit in next_units(&mut batcher, 0, usize::MAX) {
            if numbers(&unit.records) == [1] {
                stuck = Some(unit.id);
            } else {
                batcher.acknowledge(unit.id, 0..1);
            }
        }
    }
    assert_eq!(first - 1, MOST_RECORDS as u64);
    let open = batcher.done_beyond().expect("nearly all").open;
    assert_eq!(open[..2], [number(1), number(251)], "the records of one item");
    batcher.acknowledge(stuck.expect("the first"), 0..1);
    assert!(batcher.has_room(), "the pages behind are let go of");
}

#[test]
fn whatever_is_done_behind_a_hot_item_can_be_stored_with_the_lease() {
    let mut batcher = Batcher::new(Rules { by_key: true, ..of_size(1) }, None);
    // Every second record is of the hot item, whose first never ends.
    let keys: Vec<u8> = (0..200).map(|place| if place % 2 == 0 { 0 } else { place }).collect();
    let mut done = BTreeSet::new();
    for first in [1, 201] {
        add(&mut batcher, 0, first, &keys);
        while let [unit] = &next_units(&mut batcher, 0, 1)[..] {
            if numbers(&unit.records) != [1] {
                done.extend(numbers(&unit.records));
                batcher.acknowledge(unit.id, 0..1);
            }
        }
    }
    assert_eq!(done, (2..=200).step_by(2).collect(), "nothing goes out behind the hundredth that is open");
    assert!(!batcher.has_next());
    let beyond = batcher.done_beyond().expect("some");
    assert_eq!((beyond.open.len(), beyond.through), (100, number(200)));
    batcher.acknowledge(0, 0..1);
    assert_eq!(batches(&next_units(&mut batcher, 0, 2)), [[3], [202]]);
}

#[test]
fn pages_of_which_a_filter_leaves_nothing_count_and_keep_no_memory() {
    let mut batcher = Batcher::new(of_size(1), None);
    let kept = Arc::new(());
    let (first, filtered) = (page(1, &[1]), page(2, &[2; 250]));
    batcher.add(Duration::ZERO, first.clone(), &summary(&first), Arc::clone(&kept));
    let unit = next_units(&mut batcher, 0, 1).remove(0);
    let mut read = 1;
    while batcher.has_room() {
        assert!(read < 2 * MOST_RECORDS as u64, "it reads without end behind one record");
        let facts = PageSummary { last: number(read + 250), ..summary(&filtered) };
        batcher.add(Duration::ZERO, filtered.clone().retain(|_| false), &facts, Arc::clone(&kept));
        read += 250;
    }
    assert_eq!(Arc::strong_count(&kept), 2, "the first page's alone");
    batcher.acknowledge(unit.id, 0..1);
    assert_eq!((batcher.position(), batcher.taken_in()), (Some(number(read)), Some(number(read))));
    assert!(batcher.has_room() && batcher.is_idle());
}

#[test]
fn rules_for_items_at_once_hold_as_soon_as_they_are_set_also_beside_a_batch_in_flight() {
    let mut batcher = Batcher::new(of_size(2), None);
    add(&mut batcher, 0, 1, &[1, 2, 1, 3, 2]);
    let first = next_units(&mut batcher, 0, 9);
    assert_eq!(batches(&first), [[1, 2]]);
    batcher.acknowledge(first[0].id, 0..1);
    batcher.set_rules(Rules { batch_records: Some(1), ..by_key() });
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[3], [4]], "5 waits for 2, of the same item");
    batcher.acknowledge(first[0].id, 1..2);
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[5]]);
}

#[test]
fn rules_for_one_batch_after_the_other_hold_once_nothing_is_in_flight() {
    let mut batcher = Batcher::new(Rules { batch_records: Some(1), ..by_key() }, None);
    add(&mut batcher, 0, 1, &[1, 2]);
    let units = next_units(&mut batcher, 0, 9);
    batcher.set_rules(Rules::default());
    assert!(batcher.is_by_key() && !batcher.has_room());
    for unit in &units {
        batcher.acknowledge(unit.id, 0..1);
    }
    assert!(!batcher.is_by_key() && batcher.has_room());
    add(&mut batcher, 0, 3, &[1, 2]);
    assert_eq!(batches(&next_units(&mut batcher, 0, 9)), [[3, 4]]);
}

#[test]
fn rules_of_whole_pages_begin_with_the_rest_of_the_page() {
    let mut batcher = Batcher::new(of_size(2), None);
    add(&mut batcher, 0, 1, &[1, 2, 3, 4]);
    let units = next_units(&mut batcher, 0, 9);
    batcher.acknowledge(units[0].id, 0..2);
    batcher.set_rules(Rules::default());
    let units = next_units(&mut batcher, 0, 9);
    assert_eq!(batches(&units), [[3, 4]]);
    batcher.acknowledge(units[0].id, 0..2);
    assert!(batcher.is_idle() && batcher.has_room());
}

/// A shard as a fleet of workers reads it, one after the other, beside the truth.
struct World {
    keys: Vec<u8>,
    rules: Rules,
    batcher: Batcher<()>,
    /// The number of records that have come in to the present worker.
    read: usize,
    units: BTreeMap<u64, (Unit, usize)>,
    done: BTreeSet<u64>,
    given: BTreeMap<u64, u32>,
}

impl World {
    fn new(keys: Vec<u8>, rules: Rules) -> Self {
        let batcher = Batcher::new(rules, None);
        let (read, units, done, given) = Default::default();
        Self { keys, rules, batcher, read, units, done, given }
    }

    fn key(&self, number: u64) -> u8 {
        self.keys[number as usize - 1]
    }

    fn step(&mut self, kind: u8, size: usize) -> Result<(), TestCaseError> {
        match kind {
            0 if self.batcher.has_room() && self.read < self.keys.len() => {
                let to = (self.read + 1 + size % 7).min(self.keys.len());
                let first = self.read as u64 + 1;
                let page = page(first, &self.keys[self.read..to]);
                self.batcher.add(Duration::ZERO, page.clone(), &summary(&page), ());
                self.read = to;
            }
            1 | 2 => {
                if let Next::Unit(unit) = self.batcher.next(Duration::ZERO, 1 + size % 3) {
                    self.began(&unit)?;
                    self.units.insert(unit.id, (unit, 0));
                }
            }
            3..=5 => self.acknowledge(size),
            6 if self.batcher.is_by_key() => self.give_back(size),
            7 => self.take_over(),
            8 => {
                self.rules = Rules {
                    by_key: size.is_multiple_of(2),
                    batch_records: (!size.is_multiple_of(3)).then_some(1 + size / 6),
                    ..Rules::default()
                };
                self.batcher.set_rules(self.rules);
            }
            _ => {}
        }
        self.check()
    }

    /// Of each item in order, one unit at a time, and nothing that is done.
    fn began(&mut self, unit: &Unit) -> Result<(), TestCaseError> {
        let records = numbers(&unit.records);
        prop_assert!(records.is_sorted() && !records.is_empty());
        for number in &records {
            prop_assert!(!self.done.contains(number), "{number} goes out again");
            let key = self.key(*number);
            let earlier = (1..*number).filter(|earlier| self.key(*earlier) == key && !self.done.contains(earlier));
            for earlier in earlier {
                prop_assert!(records.contains(&earlier), "{number} goes out while {earlier} is not done");
            }
            *self.given.entry(*number).or_default() += 1;
        }
        let busy = self.units.values().flat_map(|(unit, from)| numbers(&unit.records)[*from..].to_vec());
        let busy: BTreeSet<u8> = busy.map(|number| self.key(number)).collect();
        prop_assert!(self.batcher.is_by_key() || busy.is_empty());
        prop_assert!(records.iter().all(|number| !busy.contains(&self.key(*number))), "two at a time");
        Ok(())
    }

    fn acknowledge(&mut self, size: usize) {
        let Some(id) = self.units.keys().nth(size % self.units.len().max(1)).copied() else { return };
        let (unit, from) = self.units.get_mut(&id).expect("it is there");
        let to = (*from + 1 + size % 4).min(unit.records.len());
        self.done.extend(&numbers(&unit.records)[*from..to]);
        self.batcher.acknowledge(id, *from..to);
        *from = to;
        if to == unit.records.len() {
            self.units.remove(&id);
        }
    }

    fn give_back(&mut self, size: usize) {
        let Some(id) = self.units.keys().nth(size % self.units.len().max(1)).copied() else { return };
        let (unit, from) = self.units.get_mut(&id).expect("it is there");
        let keeps = *from + size % 3;
        let total = unit.records.len();
        if keeps < total {
            self.batcher.give_back(id, keeps..total);
            unit.records = unit.records.slice(..keeps);
            if *from == keeps {
                self.units.remove(&id);
            }
        }
    }

    /// Another worker resumes from the lease; the units in flight are never acknowledged.
    fn take_over(&mut self) {
        let position = self.batcher.position();
        let base = position.clone().map_or(Checkpoint::TrimHorizon, Checkpoint::At);
        let kept = self.batcher.done_beyond().map(|done| done.to_text(&base));
        let inherited = kept.and_then(|kept| OutOfOrderAcks::parse(&kept, &base));
        self.read = position.map_or(0, |position| position.as_str().parse().expect("a number"));
        self.batcher = Batcher::new(self.rules, inherited);
        // The pages before are gone, and with them the position.
        self.units.clear();
        self.keep_position();
    }

    fn keep_position(&mut self) {
        if self.read > 0 {
            self.batcher.position = Some(number(self.read as u64));
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let contiguous = (1..).take_while(|number| self.done.contains(number)).count() as u64;
        let position = self.batcher.position().map_or(0, |at| at.as_str().parse::<u64>().expect("a number"));
        prop_assert!(position <= contiguous, "{position} lies behind a hole at {}", contiguous + 1);
        prop_assert!(position >= contiguous.min(self.read as u64), "{position} of {contiguous}");
        if let Some(beyond) = self.batcher.done_beyond() {
            for number in position + 1..=self.keys.len() as u64 {
                let is_done = self.done.contains(&number);
                prop_assert!(is_done || !beyond.has(&number.to_string()), "{number} is not done");
            }
        }
        let known = self.batcher.done_beyond();
        for number in self.done.range(position + 1..) {
            let is_known = known.as_ref().is_some_and(|known| known.has(&number.to_string()));
            prop_assert!(is_known, "a take-over would repeat {number}: {known:?}");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_is_done_in_whatever_order_items_keep_theirs_and_no_hole_is_passed(
        keys in prop::collection::vec(0_u8..6, 1..80),
        by_key: bool,
        size in prop::option::of(1_usize..6),
        steps in prop::collection::vec((0_u8..9, 0_usize..30), 1..200),
    ) {
        let mut world = World::new(keys, Rules { by_key, batch_records: size, ..Rules::default() });
        for (kind, size) in steps {
            // Workers and rules change less often than batches.
            world.step(if kind >= 7 && size % 5 > 0 { 1 } else { kind }, size)?;
        }
        // Left alone, all of it is done, and each record went out.
        for round in 0..10_000 {
            if world.done.len() == world.keys.len() {
                break;
            }
            world.step([0, 1, 3][round % 3], 0)?;
        }
        prop_assert_eq!(world.done.len(), world.keys.len());
        prop_assert!(world.batcher.is_idle());
        prop_assert!((1..=world.keys.len() as u64).all(|number| world.given.contains_key(&number)));
    }
}
