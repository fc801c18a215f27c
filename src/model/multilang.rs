//! The protocol of the Kinesis Client Library's MultiLangDaemon: one JSON object a line, a request of ours and the
//! child's messages up to its status.
//!
//! KCL's `MultiLangProtocol` and `messages/*.java` define it. Its clients are strict: each message has all of its members
//! (`null` for unknown ones) and no nested object but the records.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::record::{RecordBatch, write_adapter_json};
use super::sequence_number::SequenceNumber;

/// The requests to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Initialize,
    ProcessRecords,
    ShardEnded,
    ShutdownRequested,
    LeaseLost,
}

impl Action {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::ProcessRecords => "processRecords",
            Self::ShardEnded => "shardEnded",
            Self::ShutdownRequested => "shutdownRequested",
            Self::LeaseLost => "leaseLost",
        }
    }

    /// Whether the child may checkpoint before it answers.
    pub fn allows_checkpoints(self) -> bool {
        !matches!(self, Self::Initialize | Self::LeaseLost)
    }

    /// The request without further members.
    pub fn request(self) -> Vec<u8> {
        line(&json!({"action": self.as_str()}))
    }
}

/// The first request to a child.
pub fn initialize(shard_id: &str, checkpoint: &Checkpoint) -> Vec<u8> {
    line(&json!({
        "action": Action::Initialize.as_str(),
        "shardId": shard_id,
        "sequenceNumber": checkpoint.as_str(),
        "subSequenceNumber": 0,
    }))
}

/// The request to process a batch, `behind_ms` old.
pub fn process_records(records: &RecordBatch, behind_ms: Option<u64>) -> Vec<u8> {
    let mut request = Vec::with_capacity(records.bytes_len() * 3 / 2 + records.len() * 200 + 100);
    request.extend_from_slice(b"{\"action\":\"processRecords\",\"records\":[");
    let (mut data, mut encoded) = (Vec::new(), String::new());
    for (index, record) in records.iter().enumerate() {
        data.clear();
        encoded.clear();
        write_adapter_json(&record, &mut data);
        STANDARD.encode_string(&data, &mut encoded);
        // Sequence numbers are digits: they need no escapes.
        let number = record.sequence_number();
        let start = if index > 0 { "," } else { "" };
        let created_ms = record.created_ms().unwrap_or(0);
        request.extend_from_slice(
            format!(
                "{start}{{\"action\":\"record\",\"data\":\"{encoded}\",\"partitionKey\":\"{number}\",\
                 \"sequenceNumber\":\"{number}\",\"subSequenceNumber\":0,\"approximateArrivalTimestamp\":{created_ms}}}"
            )
            .as_bytes(),
        );
    }
    let behind = behind_ms.map_or("null".to_owned(), |behind| behind.to_string());
    request.extend_from_slice(format!("],\"millisBehindLatest\":{behind}}}\n").as_bytes());
    request
}

/// The answer to a checkpoint: the numbers as the child sent them, and the reason if it was refused.
pub fn checkpoint_answer(asked: &CheckpointMessage, error: Option<CheckpointRefusal>) -> Vec<u8> {
    line(&json!({
        "action": "checkpoint",
        "sequenceNumber": asked.sequence_number,
        "subSequenceNumber": asked.sub_sequence_number,
        "error": error.map(CheckpointRefusal::as_str),
    }))
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// A child's wish to checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointMessage {
    sequence_number: Value,
    sub_sequence_number: Value,
}

/// A position that a child asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The last record that it got, or the shard's end when that was announced.
    Everything,
    At(SequenceNumber),
    /// No position of a shard.
    Nonsense,
}

impl CheckpointMessage {
    /// The position asked for.
    pub fn wanted(&self) -> Wanted {
        match &self.sequence_number {
            Value::Null => Wanted::Everything,
            Value::String(text) if text == "SHARD_END" => Wanted::Everything,
            Value::String(text) => text.parse().map_or(Wanted::Nonsense, Wanted::At),
            Value::Number(number) => number.to_string().parse().map_or(Wanted::Nonsense, Wanted::At),
            _ => Wanted::Nonsense,
        }
    }
}

/// The reason that a checkpoint is refused, by the simple name of KCL's exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointRefusal {
    /// The lease is lost.
    Shutdown,
    /// The position is before the last checkpoint, beyond what was delivered, or none at all.
    IllegalArgument,
    /// No checkpoint is allowed before this answer.
    InvalidState,
    /// The lease table cannot be written.
    Dependency,
}

impl CheckpointRefusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "ShutdownException",
            Self::IllegalArgument => "IllegalArgumentException",
            Self::InvalidState => "InvalidStateException",
            Self::Dependency => "KinesisClientLibDependencyException",
        }
    }
}

