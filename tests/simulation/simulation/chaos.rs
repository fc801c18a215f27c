//! The actions of the scenario: faults, operators and changes of the shards.

use std::sync::atomic::Ordering;

use serde_json::json;
use shardkeeper_local::StreamAction;

use super::{Later, MOST_PROCESSES, STEP, Simulation};
use crate::faults::{Kind, Window};
use crate::history::{Ms, Row};
use crate::scenario::{Action, below, chance, ms};

impl Simulation {
    pub(super) fn act(&mut self) {
        while self.actions.last().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, action)) = self.actions.pop() else { return };
            self.history.note_action(format!("{action:?}"));
            *self.report.faults.entry(format!("{action:?}")).or_default() += 1;
            self.carry_out(action);
        }
        let (due, rest) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= self.now);
        self.later = rest;
        let due: Vec<(Ms, Later)> = due;
        for (_, later) in due {
            self.history.note_action(format!("{later:?}"));
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
                self.history.note_action(format!("process {} resumes", process.number));
                process.resume(self.now);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Fault(kind) => self.open_window(kind),
            Action::CrashAndReturn => drop(self.any_process().map(|index| self.crash(index, true))),
            Action::Crash => drop(self.any_process().map(|index| self.crash(index, false))),
            Action::CrashLeader => {
                if let Some(index) = self.leader() {
                    self.crash(index, false);
                    let worker = self.new_worker();
                    self.later.push((self.now + 1_000 + self.rng.u64(..) % 4_000, Later::Start(worker)));
                }
            }
            Action::CrashAll => {
                while !self.processes.is_empty() {
                    self.crash(0, true);
                }
            }
            Action::Pause => drop(self.any_process().map(|index| self.pause(index))),
            Action::PauseLeader => drop(self.leader().map(|index| self.pause(index))),
            Action::Join => {
                if self.processes.len() < MOST_PROCESSES {
                    let worker = self.new_worker();
                    self.start(worker);
                }
            }
            Action::Leave => {
                if let Some(index) = self.any_process() {
                    let worker = self.processes[index].worker_id.clone();
                    self.stop(&worker, false);
                }
            }
            Action::RollingRestart => self.rolling_restart(),
            Action::Twin => {
                let index = self.any_process().filter(|index| self.can_be_asked(*index));
                if let Some(index) = index.filter(|_| self.processes.len() < MOST_PROCESSES) {
                    let worker = self.processes[index].worker_id.clone();
                    self.start(worker);
                }
            }
            Action::BreakRow | Action::GiveAway => self.edit_row(action),
            Action::EmptyFleetTable => self.service.empty_fleet_table(),
            Action::Trim => {
                let shards = self.service.all_shards();
                let shard = shards.get(below(&mut self.rng, shards.len())).cloned();
                self.service.change_shards(StreamAction::Trim, shard.as_deref());
            }
            Action::Split | Action::Rollover => {
                let action = if action == Action::Split { StreamAction::Split } else { StreamAction::Rollover };
                let open = self.service.open_shards();
                if open.len() < 24
                    && let Some(shard) = open.get(below(&mut self.rng, open.len()))
                {
                    self.service.change_shards(action, Some(shard));
                }
            }
            Action::RolloverAll => self.service.change_shards(StreamAction::Rollover, None),
            Action::Suspend => drop(self.any_process().map(|index| self.suspend(index))),
            Action::StayAway => self.stay_away(),
            Action::KillIterators => self.dead_iterators = self.dead_iterators.max(Some(self.now)),
            Action::SwitchOff => self.service.disable_stream(),
            Action::SwitchOn => self.service.enable_stream(),
            Action::RemakeTable => self.service.remake_table(),
            Action::PurgeStreams => self.service.purge_streams(),
            Action::SplitAll => {
                if self.service.open_shards().len() <= 6 {
                    self.service.change_shards(StreamAction::Split, None);
                }
            }
        }
    }

    /// Whether a process can tell another one that its worker id is taken.
    fn can_be_asked(&self, index: usize) -> bool {
        let process = &self.processes[index];
        let cuts_off = |window: &Window| {
            window.kind == Kind::NoTables
                && (window.from..window.until).contains(&self.now)
                && window.process.is_none_or(|number| number == process.number)
        };
        process.paused_until.is_none() && !self.windows.iter().any(cuts_off)
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
        let window = Window { kind, share, process, from: self.now, until: until.min(self.scenario.chaos_ends) };
        self.history.note_action(format!("{window:?}"));
        self.windows.push(window);
    }

    fn edit_row(&mut self, action: Action) {
        let rows: Vec<String> =
            self.service.rows().iter().filter(|(_, row)| !row.is_finished()).map(|(key, _)| key.clone()).collect();
        let Some(key) = rows.get(below(&mut self.rng, rows.len())).cloned() else { return };
        let way = self.rng.u64(..) % 4;
        let before = self.service.edit_row(&key, |row| match (action, way) {
            (Action::GiveAway, _) => row["leaseOwner"] = json!({"S": "nobody"}),
            (_, 0) => row["checkpoint"] = json!({"S": "somewhere"}),
            (_, 1) => row["leaseCounter"] = json!({"S": "many"}),
            (_, 2) => drop(row.as_object_mut().map(|row| row.remove("checkpoint"))),
            _ => row["leaseCounter"] = json!({"N": "-1"}),
        });
        self.history.note_action(format!("{action:?} on {key}"));
        if let (Action::BreakRow, Some(row)) = (action, before) {
            let at = (self.now + 500 + self.rng.u64(..) % 8_000).min(self.scenario.chaos_ends);
            self.later.push((at, Later::MendRow { key, row }));
        }
    }

    /// Ends every process, until nothing of what the stream holds now is left.
    fn stay_away(&mut self) {
        let back = self.now + ms(self.scenario.service.retention) + 5_000;
        while let Some(process) = self.processes.first() {
            self.later.push((back, Later::Start(process.worker_id.clone())));
            self.crash(0, false);
        }
        self.listings = 0;
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

    /// Ends all faults.
    fn end_chaos(&mut self) {
        self.history.note_action("the chaos ends");
        self.windows.retain(|window| window.until > self.now);
        self.calm.store(true, Ordering::Relaxed);
        let later = std::mem::take(&mut self.later);
        for (_, later) in later {
            match later {
                Later::Start(worker) => self.start(worker),
                Later::Stop { worker, returns } => self.stop(&worker, returns),
                Later::MendRow { key, row } => self.mend_row(&key, row),
            }
        }
        if !self.scenario.field.until_caught_up && self.processes.iter().all(|process| process.is_leaving) {
            let worker = self.new_worker();
            self.start(worker);
        }
    }
}

fn is_sentinel(row: &Row) -> bool {
    matches!(row.checkpoint.as_str(), "TRIM_HORIZON" | "LATEST" | "SHARD_END" | "AT_TIMESTAMP")
}
