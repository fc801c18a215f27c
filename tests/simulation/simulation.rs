//! One simulated fleet, from its start to the quiet at its end.
//!
//! Time goes in steps. In each, the service carries out the calls that have arrived, answers arrive at the processes,
//! and then each process runs for that long, alone. Nothing happens between processes but by calls, so the order in
//! which they run within a step cannot be seen by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use serde_json::json;
use shardkeeper::internals::coordination::WorkerExit;
use shardkeeper_local::{LostCall, Request, StreamAction};
use tokio::sync::oneshot;

use super::bugs::{Bug, Interference};
use super::checker::{Checker, Rule, Violation};
use super::faults::{self, Fate, Kind, Window};
use super::history::{Event, History, Ms, Row};
use super::network::{Outbox, Outgoing, Reply};
use super::process::{Process, Setup};
use super::processor::Mood;
use super::report::Report;
use super::scenario::{Act, Scenario, below, chance, ms};
use super::service::{APP, Service, TABLE};

/// The length of a step.
const STEP: Ms = 5;
/// How often the end of the chaos, trimming and the fleet's state are looked at.
const LOOK: Ms = 100;
/// The most processes at once.
const MOST_PROCESSES: usize = 6;

/// How one simulation went.
pub struct Outcome {
    pub hash: u64,
    pub violation: Option<Violation>,
    pub recent: Vec<String>,
    pub report: Report,
}

/// Runs the scenario to its end, or to the first violation.
pub fn run(scenario: &Scenario, bug: Option<Bug>) -> Outcome {
    fastrand::seed(scenario.seed); // the SDK draws its jitter there
    let mut simulation = Simulation::new(scenario.clone(), bug);
    while simulation.now < scenario.ends() && simulation.history.violation().is_none() {
        simulation.step();
    }
    simulation.finish()
}

/// What travels between processes and the service.
enum Parcel {
    Call { process: usize, request: Request, fate: Fate, caller: oneshot::Sender<Reply> },
    Reply { caller: oneshot::Sender<Reply>, reply: Reply },
}

/// Something that was put off.
#[derive(Clone, Debug)]
enum Later {
    Start(String),
    Stop { worker: String, returns: bool },
    MendRow { key: String, row: serde_json::Value },
}

struct Simulation {
    scenario: Scenario,
    bug: Option<Bug>,
    interference: Interference,
    rng: Rng,
    now: Ms,
    history: History,
    service: Service,
    outbox: Outbox,
    parcels: BTreeMap<(Ms, u64), Parcel>,
    sent: u64,
    windows: Vec<Window>,
    processes: Vec<Process>,
    /// Every worker id that more than one process had.
    shared_ids: BTreeSet<String>,
    used_ids: BTreeSet<String>,
    /// Workers that were asked to stop and shall come back.
    returning: BTreeSet<String>,
    later: Vec<(Ms, Later)>,
    acts: Vec<(Ms, Act)>,
    calm: Arc<AtomicBool>,
    next_write: Ms,
    stream_ended: bool,
    next_process: usize,
    next_worker: usize,
    report: Report,
}

impl Simulation {
    fn new(scenario: Scenario, bug: Option<Bug>) -> Self {
        let mut rng = Rng::with_seed(scenario.seed ^ 0x5EED);
        let echo = std::env::var_os("SHARDKEEPER_SIM_TRACE").is_some();
        let history = History::new(Checker::new(ms(scenario.service.retention), scenario.delivery.clone()), echo);
        let service = Service::new(scenario.service.clone(), history.clone());
        let acts = scenario.acts.iter().rev().copied().collect();
        let mut simulation = Self {
            bug,
            interference: Interference::default(),
            rng: rng.fork(),
            now: 0,
            history,
            service,
            outbox: Outbox::default(),
            parcels: BTreeMap::new(),
            sent: 0,
            windows: Vec::new(),
            processes: Vec::new(),
            shared_ids: BTreeSet::new(),
            used_ids: BTreeSet::new(),
            returning: BTreeSet::new(),
            later: Vec::new(),
            acts,
            calm: Arc::default(),
            next_write: 0,
            stream_ended: false,
            next_process: 0,
            next_worker: 0,
            report: Report::default(),
            scenario,
        };
        simulation.history.act(format!("{:?}", simulation.scenario));
        simulation.prepare();
        simulation
    }

