//! Counts instead of times: the instructions, allocations and system calls of a GetRecords call, with an empty page and
//! with a full one.
//!
//! No load on the machine changes them, so CI holds them to the file `counts.txt`. A tool counts a whole process, which
//! makes calls one after the other: once few, once more. The difference is the calls'. A page is received and decoded,
//! and each of its records looked at.

use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::scenarios::call::{self, Page};

/// The first argument of the process that calls.
pub const ROLE: &str = "as-caller";

/// The counts of the last change that was meant to change them: one a line, with its tool and what it is a count of.
const EXPECTED: &str = include_str!("counts.txt");
/// The part by which a count may exceed them.
const MARGIN: f64 = 0.15;
/// The calls, as `counts.txt` names them.
const CALL: &str = "an empty call";
const FULL: &str = "a full page";

/// Records of a full page.
const PAGE: u64 = 1000;

/// A program that counts what happens in a process.
struct Tool {
    counts: &'static str,
    command: &'static [&'static str],
    /// Finds the count in the tool's output.
    count_in: fn(&str) -> Option<&str>,
}

const TOOLS: [Tool; 3] = [
    Tool {
        counts: "instructions",
        command: &["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"],
        // ==1== Collected : 123456
        count_in: |output| Some(last_with(output, "Collected :")?.rsplit(' ').next()?.trim()),
    },
    Tool {
        counts: "allocations",
        command: &["valgrind", "--tool=dhat", "--dhat-out-file=/dev/null"],
        // ==1== Total:     438,310 bytes in 2,253 blocks
        count_in: |output| last_with(output, "Total:")?.split(" in ").nth(1)?.split(' ').next(),
    },
    Tool {
        counts: "system calls",
        command: &["strace", "-f", "-c"],
        // 100.00    1.610522          35     45975       258 total
        count_in: |output| last_with(output, " total")?.split_whitespace().nth(3),
    },
];

fn last_with<'a>(output: &'a str, mark: &str) -> Option<&'a str> {
    output.lines().rfind(|line| line.contains(mark))
}

/// Counts, prints, and fails if a count has grown.
pub fn check() -> Result<(), anyhow::Error> {
    let mut grown = 0;
    println!("{:<14} {:<14} {:>12} {:>12} {:>8}", "of", "count", "now", "expected", "change");
    for tool in &TOOLS {
        if !tool.is_installed() {
            println!("SKIPPED: {}: there is no {}", tool.counts, tool.command[0]);
            continue;
        }
        let empty = tool.count_calls(0, [50, 250])?;
        let full = tool.count_calls(PAGE, [5, 25])?;
        for (work, count) in [(CALL, empty), (FULL, full)] {
            let expected = expected(tool.counts, work)?;
            let change = count / expected - 1.0;
            let has_grown = change > MARGIN;
            let verdict = if has_grown { "  GROWN" } else { "" };
            let counts = tool.counts;
            println!("{work:<14} {counts:<14} {count:>12.3} {expected:>12.3} {:>+7.1}%{verdict}", change * 100.0);
            grown += usize::from(has_grown);
        }
    }
    ensure!(
        grown == 0,
        "{grown} counts exceed benches/fleet/counts.txt by more than {} %: find the cause, or write the new count and \
         its reason into that file",
        MARGIN * 100.0
    );
    Ok(())
}

fn expected(counts: &str, work: &str) -> Result<f64, anyhow::Error> {
    let line = EXPECTED.lines().find_map(|line| line.strip_prefix(work)?.trim().strip_prefix(counts));
    line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("no {counts} of {work} are expected"))
}

impl Tool {
    fn is_installed(&self) -> bool {
        let mut version = Command::new(self.command[0]);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    /// The count of a call that gets so many records.
    fn count_calls(&self, records: u64, [few, many]: [u64; 2]) -> Result<f64, anyhow::Error> {
        let page = Page::make(records)?;
        let count = |calls: u64| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([ROLE, &page.url, &page.iterator, &records.to_string(), &calls.to_string()]);
            self.count(&command)
        };
        Ok((count(many)? - count(few)?) / (many - few) as f64)
    }

    /// The count of a whole process, which must succeed.
    fn count(&self, counted: &Command) -> Result<f64, anyhow::Error> {
        let mut command = Command::new(self.command[0]);
        command.args(&self.command[1..]).arg(counted.get_program()).args(counted.get_args());
        let output =
            command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", self.command[0]))?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the counted process failed: {text}");
        let count = (self.count_in)(&text).and_then(|number| number.replace(',', "").parse().ok());
        count.with_context(|| format!("{} says no number of {}: {text}", self.command[0], self.counts))
    }
}

/// Makes the calls on one thread.
pub fn run(arguments: &[String]) -> Result<(), anyhow::Error> {
    let [url, iterator, expected, calls] = arguments else { bail!("{ROLE} takes a URL, an iterator and two numbers") };
    let (expected, calls) = (expected.parse::<usize>()?, calls.parse::<u64>()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stream = call::stream(&call::clients(url));
        for _ in 0..calls {
            let page = stream.records(iterator, 1000).await?;
            let seen = page.records.iter().filter(|record| !record.sequence_number().is_empty()).count();
            ensure!(seen == expected, "a page has {seen} records instead of {expected}");
        }
        Ok(())
    })
}
