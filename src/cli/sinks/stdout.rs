//! Records on standard output, or wherever else lines go.

use std::io::{self, Write};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::consumer::{BatchError, ProcessRecordsInput, RecordProcessor};
use crate::model::record::RecordBatch;

/// Batches that wait for the writer.
const QUEUE: usize = 16;

/// Writes each record as one line of JSON, the bytes that the service sent. What it has taken is written and flushed.
#[derive(Clone)]
pub struct Lines {
    batches: mpsc::Sender<Job>,
    closed: CancellationToken,
}

struct Job {
    records: RecordBatch,
    written: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

impl Lines {
    /// Lines to `output`, written by a thread of its own: a reader that is slow holds up no call of the worker's.
    /// When the reader is gone, `closed` is cancelled.
    pub fn new(output: impl Write + Send + 'static, closed: CancellationToken) -> io::Result<Self> {
        let (batches, jobs) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("output".into()).spawn(move || write_jobs(jobs, output))?;
        Ok(Self { batches, closed })
    }
}

impl RecordProcessor for Lines {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let (written, done) = oneshot::channel();
        let job = Job { records: input.records, written };
        let outcome = match self.batches.send(job).await {
            Ok(()) => done.await.unwrap_or_else(|_| Err(Arc::new(io::ErrorKind::BrokenPipe.into()))),
            Err(_) => Err(Arc::new(io::ErrorKind::BrokenPipe.into())),
        };
        let Err(error) = outcome else { return Ok(()) };
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.closed.cancel();
        }
        Err(error.into())
    }
}

/// Writes what is queued, flushes once for all of it, and then says so to each.
fn write_jobs(mut jobs: mpsc::Receiver<Job>, mut output: impl Write) {
    let mut lines = Vec::new();
    while let Some(job) = jobs.blocking_recv() {
        let mut waiting = Vec::with_capacity(QUEUE);
        let mut outcome = write_records(&mut output, &mut lines, &job.records);
        waiting.push(job.written);
        while waiting.len() < QUEUE && outcome.is_ok() {
            let Ok(job) = jobs.try_recv() else { break };
            outcome = write_records(&mut output, &mut lines, &job.records);
            waiting.push(job.written);
        }
        let outcome = outcome.and_then(|()| output.flush()).map_err(Arc::new);
        for written in waiting {
            let _ = written.send(outcome.clone());
        }
    }
}

fn write_records(output: &mut impl Write, lines: &mut Vec<u8>, records: &RecordBatch) -> io::Result<()> {
    lines.clear();
    for record in records.iter() {
        write_line(lines, record.json().as_bytes());
    }
    output.write_all(lines)
}

/// The record's bytes, and a line feed. Line breaks can only stand between its tokens, where they mean nothing: a
/// record that a service sent over several lines loses them, and only them.
fn write_line(lines: &mut Vec<u8>, json: &[u8]) {
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        lines.extend_from_slice(json);
    } else {
        lines.extend(json.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    }
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_the_bytes_that_came() {
        let mut lines = Vec::new();
        write_line(&mut lines, br#"{"b":1, "a":"x\ny"}"#);
        write_line(&mut lines, b"{\r\n  \"a\" : 1\n}");
        assert_eq!(lines, b"{\"b\":1, \"a\":\"x\\ny\"}\n{  \"a\" : 1}\n");
    }
}
