//! What a leader knows of the leases and shards, and when it has to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::foreign_leases::ForeignLeases;
use crate::aws::stream;
use crate::coordination::discovery::Listing;
use crate::model::app_lag::AppLag;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::scaling::DesiredWorkers;
use crate::model::shard_graph::SETTLING;
use crate::telemetry::catalogue;

/// How many rows a second the leader's scans of the lease table read, on average.
const SCANNED_ROWS_A_SECOND: u32 = 250;
const SHORTEST_SCAN_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// How often the shards are listed when nothing calls for it.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// How often they are listed while a finished shard has no known child.
const URGENT_LISTING_INTERVAL: Duration = Duration::from_secs(2);
/// How often they are listed while a shard's end is young: the one who ended it may have seen only some of its children.
const CONFIRMING_LISTING_INTERVAL: Duration = Duration::from_secs(5);

/// What a leader knows of the leases and shards.
pub(super) struct LeaderState {
    /// The rows, as last read or written.
    pub(super) rows: BTreeMap<ShardId, Lease>,
    pub(super) scanned: Option<Instant>,
    pub(super) scan_interval: Duration,
    /// The leases whose owner isn't in the fleet table.
    pub(super) strangers: ForeignLeases,
    /// LagSince when leases are being handed over.
    pub(super) hand_offs: BTreeMap<ShardId, Instant>,
    /// Per worker, in how many scans its leases differed from what it knows.
    pub(super) wrong: BTreeMap<WorkerId, (u64, u32)>,
    /// Leases that cannot be read: they and their children are left alone.
    pub(super) bad: BTreeSet<ShardId>,
    /// A complete listing that was not yet acted upon.
    pub(super) listing: Option<Listing>,
    /// When the last listing came in, how long one takes without faults, and whether the stream was switched off.
    pub(super) listed: Option<Instant>,
    pub(super) listing_takes: Duration,
    pub(super) is_disabled: bool,
    pub(super) lister: JoinSet<Result<Listing, stream::Error>>,
    /// When the last listing began.
    listing_began: Option<Instant>,
    /// LagSince when leases are known to be finished.
    finished: BTreeMap<ShardId, Instant>,
    /// The shards of the last listing whose leases are made when the next one shows them as well.
    pub(super) newcomers: BTreeSet<ShardId>,
    /// What the application's lag is put together from.
    pub(super) group_lag: AppLag,
    /// When that was looked at last.
    pub(super) measured: Option<Instant>,
    /// How many workers are wanted, and when that was last asked; made with the first look.
    pub(super) desired: Option<(DesiredWorkers, Instant)>,
    pub(super) desired_workers: usize,
    /// Whether leases may be made and given away: not while a KCL worker may be alive.
    pub(super) is_clear: bool,
}

impl LeaderState {
    pub(super) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            scanned: None,
            scan_interval: SHORTEST_SCAN_INTERVAL,
            strangers: ForeignLeases::default(),
            hand_offs: BTreeMap::new(),
            wrong: BTreeMap::new(),
            bad: BTreeSet::new(),
            listing: None,
            listed: None,
            listing_takes: Duration::ZERO,
            is_disabled: false,
            lister: JoinSet::new(),
            listing_began: None,
            finished: BTreeMap::new(),
            newcomers: BTreeSet::new(),
            group_lag: AppLag::default(),
            measured: None,
            desired: None,
            desired_workers: 0,
            is_clear: true,
        }
    }

    /// Sets the pace of the scans by the size of the table.
    pub(super) fn set_scan_interval(&mut self) {
        let count = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.scan_interval = (Duration::from_secs(1) * count / SCANNED_ROWS_A_SECOND)
            .clamp(SHORTEST_SCAN_INTERVAL, LONGEST_SCAN_INTERVAL);
    }

    pub(super) fn should_list(&self, now: Instant) -> bool {
        let Some(listed) = self.listed else { return self.listing.is_none() };
        // A finished shard without a child, while the stream is on: its child has yet to appear.
        let lacks_child = |row: &Lease| row.is_finished() && row.children.is_empty();
        let interval = if self.is_disabled {
            LISTING_INTERVAL
        } else if !self.newcomers.is_empty() || self.rows.values().any(lacks_child) {
            URGENT_LISTING_INTERVAL
        } else if self.finished.keys().any(|key| !self.had_settled(key)) {
            CONFIRMING_LISTING_INTERVAL
        } else {
            LISTING_INTERVAL
        };
        now >= listed + interval.max(self.listing_takes * 2)
    }

    /// Notes that a listing begins.
    pub(super) fn begin_listing(&mut self) {
        self.listing_began = Some(Instant::now());
    }

    /// Notes which leases are finished.
    pub(super) fn note_finished(&mut self) {
        let rows = &self.rows;
        self.finished.retain(|key, _| rows.get(key).is_some_and(Lease::is_finished));
        for row in rows.values().filter(|row| row.is_finished()) {
            self.finished.entry(row.key.clone()).or_insert_with(Instant::now);
        }
    }

    /// Whether the last listing began so long after the lease's end that it shows all children of the shard.
    pub(super) fn had_settled(&self, key: &ShardId) -> bool {
        let ended = self.finished.get(key);
        ended.zip(self.listing_began).is_some_and(|(ended, began)| *ended + SETTLING <= began)
    }

    pub(super) fn note_hand_offs(&mut self) {
        let rows = &self.rows;
        let is_moving = |key: &ShardId| rows.get(key).is_some_and(|row| row.is_handed_over() && !row.is_finished());
        self.hand_offs.retain(|key, _| is_moving(key));
        for row in rows.values().filter(|row| row.is_handed_over() && !row.is_finished()) {
            self.hand_offs.entry(row.key.clone()).or_insert_with(Instant::now);
        }
    }

    pub(super) fn note_listing(&mut self, listing: Listing) {
        catalogue::DISCOVERY_SECONDS.record([], listing.took.as_secs_f64());
        self.listing_takes = listing.takes;
        self.is_disabled = listing.is_disabled;
        self.listed = Some(Instant::now());
        self.listing = Some(listing);
        self.scanned = None; // acted upon with rows that are younger than the listing
    }
}
