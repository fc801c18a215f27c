//! The command line program.
//!
//! # Layout
//! - [`args`]: the options, a struct for each sub-command. [`config`]: their sources, and all mistakes in them.
//! - [`run`], [`check`], `local`, `demo`, [`status`], [`lease`], [`dead_letters`]: the sub-commands.
//! - [`multilang`]: `run` by a properties file of KCL's MultiLangDaemon.
//! - [`sinks`]: destinations of records. [`admin_server`]: metrics, health and status over HTTP. `otlp`: metrics
//!   and traces to a collector.
//! - [`reference`]: completions, manual pages, the file's schema and the page of settings, made from the options.
//! - [`reload`]: the configuration file read again while a worker runs.
//! - [`systemd`]: readiness, watchdog and reloads for a service manager.
//! - [`connection`]: the tables of an application, for those that look at it from outside.
//! - [`events`]: the log lines that programs and the page show.
//! - [`logs`], [`output`], [`confirm`], [`signals`]: standard error, standard output, questions, requests to stop.

use std::process::ExitCode;

pub mod admin_server;
mod args;
mod check;
mod config;
mod confirm;
mod connection;
mod dead_letters;
#[cfg(feature = "local")]
mod demo;
pub mod events;
mod lease;
#[cfg(feature = "local")]
mod local;
mod logs;
mod multilang;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod reference;
mod reload;
mod run;
mod signals;
mod sinks;
mod status;
mod systemd;

use args::Command;
use config::Mistakes;

/// Bad usage or configuration: EX_USAGE of BSD's sysexits.
const EXIT_USAGE: u8 = 64;

/// The program: does what the command line asks for, and tells on standard error what went wrong.
pub fn main() -> ExitCode {
    sinks::multilang::launcher::become_child();
    match run_program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code(&error),
    }
}

fn run_program() -> Result<(), anyhow::Error> {
    let (cli, sources) = read_configuration()?;
    if let Some(config) = cli.command.logs() {
        logs::start(&config);
    }
    match &cli.command {
        Command::Run(args) if args.program.print_config => output::print(&sources.to_toml()),
        Command::Check(args) if args.run.program.print_config => output::print(&sources.to_toml()),
        Command::Run(args) => run::run(args, sources),
        Command::Check(args) => check::run(args),
        Command::Multilang(args) if args.run.program.print_config => output::print(&sources.to_toml()),
        Command::Multilang(args) => {
            sources.remarks.iter().for_each(multilang::mapping::Remark::log);
            run::run(&args.run, sources)
        }
        #[cfg(feature = "local")]
        Command::Local(args) => local::run(args),
        #[cfg(feature = "local")]
        Command::Demo(args) => demo::run(args),
        Command::Status(args) => status::run(args),
        Command::Lease(command) => lease::run(command),
        Command::Replay(args) => lease::replay::run(args),
        Command::DeadLetters(command) => dead_letters::run(command),
        Command::Completions(args) => reference::completions(args),
        Command::Man(args) => reference::man(args),
        Command::ConfigSchema => output::print(&reference::schema::text()),
    }
}

/// Reads what this process was started with, and its files.
fn read_configuration() -> Result<(args::Cli, config::Sources), anyhow::Error> {
    config::read(multilang::without_java(std::env::args_os()), &std::env::vars_os().collect())
}

/// Prints an error that ends the program, with its causes, and returns the exit code that it calls for: 64 for wrong
/// usage, 1 for a failure, 0 for help and, silently, when standard output's reader went away.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<output::Closed>()) {
        return ExitCode::SUCCESS;
    }
    if let Some(answer) = error.downcast_ref::<clap::Error>() {
        // A terminal or pipe that is gone is no failure of the program.
        let _ = answer.print();
        return if answer.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
    }
    let mut told = error.to_string();
    eprintln!("error: {told}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors hold their cause's text.
        if !told.contains(&cause) {
            eprintln!("  caused by: {cause}");
        }
        told = cause;
    }
    match error.downcast_ref::<Mistakes>() {
        Some(_) => ExitCode::from(EXIT_USAGE),
        None => ExitCode::FAILURE,
    }
}
