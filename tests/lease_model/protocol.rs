//! The lease protocol as a model: processes, leaders, the lease table and the writes between them.
//!
//! Time is nothing but order here. `alive` says that a process's deadline lies ahead by its own clock; an observer's
//! proof that it is dead comes after that deadline, which is what `core::liveness` and its margin are for. A leader has
//! no memory: it reads a row, proves the holder dead, and sends a write that may arrive at any later time, so any number
//! of leaders, stale ones among them, are writes in flight. What a table read says is what the table holds, for all
//! reads are strongly consistent and whatever happens after a read is a later step.

use crate::checker::{Goal, Model, Step};
use crate::row::{Change, Id, Row, is_adopted, is_own_work};

/// How much of everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Records in each shard.
    pub records: u8,
    pub crashes: u8,
    /// How often a process that runs misses its deadline: a pause, or a partition from the fleet table.
    pub lapses: u8,
    /// Writes that get lost, whose answer gets lost, which arrive twice, or which their sender gives up while they
    /// are on their way.
    pub losses: u8,
    /// Hand-offs started, hand-offs forced, and leases given up, all without need.
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
    /// A worker whose consumer is no more passes a lease that it was to hand over on to its owner.
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
    slots: [Slot; S],
}

/// What a process has to do with a shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot {
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
    wish: Wish,
    /// Whether the term in which the lease was taken goes on.
    in_term: bool,
    /// Whether the lease has not been another's since: known to the model alone.
    is_valid: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Wish {
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

/// What a shard's end does to its child's row.
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

/// What can happen. Processes and shards by index.
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
    /// The consumer's last write, after it was asked to hand over or give up.
    Leave(usize, usize),
    End(usize, usize),
    /// The same, but no child shows up in the listing.
    EndWithoutChild(usize, usize),
    /// The sender of a write that got lost looks at the row, and sends it again if it was not done.
    Settle(usize, usize),
    /// The sender of a claim gives up while it is on its way.
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
        let idle = Slot { pending: None, is_old_claim: false, consumer: None };
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

impl<const W: usize, const S: usize> State<W, S> {
    /// Whether a delivery of this process may begin now.
    fn may_deliver(&self, worker: usize, shard: usize) -> bool {
        let process = &self.processes[worker];
        let may = |consumer: Consumer| consumer.wish == Wish::Run && consumer.in_term;
        process.is_up && process.is_alive && process.slots[shard].consumer.is_some_and(may)
    }

    fn is_finished(&self, shard: usize) -> bool {
        self.rows[shard].is_some_and(Row::is_finished)
    }

    /// Whether the shard's parent, if it has one, is read to its end.
    fn is_open(&self, shard: usize) -> bool {
        shard == 0 || self.is_finished(0)
    }

    fn has_room(&self, limit: usize) -> bool {
        self.flight.iter().flatten().count() < limit
    }

    fn is_in_flight(&self, write: &Write) -> bool {
        self.flight.contains(&Some(*write))
    }

    fn put(&mut self, write: Write) {
        let place = self.flight.iter_mut().find(|place| place.is_none()).expect("there was room");
        *place = Some(write);
    }

    /// The lease has come to somebody: whoever had it before has no more say.
    fn end_tenancy(&mut self, shard: usize) {
        for process in &mut self.processes {
            let slot = &mut process.slots[shard];
            if let Some(consumer) = &mut slot.consumer {
                consumer.is_valid = false;
            }
            if let Some(write) = &mut slot.pending {
                write.is_valid = false;
            }
        }
        for write in self.flight.iter_mut().flatten().filter(|write| usize::from(write.shard) == shard) {
            write.is_valid = false;
        }
    }

    fn start(&mut self, worker: usize, shard: usize, row: Row, in_term: bool) {
        let wish = if self.is_open(shard) { Wish::Run } else { Wish::WaitForParent };
        let position = row.checkpoint;
        self.processes[worker].slots[shard].consumer =
            Some(Consumer { row, delivered: position, acknowledged: position, wish, in_term, is_valid: true });
    }

    fn stop(&mut self, worker: usize, shard: usize) {
        self.processes[worker].slots[shard] = Slot { pending: None, is_old_claim: false, consumer: None };
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

    // Processes.

    fn live_and_die(&mut self, worker: usize) {
        let left = self.state.left;
        let process = self.state.processes[worker];
        let is_namesake = self.model.size.has_namesake && worker == W - 1;
        if !process.is_up {
            if process.is_alive {
                self.to(Action::Expire(worker), |next| next.processes[worker].is_alive = false);
            }
            if is_namesake && !self.state.processes[0].is_replaced {
                self.to(Action::Replace(worker), |next| {
                    next.processes[0].is_replaced = true;
                    (next.processes[worker].is_up, next.processes[worker].is_alive) = (true, true);
                });
            } else if !process.is_replaced {
                self.to(Action::Restart(worker), |next| {
                    (next.processes[worker].is_up, next.processes[worker].is_alive) = (true, true);
                });
            }
            return;
        }
        if left.crashes > 0 {
            self.to(Action::Crash(worker), |next| {
                next.left.crashes -= 1;
                next.processes[worker].is_up = false;
                (0..S).for_each(|shard| next.stop(worker, shard));
            });
        }
        if process.is_alive {
            if left.lapses > 0 {
                self.to(Action::Lapse(worker), |next| {
                    next.left.lapses -= 1;
                    next.processes[worker].is_alive = false;
                });
            }
        } else if !process.is_replaced {
            self.to(Action::Heartbeat(worker), |next| {
                let process = &mut next.processes[worker];
                process.is_alive = true;
                for slot in &mut process.slots {
                    slot.is_old_claim = slot.pending.is_some_and(|write| write.kind == Kind::Claim);
                    if let Some(consumer) = &mut slot.consumer {
                        consumer.in_term = false;
                    }
                }
            });
        }
        if process.is_replaced {
            self.to(Action::Resign(worker), |next| {
                (next.processes[worker].is_up, next.processes[worker].is_alive) = (false, false);
                (0..S).for_each(|shard| next.stop(worker, shard));
            });
        }
    }

    /// The keeper: what the row asks for.
    fn keep(&mut self, worker: usize, shard: usize) {
        let (me, process) = (self.id(worker), self.state.processes[worker]);
        let slot = process.slots[shard];
        let Some(row) = self.state.rows[shard].filter(|row| process.is_up && !row.is_finished()) else { return };
        let is_idle = slot.consumer.is_none() && slot.pending.is_none();
        let rules = self.model.rules;
        let action = Action::Look(worker, shard);
        if row.owner == me && (row.from == 0 || !rules.new_owner_waits) {
            if is_idle && rules.start_claims && row.from == 0 {
                self.send_change(action, worker, shard, Kind::Claim, row, Change::Claim(me));
            } else if is_idle {
                self.to(action, |next| next.start(worker, shard, row, true));
            }
        } else if row.owner != me {
            match slot.consumer {
                Some(_) if row.holder() != me => self.to(action, |next| next.stop(worker, shard)),
                Some(consumer) if consumer.wish == Wish::Run || consumer.wish == Wish::WaitForParent => {
                    self.wish(action, worker, shard, Wish::HandOver);
                }
                None if is_idle && row.holder() == me && rules.passes_on => {
                    self.send_change(action, worker, shard, Kind::PassOn, row, Change::Assign(row.owner));
                }
                _ => {}
            }
        }
    }

    fn wish(&mut self, action: Action, worker: usize, shard: usize, wish: Wish) {
        self.to(action, |next| {
            if let Some(consumer) = &mut next.processes[worker].slots[shard].consumer {
                consumer.wish = wish;
            }
        });
    }

    // The consumer of a shard.

    fn consume(&mut self, worker: usize, shard: usize) {
        let (state, process) = (self.state, self.state.processes[worker]);
        let slot = process.slots[shard];
        let Some(consumer) = slot.consumer else { return };
        if !process.is_alive || !consumer.in_term {
            self.to(Action::Stop(worker, shard), |next| next.stop(worker, shard));
        }
        let records = self.model.size.records;
        let is_done = consumer.acknowledged == consumer.delivered;
        let is_free = slot.pending.is_none();
        if consumer.wish == Wish::WaitForParent && (state.is_open(shard) || !self.model.rules.child_waits) {
            self.wish(Action::LookAtParent(worker), worker, shard, Wish::Run);
        }
        if state.may_deliver(worker, shard) && is_done && consumer.delivered < records {
            let action = Action::Deliver(worker, shard);
            if !state.is_open(shard) {
                self.reach(action, Err(EARLY_CHILD));
            } else if consumer.delivered > state.acknowledged[shard] {
                self.reach(action, Err(SKIPPED));
            } else {
                self.consumer(action, worker, shard, |consumer| consumer.delivered += 1);
            }
        }
        if !is_done {
            let mut next = *state;
            let acknowledged = consumer.delivered;
            next.acknowledged[shard] = next.acknowledged[shard].max(acknowledged);
            next.processes[worker].slots[shard].consumer = Some(Consumer { acknowledged, ..consumer });
            self.reach(Action::Acknowledge(worker, shard), Ok(next));
        }
        if self.state.left.moves > 0 && consumer.wish == Wish::Run && state.may_deliver(worker, shard) {
            let mut next = *state;
            next.left.moves -= 1;
            next.processes[worker].slots[shard].consumer = Some(Consumer { wish: Wish::Release, ..consumer });
            self.reach(Action::AskToRelease(worker, shard), Ok(next));
        }
        if is_free {
            self.write_down(worker, shard, consumer, is_done);
        }
    }

    /// The writes of a consumer that awaits no answer.
    fn write_down(&mut self, worker: usize, shard: usize, consumer: Consumer, is_done: bool) {
        let (me, row) = (self.id(worker), consumer.row);
        let done = if self.model.rules.checkpoints_acknowledged { consumer.acknowledged } else { consumer.delivered };
        let position = done.max(row.checkpoint);
        match consumer.wish {
            Wish::Run if position > row.checkpoint => {
                let change = Change::Checkpoint(me, position);
                self.send_change(Action::Checkpoint(worker, shard), worker, shard, Kind::Checkpoint, row, change);
            }
            Wish::HandOver if is_done && row.from == 0 => {
                // The leader has written the row since: read it, and go on from a hand-off alone.
                let found = self.state.rows[shard].filter(|found| self.adopts(me, row, *found));
                let transfer = |row: Row| row.after(Change::Transfer(me, position));
                match found.and_then(transfer) {
                    Some(_) => self.consumer(Action::Leave(worker, shard), worker, shard, |consumer| {
                        consumer.row = found.unwrap_or(row);
                    }),
                    None => self.to(Action::Leave(worker, shard), |next| next.stop(worker, shard)),
                }
            }
            Wish::HandOver | Wish::Release if is_done => {
                let (kind, change) = match row.from {
                    0 => (Kind::Release, Change::Release(me, position)),
                    _ => (Kind::Transfer, Change::Transfer(me, position)),
                };
                self.send_change(Action::Leave(worker, shard), worker, shard, kind, row, change);
            }
            _ => {}
        }
        if consumer.wish == Wish::Run && self.state.may_deliver(worker, shard) && is_done {
            self.end(worker, shard, consumer);
        }
    }

    fn end(&mut self, worker: usize, shard: usize, consumer: Consumer) {
        let (me, row) = (self.id(worker), consumer.row);
        if consumer.acknowledged < self.model.size.records || !self.has_room() {
            return;
        }
        let Some(after) = row.after(Change::End(me)) else {
            return self.to(Action::End(worker, shard), |next| next.stop(worker, shard));
        };
        let mut write = self.write(worker, shard, Kind::End, row, after);
        write.is_valid = consumer.is_valid;
        if S > 1 && shard == 0 {
            let lost = Write { child: Child::Unknown, ..write };
            if self.state.left.losses > 0 {
                self.send(Action::EndWithoutChild(worker, shard), worker, lost);
            }
            write.child = Child::Make;
        }
        self.send(Action::End(worker, shard), worker, write);
    }

    fn consumer(&mut self, action: Action, worker: usize, shard: usize, change: impl FnOnce(&mut Consumer)) {
        self.to(action, |next| {
            if let Some(consumer) = &mut next.processes[worker].slots[shard].consumer {
                change(consumer);
            }
        });
    }

    // Writes and their answers.

    fn write(&self, worker: usize, shard: usize, kind: Kind, before: Row, after: Row) -> Write {
        let consumer = self.state.processes[worker].slots[shard].consumer;
        let is_valid = consumer.is_none_or(|consumer| consumer.is_valid);
        let number = |index: usize| u8::try_from(index).expect("few");
        let (process, shard) = (number(worker), number(shard));
        Write { kind, shard, process, before, after, child: Child::Unknown, is_valid }
    }

    /// Sends what the row allows; a consumer that the row does not allow it has lost the lease.
    fn send_change(&mut self, action: Action, worker: usize, shard: usize, kind: Kind, row: Row, change: Change) {
        if !self.has_room() {
            return;
        }
        let Some(mut after) = row.after(change) else {
            return self.to(action, |next| next.stop(worker, shard));
        };
        if kind == Kind::Checkpoint && !self.model.rules.checkpoint_raises_counter {
            after.counter = row.counter;
        }
        self.send(action, worker, self.write(worker, shard, kind, row, after));
    }

    fn send(&mut self, action: Action, worker: usize, write: Write) {
        self.to(action, |next| {
            next.processes[worker].slots[usize::from(write.shard)].pending = Some(write);
            if !next.is_in_flight(&write) {
                next.put(write);
            }
        });
    }

    /// Whoever awaits an answer in vain looks at the row, and sends the write again if it is neither done nor on its way.
    fn settle(&mut self, worker: usize, shard: usize) {
        let process = self.state.processes[worker];
        let slot = process.slots[shard];
        let Some(write) = slot.pending else { return };
        let action = Action::Settle(worker, shard);
        let Some(found) = self.state.rows[shard] else { return };
        if self.state.is_in_flight(&write) && found == write.before {
            if self.state.left.losses > 0 && slot.consumer.is_none() {
                self.to(Action::GiveUp(worker, shard), |next| {
                    next.left.losses -= 1;
                    next.stop(worker, shard);
                });
            }
            return;
        }
        if found != write.before {
            let mut next = *self.state;
            self.answer(&mut next, write, found);
            self.reach(action, Ok(next));
        } else if slot.consumer.is_none_or(|consumer| !process.is_alive || !consumer.in_term) {
            self.to(action, |next| next.stop(worker, shard));
        } else if self.has_room() {
            let child = if write.child == Child::Unknown { Child::Unknown } else { Child::Make };
            self.send(action, worker, Write { child, ..write });
        }
    }

    fn adopts(&self, me: Id, known: Row, found: Row) -> bool {
        is_adopted(me, known, found) || (!self.model.rules.adopts_hand_offs_only && found.holder() == me)
    }

    /// What the sender makes of the row that its write has left behind or met.
    fn answer(&self, next: &mut State<W, S>, write: Write, found: Row) {
        let (worker, shard) = (usize::from(write.process), usize::from(write.shard));
        let (me, rules) = (self.id(worker), self.model.rules);
        let is_done = is_own_work(write.before, write.after, found);
        let slot = &mut next.processes[worker].slots[shard];
        slot.pending = None;
        let is_old_claim = std::mem::take(&mut slot.is_old_claim);
        match (write.kind, &mut slot.consumer) {
            (Kind::Claim, None) if is_done && found.owner == me && found.from == 0 => {
                next.start(worker, shard, found, !(is_old_claim && rules.claim_keeps_term));
            }
            (Kind::Checkpoint, Some(consumer)) if is_done => consumer.row = found,
            (Kind::Transfer | Kind::Release | Kind::End, consumer) if is_done => *consumer = None,
            (_, Some(consumer)) if self.adopts(me, consumer.row, found) => consumer.row = found,
            (_, consumer) => *consumer = None,
        }
    }

    fn arrive(&mut self, place: usize) {
        let Some(write) = self.state.flight[place] else { return };
        let has_losses = self.state.left.losses > 0;
        let lose = |next: &mut State<W, S>| next.left.losses -= 1;
        if has_losses {
            self.to(Action::GetLost(place), |next| {
                lose(next);
                next.flight[place] = None;
            });
        }
        let mut next = *self.state;
        next.flight[place] = None;
        let is_applied = match self.apply(&mut next, write) {
            Ok(is_applied) => is_applied,
            Err(rule) => return self.reach(Action::Arrive(place), Err(rule)),
        };
        if has_losses && is_applied {
            let mut silent = next;
            lose(&mut silent);
            self.reach(Action::ArriveAnswerLost(place), Ok(silent));
            silent.flight[place] = Some(write);
            if let (Some(copy), true) = (&mut silent.flight[place], changes_hands(write.kind)) {
                copy.is_valid = false;
            }
            self.reach(Action::ArriveAndAgain(place), Ok(silent));
        }
        let (worker, shard) = (usize::from(write.process), usize::from(write.shard));
        let is_awaited = |pending: Write| Write { is_valid: write.is_valid, ..pending } == write;
        if worker < W && self.state.processes[worker].slots[shard].pending.is_some_and(is_awaited) {
            if !is_applied && next.rows[shard] == Some(write.before) {
                self.refuse_child(&mut next, write);
            } else if let Some(found) = next.rows[shard] {
                self.answer(&mut next, write, found);
            }
        }
        self.reach(Action::Arrive(place), Ok(next));
    }

    /// The parent's part of a shard's end was fine, the child's was not: it is taken as it is, or left alone.
    fn refuse_child(&self, next: &mut State<W, S>, write: Write) {
        let free = next.rows[1].filter(|row| row.owner == 0 && !row.is_finished());
        let again = Write { child: free.map_or(Child::Unknown, Child::Take), ..write };
        next.processes[usize::from(write.process)].slots[0].pending = Some(again);
        next.put(again);
    }

    /// The table's part: the write is done if the row is as its writer saw it.
    fn apply(&self, next: &mut State<W, S>, write: Write) -> Result<bool, &'static str> {
        let (shard, rules) = (usize::from(write.shard), self.model.rules);
        let Some(row) = next.rows[shard] else { return Ok(false) };
        let Write { before, after, .. } = write;
        let is_free = (write.kind == Kind::Transfer && !rules.transfer_needs_hand_off)
            || (row.owner, row.from) == (before.owner, before.from);
        if !is_free || (self.needs_counter(write.kind) && row.counter != before.counter) {
            return Ok(false);
        }
        let child = match write.child {
            Child::Unknown => None,
            Child::Make if next.rows[1].is_some() => return Ok(false),
            Child::Make => Some(Row { owner: after.owner, ..Row::NEW }),
            Child::Take(seen) if next.rows[1] != Some(seen) => return Ok(false),
            Child::Take(seen) => seen.after(Change::Assign(after.owner)),
        };
        // Only what changes is written.
        let mut written = Row { counter: after.counter, ..row };
        if after.owner != before.owner {
            written.owner = after.owner;
        }
        if after.from != before.from {
            written.from = after.from;
        }
        if after.checkpoint != before.checkpoint {
            written.checkpoint = after.checkpoint;
        }
        if written.checkpoint < row.checkpoint {
            return Err(BACK);
        }
        if !write.is_valid {
            return Err(LOST_TENANCY);
        }
        let last = if written.is_finished() { self.model.size.records } else { written.checkpoint };
        if last > next.acknowledged[shard] {
            return Err(UNDELIVERED);
        }
        next.rows[shard] = Some(written);
        if changes_hands(write.kind) {
            next.end_tenancy(shard);
        }
        if let Some(child) = child {
            next.rows[1] = Some(child);
            next.end_tenancy(1);
        }
        Ok(true)
    }

    fn needs_counter(&self, kind: Kind) -> bool {
        match kind {
            Kind::Checkpoint => self.model.rules.checkpoint_needs_counter,
            Kind::Transfer => self.model.rules.transfer_needs_hand_off,
            _ => true,
        }
    }

    // Leaders.

    fn lead(&mut self, shard: usize) {
        let Some(row) = self.state.rows[shard] else {
            if self.state.is_open(shard) {
                self.to(Action::MakeChild, |next| next.rows[shard] = Some(Row::NEW));
            }
            return;
        };
        let rules = self.model.rules;
        if !rules.proof_follows_row && shard == 0 {
            let mut dead = [false; W];
            (0..W).for_each(|worker| dead[worker] = !self.is_alive(self.id(worker)));
            if dead != self.state.seen_dead {
                self.to(Action::SeeDead, |next| next.seen_dead = dead);
            }
        }
        if row.is_finished() || !self.state.is_open(shard) || !self.has_room() {
            return;
        }
        let is_dead = |id: Id| match rules.proof_follows_row {
            true => !self.is_alive(id),
            false => self.state.seen_dead[usize::from(id) - 1],
        };
        let members: Vec<Id> =
            (1..=Id::try_from(W - usize::from(self.model.size.has_namesake)).expect("few")).collect();
        let dead: Vec<Id> = members.iter().copied().filter(|id| is_dead(*id)).collect();
        let holder = row.holder();
        let is_vacant = holder == 0 || dead.contains(&holder) || !rules.take_over_needs_lapse;
        for &to in members.iter().filter(|id| !dead.contains(id) && **id != holder) {
            if is_vacant && rules.leader_assigns {
                self.send_as_leader(Action::Assign(shard, to), shard, Kind::Assign, row, Change::Assign(to));
            } else if !is_vacant && self.state.left.moves > 0 && row.from == 0 {
                self.send_as_leader(Action::HandOff(shard, to), shard, Kind::HandOff, row, Change::HandOff(to));
            }
        }
        let goes_on = |worker: usize| self.id(worker) == row.from && self.state.may_deliver(worker, shard);
        let may_force = row.from != 0 && !(rules.force_needs_stop && (0..W).any(goes_on));
        if may_force && self.state.left.moves > 0 {
            self.send_as_leader(Action::Force(shard), shard, Kind::Assign, row, Change::Assign(row.owner));
        }
    }

    fn send_as_leader(&mut self, action: Action, shard: usize, kind: Kind, row: Row, change: Change) {
        let Some(after) = row.after(change) else { return };
        let write = Write { process: LEADER, is_valid: true, ..self.write(0, shard, kind, row, after) };
        if self.state.is_in_flight(&write) {
            return;
        }
        self.to(action, |next| {
            if matches!(action, Action::HandOff(..) | Action::Force(_)) {
                next.left.moves -= 1;
            }
            next.put(write);
        });
    }

    // States that differ in nothing that matters are made the same.

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

impl<const W: usize, const S: usize> State<W, S> {
    /// Counters are told apart by whether they are equal or differ by one, and a write is one ahead of what it was
    /// made from. So they count from the lowest that anybody remembers, and no gap need be wider than 3.
    fn close_gaps(&mut self, shard: usize) {
        let mut seen = 0_u64;
        self.each_row(shard, |row| seen |= 1 << row.counter);
        let (mut next, mut gap, mut renamed) = (0, 0, [0; 64]);
        for counter in seen.trailing_zeros()..u64::BITS - seen.leading_zeros() {
            if seen >> counter & 1 == 1 {
                next += std::mem::take(&mut gap);
                renamed[counter as usize] = next;
            }
            gap = 3.min(gap + 1);
        }
        self.each_row(shard, |row| row.counter = renamed[usize::from(row.counter)]);
    }

    fn each_row(&mut self, shard: usize, mut visit: impl FnMut(&mut Row)) {
        let visit_write = |write: &mut Write, visit: &mut dyn FnMut(&mut Row)| {
            if usize::from(write.shard) == shard {
                visit(&mut write.before);
                visit(&mut write.after);
            }
            if let (Child::Take(row), 1) = (&mut write.child, shard) {
                visit(row);
            }
        };
        self.rows[shard].iter_mut().for_each(&mut visit);
        for slot in self.processes.iter_mut().flat_map(|process| &mut process.slots) {
            slot.pending.iter_mut().for_each(|write| visit_write(write, &mut visit));
        }
        for process in &mut self.processes {
            process.slots[shard].consumer.iter_mut().for_each(|consumer| visit(&mut consumer.row));
        }
        self.flight.iter_mut().flatten().for_each(|write| visit_write(write, &mut visit));
    }
}

/// Whether what the worker had in the shard is over with this write.
fn changes_hands(kind: Kind) -> bool {
    !matches!(kind, Kind::Checkpoint | Kind::HandOff)
}

impl<const W: usize, const S: usize> std::fmt::Debug for State<W, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows {:?}, acknowledged {:?}", self.rows, self.acknowledged)?;
        for (worker, process) in self.processes.iter().enumerate() {
            let Process { is_up, is_alive, .. } = process;
            write!(f, "\n    process {worker}: up {is_up}, alive {is_alive}")?;
            for slot in &process.slots {
                write!(f, ", {:?}, awaits {:?}", slot.consumer, slot.pending)?;
            }
        }
        write!(f, "\n    on their way: {:?}", self.flight.iter().flatten().collect::<Vec<_>>())
    }
}
