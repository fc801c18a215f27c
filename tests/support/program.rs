//! A worker process: its records line by line, its log, and its end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::support::wait::eventually;

/// A running `shardkeeper run`, which ends with its value.
pub struct Program {
    process: Child,
    out: Lines,
    log: Lines,
}

/// The lines that a process has written so far, and the thread that reads them.
struct Lines {
    so_far: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// The output and exit code of a worker that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output, by line.
    pub out: Vec<String>,
    /// Standard error.
    pub log: String,
}

/// The environment of the walk-through for a service at this URL.
pub fn environment(url: &str) -> BTreeMap<String, String> {
    let variables = [
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// `program` with these variables and none of this process's but PATH and HOME.
pub fn command(program: impl AsRef<Path>, environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(environment);
    command
}

impl Program {
    /// Starts `shardkeeper` with a line of arguments, split at spaces.
    pub fn start(environment: &BTreeMap<String, String>, line: &str) -> Self {
        let mut process = command(env!("CARGO_BIN_EXE_shardkeeper"), environment)
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = Lines::read(process.stdout.take().expect("it is piped"));
        let log = Lines::read(process.stderr.take().expect("it is piped"));
        Self { process, out, log }
    }

    /// The lines on standard output so far.
    pub fn lines(&self) -> Vec<String> {
        self.out.so_far.lock().expect("no reader panics").clone()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.so_far.lock().expect("no reader panics").join("\n")
    }

    /// Asks it to stop, as a supervisor does.
    pub fn terminate(&self) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(status.success(), "the worker had ended before it was asked to:\n{}", self.log());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let status = eventually("the worker ends", || self.process.try_wait().expect("its state is known"));
        self.out.finish();
        self.log.finish();
        Ended { code: status.code(), out: self.lines(), log: self.log() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left of it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("a worker's log:\n{}", self.log());
        }
    }
}

impl Lines {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let so_far = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&so_far);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                shared.lock().expect("nobody panics holding it").push(line);
            }
        });
        Self { so_far, reader: Some(reader) }
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
    }
}
