//! Assignment: which worker should read which shard. The problem, the wanted properties and the phases are in
//! README.md beside this file.

use std::collections::BTreeMap;

use super::lease::{ShardId, WorkerId};

/// A lease that somebody should hold: unfinished, and none of its parents holds it up.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseToPlace {
    /// The lease.
    pub key: ShardId,
    /// The live worker that owns it; while it is handed over, the new one.
    pub owner: Option<WorkerId>,
    /// Whether it is being handed over, and so must be left alone.
    pub moving: bool,
}

/// A live worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The worker.
    pub id: WorkerId,
    /// Whether it wants to give up all its leases.
    pub leaving: bool,
    /// The most leases that it will hold.
    pub max_leases: Option<usize>,
}

/// One step towards the wanted assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Give an unowned lease to a worker.
    Assign {
        /// The lease.
        lease: ShardId,
        /// Its owner from now on.
        to: WorkerId,
    },
    /// Ask a lease's owner to hand it over.
    HandOff {
        /// The lease.
        lease: ShardId,
        /// Its owner.
        from: WorkerId,
        /// Its owner to be.
        to: WorkerId,
    },
}

/// The moves that lead to an even assignment, the most urgent first: unowned leases, then those of workers that
/// leave, then what evens out the rest. At most `hand_offs_at_once` leases are on the move at any time.
pub fn plan(leases: &[LeaseToPlace], members: &[Member], hand_offs_at_once: usize) -> Vec<Move> {
    let mut plan = Plan::new(leases, members);
    plan.place_unowned();
    let moving = leases.iter().filter(|lease| lease.moving).count();
    plan.empty_leaving(hand_offs_at_once.saturating_sub(moving));
    plan.even_out(hand_offs_at_once.saturating_sub(moving));
    plan.moves
}

/// The plan as it grows. Workers and leases are their indices in the input.
struct Plan<'a> {
    leases: &'a [LeaseToPlace],
    members: &'a [Member],
    /// Per worker, the leases that it could hand over, by key.
    held: Vec<Vec<usize>>,
    /// Per worker, how many leases it holds or is about to.
    count: Vec<usize>,
    /// Per worker, how many leases it should hold.
    target: Vec<usize>,
    unowned: Vec<usize>,
    moves: Vec<Move>,
    hand_offs: usize,
}

impl<'a> Plan<'a> {
    fn new(leases: &'a [LeaseToPlace], members: &'a [Member]) -> Self {
        let index: BTreeMap<_, _> = members.iter().enumerate().map(|(index, member)| (&member.id, index)).collect();
        let mut held = vec![Vec::new(); members.len()];
        let mut count = vec![0; members.len()];
        let mut unowned = Vec::new();
        for (number, lease) in leases.iter().enumerate() {
            match lease.owner.as_ref().and_then(|owner| index.get(owner)) {
                Some(&owner) => {
                    count[owner] += 1;
                    if !lease.moving {
                        held[owner].push(number);
                    }
                }
                // A lease on its way to a worker that died is placed again once it has arrived there.
                None if lease.moving => {}
                None => unowned.push(number),
            }
        }
        let target = targets(members, &count, count.iter().sum::<usize>() + unowned.len());
        Self { leases, members, held, count, target, unowned, moves: Vec::new(), hand_offs: 0 }
    }

    fn place_unowned(&mut self) {
        for lease in std::mem::take(&mut self.unowned) {
            let Some(to) = self.neediest() else { return };
            self.count[to] += 1;
            let (lease, to) = (self.leases[lease].key.clone(), self.members[to].id.clone());
            self.moves.push(Move::Assign { lease, to });
        }
    }

    fn empty_leaving(&mut self, limit: usize) {
        let leaving: Vec<_> = (0..self.members.len()).filter(|worker| self.members[*worker].leaving).collect();
        for from in leaving {
            while self.hand_offs < limit && self.hand_over_one(from) {}
        }
    }

    fn even_out(&mut self, limit: usize) {
        let mut fullest: Vec<_> = (0..self.members.len()).filter(|worker| self.excess(*worker) > 0).collect();
        fullest.sort_by_key(|worker| std::cmp::Reverse(self.excess(*worker)));
        for from in fullest {
            while self.hand_offs < limit && self.excess(from) > 0 && self.hand_over_one(from) {}
        }
    }

    /// Moves one lease from `from` to the worker that needs one most; says whether there was such a pair.
    fn hand_over_one(&mut self, from: usize) -> bool {
        let Some(to) = self.neediest() else { return false };
        let Some(lease) = self.held[from].pop() else { return false };
        self.count[from] -= 1;
        self.count[to] += 1;
        self.hand_offs += 1;
        self.moves.push(Move::HandOff {
            lease: self.leases[lease].key.clone(),
            from: self.members[from].id.clone(),
            to: self.members[to].id.clone(),
        });
        true
    }

    fn excess(&self, worker: usize) -> usize {
        self.count[worker].saturating_sub(self.target[worker])
    }

    /// The worker that is furthest below its target, the first of equals; nobody when all have theirs.
    fn neediest(&self) -> Option<usize> {
        (0..self.members.len())
            .map(|worker| (self.target[worker].saturating_sub(self.count[worker]), std::cmp::Reverse(worker)))
            .filter(|(need, _)| *need > 0)
            .max()
            .map(|(_, worker)| worker.0)
    }
}

/// How many leases each worker should hold: even, whole, within the workers' limits, and so that those who hold most
/// today keep the odd ones, which makes for the fewest moves.
fn targets(members: &[Member], count: &[usize], total: usize) -> Vec<usize> {
    let limit = |worker: usize| match &members[worker] {
        Member { leaving: true, .. } => 0,
        member => member.max_leases.unwrap_or(usize::MAX),
    };
    let mut target = vec![0; members.len()];
    let mut open: Vec<_> = (0..members.len()).filter(|worker| limit(*worker) > 0).collect();
    let mut left = total;
    // Workers whose limit lies below the even share are filled to it; the others share the rest.
    loop {
        let share = if open.is_empty() { return target } else { left / open.len() };
        let (full, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|worker| limit(*worker) <= share);
        open = rest;
        if full.is_empty() {
            break;
        }
        for worker in full {
            target[worker] = limit(worker);
            left -= limit(worker);
        }
    }
    open.sort_by_key(|worker| (std::cmp::Reverse(count[*worker]), *worker));
    let (share, odd) = (left / open.len(), left % open.len());
    for (rank, worker) in open.into_iter().enumerate() {
        target[worker] = share + usize::from(rank < odd);
    }
    target
}

#[cfg(test)]
mod tests;
