//! How much of the time this worker's shards wait for their processors, looked at each second.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::consumer::ConsumerStatus;
use crate::model::lease::ShardId;
use crate::model::overload::Overload;

const INTERVAL: Duration = Duration::from_secs(1);

/// What the last look showed.
pub(super) struct Pressure {
    origin: Instant,
    looked: Instant,
    /// How long each shard had waited in all by then.
    waited: BTreeMap<ShardId, Duration>,
    overload: Overload,
}

impl Pressure {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { origin: now, looked: now, waited: BTreeMap::new(), overload: Overload::default() }
    }

    /// Looks at the shards that are read, when it is time, and says whether the worker is overloaded. A shard counts
    /// from the second look on.
    pub(super) fn look<'a>(&mut self, shards: impl Iterator<Item = (&'a ShardId, &'a ConsumerStatus)>) -> bool {
        let since = self.looked.elapsed();
        if since < INTERVAL {
            return self.overload.is_overloaded();
        }
        self.looked = Instant::now();
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
            tracing::info!(is_overloaded, "how far the processors keep up has changed");
        }
        is_overloaded
    }
}
