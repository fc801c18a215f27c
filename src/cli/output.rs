//! Standard output, as a command line program should treat it: a reader that goes away (`| head`) is no failure.

use std::io::{self, Write};

/// Standard output's reader is gone. [`super::exit_code`] takes it, wherever it stands in an error's chain, for a
/// quiet end.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed by its reader")]
pub struct Closed;

/// Writes `text` to standard output and flushes it.
///
/// # Errors
/// [`Closed`] when nobody reads any more, else what the operating system says.
pub fn print(text: &str) -> Result<(), anyhow::Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(from_stdout)
}

/// An error that writing to standard output gave, as [`Closed`] where it means that.
pub fn from_stdout(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}
