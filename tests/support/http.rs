//! Calls of DynamoDB's API as they are on the wire: no SDK between a test and an answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An HTTP status and body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null for none.
    pub body: Value,
}

/// The operations of the streams' API; all others are the tables'.
const STREAM_OPERATIONS: [&str; 4] = ["ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"];
/// No call takes this long, but one that a fault keeps silent.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Calls `operation` of the service at `address`, which must answer.
pub fn call(address: SocketAddr, operation: &str, body: &Value) -> Answer {
    let answer = try_call(address, "local", operation, body);
    answer.unwrap_or_else(|error| panic!("{operation} {body}: {error}"))
}

/// Calls `operation` as the caller with this access key id.
pub fn try_call(address: SocketAddr, caller: &str, operation: &str, body: &Value) -> io::Result<Answer> {
    let api = if STREAM_OPERATIONS.contains(&operation) { "DynamoDBStreams" } else { "DynamoDB" };
    // Enough for a service that reads only the access key and the region of it.
    let credential = format!("{caller}/20260101/us-east-1/dynamodb/aws4_request");
    let headers = format!(
        "content-type: application/x-amz-json-1.0\r\nx-amz-target: {api}_20120810.{operation}\r\n\
         authorization: AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0\r\n"
    );
    send(address, "POST", "/", &headers, &body.to_string())
}

/// Sends a request and reads its answer.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    read_answer(&mut BufReader::new(stream))
}

/// The body of a call that must succeed.
pub fn good(address: SocketAddr, operation: &str, body: &Value) -> Value {
    let answer = call(address, operation, body);
    assert_eq!(answer.status, 200, "{operation} {body}: {}", answer.body);
    answer.body
}

/// Reads a request: its operation and body; `None` at the end of the connection.
pub fn read_call(reader: &mut impl BufRead) -> io::Result<Option<(String, Value)>> {
    if line(reader)?.is_empty() {
        return Ok(None);
    }
    let (mut operation, mut length) = (String::new(), 0);
    loop {
        let header = line(reader)?;
        match header.split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("x-amz-target") => {
                operation = value.rsplit('.').next().unwrap_or_default().to_owned();
            }
            Some(_) => {}
        }
    }
    Ok(Some((operation, serde_json::from_slice(&read_bytes(reader, length)?)?)))
}

fn read_answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    let status_line = line(reader)?;
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP answer: {status_line:?}")))?;
    let mut length = None;
    let mut chunked = false;
    loop {
        let header = line(reader)?.to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = Some(value.trim().parse().map_err(io::Error::other)?),
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    match length {
        _ if chunked => body = read_chunks(reader)?,
        Some(length) => body = read_bytes(reader, length)?,
        None => drop(reader.read_to_end(&mut body)?),
    }
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    Ok(Answer { status, body })
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(reader)?, 16).map_err(io::Error::other)?;
        body.extend(read_bytes(reader, size)?);
        line(reader)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_bytes(reader: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
