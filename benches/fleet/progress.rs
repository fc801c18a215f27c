//! Progress on standard error: a bar where that is a terminal, and a line a step elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};

const WIDTH: usize = 30;

/// Shows one scenario's progress.
pub struct Progress {
    scenario: &'static str,
    is_terminal: bool,
    /// The text shown last.
    shown: RefCell<String>,
}

impl Progress {
    /// Nothing shown yet.
    pub fn new(scenario: &'static str) -> Self {
        Self { scenario, is_terminal: std::io::stderr().is_terminal(), shown: RefCell::default() }
    }

    /// Says what begins now.
    pub fn step(&self, what: &str) {
        if self.is_terminal {
            self.show(&format!("{}: {what}", self.scenario));
        } else {
            eprintln!("{}: {what}", self.scenario);
        }
    }

    /// Shows how far that is; only on a terminal.
    pub fn part(&self, what: &str, done: u64, of: u64) {
        if self.is_terminal {
            let filled = (done.min(of) as usize * WIDTH).checked_div(of as usize).unwrap_or(0);
            let bar = format!("{}{}", "█".repeat(filled), "·".repeat(WIDTH - filled));
            self.show(&format!("{}: {what} {bar} {}%", self.scenario, done.min(of) * 100 / of.max(1)));
        }
    }

    fn show(&self, line: &str) {
        let mut shown = self.shown.borrow_mut();
        if *shown != line {
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            line.clone_into(&mut shown);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
