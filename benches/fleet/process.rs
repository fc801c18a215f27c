//! A child process, and what the kernel says of it: CPU time and memory.

use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The kernel counts CPU time in hundredths of a second for all that is not its own (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// A running child. It is killed with this value.
pub struct Process {
    child: Child,
    name: String,
    peak_bytes: u64,
}

/// The end of a child process.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// CPU time, in user mode and in the kernel.
    pub cpu: Duration,
    /// The most memory it ever had resident.
    pub peak_bytes: u64,
}

impl Process {
    /// Starts a child; `name` is what messages call it.
    pub fn start(command: &mut Command, name: &str) -> Result<Self, anyhow::Error> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), peak_bytes: 0 })
    }

    /// Its standard output, once, if that is a pipe.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its CPU time so far; also after its end, until it is waited for.
    pub fn cpu(&self) -> Result<Duration, anyhow::Error> {
        cpu_of(&self.child.id().to_string())
    }

    /// Whether it has not ended yet. Notes its memory.
    pub fn is_running(&mut self) -> Result<bool, anyhow::Error> {
        self.peak_bytes = self.peak_bytes.max(self.status_bytes("VmHWM:").unwrap_or(0));
        Ok(!fields_of(&self.child.id().to_string())?.starts_with('Z'))
    }

    /// The most memory it had resident so far.
    pub fn peak_bytes(&mut self) -> u64 {
        self.peak_bytes = self.peak_bytes.max(self.status_bytes("VmHWM:").unwrap_or(0));
        self.peak_bytes
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) -> Result<(), anyhow::Error> {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        match status.context("cannot run kill")?.success() {
            true => Ok(()),
            false => bail!("SIG{signal} was not sent to {}", self.name),
        }
    }

    /// Waits for its end, which must be a good one.
    pub fn finish(mut self, limit: Duration) -> Result<Ended, anyhow::Error> {
        let start = Instant::now();
        while self.is_running()? {
            if start.elapsed() > limit {
                bail!("{} did not end within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = Ended { cpu: self.cpu()?, peak_bytes: self.peak_bytes };
        let status = self.child.wait().context("cannot wait for a child")?;
        match status.success() {
            true => Ok(ended),
            false => bail!("{} failed: {status}", self.name),
        }
    }

    fn status_bytes(&self, line: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let rest = status.lines().find_map(|row| row.strip_prefix(line))?;
        let kib: u64 = rest.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time of this process.
pub fn own_cpu() -> Result<Duration, anyhow::Error> {
    cpu_of("self")
}

fn cpu_of(process: &str) -> Result<Duration, anyhow::Error> {
    let fields = fields_of(process)?;
    // The fields behind the name: 1 is the state; 12 and 13 are the ticks in user mode and in the kernel.
    let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap_or(0));
    Ok(TICK * ticks.sum::<u32>())
}

/// The fields of `/proc/PID/stat` behind the process's name.
fn fields_of(process: &str) -> Result<String, anyhow::Error> {
    let path = format!("/proc/{process}/stat");
    let stat =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path} (this bench needs Linux)"))?;
    let (_, fields) = stat.rsplit_once(") ").with_context(|| format!("{path} reads oddly"))?;
    Ok(fields.to_owned())
}
