//! A leader's knowledge of the leases and shards, and the pace at which it renews it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::election::Election;
use super::foreign_leases::ForeignLeases;
use super::kcl_signs::KclSigns;
use crate::aws::lease_table::KclSign;
use crate::aws::stream;
use crate::coordination::Error;
use crate::model::app_lag::AppLag;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::scaling::DesiredWorkers;
use crate::model::shard_directory::Listing;
use crate::model::shard_graph::{SETTLING, ShardGraph};
use crate::telemetry::catalogue;

/// Rows a second that the leader's scans of the lease table read, on average.
const SCANNED_ROWS_A_SECOND: u32 = 250;
const SHORTEST_SCAN_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// The interval of listings when nothing calls for one.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// The interval while a finished shard has no known child, though its end is young.
const URGENT_LISTING_INTERVAL: Duration = Duration::from_secs(2);
/// The interval while a shard's end is young: the worker that ended it may have seen only some of its children.
const CONFIRMING_LISTING_INTERVAL: Duration = Duration::from_secs(5);

/// A leader's knowledge of the leases and shards. A new one begins with each term.
pub(super) struct LeaderState {
    /// Lease rows, as last read or written.
    pub(super) rows: BTreeMap<ShardId, Lease>,
    pub(super) scanned: Option<Instant>,
    pub(super) scan_interval: Duration,
    pub(super) foreign: ForeignLeases,
    pub(super) kcl_signs: KclSigns,
    /// When each hand-off under way was first seen.
    pub(super) hand_offs: BTreeMap<ShardId, Instant>,
    /// The leases that an operator gave to a worker, each with the moment at which this leader first saw that.
    pub(super) placed: BTreeMap<(WorkerId, ShardId), Instant>,
    /// The number of scans in a row at which each worker was at odds with the rows.
    pub(super) wrong: BTreeMap<WorkerId, u32>,
    /// Rows that cannot be read: they and their children are left alone.
    pub(super) bad: BTreeSet<ShardId>,
    /// A complete listing that was not yet acted upon.
    pub(super) listing: Option<Arc<Listing>>,
    /// The last one that was.
    pub(super) last_listing: Option<Arc<Listing>>,
    /// The shards of the application's first listing, as far as it has come in: many of them get their leases at once.
    /// Only on a lease table without rows: otherwise a shard without a lease may have been read, and its lease cleaned up.
    pub(super) first_pages: Option<ShardGraph>,
    /// When the last complete listing came in; before the first, when this worker began to lead.
    pub(super) listed: Instant,
    /// When the last listing was refused or acted upon; nothing when the next one is due.
    pub(super) rests_since: Option<Instant>,
    /// The duration of a listing at the pace that the options allow.
    least_listing_time: Duration,
    /// The arrival of the first listing that showed the stream switched off.
    pub(super) disabled_since: Option<Duration>,
    /// The listing under way, if any.
    pub(super) lister: JoinSet<Result<Arc<Listing>, stream::Error>>,
    /// The beginning of the last listing, by the directory's time.
    listing_began: Option<Duration>,
    /// When each finished lease was first seen to be finished, by the directory's time.
    finished: BTreeMap<ShardId, Duration>,
    /// Whether shards of this leader's first listing get their leases when the second one shows them as well.
    pub(super) holds_back: bool,
    pub(super) app_lag: AppLag,
    /// When the application's metrics were last worked out.
    pub(super) measured: Option<Instant>,
    /// The policy for the number of workers, with the moment at which it was last asked; made at the first.
    pub(super) scaling: Option<(DesiredWorkers, Instant)>,
    /// The policy's last answer.
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
            foreign: ForeignLeases::default(),
            kcl_signs: KclSigns::default(),
            hand_offs: BTreeMap::new(),
            placed: BTreeMap::new(),
            wrong: BTreeMap::new(),
            bad: BTreeSet::new(),
            listing: None,
            last_listing: None,
            first_pages: None,
            listed: Instant::now(),
            rests_since: None,
            least_listing_time: Duration::ZERO,
            disabled_since: None,
            lister: JoinSet::new(),
            listing_began: None,
            finished: BTreeMap::new(),
            holds_back: false,
            app_lag: AppLag::default(),
            measured: None,
            scaling: None,
            desired_workers: 0,
            is_clear: true,
        }
    }

    pub(super) async fn scan(&mut self, election: &Election) -> Result<(), Error> {
        let sent = election.observer.elapsed();
        let (rows, kcl_signs) = election.deps.leases.scan_with_signs().await?;
        let arrived = election.observer.elapsed();
        self.bad = rows.iter().filter_map(|row| row.as_ref().err()).map(|bad| bad.key.clone()).collect();
        let rows = rows.into_iter().flatten().map(|row| (row.key.clone(), row)).collect();
        let before = std::mem::replace(&mut self.rows, rows);
        self.set_scan_interval();
        self.note_finished(election.deps.directory.elapsed());
        self.scanned = Some(Instant::now());
        let lease_duration = election.longest_lease_duration();
        let mut foreign = BTreeSet::new();
        for row in self.rows.values().filter(|row| !row.is_finished()) {
            if row.holder().is_some_and(|holder| election.is_foreign(holder)) {
                let ours = before.get(&row.key).filter(|before| {
                    let owner = before.owner.as_ref().filter(|_| before.owner != row.owner);
                    owner.is_some_and(|owner| !election.is_foreign(owner))
                });
                self.foreign.observe(row, ours, (sent, arrived), lease_duration);
                foreign.insert(row.key.clone());
            }
        }
        let rows = &self.rows;
        self.foreign.retain(&foreign, |key| rows.contains_key(key), |owner| !election.is_foreign(owner));
        self.note_kcl_signs(election, kcl_signs).await;
        self.resend_hints(election).await;
        Ok(())
    }

    /// Reads again the leases that are being handed over: once they have arrived, others may go.
    pub(super) async fn refresh_hand_offs(&mut self, election: &Election) -> Result<(), Error> {
        let moving: BTreeSet<ShardId> = self.hand_offs.keys().cloned().collect();
        if moving.is_empty() {
            return Ok(());
        }
        for row in election.deps.leases.read_many(&moving).await?.into_iter().flatten() {
            self.rows.insert(row.key.clone(), row);
        }
        Ok(())
    }

    /// Holds everything back while an owner outside the fleet may be alive. When it is, the fleet leaves.
    pub(super) async fn check_foreign_leases(&mut self, election: &mut Election) -> Result<(), Error> {
        if election.kcl_alive().is_some() {
            self.is_clear = false;
            return Ok(());
        }
        let by_leases = self.foreign.living().map(|(owner, lease)| (owner.clone(), lease.clone()));
        let by_signs = || Some((self.kcl_signs.living()?, self.foreign.held().next()?.clone()));
        if let Some((owner, lease)) = by_leases.or_else(by_signs) {
            self.is_clear = false;
            return election.publish_kcl_alive(owner, lease).await;
        }
        let limit = election.foreign_lease_duration();
        let is_clear = self.foreign.are_still(limit)
            && (self.foreign.held().next().is_none() || self.kcl_signs.are_still(election.deps.options.clock.now_ms()));
        if !is_clear && self.is_clear {
            tracing::info!(
                leases = self.foreign.held().count(),
                wait_s = limit.as_secs(),
                "leases name owners that are not in the fleet table; waiting to learn whether they are alive"
            );
        }
        self.is_clear = is_clear;
        Ok(())
    }

    /// Notes the signs of life that KCL's workers and leader write apart from the leases, while leases have foreign
    /// holders. `signs`: those in the lease table.
    async fn note_kcl_signs(&mut self, election: &Election, mut signs: Vec<KclSign>) {
        if self.foreign.held().next().is_none() {
            return;
        }
        if self.kcl_signs.begin_read() {
            match election.deps.leases.kcl_signs().await {
                Ok(own_tables) => signs.extend(own_tables),
                Err(error) => {
                    tracing::warn!(%error, "KCL's own tables cannot be read; its workers are known by their leases alone");
                }
            }
        }
        self.kcl_signs.observe(signs);
    }

    /// Paces the scans by the size of the table.
    fn set_scan_interval(&mut self) {
        let count = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.scan_interval = (Duration::from_secs(1) * count / SCANNED_ROWS_A_SECOND)
            .clamp(SHORTEST_SCAN_INTERVAL, LONGEST_SCAN_INTERVAL);
    }

    pub(super) fn should_list(&self, now: Instant) -> bool {
        let Some(rests_since) = self.rests_since else { return self.listing.is_none() };
        let is_young = |key: &ShardId| !self.had_settled(key);
        let lacks_child = |key: &ShardId| self.rows.get(key).is_some_and(|row| row.children.is_empty());
        let is_on = self.disabled_since.is_none();
        let lacks_some = is_on && self.finished.keys().any(|key| is_young(key) && lacks_child(key));
        let interval = if self.holds_back || lacks_some {
            URGENT_LISTING_INTERVAL
        } else if self.finished.keys().any(is_young) || self.disabled_since.is_some_and(|since| !self.is_settled(since))
        {
            CONFIRMING_LISTING_INTERVAL
        } else {
            LISTING_INTERVAL
        };
        now >= rests_since + interval.max(self.least_listing_time * 2)
    }

    fn note_finished(&mut self, now: Duration) {
        let rows = &self.rows;
        self.finished.retain(|key, _| rows.get(key).is_some_and(Lease::is_finished));
        for row in rows.values().filter(|row| row.is_finished()) {
            self.finished.entry(row.key.clone()).or_insert(now);
        }
    }

    /// Whether the last listing began so long after the lease's end that it shows all children of the shard.
    pub(super) fn had_settled(&self, key: &ShardId) -> bool {
        self.finished.get(key).is_some_and(|ended| self.is_settled(*ended))
    }

    /// Whether the lease was finished when the last listing began.
    pub(super) fn is_end_listed(&self, key: &ShardId) -> bool {
        self.finished.get(key).is_some_and(|ended| self.listing_began.is_some_and(|began| *ended <= began))
    }

    /// Whether the last listing shows what came to be at `since`.
    pub(super) fn is_settled(&self, since: Duration) -> bool {
        self.listing_began.is_some_and(|began| since + SETTLING <= began)
    }

    pub(super) fn note_hand_offs(&mut self) {
        let rows = &self.rows;
        let is_moving = |key: &ShardId| rows.get(key).is_some_and(|row| row.is_handed_over() && !row.is_finished());
        self.hand_offs.retain(|key, _| is_moving(key));
        for row in rows.values().filter(|row| row.is_handed_over() && !row.is_finished()) {
            self.hand_offs.entry(row.key.clone()).or_insert_with(Instant::now);
        }
    }

    pub(super) fn note_listing(&mut self, listing: Arc<Listing>, rate: u32) {
        catalogue::DISCOVERY_SECONDS.record([], (listing.arrived - listing.began).as_secs_f64());
        self.least_listing_time =
            Duration::from_secs(1) * u32::try_from(listing.pages).unwrap_or(u32::MAX) / rate.max(1);
        self.disabled_since = listing.is_disabled.then(|| self.disabled_since.unwrap_or(listing.arrived));
        self.listing_began = Some(listing.began);
        self.listed = Instant::now();
        self.listing = Some(listing);
        self.scanned = None; // acted upon with rows that are younger than the listing
    }
}
