//! The load bench: what a fleet of real worker processes costs and how fast it is, beside the loop that one would write
//! by hand on the AWS SDK.
//!
//!     cargo bench --bench fleet                                 # everything, some ten minutes
//!     cargo bench --bench fleet -- --scenario backlog-300       # one scenario; --list names them
//!     cargo bench --bench fleet -- --write-docs                 # and writes docs/benchmarks.md with its plots
//!     cargo bench --profile dev --bench fleet -- --quick        # does everything work? (CI)
//!     cargo bench --profile dev --bench fleet -- --counts       # does a page cost more than before? (CI)
//!
//! Workers, service and the SDK loop are processes of their own on this machine; CPU and memory are the kernel's
//! figures for them (so it needs Linux). The service's pages are made ahead, so that it takes little of the CPU; how
//! much, each scenario says.
//!
//! # Layout
//! - [`options`]: what was typed. [`scenarios`]: what is measured. [`report`], [`page`], [`plot`]: what comes out.
//! - [`service`], [`workers`], [`process`], [`live`]: the parts of a scenario.
//! - [`counts`]: counts instead of times, which no load on the machine changes.
//! - [`bare`], [`embedded`]: this program again, as the SDK loop and as a worker with a processor of its own. [`raw`]:
//!   GetRecords without the SDK. [`handler`]: a handler over HTTP, and a client of it.

#![expect(clippy::disallowed_methods, reason = "a load bench measures real time, and lets it pass")]

mod bare;
mod counts;
mod embedded;
mod handler;
mod live;
mod options;
mod page;
mod plot;
mod process;
mod progress;
mod raw;
mod report;
mod scenarios;
mod service;
mod workers;

use std::process::ExitCode;

use anyhow::Context;

use options::{Asked, Options};
use report::Outcome;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((role, rest)) if role == bare::ROLE => bare::run(rest),
        Some((role, rest)) if role == counts::ROLE => counts::run(rest),
        Some((role, _)) if role == handler::ROLE => handler::run(),
        Some((role, rest)) if role == handler::CLIENT_ROLE => handler::post(rest),
        Some((role, rest)) if role == embedded::ROLE => embedded::run(rest),
        _ => match Options::read(&arguments) {
            Ok(Asked::Run(options)) => bench(&options),
            Ok(Asked::Counts) => counts::check(),
            Ok(Asked::Help) => print(options::HELP),
            Ok(Asked::List) => print(&scenarios::list()),
            Err(mistake) => {
                eprintln!("error: {mistake}\n\n{}", options::HELP);
                return ExitCode::from(64);
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> Result<(), anyhow::Error> {
    print!("{text}");
    Ok(())
}

fn bench(options: &Options) -> Result<(), anyhow::Error> {
    let machine = report::Machine::of_this_run(options.quick);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for scenario in scenarios::ALL.iter().filter(|scenario| options.wants(scenario.name)) {
        let stage = scenarios::Stage::new(scenario.name, options.quick)?;
        let outcome = (scenario.run)(&stage).with_context(|| format!("scenario {}", scenario.name))?;
        drop(stage);
        outcome.check()?;
        println!("{}", outcome.to_text(!options.quick));
        outcomes.push(outcome);
    }
    if let Some(path) = &options.json {
        let json = report::to_json(&machine, &outcomes);
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.write_docs {
        page::write(&machine, &outcomes)?;
    }
    if options.quick {
        println!("{} scenarios ran, and their figures are sane", outcomes.len());
    }
    Ok(())
}
