//! Leases: the reader of a shard and its progress, and every change that a lease may go through.
//!
//! A change is a [`Transition`]: the row as it was seen and the row that replaces it. The lease table writes it on the
//! condition that owner, checkpoint owner and counter are still those seen. Each transition raises the counter, none
//! moves a checkpoint back, and both are asserted here, in one place.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::out_of_order_acks::OutOfOrderAcks;

/// A shard's id, which is also its lease's key (KCL, single-stream mode).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(Arc<str>);

/// The name of a worker, unique in its application.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(ShardId);
text_id!(WorkerId);

/// The digits of a shard's id that tell the time.
const SHARD_TIME_DIGITS: usize = 20;
/// No shard is older than the service (2012), in milliseconds since the epoch.
const FIRST_SHARD_MS: u64 = 1_325_376_000_000;

impl ShardId {
    /// The creation time of the shard (ms since the epoch), by its id: `shardId-`, twenty digits of milliseconds,
    /// `-` and a hash. Nothing for ids of another form.
    pub fn created_ms(&self) -> Option<u64> {
        let digits = self.0.strip_prefix("shardId-")?.split('-').next()?;
        let created = digits.parse().ok().filter(|_| digits.len() == SHARD_TIME_DIGITS);
        created.filter(|created| *created >= FIRST_SHARD_MS)
    }
}

/// One row of the lease table: KCL's attributes, as far as shardkeeper has a use for them.
///
/// Attributes that are not here stay in the table as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// `leaseKey`.
    pub key: ShardId,
    /// `leaseOwner`; absent while nobody owns the lease.
    pub owner: Option<WorkerId>,
    /// `checkpointOwner`: during a hand-off the old owner, who still reads; `owner` is then the new one.
    pub checkpoint_owner: Option<WorkerId>,
    /// `leaseCounter`: raised by every write, so that a writer who has not seen the latest row fails.
    pub counter: u64,
    /// `checkpoint`.
    pub checkpoint: Checkpoint,
    /// `shardkeeperSince`: the time since which records are wanted (ms since the epoch), where it is another than the
    /// application's. A checkpoint `AT_TIMESTAMP` or `LATEST` stands for it; at `TRIM_HORIZON` it is the time of an
    /// operator's reset. It counts while nothing is delivered; KCL's workers leave it alone.
    pub since_ms: Option<u64>,
    /// `ownerSwitchesSinceCheckpoint`; information only.
    pub owner_switches: u64,
    /// `parentShardId`: none or one for DynamoDB Streams.
    pub parents: BTreeSet<ShardId>,
    /// `childShardIds`: known once the shard has ended.
    pub children: BTreeSet<ShardId>,
    /// `throughputKBps`: the smoothed rate of delivery in KiB a second.
    pub throughput_kbps: Option<f64>,
    /// `shardkeeperDone`: the records acknowledged beyond one checkpoint, as [`OutOfOrderAcks`] writes them. The only attribute that is
    /// not KCL's, whose workers leave it alone; see [`Lease::done_beyond`].
    pub done: Option<String>,
}

/// A change of one lease: the row that was seen, and the row that takes its place if nobody else was quicker.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The row as it was last seen.
    pub before: Lease,
    /// The row to write.
    pub after: Lease,
}

/// A change that the row, as seen, does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The worker is not the one that reads this shard.
    #[error("lease {key} is held by {}, not by {worker}", holder.as_ref().map_or("nobody", |id| id.as_str()))]
    NotHolder {
        /// The lease.
        key: ShardId,
        /// The worker that reads the shard, by the row.
        holder: Option<WorkerId>,
        /// The worker that asked for the change.
        worker: WorkerId,
    },
    /// The checkpoint would go back.
    #[error("the checkpoint of lease {key} would go back from {from} to {to}")]
    Backwards {
        /// The lease.
        key: ShardId,
        /// The checkpoint in the row.
        from: Checkpoint,
        /// The checkpoint that was asked for.
        to: Checkpoint,
    },
    /// The lease cannot be handed over: nobody holds it, it is finished, or a hand-off is in progress.
    #[error("lease {0} cannot be handed over: it is unowned, finished or already being handed over")]
    NotMovable(ShardId),
}

