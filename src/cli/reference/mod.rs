//! Descriptions of the options for other programs and for people, all made from the options themselves: completions,
//! manual pages, the [`schema`] of the configuration file, and the page of [`settings`].

pub mod schema;
#[cfg(test)]
mod settings;

use std::fs;

use anyhow::Context;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_mangen::Man;

use super::args::Cli;
use super::args::reference::{CompletionsArgs, ManArgs};
use super::{config, output};

/// Prints the completions of a shell.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(args: &CompletionsArgs) -> Result<(), anyhow::Error> {
    // As derived: a switch is completed without a value.
    let mut program = with_hints(Cli::command());
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "shardkeeper", &mut script);
    output::print(&String::from_utf8(script)?)
}

fn with_hints(command: Command) -> Command {
    let hint = |arg: Arg| match config::value_name(&arg) {
        "FILE" => arg.value_hint(ValueHint::FilePath),
        "FOLDER" => arg.value_hint(ValueHint::DirPath),
        _ => arg,
    };
    command.mut_args(hint).mut_subcommands(with_hints)
}

/// Prints the program's manual page, or writes the pages of all sub-commands.
///
/// # Errors
/// When the pages cannot be written.
pub fn man(args: &ManArgs) -> Result<(), anyhow::Error> {
    let program = config::program().disable_help_subcommand(true);
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        Man::new(program).render(&mut page)?;
        return output::print(&String::from_utf8(page)?);
    };
    fs::metadata(folder).and_then(|_| clap_mangen::generate_to(program, folder)).with_context(|| {
        format!("cannot write manual pages to {}: create the folder, or choose another one", folder.display())
    })
}

/// The options of `run`, in the order of its help.
fn options_of_run() -> Command {
    let mut program = config::program();
    program.build();
    program.find_subcommand("run").unwrap_or_else(|| unreachable!("run is a sub-command")).clone()
}
