//! The steps of leaders.

use super::{Action, Kind, LEADER, Steps, Write};
use crate::row::{Change, Id, Row};

impl<const W: usize, const S: usize> Steps<'_, W, S> {
    pub(super) fn lead(&mut self, shard: usize) {
        let Some(row) = self.state.rows[shard] else {
            if self.state.is_open(shard) {
                self.to(Action::MakeChild, |next| next.rows[shard] = Some(Row::NEW));
            }
            return;
        };
        let rules = self.model.rules;
        if !rules.proof_follows_row && shard == 0 {
            let mut dead = [false; W];
            (0..W).for_each(|worker| dead[worker] = !self.is_alive(self.id(worker)));
            if dead != self.state.seen_dead {
                self.to(Action::SeeDead, |next| next.seen_dead = dead);
            }
        }
        if row.is_finished() || !self.state.is_open(shard) || !self.has_room() {
            return;
        }
        let is_dead = |id: Id| match rules.proof_follows_row {
            true => !self.is_alive(id),
            false => self.state.seen_dead[usize::from(id) - 1],
        };
        let members: Vec<Id> =
            (1..=Id::try_from(W - usize::from(self.model.size.has_namesake)).expect("few")).collect();
        let dead: Vec<Id> = members.iter().copied().filter(|id| is_dead(*id)).collect();
        let holder = row.holder();
        let is_vacant = holder == 0 || dead.contains(&holder) || !rules.take_over_needs_lapse;
        for &to in members.iter().filter(|id| !dead.contains(id) && **id != holder) {
            if is_vacant && rules.leader_assigns {
                self.send_as_leader(Action::Assign(shard, to), shard, Kind::Assign, row, Change::Assign(to));
            } else if !is_vacant && self.state.left.moves > 0 && row.from == 0 {
                self.send_as_leader(Action::HandOff(shard, to), shard, Kind::HandOff, row, Change::HandOff(to));
            }
        }
        let goes_on = |worker: usize| self.id(worker) == row.from && self.state.may_deliver(worker, shard);
        let may_force = row.from != 0 && !(rules.force_needs_stop && (0..W).any(goes_on));
        if may_force && self.state.left.moves > 0 {
            self.send_as_leader(Action::Force(shard), shard, Kind::Assign, row, Change::Assign(row.owner));
        }
    }

    fn send_as_leader(&mut self, action: Action, shard: usize, kind: Kind, row: Row, change: Change) {
        let Some(after) = row.after(change) else { return };
        let write = Write { process: LEADER, is_valid: true, ..self.write(0, shard, kind, row, after) };
        if self.state.is_in_flight(&write) {
            return;
        }
        self.to(action, |next| {
            if matches!(action, Action::HandOff(..) | Action::Force(_)) {
                next.left.moves -= 1;
            }
            next.put(write);
        });
    }
}
