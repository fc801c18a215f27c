//! Release of leases whose processor hangs.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{HUNG_KEPT, Hang, LeaseManager, LeaseState};
use crate::consumer::ConsumerCommand;
use crate::model::lease::ShardId;

/// The most leases released at once: their keys are shown in the fleet table, and a worker on which more calls hang
/// needs more help than this.
const MOST_STUCK: usize = 100;

impl LeaseManager {
    /// Has the consumers surrender whose processor hangs: while another worker could read their shards, and while the
    /// lease is on its way to another.
    ///
    /// The consumer drops its calls before it releases the row. So a processor never gets records that another worker
    /// may be reading. A shard that hung elsewhere lately stays: its records are at fault, which the next owner would meet
    /// anew. The consumer retries them beside the others.
    pub(super) fn release_hung(&mut self) {
        let (view, me) = (self.view.borrow().clone(), &self.deps.me.worker);
        let (stuck_after, drain_timeout) = (self.deps.options.stuck_after, self.deps.options.drain_timeout);
        let mut stuck = self.stuck().len();
        let mut has_news = false;
        let others = || view.staying().filter(|seen| seen.member.id != *me);
        let hung_there: BTreeSet<&ShardId> = others().flat_map(|seen| &seen.member.record.stuck).collect();
        for (key, known) in &mut self.leases {
            let LeaseState::Running(running) = &mut known.state else { continue };
            let status = &running.handle.status;
            let (lasts, silence) = (status.oldest_call().unwrap_or_default(), status.silence());
            let lasts_s = lasts.max(silence).as_secs();
            if hung_there.contains(key) {
                running.hung_elsewhere = Some(Instant::now());
            }
            let has_moved = running.hung_elsewhere.is_some_and(|seen| seen.elapsed() < HUNG_KEPT);
            let is_hung = !has_moved && stuck_after.is_some_and(|limit| silence >= limit);
            // A call that takes its usual time is slow, and is waited for.
            let holds_up_move = running.moving_since.is_some_and(|since| since.elapsed() >= drain_timeout)
                && lasts >= drain_timeout.max(status.longest_call() * 2);
            let has_taker = || others().any(|seen| !seen.member.record.stuck.contains(key));
            if running.hang == Hang::Surrendered {
                continue;
            }
            if holds_up_move || is_hung && has_taker() {
                if stuck < MOST_STUCK {
                    tracing::warn!(shard = %key, lasts_s, "the processor hangs: the shard goes to another worker");
                    running.hang = Hang::Surrendered;
                    running.is_owned = false;
                    running.handle.command(ConsumerCommand::Surrender);
                    (stuck, has_news) = (stuck + 1, true);
                }
            } else if !is_hung {
                running.hang = Hang::None;
            } else if running.hang == Hang::None {
                running.hang = Hang::WithoutTaker;
                tracing::warn!(shard = %key, lasts_s, "the processor hangs, and no other worker can take the shard");
            }
        }
        if has_news {
            self.update_record();
            self.deps.record.publish();
        }
    }

    /// The leases that this worker does not want: those that it releases, and those that it has released lately.
    pub(super) fn stuck(&self) -> BTreeSet<ShardId> {
        let is_stuck = |state: &LeaseState| match state {
            LeaseState::Running(running) => running.hang == Hang::Surrendered,
            LeaseState::Stuck { .. } => true,
            _ => false,
        };
        self.leases.iter().filter(|(_, known)| is_stuck(&known.state)).map(|(key, _)| key.clone()).collect()
    }
}
