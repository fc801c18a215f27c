//! Lease changes that an operator makes by hand, and the invariants that they would break.
//!
//! Pure functions from a [`FleetSnapshot`] to a conditional write, or to a refusal that names the invariant at stake. An
//! operator can force most refusals, except those that would leave the fleet in a state that it cannot recover from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::shard_graph::unfinished_parents;

/// A change that an operator requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Leave the lease without an owner.
    Release,
    /// Give the lease to a worker.
    Assign {
        /// The worker.
        to: WorkerId,
    },
    /// Move the checkpoint.
    Reset {
        /// The new checkpoint.
        at: Checkpoint,
        /// The time since which records are wanted (ms since the epoch), unless it is a sequence number.
        since_ms: Option<u64>,
    },
}

/// The known state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its heartbeat or a counter of its leases has changed while it was watched.
    Alive,
    /// It is alive and shutting down.
    Leaving,
    /// Nothing has changed for as long as its leases last.
    Dead,
}

/// The state of a fleet on which a decision is based.
#[derive(Clone, Debug, Default)]
pub struct FleetSnapshot {
    /// The leases.
    pub rows: BTreeMap<ShardId, Lease>,
    /// The unreadable rows, with the reasons.
    pub bad: BTreeMap<ShardId, String>,
    /// The watched workers, which may be of another program. The state of any other worker is unknown.
    pub liveness: BTreeMap<WorkerId, Liveness>,
    /// The workers of the fleet table, each with the most leases that it will hold.
    pub members: BTreeMap<WorkerId, Option<u64>>,
    /// The processor calls that have not returned for a while, with the seconds that they have lasted.
    pub long_calls: BTreeMap<ShardId, u64>,
    /// The shards in which the stream lacks a reset's position, with the reasons.
    pub missing_positions: BTreeMap<ShardId, String>,
}

/// A rule of the protocol that a request would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invariant {
    /// No record is skipped.
    NoLoss,
    /// A child's records come after its parent's.
    Order,
    /// A shard has one reader.
    OneOwner,
    /// Every open shard has a live owner.
    LiveOwner,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLoss => "no record is skipped",
            Self::Order => "no record of a child before its parent's end",
            Self::OneOwner => "a shard has one reader",
            Self::LiveOwner => "every open shard has a live owner",
        })
    }
}

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, as a sentence.
    pub reason: String,
    /// The invariant that the request would break, if any.
    pub invariant: Option<Invariant>,
    /// Whether the operator may force the request.
    pub can_force: bool,
}

impl Refusal {
    fn broken(invariant: &Option<Invariant>) -> String {
        invariant.map_or_else(String::new, |invariant| format!("; it would break: {invariant}"))
    }

    fn forceable(invariant: Invariant, reason: String) -> Self {
        Self { reason, invariant: Some(invariant), can_force: true }
    }

    fn flat(reason: String) -> Self {
        Self { reason, invariant: None, can_force: false }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let force = if self.can_force { " (--force does it all the same)" } else { "" };
        write!(f, "{}{}{force}", self.reason, Self::broken(&self.invariant))
    }
}

impl std::error::Error for Refusal {}

/// A write that carries out a request.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWrite {
    /// The write; none when the row already is as requested.
    pub write: Option<Transition>,
    /// The workers to be notified of the change.
    pub hints: BTreeSet<WorkerId>,
    /// A sentence that says what the write does.
    pub summary: String,
    /// Notes for the operator.
    pub warnings: Vec<String>,
}

/// The workers whose liveness [`decide`] needs.
pub fn workers_to_watch(request: &Request, row: Option<&Lease>) -> BTreeSet<WorkerId> {
    let holder = row.filter(|row| !row.is_finished()).and_then(Lease::holder).cloned();
    let to = match request {
        Request::Assign { to } => Some(to.clone()),
        _ => None,
    };
    holder.into_iter().chain(to).collect()
}

