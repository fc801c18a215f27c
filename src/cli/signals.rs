//! The signals that stop the process, the first one gracefully, the second one at once; and the one that reloads it.

use std::fmt;
use std::future::Future;
use std::io;

/// A signal that asks the process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT: Ctrl-C on a terminal.
    Interrupt,
    /// SIGTERM: `kill`, or an orchestrator.
    Terminate,
}

impl StopSignal {
    /// The exit code that a shell reports for a process killed by the signal: 128 and the signal's number.
    pub fn exit_code(self) -> i32 {
        match self {
            StopSignal::Interrupt => 130,
            StopSignal::Terminate => 143,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopSignal::Interrupt => "SIGINT",
            StopSignal::Terminate => "SIGTERM",
        })
    }
}

/// Installs handlers for both signals and returns a future that resolves at the first signal. The second signal ends the
/// process at once with [`StopSignal::exit_code`], whether or not the future was awaited.
///
/// Must be called inside a tokio runtime that runs until the process ends.
///
/// # Errors
/// When the operating system refuses the handlers.
pub fn first_stop() -> io::Result<impl Future<Output = StopSignal> + Send> {
    let mut signals = Signals::install()?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        // The receiver may be gone. The second signal still counts then.
        let _ = sender.send(signals.next().await);
        std::process::exit(signals.next().await.exit_code());
    });
    Ok(async move {
        match receiver.await {
            Ok(signal) => signal,
            // The task ended with its runtime, so no signal can arrive.
            Err(_) => std::future::pending().await,
        }
    })
}

/// The signals that ask the process to read its configuration again: SIGHUP.
pub struct HangUps(#[cfg(unix)] tokio::signal::unix::Signal);

impl HangUps {
    /// Installs the handler.
    ///
    /// # Errors
    /// When the operating system refuses it.
    pub fn install() -> io::Result<Self> {
        Ok(Self(
            #[cfg(unix)]
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        ))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        if self.0.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// Sent for a write beyond the limit of a file's size (`ulimit -f`), by Linux, macOS and the BSDs alike.
#[cfg(unix)]
const SIGXFSZ: i32 = 25;

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        // From now on a write beyond the limit of a file's size fails, and no longer ends the process.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> StopSignal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => StopSignal::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// Runs in its own process, started by the test below. Prints when it listens, and which signal came.
    #[test]
    #[ignore = "the child process of the next test"]
    fn child() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let stop = first_stop().unwrap();
            println!("\nlistening");
            println!("heard {}", stop.await);
            std::future::pending::<()>().await;
        });
    }

    #[test]
    fn the_first_signal_is_reported_and_the_second_ends_the_process() {
        for (name, code) in [("TERM", 143), ("INT", 130)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cli::signals::tests::child", "--ignored", "--nocapture"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut wait_for = |wanted: &str| {
                let found = lines.any(|line| line.unwrap() == wanted);
                assert!(found, "the child never said {wanted:?}");
            };
            let pid = child.id().to_string();
            let send = || {
                let status = Command::new("kill").args(["-s", name, &pid]).status();
                assert!(status.unwrap().success());
            };
            wait_for("listening");
            send();
            wait_for(&format!("heard SIG{name}"));
            send();
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }
}
