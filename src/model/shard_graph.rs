//! The shards of a stream and their descent: the leases that must exist, that may start and that may be deleted.
//!
//! A listing of the service is never quite consistent: a parent may be missing (trimmed), still look open though its
//! child is there, or look like a leaf because its child isn't visible yet. So nothing here concludes anything from
//! the absence of a shard: what is missing is at most not acted upon.
//!
//! The rules are those of the adapter's `DynamoDBStreamsShardSyncer`, less their hazards: no lease is deleted because
//! a listing was empty, and a shard that appears after the first listing is read from its beginning even when the
//! application started at `LATEST`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::lease::{Lease, ShardId};
use super::sequence_number::SequenceNumber;

/// A listing that began this long after something in it came to be, or later, is taken to show it; before, it may come
/// from a part of the service that does not know it yet.
pub const SETTLING: Duration = Duration::from_secs(10);

/// A shard as DescribeStream lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// `ShardId`.
    pub id: ShardId,
    /// `ParentShardId`: the shard whose end this one continues; it may no longer be listed.
    pub parent: Option<ShardId>,
    /// Whether `SequenceNumberRange` has an `EndingSequenceNumber`. Only a hint: some emulators set it on open shards.
    pub closed: bool,
    /// That number: no record of the shard comes after it.
    pub ending: Option<SequenceNumber>,
}

/// A complete listing of a stream's shards.
#[derive(Clone, Debug, Default)]
pub struct ShardGraph {
    shards: BTreeMap<ShardId, Shard>,
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
}

impl FromIterator<Shard> for ShardGraph {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let mut graph = Self::default();
        shards.into_iter().for_each(|shard| graph.insert(shard));
        graph
    }
}

/// The start of the lineages of a new application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest records.
    TrimHorizon,
    /// At the first records since a moment.
    Since {
        /// The sentinel that stands for the moment in a lease: `LATEST` or `AT_TIMESTAMP`.
        checkpoint: Checkpoint,
        /// The moment (ms since the epoch, by the service's clock).
        moment_ms: u64,
    },
}

impl ShardGraph {
    /// Adds a shard, or replaces the one of this id.
    pub fn insert(&mut self, shard: Shard) {
        if let Some(parent) = &shard.parent {
            self.children.entry(parent.clone()).or_default().insert(shard.id.clone());
        }
        self.shards.insert(shard.id.clone(), shard);
    }

    /// These shards, and those besides that an earlier listing showed.
    pub fn joined_with(&self, earlier: &Self) -> Self {
        earlier.shards.values().chain(self.shards.values()).cloned().collect()
    }

    /// The number of listed shards.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether the listing is empty. An empty listing is no proof that the stream has no shards.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Whether the shard is listed.
    pub fn contains(&self, shard: &ShardId) -> bool {
        self.shards.contains_key(shard)
    }

    /// The listed shards.
    pub fn ids(&self) -> impl Iterator<Item = &ShardId> {
        self.shards.keys()
    }

    /// The listed children of a shard.
    pub fn children(&self, shard: &ShardId) -> BTreeSet<ShardId> {
        self.children.get(shard).cloned().unwrap_or_default()
    }