/// The loss of a lease: its row is gone or names another holder, or this worker missed its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost")]
pub struct LeaseLost;

impl Lease {
    /// A new row for a shard that nobody has read (KCL: counter 0, no owner).
    pub fn new(key: ShardId, parents: BTreeSet<ShardId>, checkpoint: Checkpoint) -> Self {
        Self {
            key,
            owner: None,
            checkpoint_owner: None,
            counter: 0,
            checkpoint,
            owner_switches: 0,
            parents,
            children: BTreeSet::new(),
            throughput_kbps: None,
            done: None,
            since_ms: None,
        }
    }

    /// The same new row, owned from the start.
    pub fn owned_by(mut self, worker: &WorkerId) -> Self {
        self.owner = Some(worker.clone());
        self
    }

    /// The worker that reads the shard: during a hand-off still the old owner (KCL: `actualOwner`).
    pub fn holder(&self) -> Option<&WorkerId> {
        self.checkpoint_owner.as_ref().or(self.owner.as_ref())
    }

    /// Whether everything in the shard is delivered.
    pub fn is_finished(&self) -> bool {
        self.checkpoint == Checkpoint::ShardEnd
    }

    /// Whether the lease is on its way from one worker to another.
    pub fn is_handed_over(&self) -> bool {
        self.checkpoint_owner.is_some()
    }

    /// Records acknowledged out of order, beyond the checkpoint. `None` also when they were stored for another
    /// checkpoint, which a worker that does not know of them has moved since.
    pub fn done_beyond(&self) -> Option<OutOfOrderAcks> {
        OutOfOrderAcks::parse(self.done.as_ref()?, &self.checkpoint)
    }

    /// Gives the lease to `worker`, even if another held it: for unowned leases, those of the dead, and a worker's own after
    /// its restart. The holder's writes fail from then on.
    pub fn assign(&self, worker: &WorkerId) -> Transition {
        let switched = self.holder().is_some_and(|holder| holder != worker);
        self.transition(|after| {
            after.owner = Some(worker.clone());
            after.checkpoint_owner = None;
            after.owner_switches += u64::from(switched);
        })
    }

    /// Takes up a lease that names `worker` as its holder, before its first delivery. Nothing changes but the counter:
    /// that fences writers that have seen an earlier row and this worker dead, and have a write on its way.
    ///
    /// # Errors
    /// [`TransitionError::NotHolder`] when somebody else reads the shard.
    pub fn claim(&self, worker: &WorkerId) -> Result<Transition, TransitionError> {
        if self.holder() != Some(worker) {
            return Err(self.not_holder(worker));
        }
        Ok(self.transition(|_| {}))
    }

    /// Starts a hand-off: `to` becomes the owner, today's owner keeps reading until it has delivered what it holds.
    ///
    /// # Errors
    /// [`TransitionError::NotMovable`] when nobody owns the lease, it is finished, or a hand-off is in progress.
    pub fn hand_off(&self, to: &WorkerId) -> Result<Transition, TransitionError> {
        let (Some(from), None, false) = (&self.owner, &self.checkpoint_owner, self.is_finished()) else {
            return Err(TransitionError::NotMovable(self.key.clone()));
        };
        Ok(self.transition(|after| {
            after.owner = Some(to.clone());
            after.checkpoint_owner = Some(from.clone());
        }))
    }

    /// Moves the checkpoint forward; `worker` must be the holder.
    ///
    /// # Errors
    /// When it is not, or the checkpoint would go back.
    pub fn checkpoint(&self, worker: &WorkerId, checkpoint: Checkpoint) -> Result<Transition, TransitionError> {
        self.advance(worker, checkpoint, |_| {})
    }

    /// Ends a hand-off with the old owner's last checkpoint: the new owner reads from there.
    ///
    /// # Errors
    /// When `worker` is not the old owner, or the checkpoint would go back.
    pub fn transfer(&self, worker: &WorkerId, checkpoint: Checkpoint) -> Result<Transition, TransitionError> {
        if self.checkpoint_owner.as_ref() != Some(worker) {
            return Err(self.not_holder(worker));
        }
        self.advance(worker, checkpoint, |after| {
            after.checkpoint_owner = None;
            after.owner_switches = 1;
        })
    }

