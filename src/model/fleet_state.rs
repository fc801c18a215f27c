//! The states of a worker and of a shard, as metrics and the status report name them.

use std::time::Duration;

use serde::Serialize;

use super::lease::{Lease, WorkerId};
use super::worker_record::ObservedWorker;

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    Active,
    /// Asked to stop, and releasing its leases.
    Leaving,
    /// A heartbeat is overdue: it may be slow, paused or dead.
    Silent,
    /// No heartbeat for a lease duration: its leases are others' to take.
    Dead,
}

/// The state of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ShardState {
    Reading,
    BlockedOnParent,
    /// On its way from one worker to another: the first reads on until it has delivered what it holds.
    HandingOver,
    Unowned,
    /// Its owner shows no sign of life.
    OwnerSilent,
    /// Listed, without a lease yet.
    NoLease,
    /// Its lease cannot be read.
    BrokenRow,
    /// Everything in it is delivered.
    Finished,
}

impl WorkerState {
    /// The state of a worker in a fleet with this lease duration.
    pub fn of(seen: &ObservedWorker, lease_duration: Duration) -> Self {
        if !seen.is_alive {
            Self::Dead
        } else if seen.is_overdue(lease_duration) {
            Self::Silent
        } else if seen.member.record.leaving {
            Self::Leaving
        } else {
            Self::Active
        }
    }

    /// Whether it shows signs of life.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Active | Self::Leaving)
    }

    /// The state as programs see it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Silent => "silent",
            Self::Dead => "dead",
        }
    }
}

impl ShardState {
    pub const ALL: [Self; 8] = [
        Self::Reading,
        Self::BlockedOnParent,
        Self::HandingOver,
        Self::Unowned,
        Self::OwnerSilent,
        Self::NoLease,
        Self::BrokenRow,
        Self::Finished,
    ];

    /// The state of a shard with a readable lease, by whether it waits for a parent and whether its reader is alive.
    pub fn of(row: &Lease, is_blocked: bool, is_alive: impl FnOnce(&WorkerId) -> bool) -> Self {
        match row.holder() {
            _ if row.is_finished() => Self::Finished,
            _ if is_blocked => Self::BlockedOnParent,
            None => Self::Unowned,
            Some(holder) if !is_alive(holder) => Self::OwnerSilent,
            Some(_) if row.is_handed_over() => Self::HandingOver,
            Some(_) => Self::Reading,
        }
    }

    /// The state as programs see it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::BlockedOnParent => "blocked_on_parent",
            Self::HandingOver => "handing_over",
            Self::Unowned => "unowned",
            Self::OwnerSilent => "owner_silent",
            Self::NoLease => "no_lease",
            Self::BrokenRow => "broken_row",
            Self::Finished => "finished",
        }
    }

    /// The state in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::BlockedOnParent => "blocked on parent",
            Self::HandingOver => "handing over",
            Self::Unowned => "unowned",
            Self::OwnerSilent => "owner silent",
            Self::NoLease => "no lease",
            Self::BrokenRow => "broken row",
            Self::Finished => "finished",
        }
    }
}
