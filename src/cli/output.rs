//! Standard output. A reader that goes away (`| head`) is no failure.

use std::io::{self, Write};

/// Standard output's reader is gone. Anywhere in an error's chain, it makes [`super::main`] end quietly.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed by its reader")]
pub struct Closed;

/// Writes `text` to standard output and flushes it.
///
/// # Errors
/// [`Closed`] when the reader is gone, else the operating system's error.
pub fn print(text: &str) -> Result<(), anyhow::Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(from_stdout)
}

/// An error from writing to standard output; [`Closed`] when its reader is gone.
pub fn from_stdout(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}
