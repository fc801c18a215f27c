//! Lease rows as small as a model wants them, and their changes, made by the code that the worker runs.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use shardkeeper::internals::model::checkpoint::Checkpoint;
use shardkeeper::internals::model::lease::{Lease, ShardId, Transition, WorkerId};

/// A worker's id; 0 is nobody.
pub type Id = u8;

/// The checkpoint of a finished shard. 0 is TRIM_HORIZON, and n the nth record.
pub const END: u8 = u8::MAX;

/// A row of the lease table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub owner: Id,
    /// `checkpointOwner`.
    pub from: Id,
    pub counter: u8,
    pub checkpoint: u8,
}

/// A change as a worker or the leader asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    Assign(Id),
    Claim(Id),
    HandOff(Id),
    Checkpoint(Id, u8),
    Transfer(Id, u8),
    Release(Id, u8),
    End(Id),
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owner, from, counter, checkpoint } = self;
        write!(f, "[#{counter} owner {owner} from {from} at {checkpoint}]")
    }
}

impl Row {
    pub const NEW: Self = Self { owner: 0, from: 0, counter: 0, checkpoint: 0 };

    pub fn holder(self) -> Id {
        if self.from == 0 { self.owner } else { self.from }
    }

    pub fn is_finished(self) -> bool {
        self.checkpoint == END
    }

    /// The row after a change, if [`Lease`] allows it.
    pub fn after(self, change: Change) -> Option<Self> {
        thread_local!(static KNOWN: RefCell<HashMap<(Row, Change), Option<Row>>> = RefCell::default());
        KNOWN.with_borrow_mut(|known| *known.entry((self, change)).or_insert_with(|| self.made_by(change)))
    }

    fn made_by(self, change: Change) -> Option<Self> {
        let lease = self.lease();
        let transition = match change {
            Change::Assign(to) => Ok(lease.assign(&id(to))),
            Change::Claim(worker) => lease.claim(&id(worker)),
            Change::HandOff(to) => lease.hand_off(&id(to)),
            Change::Checkpoint(worker, at) => lease.checkpoint(&id(worker), checkpoint(at)),
            Change::Transfer(worker, at) => lease.transfer(&id(worker), checkpoint(at)),
            Change::Release(worker, at) => lease.release(&id(worker), checkpoint(at)),
            Change::End(worker) => lease.end(&id(worker), &BTreeSet::new()),
        };
        transition.ok().map(|transition| Self::of(&transition.after))
    }

    fn lease(self) -> Lease {
        let name = |worker: Id| (worker != 0).then(|| id(worker));
        let mut lease = Lease::new(ShardId::from("shard"), BTreeSet::new(), checkpoint(self.checkpoint));
        (lease.owner, lease.checkpoint_owner, lease.counter) = (name(self.owner), name(self.from), self.counter.into());
        lease
    }

    fn of(lease: &Lease) -> Self {
        let number = |worker: &Option<WorkerId>| worker.as_ref().map_or(0, |id| id.as_str().parse().expect("a number"));
        Self {
            owner: number(&lease.owner),
            from: number(&lease.checkpoint_owner),
            counter: u8::try_from(lease.counter).expect("few writes"),
            checkpoint: match &lease.checkpoint {
                Checkpoint::ShardEnd => END,
                Checkpoint::At(number) => number.as_str().parse().expect("a small number"),
                _ => 0,
            },
        }
    }
}

/// The lease table's view of the row that a write has met: the writer's own work, or a conflict.
pub fn is_own_work(before: Row, after: Row, found: Row) -> bool {
    thread_local!(static KNOWN: RefCell<HashMap<(Row, Row, Row), bool>> = RefCell::default());
    KNOWN.with_borrow_mut(|known| {
        *known.entry((before, after, found)).or_insert_with(|| {
            let transition = Transition { before: before.lease(), after: after.lease() };
            let found = found.lease();
            transition.is_done_in(&found) || Transition::met_hand_off(&transition.after, &found)
        })
    })
}

/// Whether the holder of a lease continues from a row that another has written.
pub fn is_adopted(worker: Id, known_row: Row, found: Row) -> bool {
    thread_local!(static KNOWN: RefCell<HashMap<(Row, Row), bool>> = RefCell::default());
    found.holder() == worker
        && KNOWN.with_borrow_mut(|known| {
            let met = || Transition::met_hand_off(&known_row.lease(), &found.lease());
            *known.entry((known_row, found)).or_insert_with(met)
        })
}

fn id(worker: Id) -> WorkerId {
    WorkerId::from(worker.to_string())
}

fn checkpoint(at: u8) -> Checkpoint {
    match at {
        0 => Checkpoint::TrimHorizon,
        END => Checkpoint::ShardEnd,
        at => Checkpoint::parse(&at.to_string()).expect("digits"),
    }
}
