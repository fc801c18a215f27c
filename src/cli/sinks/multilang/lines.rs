//! Lines of a child's output, limited in length: a child that prints without end must not fill the memory.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The bytes that are kept of a line; the rest is dropped.
const KEPT: usize = 64 << 10;

pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), line: Vec::new() }
    }

    /// The next line, without its end; `None` at the end of the output. Nothing is lost when the call is dropped.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(Some(std::mem::take(&mut self.line)).filter(|line| !line.is_empty()));
            }
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = KEPT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let taken = end.map_or(bytes.len(), |end| end + 1);
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}

/// A line as the log shows it.
pub fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    text[..text.floor_char_boundary(2000)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_without_end_keeps_its_beginning_alone_and_the_next_one_whole() {
        let long = vec![b'x'; 10 * KEPT];
        let output = [&b"\nfirst\r\n"[..], &long, b"\n", b"last"].concat();
        let mut lines = Lines::new(&output[..]);
        let mut next = async || lines.next().await.expect("a slice cannot fail");
        assert_eq!(next().await.as_deref(), Some(&b""[..]));
        assert_eq!(next().await.as_deref(), Some(&b"first\r"[..]));
        assert_eq!(next().await.map(|line| line.len()), Some(KEPT));
        assert_eq!(next().await.as_deref(), Some(&b"last"[..]));
        assert_eq!(next().await, None);
    }
}
