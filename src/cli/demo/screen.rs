//! The demonstration's output: records as they arrive, events, and a small table.
//!
//! On a terminal the table stays at the bottom while the other lines scroll above it, and each worker has a color, unless
//! the variable NO_COLOR is set. Elsewhere everything is plain text, the table included.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::Instant;

use super::checker::{Check, Verdict};
use super::reorder::Delivery;
use crate::cli::output;

/// Makes the terminal cut long lines rather than wrap them, so that the table's height is known.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "1;32";
/// The workers' colors, in turn: cyan, yellow, magenta, green, blue.
const WORKER_COLORS: [&str; 5] = ["36", "33", "35", "32", "34"];

/// Standard output.
pub struct Screen {
    /// Whether the table stays at the bottom.
    is_live: bool,
    has_colors: bool,
    started: Instant,
    /// Lines that are not written yet.
    lines: String,
    /// The table at the bottom, if any.
    table: String,
    /// The number of lines of the table on the screen.
    table_height: usize,
    table_changed: bool,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The worker's id.
    pub name: String,
    /// The number of unfinished shards that it holds, by the lease table.
    pub shards: usize,
    /// The number of records that it delivered.
    pub delivered: u64,
    /// The longest time from write to delivery, among the records since the last table.
    pub lag: Option<Duration>,
    /// A note such as "killed".
    pub note: &'static str,
}

/// The last line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Total {
    /// The result so far.
    pub verdict: Verdict,
    /// The age of the oldest write that is not delivered.
    pub longest_wait: Option<Duration>,
}

impl Screen {
    /// Standard output. The times that it shows count from now.
    pub fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let is_live = std::io::stdout().is_terminal() && !is_dumb;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_live,
            has_colors: is_live && !no_color,
            started: Instant::now(),
            lines: String::new(),
            table: String::new(),
            table_height: 0,
            table_changed: false,
        }
    }

    /// Whether the table stays on the screen, so that it can be updated often.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Shows a text.
    pub fn text(&mut self, text: &str) {
        self.lines.push_str(text);
        self.lines.push('\n');
    }

    /// Shows an event, in bold letters.
    pub fn event(&mut self, text: &str) {
        let line = format!("{}  == {text}", self.clock());
        let line = self.paint(BOLD, &line);
        self.text(&line);
    }

    /// Shows an error.
    pub fn error(&mut self, text: &str) {
        let line = format!("{}  !! {text}", self.clock());
        let line = self.paint(RED, &line);
        self.text(&line);
    }

    /// Shows a record in a line.
    pub fn record(&mut self, name: &str, delivery: &Delivery, check: Check) {
        let record = &delivery.record;
        let line = format!(
            "{}  {name:<9}  {}  {:<19}  v{:<3}  {}",
            self.clock(),
            record.event.name(),
            record.key,
            record.version,
            record.changes
        );
        let mut line = self.paint(color_of(delivery.worker), &line);
        let (style, note) = match check {
            Check::InOrder(_) => (DIM, ""),
            Check::Repeated => (DIM, "  (again)"),
            Check::OutOfOrder(_) => (RED, "  OUT OF ORDER"),
            Check::NeverWritten => (RED, "  NEVER WRITTEN"),
        };
        if !note.is_empty() {
            line.push_str(&self.paint(style, note));
        }
        match self.is_live {
            true => self.text(&format!("{NO_WRAP}{line}{WRAP}")),
            false => self.text(&line),
        }
    }

    /// Shows the table.
    pub fn table(&mut self, rows: &[Row], total: Total) {
        let table = self.format_table(rows, total);
        if self.is_live {
            self.table = table;
            self.table_changed = true;
        } else {
            self.lines.push_str(&table);
        }
    }

    /// Shows the verdict instead of the table.
    pub fn verdict(&mut self, verdict: &Verdict, crashes: usize) {
        self.table.clear();
        self.table_changed = true;
        let mut lines =
            format!("\nVerdict, compared with the writer's own count, after {}:\n", self.clock().trim_start());
        let mut count = |name: &str, number: u64, note: &str| {
            let _ = writeln!(lines, "{}", format!("  {name:<16}{number:>9}{note}").trim_end());
        };
        let allowed = "  (allowed: records that a killed worker had not checkpointed are repeated)";
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

    /// Writes everything that has been shown since the last flush.
    ///
    /// # Errors
    /// As [`output::print`].
    pub fn flush(&mut self) -> Result<(), anyhow::Error> {
        if self.lines.is_empty() && !self.table_changed {
            return Ok(());
        }
        let mut text = String::new();
        if self.table_height > 0 {
            // Move to the start of the table and erase everything below.
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

    fn format_table(&self, rows: &[Row], total: Total) -> String {
        let mut table = String::from("\n");
        let heading = format!("{}  {:<9}  {:>6}  {:>9}  {:>7}", self.clock(), "worker", "shards", "delivered", "lag");
        let _ = writeln!(table, "{}", self.paint(BOLD, &heading));
        for (index, row) in rows.iter().enumerate() {
            let lag = row.lag.map_or("-".to_string(), seconds);
            let line =
                format!("{:9}{:<9}  {:>6}  {:>9}  {lag:>7}  {}", "", row.name, row.shards, row.delivered, row.note);
            let _ = writeln!(table, "{}", self.paint(color_of(index), line.trim_end()));
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
        match self.has_colors {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn color_of(worker: usize) -> &'static str {
    WORKER_COLORS[worker % WORKER_COLORS.len()]
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}
