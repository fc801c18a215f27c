//! The command line: flags read by the tables of settings, and clap's commands made from the same tables.
//!
//! clap writes the help texts and answers what is no sub-command. It stops at the first mistake, so the flags of a
//! sub-command are read here, all as raw text: `--name value`, `--name=value`, and `--name` alone for a switch.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

use super::layers::Given;
use super::mistakes::{Mistakes, did_you_mean};
use super::setting::{About, Kind, LIST_SEPARATOR, Origin};

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
    /// Whether the environment gives settings too.
    pub takes_layers: bool,
    /// What it takes beside flags; none: only flags.
    pub operands: Option<Operands>,
    /// Sub-commands of its own; one of them has to be named, and then this one's settings count for nothing.
    pub children: &'static [SubCommand],
}

/// The words that a sub-command takes without a flag: one or more of them.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// What stands for one of them in help texts.
    pub name: &'static str,
    /// What they are.
    pub help: &'static str,
}

/// The program's command line.
pub fn command(sub_commands: &[SubCommand]) -> Command {
    Command::new("shardkeeper")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Reads a DynamoDB stream with any number of workers: start more copies, and they divide its shards \
             among themselves.",
        )
        .subcommands(sub_commands.iter().map(|child| sub_command(child, "shardkeeper")))
}

fn sub_command(sub_command: &SubCommand, above: &str) -> Command {
    let full_name = format!("{above} {}", sub_command.name);
    let command = Command::new(sub_command.name);
    if !sub_command.children.is_empty() {
        return command
            .about(sub_command.summary)
            .long_about(sub_command.description)
            .after_help(sub_command.epilogue)
            .subcommand_required(true)
            .subcommands(sub_command.children.iter().map(|child| self::sub_command(child, &full_name)));
    }
    let usage = match sub_command.operands {
        Some(operands) => format!("{full_name} [OPTIONS] {}…", operands.name),
        None => format!("{full_name} [OPTIONS]"),
    };
    command
        .about(sub_command.summary)
        .long_about(sub_command.description)
        .after_help(sub_command.epilogue)
        .override_usage(usage)
        .next_line_help(true)
        .args(sub_command.operands.map(|operands| Arg::new(operands.name).help(operands.help).num_args(1..)))
        .args(flags_of(sub_command.table).map(|about| flag(about, sub_command.takes_layers)))
}

/// The settings of `table` that have a flag.
fn flags_of<'a>(table: &'a [&'static About]) -> impl Iterator<Item = &'static About> + 'a {
    table.iter().copied().filter(|about| about.on_command_line())
}

fn flag(about: &'static About, shows_variable: bool) -> Arg {
    let flag = Arg::new(about.name).long(about.name).help(about.full_help(shows_variable)).help_heading(about.group);
    match about.kind {
        Kind::Switch => flag.action(ArgAction::SetTrue),
        _ => flag.value_name(about.value_name),
    }
}

/// Parts `arguments` into the words that belong to no flag, and the rest, which [`read`] takes.
pub fn split_operands(table: &'static [&'static About], arguments: &[OsString]) -> (Vec<String>, Vec<OsString>) {
    let (mut operands, mut rest) = (Vec::new(), Vec::new());
    let mut takes_next = false;
    for argument in arguments {
        let text = argument.to_str();
        let flag = text.and_then(|text| text.strip_prefix("--"));
        match (flag, text) {
            (Some(flag), _) => {
                let about = table.iter().find(|about| about.name == flag);
                takes_next = !flag.contains('=') && about.is_none_or(|about| about.kind != Kind::Switch);
                rest.push(argument.clone());
            }
            (None, Some(word)) if !takes_next && !word.starts_with('-') && !word.is_empty() => {
                operands.push(word.to_owned());
            }
            _ => {
                takes_next = false;
                rest.push(argument.clone());
            }
        }
    }
    (operands, rest)
}

/// What `arguments`, those behind the sub-command's name, give by setting. Unknown, repeated and empty-handed flags add
/// to `mistakes`.
pub fn read(
    table: &'static [&'static About],
    arguments: &[OsString],
    mistakes: &mut Mistakes,
) -> Vec<(&'static About, Given)> {
    let mut given: Vec<(&'static About, Given)> = Vec::new();
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let Some(argument) = argument.to_str() else {
            let text = argument.to_string_lossy();
            mistakes.add(format!("{text:?} (command line): not Unicode text"));
            continue;
        };
        let Some(flag) = argument.strip_prefix("--") else {
            mistakes.add(format!("{argument:?} (command line): unexpected argument"));
            continue;
        };
        let (name, attached) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (flag, None),
        };
        let about = flags_of(table).find(|about| about.name == name);
        let takes_next = attached.is_none() && about.is_none_or(|about| about.kind != Kind::Switch);
        // The value of an unknown option goes with it, rather than make a mistake of its own.
        let next = rest.next_if(|next| takes_next && !next.as_encoded_bytes().starts_with(b"--"));
        let value = attached.as_ref().or(next);
        match about {
            None => mistakes.add(unknown_option(name, table)),
            Some(about) if about.kind != Kind::List && given.iter().any(|(other, _)| other.name == name) => {
                let place = Origin::CommandLine.place_of(about);
                mistakes.add(format!("{place}: given more than once"));
            }
            Some(about) => match text_of(about, value.map(OsString::as_os_str)) {
                Ok(text) => match given.iter_mut().find(|(other, _)| other.name == name) {
                    Some((_, earlier)) => {
                        earlier.text.push(LIST_SEPARATOR);
                        earlier.text.push_str(&text);
                    }
                    None => given.push((about, Given { text, origin: Origin::CommandLine })),
                },
                Err(message) => {
                    let place = Origin::CommandLine.place_of(about);
                    mistakes.add(format!("{place}: {message}"));
                }
            },
        }
    }
    given
}

fn text_of(about: &About, value: Option<&OsStr>) -> Result<String, String> {
    match value.map(OsStr::to_str) {
        Some(Some(text)) => Ok(text.to_string()),
        Some(None) => Err("not Unicode text".to_string()),
        None if about.kind == Kind::Switch => Ok("true".to_string()),
        None => {
            let usage = format!("{} {}", about.flag(), about.value_name);
            Err(format!("needs a value: {usage}"))
        }
    }
}

fn unknown_option(name: &str, table: &[&'static About]) -> String {
    if let Some(about) = table.iter().find(|about| about.name == name) {
        let variable = about.variable();
        return format!(
            "--{name} (command line): everybody on the machine could read it there; set {variable} in the environment"
        );
    }
    let flags: Vec<String> = flags_of(table).map(|about| about.flag()).collect();
    let hint = did_you_mean(&format!("--{name}"), flags.iter().map(String::as_str));
    format!("--{name} (command line): unknown option{hint}")
}

/// Whether `arguments`, those behind the sub-command's name, ask for help.
pub fn ask_for_help(arguments: &[OsString]) -> bool {
    arguments.iter().any(|word| word == "--help" || word == "-h")
}
