//! The options of the sub-commands that describe the program: `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print the completions of a shell
///
/// Prints the completions of sub-commands, options and their values, for a shell to load.
#[derive(Args)]
#[command(after_help = "Examples:\n  shardkeeper completions bash > /etc/bash_completion.d/shardkeeper\n  \
                        shardkeeper completions zsh > /usr/local/share/zsh/site-functions/_shardkeeper\n  \
                        shardkeeper completions fish > /etc/fish/completions/shardkeeper.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Print the manual page, or write one for each sub-command
///
/// Prints the manual page of the program, or writes it to a folder, with one more for each sub-command.
#[derive(Args)]
#[command(after_help = "Examples:\n  shardkeeper man | man -l -\n  shardkeeper man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write to, which must be there.
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}
