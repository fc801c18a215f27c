//! Writes on their way, what the table makes of them, and what their senders make of the answers.

use super::{Action, BACK, Child, Kind, LOST_TENANCY, State, Steps, UNDELIVERED, Write, changes_hands};
use crate::row::{Change, Id, Row, is_adopted, is_own_work};

impl<const W: usize, const S: usize> Steps<'_, W, S> {
    pub(super) fn write(&self, worker: usize, shard: usize, kind: Kind, before: Row, after: Row) -> Write {
        let consumer = self.state.processes[worker].slots[shard].consumer;
        let is_valid = consumer.is_none_or(|consumer| consumer.is_valid);
        let number = |index: usize| u8::try_from(index).expect("few");
        let (process, shard) = (number(worker), number(shard));
        Write { kind, shard, process, before, after, child: Child::Unknown, is_valid }
    }

    /// Sends what the row allows; a consumer that the row does not allow it has lost the lease.
    pub(super) fn send_change(
        &mut self,
        action: Action,
        worker: usize,
        shard: usize,
        kind: Kind,
        row: Row,
        change: Change,
    ) {
        if !self.has_room() {
            return;
        }
        let Some(mut after) = row.after(change) else {
            return self.to(action, |next| next.stop(worker, shard));
        };
        if kind == Kind::Checkpoint && !self.model.rules.checkpoint_raises_counter {
            after.counter = row.counter;
        }
        self.send(action, worker, self.write(worker, shard, kind, row, after));
    }

    pub(super) fn send(&mut self, action: Action, worker: usize, write: Write) {
        self.to(action, |next| {
            next.processes[worker].slots[usize::from(write.shard)].pending = Some(write);
            if !next.is_in_flight(&write) {
                next.put(write);
            }
        });
    }

    /// A sender that awaits an answer in vain reads the row, and sends the write again if it is neither done nor on its way.
    pub(super) fn settle(&mut self, worker: usize, shard: usize) {
        let process = self.state.processes[worker];
        let slot = process.slots[shard];
        let Some(write) = slot.pending else { return };
        let action = Action::Settle(worker, shard);
        let Some(found) = self.state.rows[shard] else { return };
        if self.state.is_in_flight(&write) && found == write.before {
            if self.state.left.losses > 0 && slot.consumer.is_none() {
                self.to(Action::GiveUp(worker, shard), |next| {
                    next.left.losses -= 1;
                    next.stop(worker, shard);
                });
            }
            return;
        }
        if found != write.before {
            let mut next = *self.state;
            self.answer(&mut next, write, found);
            self.reach(action, Ok(next));
        } else if slot.consumer.is_none_or(|consumer| !process.is_alive || !consumer.in_term) {
            self.to(action, |next| next.stop(worker, shard));
        } else if self.has_room() {
            let child = if write.child == Child::Unknown { Child::Unknown } else { Child::Make };
            self.send(action, worker, Write { child, ..write });
        }
    }

    pub(super) fn adopts(&self, me: Id, known: Row, found: Row) -> bool {
        is_adopted(me, known, found) || (!self.model.rules.adopts_hand_offs_only && found.holder() == me)
    }

    /// The sender's conclusion from the row that its write left behind or met.
    fn answer(&self, next: &mut State<W, S>, write: Write, found: Row) {
        let (worker, shard) = (usize::from(write.process), usize::from(write.shard));
        let (me, rules) = (self.id(worker), self.model.rules);
        let is_done = is_own_work(write.before, write.after, found);
        let slot = &mut next.processes[worker].slots[shard];
        slot.pending = None;
        let is_old_claim = std::mem::take(&mut slot.is_old_claim);
        match (write.kind, &mut slot.consumer) {
            (Kind::Claim, None) if is_done && found.owner == me && found.from == 0 => {
                next.start(worker, shard, found, !(is_old_claim && rules.claim_keeps_term));
            }
            (Kind::Checkpoint, Some(consumer)) if is_done => consumer.row = found,
            (Kind::Transfer | Kind::Release | Kind::End, consumer) if is_done => *consumer = None,
            (_, Some(consumer)) if self.adopts(me, consumer.row, found) => consumer.row = found,
            (_, consumer) => *consumer = None,
        }
    }

    pub(super) fn arrive(&mut self, place: usize) {
        let Some(write) = self.state.flight[place] else { return };
        let has_losses = self.state.left.losses > 0;
        let lose = |next: &mut State<W, S>| next.left.losses -= 1;
        if has_losses {
            self.to(Action::GetLost(place), |next| {
                lose(next);
                next.flight[place] = None;
            });
        }
        let mut next = *self.state;
        next.flight[place] = None;
        let is_applied = match self.apply(&mut next, write) {
            Ok(is_applied) => is_applied,
            Err(rule) => return self.reach(Action::Arrive(place), Err(rule)),
        };
        if has_losses && is_applied {
            let mut silent = next;
            lose(&mut silent);
            self.reach(Action::ArriveAnswerLost(place), Ok(silent));
            silent.flight[place] = Some(write);
            if let (Some(copy), true) = (&mut silent.flight[place], changes_hands(write.kind)) {
                copy.is_valid = false;
            }
            self.reach(Action::ArriveAndAgain(place), Ok(silent));
        }
        let (worker, shard) = (usize::from(write.process), usize::from(write.shard));
        let is_awaited = |pending: Write| Write { is_valid: write.is_valid, ..pending } == write;
        if worker < W && self.state.processes[worker].slots[shard].pending.is_some_and(is_awaited) {
            if !is_applied && next.rows[shard] == Some(write.before) {
                self.refuse_child(&mut next, write);
            } else if let Some(found) = next.rows[shard] {
                self.answer(&mut next, write, found);
            }
        }
        self.reach(Action::Arrive(place), Ok(next));
    }

    /// The parent's part of a shard's end was fine, the child's was not: it is taken as it is, or left alone.
    fn refuse_child(&self, next: &mut State<W, S>, write: Write) {
        let free = next.rows[1].filter(|row| row.owner == 0 && !row.is_finished());
        let again = Write { child: free.map_or(Child::Unknown, Child::Take), ..write };
        next.processes[usize::from(write.process)].slots[0].pending = Some(again);
        next.put(again);
    }

    /// The table's part: the write is done if the row is as its writer saw it.
    fn apply(&self, next: &mut State<W, S>, write: Write) -> Result<bool, &'static str> {
        let (shard, rules) = (usize::from(write.shard), self.model.rules);
        let Some(row) = next.rows[shard] else { return Ok(false) };
        let Write { before, after, .. } = write;
        let is_free = (write.kind == Kind::Transfer && !rules.transfer_needs_hand_off)
            || (row.owner, row.from) == (before.owner, before.from);
        if !is_free || (self.needs_counter(write.kind) && row.counter != before.counter) {
            return Ok(false);
        }
        let child = match write.child {
            Child::Unknown => None,
            Child::Make if next.rows[1].is_some() => return Ok(false),
            Child::Make => Some(Row { owner: after.owner, ..Row::NEW }),
            Child::Take(seen) if next.rows[1] != Some(seen) => return Ok(false),
            Child::Take(seen) => seen.after(Change::Assign(after.owner)),
        };
        // Only what changes is written.
        let mut written = Row { counter: after.counter, ..row };
        if after.owner != before.owner {
            written.owner = after.owner;
        }
        if after.from != before.from {
            written.from = after.from;
        }
        if after.checkpoint != before.checkpoint {
            written.checkpoint = after.checkpoint;
        }
        if written.checkpoint < row.checkpoint {
            return Err(BACK);
        }
        if !write.is_valid {
            return Err(LOST_TENANCY);
        }
        let last = if written.is_finished() { self.model.size.records } else { written.checkpoint };
        if last > next.acknowledged[shard] {
            return Err(UNDELIVERED);
        }
        next.rows[shard] = Some(written);
        if changes_hands(write.kind) {
            next.end_tenancy(shard);
        }
        if let Some(child) = child {
            next.rows[1] = Some(child);
            next.end_tenancy(1);
        }
        Ok(true)
    }

    pub(super) fn needs_counter(&self, kind: Kind) -> bool {
        match kind {
            Kind::Checkpoint => self.model.rules.checkpoint_needs_counter,
            Kind::Transfer => self.model.rules.transfer_needs_hand_off,
            _ => true,
        }
    }
}