    /// Releases the lease with its last checkpoint, for the worker that is assigned next.
    ///
    /// # Errors
    /// When `worker` does not hold the lease, or the checkpoint would go back.
    pub fn release(&self, worker: &WorkerId, checkpoint: Checkpoint) -> Result<Transition, TransitionError> {
        self.advance(worker, checkpoint, |after| {
            after.owner = None;
            after.checkpoint_owner = None;
        })
    }

    /// Marks the shard as read to its end, with the children that follow it. A hand-off ends with it.
    ///
    /// # Errors
    /// When `worker` does not hold the lease.
    pub fn end(&self, worker: &WorkerId, children: &BTreeSet<ShardId>) -> Result<Transition, TransitionError> {
        self.advance(worker, Checkpoint::ShardEnd, |after| {
            after.checkpoint_owner = None;
            after.children.extend(children.iter().cloned());
        })
    }

    /// Puts the children of a finished shard on its row, when they were not yet known at its end.
    pub fn with_children(&self, children: &BTreeSet<ShardId>) -> Transition {
        self.transition(|after| after.children.extend(children.iter().cloned()))
    }

    /// Moves the checkpoint anywhere, also back, and removes the owner: the worker that is assigned next begins there, and
    /// one that still reads the shard is fenced.
    ///
    /// Only an operator does this, by hand, and answers for it: it is the one way by which a checkpoint goes back.
    pub fn reset(&self, checkpoint: Checkpoint, since_ms: Option<u64>) -> Transition {
        let after = Self {
            owner: None,
            checkpoint_owner: None,
            counter: self.counter + 1,
            checkpoint,
            since_ms,
            owner_switches: 0,
            done: None,
            ..self.clone()
        };
        Transition { before: self.clone(), after }
    }

    fn advance(
        &self,
        worker: &WorkerId,
        checkpoint: Checkpoint,
        change: impl FnOnce(&mut Self),
    ) -> Result<Transition, TransitionError> {
        if self.holder() != Some(worker) {
            return Err(self.not_holder(worker));
        }
        if checkpoint < self.checkpoint {
            return Err(TransitionError::Backwards {
                key: self.key.clone(),
                from: self.checkpoint.clone(),
                to: checkpoint,
            });
        }
        Ok(self.transition(|after| {
            after.owner_switches = 0;
            if after.checkpoint != checkpoint {
                after.done = None;
            }
            after.checkpoint = checkpoint;
            change(after);
        }))
    }

    fn transition(&self, change: impl FnOnce(&mut Self)) -> Transition {
        let mut after = self.clone();
        change(&mut after);
        after.counter = self.counter + 1;
        assert!(after.checkpoint >= self.checkpoint, "lease {}: a transition moved the checkpoint back", self.key);
        Transition { before: self.clone(), after }
    }

    fn not_holder(&self, worker: &WorkerId) -> TransitionError {
        TransitionError::NotHolder { key: self.key.clone(), holder: self.holder().cloned(), worker: worker.clone() }
    }
}

impl Transition {
    /// The same with the shard's rate of delivery, where it is known.
    #[must_use]
    pub fn with_throughput(mut self, kbps: Option<f64>) -> Self {
        self.after.throughput_kbps = kbps.or(self.after.throughput_kbps);
        self
    }

    /// The same with the records acknowledged beyond the checkpoint that it leaves.
    #[must_use]
    pub fn with_done(mut self, done: Option<&OutOfOrderAcks>) -> Self {
        let base = &self.after.checkpoint;
        self.after.done = done.and_then(|done| done.behind(base)).map(|done| done.to_text(base));
        self
    }

    /// Whether `row` is what this transition leaves behind: how a writer tells its own write, whose answer was lost
    /// or which the client sent twice, from somebody else's.
    ///
    /// The counter goes up by one with each write, so a row with `after`'s counter, owners and progress is ours, or
    /// was written by another with the very same intent.
    pub fn is_done_in(&self, row: &Lease) -> bool {
        row.counter == self.after.counter
            && row.owner == self.after.owner
            && row.checkpoint_owner == self.after.checkpoint_owner
            && row.checkpoint == self.after.checkpoint
            && row.done == self.after.done
    }

