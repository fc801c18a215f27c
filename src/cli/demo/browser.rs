//! The desktop's browser.

use std::process::{Command, Stdio};

/// The desktop's command that opens an address.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Opens an address in the browser; whether one could be asked.
pub fn open(url: &str) -> bool {
    let mut command = Command::new(OPENER);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut opener) = command.spawn() else { return false };
    // Some openers last as long as the browser.
    std::thread::spawn(move || opener.wait());
    true
}
