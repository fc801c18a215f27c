//! Statements about a state, and equality of states.

use super::{Child, Consumer, ConsumerCommand, PooledProcessor, Process, State, Write};
use crate::row::Row;

impl<const W: usize, const S: usize> State<W, S> {
    /// Whether a delivery of this process may begin now.
    pub(super) fn may_deliver(&self, worker: usize, shard: usize) -> bool {
        let process = &self.processes[worker];
        let may = |consumer: Consumer| consumer.wish == ConsumerCommand::Run && consumer.in_term;
        process.is_up && process.is_alive && process.slots[shard].consumer.is_some_and(may)
    }

    pub(super) fn is_finished(&self, shard: usize) -> bool {
        self.rows[shard].is_some_and(Row::is_finished)
    }

    /// Whether the shard's parent, if it has one, is read to its end.
    pub(super) fn is_open(&self, shard: usize) -> bool {
        shard == 0 || self.is_finished(0)
    }

    pub(super) fn has_room(&self, limit: usize) -> bool {
        self.flight.iter().flatten().count() < limit
    }

    pub(super) fn is_in_flight(&self, write: &Write) -> bool {
        self.flight.contains(&Some(*write))
    }

    pub(super) fn put(&mut self, write: Write) {
        let place = self.flight.iter_mut().find(|place| place.is_none()).expect("there was room");
        *place = Some(write);
    }

    /// The lease has a new holder: its former holder has no say any longer.
    pub(super) fn end_tenancy(&mut self, shard: usize) {
        for process in &mut self.processes {
            let slot = &mut process.slots[shard];
            if let Some(consumer) = &mut slot.consumer {
                consumer.is_valid = false;
            }
            if let Some(write) = &mut slot.pending {
                write.is_valid = false;
            }
        }
        for write in self.flight.iter_mut().flatten().filter(|write| usize::from(write.shard) == shard) {
            write.is_valid = false;
        }
    }

    pub(super) fn start(&mut self, worker: usize, shard: usize, row: Row, in_term: bool) {
        let wish = if self.is_open(shard) { ConsumerCommand::Run } else { ConsumerCommand::WaitForParent };
        let position = row.checkpoint;
        self.processes[worker].slots[shard].consumer =
            Some(Consumer { row, delivered: position, acknowledged: position, wish, in_term, is_valid: true });
    }

    pub(super) fn stop(&mut self, worker: usize, shard: usize) {
        self.processes[worker].slots[shard] = PooledProcessor { pending: None, is_old_claim: false, consumer: None };
    }
}

impl<const W: usize, const S: usize> State<W, S> {
    /// Counters are told apart by whether they are equal or differ by one, and a write is one ahead of what it was
    /// made from. So they count from the lowest that anybody remembers, and no gap need be wider than 3.
    pub(super) fn close_gaps(&mut self, shard: usize) {
        let mut seen = 0_u64;
        self.each_row(shard, |row| seen |= 1 << row.counter);
        let (mut next, mut gap, mut renamed) = (0, 0, [0; 64]);
        for counter in seen.trailing_zeros()..u64::BITS - seen.leading_zeros() {
            if seen >> counter & 1 == 1 {
                next += std::mem::take(&mut gap);
                renamed[counter as usize] = next;
            }
            gap = 3.min(gap + 1);
        }
        self.each_row(shard, |row| row.counter = renamed[usize::from(row.counter)]);
    }

    fn each_row(&mut self, shard: usize, mut visit: impl FnMut(&mut Row)) {
        let visit_write = |write: &mut Write, visit: &mut dyn FnMut(&mut Row)| {
            if usize::from(write.shard) == shard {
                visit(&mut write.before);
                visit(&mut write.after);
            }
            if let (Child::Take(row), 1) = (&mut write.child, shard) {
                visit(row);
            }
        };
        self.rows[shard].iter_mut().for_each(&mut visit);
        for slot in self.processes.iter_mut().flat_map(|process| &mut process.slots) {
            slot.pending.iter_mut().for_each(|write| visit_write(write, &mut visit));
        }
        for process in &mut self.processes {
            process.slots[shard].consumer.iter_mut().for_each(|consumer| visit(&mut consumer.row));
        }
        self.flight.iter_mut().flatten().for_each(|write| visit_write(write, &mut visit));
    }
}

impl<const W: usize, const S: usize> std::fmt::Debug for State<W, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows {:?}, acknowledged {:?}", self.rows, self.acknowledged)?;
        for (worker, process) in self.processes.iter().enumerate() {
            let Process { is_up, is_alive, .. } = process;
            write!(f, "\n    process {worker}: up {is_up}, alive {is_alive}")?;
            for slot in &process.slots {
                write!(f, ", {:?}, awaits {:?}", slot.consumer, slot.pending)?;
            }
        }
        write!(f, "\n    on their way: {:?}", self.flight.iter().flatten().collect::<Vec<_>>())
    }
}