    /// What was in the stream before the fleet began.
    fn prepare(&mut self) {
        for _ in 0..self.scenario.generations_before {
            self.write();
            let action = if chance(&mut self.rng, 0.3) { StreamAction::Split } else { StreamAction::Rollover };
            let open = self.service.open_shards();
            for shard in open.iter().filter(|_| chance(&mut self.rng, 0.7)) {
                self.service.change_shards(action, Some(shard));
            }
        }
        for _ in 0..self.scenario.workers {
            let worker = self.new_worker();
            self.start(worker);
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.service.set_now(self.now);
        self.history.set_now(self.now);
        self.deliver_parcels();
        if self.now >= self.next_write && self.now + 6_000 < self.scenario.ends() && !self.stream_ended {
            self.write();
        }
        self.act();
        if self.now.is_multiple_of(LOOK) {
            self.look();
        }
        for process in &mut self.processes {
            process.drive(self.now);
        }
        for call in self.outbox.take() {
            self.send(call);
        }
    }

    // The network.

    fn send(&mut self, call: Outgoing) {
        let Outgoing { process, mut request, caller } = call;
        self.report.calls += 1;
        let fate = faults::draw(&self.windows, self.now, process, &request, &mut self.rng);
        if let Some(kind) = fate.kind {
            *self.report.faults.entry(format!("call: {kind:?}")).or_default() += 1;
        }
        if let Some(bug) = self.bug {
            bug.distort_request(&mut request);
        }
        let at = self.now + fate.there;
        self.post(at, Parcel::Call { process, request, fate, caller });
    }

    fn post(&mut self, at: Ms, parcel: Parcel) {
        self.sent += 1;
        self.parcels.insert((at, self.sent), parcel);
    }

    fn deliver_parcels(&mut self) {
        while let Some(entry) = self.parcels.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            match entry.remove() {
                Parcel::Reply { caller, reply } => drop(caller.send(reply)),
                Parcel::Call { process, request, fate, caller } => {
                    if let Some(reply) = self.carry(process, &request, &fate) {
                        self.post(self.now + fate.back, Parcel::Reply { caller, reply });
                    }
                }
            }
        }
    }

    /// Carries a call out, or not, as its fate has it. Without a reply the connection stays silent.
    fn carry(&mut self, process: usize, request: &Request, fate: &Fate) -> Option<Reply> {
        let (operation, name) = (request.operation().to_owned(), fate.name());
        self.history.note(Event::Call { process, operation, fate: name });
        match fate.kind {
            Some(Kind::LostCall | Kind::NoTables | Kind::NoStreams) => return Some(Err(LostCall)),
            Some(Kind::Silent) => return None,
            Some(Kind::Throttled | Kind::ServerError) => {
                let error = fate.refusal.clone()?;
                let body = error.to_json().to_string().into();
                let request_id = "refused".to_owned();
                return Some(Ok(shardkeeper_local::Answer { status: error.status(), body, request_id }));
            }
            _ => {}
        }
        let mut answer = match self.bug {
            Some(bug) => self.interference.carry(bug, self.now, process, request, &mut self.service),
            None => self.service.carry(process, request),
        };
        if let Some(bug) = self.bug {
            bug.distort_answer(request, &mut answer);
        }
        match fate.kind {
            Some(Kind::LostAnswer) => Some(Err(LostCall)),
            Some(Kind::SilentAfter | Kind::Late) => None,
            Some(kind) => {
                faults::distort(kind, self.now, request, &mut answer, &mut self.rng);
                Some(Ok(answer))
            }
            None => Some(Ok(answer)),
        }
    }

    // The workload.

    fn write(&mut self) {
        let count = if chance(&mut self.rng, 0.05) { 60 } else { 1 + below(&mut self.rng, 8) };
        let keys: Vec<String> = (0..count).map(|_| format!("key-{}", self.rng.u64(..) % self.scenario.keys)).collect();
        self.service.write(&keys);
        // Mostly a steady flow, with idle times in between.
        let pause = if chance(&mut self.rng, 0.04) { 6_000 } else { 400 };
        self.next_write = self.now + self.rng.u64(..) % pause;
    }

    // What happens to the fleet.

