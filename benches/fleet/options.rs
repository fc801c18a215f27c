//! The command line of the load bench.

use std::path::PathBuf;

use super::scenarios;

/// The text of `--help`.
pub const HELP: &str = "\
Measures fleets of worker processes on the local service.

Usage: cargo bench --bench fleet -- [OPTIONS]

  --quick            Small loads, a few seconds a scenario: whether everything works, no times worth keeping
  --scenario NAME    Only this scenario (again for more)
  --counts           Instead, count the instructions, allocations and system calls of an empty call and of a full
                     page, and fail if they exceed those in benches/fleet/counts.txt (build with --profile dev)
  --list             Name the scenarios
  --json FILE        Write all figures to FILE as JSON
  --write-docs       Write docs/benchmarks.md and its plots in docs/img
  --help             Show this
";

/// Scenarios to measure and outputs to write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether loads are small.
    pub quick: bool,
    /// Whether docs/benchmarks.md is written.
    pub write_docs: bool,
    /// The file for the figures as JSON.
    pub json: Option<PathBuf>,
    /// The scenarios asked for; none for all.
    scenarios: Vec<String>,
}

/// The request of a command line.
#[derive(Debug)]
pub enum Asked {
    Counts,
    Help,
    List,
    Run(Options),
}

impl Options {
    /// Reads the command line; the first mistake in words.
    pub fn read(arguments: &[String]) -> Result<Asked, String> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => {} // cargo's own word to every bench
                "--quick" => options.quick = true,
                "--write-docs" => options.write_docs = true,
                "--json" => options.json = Some(value()?.into()),
                "--scenario" => options.scenarios.push(known(value()?)?),
                "--counts" => return Ok(Asked::Counts),
                "--list" => return Ok(Asked::List),
                "--help" | "-h" => return Ok(Asked::Help),
                other => return Err(format!("{other} is no option")),
            }
        }
        if options.quick && options.write_docs {
            return Err("--write-docs wants real figures: leave --quick out".to_owned());
        }
        Ok(Asked::Run(options))
    }

    /// Whether a scenario is to be run.
    pub fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|name| name == scenario)
    }
}

fn known(name: &str) -> Result<String, String> {
    match scenarios::ALL.iter().any(|scenario| scenario.name == name) {
        true => Ok(name.to_owned()),
        false => Err(format!("{name} is no scenario: --list names them")),
    }
}
