//! The answers that complete listings of the shards allow, and those that they don't allow yet.
//!
//! A listing may come from a part of the service that is some seconds behind. So a shard counts as gone, and an ended
//! shard as childless, only by a listing that began [`SETTLING`] after the question arose.

use std::collections::BTreeMap;
use std::time::Duration;

use super::app_lag::RETENTION_MS;
use super::lease::ShardId;
use super::shard_graph::{SETTLING, Shard, ShardGraph};

/// A complete listing. Times are those of the [`ShardDirectory`](crate::shard_directory::ShardDirectory) that made it.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The shards.
    pub graph: ShardGraph,
    /// Whether the stream is switched off.
    pub is_disabled: bool,
    /// The time of the first call.
    pub began: Duration,
    /// The time of the last answer.
    pub arrived: Duration,
    /// The pages.
    pub pages: usize,
    /// The arrival of the first listing that showed the shard.
    first_seen: BTreeMap<ShardId, Duration>,
}

/// The children of a shard whose last page was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Children {
    /// The shard has ended, and these continue it. Siblings may show up later.
    Found(Vec<Shard>),
    /// The shard is closed, switched off or trimmed, and has no child.
    None,
    /// The shard has not ended: it has no child, no ending sequence number, and the stream is on.
    Open,
}

/// The presence of a shard that the service claims not to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A listing that began after the question shows it.
    Listed,
    /// It is trimmed.
    Gone,
    /// No listing tells yet.
    Unknown,
}

impl Listing {
    /// A listing that follows `before`.
    pub fn new(
        graph: ShardGraph,
        is_disabled: bool,
        (began, arrived): (Duration, Duration),
        pages: usize,
        before: Option<&Self>,
    ) -> Self {
        let first_seen = |id: &ShardId| before.and_then(|before| before.first_seen.get(id)).copied();
        let first_seen = graph.ids().map(|id| (id.clone(), first_seen(id).unwrap_or(arrived))).collect();
        Self { graph, is_disabled, began, arrived, pages, first_seen }
    }

    /// Whether no earlier listing showed the shard.
    pub fn is_first_with(&self, shard: &ShardId) -> bool {
        self.first_seen.get(shard).is_none_or(|seen| *seen == self.arrived)
    }

    /// The children of a shard whose end was read at `asked`, as soon as this listing tells.
    pub fn children(&self, parent: &ShardId, asked: Duration) -> Option<Children> {
        let ids = self.graph.children(parent);
        let is_settled =
            |child: &ShardId| self.first_seen.get(child).is_some_and(|seen| *seen + SETTLING <= self.began);
        let is_parent = |child: &ShardId| !self.graph.children(child).is_empty();
        if !ids.is_empty() && (self.began >= asked || ids.iter().any(is_settled) || ids.iter().all(is_parent)) {
            return Some(Children::Found(self.graph.shards_named(&ids)));
        }
        let is_open = !self.is_disabled && self.graph.shards_named([parent]).first().is_some_and(|shard| !shard.closed);
        let proves = self.began >= asked + SETTLING && ids.is_empty();
        proves.then_some(if is_open { Children::Open } else { Children::None })
    }

    /// The presence of a shard that the service has denied since `since`.
    pub fn presence(&self, shard: &ShardId, since: Duration, now_ms: u64) -> Presence {
        if self.began < since {
            Presence::Unknown
        } else if self.graph.contains(shard) {
            Presence::Listed
        } else if self.began >= since + SETTLING && !self.graph.is_empty() && self.may_be_trimmed(shard, now_ms) {
            Presence::Gone
        } else {
            Presence::Unknown
        }
    }

