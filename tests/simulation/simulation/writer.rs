//! The application that writes to the table.

use super::Simulation;
use crate::scenario::{below, chance};

impl Simulation {
    pub(super) fn write(&mut self) {
        let count = if chance(&mut self.rng, 0.05) { 60 } else { 1 + below(&mut self.rng, 8) };
        let keys: Vec<String> = (0..count).map(|_| format!("key-{}", self.rng.u64(..) % self.scenario.keys)).collect();
        self.service.write(&keys);
        // Mostly a steady flow, with idle times in between.
        let pause = if chance(&mut self.rng, 0.04) { 6_000 } else { 400 };
        self.next_write = self.now + self.rng.u64(..) % pause;
    }
}