/// Plans the write that carries out `request` on one lease; `together` are all leases of the same request.
///
/// # Errors
/// A [`Refusal`]. With `force`, only one that cannot be forced.
pub fn decide(
    request: &Request,
    key: &ShardId,
    together: &BTreeSet<ShardId>,
    snapshot: &FleetSnapshot,
    force: bool,
) -> Result<PlannedWrite, Refusal> {
    if let Some(reason) = snapshot.bad.get(key) {
        return Err(Refusal::flat(format!("its lease cannot be read: {reason}; correct the row first")));
    }
    let Some(row) = snapshot.rows.get(key) else {
        return Err(Refusal::flat("there is no lease of this shard; `shardkeeper status` lists them".into()));
    };
    let mut op = LeaseOp { row, snapshot, force, warnings: Vec::new() };
    let (write, hints, summary) = match request {
        Request::Release => op.release()?,
        Request::Assign { to } => op.assign(to)?,
        Request::Reset { at, since_ms } => op.reset(at, *since_ms, together)?,
    };
    Ok(PlannedWrite { write, hints, summary, warnings: op.warnings })
}

type Decision = Result<(Option<Transition>, BTreeSet<WorkerId>, String), Refusal>;

struct LeaseOp<'a> {
    row: &'a Lease,
    snapshot: &'a FleetSnapshot,
    force: bool,
    warnings: Vec<String>,
}

