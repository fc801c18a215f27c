//! One simulated fleet, from its start to the quiet at its end.
//!
//! Time goes in steps. In each, the service carries out the calls that have arrived, answers arrive at the processes,
//! and then each process runs for that long, alone. Nothing happens between processes but by calls, so the order in
//! which they run within a step cannot be seen by them.

mod carrier;
mod chaos;
mod processes;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fastrand::Rng;
use shardkeeper_local::{Request, StreamAction};
use tokio::sync::oneshot;

use super::bugs::{Bug, Interference};
use super::checker::{Checker, Rule, Violation};
use super::faults::{Fate, Window};
use super::history::{History, Ms};
use super::network::{Outbox, Reply};
use super::process::Process;
use super::report::Report;
use super::scenario::{Action, Scenario, chance, ms};
use super::service::Service;

/// The length of a step.
const STEP: Ms = 5;
/// The time between checks of ended processes, trimming and the settled fleet.
const CHECK_INTERVAL: Ms = 100;
/// The most processes at once.
const MOST_PROCESSES: usize = 6;

/// The result of one simulation.
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

/// A call or a reply between a process and the service.
enum Parcel {
    Call { process: usize, request: Request, fate: Fate, caller: oneshot::Sender<Reply> },
    Reply { caller: oneshot::Sender<Reply>, reply: Reply },
}

/// A deferred action.
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
    /// Processes whose worker has ended and which live on, and until when.
    ghosts: Vec<(Ms, Process)>,
    /// Shard iterators of this moment or before are refused.
    dead_iterators: Option<Ms>,
    /// DescribeStream calls of this second, and all since the fleet came back.
    described: (Ms, u32),
    listings: u64,
    /// Every worker id that more than one process had.
    shared_ids: BTreeSet<String>,
    used_ids: BTreeSet<String>,
    /// Workers that were asked to stop and then start again.
    returning: BTreeSet<String>,
    later: Vec<(Ms, Later)>,
    actions: Vec<(Ms, Action)>,
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
        let begins_after = scenario.field.starts_at_latest().then_some(scenario.field.first_start);
        let checker = Checker::new(ms(scenario.service.retention), scenario.delivery.clone(), begins_after);
        let history = History::new(checker, echo);
        let service = Service::new(scenario.service.clone(), history.clone());
        let actions = scenario.actions.iter().rev().copied().collect();
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
            windows: scenario.field.windows.clone(),
            processes: Vec::new(),
            ghosts: Vec::new(),
            dead_iterators: None,
            described: (0, 0),
            listings: 0,
            shared_ids: BTreeSet::new(),
            used_ids: BTreeSet::new(),
            returning: BTreeSet::new(),
            later: Vec::new(),
            actions,
            calm: Arc::default(),
            next_write: 0,
            stream_ended: false,
            next_process: 0,
            next_worker: 0,
            report: Report::default(),
            scenario,
        };
        simulation.history.note_action(format!("{:?}", simulation.scenario));
        simulation.prepare();
        simulation
    }

    /// Fills the stream as it is before the fleet begins.
    fn prepare(&mut self) {
        for _ in 0..self.scenario.generations_before {
            self.write();
            let action = if chance(&mut self.rng, 0.3) { StreamAction::Split } else { StreamAction::Rollover };
            let open = self.service.open_shards();
            for shard in open.iter().filter(|_| chance(&mut self.rng, 0.7)) {
                self.service.change_shards(action, Some(shard));
            }
        }
        if self.scenario.field.until_caught_up {
            self.write();
        }
        for _ in 0..self.scenario.workers {
            let worker = self.new_worker();
            match self.scenario.field.first_start {
                0 => self.start(worker),
                at => self.later.push((at, Later::Start(worker))),
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.service.set_now(self.now);
        self.history.set_now(self.now);
        self.deliver_parcels();
        let writes_end = self.scenario.ends() - self.scenario.field.longest_delay.unwrap_or(6_000);
        let is_full = self.stream_ended || self.scenario.field.until_caught_up;
        if self.now >= self.next_write && self.now < writes_end && !is_full {
            self.write();
        }
        self.act();
        if self.now.is_multiple_of(CHECK_INTERVAL) {
            self.check();
        }
        for process in &mut self.processes {
            process.drive(self.now);
        }
        self.ghosts.retain(|(until, _)| *until > self.now);
        for (_, process) in &mut self.ghosts {
            process.drive(self.now);
        }
        for call in self.outbox.take() {
            self.send(call);
        }
    }

    fn check(&mut self) {
        self.reap();
        if self.scenario.trims_by_age() && self.now.is_multiple_of(1_000) {
            self.service.tap_trimmed();
        }
        let field = &self.scenario.field;
        if let Some(limit) = field.longest_delay.filter(|_| self.now.is_multiple_of(1_000)) {
            let late = self.history.checker(|checker| checker.late(self.now, limit));
            if let Some(words) = late {
                self.break_rule(Rule::Late, words);
            }
        }
        if let Some(most) = field.most_items.filter(|_| self.now.is_multiple_of(10_000)) {
            let (rows, items) = (self.service.rows().len(), self.service.fleet_items());
            if rows > most || items > most {
                self.break_rule(Rule::Grows, format!("{rows} leases, {items} items in the fleet table"));
            }
        }
        let tasks = self.processes.iter().map(Process::tasks).max().unwrap_or_default();
        if field.most_tasks.is_some_and(|most| tasks > most) {
            self.break_rule(Rule::Grows, format!("{tasks} tasks in one process"));
        }
        let settled_by = self.scenario.settled_by();
        if self.now < settled_by || field.churns || field.until_caught_up {
            return;
        }
        if self.scenario.disables_stream && !self.stream_ended {
            self.stream_ended = true;
            self.history.note_action("the stream is switched off");
            self.service.disable_stream();
        }
        if self.stream_ended {
            return; // the workers wait for the next stream of their table
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
            if self.scenario.field.most_listings.is_some_and(|most| self.listings > most) {
                self.break_rule(Rule::ListedTooOften, format!("{} calls", self.listings));
            }
            if self.scenario.field.until_caught_up && !self.processes.is_empty() {
                self.break_rule(Rule::NotLive, "the workers did not end".into());
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
