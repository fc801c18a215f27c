//! Assignment: which worker should read which shard. The problem, the wanted properties and the phases are in
//! README.md beside this file.

mod weights;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use self::weights::{AVERAGE, weights};
use super::lease::{ShardId, WorkerId};

/// A difference between two workers below this part of the fair load is no reason to move a lease for its weight.
const LEAST_DIFFERENCE: f64 = 0.1;
/// The part of the fair load that a worker must be able to give away in all before it gives any.
const LEAST_GIFT: f64 = 0.05;

/// A worker that leaves hands over so many times more leases at once.
const LEAVING_FACTOR: usize = 8;

/// A lease that somebody should hold: unfinished, and none of its parents holds it up.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseToPlace {
    /// The lease.
    pub key: ShardId,
    /// The live worker that owns it; while it is handed over, the new one.
    pub owner: Option<WorkerId>,
    /// The worker that is handing it over, if one is: it must be left alone.
    pub moving: Option<WorkerId>,
    /// Whether an operator gave its owner a lease lately, so that it stays until the owner leaves.
    pub placed: bool,
    /// The throughput of its shard in KiB/s, if known.
    pub weight: Option<f64>,
    /// Workers that must not get it, because their processor hangs on it.
    pub avoid: Vec<WorkerId>,
}

/// A live worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The worker.
    pub id: WorkerId,
    /// Whether it is releasing all its leases.
    pub leaving: bool,
    /// Whether it has more to do than it can, and should get nothing new.
    pub overloaded: bool,
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
/// leave, then what is above a worker's limit, then what evens out the rest. At most `hand_offs_at_once` leases of each
/// worker are on the move at any time, so that one whose calls hang holds up no other; of one that leaves, more.
pub fn plan(leases: &[LeaseToPlace], members: &[Member], hand_offs_at_once: usize) -> Vec<Move> {
    let mut plan = Plan::new(leases, members, hand_offs_at_once);
    plan.place_unowned();
    plan.empty_leaving();
    plan.respect_limits();
    plan.even_out();
    plan.into_moves()
}

/// The plan as it grows. Workers and leases are their indices in the input.
struct Plan<'a> {
    leases: &'a [LeaseToPlace],
    members: &'a [Member],
    weight: Vec<u64>,
    workers: Vec<Worker>,
    /// The workers by load.
    by_load: BTreeSet<(u64, usize)>,
    /// Per lease, who owns it at the start and by this plan.
    origin: Vec<Option<usize>>,
    owner: Vec<Option<usize>>,
    unowned: Vec<usize>,
    /// The leases that change owner, in the order of urgency.
    touched: Vec<usize>,
    is_touched: Vec<bool>,
    /// Per worker, the hand-offs that it may still begin.
    hand_offs_left: Vec<usize>,
    /// The load of each worker that stays, were all the same.
    fair: f64,
}

/// A worker as the plan leaves it.
#[derive(Default)]
struct Worker {
    /// The leases that it could hand over, by weight.
    held: BTreeSet<(u64, usize)>,
    /// The leases that it holds or is about to hold: their number and total weight.
    count: usize,
    load: u64,
}

impl<'a> Plan<'a> {
    fn new(leases: &'a [LeaseToPlace], members: &'a [Member], hand_offs_at_once: usize) -> Self {
        let index: BTreeMap<_, _> = members.iter().enumerate().map(|(index, member)| (&member.id, index)).collect();
        let weight = weights(leases);
        let mut workers: Vec<Worker> = members.iter().map(|_| Worker::default()).collect();
        let mut origin = Vec::with_capacity(leases.len());
        let mut unowned = Vec::new();
        for (number, lease) in leases.iter().enumerate() {
            let owner = lease.owner.as_ref().and_then(|owner| index.get(owner)).copied();
            origin.push(owner);
            // A worker that hangs on a lease is busy with it, even if another owns it by now: it gets no other in its place.
            for hanging in lease.avoid.iter().filter_map(|id| index.get(id)).filter(|index| Some(**index) != owner) {
                workers[*hanging].count += 1;
                workers[*hanging].load += weight[number];
            }
            match owner {
                Some(owner) => {
                    workers[owner].count += 1;
                    workers[owner].load += weight[number];
                    if lease.moving.is_none() && (!lease.placed || members[owner].leaving) {
                        workers[owner].held.insert((weight[number], number));
                    }
                }
                // A lease on its way to a worker that died is placed again once it has arrived there.
                None if lease.moving.is_some() => {}
                None => unowned.push(number),
            }
        }
        let staying = members.iter().filter(|member| !member.leaving).count();
        let mut hand_offs_left: Vec<usize> = members
            .iter()
            .map(|member| hand_offs_at_once.saturating_mul(if member.leaving { LEAVING_FACTOR } else { 1 }))
            .collect();
        for from in leases.iter().filter_map(|lease| index.get(lease.moving.as_ref()?)) {
            hand_offs_left[*from] = hand_offs_left[*from].saturating_sub(1);
        }
        Self {
            fair: float(weight.iter().sum()) / float(staying.max(1) as u64),
            by_load: workers.iter().enumerate().map(|(index, worker)| (worker.load, index)).collect(),
            is_touched: vec![false; leases.len()],
            owner: origin.clone(),
            hand_offs_left,
            touched: Vec::new(),
            leases,
            members,
            weight,
            workers,
            origin,
            unowned,
        }
    }

