//! The lease protocol as a model: processes, leaders, the lease table and the writes between them.
//!
//! Time is nothing but order here. `alive` says that a process's deadline lies ahead by its own clock; an observer's
//! proof that it is dead comes after that deadline, which is what `core::liveness` and its margin are for. A leader has
//! no memory: it reads a row, proves the holder dead, and sends a write that may arrive at any later time, so any number
//! of leaders, stale ones among them, are writes in flight. What a table read says is what the table holds, for all
//! reads are strongly consistent and whatever happens after a read is a later step.

mod leader;
mod state;
mod worker;
mod writes;

use crate::checker::{Goal, Model, Step};
use crate::row::{Id, Row};

/// The size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Records in each shard.
    pub records: u8,
    pub crashes: u8,
    /// The number of deadlines that running processes miss: a pause, or a partition from the fleet table.
    pub lapses: u8,
    /// Writes that get lost, whose answer gets lost, which arrive twice, or which their sender abandons while they
    /// are on their way.
    pub losses: u8,
    /// Hand-offs started, hand-offs forced, and leases released, all without need.
    pub moves: u8,
    /// Writes on their way at once.
    pub in_flight: usize,
    /// Whether the last process bears the id of the first and may be started beside it.
    pub has_namesake: bool,
}

/// The rules that may be switched off, to see that they are needed and that the checker would notice.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub checkpoint_needs_counter: bool,
    pub checkpoint_raises_counter: bool,
    pub take_over_needs_lapse: bool,
    /// A dead holder's row is read before the read that proves the holder dead, not after it.
    pub proof_follows_row: bool,
    /// A worker writes to a row that names it before it delivers: that shuts out take-overs decided on before.
    pub start_claims: bool,
    /// A lease is good for the term in which its claim was sent, not for that in which the answer came.
    pub claim_keeps_term: bool,
    pub new_owner_waits: bool,
    pub transfer_needs_hand_off: bool,
    pub adopts_hand_offs_only: bool,
    pub child_waits: bool,
    /// A hand-off is forced only once the old owner begins no more deliveries.
    pub force_needs_stop: bool,
    /// Checkpoints follow what is acknowledged, not what is handed out.
    pub checkpoints_acknowledged: bool,
    /// A worker whose consumer has ended passes a lease that it was to hand over on to its owner.
    pub passes_on: bool,
    /// Leaders give unowned leases, and those of the dead, away.
    pub leader_assigns: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        checkpoint_needs_counter: true,
        checkpoint_raises_counter: true,
        take_over_needs_lapse: true,
        proof_follows_row: true,
        start_claims: true,
        claim_keeps_term: true,
        new_owner_waits: true,
        transfer_needs_hand_off: true,
        adopts_hand_offs_only: true,
        child_waits: true,
        force_needs_stop: true,
        checkpoints_acknowledged: true,
        passes_on: true,
        leader_assigns: true,
    };
}

