//! The invariants, checked event by event against what the service truly holds.
//!
//! The numbers are those of the list in ARCHITECTURE.md: 1 no loss, 2 order, 3 one effective owner, with counters that
//! rise and checkpoints that never go back, 5 nothing deleted that is still needed, 8 liveness. Each violation names
//! its rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::delivery::DeliveryScenario;
use super::history::{Author, Event, Ms, Row};

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A record was written and never delivered.
    Lost,
    /// A record was delivered before an earlier one of its key.
    OutOfOrder,
    /// A child's records were handed over before its parent's end was in the table.
    ChildBeforeParent,
    /// A checkpoint went back.
    CheckpointBack,
    /// A checkpoint went beyond what was acknowledged.
    CheckpointAhead,
    /// A write did not raise the counter.
    CounterNotRaised,
    /// A worker began to process a shard that was another's by then.
    TwoOwners,
    /// A lease was deleted that is still needed, or made again.
    WronglyDeleted,
    /// A shard had no live owner in time.
    NotLive,
    /// Loads were not even in time.
    Uneven,
    /// Leases moved although nothing happened.
    Restless,
    /// A worker ended without a cause.
    WorkerFailed,
    /// Two calls with records of one key were under way at once, in one process.
    TwoOfAKey,
    /// A record was handed over that the lease says is done.
    Repeated,
    /// A record was handed over that the filters leave out.
    NotFiltered,
    /// A record that always fails has no dead letter, or two different ones.
    DeadLetters,
    /// A record was not delivered in time.
    Late,
    /// A record was delivered that was there before the application's start.
    BeforeStart,
    /// The stream was listed too often.
    ListedTooOften,
    /// A table holds more and more.
    Grows,
    /// A process's worker had ended and delivered something.
    AfterEnd,
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub at: Ms,
    pub words: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.rule, self.at, self.words)
    }
}

/// The checker's counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub written: u64,
    pub delivered: u64,
    pub repeated: u64,
    pub checkpoints: u64,
    pub hand_offs: u64,
    pub takeovers: u64,
    pub shards_ended: u64,
    /// Finished leases that were cleaned up.
    pub cleaned_up: u64,
    /// Batches begun by a process whose worker id another process had taken over.
    pub namesakes: u64,
}

/// A shard as it truly is.
#[derive(Debug, Default)]
struct Shard {
    stream: usize,
    parent: Option<String>,
    is_open: bool,
    is_gone: bool,
    /// Its records' positions, with key and number, and when they were written.
    records: BTreeMap<u128, (String, u64, Ms)>,
    acknowledged: BTreeSet<u128>,
    trimmed_to: Option<u128>,
    /// Everything up to here was found acknowledged or trimmed.
    settled_to: u128,
}

#[derive(Debug, Default)]
struct Key {
    /// By number, whether it was delivered (`true`) or is still awaited (`false`).
    numbers: BTreeMap<u64, (bool, String, u128)>,
}

#[derive(Debug, Default)]
struct Lease {
    row: Option<Row>,
    was_finished: bool,
    /// Edited by hand and not yet written by a worker since.
    is_edited: bool,
    last_move: Ms,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Checker {
    shards: BTreeMap<String, Shard>,
    newest_stream: usize,
    keys: BTreeMap<String, Key>,
    leases: BTreeMap<String, Lease>,
    /// The worker ids of processes, by process.
    workers: BTreeMap<usize, String>,
    /// The processes whose worker has ended.
    ended: BTreeSet<usize>,
    /// The newest process of each worker id.
    newest: BTreeMap<String, usize>,
    /// The age at which records may be trimmed.
    retention: Ms,
    /// Filters, dead letters and poison records of the scenario.
    delivery: DeliveryScenario,
    /// When the first process starts, where the application begins with what is written after that.
    begins_after: Option<Ms>,
    /// Whether the tables say when the application began.
    has_begun: bool,
    /// The keys of calls under way, by process and call.
    calls: BTreeMap<(usize, u64), Vec<String>>,
    /// Dead letters, by shard and position.
    letters: BTreeMap<(String, u128), String>,
    violation: Option<Violation>,
    counts: Counts,
}

impl Checker {
    /// A checker for a stream whose records stay for `retention`.
    pub fn new(retention: Ms, delivery: DeliveryScenario, begins_after: Option<Ms>) -> Self {
        Self { retention, delivery, begins_after, ..Self::default() }
    }