    // The phases.

    /// The heaviest first, so that the light ones even out what those leave uneven.
    fn place_unowned(&mut self) {
        let mut unowned = std::mem::take(&mut self.unowned);
        unowned.sort_by_key(|lease| (Reverse(self.weight[*lease]), *lease));
        for lease in unowned {
            if let Some(to) = self.taker_for(lease) {
                self.give(lease, to);
            }
        }
    }

    fn empty_leaving(&mut self) {
        for from in (0..self.members.len()).filter(|worker| self.members[*worker].leaving) {
            let held: Vec<usize> = self.workers[from].held.iter().rev().map(|(_, lease)| *lease).collect();
            for lease in held {
                let Some(to) = self.taker_for(lease) else { continue };
                if !self.hand_over(lease, to) {
                    break;
                }
            }
        }
    }

    fn respect_limits(&mut self) {
        for from in 0..self.members.len() {
            while !self.members[from].leaving && self.workers[from].count > self.limit(from) {
                let Some(to) = self.least_loaded(|plan, worker| worker != from && plan.is_free(worker)) else { break };
                let half = self.workers[from].load.saturating_sub(self.workers[to].load) / 2;
                let Some(lease) = self.nearest(from, to, half, u64::MAX) else { break };
                if !self.hand_over(lease, to) {
                    break;
                }
            }
        }
    }

    /// From the most loaded to the least loaded, one lease at a time, while that gains enough. Each step brings two
    /// loads closer together, so the steps end, and what can be done by then can be done by the next plan neither.
    fn even_out(&mut self) {
        while let Some((lease, to)) = self.next_step() {
            if !self.hand_over(lease, to) {
                return;
            }
        }
    }

    fn into_moves(self) -> Vec<Move> {
        let id = |worker: usize| self.members[worker].id.clone();
        let changed = self.touched.iter().filter_map(|&lease| {
            let to = self.owner[lease].filter(|_| self.owner[lease] != self.origin[lease])?;
            let key = self.leases[lease].key.clone();
            Some(match self.origin[lease] {
                Some(from) => Move::HandOff { lease: key, from: id(from), to: id(to) },
                None => Move::Assign { lease: key, to: id(to) },
            })
        });
        changed.collect()
    }

    // Differences that are worth a move.

    fn next_step(&self) -> Option<(usize, usize)> {
        let to = self.least_loaded(Self::is_free)?;
        let lowest = self.workers[to].load;
        let givers = self.by_load.iter().rev().take_while(|(load, _)| *load > lowest);
        let mut givers = givers.map(|(_, from)| *from).filter(|from| self.hand_offs_left[*from] > 0);
        givers.find_map(|from| Some((self.worth_moving(from, to)?, to)))
    }

    fn worth_moving(&self, from: usize, to: usize) -> Option<usize> {
        let (giver, taker) = (&self.workers[from], &self.workers[to]);
        let difference = giver.load - taker.load;
        let for_count = (giver.count > taker.count + 1).then(|| self.for_count(from, to, difference));
        for_count.flatten().or_else(|| {
            // Not much heavier than half of the difference: otherwise the two would about change places, and back.
            let heaviest = difference * 2 / 3;
            let is_uneven = float(difference) >= self.fair * LEAST_DIFFERENCE;
            let is_worth_it = is_uneven && self.can_give(from, heaviest, self.fair * LEAST_GIFT);
            self.nearest(from, to, difference / 2, heaviest).filter(|_| is_worth_it)
        })
    }

