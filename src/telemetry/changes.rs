//! What an operator should know at once, logged once when it begins and once when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{WorkerTelemetry, lock};
use crate::consumer::StallCause;
use crate::model::lease::ShardId;

/// For how long all calls on a table must have failed to be worth a line.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);

/// What is known to be wrong.
#[derive(Debug, Default)]
pub(crate) struct Wrong {
    shards: BTreeMap<ShardId, StallCause>,
    tables: [bool; 2],
}

impl WorkerTelemetry {
    /// Logs what has begun to be wrong since the last call, and what is so no more.
    pub(crate) fn log_changes(&self) {
        let mut wrong = lock(&self.0.wrong);
        self.log_tables(&mut wrong);
        let limit = self.0.options.unready_after;
        let shards = lock(&self.0.shards);
        for (shard, status) in shards.iter() {
            match (status.stall(limit), wrong.shards.get(shard)) {
                (Some((trouble, lasts)), None) => {
                    tracing::warn!(%shard, cause = trouble.word(), ?lasts, "the shard stands still: {}", trouble.words());
                    wrong.shards.insert(shard.clone(), trouble);
                }
                (None, Some(trouble)) => {
                    tracing::info!(%shard, cause = trouble.word(), "the shard moves again");
                    wrong.shards.remove(shard);
                }
                _ => {}
            }
        }
        wrong.shards.retain(|shard, _| shards.contains_key(shard));
    }

    fn log_tables(&self, wrong: &mut Wrong) {
        let tables = [("lease", &self.0.lease_table), ("fleet", &self.0.fleet_table)];
        for ((table, answers), was_wrong) in tables.into_iter().zip(&mut wrong.tables) {
            let failing = answers.failing_for().filter(|(lasts, _)| *lasts >= TABLE_PATIENCE);
            match (failing, *was_wrong) {
                (Some((lasts, reason)), false) => {
                    tracing::warn!(table, ?lasts, reason, "every call on the table fails, trying on");
                    *was_wrong = true;
                }
                (None, true) => {
                    tracing::info!(table, "the table answers again");
                    *was_wrong = false;
                }
                _ => {}
            }
        }
    }
}