/// `W` processes and `S` shards: one, or a parent and its child.
pub struct Protocol<const W: usize, const S: usize> {
    pub size: Size,
    pub rules: Rules,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State<const W: usize, const S: usize> {
    rows: [Option<Row>; S],
    /// Up to which record the shard is delivered and acknowledged, by whomever.
    acknowledged: [u8; S],
    processes: [Process<S>; W],
    /// Sorted, the empty places last.
    flight: [Option<Write>; 3],
    left: Left,
    /// Whom a leader that proves first and reads later has seen dead.
    seen_dead: [bool; W],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Left {
    crashes: u8,
    lapses: u8,
    losses: u8,
    moves: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Process<const S: usize> {
    is_up: bool,
    /// Whether the deadline of its last heartbeat lies ahead. That of a process that crashed passes too.
    is_alive: bool,
    /// Whether another process has its id now.
    is_replaced: bool,
    slots: [PooledProcessor; S],
}

/// A process's relation to a shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PooledProcessor {
    /// The write whose answer is awaited; writes to a row go one after the other.
    pending: Option<Write>,
    /// Whether the term has ended since the claim that is pending was sent.
    is_old_claim: bool,
    consumer: Option<Consumer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Consumer {
    /// The row as last written or adopted.
    row: Row,
    delivered: u8,
    acknowledged: u8,
    wish: ConsumerCommand,
    /// Whether the term in which the lease was taken still lasts.
    in_term: bool,
    /// Whether the lease has not been another's since: known to the model alone.
    is_valid: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum ConsumerCommand {
    WaitForParent,
    Run,
    HandOver,
    Release,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Kind {
    /// A worker takes what names it already, before it starts.
    Claim,
    /// A worker that holds nothing back any more passes a lease on to its owner.
    PassOn,
    Checkpoint,
    Transfer,
    Release,
    End,
    /// The leader's.
    Assign,
    HandOff,
}

/// The effect of a shard's end on its child's row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Child {
    Unknown,
    Make,
    Take(Row),
}

/// A conditional write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Write {
    kind: Kind,
    shard: u8,
    /// The process that waits for the answer; leaders look at the table again instead.
    process: u8,
    before: Row,
    after: Row,
    child: Child,
    /// Whether the writer's lease has not been another's since: known to the model alone.
    is_valid: bool,
}

const LEADER: u8 = u8::MAX;

/// An action. Processes and shards by index.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "some fields are there to be read in a trace")]
pub enum Action {
    Crash(usize),
    Restart(usize),
    /// The deadline of a running process passes.
    Lapse(usize),
    /// The deadline of a crashed process passes.
    Expire(usize),
    Heartbeat(usize),
    /// A process takes the id of the first.
    Replace(usize),
    /// A replaced process finds that out.
    Resign(usize),
    /// The keeper reads a row and does what it asks for.
    Look(usize, usize),
    /// The first deadline passed, or a new term began: the consumer stops.
    Stop(usize, usize),
    LookAtParent(usize),
    /// A delivery begins.
    Deliver(usize, usize),
    Acknowledge(usize, usize),
    Checkpoint(usize, usize),
    AskToRelease(usize, usize),
    /// The consumer's last write, after it was asked to hand over or release.
    Leave(usize, usize),
    End(usize, usize),
    /// The same, but no child shows up in the listing.
    EndWithoutChild(usize, usize),
    /// The sender of a write that got lost looks at the row, and sends it again if it was not done.
    Settle(usize, usize),
    /// The sender of a claim abandons it while it is on its way.
    GiveUp(usize, usize),
    /// A leader reads the fleet table, for those that read the rows after it.
    SeeDead,
    Assign(usize, Id),
    HandOff(usize, Id),
    Force(usize),
    /// The leader finds the child in the listing and makes its row.
    MakeChild,
    Arrive(usize),
    ArriveAnswerLost(usize),
    ArriveAndAgain(usize),
    GetLost(usize),
}

pub const BACK: &str = "a checkpoint went back";
pub const LOST_TENANCY: &str = "a write of a lost tenancy was accepted";
pub const UNDELIVERED: &str = "a checkpoint lies beyond what was delivered";
const SKIPPED: &str = "a record was passed over";
pub const TWO_OWNERS: &str = "two may deliver at once";
pub const EARLY_CHILD: &str = "a child's record was delivered before its parent's end";
pub const LOST_SHARD: &str = "a shard cannot be read to its end any more";
pub const ENDLESS_HAND_OFF: &str = "a hand-off does not end";

impl<const W: usize, const S: usize> Model for Protocol<W, S> {
    type State = State<W, S>;
    type Action = Action;

    /// Nobody has the lease; of a child, no row yet, an unowned one, or one whose owner waits.
    fn initial(&self) -> Vec<Self::State> {
        let Size { crashes, lapses, losses, moves, .. } = self.size;
        let idle = PooledProcessor { pending: None, is_old_claim: false, consumer: None };
        let process = Process { is_up: true, is_alive: true, is_replaced: false, slots: [idle; S] };
        let mut state = State {
            rows: [None; S],
            acknowledged: [0; S],
            processes: [process; W],
            flight: [None; 3],
            left: Left { crashes, lapses, losses, moves },
            seen_dead: [false; W],
        };
        if self.size.has_namesake {
            (state.processes[W - 1].is_up, state.processes[W - 1].is_alive) = (false, false);
        }
        state.rows[0] = Some(Row::NEW);
        let mut children = vec![None];
        if S > 1 {
            children.extend([Some(Row::NEW), Some(Row { owner: 2, ..Row::NEW })]);
        }
        let with = |child| {
            let mut state = state;
            if S > 1 {
                state.rows[1] = child;
            }
            state
        };
        children.into_iter().map(with).collect()
    }

    fn steps(&self, state: &Self::State, steps: &mut Vec<Step<Self>>) {
        let mut go = Steps { model: self, state, steps };
        for worker in 0..W {
            go.live_and_die(worker);
            for shard in 0..S {
                go.keep(worker, shard);
                go.consume(worker, shard);
                go.settle(worker, shard);
            }
        }
        for shard in 0..S {
            go.lead(shard);
        }
        for place in 0..state.flight.len() {
            go.arrive(place);
        }
    }

    fn broken(&self, state: &Self::State) -> Option<&'static str> {
        let delivers = |worker: usize, shard: usize| state.may_deliver(worker, shard);
        let is_shared = (0..S).any(|shard| (0..W).filter(|worker| delivers(*worker, shard)).count() > 1);
        is_shared.then_some(TWO_OWNERS)
    }

    fn is_whim(&self, action: Action) -> bool {
        use Action::*;
        matches!(
            action,
            Crash(_)
                | Lapse(_)
                | Replace(_)
                | AskToRelease(..)
                | EndWithoutChild(..)
                | GiveUp(..)
                | HandOff(..)
                | Force(_)
                | ArriveAnswerLost(_)
                | ArriveAndAgain(_)
                | GetLost(_)
        )
    }

    fn class(&self, action: Action) -> u16 {
        use Action::*;
        let (kind, who, shard) = match action {
            Restart(who) => (0, who, 0),
            Expire(who) => (1, who, 0),
            Heartbeat(who) => (2, who, 0),
            Resign(who) => (3, who, 0),
            Look(who, shard) => (4, who, shard),
            Stop(who, shard) => (5, who, shard),
            LookAtParent(who) => (6, who, 0),
            Deliver(who, shard) => (7, who, shard),
            Acknowledge(who, shard) => (8, who, shard),
            Checkpoint(who, shard) => (9, who, shard),
            Leave(who, shard) => (10, who, shard),
            End(who, shard) => (11, who, shard),
            Settle(who, shard) => (12, who, shard),
            Assign(shard, _) => (13, 0, shard),
            MakeChild => (14, 0, 0),
            SeeDead => (15, 0, 0),
            // Which place a write has among those in flight changes; that one of them arrives does not.
            _ => (16, 0, 0),
        };
        u16::try_from(kind * 16 + who * 2 + shard).expect("small numbers")
    }

    fn goals(&self) -> Vec<Goal<Self::State>> {
        let is_still = |state: &Self::State| state.rows.iter().flatten().all(|row| row.from == 0 || row.is_finished());
        let is_read = |state: &Self::State| state.rows.iter().all(|row| row.is_some_and(Row::is_finished));
        vec![
            Goal { rule: ENDLESS_HAND_OFF, is_reached: is_still, under_fairness: true },
            Goal { rule: LOST_SHARD, is_reached: is_read, under_fairness: true },
        ]
    }
}

/// The steps from one state.
struct Steps<'a, const W: usize, const S: usize> {
    model: &'a Protocol<W, S>,
    state: &'a State<W, S>,
    steps: &'a mut Vec<Step<Protocol<W, S>>>,
}

impl<const W: usize, const S: usize> Steps<'_, W, S> {
    fn to(&mut self, action: Action, change: impl FnOnce(&mut State<W, S>)) {
        let mut next = *self.state;
        change(&mut next);
        self.reach(action, Ok(next));
    }