    /// A lease by which the giver, who has the more leases, and the taker come closer by half an average lease.
    fn for_count(&self, from: usize, to: usize, difference: u64) -> Option<usize> {
        let lease = self.nearest(from, to, difference / 2, difference)?;
        let gain = self.weight[lease].min(difference - self.weight[lease]);
        (gain * 2 >= AVERAGE).then_some(lease)
    }

    /// Whether a worker's leases up to `heaviest` weigh at least `least` together.
    fn can_give(&self, from: usize, heaviest: u64, least: f64) -> bool {
        let mut sum = 0;
        let fitting = self.workers[from].held.range(..=(heaviest, usize::MAX)).rev();
        fitting.map(|(weight, _)| *weight).any(|weight| {
            sum += weight;
            float(sum) >= least
        })
    }

    /// The lease of `from` that `to` may have and that weighs about as much as is wanted, and not above `heaviest`.
    fn nearest(&self, from: usize, to: usize, wanted: u64, heaviest: u64) -> Option<usize> {
        let held = &self.workers[from].held;
        let middle = (wanted.min(heaviest), usize::MAX);
        let may = |entry: &&(u64, usize)| !self.avoids(entry.1, to);
        let below = held.range(..=middle).rev().find(may);
        let above = held.range(middle..=(heaviest, usize::MAX)).find(may);
        let off = |entry: &&(u64, usize)| entry.0.abs_diff(wanted);
        below.into_iter().chain(above).min_by_key(off).map(|(_, lease)| *lease)
    }

    // Takers.

    /// The worker for a lease that has to go somewhere. An overloaded one gets it when no other can: a slow reader is
    /// better than none.
    fn taker_for(&self, lease: usize) -> Option<usize> {
        self.least_loaded(|plan, worker| plan.is_free(worker) && !plan.avoids(lease, worker))
            .or_else(|| self.least_loaded(|plan, worker| plan.has_room(worker) && !plan.avoids(lease, worker)))
    }

    /// The least loaded of those who may, the first of equals.
    fn least_loaded(&self, may: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        self.by_load.iter().map(|(_, worker)| *worker).find(|worker| may(self, *worker))
    }

    fn is_free(&self, worker: usize) -> bool {
        !self.members[worker].overloaded && self.has_room(worker)
    }

    fn has_room(&self, worker: usize) -> bool {
        !self.members[worker].leaving && self.workers[worker].count < self.limit(worker)
    }

    fn limit(&self, worker: usize) -> usize {
        self.members[worker].max_leases.unwrap_or(usize::MAX)
    }

    fn avoids(&self, lease: usize, worker: usize) -> bool {
        self.leases[lease].avoid.contains(&self.members[worker].id)
    }

    // Moving.

    /// Moves an owned lease, unless enough of its owner's are on the move already.
    fn hand_over(&mut self, lease: usize, to: usize) -> bool {
        if let Some(from) = self.origin[lease].filter(|_| !self.is_touched[lease]) {
            if self.hand_offs_left[from] == 0 {
                return false;
            }
            self.hand_offs_left[from] -= 1;
        }
        self.give(lease, to);
        true
    }

    fn give(&mut self, lease: usize, to: usize) {
        let weight = self.weight[lease];
        if let Some(from) = self.owner[lease].replace(to) {
            self.by_load.remove(&(self.workers[from].load, from));
            let giver = &mut self.workers[from];
            giver.held.remove(&(weight, lease));
            giver.count -= 1;
            giver.load -= weight;
            self.by_load.insert((giver.load, from));
        }
        self.by_load.remove(&(self.workers[to].load, to));
        let taker = &mut self.workers[to];
        taker.held.insert((weight, lease));
        taker.count += 1;
        taker.load += weight;
        self.by_load.insert((taker.load, to));
        if !std::mem::replace(&mut self.is_touched[lease], true) {
            self.touched.push(lease);
        }
    }
}

fn float(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "only shares of it are compared")]
    let number = number as f64;
    number
}

#[cfg(test)]
mod tests;
