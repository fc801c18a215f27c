//! The figures, as text and as JSON.

use std::fmt::Write;

use anyhow::bail;
use serde_json::{Value, json};

use super::scenarios;

/// A scenario's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The scenario's name on the command line.
    pub name: &'static str,
    /// A description in a few words.
    pub title: &'static str,
    /// The set-up: shards, records, workers.
    pub setup: String,
    /// The things compared, or the phases of one run.
    pub runs: Vec<Run>,
    /// The bounds for the figures.
    pub goals: Vec<Goal>,
    /// Distributions worth a plot: points of (milliseconds, part of the records).
    pub curves: Vec<Curve>,
}

/// One column of a result.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its heading.
    pub label: String,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// A number with its name and unit.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The name.
    pub name: &'static str,
    /// The amount.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Whether it can't be nothing.
    is_some: bool,
}

/// A bound that a figure is to keep.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The bounded figure.
    pub what: String,
    /// The measured value.
    pub value: f64,
    /// The bound.
    pub limit: f64,
    /// Whether the bound is a lower one.
    pub at_least: bool,
    /// The unit of both.
    pub unit: &'static str,
}

/// A distribution.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub label: String,
    /// Its points, rising.
    pub points: Vec<(f64, f64)>,
}

/// The machine of the measurement.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The processor's name and how many of it there are for us.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// Whether the program was built with optimisation.
    pub build: &'static str,
    /// Whether loads were small.
    pub quick: bool,
}

impl Figure {
    /// A figure that would be wrong as 0.
    pub fn some(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, is_some: true }
    }

    /// A figure that may be 0.
    pub fn any(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, is_some: false }
    }

    /// The value with as many digits as mean something.
    pub fn text(&self) -> String {
        number(self.value)
    }
}

impl Run {
    /// The value of a figure; not a number when the run has none of that name.
    pub fn value(&self, name: &str) -> f64 {
        self.figures.iter().find(|figure| figure.name == name).map_or(f64::NAN, |figure| figure.value)
    }
}

impl Goal {
    /// `what` is to come to no more than `limit`.
    pub fn at_most(what: impl Into<String>, value: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, limit, at_least: false, unit }
    }

    /// `what` is to come to no less than `limit`.
    pub fn at_least(what: impl Into<String>, value: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, limit, at_least: true, unit }
    }

    /// Whether the bound is kept.
    pub fn holds(&self) -> bool {
        if self.at_least { self.value >= self.limit } else { self.value <= self.limit }
    }

    /// The goal in a sentence.
    pub fn text(&self) -> String {
        let word = if self.at_least { "at least" } else { "at most" };
        let verdict = if self.holds() { "holds" } else { "MISSED" };
        let (value, limit, unit) = (number(self.value), number(self.limit), self.unit);
        format!("{}: {value}{unit} ({word} {limit}{unit}: {verdict})", self.what)
    }
}

impl Outcome {
    /// The names of all figures, in the order in which they first come.
    pub fn figure_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for figure in self.runs.iter().flat_map(|run| &run.figures) {
            if !names.contains(&figure.name) {
                names.push(figure.name);
            }
        }
        names
    }

    /// Fails when a figure can't be true.
    pub fn check(&self) -> Result<(), anyhow::Error> {
        for run in &self.runs {
            for figure in &run.figures {
                let is_sane =
                    figure.value.is_finite() && figure.value >= 0.0 && (figure.value > 0.0 || !figure.is_some);
                if !is_sane {
                    bail!("{}, {}: {} cannot be {}", self.name, run.label, figure.name, figure.value);
                }
            }
        }
        Ok(())
    }

    /// The result as a table, with the goals below it where they were measured in earnest.
    pub fn to_text(&self, with_goals: bool) -> String {
        let mut text = format!("{}: {}\n{}\n", self.name, self.title, self.setup);
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.runs.iter().map(|run| run.label.clone()));
        for name in self.figure_names() {
            let unit = self.unit_of(name);
            let mut row = vec![if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") }];
            row.extend(self.runs.iter().map(|run| figure_text(run, name)));
            rows.push(row);
        }
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
                let _ = match column {
                    0 => write!(text, "  {cell:width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.push('\n');
        }
        for goal in self.goals.iter().filter(|_| with_goals) {
            let _ = writeln!(text, "  {}", goal.text());
        }
        text
    }

    /// The unit of a figure.
    pub fn unit_of(&self, name: &str) -> &'static str {
        let mut figures = self.runs.iter().flat_map(|run| &run.figures);
        figures.find(|figure| figure.name == name).map_or("", |figure| figure.unit)
    }

    fn to_json(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            let figures = run.figures.iter().map(|figure| {
                let figure_json = json!({"value": figure.value, "unit": figure.unit});
                (figure.name.to_owned(), figure_json)
            });
            json!({"label": run.label, "figures": figures.collect::<serde_json::Map<_, _>>()})
        });
        let goals = self.goals.iter().map(|goal| {
            let bound = if goal.at_least { "at_least" } else { "at_most" };
            json!({"what": goal.what, "value": goal.value, bound: goal.limit, "unit": goal.unit, "holds": goal.holds()})
        });
        json!({
            "name": self.name,
            "title": self.title,
            "setup": self.setup,
            "runs": runs.collect::<Vec<_>>(),
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

/// A run's figure, or a dash.
pub fn figure_text(run: &Run, name: &str) -> String {
    let figure = run.figures.iter().find(|figure| figure.name == name);
    figure.map_or_else(|| "–".to_owned(), Figure::text)
}

/// A number with three digits that mean something, and thousands apart.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && digit.is_ascii_digit() && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    if rest.is_empty() { out } else { format!("{out}.{rest}") }
}

/// Everything, for programs.
pub fn to_json(machine: &Machine, outcomes: &[Outcome]) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "machine": {"cpu": machine.cpu, "kernel": machine.kernel},
        "build": machine.build,
        "quick": machine.quick,
        "scenarios": outcomes.iter().map(Outcome::to_json).collect::<Vec<_>>(),
    })
}

impl Machine {
    /// The machine that this runs on.
    pub fn of_this_run(quick: bool) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = format!("{cores} × {}", model.map_or("unknown processor", |(_, name)| name.trim()));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let build = if cfg!(debug_assertions) { "without optimisation" } else { "release" };
        Self { cpu, kernel: format!("Linux {}", kernel.trim()), build, quick }
    }
}

/// Puts the figures of several rounds of one run together: the middle one of each.
pub fn middle(label: &str, rounds: &[Vec<Figure>]) -> Run {
    let figures = rounds.first().into_iter().flatten().enumerate().map(|(index, first)| {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| Some(round.get(index)?.value)).collect();
        values.sort_by(f64::total_cmp);
        Figure { value: values[values.len() / 2], ..*first }
    });
    Run { label: label.to_owned(), figures: figures.collect() }
}

/// A whole outcome of a scenario, without goals and curves.
pub fn outcome(scenario: &scenarios::Scenario, setup: String, runs: Vec<Run>) -> Outcome {
    Outcome { name: scenario.name, title: scenario.title, setup, runs, goals: Vec::new(), curves: Vec::new() }
}