impl LeaseOp<'_> {
    fn release(&mut self) -> Decision {
        let row = self.row;
        if row.is_finished() {
            return Err(Refusal::flat("everything in the shard is delivered: its lease has no owner".into()));
        }
        let Some(holder) = row.holder() else {
            return Ok(nothing("it has no owner already".into()));
        };
        if self.may_be_alive(holder) {
            self.require_or_force(Refusal::forceable(
                Invariant::OneOwner,
                format!(
                    "worker {holder} {}: until it notices, it would read the shard together with the next owner. `lease \
                     assign --to WORKER` moves the lease without that",
                    self.liveness_words(holder)
                ),
            ))?;
        }
        let hints = self.members(row.owner.iter().chain(&row.checkpoint_owner));
        let summary = format!("takes the lease from {holder}; the leader assigns it again");
        let write = row.release(holder, row.checkpoint.clone()).map_err(|error| Refusal::flat(error.to_string()))?;
        Ok((Some(write), hints, summary))
    }

    fn assign(&mut self, to: &WorkerId) -> Decision {
        let row = self.row;
        if row.is_finished() {
            return Err(Refusal::flat(
                "everything in the shard is delivered: there is nothing to read (`lease reset` delivers it again)"
                    .into(),
            ));
        }
        self.check_new_owner(to)?;
        if row.owner.as_ref() == Some(to) {
            return Ok(nothing(match &row.checkpoint_owner {
                Some(from) => format!("{from} already hands it over to {to}"),
                None => format!("{to} already owns it"),
            }));
        }
        self.check_parents()?;
        self.check_lease_limit(to)?;
        self.warnings
            .push(format!("the leader moves no lease away from {to} for ten minutes; then it balances loads again"));
        let hints = self.members(row.owner.iter().chain(&row.checkpoint_owner).chain([to]));
        let holder = row.holder().filter(|holder| self.may_be_alive(holder));
        let Some(holder) = holder else {
            let from = row.holder().map_or_else(String::new, |dead| format!(", instead of {dead}, which is dead"));
            return Ok((Some(row.assign(to)), hints, format!("gives the lease to {to}{from}")));
        };
        if !self.snapshot.members.contains_key(holder) {
            self.require_or_force(Refusal::forceable(
                Invariant::OneOwner,
                format!("its owner {holder} {} and is no worker of this fleet: it cannot hand the lease over", {
                    self.liveness_words(holder)
                }),
            ))?;
            return Ok((
                Some(row.assign(to)),
                hints,
                format!("gives the lease to {to}, although {holder} may still read the shard"),
            ));
        }
        if let (Some(from), Some(owner)) = (&row.checkpoint_owner, &row.owner) {
            return Err(Refusal::flat(format!("{from} hands it over to {owner}: wait until that is done")));
        }
        if let Some(lasts_s) = self.snapshot.long_calls.get(&row.key) {
            self.warnings.push(format!(
                "{holder}'s processor call has not returned for {lasts_s} s: once it has lasted longer than the drain timeout and \
                 twice the shard's longest call before, it is dropped, and its records are delivered again by {to}, while \
                 it may still run in the handler"
            ));
        }
        let write = row.hand_off(to).map_err(|error| Refusal::flat(error.to_string()))?;
        let summary = format!("hands the lease over to {to} once {holder} has delivered the records it has read");
        Ok((Some(write), hints, summary))
    }

    fn reset(&mut self, at: &Checkpoint, since_ms: Option<u64>, together: &BTreeSet<ShardId>) -> Decision {
        let row = self.row;
        let holder = row.holder().filter(|holder| !row.is_finished() && self.may_be_alive(holder));
        if let Some(holder) = holder {
            return Err(Refusal {
                reason: format!(
                    "worker {holder} {} and holds the lease: it would continue from its own position. Stop the \
                     application's workers, reset, and start them again",
                    self.liveness_words(holder)
                ),
                invariant: Some(Invariant::OneOwner),
                can_force: false,
            });
        }
        if row.checkpoint == *at && row.since_ms == since_ms {
            return Ok(nothing(format!("its checkpoint already is {at}")));
        }
        if let Some(reason) = self.snapshot.missing_positions.get(&row.key) {
            return Err(Refusal::flat(format!("the stream has no such place in the shard: {reason}")));
        }
        let is_forward = is_forward(&row.checkpoint, at);
        if is_forward {
            self.require_or_force(Refusal::forceable(
                Invariant::NoLoss,
                format!("the records between {} and {at} would never be delivered", row.checkpoint),
            ))?;
        }
        self.warn_about_order(at, together);
        let summary = match is_forward {
            true => format!("skips from {} to {at}: the records in between are never delivered", row.checkpoint),
            false => format!("goes back from {} to {at}: the records after it are delivered again", row.checkpoint),
        };
        Ok((Some(row.reset(at.clone(), since_ms)), BTreeSet::new(), summary))
    }

    /// Warns about the order between this shard and its parents and children.
    fn warn_about_order(&mut self, at: &Checkpoint, together: &BTreeSet<ShardId>) {
        let snapshot = self.snapshot;
        if *at == Checkpoint::ShardEnd {
            self.warnings.push("its children start without waiting for the records left in this shard".into());
            return;
        }
        let children = snapshot.rows.values().filter(|child| child.parents.contains(&self.row.key));
        for child in children.filter(|child| !matches!(child.checkpoint, Checkpoint::TrimHorizon)) {
            self.warnings.push(match together.contains(&child.key) {
                true => format!("its child {} waits until this shard is read to its end again", child.key),
                false => format!(
                    "its child {} stays at {}: the records that this shard delivers again come after those that the child \
                     has delivered. To get all of them again in order, reset the child too",
                    child.key, child.checkpoint
                ),
            });
        }
        if let Some(parent) = unfinished_parents(self.row, &snapshot.rows).next() {
            self.warnings.push(format!("it waits until its parent {parent} is read to its end"));
        }
    }

    fn check_new_owner(&self, to: &WorkerId) -> Result<(), Refusal> {
        if !self.snapshot.members.contains_key(to) {
            let known: Vec<&str> = self.snapshot.members.keys().map(WorkerId::as_str).collect();
            let known = if known.is_empty() { "no workers".to_owned() } else { known.join(", ") };
            return Err(Refusal::flat(format!("there is no worker {to} in the fleet, which has: {known}")));
        }
        let reason = match self.snapshot.liveness.get(to) {
            Some(Liveness::Alive) => return Ok(()),
            Some(Liveness::Leaving) => format!("worker {to} is shutting down, and would hand the lease on"),
            Some(Liveness::Dead) => format!("worker {to} shows no sign of life"),
            None => format!("worker {to} was not seen to be alive"),
        };
        Err(Refusal { reason, invariant: Some(Invariant::LiveOwner), can_force: false })
    }

    fn check_parents(&mut self) -> Result<(), Refusal> {
        let snapshot = self.snapshot;
        if let Some(parent) = unfinished_parents(self.row, &snapshot.rows).next() {
            self.require_or_force(Refusal::forceable(
                Invariant::Order,
                format!("its parent {parent} is not read to its end: the new owner could only wait for that"),
            ))?;
        }
        if let Some(parent) = self.row.parents.iter().find(|parent| snapshot.bad.contains_key(*parent)) {
            let reason =
                format!("the lease of its parent {parent} cannot be read: it is unknown whether it is finished");
            return Err(Refusal { reason, invariant: Some(Invariant::Order), can_force: false });
        }
        Ok(())
    }

    fn check_lease_limit(&mut self, to: &WorkerId) -> Result<(), Refusal> {
        let Some(limit) = self.snapshot.members.get(to).copied().flatten() else { return Ok(()) };
        let is_owned = |row: &&Lease| row.owner.as_ref() == Some(to) && !row.is_finished();
        let owned = self.snapshot.rows.values().filter(is_owned).count();
        if (owned as u64) < limit {
            return Ok(());
        }
        self.require_or_force(Refusal {
            reason: format!("worker {to} has {owned} leases and takes at most {limit}"),
            invariant: None,
            can_force: true,
        })
    }

    /// Returns the refusal, or with `force` turns it into a warning.
    fn require_or_force(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        if !self.force {
            return Err(refusal);
        }
        let Refusal { reason, invariant, .. } = refusal;
        self.warnings.push(format!("forced: {reason}{}", Refusal::broken(&invariant)));
        Ok(())
    }

    fn may_be_alive(&self, worker: &WorkerId) -> bool {
        self.snapshot.liveness.get(worker) != Some(&Liveness::Dead)
    }

    fn liveness_words(&self, worker: &WorkerId) -> &'static str {
        match self.snapshot.liveness.get(worker) {
            Some(Liveness::Alive | Liveness::Dead) => "is alive",
            Some(Liveness::Leaving) => "is alive, shutting down,",
            None => "may be alive",
        }
    }

    fn members<'b>(&self, workers: impl Iterator<Item = &'b WorkerId>) -> BTreeSet<WorkerId> {
        workers.filter(|worker| self.snapshot.members.contains_key(*worker)).cloned().collect()
    }
}