    /// The listed ones of these shards.
    pub fn shards_named<'a>(&self, ids: impl IntoIterator<Item = &'a ShardId>) -> Vec<Shard> {
        ids.into_iter().filter_map(|id| self.shards.get(id)).cloned().collect()
    }

    /// The number of open shards: listed, without children and without an ending sequence number.
    pub fn open_shards(&self) -> usize {
        self.shards.values().filter(|shard| !shard.closed && self.is_leaf(shard)).count()
    }

    /// The leases that must be created, parents before their children.
    ///
    /// From each leaf without a lease up to the nearest ancestor that has one, every shard continues what that
    /// ancestor's reader began, and is read from its beginning. A lineage without any lease is new: it starts at
    /// `start`, from its oldest listed shard, or, for a start by time, from the youngest that was made by then; what
    /// follows that one is read from its beginning. Shards above a leased descendant were read and cleaned up, and stay
    /// without one.
    ///
    /// A lease that is there and cannot be read counts as one: what lies above it was read.
    ///
    /// `start` is the application's for its first listing and [`Start::TrimHorizon`] ever after: what appears later was
    /// written later.
    pub fn missing_leases(&self, has_lease: impl Fn(&ShardId) -> bool, start: &Start) -> Vec<Lease> {
        let mut wanted: BTreeMap<ShardId, Checkpoint> = BTreeMap::new();
        for leaf in self.shards.values().filter(|shard| self.is_leaf(shard)) {
            let (mut line, continues) = self.line_to_lease(leaf, &has_lease);
            if let Start::Since { checkpoint, moment_ms } = start
                && !continues
                && let Some(first) = line.iter().position(|shard| is_from_before(shard, *moment_ms))
            {
                wanted.insert(line[first].clone(), checkpoint.clone());
                line.truncate(first);
            }
            for shard in line {
                wanted.entry(shard).or_insert(Checkpoint::TrimHorizon);
            }
        }
        let mut missing: Vec<(usize, Lease)> = wanted
            .into_iter()
            .map(|(id, checkpoint)| {
                let parents = self.shards[&id].parent.iter().cloned().collect();
                (self.depth(&id), Lease::new(id, parents, checkpoint))
            })
            .collect();
        missing.sort_by(|(left_depth, left), (right_depth, right)| {
            left_depth.cmp(right_depth).then_with(|| left.key.cmp(&right.key))
        });
        missing.into_iter().map(|(_, lease)| lease).collect()
    }

    /// The shards of this part of a new application's first listing whose leases don't depend on the rest. `is_root`:
    /// nothing is listed above a shard.
    ///
    /// Their ancestors are all here, back to a root, or to one from before a start by time. A shard from before that time
    /// is only certain to be the last one by then if it is still open, or if a child that came later is here.
    pub fn certain_part(&self, start: &Start, is_root: impl Fn(&Shard) -> bool) -> Self {
        let Start::Since { moment_ms, .. } = start else { return self.whole_lines(is_root) };
        let is_older = |shard: &Shard| is_from_before(&shard.id, *moment_ms);
        let whole = self.whole_lines(|shard| is_root(shard) || is_older(shard));
        let is_last = |shard: &Shard| {
            let mut children = self.shards_named(self.children.get(&shard.id).into_iter().flatten()).into_iter();
            !shard.closed && self.is_leaf(shard) || children.any(|child| !is_older(&child))
        };
        whole.shards.values().filter(|shard| !is_older(shard) || is_last(shard)).cloned().collect()
    }

    /// The shards whose ancestors are all in this part of a listing, back to a root. Whatever the rest shows, they are
    /// read from the beginning.
    fn whole_lines(&self, is_root: impl Fn(&Shard) -> bool) -> Self {
        let mut whole: BTreeMap<ShardId, bool> = BTreeMap::new();
        for shard in self.shards.values() {
            let mut line = vec![shard];
            let is_whole = loop {
                let last = line[line.len() - 1];
                let parent = last.parent.as_ref().and_then(|parent| self.shards.get(parent));
                match (whole.get(&last.id), parent) {
                    (Some(known), _) => break *known,
                    (None, Some(parent)) if line.len() <= self.shards.len() => line.push(parent),
                    (None, Some(_)) => break false, // a cycle
                    (None, None) => break is_root(last),
                }
            };
            whole.extend(line.into_iter().map(|shard| (shard.id.clone(), is_whole)));
        }
        self.shards.values().filter(|shard| whole[&shard.id]).cloned().collect()
    }

    /// The shards without a lease that continue no shard with one. After an application's first listing these are rare:
    /// new shards follow old ones.
    pub fn newcomers(&self, has_lease: impl Fn(&ShardId) -> bool) -> BTreeSet<ShardId> {
        let leaves = self.shards.values().filter(|shard| self.is_leaf(shard));
        let lines = leaves.map(|leaf| self.line_to_lease(leaf, &has_lease));
        lines.filter(|(_, continues)| !continues).flat_map(|(line, _)| line).collect()
    }

    /// The parents of listed shards that are not listed themselves, where neither of the two is among `known`.
    pub fn unlisted_parents(&self, known: &BTreeSet<ShardId>) -> BTreeSet<ShardId> {
        let unknown = self.shards.values().filter(|shard| !known.contains(&shard.id));
        let parents = unknown.filter_map(|shard| shard.parent.as_ref());
        parents.filter(|parent| !self.contains(parent) && !known.contains(*parent)).cloned().collect()
    }

    /// The finished leases that may be deleted.
    ///
    /// KCL's rule: the shard is read to its end, its children are known, each of them has a lease that has moved
    /// beyond its start, and no parent's lease is left. So the last finished generation always stays, and tells
    /// later listings that their shards continue something. And the listing must show that the shard has children, so
    /// that no later one can take it for a new shard. A finished lease whose shard and parents are all gone
    /// from a complete listing may go as well. Unfinished leases are never deleted here.
    pub fn deletable(&self, leases: &BTreeMap<ShardId, Lease>) -> Vec<ShardId> {
        let may_go = |lease: &&Lease| {
            lease.is_finished()
                && !lease.parents.iter().any(|parent| leases.contains_key(parent))
                && (self.is_continued(lease, leases) || self.is_forgotten(lease))
        };
        leases.values().filter(may_go).map(|lease| lease.key.clone()).collect()
    }

    /// The finished leases whose children the listing knows and their rows don't.
    pub fn unknown_children<'a>(
        &'a self,
        leases: &'a BTreeMap<ShardId, Lease>,
    ) -> impl Iterator<Item = (&'a Lease, BTreeSet<ShardId>)> {
        leases.values().filter(|lease| lease.is_finished()).filter_map(|lease| {
            let known = self.children.get(&lease.key)?;
            (!known.is_subset(&lease.children)).then(|| (lease, known.clone()))
        })
    }

    fn is_leaf(&self, shard: &Shard) -> bool {
        !self.children.get(&shard.id).is_some_and(|children| children.iter().any(|child| self.contains(child)))
    }

    /// The shards without a lease from `leaf` upwards, and whether they end at one that has a lease.
    fn line_to_lease(&self, leaf: &Shard, has_lease: impl Fn(&ShardId) -> bool) -> (Vec<ShardId>, bool) {
        let mut line = Vec::new();
        let mut next = Some(leaf.id.clone());
        while let Some(id) = next {
            if has_lease(&id) {
                return (line, true);
            }
            let Some(shard) = self.shards.get(&id) else { break };
            if line.contains(&id) {
                break; // a ring in the listing: each shard once
            }
            line.push(id);
            next = shard.parent.clone();
        }
        (line, false)
    }

    /// The number of a shard's listed ancestors.
    fn depth(&self, shard: &ShardId) -> usize {
        let mut depth = 0;
        let mut at = shard;
        while let Some(parent) = self.shards.get(at).and_then(|shard| shard.parent.as_ref()) {
            if depth > self.shards.len() {
                break; // a ring in the listing
            }
            depth += 1;
            at = parent;
        }
        depth
    }

    /// Whether all children have leases that moved beyond their start, and the listing, if it still has the shard,
    /// shows that it has children: a later one would not take it for a new leaf.
    fn is_continued(&self, lease: &Lease, leases: &BTreeMap<ShardId, Lease>) -> bool {
        let has_visible_children = self.shards.get(&lease.key).is_none_or(|shard| !self.is_leaf(shard));
        has_visible_children && children_moved_on(lease, leases)
    }

    fn is_forgotten(&self, lease: &Lease) -> bool {
        !self.is_empty()
            && !self.contains(&lease.key)
            && !lease.parents.iter().any(|parent| self.contains(parent))
            && !lease.children.iter().any(|child| self.contains(child))
    }
}