    /// Whether a shard is old enough to be trimmed: older than the retention, or than a parent that is trimmed already
    /// (a service of another retention). Ids that tell no time are not judged by it.
    fn may_be_trimmed(&self, shard: &ShardId, now_ms: u64) -> bool {
        let trimmed = || self.graph.unlisted_parents(&[].into()).iter().filter_map(ShardId::created_ms).max();
        shard.created_ms().is_none_or(|created| {
            created + RETENTION_MS <= now_ms || trimmed().is_some_and(|trimmed| created <= trimmed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3600 * 1000;
    const START_MS: u64 = 1_700_000_000_000;

    fn id(hours: u64) -> ShardId {
        format!("shardId-{:020}-abcd", START_MS + hours * HOUR_MS).as_str().into()
    }

    fn listing(shards: &[(ShardId, Option<ShardId>, bool)], began: u64, before: Option<&Listing>) -> Listing {
        let shard = |(id, parent, closed): &(ShardId, Option<ShardId>, bool)| Shard {
            id: id.clone(),
            parent: parent.clone(),
            closed: *closed,
            ending: None,
        };
        let times = (Duration::from_secs(began), Duration::from_secs(began + 1));
        Listing::new(shards.iter().map(shard).collect(), false, times, 1, before)
    }

    fn children(listing: &Listing, parent: &ShardId, asked: u64) -> Option<Vec<ShardId>> {
        match listing.children(parent, Duration::from_secs(asked))? {
            Children::Found(children) => Some(children.into_iter().map(|child| child.id).collect()),
            Children::None | Children::Open => Some(Vec::new()),
        }
    }

    #[test]
    fn children_of_an_old_listing_count_once_they_have_settled_or_have_children() {
        let family = [(id(1), Some(id(0)), false)];
        let first = listing(&family, 0, None);
        assert_eq!(children(&first, &id(0), 5), None, "a sibling may be hidden");
        assert_eq!(children(&first, &id(0), 0), Some(vec![id(1)]), "it began after the question");
        let second = listing(&family, 11, Some(&first));
        assert_eq!(children(&second, &id(0), 20), Some(vec![id(1)]));
        let grown = listing(&[(id(1), Some(id(0)), true), (id(2), Some(id(1)), false)], 0, None);
        assert_eq!(children(&grown, &id(0), 5), Some(vec![id(1)]));
        assert_eq!(children(&grown, &id(2), 5), None);
    }

    #[test]
    fn a_shard_is_childless_or_open_only_by_a_settled_listing() {
        let asked = Duration::from_secs(5);
        for (closed, answer) in [(true, Children::None), (false, Children::Open)] {
            let shards = [(id(0), None, closed)];
            assert_eq!(listing(&shards, 14, None).children(&id(0), asked), None);
            assert_eq!(listing(&shards, 15, None).children(&id(0), asked), Some(answer));
        }
        let disabled = Listing { is_disabled: true, ..listing(&[(id(0), None, false)], 14, None) };
        assert_eq!(
            disabled.children(&id(0), asked),
            None,
            "a child may be hidden from the first look at a dead stream"
        );
    }

    #[test]
    fn a_denied_shard_is_gone_only_when_it_is_old_and_a_settled_listing_lacks_it() {
        let (since, now_ms) = (Duration::from_secs(5), START_MS + 30 * HOUR_MS);
        let shards = [(id(20), None, false)];
        let presence = |began, shard, now_ms| listing(&shards, began, None).presence(&shard, since, now_ms);
        assert_eq!(presence(4, id(20), now_ms), Presence::Unknown, "the listing is older than the question");
        assert_eq!(presence(5, id(20), now_ms), Presence::Listed);
        assert_eq!(presence(14, id(1), now_ms), Presence::Unknown);
        assert_eq!(presence(15, id(1), now_ms), Presence::Gone);
        assert_eq!(presence(900, id(21), now_ms), Presence::Unknown, "too young to be trimmed");
        assert_eq!(presence(15, "without-time".into(), now_ms), Presence::Gone);
        assert_eq!(listing(&[], 15, None).presence(&id(1), since, now_ms), Presence::Unknown, "an empty listing");
    }

    #[test]
    fn trimmed_parents_show_a_shorter_retention() {
        let shards = [(id(22), Some(id(21)), false)];
        let listing = listing(&shards, 15, None);
        let presence = |shard| listing.presence(&shard, Duration::ZERO, START_MS + 24 * HOUR_MS);
        assert_eq!(presence(id(21)), Presence::Gone);
        assert_eq!(presence(id(23)), Presence::Unknown);
    }
}
