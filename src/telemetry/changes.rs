//! Troubles that an operator should know of, each logged once when it begins and once when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{WorkerTelemetry, lock};
use crate::model::blocked_record::StallCause;
use crate::model::lease::ShardId;

/// The time after which a table whose calls all fail is logged.
const WARN_AFTER: Duration = Duration::from_secs(2);

/// The troubles that were logged and are not over.
#[derive(Debug, Default)]
pub(crate) struct LoggedTroubles {
    shards: BTreeMap<ShardId, StallCause>,
    tables: [bool; 2],
}

impl WorkerTelemetry {
    /// Logs troubles that began or ended since the last call.
    pub(super) fn log_changes(&self) {
        let mut logged = lock(&self.0.logged);
        self.log_tables(&mut logged);
        let limit = self.0.options.unready_after;
        let shards = lock(&self.0.shards);
        for (shard, status) in shards.iter() {
            match (status.stall(limit), logged.shards.get(shard)) {
                (Some((trouble, lasts)), None) => {
                    let (cause, lasts_s, error) = (trouble.word(), lasts.as_secs(), status.last_error(trouble));
                    tracing::warn!(%shard, cause, lasts_s, error, "shard stalled: {}", trouble.words());
                    logged.shards.insert(shard.clone(), trouble);
                }
                (None, Some(trouble)) => {
                    tracing::info!(%shard, cause = trouble.word(), "shard moves again");
                    logged.shards.remove(shard);
                }
                _ => {}
            }
        }
        logged.shards.retain(|shard, _| shards.contains_key(shard));
    }

    fn log_tables(&self, logged: &mut LoggedTroubles) {
        let tables = [("lease", &self.0.lease_table), ("fleet", &self.0.fleet_table)];
        for ((table, answers), was_logged) in tables.into_iter().zip(&mut logged.tables) {
            let failing = answers.failing_for().filter(|(lasts, _)| *lasts >= WARN_AFTER);
            match (failing, *was_logged) {
                (Some((lasts, reason)), false) => {
                    tracing::warn!(
                        table,
                        lasts_s = lasts.as_secs(),
                        reason,
                        "every call on the table failed, retrying"
                    );
                    *was_logged = true;
                }
                (None, true) => {
                    tracing::info!(table, "the table answers again");
                    *was_logged = false;
                }
                _ => {}
            }
        }
    }
}
