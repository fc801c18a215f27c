//! The findings of a check, for people and for programs.

use std::fmt;

use serde::Serialize;

/// All findings, in the order in which they were made.
#[derive(Default, Serialize)]
pub struct Report {
    checks: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    result: Verdict,
    message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failure,
}

impl Report {
    pub fn ok(&mut self, name: &'static str, message: impl fmt::Display) {
        self.add(name, Verdict::Ok, message);
    }

    /// A worker starts, but may not do what its user expects.
    pub fn warning(&mut self, name: &'static str, message: impl fmt::Display) {
        self.add(name, Verdict::Warning, message);
    }

    /// A worker does not start, or cannot do its work.
    pub fn failure(&mut self, name: &'static str, message: impl fmt::Display) {
        self.add(name, Verdict::Failure, message);
    }

    fn add(&mut self, name: &'static str, result: Verdict, message: impl fmt::Display) {
        self.checks.push(Finding { name, result, message: message.to_string() });
    }

    pub fn failures(&self) -> usize {
        self.checks.iter().filter(|finding| finding.result == Verdict::Failure).count()
    }

    pub fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::json!({"ok": self.failures() == 0, "checks": self.checks}))
    }
}

/// A line for each finding.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checks.iter().try_for_each(|Finding { name, result, message }| {
            let word = match result {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failure => "failure",
            };
            writeln!(f, "{word:<8} {name:<13} {message}")
        })
    }
}
