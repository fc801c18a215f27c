//! The shards that this worker's listings have shown.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::model::lease::ShardId;
use crate::model::shard_graph::{SETTLING, Shard, ShardGraph};

/// The last listing, with the time since which each of its shards is known.
#[derive(Debug, Default)]
pub(super) struct KnownShards {
    graph: ShardGraph,
    /// The start of the last listing.
    began: Option<Instant>,
    /// The time of the first listing that showed the shard.
    since: BTreeMap<ShardId, Instant>,
}

impl KnownShards {
    /// Adds a listing that began at `began` and has come in now. One that began before the last one changes nothing.
    pub(super) fn note(&mut self, graph: ShardGraph, began: Instant) {
        if self.began.is_some_and(|last| last > began) {
            return;
        }
        let now = Instant::now();
        let known = std::mem::take(&mut self.since);
        let since = |id: &ShardId| known.get(id).copied().unwrap_or(now);
        self.since = graph.ids().map(|id| (id.clone(), since(id))).collect();
        (self.graph, self.began) = (graph, Some(began));
    }

    /// The children of a shard, once it is certain that there are no others: the last listing began [`SETTLING`] after
    /// one of them was first seen, or all have children themselves.
    pub(super) fn children(&self, parent: &ShardId) -> Option<Vec<Shard>> {
        let children = self.graph.children(parent);
        let has_settled = |child: &ShardId| {
            self.since.get(child).zip(self.began).is_some_and(|(since, began)| *since + SETTLING <= began)
        };
        let is_parent = |child: &ShardId| !self.graph.children(child).is_empty();
        let are_all = children.iter().any(has_settled) || !children.is_empty() && children.iter().all(is_parent);
        are_all.then(|| self.graph.shards_named(&children))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn graph(shards: &[(&str, &str)]) -> ShardGraph {
        let shard =
            |(id, parent): &(&str, &str)| Shard { id: (*id).into(), parent: Some((*parent).into()), closed: false };
        ShardGraph::from_iter(shards.iter().map(shard))
    }

    fn children(known: &KnownShards, parent: &str) -> Option<Vec<String>> {
        let children = known.children(&parent.into())?;
        Some(children.iter().map(|child| child.id.to_string()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn all_children_are_in_a_listing_that_began_some_time_after_one_was_seen() {
        let mut known = KnownShards::default();
        known.note(graph(&[("l", "p")]), Instant::now());
        assert_eq!(children(&known, "p"), None, "its sibling may be hidden");
        let too_early = Instant::now() + SETTLING - Duration::from_millis(1);
        tokio::time::advance(SETTLING + Duration::from_secs(1)).await;
        known.note(graph(&[("l", "p")]), too_early);
        assert_eq!(children(&known, "p"), None);
        known.note(graph(&[("l", "p"), ("r", "p")]), Instant::now());
        assert_eq!(children(&known, "p"), Some(vec!["l".to_owned(), "r".to_owned()]));
        assert_eq!(children(&known, "l"), None, "it has none yet");
    }

    #[tokio::test(start_paused = true)]
    async fn children_that_have_children_are_complete() {
        let mut known = KnownShards::default();
        known.note(graph(&[("c", "p"), ("g", "c")]), Instant::now());
        assert_eq!(children(&known, "p"), Some(vec!["c".to_owned()]));
        assert_eq!(children(&known, "c"), None);
    }
}
