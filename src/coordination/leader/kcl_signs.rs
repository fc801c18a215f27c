//! The signs of life that KCL's workers and their leader write apart from the leases, each half minute.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::lease_table::{KclSign, KclSignKind};
use crate::model::lease::WorkerId;

/// The interval at which KCL writes them.
const INTERVAL_MS: u64 = 30_000;
/// The time after which a sign that has not changed proves its writer dead: the interval, and the way there.
const STILL_AFTER: Duration = Duration::from_secs(35);
/// The interval at which they are read.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// A leader's observations of the signs.
#[derive(Debug, Default)]
pub(super) struct KclSigns {
    read: Option<Instant>,
    /// The signs, each with the moment since which it has been the same, and whether it was seen to change.
    signs: BTreeMap<(WorkerId, KclSignKind), (KclSign, Instant, bool)>,
}

impl KclSigns {
    /// Whether KCL's tables are to be read now; then they are due again after the interval.
    pub(super) fn begin_read(&mut self) -> bool {
        let is_due = self.read.is_none_or(|read| read.elapsed() >= READ_INTERVAL);
        if is_due {
            self.read = Some(Instant::now());
        }
        is_due
    }

    pub(super) fn observe(&mut self, signs: Vec<KclSign>) {
        let now = Instant::now();
        for sign in signs {
            let key = (sign.writer.clone(), sign.kind);
            match self.signs.get_mut(&key) {
                Some((known, _, _)) if *known == sign => {}
                Some(known) => *known = (sign, now, true),
                None => drop(self.signs.insert(key, (sign, now, false))),
            }
        }
    }

    /// A KCL worker whose sign was seen to change.
    pub(super) fn living(&self) -> Option<WorkerId> {
        self.signs.values().find(|(_, _, has_changed)| *has_changed).map(|(sign, _, _)| sign.writer.clone())
    }

    /// Whether no sign is so young that its writer may be alive. Those of writers that ended long ago tell so by their
    /// time, of which half a minute may be the clocks' difference.
    pub(super) fn are_still(&self, now_ms: u64) -> bool {
        self.signs.values().all(|(sign, since, _)| {
            let is_young = sign.written_ms.is_some_and(|written| now_ms.abs_diff(written) <= 3 * INTERVAL_MS);
            !is_young || since.elapsed() >= STILL_AFTER
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_764_000_000_000;

    fn sign(value: &str, written_ms: Option<u64>) -> Vec<KclSign> {
        let kind = if written_ms.is_some() { KclSignKind::WorkerMetrics } else { KclSignKind::LeaderLock };
        vec![KclSign { writer: "java1".into(), kind, value: value.into(), written_ms }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_sign_is_waited_for_and_one_that_changes_proves_life() {
        let mut signs = KclSigns::default();
        assert!(signs.are_still(NOW_MS));
        signs.observe(sign("1", Some(NOW_MS - 20_000)));
        assert!(!signs.are_still(NOW_MS) && signs.living().is_none());
        tokio::time::advance(STILL_AFTER).await;
        assert!(signs.are_still(NOW_MS), "it has not changed for longer than its interval");
        signs.observe(sign("2", Some(NOW_MS)));
        assert_eq!(signs.living(), Some("java1".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_long_ago_delays_nothing() {
        let mut signs = KclSigns::default();
        signs.observe(sign("1", Some(NOW_MS - 200_000)));
        assert!(signs.are_still(NOW_MS));
        signs.observe(sign("2", Some(NOW_MS)));
        assert!(signs.living().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_metrics_and_the_lock_that_one_dead_leader_left_are_two_signs() {
        let mut signs = KclSigns::default();
        for _ in 0..3 {
            let left = [sign("1", Some(NOW_MS - 200_000)), sign("version-1", None)];
            signs.observe(left.concat());
        }
        assert_eq!(signs.living(), None);
        signs.observe(sign("version-2", None));
        assert_eq!(signs.living(), Some("java1".into()));
    }
}
