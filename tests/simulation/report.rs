//! Counts of the simulations.

use std::collections::BTreeMap;
use std::fmt;

use super::checker::Counts;
use super::history::Ms;

/// The sum of some simulations.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub runs: u64,
    pub processes: u64,
    /// Simulated time of fleets, and of their processes.
    pub fleet_ms: Ms,
    pub process_ms: Ms,
    pub calls: u64,
    pub faults: BTreeMap<String, u64>,
    pub counts: Counts,
}

impl Report {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.processes += other.processes;
        self.fleet_ms += other.fleet_ms;
        self.process_ms += other.process_ms;
        self.calls += other.calls;
        for (name, count) in &other.faults {
            *self.faults.entry(name.clone()).or_default() += count;
        }
        let (mine, theirs) = (&mut self.counts, &other.counts);
        mine.events += theirs.events;
        mine.written += theirs.written;
        mine.delivered += theirs.delivered;
        mine.repeated += theirs.repeated;
        mine.checkpoints += theirs.checkpoints;
        mine.hand_offs += theirs.hand_offs;
        mine.takeovers += theirs.takeovers;
        mine.shards_ended += theirs.shards_ended;
        mine.cleaned_up += theirs.cleaned_up;
        mine.namesakes += theirs.namesakes;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = |ms: Ms| ms as f64 / 3_600_000.0;
        let Counts { written, delivered, repeated, namesakes, .. } = self.counts;
        let Counts { checkpoints, shards_ended, cleaned_up, hand_offs, takeovers, .. } = self.counts;
        writeln!(
            f,
            "{} simulations: {:.1} fleet hours, {:.1} process hours, {} processes, {} calls",
            self.runs,
            hours(self.fleet_ms),
            hours(self.process_ms),
            self.processes,
            self.calls
        )?;
        writeln!(
            f,
            "{written} records written, {delivered} delivered, {repeated} delivered again ({namesakes} batches under \
             an id that another process had taken); {checkpoints} checkpoints, {shards_ended} shards ended, \
             {cleaned_up} leases cleaned up, {hand_offs} hand-offs, {takeovers} takeovers"
        )?;
        for (name, count) in &self.faults {
            write!(f, "{name} {count}; ")?;
        }
        Ok(())
    }
}
