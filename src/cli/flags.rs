//! The command line: clap's commands made from the tables of settings, and what was typed taken out of its matches.
//!
//! clap takes each flag as raw text, any number of times, with or without a value, and everything unknown as a stray
//! argument, so that it hardly ever stops at a first mistake: this module finds them all.

use std::ffi::OsStr;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::layers::Given;
use super::mistakes::{Mistakes, did_you_mean};
use super::setting::{About, Kind, Origin};

/// A sub-command of the program.
pub struct SubCommand {
    /// As it is typed.
    pub name: &'static str,
    /// One line in the program's help.
    pub summary: &'static str,
    /// Stands above its own help's options.
    pub description: &'static str,
    /// Stands below them.
    pub epilogue: &'static str,
    /// Its settings, in the order of its help.
    pub table: &'static [&'static About],
    /// Whether the environment and a file give settings too.
    pub takes_layers: bool,
}

/// What unknown arguments are collected under.
const STRAY: &str = "stray";

/// The program's command line.
pub fn command(sub_commands: &[SubCommand]) -> Command {
    Command::new("shardkeeper")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Reads a DynamoDB stream with any number of workers: start more copies, and they divide its shards \
             among themselves.",
        )
        .subcommands(sub_commands.iter().map(sub_command))
}

fn sub_command(sub_command: &SubCommand) -> Command {
    let stray = Arg::new(STRAY)
        .hide(true)
        .num_args(1)
        .action(ArgAction::Append)
        .allow_hyphen_values(true)
        .value_parser(ValueParser::os_string());
    let usage = format!("shardkeeper {} [OPTIONS]", sub_command.name);
    Command::new(sub_command.name)
        .about(sub_command.summary)
        .long_about(sub_command.description)
        .after_help(sub_command.epilogue)
        .override_usage(usage)
        .next_line_help(true)
        .args(
            sub_command
                .table
                .iter()
                .map(|about| flag(about, sub_command.takes_layers)),
        )
        .arg(stray)
}

fn flag(about: &'static About, shows_variable: bool) -> Arg {
    let is_switch = about.kind == Kind::Switch;
    Arg::new(about.name)
        .long(about.name)
        .help(about.full_help(shows_variable))
        .help_heading(about.group)
        .value_name(if is_switch {
            "true|false"
        } else {
            about.value_name
        })
        .num_args(0..=1)
        .require_equals(is_switch)
        .action(ArgAction::Append)
        .value_parser(ValueParser::os_string())
}

/// What the flags give, by setting. Unknown, repeated and empty-handed ones add to `mistakes`.
pub fn read(
    table: &'static [&'static About],
    matches: &ArgMatches,
    mistakes: &mut Mistakes,
) -> Vec<(&'static About, Given)> {
    for argument in matches.get_raw(STRAY).into_iter().flatten() {
        mistakes.add(stray_mistake(argument, table));
    }
    let mut given = Vec::new();
    for about in table {
        match read_flag(about, matches) {
            Ok(Some(text)) => {
                let origin = Origin::CommandLine;
                given.push((*about, Given { text, origin }));
            }
            Ok(None) => {}
            Err(message) => {
                let place = Origin::CommandLine.place_of(about);
                mistakes.add(format!("{place}: {message}"));
            }
        }
    }
    given
}

fn read_flag(about: &About, matches: &ArgMatches) -> Result<Option<String>, String> {
    let Some(occurrences) = matches.get_raw_occurrences(about.name) else {
        return Ok(None);
    };
    let values: Vec<Option<&OsStr>> = occurrences.map(|mut values| values.next()).collect();
    let [value] = values[..] else {
        return Err(format!("given {} times; give it once", values.len()));
    };
    match value.map(OsStr::to_str) {
        Some(Some(text)) => Ok(Some(text.to_string())),
        Some(None) => Err("not Unicode text".to_string()),
        None if about.kind == Kind::Switch => Ok(Some("true".to_string())),
        None => Err(format!(
            "needs a value: {} {}",
            about.flag(),
            about.value_name
        )),
    }
}

fn stray_mistake(argument: &OsStr, table: &[&About]) -> String {
    let text = argument.to_string_lossy();
    let Some(written) = text.strip_prefix("--") else {
        return format!("{text:?} (command line): unexpected argument");
    };
    let name = written.split('=').next().unwrap_or(written);
    let flags: Vec<String> = table.iter().map(|about| about.flag()).collect();
    let hint = did_you_mean(&format!("--{name}"), flags.iter().map(String::as_str));
    format!("--{name} (command line): unknown option{hint}")
}
