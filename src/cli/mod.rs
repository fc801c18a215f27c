//! The command line program: what was typed becomes what it means, then a sub-command runs.
//!
//! # Layout
//! - [`setting`]: what a setting is. One entry gives its flag, variable, key, help and parser.
//! - [`run_config`] with [`delivery_config`], `local_config`, `demo_config`: the table of settings of each sub-command,
//!   and the struct that they become.
//! - [`flags`], [`mod@file`] and [`layers`]: the texts that were given, with their places, flags over environment over
//!   file over defaults.
//! - [`value`]: parsers of single values. [`mistakes`]: what is wrong, all of it told at once.
//! - [`run`], `local`, `demo`, [`status`], [`lease`], [`dead_letters`]: the sub-commands themselves.
//! - [`connection`]: the tables of an application, for those that look at it from outside.
//! - [`logs`], [`output`], [`confirm`], [`signals`]: standard error, standard output, asking, and being asked to stop.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;

pub mod admin_server;
pub mod confirm;
pub mod connection;
pub mod dead_letters;
pub mod delivery_config;
#[cfg(feature = "local")]
pub mod demo;
#[cfg(feature = "local")]
pub mod demo_config;
pub mod file;
pub mod flags;
pub mod layers;
pub mod lease;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "local")]
pub mod local_config;
pub mod logs;
pub mod mistakes;
pub mod output;
pub mod run;
pub mod run_config;
pub mod setting;
pub mod signals;
pub mod sinks;
pub mod status;
pub mod value;

use layers::Environment;
use mistakes::Mistakes;
use run_config::{RunConfig, RunRequest};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// `shardkeeper run`.
    Run(Box<RunConfig>),
    /// `shardkeeper local`.
    #[cfg(feature = "local")]
    Local(local_config::LocalConfig),
    /// `shardkeeper demo`.
    #[cfg(feature = "local")]
    Demo(demo_config::DemoConfig),
    /// `shardkeeper status`.
    Status(status::config::StatusConfig),
    /// `shardkeeper lease release|assign|reset`.
    Lease(lease::config::LeaseConfig),
    /// `shardkeeper dead-letters list|show|replay|purge`.
    DeadLetters(Box<dead_letters::config::DeadLettersConfig>),
    /// Help, the version or the effective configuration: a text for standard output.
    Print(String),
}

const SUB_COMMANDS: &[flags::SubCommand] = &[
    run_config::RUN,
    #[cfg(feature = "local")]
    local_config::LOCAL,
    #[cfg(feature = "local")]
    demo_config::DEMO,
    status::config::STATUS,
    lease::config::LEASE,
    dead_letters::config::DEAD_LETTERS,
];

