//! What the demonstration shows: records as they come, what happens, and a small table.
//!
//! On a terminal the table stays at the bottom while all else scrolls past above it, and each worker has a colour,
//! unless the variable NO_COLOR is set. Elsewhere everything is plain lines, the table one of them each time.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::Instant;

use super::arrivals::Delivery;
use super::ledger::{Arrival, Verdict};
use crate::cli::output;

/// Lines that are too long are cut by the terminal rather than wrapped, so that the table's height is known.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "1;32";
/// Of the workers, in turns: cyan, yellow, magenta, green, blue.
const WORKER_COLOURS: [&str; 5] = ["36", "33", "35", "32", "34"];

/// Standard output, as this demonstration writes to it.
pub struct Screen {
    /// Whether the table stays at the bottom.
    is_live: bool,
    has_colours: bool,
    started: Instant,
    /// Lines to be written.
    lines: String,
    /// The table at the bottom, if any, and how many of its lines are on the screen.
    table: String,
    table_height: usize,
    table_changed: bool,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The worker's id.
    pub name: String,
    /// How many unfinished shards it holds, by the lease table.
    pub shards: usize,
    /// Records that it delivered.
    pub delivered: u64,
    /// The longest time from write to delivery, of the records since the last table.
    pub lag: Option<Duration>,
    /// What there is to say about it, such as "killed".
    pub remark: &'static str,
}

/// The last line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    /// How it stands.
    pub verdict: Verdict,
    /// For how long the record has been waiting that waits longest.
    pub longest_wait: Option<Duration>,
}

impl Screen {
    /// Standard output as it is. Times that it shows count from now.
    pub fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let is_live = std::io::stdout().is_terminal() && !is_dumb;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_live,
            has_colours: is_live && !no_colour,
            started: Instant::now(),
            lines: String::new(),
            table: String::new(),
            table_height: 0,
            table_changed: false,
        }
    }

    /// Whether the table stays on the screen, so that it can be renewed often.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Shows a text as it is.
    pub fn text(&mut self, text: &str) {
        self.lines.push_str(text);
        self.lines.push('\n');
    }

    /// Shows that something happened, in bold letters.
    pub fn happening(&mut self, text: &str) {
        let line = format!("{}  == {text}", self.clock());
        let line = self.paint(BOLD, &line);
        self.text(&line);
    }

    /// Shows that something went wrong.
    pub fn trouble(&mut self, text: &str) {
        let line = format!("{}  !! {text}", self.clock());
        let line = self.paint(RED, &line);
        self.text(&line);
    }

    /// Shows a record, in a line.
    pub fn record(&mut self, name: &str, delivery: &Delivery, arrival: Arrival) {
        let record = &delivery.record;
        let line = format!(
            "{}  {name:<9}  {}  {:<19}  v{:<3}  {}",
            self.clock(),
            record.event.name(),
            record.key,
            record.version,
            record.changes
        );
        let mut line = self.paint(colour_of(delivery.worker), &line);
        let (style, remark) = match arrival {
            Arrival::InOrder(_) => (DIM, ""),
            Arrival::Again => (DIM, "  (again)"),
            Arrival::OutOfOrder(_) => (RED, "  OUT OF ORDER"),
            Arrival::NeverWritten => (RED, "  NEVER WRITTEN"),
        };
        if !remark.is_empty() {
            line.push_str(&self.paint(style, remark));
        }
        match self.is_live {
            true => self.text(&format!("{NO_WRAP}{line}{WRAP}")),
            false => self.text(&line),
        }
    }

    /// Shows the table.
    pub fn table(&mut self, rows: &[Row], total: Total) {
        let table = self.draw(rows, total);
        if self.is_live {
            self.table = table;
            self.table_changed = true;
        } else {
            self.lines.push_str(&table);
        }
    }

    /// Shows the verdict, in place of the table.
    pub fn verdict(&mut self, verdict: &Verdict, crashes: usize) {
        self.table.clear();
        self.table_changed = true;
        let mut lines = format!("\nVerdict, by the writer's own record, after {}:\n", self.clock().trim_start());
        let mut count = |name: &str, number: u64, remark: &str| {
            let _ = writeln!(lines, "{}", format!("  {name:<16}{number:>9}{remark}").trim_end());
        };
        let allowed = "  (allowed: what a killed worker had not checkpointed comes again)";
        count("written", verdict.written, "");
        count("delivered", verdict.delivered, "");
        count("missing", verdict.missing(), "");
        count("out of order", verdict.out_of_order, "");
        count("delivered twice", verdict.twice, if verdict.twice > 0 { allowed } else { "" });
        if verdict.never_written > 0 {
            count("never written", verdict.never_written, "  (delivered, but not what the writer wrote)");
        }
        if crashes > 0 {
            count("workers crashed", crashes as u64, "");
        }
        self.lines.push_str(&lines);
        let line = match verdict.is_good() && crashes == 0 {
            true => self.paint(GREEN, "PASSED: every record was delivered, in order for each phone."),
            false => self.paint(RED, "FAILED"),
        };
        self.text(&line);
    }

    /// Writes what there is to write.
    ///
    /// # Errors
    /// As [`output::print`].
    pub fn flush(&mut self) -> Result<(), anyhow::Error> {
        if self.lines.is_empty() && !self.table_changed {
            return Ok(());
        }
        let mut text = String::new();
        if self.table_height > 0 {
            // To the start of the table, and everything below away.
            let _ = write!(text, "\x1b[{}A\r\x1b[J", self.table_height);
        }
        text.push_str(&std::mem::take(&mut self.lines));
        if !self.table.is_empty() {
            let _ = write!(text, "{NO_WRAP}{}{WRAP}", self.table);
        }
        self.table_height = self.table.lines().count();
        self.table_changed = false;
        output::print(&text)
    }

    fn draw(&self, rows: &[Row], total: Total) -> String {
        let mut table = String::from("\n");
        let heading = format!("{}  {:<9}  {:>6}  {:>9}  {:>7}", self.clock(), "worker", "shards", "delivered", "lag");
        let _ = writeln!(table, "{}", self.paint(BOLD, &heading));
        for (index, row) in rows.iter().enumerate() {
            let lag = row.lag.map_or("-".to_string(), seconds);
            let line =
                format!("{:9}{:<9}  {:>6}  {:>9}  {lag:>7}  {}", "", row.name, row.shards, row.delivered, row.remark);
            let _ = writeln!(table, "{}", self.paint(colour_of(index), line.trim_end()));
        }
        let shards: usize = rows.iter().map(|row| row.shards).sum();
        let waiting = match (total.verdict.missing(), total.longest_wait) {
            (0, _) | (_, None) => "-".to_string(),
            (_, Some(wait)) => seconds(wait),
        };
        let _ = writeln!(
            table,
            "{:9}{:<9}  {shards:>6}  {:>9}  {waiting:>7}  of {} written",
            "", "together", total.verdict.delivered, total.verdict.written
        );
        table.push_str(if self.is_live { "" } else { "\n" });
        table
    }

    fn clock(&self) -> String {
        format!("{:>7}", seconds(self.started.elapsed()))
    }

    fn paint(&self, style: &str, text: &str) -> String {
        match self.has_colours {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn colour_of(worker: usize) -> &'static str {
    WORKER_COLOURS[worker % WORKER_COLOURS.len()]
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}