    fn reach(&mut self, action: Action, outcome: Result<State<W, S>, &'static str>) {
        self.steps.push((action, outcome.map(|next| self.tidy(next))));
    }

    fn id(&self, worker: usize) -> Id {
        if self.model.size.has_namesake && worker == W - 1 { 1 } else { Id::try_from(worker + 1).expect("few") }
    }

    /// Whether a process of this id counts as alive by its own clock.
    fn is_alive(&self, id: Id) -> bool {
        (0..W).any(|worker| self.id(worker) == id && self.state.processes[worker].is_alive)
    }

    fn has_room(&self) -> bool {
        self.state.has_room(self.model.size.in_flight)
    }

    /// States that differ in nothing that matters are made the same.
    fn tidy(&self, mut state: State<W, S>) -> State<W, S> {
        let (rows, processes) = (state.rows, state.processes);
        for place in &mut state.flight {
            // The counter has moved on: nobody will ever notice whether this write arrives.
            let is_moot = |write: &Write| {
                let slot = |process: &Process<S>| process.slots[usize::from(write.shard)];
                self.needs_counter(write.kind)
                    && rows[usize::from(write.shard)].is_none_or(|row| row.counter > write.before.counter)
                    && processes.get(usize::from(write.process)).is_none_or(|at| slot(at).pending != Some(*write))
            };
            if place.as_ref().is_some_and(is_moot) {
                *place = None;
            }
        }
        for shard in 0..S {
            state.close_gaps(shard);
        }
        state.flight.sort_unstable_by_key(|write| (write.is_none(), *write));
        state
    }
}

/// Whether what the worker had in the shard is over with this write.
fn changes_hands(kind: Kind) -> bool {
    !matches!(kind, Kind::Checkpoint | Kind::HandOff)
}
