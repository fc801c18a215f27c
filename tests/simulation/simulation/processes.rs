//! The fleet's processes: starts, stops, crashes, pauses and ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use shardkeeper::internals::coordination::WorkerExit;

use super::{Later, Simulation};
use crate::bugs::Bug;
use crate::faults::{Kind, Window};
use crate::history::{Event, Ms};
use crate::process::{Process, Setup};
use crate::processor::Behavior;
use crate::scenario::{below, ms};
use crate::service::{APP, TABLE};

impl Simulation {
    pub(super) fn new_worker(&mut self) -> String {
        self.next_worker += 1;
        format!("w{}", self.next_worker)
    }

    pub(super) fn start(&mut self, worker: String) {
        let number = self.next_process;
        self.next_process += 1;
        if !self.used_ids.insert(worker.clone()) {
            self.shared_ids.insert(worker.clone());
        }
        self.history.note(Event::Started { process: number, worker: worker.clone() });
        let scenario = &self.scenario;
        let behavior = Behavior {
            slowest_record: scenario.slowest_record,
            fails: scenario.fails,
            panics: scenario.panics,
            hangs: scenario.hangs,
            longest_hang: (!scenario.field.hangs_forever).then_some(scenario.lease_duration * 3),
            checkpoints_by_hand: scenario.field.checkpoints_by_hand,
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
            lease_duration: scenario.field.lease_duration(number).unwrap_or(scenario.lease_duration),
            kcl_failover_time: scenario.kcl_failover_time(),
            drain_timeout: scenario.drain_timeout,
            clock_ppm: slow_clock.unwrap_or(1_000_000 + self.rng.u64(..) % 8_000 - 4_000),
            wall_offset_ms: [0, 0, 3_600_000, -3_600_000][below(&mut self.rng, 4)],
            behavior,
            field: scenario.field.clone(),
        };
        let process = Process::start(setup, &self.history, &self.outbox, TABLE, APP, self.now);
        self.report.processes += 1;
        self.processes.push(process);
    }

    pub(super) fn any_process(&mut self) -> Option<usize> {
        (!self.processes.is_empty()).then(|| below(&mut self.rng, self.processes.len()))
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leader = self.service.leader()?;
        self.processes.iter().position(|process| process.worker_id == leader)
    }

    /// Takes note of the processes that have ended by themselves.
    pub(super) fn reap(&mut self) {
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
            let is_done = self.stream_ended || self.scenario.field.until_caught_up;
            if self.returning.remove(&process.worker_id) || !process.is_leaving && is_alone && !is_done {
                let at = self.now + [100, 1_000][below(&mut self.rng, 2)];
                self.later.push((at, Later::Start(process.worker_id.clone())));
            }
            if self.scenario.field.lives_on {
                let until = self.now + 3 * ms(self.scenario.lease_duration);
                self.ghosts.push((until, process));
            }
        }
    }

    fn is_explained(&self, process: &Process, outcome: &Result<shardkeeper::Report, String>) -> bool {
        match outcome {
            Ok(report) if report.ending == WorkerExit::StreamEnded => self.stream_ended,
            Ok(report) if report.ending == WorkerExit::CaughtUp => self.scenario.field.until_caught_up,
            Ok(_) => process.is_leaving,
            Err(error) => {
                let is_about_the_id = error.contains("Replaced") || error.contains("WorkerIdInUse");
                is_about_the_id && self.shared_ids.contains(&process.worker_id)
            }
        }
    }

    pub(super) fn account(&mut self, process: &Process) {
        self.report.process_ms += self.now - process.started;
    }

    pub(super) fn crash(&mut self, index: usize, returns: bool) {
        let process = self.processes.remove(index);
        self.history.note_action(format!("process {} ({}) dies", process.number, process.worker_id));
        self.account(&process);
        self.returning.remove(&process.worker_id);
        if returns {
            let wait = [50, 500, 3_000, 9_000][below(&mut self.rng, 4)];
            self.later.push((self.now + wait, Later::Start(process.worker_id.clone())));
        }
    }

    pub(super) fn pause(&mut self, index: usize) {
        let length = self.scenario.pauses[below(&mut self.rng, 5)];
        let until = (self.now + length).min(self.scenario.chaos_ends);
        let process = &mut self.processes[index];
        self.history.note_action(format!("process {} is paused until {until}", process.number));
        process.paused_until = Some(until);
    }

    /// Suspends a process's machine. When that comes back, its way to the tables takes some seconds more.
    pub(super) fn suspend(&mut self, index: usize) {
        self.pause(index);
        let process = &mut self.processes[index];
        process.suspended_since = Some(self.now);
        if let Some(until) = process.paused_until {
            let window = Window { kind: Kind::NoTables, share: 1.0, process: Some(process.number), from: 0, until: 0 };
            self.windows.push(Window { from: until, until: until + 3_000, ..window });
        }
    }

    pub(super) fn stop(&mut self, worker: &str, returns: bool) {
        if returns {
            self.returning.insert(worker.to_owned());
        }
        for process in self.processes.iter_mut().filter(|process| process.worker_id == worker) {
            process.ask_to_stop();
        }
    }

    pub(super) fn rolling_restart(&mut self) {
        let workers: BTreeSet<String> = self.processes.iter().map(|process| process.worker_id.clone()).collect();
        let gap = [200, 2_000][below(&mut self.rng, 2)];
        for (turn, worker) in workers.into_iter().enumerate() {
            self.later.push((self.now + gap * turn as Ms, Later::Stop { worker, returns: true }));
        }
    }
}
