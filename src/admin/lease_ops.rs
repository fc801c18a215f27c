//! What an operator may do to a lease by hand, and what it would break.
//!
//! Pure: the rows and what is known of the workers in; a conditional write, or a refusal that names the invariant at
//! stake, out. Most refusals can be forced, by somebody who answers for it; those cannot that would leave the fleet in
//! a state it doesn't know how to leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};
use crate::model::shard_graph::unfinished_parents;

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// That nobody owns the lease.
    Release,
    /// That this worker reads the shard.
    Assign {
        /// The worker.
        to: WorkerId,
    },
    /// That reading goes on at another place.
    Reset {
        /// The place.
        at: Checkpoint,
    },
}

/// Whether a worker is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It was seen to renew.
    LeaseDeadline,
    /// It is alive and about to leave.
    Leaving,
    /// It renewed nothing for as long as leases hold.
    Dead,
}

/// What is known when the decision is made.
#[derive(Clone, Debug, Default)]
pub struct FleetSnapshot {
    /// The rows.
    pub rows: BTreeMap<ShardId, Lease>,
    /// The rows that cannot be read, and why.
    pub bad: BTreeMap<ShardId, String>,
    /// The workers of the fleet table that matter, and the other owners of leases that do. Who isn't here is unknown.
    pub lives: BTreeMap<WorkerId, Liveness>,
    /// The workers of the fleet table, with the most leases that they will hold.
    pub members: BTreeMap<WorkerId, Option<u64>>,
    /// For resets: why the stream has no such place in the shard, by shard.
    pub missing_places: BTreeMap<ShardId, String>,
}

/// What a request of the operator's would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invariant {
    /// No record is passed over.
    NoLoss,
    /// No record of a child before its parent's end.
    Order,
    /// A shard has one reader.
    OneOwner,
    /// Every open shard has a live owner.
    LiveOwner,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLoss => "no record is passed over",
            Self::Order => "no record of a child before its parent's end",
            Self::OneOwner => "a shard has one reader",
            Self::LiveOwner => "every open shard has a live owner",
        })
    }
}

/// Why something isn't done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In a sentence.
    pub reason: String,
    /// The invariant that would break, where it is one.
    pub invariant: Option<Invariant>,
    /// Whether the operator may require_or_force.
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

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWrite {
    /// The write; none when everything is as wanted already.
    pub write: Option<Transition>,
    /// Who is told to look at the row.
    pub hints: BTreeSet<WorkerId>,
    /// What it does, in a sentence.
    pub what: String,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Whose life has to be known before [`decide`] is asked about `key`.
pub fn concerned(request: &Request, row: Option<&Lease>) -> BTreeSet<WorkerId> {
    let holder = row.filter(|row| !row.is_finished()).and_then(Lease::holder).cloned();
    let to = match request {
        Request::Assign { to } => Some(to.clone()),
        _ => None,
    };
    holder.into_iter().chain(to).collect()
}

/// Decides what `request` does to one lease; `together` are all leases of the same request.
///
/// # Errors
/// A [`Refusal`], also with `force` where the fleet could not cope.
pub fn decide(
    request: &Request,
    key: &ShardId,
    together: &BTreeSet<ShardId>,
    scene: &FleetSnapshot,
    force: bool,
) -> Result<PlannedWrite, Refusal> {
    if let Some(reason) = scene.bad.get(key) {
        return Err(Refusal::flat(format!("its lease cannot be read: {reason}; mend the row first")));
    }
    let Some(row) = scene.rows.get(key) else {
        return Err(Refusal::flat("there is no lease of this shard; `shardkeeper status` lists them".into()));
    };
    let mut case = Case { row, scene, force, warnings: Vec::new() };
    let (write, hints, what) = match request {
        Request::Release => case.release()?,
        Request::Assign { to } => case.assign(to)?,
        Request::Reset { at } => case.reset(at, together)?,
    };
    Ok(PlannedWrite { write, hints, what, warnings: case.warnings })
}

type Decision = Result<(Option<Transition>, BTreeSet<WorkerId>, String), Refusal>;

/// One lease that something is to be done to.
struct Case<'a> {
    row: &'a Lease,
    scene: &'a FleetSnapshot,
    force: bool,
    warnings: Vec<String>,
}

