//! The share of time that this worker's shards wait for their processors, sampled each second.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::consumer::ConsumerStatus;
use crate::model::lease::ShardId;
use crate::model::overload::Overload;

const INTERVAL: Duration = Duration::from_secs(1);

/// Tells from the last samples whether the worker is overloaded.
pub(super) struct OverloadMonitor {
    origin: Instant,
    sampled: Instant,
    /// Each shard's total wait by then.
    waited: BTreeMap<ShardId, Duration>,
    overload: Overload,
}

impl OverloadMonitor {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { origin: now, sampled: now, waited: BTreeMap::new(), overload: Overload::default() }
    }

    /// Samples the shards, if that is due, and returns whether the worker is overloaded. A shard counts from its second
    /// sample.
    pub(super) fn sample<'a>(&mut self, shards: impl Iterator<Item = (&'a ShardId, &'a ConsumerStatus)>) -> bool {
        let since = self.sampled.elapsed();
        if since < INTERVAL {
            return self.overload.is_overloaded();
        }
        self.sampled = Instant::now();
        let mut shares = Vec::new();
        let mut waited = BTreeMap::new();
        for (key, status) in shards.filter(|(_, status)| !status.is_blocked_on_parent()) {
            let total = status.waited();
            if let Some(before) = self.waited.get(key) {
                shares.push(total.saturating_sub(*before).as_secs_f64() / since.as_secs_f64());
            }
            waited.insert(key.clone(), total);
        }
        self.waited = waited;
        let was_overloaded = self.overload.is_overloaded();
        let is_overloaded = self.overload.note(self.origin.elapsed(), shares);
        if is_overloaded != was_overloaded {
            tracing::info!(is_overloaded, "overload of the processors has changed");
        }
        is_overloaded
    }
}