/// The parents of `lease` that are not yet read to their end. While there are any, nothing of the shard may be
/// delivered. A parent without a lease holds nothing up (KCL): it was cleaned up, or trimmed before anyone read it.
pub fn unfinished_parents<'a>(
    lease: &'a Lease,
    leases: &'a BTreeMap<ShardId, Lease>,
) -> impl Iterator<Item = &'a ShardId> {
    lease.parents.iter().filter(|parent| leases.get(*parent).is_some_and(|row| !row.is_finished()))
}

/// Whether a shard was there at a moment; one whose id tells no time counts as old.
fn is_from_before(shard: &ShardId, moment_ms: u64) -> bool {
    shard.created_ms().is_none_or(|created| created <= moment_ms)
}

fn children_moved_on(lease: &Lease, leases: &BTreeMap<ShardId, Lease>) -> bool {
    let moved_on = |child: &ShardId| {
        leases.get(child).is_some_and(|row| matches!(row.checkpoint, Checkpoint::At(_) | Checkpoint::ShardEnd))
    };
    !lease.children.is_empty() && lease.children.iter().all(moved_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(id: &str, parent: Option<&str>) -> Shard {
        Shard { id: id.into(), parent: parent.map(Into::into), closed: false, ending: None }
    }

    fn graph(shards: &[(&str, Option<&str>)]) -> ShardGraph {
        ShardGraph::from_iter(shards.iter().map(|(id, parent)| shard(id, *parent)))
    }

    fn leases(rows: &[(&str, &[&str], &str, &[&str])]) -> BTreeMap<ShardId, Lease> {
        rows.iter()
            .map(|(key, parents, checkpoint, children)| {
                let parents = parents.iter().map(|id| ShardId::from(*id)).collect();
                let checkpoint = Checkpoint::parse(checkpoint).expect("a checkpoint");
                let mut lease = Lease::new((*key).into(), parents, checkpoint);
                lease.children = children.iter().map(|id| ShardId::from(*id)).collect();
                (lease.key.clone(), lease)
            })
            .collect()
    }

    fn missing(graph: &ShardGraph, leases: &BTreeMap<ShardId, Lease>, start: Start) -> Vec<String> {
        graph
            .missing_leases(|id| leases.contains_key(id), &start)
            .iter()
            .map(|lease| format!("{}@{}", lease.key, lease.checkpoint))
            .collect()
    }

    fn latest() -> Start {
        Start::Since { checkpoint: Checkpoint::Latest, moment_ms: 1_700_000_000_500 }
    }

    const LINE: &[(&str, Option<&str>)] = &[("a", Some("gone")), ("b", Some("a")), ("c", Some("b"))];

    #[test]
    fn a_part_of_a_listing_shows_the_lines_that_are_whole_up_to_a_root() {
        let part = graph(&[("a", None), ("b", Some("a")), ("d", Some("c")), ("e", Some("d")), ("old", Some("gone"))]);
        let is_root = |shard: &Shard| shard.parent.is_none() || shard.id == "old".into();
        let whole = part.whole_lines(is_root);
        assert_eq!(whole.ids().map(ShardId::as_str).collect::<Vec<_>>(), ["a", "b", "old"]);
        let cycle = graph(&[("a", Some("b")), ("b", Some("a"))]);
        assert!(cycle.whole_lines(is_root).is_empty());
    }

    #[test]
    fn from_the_trim_horizon_every_listed_shard_gets_a_lease_parents_first() {
        let wanted = missing(&graph(LINE), &leases(&[]), Start::TrimHorizon);
        assert_eq!(wanted, ["a@TRIM_HORIZON", "b@TRIM_HORIZON", "c@TRIM_HORIZON"]);
    }

    #[test]
    fn from_latest_only_the_leaves_get_a_lease() {
        assert_eq!(missing(&graph(LINE), &leases(&[]), latest()), ["c@LATEST"]);
    }

    #[test]
    fn a_start_by_time_begins_with_the_shard_that_was_open_then() {
        let [old, open, young, youngest] = ["1699999990000", "1700000000000", "1700000000501", "1700000009000"]
            .map(|created| format!("shardId-{created:0>20}-aaaaaaaa"));
        let line: &[(&str, Option<&str>)] =
            &[(&old, None), (&open, Some(&old)), (&young, Some(&open)), (&youngest, Some(&young))];
        let wanted = missing(&graph(line), &leases(&[]), latest());
        assert_eq!(
            wanted,
            [format!("{open}@LATEST"), format!("{young}@TRIM_HORIZON"), format!("{youngest}@TRIM_HORIZON")]
        );
        let wanted = missing(&graph(&line[2..]), &leases(&[]), latest());
        assert_eq!(wanted.len(), 2, "a lineage that is younger than the moment is read whole");
    }

    #[test]
    fn what_follows_a_leased_shard_is_read_from_its_beginning_even_under_latest() {
        let rows = leases(&[("a", &[], "7", &[])]);
        assert_eq!(missing(&graph(LINE), &rows, latest()), ["b@TRIM_HORIZON", "c@TRIM_HORIZON"]);
    }

    #[test]
    fn shards_above_a_leased_descendant_stay_without_a_lease() {
        let rows = leases(&[("c", &["b"], "9", &[])]);
        assert!(missing(&graph(LINE), &rows, Start::TrimHorizon).is_empty());
    }

    #[test]
    fn both_sides_of_a_split_are_found_when_only_one_has_a_lease() {
        let split = graph(&[("p", None), ("l", Some("p")), ("r", Some("p"))]);
        let rows = leases(&[("p", &[], "SHARD_END", &["l"]), ("l", &["p"], "3", &[])]);
        assert_eq!(missing(&split, &rows, latest()), ["r@TRIM_HORIZON"]);
    }

    #[test]
    fn a_closed_shard_whose_child_is_not_visible_yet_gets_its_lease() {
        let closed = ShardGraph::from_iter([Shard { closed: true, ..shard("a", None) }]);
        assert_eq!(missing(&closed, &leases(&[]), Start::TrimHorizon), ["a@TRIM_HORIZON"]);
    }

    #[test]
    fn a_shard_whose_descendants_an_earlier_listing_showed_is_not_new() {
        let earlier = graph(&[("old", None), ("r", Some("old")), ("c", Some("r")), ("g", Some("c"))]);
        let listing = graph(&[("r", Some("old")), ("g", Some("c"))]);
        let rows = leases(&[("g", &["c"], "3", &[])]);
        assert_eq!(missing(&listing, &rows, Start::TrimHorizon), ["r@TRIM_HORIZON"]);
        assert!(missing(&listing.joined_with(&earlier), &rows, Start::TrimHorizon).is_empty());
    }

    #[test]
    fn newcomers_are_whole_families_without_a_lease() {
        let shards = graph(&[("p", None), ("l", Some("p")), ("r", Some("p")), ("x", Some("gone")), ("y", Some("x"))]);
        let rows = leases(&[("p", &[], "SHARD_END", &["l"])]);
        let newcomers = shards.newcomers(|id| rows.contains_key(id));
        assert_eq!(newcomers, BTreeSet::from(["x".into(), "y".into()]));
    }

    #[test]
    fn a_parent_that_is_not_listed_matters_while_neither_it_nor_its_child_is_known() {
        let shards = graph(&[("a", Some("gone")), ("b", Some("a")), ("c", Some("hidden"))]);
        let unlisted = |known: &[&str]| shards.unlisted_parents(&known.iter().map(|id| ShardId::from(*id)).collect());
        assert_eq!(unlisted(&[]), BTreeSet::from(["gone".into(), "hidden".into()]));
        assert_eq!(unlisted(&["a"]), BTreeSet::from(["hidden".into()]));
        assert_eq!(unlisted(&["a", "hidden"]), BTreeSet::new());
    }

    #[test]
    fn an_open_parent_with_a_child_blocks_the_child_until_its_end() {
        let mut rows = leases(&[("p", &[], "5", &[]), ("c", &["p"], "TRIM_HORIZON", &[])]);
        let child = rows[&ShardId::from("c")].clone();
        assert_eq!(unfinished_parents(&child, &rows).count(), 1);
        rows.get_mut(&ShardId::from("p")).expect("p").checkpoint = Checkpoint::ShardEnd;
        assert_eq!(unfinished_parents(&child, &rows).count(), 0);
        rows.remove(&ShardId::from("p"));
        assert_eq!(unfinished_parents(&child, &rows).count(), 0, "a parent that was cleaned up holds nothing up");
    }

    #[test]
    fn a_finished_lease_goes_once_its_children_have_moved_on_oldest_first() {
        let line = graph(LINE);
        let mut rows = leases(&[
            ("a", &["gone"], "SHARD_END", &["b"]),
            ("b", &["a"], "SHARD_END", &["c"]),
            ("c", &["b"], "TRIM_HORIZON", &[]),
        ]);
        assert_eq!(line.deletable(&rows), ["a".into()]);
        rows.remove(&ShardId::from("a"));
        assert!(line.deletable(&rows).is_empty(), "c stands at its start");
        rows.get_mut(&ShardId::from("c")).expect("c").checkpoint = Checkpoint::parse("1").expect("number");
        assert_eq!(line.deletable(&rows), ["b".into()]);
    }

    #[test]
    fn nothing_goes_because_a_listing_was_empty() {
        let rows = leases(&[("x", &[], "SHARD_END", &[]), ("y", &[], "12", &[])]);
        assert!(ShardGraph::default().deletable(&rows).is_empty());
        assert_eq!(graph(&[("z", None)]).deletable(&rows), ["x".into()], "only the finished one of the two");
    }

    #[test]
    fn a_ring_in_a_listing_does_not_hang() {
        let ring = graph(&[("a", Some("b")), ("b", Some("a")), ("c", Some("a"))]);
        assert_eq!(ring.missing_leases(|_| false, &Start::TrimHorizon).len(), 3);
    }

    /// Each shard's parent is an earlier one, or none: any forest.
    fn forests() -> impl Strategy<Value = Vec<Shard>> {
        prop::collection::vec(any::<Option<prop::sample::Index>>(), 1..40).prop_map(|parents| {
            let name = |index: usize| format!("shardId-{index:020}-aaaaaaaa");
            let parent_of = |(index, parent): (usize, Option<prop::sample::Index>)| {
                let parent = parent.filter(|_| index > 0).map(|parent| name(parent.index(index)));
                shard(&name(index), parent.as_deref())
            };
            let mut shards: Vec<Shard> = parents.into_iter().enumerate().map(parent_of).collect();
            let parents: BTreeSet<ShardId> = shards.iter().filter_map(|shard| shard.parent.clone()).collect();
            shards.iter_mut().for_each(|shard| shard.closed = parents.contains(&shard.id));
            shards
        })
    }

    proptest! {
        #[test]
        fn created_leases_leave_nothing_missing_and_come_after_their_parents(shards in forests(), latest: bool) {
            let graph = ShardGraph::from_iter(shards);
            let start = if latest { self::latest() } else { Start::TrimHorizon };
            let mut rows = BTreeMap::new();
            for lease in graph.missing_leases(|_| false, &start) {
                for parent in &lease.parents {
                    prop_assert!(latest || rows.contains_key(parent), "{} before its parent", lease.key);
                }
                rows.insert(lease.key.clone(), lease);
            }
            prop_assert!(graph.missing_leases(|id| rows.contains_key(id), &start).is_empty());
            if !latest {
                prop_assert_eq!(rows.len(), graph.len());
            }
        }

        #[test]
        fn a_part_of_a_listing_calls_for_no_lease_that_the_whole_would_not(
            shards in forests(),
            is_in_part in prop::collection::vec(any::<bool>(), 40),
            moment_ms in prop::option::of(0_u64..40),
        ) {
            let start = moment_ms.map_or(Start::TrimHorizon, |moment_ms| {
                Start::Since { checkpoint: Checkpoint::AtTimestamp, moment_ms }
            });
            let in_part = shards.iter().zip(&is_in_part).filter(|(_, is_in)| **is_in);
            let part: ShardGraph = in_part.map(|(shard, _)| shard.clone()).collect();
            let of_whole = ShardGraph::from_iter(shards).missing_leases(|_| false, &start);
            let certain = part.certain_part(&start, |shard| shard.parent.is_none());
            for lease in certain.missing_leases(|_| false, &start) {
                prop_assert!(of_whole.contains(&lease), "{}@{}", lease.key, lease.checkpoint);
            }
        }

        #[test]
        fn clean_up_never_makes_a_read_shard_look_new(shards in forests(), rounds in 1_usize..60) {
            let graph = ShardGraph::from_iter(shards);
            let mut rows: BTreeMap<_, _> = graph
                .missing_leases(|_| false, &Start::TrimHorizon)
                .into_iter()
                .map(|lease| (lease.key.clone(), lease))
                .collect();
            for _ in 0..rounds {
                // Read the next shard that may start to its end, then clean up and list again.
                let next = rows
                    .values()
                    .find(|lease| !lease.is_finished() && unfinished_parents(lease, &rows).next().is_none())
                    .map(|lease| lease.key.clone());
                let Some(next) = next else { break };
                let row = rows.get_mut(&next).expect("listed");
                row.checkpoint = Checkpoint::ShardEnd;
                row.children = graph.children(&next);
                for key in graph.deletable(&rows) {
                    rows.remove(&key);
                }
                prop_assert!(graph.missing_leases(|id| rows.contains_key(id), &Start::TrimHorizon).is_empty());
            }
        }
    }
}
