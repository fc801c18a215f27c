//! The question before a change that cannot be undone.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};

/// Asks `question` on the terminal; `done` names the change, such as `written`.
///
/// # Errors
/// When the answer is not yes, or there is no terminal.
pub fn confirm(question: &str, done: &str) -> Result<(), anyhow::Error> {
    if !io::stdin().is_terminal() {
        bail!("nothing was {done}: there is no terminal to ask on; --yes skips the question");
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was {done}"),
    }
}
