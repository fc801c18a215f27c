//! The options of `shardkeeper check`.

use clap::Args;

use super::run::RunArgs;

const EPILOGUE: &str = "Exit codes: 0 a worker can start, perhaps with warnings, 64 wrong usage or configuration, 1 it \
                        cannot.\n\nExample:\n  shardkeeper check --table Phones --app phone-audit";

/// Check what `run` needs, without starting a worker
///
/// Checks what `run` needs, with the same options, and starts nothing: credentials, each permission, the clock, the
/// stream, the application's tables, the handler and the place of dead letters. It prints a line for each, with what to
/// do about those that are not right. It leaves no item, table or message behind; a handler gets an event without records.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct CheckArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Print one JSON object for programs: ok, and checks, each with name, result (ok, warning or failure) and message.
    #[arg(long)]
    pub json: bool,
}