/// A line of a child's standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Checkpoint(CheckpointMessage),
    /// The answer to the request under way.
    Answered,
    /// An answer to something else: the child and we no longer agree.
    Wrong(String),
    /// No message of the protocol: children print.
    Foreign,
    Blank,
}

impl Line {
    /// Reads a line that came while `asked` was under way.
    pub fn parse(line: &[u8], asked: Action) -> Self {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Self::Blank;
        }
        let Ok(Value::Object(mut message)) = serde_json::from_slice::<Value>(line) else { return Self::Foreign };
        match message.get("action").and_then(Value::as_str) {
            Some("checkpoint") => Self::Checkpoint(CheckpointMessage {
                sequence_number: message.remove("sequenceNumber").unwrap_or_default(),
                sub_sequence_number: message.remove("subSequenceNumber").unwrap_or_default(),
            }),
            Some("status") => match message.get("responseFor").and_then(Value::as_str) {
                Some(action) if action == asked.as_str() => Self::Answered,
                other => Self::Wrong(other.unwrap_or("nothing").chars().take(60).collect()),
            },
            _ => Self::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::Page;

    #[test]
    fn a_request_has_every_member_that_clients_read_and_no_nested_object_besides_records() {
        let record = r#"{"eventName":"INSERT","dynamodb":{"ApproximateCreationDateTime":1.5E9,"Keys":{"k":{"S":"é"}},
            "SequenceNumber":"100000000000000000001"}}"#;
        let page = Page::decode(format!(r#"{{"Records":[{record},{record}]}}"#).into()).expect("a page");
        let request = process_records(&page.records, Some(7));
        assert_eq!(request.iter().filter(|byte| **byte == b'\n').count(), 1);
        let message: Value = serde_json::from_slice(&request).expect("JSON");
        assert_eq!(message["millisBehindLatest"], 7);
        let data = STANDARD.decode(message["records"][1]["data"].as_str().unwrap()).unwrap();
        let data: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(data["dynamodb"]["ApproximateCreationDateTime"], 1_500_000_000_000_u64);
        let mut record = message["records"][1].clone();
        record["data"].take();
        assert_eq!(
            record,
            json!({
                "action": "record", "data": null, "partitionKey": "100000000000000000001",
                "sequenceNumber": "100000000000000000001", "subSequenceNumber": 0,
                "approximateArrivalTimestamp": 1_500_000_000_000_u64,
            })
        );
        let first: Value = serde_json::from_slice(&initialize("s", &Checkpoint::TrimHorizon)).unwrap();
        let expected = json!({"action": "initialize", "shardId": "s", "sequenceNumber": "TRIM_HORIZON",
            "subSequenceNumber": 0});
        assert_eq!(first, expected);
    }

    #[test]
    fn a_checkpoint_is_answered_with_the_numbers_that_the_child_sent() {
        let parse = |line: &str| match Line::parse(line.as_bytes(), Action::ProcessRecords) {
            Line::Checkpoint(message) => message,
            other => panic!("{other:?}"),
        };
        let of_python = parse(r#"{"action":"checkpoint","sequenceNumber":"12","subSequenceNumber":0}"#);
        assert_eq!(of_python.wanted(), Wanted::At("12".parse().unwrap()));
        let of_node = parse(r#" {"action":"checkpoint","sequenceNumber":null}"#);
        assert_eq!(of_node.wanted(), Wanted::Everything);
        let refused = checkpoint_answer(&of_node, Some(CheckpointRefusal::IllegalArgument));
        let answer: Value = serde_json::from_slice(&refused).unwrap();
        let expected = json!({"action": "checkpoint", "sequenceNumber": null, "subSequenceNumber": null,
            "error": "IllegalArgumentException"});
        assert_eq!(answer, expected);
        assert_eq!(parse(r#"{"action":"checkpoint","sequenceNumber":"soon"}"#).wanted(), Wanted::Nonsense);
    }

    #[test]
    fn only_the_status_of_the_request_under_way_answers_it() {
        let parse = |line: &str| Line::parse(line.as_bytes(), Action::ShardEnded);
        assert_eq!(parse("{\"action\":\"status\",\"responseFor\":\"shardEnded\"}\r"), Line::Answered);
        let wrong = parse(r#"{"action":"status","responseFor":"initialize"}"#);
        assert_eq!(wrong, Line::Wrong("initialize".into()));
        assert_eq!(parse(r#"{"action":"status"}"#), Line::Wrong("nothing".into()));
        for printed in ["hello", "3", "[]", "{}", r#"{"action":"dance"}"#, "\u{7f}"] {
            assert_eq!(parse(printed), Line::Foreign, "{printed}");
        }
        assert_eq!(Line::parse(b"\xff\xfe", Action::Initialize), Line::Foreign);
        assert_eq!(parse(" \r"), Line::Blank);
    }
}
