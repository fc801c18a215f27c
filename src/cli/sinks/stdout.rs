//! Records on standard output, a line each.
//!
//! Standard output is written without a buffer, so that it is known what has arrived: a pipe that is full is waited for,
//! and of a write that fails, the whole lines count as done, and the beginning of a line is taken back.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::consumer::{BatchError, ProcessRecordsInput, RecordProcessor};
use crate::model::record::RecordBatch;

/// Batches that wait for the writer.
const QUEUE: usize = 16;
/// The pause before the rest of a line is written that cannot be taken back.
const RETRY: Duration = Duration::from_millis(200);

/// Writes each record as one line of JSON, the bytes that the service sent.
#[derive(Clone)]
pub struct Lines {
    batches: mpsc::Sender<Job>,
    closed: CancellationToken,
}

struct Job {
    records: RecordBatch,
    written: oneshot::Sender<Result<(), Incomplete>>,
}

/// A write that failed after this many whole lines.
struct Incomplete {
    lines: usize,
    error: io::Error,
}

/// A destination of lines.
trait Output: Write + Send + 'static {
    /// Blocks until more can be written, after a write that would have blocked.
    fn wait(&self) -> io::Result<()>;

    /// Removes the last `count` bytes.
    fn take_back(&mut self, count: u64) -> io::Result<()>;
}

impl Lines {
    /// Lines to standard output, written by a thread of its own: a reader that is slow holds up no call of the worker's.
    /// When the reader is gone, `closed` is cancelled.
    pub fn new(closed: CancellationToken) -> io::Result<Self> {
        Self::to(standard_output()?, closed)
    }

    fn to(mut output: impl Output, closed: CancellationToken) -> io::Result<Self> {
        let (batches, mut jobs) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new().name("output".into()).spawn(move || {
            let mut lines = Vec::new();
            while let Some(job) = jobs.blocking_recv() {
                let _ = job.written.send(write_records(&mut output, &job.records, &mut lines));
            }
        })?;
        Ok(Self { batches, closed })
    }

    async fn write(&self, records: RecordBatch) -> Result<(), Incomplete> {
        let (written, done) = oneshot::channel();
        let gone = || Incomplete { lines: 0, error: io::ErrorKind::BrokenPipe.into() };
        self.batches.send(Job { records, written }).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

impl RecordProcessor for Lines {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let Err(Incomplete { lines, error }) = self.write(input.records.clone()).await else { return Ok(()) };
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.closed.cancel();
        }
        let first = input.records.iter().nth(lines).filter(|_| lines > 0);
        Err(match first.and_then(|record| record.sequence_number().parse().ok()) {
            Some(position) => BatchError::from_record(position, error),
            None => error.into(),
        })
    }
}

/// Standard output without the buffer of [`io::stdout`].
fn standard_output() -> io::Result<File> {
    #[cfg(unix)]
    let owned = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned();
    #[cfg(windows)]
    let owned = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned();
    owned.map(File::from)
}

impl Output for File {
    #[cfg(unix)]
    fn wait(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(self, PollFlags::OUT)], None)?;
        Ok(())
    }

    #[cfg(not(unix))]
    fn wait(&self) -> io::Result<()> {
        pause();
        Ok(())
    }

    fn take_back(&mut self, count: u64) -> io::Result<()> {
        let end = self.stream_position()?;
        if self.metadata()?.len() != end {
            return Err(io::Error::other("somebody else has written to it since"));
        }
        let start = end.saturating_sub(count);
        self.set_len(start)?;
        self.seek(SeekFrom::Start(start)).map(drop)
    }
}

/// `lines` is memory for the lines, which one call leaves to the next.
fn write_records(output: &mut impl Output, records: &RecordBatch, lines: &mut Vec<u8>) -> Result<(), Incomplete> {
    lines.clear();
    for record in records.iter() {
        write_line(lines, record.json().as_bytes());
    }
    let mut written = 0;
    while written < lines.len() {
        let error = match output.write(&lines[written..]) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(count) => {
                written += count;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match output.wait() {
                Ok(()) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let whole = memchr::memrchr(b'\n', &lines[..written]).map_or(0, |last| last + 1);
        let is_between_lines = whole == written || output.take_back((written - whole) as u64).is_ok();
        if is_between_lines || error.kind() == io::ErrorKind::BrokenPipe {
            return Err(Incomplete { lines: memchr::memchr_iter(b'\n', &lines[..whole]).count(), error });
        }
        pause();
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own writes to standard output and has nothing else to do"
)]
fn pause() {
    std::thread::sleep(RETRY);
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_record_is_one_line_of_the_bytes_that_came() {
        let mut lines = Vec::new();
        write_line(&mut lines, br#"{"b":1, "a":"x\ny"}"#);
        write_line(&mut lines, b"{\r\n  \"a\" : 1\n}");
        assert_eq!(lines, b"{\"b\":1, \"a\":\"x\\ny\"}\n{  \"a\" : 1}\n");
    }

    /// A file on a disk with room for so many more bytes.
    struct Disk {
        file: File,
        room: Arc<AtomicUsize>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.room.load(Ordering::SeqCst);
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = self.file.write(&bytes[..bytes.len().min(room)])?;
            self.room.fetch_sub(count, Ordering::SeqCst);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Disk {
        fn wait(&self) -> io::Result<()> {
            unreachable!("a file never blocks")
        }

        fn take_back(&mut self, count: u64) -> io::Result<()> {
            self.file.take_back(count)
        }
    }

    fn line(number: usize) -> String {
        format!("{{\"dynamodb\":{{\"SequenceNumber\":\"{}\"}}}}\n", 100 + number)
    }

    #[tokio::test]
    async fn a_full_disk_stops_between_lines_and_no_line_is_written_twice() {
        let path = std::env::temp_dir().join(format!("shardkeeper-disk-{}", std::process::id()));
        for is_appended in [false, true] {
            let _ = std::fs::remove_file(&path);
            let file = File::options().create(true).append(is_appended).write(true).open(&path).expect("a file");
            let room = Arc::new(AtomicUsize::new(3 * line(0).len() + 10));
            let lines = Lines::to(Disk { file, room: Arc::clone(&room) }, CancellationToken::new()).expect("a thread");
            let records = |range: std::ops::Range<usize>| {
                let records: Vec<_> = range.map(|n| line(n).trim_end().to_owned()).collect();
                let page = format!("{{\"Records\":[{}]}}", records.join(","));
                crate::model::record::Page::decode(page.into()).expect("a page").records
            };
            let failed = lines.write(records(0..5)).await.expect_err("the disk is full");
            assert_eq!((failed.lines, failed.error.kind()), (3, io::ErrorKind::StorageFull));
            let content = || std::fs::read_to_string(&path).expect("lines");
            assert_eq!(content(), (0..3).map(line).collect::<String>());
            room.store(10_000, Ordering::SeqCst);
            assert!(lines.write(records(3..5)).await.is_ok());
            assert_eq!(content(), (0..5).map(line).collect::<String>());
        }
        std::fs::remove_file(&path).expect("it is the test's own");
    }
}