    /// The application's beginning is in the tables: what is written from now on must be delivered.
    pub fn application_began(&mut self) {
        self.has_begun = true;
    }

    /// Takes an event in.
    pub fn see(&mut self, now: Ms, event: &Event) {
        self.counts.events += 1;
        match event {
            Event::Shard { shard, stream, parent, is_open } => {
                let entry = self.shards.entry(shard.clone()).or_default();
                (entry.stream, entry.parent, entry.is_open) = (*stream, parent.clone(), *is_open);
                self.newest_stream = self.newest_stream.max(*stream);
            }
            Event::ShardGone { shard } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    (shard.is_gone, shard.trimmed_to) = (true, Some(u128::MAX));
                }
            }
            Event::Written { shard, position, key, number } => self.written(now, shard, *position, key, *number),
            Event::Trimmed { shard, position } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.trimmed_to = shard.trimmed_to.max(Some(*position));
                }
            }
            Event::Row { key, row, author } => self.row(now, key, row.as_ref(), *author),
            Event::Began { process, shard, call, positions } => self.began(now, *process, shard, *call, positions),
            Event::Delivered { process, shard, position, key, number } => {
                self.delivered(now, *process, shard, *position, key, *number);
            }
            Event::Acknowledged { shard, positions, .. } => {
                let Some(shard) = self.shards.get_mut(shard) else { return };
                shard.acknowledged.extend(positions);
            }
            Event::DeadLetter { shard, position, record, .. } => self.dead_letter(now, shard, *position, record),
            Event::Started { process, worker } => {
                self.workers.insert(*process, worker.clone());
            }
            Event::Ended { process, outcome, is_explained } => {
                self.ended.insert(*process);
                if !is_explained {
                    self.break_rule(Rule::WorkerFailed, now, format!("process {process} ended: {outcome}"));
                }
            }
            Event::Call { .. } | Event::Action(_) => {}
        }
    }

    /// Notes that a process has taken its worker id over from any other.
    pub fn registered(&mut self, process: usize) {
        if let Some(worker) = self.workers.get(&process) {
            self.newest.insert(worker.clone(), process);
        }
    }

    /// The first broken rule.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The counts.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When a lease last changed its owner.
    pub fn last_move(&self) -> Ms {
        self.leases.values().map(|lease| lease.last_move).max().unwrap_or_default()
    }

    /// The reason why the fleet is unsettled: a shard without a live owner, or uneven loads.
    /// `live` are the workers that run.
    pub fn unsettled(&self, live: &BTreeSet<String>) -> Option<(Rule, String)> {
        let mut loads: BTreeMap<&String, usize> = live.iter().map(|worker| (worker, 0)).collect();
        let has_row = |id: &String| self.leases.get(id).is_some_and(|lease| lease.row.is_some());
        if let Some((id, _)) = self.shards.iter().find(|(id, shard)| shard.is_open && !has_row(id)) {
            return Some((Rule::NotLive, format!("open shard {id} has no lease")));
        }
        for (id, lease) in &self.leases {
            let (Some(row), Some(shard)) = (&lease.row, self.shards.get(id)) else { continue };
            if row.is_finished() || !self.is_startable(shard) {
                continue;
            }
            match row.owner.as_ref().and_then(|owner| loads.get_mut(owner)) {
                Some(load) if row.checkpoint_owner.is_none() => *load += 1,
                _ => return Some((Rule::NotLive, format!("shard {id} has no live owner: {row:?}"))),
            }
        }
        let (least, most) = (loads.values().min()?, loads.values().max()?);
        // By count, leases of different rates may lie two apart: nothing moves for less than half a lease's gain.
        (most - least > 2).then(|| (Rule::Uneven, format!("{loads:?}")))
    }

    /// Records that are still awaited.
    pub fn undelivered(&self, now: Ms) -> Vec<String> {
        let waiting = |key: &String, number: &u64, shard: &String, position: u128| {
            let is_trimmed = self.may_be_trimmed(now, shard, position);
            (!is_trimmed).then(|| format!("{key} {number} at {shard}/{position}"))
        };
        let all = self.keys.iter().flat_map(|(key, entry)| entry.numbers.iter().map(move |number| (key, number)));
        all.filter(|(_, (_, (delivered, ..)))| !delivered)
            .filter_map(|(key, (number, (_, shard, position)))| waiting(key, number, shard, *position))
            .collect()
    }

    /// A record that was written some time ago and is not delivered, though nothing in its shard or before it fails.
    pub fn late(&self, now: Ms, limit: Ms) -> Option<String> {
        let is_old = |(_, _, written): &(String, u64, Ms)| written + limit < now;
        let awaited = |(position, (key, number, _)): (&u128, &(String, u64, Ms)), shard: &Shard| {
            let entry = self.keys.get(key).and_then(|entry| entry.numbers.get(number));
            entry.is_some_and(|(delivered, ..)| !delivered) && !shard.may_be_trimmed(*position, now, self.retention)
        };
        let awaits = |shard: &Shard, what: &dyn Fn(&(String, u64, Ms)) -> bool| {
            let mut waiting = shard.records.iter().filter(|record| awaited(*record, shard));
            waiting.find(|(_, record)| what(record)).map(|(position, record)| (*position, record.clone()))
        };
        let is_poison = |(key, number, _): &(String, u64, Ms)| self.delivery.is_poison(key, *number);
        let is_held = |id: &String| {
            let mut line = std::iter::successors(Some(id), |id| self.shards.get(*id)?.parent.as_ref());
            line.any(|id| self.shards.get(id).is_some_and(|shard| awaits(shard, &is_poison).is_some()))
        };
        for (id, shard) in self.shards.iter().filter(|(_, shard)| !shard.is_gone) {
            if let Some((position, record)) = awaits(shard, &is_old)
                && !is_held(id)
            {
                return Some(format!("{record:?} at {id}/{position} was not delivered within {limit} ms"));
            }
        }
        None
    }

    /// Whether every lease is finished.
    pub fn all_finished(&self) -> bool {
        self.leases.values().filter_map(|lease| lease.row.as_ref()).all(Row::is_finished)
    }

    /// Breaks a rule, unless one was broken before.
    pub fn break_rule(&mut self, rule: Rule, at: Ms, words: String) {
        self.violation.get_or_insert(Violation { rule, at, words });
    }

    fn may_be_trimmed(&self, now: Ms, shard: &str, position: u128) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.may_be_trimmed(position, now, self.retention))
    }

    /// Whether an application that began at the newest record has nothing to read in a shard.
    fn is_before_start(&self, shard: &Shard) -> bool {
        self.begins_after.is_some() && shard.records.keys().all(|position| shard.acknowledged.contains(position))
    }

    fn is_startable(&self, shard: &Shard) -> bool {
        let parent = shard.parent.as_ref().and_then(|parent| self.leases.get(parent));
        parent.and_then(|parent| parent.row.as_ref()).is_none_or(Row::is_finished)
    }

    fn written(&mut self, now: Ms, shard: &str, position: u128, key: &str, number: u64) {
        self.counts.written += 1;
        let is_before = self.begins_after.is_some() && !self.has_begun;
        let is_left_out = self.delivery.leaves_out(number) || is_before;
        let entry = self.shards.entry(shard.to_owned()).or_default();
        entry.records.insert(position, (key.to_owned(), number, now));
        if is_left_out {
            entry.acknowledged.insert(position);
        }
        let entry = self.keys.entry(key.to_owned()).or_default();
        entry.numbers.insert(number, (is_left_out, shard.to_owned(), position));
    }

    fn row(&mut self, now: Ms, key: &str, row: Option<&Row>, author: Author) {
        let lease = self.leases.entry(key.to_owned()).or_default();
        let before = lease.row.take();
        lease.row = row.cloned();
        let was_edited = std::mem::replace(&mut lease.is_edited, author == Author::Operator);
        if before.as_ref().and_then(|before| before.owner.as_ref()) != row.and_then(|row| row.owner.as_ref())
            && row.is_some_and(|row| !row.is_finished())
            && before.is_some()
        {
            lease.last_move = now;
        }
        let was_finished = lease.was_finished;
        lease.was_finished |= row.is_some_and(Row::is_finished);
        if author == Author::Operator {
            return;
        }
        match (before, row) {
            (before, Some(row)) => {
                if before.is_none() && was_finished {
                    let words = format!("lease {key} was made again after its end: {row:?}");
                    self.break_rule(Rule::WronglyDeleted, now, words);
                }
                if let Some(before) = before.filter(|_| !was_edited) {
                    self.row_changed(now, key, &before, row);
                }
                self.check_checkpoint(now, key, row);
                self.check_done_beyond(now, key, row);
            }
            (Some(before), None) => self.row_deleted(now, key, &before),
            (None, None) => {}
        }
    }

    fn row_changed(&mut self, now: Ms, key: &str, before: &Row, row: &Row) {
        if row.counter <= before.counter {
            let words = format!("lease {key}: {before:?} became {row:?}");
            self.break_rule(Rule::CounterNotRaised, now, words);
        }
        if rank(row) < rank(before) {
            let words = format!("lease {key}: {} became {}", before.checkpoint, row.checkpoint);
            self.break_rule(Rule::CheckpointBack, now, words);
        }
        self.counts.checkpoints += u64::from(row.checkpoint != before.checkpoint);
        self.counts.hand_offs += u64::from(before.checkpoint_owner.is_some() && row.checkpoint_owner.is_none());
        let was_taken = before.checkpoint_owner.is_none() && row.checkpoint_owner.is_none();
        let has_new_owner = before.owner.is_some() && row.owner.is_some() && before.owner != row.owner;
        self.counts.takeovers += u64::from(was_taken && has_new_owner);
    }

    /// A checkpoint covers nothing that wasn't acknowledged.
    fn check_checkpoint(&mut self, now: Ms, key: &str, row: &Row) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        let end = match row.position() {
            Some(position) => position,
            None if row.is_finished() => u128::MAX,
            None => return,
        };
        self.counts.shards_ended += u64::from(row.is_finished());
        if row.is_finished() && shard.is_open && !shard.is_gone {
            return self.break_rule(Rule::CheckpointAhead, now, format!("open shard {key} was ended"));
        }
        if end <= shard.settled_to {
            return;
        }
        let retention = self.retention;
        let open = shard.records.range(shard.settled_to..=end).find(|(position, _)| {
            !shard.acknowledged.contains(*position) && !shard.may_be_trimmed(**position, now, retention)
        });
        if let Some((position, record)) = open {
            let words = format!("lease {key} is at {}, but {record:?} at {position} is not done", row.checkpoint);
            return self.break_rule(Rule::CheckpointAhead, now, words);
        }
        shard.settled_to = end.min(shard.records.keys().next_back().map_or(0, |last| last + 1));
    }

    /// Checks that everything beyond a row's checkpoint that it has as done was acknowledged.
    fn check_done_beyond(&mut self, now: Ms, key: &str, row: &Row) {
        let (Some(done), Some(shard)) = (row.done_beyond(), self.shards.get(key)) else { return };
        let from = row.position().map_or(0, |position| position + 1);
        let open = shard.records.range(from..).find(|(position, _)| {
            done.has(&position.to_string())
                && !shard.acknowledged.contains(*position)
                && !shard.may_be_trimmed(**position, now, self.retention)
        });
        if let Some((position, record)) = open {
            let words = format!("lease {key} says that {record:?} at {position} is done, and it is not: {row:?}");
            self.break_rule(Rule::CheckpointAhead, now, words);
        }
    }

    /// KCL's rule: a lease goes after its end, when its parents' are gone and each child has moved beyond its start.
    fn row_deleted(&mut self, now: Ms, key: &str, before: &Row) {
        self.counts.cleaned_up += 1;
        if !before.is_finished() {
            let words = format!("unfinished lease {key} was deleted: {before:?}");
            return self.break_rule(Rule::WronglyDeleted, now, words);
        }
        let shard = self.shards.get(key);
        let parent = shard.and_then(|shard| shard.parent.as_ref());
        if parent.and_then(|parent| self.leases.get(parent)).is_some_and(|parent| parent.row.is_some()) {
            let words = format!("lease {key} was deleted before its parent's");
            return self.break_rule(Rule::WronglyDeleted, now, words);
        }
        // Shards of the streams before are listed for no worker: their leases cannot come again.
        let is_gone = shard.is_none_or(|shard| shard.is_gone || shard.stream < self.newest_stream);
        let mut children =
            self.shards.iter().filter(|(_, child)| child.parent.as_deref() == Some(key) && !child.is_gone).peekable();
        let has_child = children.peek().is_some();
        let waiting = children.find(|(id, _)| {
            let row = self.leases.get(*id).and_then(|lease| lease.row.as_ref());
            !row.is_some_and(|row| row.is_finished() || row.position().is_some())
                && !self.leases.get(*id).is_some_and(|lease| lease.was_finished)
        });
        if let Some((child, _)) = waiting {
            let words = format!("lease {key} was deleted, but its child {child} has not moved on");
            self.break_rule(Rule::WronglyDeleted, now, words);
        } else if !has_child && !is_gone {
            let words = format!("lease {key} was deleted, and nothing tells that it was read");
            self.break_rule(Rule::WronglyDeleted, now, words);
        }
    }

    /// A call has come to its end, however.
    pub fn call_ended(&mut self, process: usize, call: u64) {
        self.calls.remove(&(process, call));
    }

    /// Keys of one process are worked on one call at a time, and nothing that its lease says is done.
    fn check_call(&mut self, now: Ms, process: usize, id: &str, call: u64, positions: &[u128]) {
        let Some(shard) = self.shards.get(id) else { return };
        let record = |position: &u128| shard.records.get(position);
        let keys: Vec<String> = positions.iter().filter_map(record).map(|(key, ..)| key.clone()).collect();
        let others = self.calls.iter().filter(|((other, _), _)| *other == process);
        let twice = others.flat_map(|(_, keys)| keys).find(|key| keys.contains(*key)).cloned();
        let lease = self.leases.get(id).filter(|lease| !lease.is_edited);
        let done = lease.and_then(|lease| lease.row.as_ref()).and_then(Row::done_beyond);
        let repeated = positions.iter().find(|at| done.as_ref().is_some_and(|done| done.has(&at.to_string()))).copied();
        let left_out = positions.iter().filter_map(record).find(|(_, number, _)| self.delivery.leaves_out(*number));
        let left_out = left_out.cloned();
        self.calls.insert((process, call), keys);
        if let Some(key) = twice {
            self.break_rule(Rule::TwoOfAKey, now, format!("process {process} has two calls at once with {key}"));
        }
        if let Some(position) = repeated {
            let words = format!("process {process} began {position} of {id}, which its lease says is done: {done:?}");
            self.break_rule(Rule::Repeated, now, words);
        }
        if let Some(record) = left_out {
            self.break_rule(Rule::NotFiltered, now, format!("process {process} began {record:?}"));
        }
    }

    /// A record is done by its dead letter, and stays one letter.
    fn dead_letter(&mut self, now: Ms, id: &str, position: u128, record: &str) {
        let kept = self.letters.entry((id.to_owned(), position)).or_insert_with(|| record.to_owned());
        if kept != record {
            let words = format!("two letters of {id}/{position}: {kept} and {record}");
            self.break_rule(Rule::DeadLetters, now, words);
        }
        let Some(shard) = self.shards.get_mut(id) else { return };
        shard.acknowledged.insert(position);
        let Some((key, number, _)) = shard.records.get(&position) else { return };
        if let Some(entry) = self.keys.get_mut(key).and_then(|entry| entry.numbers.get_mut(number)) {
            entry.0 = true;
        }
    }

    /// Records that always fail and have no dead letter, or have one and were delivered.
    pub fn without_letter(&self, now: Ms) -> Vec<String> {
        let all =
            self.shards.iter().flat_map(|(id, shard)| shard.records.iter().map(move |record| (id, shard, record)));
        all.filter(|(_, shard, (position, (key, number, _)))| {
            self.delivery.is_poison(key, *number)
                && !self.delivery.halts
                && !self.delivery.leaves_out(*number)
                && !shard.may_be_trimmed(**position, now, self.retention)
        })
        .filter(|(id, _, (position, _))| !self.letters.contains_key(&((*id).clone(), **position)))
        .map(|(id, _, (position, record))| format!("{record:?} at {id}/{position}"))
        .collect()
    }

    fn began(&mut self, now: Ms, process: usize, id: &str, call: u64, positions: &[u128]) {
        let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return };
        self.check_call(now, process, id, call, positions);
        let worker = self.workers.get(&process).cloned().unwrap_or_default();
        let Some(lease) = self.leases.get(id) else {
            let words = format!("{worker} reads shard {id}, which has no lease");
            return self.break_rule(Rule::TwoOwners, now, words);
        };
        let holder = lease.row.as_ref().and_then(Row::holder);
        if holder != Some(&worker) && !lease.is_edited {
            let words = format!(
                "process {process} ({worker}) began {first}..={last} of shard {id}, whose lease is {:?}",
                lease.row
            );
            return self.break_rule(Rule::TwoOwners, now, words);
        }
        if self.newest.get(&worker).is_some_and(|newest| *newest > process) {
            self.counts.namesakes += 1;
        }
        let parent = self.shards.get(id).and_then(|shard| shard.parent.clone());
        let Some(parent) = parent else { return };
        let is_over = match self.leases.get(&parent) {
            Some(lease) => lease.was_finished,
            None => self.shards.get(&parent).is_none_or(|parent| parent.is_gone || self.is_before_start(parent)),
        };
        if !is_over {
            let words = format!("{worker} began shard {id} before the end of its parent {parent}");
            self.break_rule(Rule::ChildBeforeParent, now, words);
        }
    }

    fn delivered(&mut self, now: Ms, process: usize, shard: &str, position: u128, key: &str, number: u64) {
        if self.ended.contains(&process) {
            let words = format!("process {process}, whose worker has ended, delivered {key} {number}");
            self.break_rule(Rule::AfterEnd, now, words);
        }
        let earlier = self.keys.get(key).and_then(|entry| {
            let mut earlier = entry.numbers.range(..number);
            earlier.find(|(_, (delivered, shard, position))| !delivered && !self.may_be_trimmed(now, shard, *position))
        });
        if let Some((missing, (_, missing_shard, missing_position))) = earlier {
            let words = format!(
                "process {process}: {key} {number} at {shard}/{position} came before {key} {missing} at \
                 {missing_shard}/{missing_position}"
            );
            self.break_rule(Rule::OutOfOrder, now, words);
        }
        let Some(entry) = self.keys.get_mut(key).and_then(|entry| entry.numbers.get_mut(&number)) else {
            let words = format!("{key} {number} at {shard}/{position} was delivered, but never written");
            return self.break_rule(Rule::OutOfOrder, now, words);
        };
        let was_delivered = std::mem::replace(&mut entry.0, true);
        let written = self.shards.get(shard).and_then(|shard| shard.records.get(&position)).map(|record| record.2);
        if was_delivered {
            self.counts.repeated += 1;
        } else {
            self.counts.delivered += 1;
        }
        // Service and records have whole seconds.
        if self.begins_after.zip(written).is_some_and(|(start, written)| written + 3_000 < start) {
            let words = format!("process {process}: {key} {number} at {shard}/{position}, written at {written:?}");
            self.break_rule(Rule::BeforeStart, now, words);
        }
    }
}

impl Shard {
    /// Whether a record was trimmed, or is of an age at which it may be at any moment.
    fn may_be_trimmed(&self, position: u128, now: Ms, retention: Ms) -> bool {
        let is_old = |at: Ms| now >= at + retention;
        self.trimmed_to.is_some_and(|trimmed| position <= trimmed)
            || self.records.get(&position).is_some_and(|(_, _, at)| is_old(*at))
    }
}

/// The order of checkpoints; what cannot be read compares as the least.
fn rank(row: &Row) -> (u8, u128) {
    match row.checkpoint.as_str() {
        "TRIM_HORIZON" => (1, 0),
        "LATEST" => (2, 0),
        "SHARD_END" => (4, 0),
        digits => digits.parse().map_or((0, 0), |position| (3, position)),
    }
}
