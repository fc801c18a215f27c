//! The signs of life that KCL's workers and their leader write apart from the leases, each half minute.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::lease_table::KclSign;
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
    /// By writer: the sign, since when it has been the same, and whether it was seen to change.
    signs: BTreeMap<WorkerId, (KclSign, Instant, bool)>,
}

impl KclSigns {
    pub(super) fn is_due(&self) -> bool {
        self.read.is_none_or(|read| read.elapsed() >= READ_INTERVAL)
    }

    pub(super) fn observe(&mut self, signs: Vec<KclSign>) {
        let now = Instant::now();
        self.read = Some(now);
        for sign in signs {
            match self.signs.get_mut(&sign.writer) {
                Some((known, _, _)) if *known == sign => {}
                Some(known) => *known = (sign, now, true),
                None => drop(self.signs.insert(sign.writer.clone(), (sign, now, false))),
            }
        }
    }

    /// A KCL worker whose sign was seen to change.
    pub(super) fn living(&self) -> Option<WorkerId> {
        self.signs.iter().find(|(_, (_, _, has_changed))| *has_changed).map(|(writer, _)| writer.clone())
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
        vec![KclSign { writer: "java1".into(), value: value.into(), written_ms }]
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
        signs.observe(sign("2", None));
        assert!(signs.living().is_some());
    }
}