impl Case<'_> {
    fn release(&mut self) -> Decision {
        let row = self.row;
        if row.is_finished() {
            return Err(Refusal::flat("everything in the shard is delivered: nobody holds its lease".into()));
        }
        let Some(holder) = row.holder() else {
            return Ok(nothing("nobody owns it already".into()));
        };
        if self.may_live(holder) {
            self.require_or_force(Refusal::forceable(
                Invariant::OneOwner,
                format!(
                    "worker {holder} {}: it would read on until it notices, beside the next owner. `lease assign --to \
                     WORKER` moves the lease without that",
                    self.sign_of_life(holder)
                ),
            ))?;
        }
        let hints = self.members(row.owner.iter().chain(&row.checkpoint_owner));
        let what = format!("takes the lease from {holder}; the leader assigns it again");
        let write = row.release(holder, row.checkpoint.clone()).map_err(|error| Refusal::flat(error.to_string()))?;
        Ok((Some(write), hints, what))
    }

    fn assign(&mut self, to: &WorkerId) -> Decision {
        let row = self.row;
        if row.is_finished() {
            return Err(Refusal::flat(
                "everything in the shard is delivered: there is nothing to read (`lease reset` delivers it again)"
                    .into(),
            ));
        }
        self.check_taker(to)?;
        if row.owner.as_ref() == Some(to) {
            return Ok(nothing(match &row.checkpoint_owner {
                Some(from) => format!("it is on its way from {from} to {to} already"),
                None => format!("{to} owns it already"),
            }));
        }
        self.check_parents()?;
        self.check_room(to)?;
        self.warnings.push("the leader goes on evening loads out: it may move this lease or another back".into());
        let hints = self.members(row.owner.iter().chain(&row.checkpoint_owner).chain([to]));
        let holder = row.holder().filter(|holder| self.may_live(holder));
        let Some(holder) = holder else {
            let from = row.holder().map_or_else(String::new, |dead| format!(", instead of {dead}, which is dead"));
            return Ok((Some(row.assign(to)), hints, format!("gives the lease to {to}{from}")));
        };
        if !self.scene.members.contains_key(holder) {
            self.require_or_force(Refusal::forceable(
                Invariant::OneOwner,
                format!("its owner {holder} {} and is no worker of this fleet: it hands nothing over", {
                    self.sign_of_life(holder)
                }),
            ))?;
            return Ok((Some(row.assign(to)), hints, format!("gives the lease to {to}, though {holder} may read on")));
        }
        if let (Some(from), Some(owner)) = (&row.checkpoint_owner, &row.owner) {
            return Err(Refusal::flat(format!("it is on its way from {from} to {owner}: wait until it has arrived")));
        }
        let write = row.hand_off(to).map_err(|error| Refusal::flat(error.to_string()))?;
        let what = format!("hands the lease over to {to}, once {holder} has delivered what it holds");
        Ok((Some(write), hints, what))
    }

    fn reset(&mut self, at: &Checkpoint, together: &BTreeSet<ShardId>) -> Decision {
        let row = self.row;
        let holder = row.holder().filter(|holder| !row.is_finished() && self.may_live(holder));
        if let Some(holder) = holder {
            return Err(Refusal {
                reason: format!(
                    "worker {holder} {} and holds the lease: it would read on from where it is. Stop the application's \
                     workers, reset, and start them again",
                    self.sign_of_life(holder)
                ),
                invariant: Some(Invariant::OneOwner),
                can_force: false,
            });
        }
        if row.checkpoint == *at {
            return Ok(nothing(format!("its checkpoint is {at} already")));
        }
        if let Some(reason) = self.scene.missing_places.get(&row.key) {
            return Err(Refusal::flat(format!("the stream has no such place in the shard: {reason}")));
        }
        let is_forward = is_forward(&row.checkpoint, at);
        if is_forward {
            self.require_or_force(Refusal::forceable(
                Invariant::NoLoss,
                format!("what lies between {} and {at} would never be delivered", row.checkpoint),
            ))?;
        }
        self.explain_order(at, together);
        let what = match is_forward {
            true => format!("skips from {} to {at}: what lies between is never delivered", row.checkpoint),
            false => format!("goes back from {} to {at}: what follows is delivered again", row.checkpoint),
        };
        Ok((Some(row.reset(at.clone())), BTreeSet::new(), what))
    }

    /// Says what becomes of the order between this shard and its relatives.
    fn explain_order(&mut self, at: &Checkpoint, together: &BTreeSet<ShardId>) {
        let scene = self.scene;
        if *at == Checkpoint::ShardEnd {
            self.warnings.push("its children start without waiting for what this shard still holds".into());
            return;
        }
        let children = scene.rows.values().filter(|child| child.parents.contains(&self.row.key));
        for child in children.filter(|child| !matches!(child.checkpoint, Checkpoint::TrimHorizon)) {
            self.warnings.push(match together.contains(&child.key) {
                true => format!("its child {} waits until this shard is read to its end again", child.key),
                false => format!(
                    "its child {} stays at {}: what this shard delivers again comes after what the child has \
                     delivered. To have it all again in order, reset the child too",
                    child.key, child.checkpoint
                ),
            });
        }
        if let Some(parent) = unfinished_parents(self.row, &scene.rows).next() {
            self.warnings.push(format!("it waits until its parent {parent} is read to its end"));
        }
    }

    fn check_taker(&self, to: &WorkerId) -> Result<(), Refusal> {
        if !self.scene.members.contains_key(to) {
            let known: Vec<&str> = self.scene.members.keys().map(WorkerId::as_str).collect();
            let known = if known.is_empty() { "nobody".to_owned() } else { known.join(", ") };
            return Err(Refusal::flat(format!("there is no worker {to} in the fleet, which has: {known}")));
        }
        let reason = match self.scene.lives.get(to) {
            Some(Liveness::LeaseDeadline) => return Ok(()),
            Some(Liveness::Leaving) => format!("worker {to} is about to leave, and would hand it on"),
            Some(Liveness::Dead) => format!("worker {to} shows no sign of life"),
            None => format!("worker {to} was not seen to be alive"),
        };
        Err(Refusal { reason, invariant: Some(Invariant::LiveOwner), can_force: false })
    }

    fn check_parents(&mut self) -> Result<(), Refusal> {
        let scene = self.scene;
        if let Some(parent) = unfinished_parents(self.row, &scene.rows).next() {
            self.require_or_force(Refusal::forceable(
                Invariant::Order,
                format!("its parent {parent} is not read to its end; its owner could only wait for that"),
            ))?;
        }
        if let Some(parent) = self.row.parents.iter().find(|parent| scene.bad.contains_key(*parent)) {
            let reason =
                format!("the lease of its parent {parent} cannot be read: nobody knows whether it is finished");
            return Err(Refusal { reason, invariant: Some(Invariant::Order), can_force: false });
        }
        Ok(())
    }

    fn check_room(&mut self, to: &WorkerId) -> Result<(), Refusal> {
        let Some(limit) = self.scene.members.get(to).copied().flatten() else { return Ok(()) };
        let is_owned = |row: &&Lease| row.owner.as_ref() == Some(to) && !row.is_finished();
        let owned = self.scene.rows.values().filter(is_owned).count();
        if (owned as u64) < limit {
            return Ok(());
        }
        self.require_or_force(Refusal {
            reason: format!("worker {to} has {owned} leases and takes no more than {limit}"),
            invariant: None,
            can_force: true,
        })
    }

    /// Refuses, unless the operator insists: then it is a warning.
    fn require_or_force(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        if !self.force {
            return Err(refusal);
        }
        let Refusal { reason, invariant, .. } = refusal;
        self.warnings.push(format!("forced: {reason}{}", Refusal::broken(&invariant)));
        Ok(())
    }

    /// Whether a worker may be alive: who isn't known to be dead.
    fn may_live(&self, worker: &WorkerId) -> bool {
        self.scene.lives.get(worker) != Some(&Liveness::Dead)
    }

    fn sign_of_life(&self, worker: &WorkerId) -> &'static str {
        match self.scene.lives.get(worker) {
            Some(Liveness::LeaseDeadline | Liveness::Dead) => "is alive",
            Some(Liveness::Leaving) => "is alive, about to leave,",
            None => "may be alive",
        }
    }

    fn members<'b>(&self, workers: impl Iterator<Item = &'b WorkerId>) -> BTreeSet<WorkerId> {
        workers.filter(|worker| self.scene.members.contains_key(*worker)).cloned().collect()
    }
}

