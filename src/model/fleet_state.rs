//! The states of a worker and of a shard, as metrics and the status report name them.

use std::time::Duration;

use serde::Serialize;

use super::lease::{Lease, WorkerId};
use super::worker_record::{ObservedWorker, overdue_after};

/// How a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    /// At work.
    Active,
    /// Asked to stop, and giving its leases up.
    Leaving,
    /// A heartbeat is overdue: it may be slow, paused or dead.
    Silent,
    /// No heartbeat for a lease duration: its leases are others' to take.
    Dead,
}

/// How a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ShardState {
    /// Its owner reads it.
    Reading,
    /// It waits for the end of its parent.
    BlockedOnParent,
    /// It goes from one worker to another; the first reads on until it has delivered what it holds.
    HandingOver,
    /// Nobody owns its lease.
    Unowned,
    /// Its owner shows no sign of life.
    OwnerSilent,
    /// It is listed and has no lease yet.
    NoLease,
    /// Its lease cannot be read.
    BrokenRow,
    /// Everything in it is delivered.
    Finished,
}

impl WorkerState {
    /// How it is, for a fleet with this lease duration: overdue is a heartbeat that is half an interval late.
    pub fn of(seen: &ObservedWorker, lease_duration: Duration) -> Self {
        if !seen.is_alive {
            Self::Dead
        } else if seen.still_for >= overdue_after(lease_duration) {
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

    /// The state in a word.
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
    /// All of them.
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

    /// Of a shard whose lease can be read, by whether it waits for a parent and whether its reader shows signs of life.
    pub fn of(row: &Lease, is_blocked: bool, lives: impl FnOnce(&WorkerId) -> bool) -> Self {
        match row.holder() {
            _ if row.is_finished() => Self::Finished,
            _ if is_blocked => Self::BlockedOnParent,
            None => Self::Unowned,
            Some(holder) if !lives(holder) => Self::OwnerSilent,
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
