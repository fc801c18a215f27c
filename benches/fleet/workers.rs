//! The processes that read: `shardkeeper run`, and this program again in one of its other roles.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::process::{Ended, Process};
use super::service::{Service, TABLE};
use super::{bare, embedded};

/// The part of a log that is shown when its process failed.
const LOG_TAIL: usize = 2000;

/// A process that reads the stream.
pub struct Reader {
    /// The process.
    pub process: Process,
    log: PathBuf,
}

/// A reader's count of records and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub records: u64,
    pub bytes: u64,
}

/// A pipe that is read to its end by a thread, which counts the lines in it.
pub struct CountedLines(JoinHandle<std::io::Result<(u64, Option<Instant>)>>);

impl Reader {
    /// A worker of the application `app`. Its standard output is a pipe if `to` is `stdout`.
    pub fn worker(service: &Service, folder: &Path, app: &str, id: &str, flags: &str) -> Result<Self, anyhow::Error> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardkeeper"));
        command.args(["run", "--table", TABLE, "--app", app, "--worker-id", id, "--endpoint-url", &service.url()]);
        command.args(["--log-format", "json"]).args(flags.split_whitespace());
        let piped = flags.contains("--to stdout");
        Self::start(&mut command, folder, &format!("{app}-{id}"), piped)
    }

    /// The loop on the bare SDK.
    pub fn bare(service: &Service, folder: &Path, name: &str, stream_arn: &str) -> Result<Self, anyhow::Error> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args([bare::ROLE, &service.url(), stream_arn]);
        Self::start(&mut command, folder, name, true)
    }

    /// A worker with a processor of this program's own. Its standard output is a pipe.
    pub fn embedded(
        service: &Service,
        folder: &Path,
        app: &str,
        processor: &embedded::Behaviour,
    ) -> Result<Self, anyhow::Error> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args([embedded::ROLE, &service.url(), app]).args(processor.to_arguments());
        Self::start(&mut command, folder, app, true)
    }

    fn start(command: &mut Command, folder: &Path, name: &str, piped: bool) -> Result<Self, anyhow::Error> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let keys = [("AWS_ACCESS_KEY_ID", "local"), ("AWS_SECRET_ACCESS_KEY", "local"), ("AWS_REGION", "us-east-1")];
        let stdout = if piped { Stdio::piped() } else { Stdio::null() };
        command.envs(keys).stdin(Stdio::null()).stdout(stdout).stderr(file);
        Ok(Self { process: Process::start(command, name)?, log })
    }

    /// Its standard output.
    pub fn stdout(&mut self) -> Result<ChildStdout, anyhow::Error> {
        self.process.take_stdout().context("the reader's output is no pipe")
    }

    /// Waits for its end, and answers what it counted by its own last words.
    pub fn finish(self, limit: Duration) -> Result<(Ended, Counted), anyhow::Error> {
        let log = self.log;
        let ended = self.process.finish(limit).with_context(|| tail(&log))?;
        Ok((ended, counted_in(&log)?))
    }
}

/// The totals in a worker's last log line.
fn counted_in(log: &Path) -> Result<Counted, anyhow::Error> {
    let text = std::fs::read_to_string(log)?;
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let done = lines.rfind(|line| line["message"] == "done");
    let done = done.with_context(|| format!("the worker does not say what it did: {}", tail(log)))?;
    let number = |name: &str| done[name].as_u64().unwrap_or(0);
    Ok(Counted { records: number("records"), bytes: number("bytes") })
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_TAIL);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("its log ends with:\n{}", &text[from..])
}

impl CountedLines {
    /// Begins to read.
    pub fn of(mut pipe: ChildStdout) -> Self {
        Self(std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            let (mut lines, mut last) = (0, None);
            loop {
                let read = pipe.read(&mut buffer)?;
                if read == 0 {
                    return Ok((lines, last));
                }
                lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
                last = Some(Instant::now());
            }
        }))
    }

    /// The number of lines, and the time of the last one. Waits for the writer's end.
    pub fn finish(self) -> Result<(u64, Option<Instant>), anyhow::Error> {
        match self.0.join() {
            Ok(counted) => counted.context("cannot read a reader's output"),
            Err(_) => bail!("the reader of the output panicked"),
        }
    }
}

/// Calls `take` with each line of a pipe, on a thread, until the writer ends.
pub fn each_line(pipe: ChildStdout, mut take: impl FnMut(&[u8]) + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::with_capacity(256 * 1024, pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // A line without its end is of a process that was killed.
            if line.last() == Some(&b'\n') {
                take(&line);
            }
            line.clear();
        }
    })
}
