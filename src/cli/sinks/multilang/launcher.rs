//! The way from our process to the child's program: by this program once more, which asks the system to kill it when we
//! die, and then becomes the child's program.
//!
//! The request has to be made in the child itself, and Rust allows nothing between fork and exec without unsafe code.

use std::io;
use std::process::Command;

/// The first argument of a launcher.
const NAME: &str = "multilang-child";

/// The command that starts a child's program.
#[cfg(target_os = "linux")]
pub fn command(words: &[String]) -> io::Result<Command> {
    // Also after the program's file was replaced by a newer one.
    let mut command = Command::new("/proc/self/exe");
    command.arg(NAME).args(words);
    Ok(command)
}

#[cfg(not(target_os = "linux"))]
pub fn command(words: &[String]) -> io::Result<Command> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Becomes the child's program if this process was started as a launcher. Returns in any other process.
#[cfg(target_os = "linux")]
pub fn become_child() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;

    let mut words = std::env::args_os().skip(1);
    if words.next().is_none_or(|word| word != NAME) {
        return;
    }
    let Some(program) = words.next() else { return };
    let _ = set_parent_process_death_signal(Some(Signal::KILL)); // standard input ends all the same
    let error = Command::new(&program).args(words).exec();
    eprintln!("cannot run {}: {error}", program.display());
    std::process::exit(127);
}

#[cfg(not(target_os = "linux"))]
pub fn become_child() {}