/// Does what the command line asks for.
///
/// # Errors
/// [`Mistakes`] in what was typed, before anything starts; else what the sub-command failed with.
pub fn run_program(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<(), anyhow::Error> {
    match read(arguments, environment)? {
        Invocation::Run(config) => {
            logs::start(&config.logs);
            run::run(*config)
        }
        #[cfg(feature = "local")]
        Invocation::Local(config) => {
            logs::start(&config.logs);
            local::run(config)
        }
        #[cfg(feature = "local")]
        Invocation::Demo(config) => {
            logs::start(&config.logs);
            demo::run(config)
        }
        Invocation::Status(config) => {
            logs::start(&config.logs);
            status::run(&config)
        }
        Invocation::Lease(config) => {
            logs::start(&config.logs);
            lease::run(&config)
        }
        Invocation::DeadLetters(config) => {
            logs::start(&config.logs);
            dead_letters::run(&config)
        }
        Invocation::Print(text) => output::print(&text),
    }
}

/// What was typed becomes what it means. The first of `arguments` is the program's own name.
///
/// # Errors
/// Every mistake in flags, environment and configuration file.
pub fn read(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Invocation, Mistakes> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.get(1).and_then(|name| name.to_str());
    let Some(command) = SUB_COMMANDS.iter().find(|known| Some(known.name) == name) else {
        return ask_clap(&arguments);
    };
    let mut names: Vec<OsString> = vec![arguments[0].clone(), command.name.into()];
    let child = arguments.get(2).and_then(|name| command.children.iter().find(|known| *name == *known.name));
    match child {
        Some(child) => names.push(child.name.into()),
        None if command.children.is_empty() => {}
        None => return ask_clap(&arguments),
    }
    let flags = &arguments[names.len()..];
    if flags::ask_for_help(flags) {
        names.push("--help".into());
        return ask_clap(&names);
    }
    match command.name {
        "run" => Ok(match run_config::read(flags, environment)? {
            RunRequest::Run(config) => Invocation::Run(config),
            RunRequest::PrintConfig(text) => Invocation::Print(text),
        }),
        #[cfg(feature = "local")]
        "local" => local_config::read(flags).map(Invocation::Local),
        #[cfg(feature = "local")]
        "demo" => demo_config::read(flags).map(Invocation::Demo),
        "status" => status::config::read(flags, environment).map(Invocation::Status),
        "lease" => {
            let action = child.map_or("", |child| child.name);
            lease::config::read(action, flags, environment).map(Invocation::Lease)
        }
        "dead-letters" => {
            let action = child.map_or("", |child| child.name);
            dead_letters::config::read(action, flags, environment).map(Box::new).map(Invocation::DeadLetters)
        }
        name => unreachable!("{name} is listed and not handled"),
    }
}

/// clap's answer to what is no sub-command with its flags: help, the version, or what is wrong with it.
fn ask_clap(arguments: &[OsString]) -> Result<Invocation, Mistakes> {
    let Err(answer) = flags::command(SUB_COMMANDS).try_get_matches_from(arguments) else {
        return Err(Mistakes::one(
            "no command was given; write `shardkeeper run`, or `shardkeeper --help` to see them all",
        ));
    };
    read_clap_answer(&answer)
}

fn read_clap_answer(answer: &clap::Error) -> Result<Invocation, Mistakes> {
    let text = answer.render();
    match answer.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let is_terminal = std::io::stdout().is_terminal();
            let text = if is_terminal { text.ansi().to_string() } else { text.to_string() };
            Ok(Invocation::Print(text))
        }
        _ => {
            let text = text.to_string();
            let message = text.lines().next().unwrap_or_default();
            let message = message.trim_start_matches("error: ");
            Err(Mistakes::one(format!("{message} (command line); `shardkeeper --help` shows what there is")))
        }
    }
}

/// Bad usage or configuration: EX_USAGE of BSD's sysexits.
const EXIT_USAGE: u8 = 64;

/// Tells an error that ends the program on standard error, with its causes, and the exit code that it calls for: 64
/// for [`Mistakes`], 1 for a failure; 0 and not a word when standard output's reader went away.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<output::Closed>()) {
        return ExitCode::SUCCESS;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setting::Default;

    #[test]
    fn the_command_line_is_well_formed() {
        flags::command(SUB_COMMANDS).debug_assert();
    }

    #[test]
    fn every_setting_has_a_help_text_and_every_flag_is_there_once() {
        for sub_command in SUB_COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.children)) {
            let mut names: Vec<&str> = sub_command.table.iter().map(|about| about.name).collect();
            names.sort_unstable();
            let listed = names.len();
            names.dedup();
            assert_eq!(names.len(), listed, "{}", sub_command.name);
            for about in sub_command.table {
                assert!(about.help.ends_with('.'), "{} {}", sub_command.name, about.name);
            }
        }
    }

    #[test]
    fn defaults_read_as_values_and_none_needs_another_option() {
        let arguments = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        let environment = Environment::default();
        for line in [
            "shardkeeper run --table Phones --app audit",
            #[cfg(feature = "local")]
            "shardkeeper local",
            #[cfg(feature = "local")]
            "shardkeeper demo",
        ] {
            read(arguments(line), &environment).unwrap();
        }
        let required: Vec<&str> = run_config::RUN
            .table
            .iter()
            .filter(|about| about.default == Default::Required)
            .map(|about| about.name)
            .collect();
        assert_eq!(required, ["app"]);
    }
}