    fn act(&mut self) {
        while self.acts.last().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, act)) = self.acts.pop() else { return };
            self.history.act(format!("{act:?}"));
            *self.report.faults.entry(format!("{act:?}")).or_default() += 1;
            self.carry_out(act);
        }
        let (due, rest) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= self.now);
        self.later = rest;
        let due: Vec<(Ms, Later)> = due;
        for (_, later) in due {
            self.history.act(format!("{later:?}"));
            match later {
                Later::Start(worker) => self.start(worker),
                Later::Stop { worker, returns } => self.stop(&worker, returns),
                Later::MendRow { key, row } => self.mend_row(&key, row),
            }
        }
        if self.now == self.scenario.chaos_ends.next_multiple_of(STEP) {
            self.end_chaos();
        }
        for process in &mut self.processes {
            if process.paused_until.is_some_and(|until| until <= self.now) {
                self.history.act(format!("process {} goes on", process.number));
                process.resume(self.now);
            }
        }
    }

    fn carry_out(&mut self, act: Act) {
        match act {
            Act::Fault(kind) => self.open_window(kind),
            Act::CrashAndReturn => drop(self.any_process().map(|index| self.crash(index, true))),
            Act::Crash => drop(self.any_process().map(|index| self.crash(index, false))),
            Act::CrashLeader => {
                if let Some(index) = self.leader() {
                    self.crash(index, false);
                    let worker = self.new_worker();
                    self.later.push((self.now + 1_000 + self.rng.u64(..) % 4_000, Later::Start(worker)));
                }
            }
            Act::CrashAll => {
                while !self.processes.is_empty() {
                    self.crash(0, true);
                }
            }
            Act::Pause => drop(self.any_process().map(|index| self.pause(index))),
            Act::PauseLeader => drop(self.leader().map(|index| self.pause(index))),
            Act::Join => {
                if self.processes.len() < MOST_PROCESSES {
                    let worker = self.new_worker();
                    self.start(worker);
                }
            }
            Act::Leave => {
                if let Some(index) = self.any_process() {
                    let worker = self.processes[index].worker_id.clone();
                    self.stop(&worker, false);
                }
            }
            Act::RollingRestart => self.rolling_restart(),
            Act::Twin => {
                let index = self.any_process().filter(|index| self.processes[*index].paused_until.is_none());
                if let Some(index) = index.filter(|_| self.processes.len() < MOST_PROCESSES) {
                    let worker = self.processes[index].worker_id.clone();
                    self.start(worker);
                }
            }
            Act::BreakRow | Act::GiveAway => self.edit_row(act),
            Act::EmptyFleetTable => self.service.empty_fleet_table(),
            Act::Trim => {
                let shards = self.service.all_shards();
                let shard = shards.get(below(&mut self.rng, shards.len())).cloned();
                self.service.change_shards(StreamAction::Trim, shard.as_deref());
            }
            Act::Split | Act::Rollover => {
                let action = if act == Act::Split { StreamAction::Split } else { StreamAction::Rollover };
                let open = self.service.open_shards();
                if open.len() < 24
                    && let Some(shard) = open.get(below(&mut self.rng, open.len()))
                {
                    self.service.change_shards(action, Some(shard));
                }
            }
            Act::RolloverAll => self.service.change_shards(StreamAction::Rollover, None),
            Act::SplitAll => {
                if self.service.open_shards().len() <= 6 {
                    self.service.change_shards(StreamAction::Split, None);
                }
            }
        }
    }

    fn open_window(&mut self, kind: Kind) {
        let is_partition = matches!(kind, Kind::NoTables | Kind::NoStreams);
        let share =
            if is_partition || kind == Kind::SlowTakeOver { 1.0 } else { [0.03, 0.1, 0.5][below(&mut self.rng, 3)] };
        // A partition cuts off one process, at times all of them.
        let process = (is_partition && chance(&mut self.rng, 0.8) || chance(&mut self.rng, 0.3))
            .then(|| self.any_process())
            .flatten()
            .map(|index| self.processes[index].number);
        let until = self.now + 500 + self.rng.u64(..) % 12_000;
        let window = Window { kind, share, process, until: until.min(self.scenario.chaos_ends) };
        self.history.act(format!("{window:?}"));
        self.windows.push(window);
    }

    fn crash(&mut self, index: usize, returns: bool) {
        let process = self.processes.remove(index);
        self.history.act(format!("process {} ({}) dies", process.number, process.worker_id));
        self.account(&process);
        self.returning.remove(&process.worker_id);
        if returns {
            let wait = [50, 500, 3_000, 9_000][below(&mut self.rng, 4)];
            self.later.push((self.now + wait, Later::Start(process.worker_id.clone())));
        }
    }

    fn pause(&mut self, index: usize) {
        let length = self.scenario.pauses[below(&mut self.rng, 5)];
        let until = (self.now + length).min(self.scenario.chaos_ends);
        let process = &mut self.processes[index];
        self.history.act(format!("process {} stands still until {until}", process.number));
        process.paused_until = Some(until);
    }

    fn stop(&mut self, worker: &str, returns: bool) {
        if returns {
            self.returning.insert(worker.to_owned());
        }
        for process in self.processes.iter_mut().filter(|process| process.worker_id == worker) {
            process.ask_to_stop();
        }
    }

    fn rolling_restart(&mut self) {
        let workers: BTreeSet<String> = self.processes.iter().map(|process| process.worker_id.clone()).collect();
        let gap = [200, 2_000][below(&mut self.rng, 2)];
        for (turn, worker) in workers.into_iter().enumerate() {
            self.later.push((self.now + gap * turn as Ms, Later::Stop { worker, returns: true }));
        }
    }

    fn edit_row(&mut self, act: Act) {
        let rows: Vec<String> =
            self.service.rows().iter().filter(|(_, row)| !row.is_finished()).map(|(key, _)| key.clone()).collect();
        let Some(key) = rows.get(below(&mut self.rng, rows.len())).cloned() else { return };
        let way = self.rng.u64(..) % 4;
        let before = self.service.edit_row(&key, |row| match (act, way) {
            (Act::GiveAway, _) => row["leaseOwner"] = json!({"S": "nobody"}),
            (_, 0) => row["checkpoint"] = json!({"S": "somewhere"}),
            (_, 1) => row["leaseCounter"] = json!({"S": "many"}),
            (_, 2) => drop(row.as_object_mut().map(|row| row.remove("checkpoint"))),
            _ => row["leaseCounter"] = json!({"N": "-1"}),
        });
        self.history.act(format!("{act:?} on {key}"));
        if let (Act::BreakRow, Some(row)) = (act, before) {
            let at = (self.now + 500 + self.rng.u64(..) % 8_000).min(self.scenario.chaos_ends);
            self.later.push((at, Later::MendRow { key, row }));
        }
    }

    /// Puts a row back as it was, if it is still broken.
    fn mend_row(&mut self, key: &str, row: serde_json::Value) {
        let is_broken = self
            .service
            .rows()
            .get(key)
            .is_some_and(|now| now.counter.is_none() || !(now.position().is_some() || is_sentinel(now)));
        if is_broken {
            self.service.edit_row(key, |broken| *broken = row);
        }
    }

    /// The last fault: from here on nothing goes wrong any more.
    fn end_chaos(&mut self) {
        self.history.act("the chaos ends");
        self.windows.clear();
        self.calm.store(true, Ordering::Relaxed);
        let later = std::mem::take(&mut self.later);
        for (_, later) in later {
            match later {
                Later::Start(worker) => self.start(worker),
                Later::Stop { worker, returns } => self.stop(&worker, returns),
                Later::MendRow { key, row } => self.mend_row(&key, row),
            }
        }
        if self.processes.iter().all(|process| process.is_leaving) {
            let worker = self.new_worker();
            self.start(worker);
        }
    }

    // The processes.

    fn new_worker(&mut self) -> String {
        self.next_worker += 1;
        format!("w{}", self.next_worker)
    }

    fn start(&mut self, worker: String) {
        let number = self.next_process;
        self.next_process += 1;
        if !self.used_ids.insert(worker.clone()) {
            self.shared_ids.insert(worker.clone());
        }
        self.history.note(Event::Started { process: number, worker: worker.clone() });
        let scenario = &self.scenario;
        let mood = Mood {
            slowest_record: scenario.slowest_record,
            fails: scenario.fails,
            panics: scenario.panics,
            hangs: scenario.hangs,
            longest_hang: scenario.lease_duration * 3,
            calm: Arc::clone(&self.calm),
            passes_over: self.bug.and_then(Bug::passes_over),
            delivery: scenario.delivery.clone(),
            forgets_letters: self.bug == Some(Bug::EarlyDeadLetters),
        };
        let slow_clock = self.bug.and_then(Bug::clock_ppm).filter(|_| number.is_multiple_of(2));
        let setup = Setup {
            number,
            worker_id: worker,
            seed: self.rng.u64(..),
            lease_duration: scenario.lease_duration,
            kcl_failover_time: scenario.kcl_failover_time(),
            drain_timeout: scenario.drain_timeout,
            clock_ppm: slow_clock.unwrap_or(1_000_000 + self.rng.u64(..) % 8_000 - 4_000),
            wall_offset_ms: [0, 0, 3_600_000, -3_600_000][below(&mut self.rng, 4)],
            mood,
        };
        let process = Process::start(setup, &self.history, &self.outbox, TABLE, APP, self.now);
        self.report.processes += 1;
        self.processes.push(process);
    }

    fn any_process(&mut self) -> Option<usize> {
        (!self.processes.is_empty()).then(|| below(&mut self.rng, self.processes.len()))
    }

    fn leader(&self) -> Option<usize> {
        let leader = self.service.leader()?;
        self.processes.iter().position(|process| process.worker_id == leader)
    }

    /// Sees which processes have ended by themselves.
    fn reap(&mut self) {
        let mut index = 0;
        while index < self.processes.len() {
            let process = &mut self.processes[index];
            let outcome = if process.paused_until.is_some() { None } else { process.outcome() };
            let Some(outcome) = outcome else {
                index += 1;
                continue;
            };
            let process = self.processes.remove(index);
            self.account(&process);
            let is_explained = self.is_explained(&process, &outcome);
            let outcome = match &outcome {
                Ok(report) => format!("{:?}", report.ending),
                Err(error) => error.clone(),
            };
            self.history.note(Event::Ended { process: process.number, outcome, is_explained });
            let is_alone = !self.processes.iter().any(|other| other.worker_id == process.worker_id);
            if self.returning.remove(&process.worker_id) || !process.is_leaving && is_alone && !self.stream_ended {
                let at = self.now + [100, 1_000][below(&mut self.rng, 2)];
                self.later.push((at, Later::Start(process.worker_id.clone())));
            }
        }
    }

    fn is_explained(&self, process: &Process, outcome: &Result<shardkeeper::Report, String>) -> bool {
        match outcome {
            Ok(report) if report.ending == WorkerExit::StreamEnded => self.stream_ended,
            Ok(_) => process.is_leaving,
            Err(error) => {
                let is_about_the_id = error.contains("Replaced") || error.contains("WorkerIdInUse");
                is_about_the_id && self.shared_ids.contains(&process.worker_id)
            }
        }
    }

    fn account(&mut self, process: &Process) {
        self.report.process_ms += self.now - process.started;
    }

    // The quiet at the end.

    fn look(&mut self) {
        self.reap();
        if self.scenario.trims_by_age() && self.now.is_multiple_of(1_000) {
            self.service.tap_trimmed();
        }
        let settled_by = self.scenario.settled_by();
        if self.now < settled_by {
            return;
        }
        if self.scenario.disables_stream && !self.stream_ended {
            self.stream_ended = true;
            self.history.act("the stream is switched off");
            self.service.disable_stream();
        }
        if self.stream_ended {
            return; // whoever leads ends first, so the fleet ends one by one
        }
        let live: BTreeSet<String> = self.live().cloned().collect();
        if let Some(late) = self.processes.iter().find(|process| process.is_leaving) {
            let words = format!("process {} ({}) does not leave", late.number, late.worker_id);
            self.break_rule(Rule::NotLive, words);
        }
        let unsettled = self.history.checker(|checker| checker.unsettled(&live));
        if let Some((rule, words)) = unsettled {
            self.break_rule(rule, words);
        }
        let last_move = self.history.checker(|checker| checker.last_move());
        if last_move > settled_by {
            self.break_rule(Rule::Restless, format!("a lease moved at {last_move}, after {settled_by}"));
        }
    }

    fn live(&self) -> impl Iterator<Item = &String> {
        self.processes.iter().filter(|process| !process.is_leaving).map(|process| &process.worker_id)
    }

    fn break_rule(&self, rule: Rule, words: String) {
        self.history.checker(|checker| checker.break_rule(rule, self.now, words));
    }

    fn finish(mut self) -> Outcome {
        if self.history.violation().is_none() {
            let undelivered = self.history.checker(|checker| checker.undelivered(self.now));
            if let Some(first) = undelivered.first() {
                self.break_rule(Rule::Lost, format!("{} records, the first: {first}", undelivered.len()));
            }
            let without_letter = self.history.checker(|checker| checker.without_letter(self.now));
            if let Some(first) = without_letter.first() {
                self.break_rule(Rule::DeadLetters, format!("{} records, the first: {first}", without_letter.len()));
            }
            if self.stream_ended && !self.history.checker(|checker| checker.all_finished()) {
                self.break_rule(Rule::NotLive, "the stream ended, its leases did not".into());
            }
            if self.stream_ended && !self.processes.is_empty() {
                self.break_rule(Rule::NotLive, "the stream ended, its workers did not".into());
            }
        }
        for process in std::mem::take(&mut self.processes) {
            self.account(&process);
        }
        self.report.runs = 1;
        self.report.fleet_ms = self.now;
        self.report.counts = self.history.checker(|checker| checker.counts());
        Outcome {
            hash: self.history.hash(),
            violation: self.history.violation(),
            recent: self.history.recent(),
            report: self.report,
        }
    }
}

fn is_sentinel(row: &Row) -> bool {
    matches!(row.checkpoint.as_str(), "TRIM_HORIZON" | "LATEST" | "SHARD_END" | "AT_TIMESTAMP")
}
