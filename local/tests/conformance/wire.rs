//! Calls of DynamoDB's API as they are on the wire: no SDK between a test and an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An HTTP status and a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null for none.
    pub body: Value,
}

/// The operations of the streams' API; all others are the tables'.
const OF_STREAMS: [&str; 4] = ["ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"];
/// Enough for a service that reads no more of it than the access key and the region.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, \
                             SignedHeaders=host, Signature=0";
/// Time for a service to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `operation` of the service at `address`.
pub fn call(address: SocketAddr, operation: &str, body: &Value) -> Answer {
    let api = if OF_STREAMS.contains(&operation) { "DynamoDBStreams" } else { "DynamoDB" };
    let body = body.to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: {api}_20120810.{operation}\r\nAuthorization: {AUTHORIZATION}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).expect("the service takes connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
    stream.write_all(request.as_bytes()).expect("the service takes a request");
    read_answer(&mut BufReader::new(stream))
}

/// The body of a call that must succeed.
pub fn good(address: SocketAddr, operation: &str, body: &Value) -> Value {
    let answer = call(address, operation, body);
    assert_eq!(answer.status, 200, "{operation} {body}: {}", answer.body);
    answer.body
}

fn read_answer(reader: &mut impl BufRead) -> Answer {
    let status_line = line(reader);
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let mut length = None;
    let mut chunked = false;
    loop {
        let header = line(reader).to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = Some(value.trim().parse().expect("a length")),
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            Some(_) => {}
        }
    }
    let body = match length {
        _ if chunked => read_chunks(reader),
        Some(length) => read_bytes(reader, length),
        None => {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).expect("a body");
            rest
        }
    };
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("a body of JSON") };
    Answer { status, body }
}

fn read_chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(reader), 16).expect("a chunk's size");
        body.extend(read_bytes(reader, size));
        line(reader);
        if size == 0 {
            return body;
        }
    }
}

fn read_bytes(reader: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    reader.read_exact(&mut bytes).expect("a whole body");
    bytes
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line of the answer");
    line.trim_end().to_owned()
}