    /// Whether `row` differs from the row seen by nothing but a hand-off that was started since: the holder adopts
    /// it and keeps reading. KCL's leader starts one without raising the counter, ours raises it.
    pub fn met_hand_off(before: &Lease, row: &Lease) -> bool {
        row.checkpoint_owner.is_some()
            && before.checkpoint_owner.is_none()
            && row.checkpoint_owner == before.owner
            && row.checkpoint == before.checkpoint
            && row.done == before.done
            && (row.counter == before.counter || row.counter == before.counter + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shards_id_tells_when_it_was_created() {
        let created = |id: &str| ShardId::from(id).created_ms();
        assert_eq!(created("shardId-00000001700000000123-6fe80a3d"), Some(1_700_000_000_123));
        assert_eq!(created("shardId-000000000001"), None, "counted, as Kinesis does");
        assert_eq!(created("shardId-00000000000000000007-6fe80a3d"), None);
        assert_eq!(created("s"), None);
    }

    fn id(text: &str) -> WorkerId {
        text.into()
    }

    fn at(number: &str) -> Checkpoint {
        Checkpoint::parse(number).expect("a checkpoint")
    }

    fn owned(owner: &str, checkpoint: &str) -> Lease {
        Lease::new("shardId-1".into(), BTreeSet::new(), at(checkpoint)).owned_by(&id(owner))
    }

    #[test]
    fn a_hand_off_keeps_the_old_owner_reading_until_it_transfers() {
        let started = owned("a", "5").hand_off(&id("b")).expect("movable").after;
        assert_eq!(started.holder(), Some(&id("a")));
        let read_on = started.checkpoint(&id("a"), at("7")).expect("a still reads").after;
        assert!(read_on.checkpoint(&id("b"), at("9")).is_err(), "b may not write before the transfer");
        let done = read_on.transfer(&id("a"), at("8")).expect("a transfers").after;
        assert_eq!((done.holder(), done.checkpoint.clone()), (Some(&id("b")), at("8")));
        assert_eq!(done.owner_switches, 1);
        assert!(done.checkpoint(&id("a"), at("9")).is_err(), "a no longer holds it");
    }

    #[test]
    fn a_claim_shuts_out_a_take_over_that_was_decided_on_before() {
        let lease = owned("a", "5");
        let claim = lease.claim(&id("a")).expect("holder");
        assert_eq!(claim.after, Lease { counter: lease.counter + 1, ..lease.clone() });
        assert!(lease.claim(&id("b")).is_err());
        assert!(!lease.assign(&id("b")).is_done_in(&claim.after));
    }

    #[test]
    fn checkpoints_never_go_back() {
        let lease = owned("a", "10");
        assert!(matches!(lease.checkpoint(&id("a"), at("9")), Err(TransitionError::Backwards { .. })));
        assert!(matches!(lease.release(&id("a"), at("TRIM_HORIZON")), Err(TransitionError::Backwards { .. })));
        assert!(lease.checkpoint(&id("a"), at("10")).is_ok());
    }

    #[test]
    fn a_reset_moves_the_checkpoint_anywhere_and_shuts_everybody_out() {
        let moving = owned("a", "10").hand_off(&id("b")).expect("movable").after;
        let reset = moving.reset(at("TRIM_HORIZON"), None);
        assert_eq!((reset.after.holder(), reset.after.counter), (None, moving.counter + 1));
        assert_eq!(reset.after.checkpoint, Checkpoint::TrimHorizon);
        assert!(reset.after.checkpoint(&id("a"), at("11")).is_err(), "a no longer holds it");
        assert!(reset.is_done_in(&reset.after) && !reset.is_done_in(&moving));
    }

    #[test]
    fn what_is_finished_unowned_or_moving_cannot_be_handed_over() {
        let moving = owned("a", "1").hand_off(&id("b")).expect("movable").after;
        let finished = owned("a", "SHARD_END");
        let unowned = Lease::new("s".into(), BTreeSet::new(), Checkpoint::TrimHorizon);
        for lease in [moving, finished, unowned] {
            assert!(matches!(lease.hand_off(&id("c")), Err(TransitionError::NotMovable(_))));
        }
    }

    #[test]
    fn an_end_during_a_hand_off_stays_with_the_one_who_read_it() {
        let moving = owned("a", "1").hand_off(&id("b")).expect("movable").after;
        let children = BTreeSet::from([ShardId::from("child")]);
        let ended = moving.end(&id("a"), &children).expect("a reads").after;
        assert!(ended.is_finished() && !ended.is_handed_over());
        assert_eq!(ended.children, children);
    }

    #[test]
    fn a_write_is_recognised_by_its_counter_and_content() {
        let lease = owned("a", "1");
        let mine = lease.checkpoint(&id("a"), at("2")).expect("holder");
        assert!(mine.is_done_in(&mine.after));
        assert!(!mine.is_done_in(&lease));
        assert!(!mine.is_done_in(&lease.assign(&id("b")).after));
        assert!(!mine.is_done_in(&lease.checkpoint(&id("a"), at("3")).expect("holder").after));
    }

    #[test]
    fn what_is_done_beyond_a_checkpoint_goes_with_it_alone() {
        let beyond = OutOfOrderAcks { through: "9".parse().expect("digits"), open: vec!["7".parse().expect("digits")] };
        let mine = owned("a", "1").checkpoint(&id("a"), at("5")).expect("holder").with_done(Some(&beyond));
        assert_eq!(mine.after.done_beyond(), Some(beyond.clone()));
        let again = mine.after.checkpoint(&id("a"), at("5")).expect("holder");
        assert_eq!(again.after.done_beyond(), Some(beyond.clone()), "the same checkpoint");
        assert!(!again.is_done_in(&again.clone().with_done(None).after), "a write of it alone can be told");
        let handed = mine.after.hand_off(&id("b")).expect("movable").after;
        assert_eq!(handed.done_beyond(), Some(beyond.clone()));
        assert!(Transition::met_hand_off(&mine.after, &handed) && !Transition::met_hand_off(&mine.before, &handed));
        let by_kcl = Lease { checkpoint: at("6"), ..mine.after.clone() };
        assert_eq!(by_kcl.done_beyond(), None, "it was kept for another checkpoint");
        for later in [
            mine.after.checkpoint(&id("a"), at("8")).expect("holder"),
            mine.after.end(&id("a"), &BTreeSet::new()).expect("holder"),
            mine.after.reset(at("5"), None),
        ] {
            assert_eq!(later.after.done, None);
        }
    }

    #[test]
    fn a_hand_off_is_told_from_a_takeover_by_a_namesake() {
        let lease = owned("a", "1");
        assert!(Transition::met_hand_off(&lease, &lease.hand_off(&id("b")).expect("movable").after));
        assert!(!Transition::met_hand_off(&lease, &lease.assign(&id("a")).after));
        assert!(!Transition::met_hand_off(&lease, &lease.assign(&id("b")).after));
    }

    proptest! {
        #[test]
        fn every_transition_raises_the_counter_and_keeps_the_checkpoint_from_going_back(
            steps in prop::collection::vec((0_u8..6, 0_u8..3, 0_u64..50), 1..40),
        ) {
            let mut lease = Lease::new("s".into(), BTreeSet::new(), Checkpoint::TrimHorizon);
            for (kind, worker, number) in steps {
                let worker = id(["a", "b", "c"][usize::from(worker)]);
                let to = at(&number.to_string());
                let transition = match kind {
                    0 => Ok(lease.assign(&worker)),
                    1 => lease.hand_off(&worker),
                    2 => lease.checkpoint(&worker, to),
                    3 => lease.transfer(&worker, to),
                    4 => lease.release(&worker, to),
                    _ => lease.end(&worker, &BTreeSet::new()),
                };
                let Ok(transition) = transition else { continue };
                prop_assert_eq!(&transition.before, &lease);
                prop_assert_eq!(transition.after.counter, lease.counter + 1);
                prop_assert!(transition.after.checkpoint >= lease.checkpoint);
                lease = transition.after;
            }
        }
    }
}
