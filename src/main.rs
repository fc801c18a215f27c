//! The `shardkeeper` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use shardkeeper as cli;
use shardkeeper::Environment;

fn main() -> ExitCode {
    match cli::run_program(std::env::args_os(), &Environment::of_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::exit_code(&error),
    }
}
