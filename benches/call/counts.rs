//! Counts of a call instead of times: instructions, allocations and system calls, which no load on the machine changes.
//!
//! This program runs itself under valgrind and strace, with some calls and with twice as many: the difference is the
//! calls'. A tool that isn't installed is left out.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{Server, clients, server, stream};

/// The first argument of the role that is counted.
pub const ROLE: &str = "as-caller";
/// Calls of the shorter run.
const CALLS: usize = 100;

/// A count of a call that gets this page, and the most that it may be. Instructions are those of the profile `dev`.
struct Limit {
    page: &'static str,
    tool: Tool,
    most: f64,
}

const LIMITS: &[Limit] = &[
    Limit { page: "empty", tool: Tool::Allocations, most: 1e9 },
    Limit { page: "empty", tool: Tool::SystemCalls, most: 1e9 },
    Limit { page: "empty", tool: Tool::Instructions, most: 1e9 },
    Limit { page: "full", tool: Tool::Allocations, most: 1e9 },
    Limit { page: "full", tool: Tool::SystemCalls, most: 1e9 },
    Limit { page: "full", tool: Tool::Instructions, most: 1e9 },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Allocations,
    SystemCalls,
    Instructions,
}

impl Tool {
    /// The counted thing, the command, and how its output begins or ends the line of the count.
    fn parts(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Allocations => ("allocations", &["valgrind", "--tool=dhat", "--dhat-out-file=/dev/null"]),
            Self::SystemCalls => ("system calls", &["strace", "-f", "-c"]),
            Self::Instructions => ("instructions", &["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]),
        }
    }

    fn is_installed(self) -> bool {
        let mut command = Command::new(self.parts().1[0]);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The count in the tool's last words.
    fn count_in(self, words: &str) -> Option<f64> {
        let line = |mark: &str| words.lines().rfind(|line| line.contains(mark));
        let number = match self {
            // Total:     438,310 bytes in 2,253 blocks
            Self::Allocations => line("Total:")?.split(" in ").nth(1)?.split(' ').next()?,
            // 100.00    1.610522          35     45975       258 total
            Self::SystemCalls => line(" total")?.split_whitespace().nth(3)?,
            // Collected : 123456
            Self::Instructions => line("Collected :")?.split(" : ").nth(1)?.trim(),
        };
        number.replace(',', "").parse().ok()
    }

    /// The count of the whole role with so many calls.
    fn count(self, url: &str, page: &str, calls: usize) -> Result<f64, anyhow::Error> {
        let (what, command) = self.parts();
        let mut run = Command::new(command[0]);
        run.args(&command[1..]).arg(std::env::current_exe()?).args([ROLE, url, page, &calls.to_string()]);
        let output = run.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", command[0]))?;
        let words = String::from_utf8_lossy(&output.stderr);
        let count = self.count_in(&words).filter(|_| output.status.success());
        count.with_context(|| format!("{} has counted no {what}: {words}", command[0]))
    }
}

/// Counts, and compares with the limits.
pub fn check() -> Result<(), anyhow::Error> {
    let server = Server::start()?;
    let mut beyond = 0;
    println!("{:<8} {:<14} {:>12} {:>12}", "page", "a call's", "count", "at most");
    for Limit { page, tool, most } in LIMITS {
        let (what, command) = tool.parts();
        if !tool.is_installed() {
            println!("{page:<8} {what:<14} {:>12}", format!("SKIPPED: there is no {}", command[0]));
            continue;
        }
        let [few, many] = [CALLS, 2 * CALLS].map(|calls| tool.count(&server.url, page, calls));
        let count = (many? - few?) / CALLS as f64;
        let is_beyond = count > *most && (*tool != Tool::Instructions || cfg!(debug_assertions));
        println!("{page:<8} {what:<14} {count:>12.1} {most:>12}{}", if is_beyond { "  MORE" } else { "" });
        beyond += usize::from(is_beyond);
    }
    if beyond > 0 {
        bail!("a call has become more costly in {beyond} ways");
    }
    Ok(())
}

/// The calls that are counted: one after the other, on one thread.
pub fn run(arguments: &[String]) -> Result<(), anyhow::Error> {
    let [url, page, calls] = arguments else { bail!("{ROLE} takes a URL, a page and a number of calls") };
    let calls: usize = calls.parse()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stream = stream(&clients(url));
        for _ in 0..calls {
            let records = stream.records(page, 1000).await?.records.len();
            anyhow::ensure!(records == server::records_of(page), "{records} records of page {page}");
        }
        Ok(())
    })
}