fn nothing(reason: String) -> (Option<Transition>, BTreeSet<WorkerId>, String) {
    (None, BTreeSet::new(), format!("changes nothing: {reason}"))
}

/// Whether moving from one checkpoint to another may skip records. Sentinels of a time sort before all numbers, and may
/// mean a later position.
fn is_forward(from: &Checkpoint, to: &Checkpoint) -> bool {
    match (from, to) {
        (Checkpoint::ShardEnd, _) | (_, Checkpoint::TrimHorizon) => false,
        (_, Checkpoint::AtTimestamp | Checkpoint::Latest) => true,
        (from, to) => to > from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Checkpoint {
        Checkpoint::parse(text).unwrap()
    }

    fn lease(key: &str, owner: Option<&str>, checkpoint: &str, parents: &[&str]) -> Lease {
        let parents = parents.iter().map(|id| ShardId::from(*id)).collect();
        let mut lease = Lease::new(key.into(), parents, at(checkpoint));
        lease.owner = owner.map(WorkerId::from);
        lease
    }

    /// Workers a and b are alive, c is shutting down, d is dead; k is another program's worker that renews its leases.
    fn fleet(rows: impl IntoIterator<Item = Lease>) -> FleetSnapshot {
        let liveness = [
            ("a", Liveness::Alive),
            ("b", Liveness::Alive),
            ("c", Liveness::Leaving),
            ("d", Liveness::Dead),
            ("k", Liveness::Alive),
        ];
        FleetSnapshot {
            rows: rows.into_iter().map(|row| (row.key.clone(), row)).collect(),
            liveness: liveness.map(|(id, state)| (id.into(), state)).into(),
            members: ["a", "b", "c", "d"].map(|id| (id.into(), None)).into(),
            ..FleetSnapshot::default()
        }
    }

    fn plan(request: &Request, key: &str, snapshot: &FleetSnapshot, force: bool) -> Result<PlannedWrite, Refusal> {
        decide(request, &key.into(), &BTreeSet::from([key.into()]), snapshot, force)
    }

    fn after(planned: &PlannedWrite) -> &Lease {
        &planned.write.as_ref().expect("something is written").after
    }

    fn to(worker: &str) -> Request {
        Request::Assign { to: worker.into() }
    }

    fn reset(text: &str) -> Request {
        Request::Reset { at: at(text), since_ms: None }
    }

    #[test]
    fn a_lease_of_a_dead_worker_is_released_and_one_of_a_live_worker_only_by_force() {
        let snapshot = fleet([lease("dead", Some("d"), "5", &[]), lease("live", Some("a"), "5", &[])]);
        let planned = plan(&Request::Release, "dead", &snapshot, false).unwrap();
        assert_eq!((after(&planned).holder(), &after(&planned).checkpoint), (None, &at("5")));
        let refusal = plan(&Request::Release, "live", &snapshot, false).unwrap_err();
        assert_eq!((refusal.invariant, refusal.can_force), (Some(Invariant::OneOwner), true));
        assert!(refusal.to_string().contains("it would break: a shard has one reader"), "{refusal}");
        let forced = plan(&Request::Release, "live", &snapshot, true).unwrap();
        assert_eq!(after(&forced).holder(), None);
        assert_eq!(forced.hints, ["a".into()].into(), "its holder gets a hint");
        assert!(forced.warnings[0].starts_with("forced: "), "{:?}", forced.warnings);
    }

    #[test]
    fn an_owner_whose_state_is_unknown_counts_as_alive() {
        let snapshot = fleet([lease("s", Some("stranger"), "5", &[])]);
        let refusal = plan(&Request::Release, "s", &snapshot, false).unwrap_err();
        assert!(refusal.reason.contains("worker stranger may be alive"), "{refusal}");
    }

    #[test]
    fn nothing_is_written_when_the_row_already_is_as_requested() {
        let snapshot = fleet([lease("free", None, "5", &[]), lease("owned", Some("a"), "5", &[])]);
        for (request, key) in [(Request::Release, "free"), (to("a"), "owned"), (reset("5"), "free")] {
            assert_eq!(plan(&request, key, &snapshot, false).unwrap().write, None, "{request:?}");
        }
    }

    #[test]
    fn a_live_holder_hands_over_and_a_dead_one_is_replaced() {
        let snapshot = fleet([
            lease("live", Some("a"), "5", &[]),
            lease("dead", Some("d"), "5", &[]),
            lease("free", None, "5", &[]),
        ]);
        let planned = plan(&to("b"), "live", &snapshot, false).unwrap();
        assert_eq!(
            (after(&planned).owner.as_deref_id(), after(&planned).checkpoint_owner.as_deref_id()),
            (Some("b"), Some("a"))
        );
        assert_eq!(planned.hints, ["a".into(), "b".into()].into(), "both get a hint");
        for key in ["dead", "free"] {
            let planned = plan(&to("b"), key, &snapshot, false).unwrap();
            assert_eq!(
                (after(&planned).owner.as_deref_id(), after(&planned).checkpoint_owner.as_deref_id()),
                (Some("b"), None)
            );
        }
    }

    #[test]
    fn a_hand_over_in_progress_is_left_alone_unless_the_old_owner_is_dead() {
        let moving = |key: &str, from: &str| lease(key, Some(from), "5", &[]).hand_off(&"a".into()).unwrap().after;
        let snapshot = fleet([moving("live", "b"), moving("dead", "d")]);
        assert!(plan(&to("c"), "live", &snapshot, true).is_err(), "c leaves");
        let mut with_e = snapshot.clone();
        with_e.members.insert("e".into(), None);
        with_e.liveness.insert("e".into(), Liveness::Alive);
        let refusal = plan(&to("e"), "live", &with_e, true).unwrap_err();
        assert!(refusal.reason.contains("b hands it over to a"), "{refusal}");
        assert_eq!(after(&plan(&to("e"), "dead", &with_e, false).unwrap()).holder().map(WorkerId::as_str), Some("e"));
    }

    #[test]
    fn only_a_live_worker_that_is_not_shutting_down_gets_a_lease() {
        let snapshot = fleet([lease("s", None, "5", &[])]);
        for (worker, reason) in [
            ("c", "is shutting down"),
            ("d", "no sign of life"),
            ("nobody", "no worker nobody in the fleet, which has: a, b, c, d"),
        ] {
            let refusal = plan(&to(worker), "s", &snapshot, true).unwrap_err();
            assert!(refusal.reason.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_finished_shard_and_one_whose_parent_is_not_are_refused() {
        let snapshot = fleet([
            lease("parent", Some("a"), "5", &[]),
            lease("child", None, "TRIM_HORIZON", &["parent"]),
            lease("done", Some("a"), "SHARD_END", &[]),
        ]);
        let refusal = plan(&to("b"), "child", &snapshot, false).unwrap_err();
        assert_eq!(refusal.invariant, Some(Invariant::Order));
        assert!(plan(&to("b"), "child", &snapshot, true).is_ok());
        assert!(!plan(&to("b"), "done", &snapshot, true).unwrap_err().can_force);
    }

    #[test]
    fn a_worker_at_its_limit_gets_more_only_by_force() {
        let mut snapshot = fleet([lease("one", Some("b"), "5", &[]), lease("two", None, "5", &[])]);
        snapshot.members.insert("b".into(), Some(1));
        assert!(plan(&to("b"), "two", &snapshot, false).unwrap_err().reason.contains("takes at most 1"));
        assert!(plan(&to("b"), "two", &snapshot, true).is_ok());
    }

    #[test]
    fn another_programs_worker_hands_nothing_over() {
        let snapshot = fleet([lease("s", Some("k"), "5", &[])]);
        assert_eq!(plan(&to("a"), "s", &snapshot, false).unwrap_err().invariant, Some(Invariant::OneOwner));
        assert!(!after(&plan(&to("a"), "s", &snapshot, true).unwrap()).is_handed_over());
    }

    #[test]
    fn a_reset_goes_back_freely_and_forward_only_by_force() {
        let snapshot = fleet([
            lease("s", Some("d"), "50", &[]),
            lease("new", None, "TRIM_HORIZON", &[]),
            lease("done", Some("a"), "SHARD_END", &[]),
        ]);
        for (key, place) in [("s", "49"), ("s", "TRIM_HORIZON"), ("done", "7"), ("done", "TRIM_HORIZON")] {
            let planned = plan(&reset(place), key, &snapshot, false).unwrap();
            assert_eq!((after(&planned).checkpoint.to_string().as_str(), after(&planned).holder()), (place, None));
        }
        for (key, place) in [("s", "51"), ("s", "LATEST"), ("s", "SHARD_END"), ("new", "1"), ("new", "LATEST")] {
            let refusal = plan(&reset(place), key, &snapshot, false).unwrap_err();
            assert_eq!(refusal.invariant, Some(Invariant::NoLoss), "{key} to {place}");
            assert_eq!(after(&plan(&reset(place), key, &snapshot, true).unwrap()).checkpoint, at(place));
        }
    }

    #[test]
    fn force_resets_neither_a_lease_of_a_live_worker_nor_to_a_trimmed_position() {
        let mut snapshot = fleet([lease("live", Some("a"), "5", &[]), lease("gone", None, "5", &[])]);
        snapshot.missing_positions.insert("gone".into(), "trimmed".into());
        for key in ["live", "gone"] {
            assert!(!plan(&reset("3"), key, &snapshot, true).unwrap_err().can_force, "{key}");
        }
    }

    #[test]
    fn a_reset_explains_the_order_of_parents_and_children() {
        let snapshot = fleet([lease("parent", None, "SHARD_END", &[]), lease("child", None, "90", &["parent"])]);
        let alone = plan(&reset("TRIM_HORIZON"), "parent", &snapshot, false).unwrap();
        assert!(alone.warnings[0].contains("its child child stays at 90"), "{:?}", alone.warnings);
        let together = BTreeSet::from(["parent".into(), "child".into()]);
        let both = decide(&reset("TRIM_HORIZON"), &"parent".into(), &together, &snapshot, false).unwrap();
        assert!(both.warnings[0].contains("waits until this shard is read to its end"), "{:?}", both.warnings);
    }

    #[test]
    fn missing_and_unreadable_rows_are_refused_even_with_force() {
        let mut snapshot = fleet([]);
        snapshot.bad.insert("broken".into(), "attribute checkpoint is missing".into());
        assert!(plan(&Request::Release, "broken", &snapshot, true).unwrap_err().reason.contains("correct the row"));
        assert!(plan(&Request::Release, "missing", &snapshot, true).unwrap_err().reason.contains("no lease"));
    }

    trait Name {
        fn as_deref_id(&self) -> Option<&str>;
    }

    impl Name for Option<WorkerId> {
        fn as_deref_id(&self) -> Option<&str> {
            self.as_ref().map(WorkerId::as_str)
        }
    }
}
