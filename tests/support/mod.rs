//! Helpers of the tests that run the program: services, workers and operators' commands as processes.

pub mod browser;
pub mod dashboard;
pub mod deliveries;
pub mod dynamodb_local;
pub mod fixture;
pub mod http;
pub mod local_service;
pub mod program;
pub mod proxy;
pub mod rewriter;
pub mod sdk;
pub mod services;
pub mod terminal;
pub mod tools;
pub mod wait;

use std::path::Path;
use std::process::{Command, Output};

/// The program, with none of this process's environment but what it needs to start.
///
/// No credentials, no AWS variables and no SHARDKEEPER_ ones: a test gives what it wants with [`Command::env`].
pub fn shardkeeper() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardkeeper"));
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// The end of a program.
pub struct Finished {
    /// The exit code; a signal's end has none and fails the test.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `command` to its end.
pub fn finish(command: &mut Command) -> Finished {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    Finished {
        code: status.code().expect("the program ends by itself"),
        stdout: String::from_utf8(stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(stderr).expect("standard error is UTF-8"),
    }
}

/// Runs the program in `folder` with a line of arguments, split at spaces.
pub fn run_in(folder: &Path, line: &str) -> Finished {
    finish(shardkeeper().current_dir(folder).args(line.split_whitespace()))
}