fn nothing(what: String) -> (Option<Transition>, BTreeSet<WorkerId>, String) {
    (None, BTreeSet::new(), format!("changes nothing: {what}"))
}

/// Whether going from one place to another may pass records over. `LATEST` comes before all numbers in the order of
/// checkpoints, yet means behind the newest record.
fn is_forward(from: &Checkpoint, to: &Checkpoint) -> bool {
    match (from, to) {
        (Checkpoint::ShardEnd, _) | (_, Checkpoint::TrimHorizon | Checkpoint::AtTimestamp) => false,
        (_, Checkpoint::Latest) => true,
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

    /// Workers a and b live, c leaves, d is dead; k is a stranger that renews its leases.
    fn scene(rows: impl IntoIterator<Item = Lease>) -> FleetSnapshot {
        let lives = [
            ("a", Liveness::LeaseDeadline),
            ("b", Liveness::LeaseDeadline),
            ("c", Liveness::Leaving),
            ("d", Liveness::Dead),
            ("k", Liveness::LeaseDeadline),
        ];
        FleetSnapshot {
            rows: rows.into_iter().map(|row| (row.key.clone(), row)).collect(),
            lives: lives.map(|(id, life)| (id.into(), life)).into(),
            members: ["a", "b", "c", "d"].map(|id| (id.into(), None)).into(),
            ..FleetSnapshot::default()
        }
    }

    fn ask(request: &Request, key: &str, scene: &FleetSnapshot, force: bool) -> Result<PlannedWrite, Refusal> {
        decide(request, &key.into(), &BTreeSet::from([key.into()]), scene, force)
    }

    fn after(step: &PlannedWrite) -> &Lease {
        &step.write.as_ref().expect("something is written").after
    }

    fn to(worker: &str) -> Request {
        Request::Assign { to: worker.into() }
    }

    fn reset(text: &str) -> Request {
        Request::Reset { at: at(text) }
    }

    #[test]
    fn a_lease_of_the_dead_is_released_and_one_of_the_living_only_by_force() {
        let scene = scene([lease("dead", Some("d"), "5", &[]), lease("live", Some("a"), "5", &[])]);
        let step = ask(&Request::Release, "dead", &scene, false).unwrap();
        assert_eq!((after(&step).holder(), &after(&step).checkpoint), (None, &at("5")));
        let refusal = ask(&Request::Release, "live", &scene, false).unwrap_err();
        assert_eq!((refusal.invariant, refusal.can_force), (Some(Invariant::OneOwner), true));
        assert!(refusal.to_string().contains("it would break: a shard has one reader"), "{refusal}");
        let forced = ask(&Request::Release, "live", &scene, true).unwrap();
        assert_eq!(after(&forced).holder(), None);
        assert_eq!(forced.hints, ["a".into()].into(), "its holder is told");
        assert!(forced.warnings[0].starts_with("forced: "), "{:?}", forced.warnings);
    }

    #[test]
    fn an_owner_of_whom_nothing_is_known_counts_as_alive() {
        let scene = scene([lease("s", Some("stranger"), "5", &[])]);
        let refusal = ask(&Request::Release, "s", &scene, false).unwrap_err();
        assert!(refusal.reason.contains("worker stranger may be alive"), "{refusal}");
    }

    #[test]
    fn nothing_is_written_where_everything_is_as_wanted() {
        let scene = scene([lease("free", None, "5", &[]), lease("owned", Some("a"), "5", &[])]);
        for (request, key) in [(Request::Release, "free"), (to("a"), "owned"), (reset("5"), "free")] {
            assert_eq!(ask(&request, key, &scene, false).unwrap().write, None, "{request:?}");
        }
    }

    #[test]
    fn a_live_holder_hands_over_and_a_dead_one_is_replaced() {
        let scene = scene([
            lease("live", Some("a"), "5", &[]),
            lease("dead", Some("d"), "5", &[]),
            lease("free", None, "5", &[]),
        ]);
        let step = ask(&to("b"), "live", &scene, false).unwrap();
        assert_eq!(
            (after(&step).owner.as_deref_id(), after(&step).checkpoint_owner.as_deref_id()),
            (Some("b"), Some("a"))
        );
        assert_eq!(step.hints, ["a".into(), "b".into()].into(), "both are told");
        for key in ["dead", "free"] {
            let step = ask(&to("b"), key, &scene, false).unwrap();
            assert_eq!(
                (after(&step).owner.as_deref_id(), after(&step).checkpoint_owner.as_deref_id()),
                (Some("b"), None)
            );
        }
    }

    #[test]
    fn a_hand_over_under_way_is_left_alone_unless_its_old_owner_is_dead() {
        let moving = |key: &str, from: &str| lease(key, Some(from), "5", &[]).hand_off(&"a".into()).unwrap().after;
        let scene = scene([moving("live", "b"), moving("dead", "d")]);
        assert!(ask(&to("c"), "live", &scene, true).is_err(), "c leaves");
        let mut with_e = scene.clone();
        with_e.members.insert("e".into(), None);
        with_e.lives.insert("e".into(), Liveness::LeaseDeadline);
        let refusal = ask(&to("e"), "live", &with_e, true).unwrap_err();
        assert!(refusal.reason.contains("on its way from b to a"), "{refusal}");
        assert_eq!(after(&ask(&to("e"), "dead", &with_e, false).unwrap()).holder().map(WorkerId::as_str), Some("e"));
    }

    #[test]
    fn only_a_live_worker_that_stays_is_given_a_lease() {
        let scene = scene([lease("s", None, "5", &[])]);
        for (worker, reason) in [
            ("c", "about to leave"),
            ("d", "no sign of life"),
            ("nobody", "no worker nobody in the fleet, which has: a, b, c, d"),
        ] {
            let refusal = ask(&to(worker), "s", &scene, true).unwrap_err();
            assert!(refusal.reason.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn a_finished_shard_and_one_whose_parent_is_not_are_refused() {
        let scene = scene([
            lease("parent", Some("a"), "5", &[]),
            lease("child", None, "TRIM_HORIZON", &["parent"]),
            lease("done", Some("a"), "SHARD_END", &[]),
        ]);
        let refusal = ask(&to("b"), "child", &scene, false).unwrap_err();
        assert_eq!(refusal.invariant, Some(Invariant::Order));
        assert!(ask(&to("b"), "child", &scene, true).is_ok());
        assert!(!ask(&to("b"), "done", &scene, true).unwrap_err().can_force);
    }

    #[test]
    fn a_worker_at_its_limit_gets_more_only_by_force() {
        let mut scene = scene([lease("one", Some("b"), "5", &[]), lease("two", None, "5", &[])]);
        scene.members.insert("b".into(), Some(1));
        assert!(ask(&to("b"), "two", &scene, false).unwrap_err().reason.contains("takes no more than 1"));
        assert!(ask(&to("b"), "two", &scene, true).is_ok());
    }

    #[test]
    fn a_stranger_that_renews_hands_nothing_over() {
        let scene = scene([lease("s", Some("k"), "5", &[])]);
        assert_eq!(ask(&to("a"), "s", &scene, false).unwrap_err().invariant, Some(Invariant::OneOwner));
        assert!(!after(&ask(&to("a"), "s", &scene, true).unwrap()).is_handed_over());
    }

    #[test]
    fn a_reset_goes_back_freely_and_forward_only_by_force() {
        let scene = scene([
            lease("s", Some("d"), "50", &[]),
            lease("new", None, "TRIM_HORIZON", &[]),
            lease("done", Some("a"), "SHARD_END", &[]),
        ]);
        for (key, place) in [("s", "49"), ("s", "TRIM_HORIZON"), ("done", "7"), ("done", "TRIM_HORIZON")] {
            let step = ask(&reset(place), key, &scene, false).unwrap();
            assert_eq!((after(&step).checkpoint.to_string().as_str(), after(&step).holder()), (place, None));
        }
        for (key, place) in [("s", "51"), ("s", "LATEST"), ("s", "SHARD_END"), ("new", "1"), ("new", "LATEST")] {
            let refusal = ask(&reset(place), key, &scene, false).unwrap_err();
            assert_eq!(refusal.invariant, Some(Invariant::NoLoss), "{key} to {place}");
            assert_eq!(after(&ask(&reset(place), key, &scene, true).unwrap()).checkpoint, at(place));
        }
    }

    #[test]
    fn no_force_resets_what_a_live_worker_holds_or_to_a_place_that_is_gone() {
        let mut scene = scene([lease("live", Some("a"), "5", &[]), lease("gone", None, "5", &[])]);
        scene.missing_places.insert("gone".into(), "trimmed".into());
        for key in ["live", "gone"] {
            assert!(!ask(&reset("3"), key, &scene, true).unwrap_err().can_force, "{key}");
        }
    }

    #[test]
    fn a_reset_explains_the_order_of_parents_and_children() {
        let scene = scene([lease("parent", None, "SHARD_END", &[]), lease("child", None, "90", &["parent"])]);
        let alone = ask(&reset("TRIM_HORIZON"), "parent", &scene, false).unwrap();
        assert!(alone.warnings[0].contains("its child child stays at 90"), "{:?}", alone.warnings);
        let together = BTreeSet::from(["parent".into(), "child".into()]);
        let both = decide(&reset("TRIM_HORIZON"), &"parent".into(), &together, &scene, false).unwrap();
        assert!(both.warnings[0].contains("waits until this shard is read to its end"), "{:?}", both.warnings);
    }

    #[test]
    fn rows_that_are_missing_or_broken_are_refused_whatever_the_force() {
        let mut scene = scene([]);
        scene.bad.insert("broken".into(), "attribute checkpoint is missing".into());
        assert!(ask(&Request::Release, "broken", &scene, true).unwrap_err().reason.contains("mend the row"));
        assert!(ask(&Request::Release, "missing", &scene, true).unwrap_err().reason.contains("no lease"));
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
