//! The steps of processes: they live and die, look after their leases, and read shards.

use super::{Action, Child, Consumer, ConsumerCommand, EARLY_CHILD, Kind, SKIPPED, Steps, Write};
use crate::row::{Change, Row};

impl<const W: usize, const S: usize> Steps<'_, W, S> {
    pub(super) fn live_and_die(&mut self, worker: usize) {
        let left = self.state.left;
        let process = self.state.processes[worker];
        let is_namesake = self.model.size.has_namesake && worker == W - 1;
        if !process.is_up {
            if process.is_alive {
                self.to(Action::Expire(worker), |next| next.processes[worker].is_alive = false);
            }
            if is_namesake && !self.state.processes[0].is_replaced {
                self.to(Action::Replace(worker), |next| {
                    next.processes[0].is_replaced = true;
                    (next.processes[worker].is_up, next.processes[worker].is_alive) = (true, true);
                });
            } else if !process.is_replaced {
                self.to(Action::Restart(worker), |next| {
                    (next.processes[worker].is_up, next.processes[worker].is_alive) = (true, true);
                });
            }
            return;
        }
        if left.crashes > 0 {
            self.to(Action::Crash(worker), |next| {
                next.left.crashes -= 1;
                next.processes[worker].is_up = false;
                (0..S).for_each(|shard| next.stop(worker, shard));
            });
        }
        if process.is_alive {
            if left.lapses > 0 {
                self.to(Action::Lapse(worker), |next| {
                    next.left.lapses -= 1;
                    next.processes[worker].is_alive = false;
                });
            }
        } else if !process.is_replaced {
            self.to(Action::Heartbeat(worker), |next| {
                let process = &mut next.processes[worker];
                process.is_alive = true;
                for slot in &mut process.slots {
                    slot.is_old_claim = slot.pending.is_some_and(|write| write.kind == Kind::Claim);
                    if let Some(consumer) = &mut slot.consumer {
                        consumer.in_term = false;
                    }
                }
            });
        }
        if process.is_replaced {
            self.to(Action::Resign(worker), |next| {
                (next.processes[worker].is_up, next.processes[worker].is_alive) = (false, false);
                (0..S).for_each(|shard| next.stop(worker, shard));
            });
        }
    }

    /// The keeper: what the row asks for.
    pub(super) fn keep(&mut self, worker: usize, shard: usize) {
        let (me, process) = (self.id(worker), self.state.processes[worker]);
        let slot = process.slots[shard];
        let Some(row) = self.state.rows[shard].filter(|row| process.is_up && !row.is_finished()) else { return };
        let is_idle = slot.consumer.is_none() && slot.pending.is_none();
        let rules = self.model.rules;
        let action = Action::Look(worker, shard);
        if row.owner == me && (row.from == 0 || !rules.new_owner_waits) {
            if is_idle && rules.start_claims && row.from == 0 {
                self.send_change(action, worker, shard, Kind::Claim, row, Change::Claim(me));
            } else if is_idle {
                self.to(action, |next| next.start(worker, shard, row, true));
            }
        } else if row.owner != me {
            match slot.consumer {
                Some(_) if row.holder() != me => self.to(action, |next| next.stop(worker, shard)),
                Some(consumer)
                    if consumer.wish == ConsumerCommand::Run || consumer.wish == ConsumerCommand::WaitForParent =>
                {
                    self.wish(action, worker, shard, ConsumerCommand::HandOver);
                }
                None if is_idle && row.holder() == me && rules.passes_on => {
                    self.send_change(action, worker, shard, Kind::PassOn, row, Change::Assign(row.owner));
                }
                _ => {}
            }
        }
    }

    fn wish(&mut self, action: Action, worker: usize, shard: usize, wish: ConsumerCommand) {
        self.to(action, |next| {
            if let Some(consumer) = &mut next.processes[worker].slots[shard].consumer {
                consumer.wish = wish;
            }
        });
    }

    // The consumer of a shard.

    pub(super) fn consume(&mut self, worker: usize, shard: usize) {
        let (state, process) = (self.state, self.state.processes[worker]);
        let slot = process.slots[shard];
        let Some(consumer) = slot.consumer else { return };
        if !process.is_alive || !consumer.in_term {
            self.to(Action::Stop(worker, shard), |next| next.stop(worker, shard));
        }
        let records = self.model.size.records;
        let is_done = consumer.acknowledged == consumer.delivered;
        let is_free = slot.pending.is_none();
        if consumer.wish == ConsumerCommand::WaitForParent && (state.is_open(shard) || !self.model.rules.child_waits) {
            self.wish(Action::LookAtParent(worker), worker, shard, ConsumerCommand::Run);
        }
        if state.may_deliver(worker, shard) && is_done && consumer.delivered < records {
            let action = Action::Deliver(worker, shard);
            if !state.is_open(shard) {
                self.reach(action, Err(EARLY_CHILD));
            } else if consumer.delivered > state.acknowledged[shard] {
                self.reach(action, Err(SKIPPED));
            } else {
                self.consumer(action, worker, shard, |consumer| consumer.delivered += 1);
            }
        }
        if !is_done {
            let mut next = *state;
            let acknowledged = consumer.delivered;
            next.acknowledged[shard] = next.acknowledged[shard].max(acknowledged);
            next.processes[worker].slots[shard].consumer = Some(Consumer { acknowledged, ..consumer });
            self.reach(Action::Acknowledge(worker, shard), Ok(next));
        }
        if self.state.left.moves > 0 && consumer.wish == ConsumerCommand::Run && state.may_deliver(worker, shard) {
            let mut next = *state;
            next.left.moves -= 1;
            next.processes[worker].slots[shard].consumer =
                Some(Consumer { wish: ConsumerCommand::Release, ..consumer });
            self.reach(Action::AskToRelease(worker, shard), Ok(next));
        }
        if is_free {
            self.write_down(worker, shard, consumer, is_done);
        }
    }

    /// The writes of a consumer that awaits no answer.
    fn write_down(&mut self, worker: usize, shard: usize, consumer: Consumer, is_done: bool) {
        let (me, row) = (self.id(worker), consumer.row);
        let done = if self.model.rules.checkpoints_acknowledged { consumer.acknowledged } else { consumer.delivered };
        let position = done.max(row.checkpoint);
        match consumer.wish {
            ConsumerCommand::Run if position > row.checkpoint => {
                let change = Change::Checkpoint(me, position);
                self.send_change(Action::Checkpoint(worker, shard), worker, shard, Kind::Checkpoint, row, change);
            }
            ConsumerCommand::HandOver if is_done && row.from == 0 => {
                // The leader has written the row since: read it, and resume from a hand-off alone.
                let found = self.state.rows[shard].filter(|found| self.adopts(me, row, *found));
                let transfer = |row: Row| row.after(Change::Transfer(me, position));
                match found.and_then(transfer) {
                    Some(_) => self.consumer(Action::Leave(worker, shard), worker, shard, |consumer| {
                        consumer.row = found.unwrap_or(row);
                    }),
                    None => self.to(Action::Leave(worker, shard), |next| next.stop(worker, shard)),
                }
            }
            ConsumerCommand::HandOver | ConsumerCommand::Release if is_done => {
                let (kind, change) = match row.from {
                    0 => (Kind::Release, Change::Release(me, position)),
                    _ => (Kind::Transfer, Change::Transfer(me, position)),
                };
                self.send_change(Action::Leave(worker, shard), worker, shard, kind, row, change);
            }
            _ => {}
        }
        if consumer.wish == ConsumerCommand::Run && self.state.may_deliver(worker, shard) && is_done {
            self.end(worker, shard, consumer);
        }
    }

    fn end(&mut self, worker: usize, shard: usize, consumer: Consumer) {
        let (me, row) = (self.id(worker), consumer.row);
        if consumer.acknowledged < self.model.size.records || !self.has_room() {
            return;
        }
        let Some(after) = row.after(Change::End(me)) else {
            return self.to(Action::End(worker, shard), |next| next.stop(worker, shard));
        };
        let mut write = self.write(worker, shard, Kind::End, row, after);
        write.is_valid = consumer.is_valid;
        if S > 1 && shard == 0 {
            let lost = Write { child: Child::Unknown, ..write };
            if self.state.left.losses > 0 {
                self.send(Action::EndWithoutChild(worker, shard), worker, lost);
            }
            write.child = Child::Make;
        }
        self.send(Action::End(worker, shard), worker, write);
    }

    fn consumer(&mut self, action: Action, worker: usize, shard: usize, change: impl FnOnce(&mut Consumer)) {
        self.to(action, |next| {
            if let Some(consumer) = &mut next.processes[worker].slots[shard].consumer {
                change(consumer);
            }
        });
    }
}
