//! Dead letters in an SQS queue: what is sent, byte for byte, and what goes to the table instead. The queue is a
//! stand-in that speaks SQS's JSON protocol as far as the worker does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::internals::dead_letters::queue::DeadLetterQueue;
use shardkeeper::internals::dead_letters::sqs::SqsQueue;
use shardkeeper::internals::dead_letters::table::DeadLetterTable;

use crate::support::sdk;
use crate::support::services::Service;

const ARN: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/Phones/stream/2026-01-31T12:00:00.000";

/// The stand-in.
struct Queue {
    address: String,
    /// Each SendMessage that was accepted.
    sent: Arc<Mutex<Vec<Value>>>,
}

impl Queue {
    /// A queue whose messages hold so many bytes; it `tells` its limit when it is asked.
    fn start(limit: usize, tells: bool) -> Queue {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let sent: Arc<Mutex<Vec<Value>>> = Arc::default();
        let accepted = Arc::clone(&sent);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let accepted = Arc::clone(&accepted);
                std::thread::spawn(move || serve(stream.expect("a connection"), limit, tells, &accepted));
            }
        });
        Queue { address, sent }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/000000000000/{name}", self.address)
    }

    fn sent(&self) -> Vec<Value> {
        std::mem::take(&mut *self.sent.lock().expect("no panic"))
    }
}

fn serve(stream: TcpStream, limit: usize, tells: bool, sent: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut writer = stream;
    loop {
        let (mut operation, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
                None if line.is_empty() => break,
                Some((name, value)) if name == "x-amz-target" => operation = value.to_owned(),
                Some((name, value)) if name == "content-length" => length = value.parse().expect("a length"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let request = serde_json::from_slice(&body).expect("JSON");
        let (status, answer) = answer(&operation, &request, limit, tells);
        if operation == "AmazonSQS.SendMessage" && status == 200 {
            sent.lock().expect("no panic").push(request);
        }
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} -\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        writer.write_all([head, answer].concat().as_bytes()).expect("it is read");
    }
}

fn answer(operation: &str, request: &Value, limit: usize, tells: bool) -> (u16, Value) {
    let error =
        |kind: &str, words: &str| (400, json!({"__type": format!("com.amazonaws.sqs#{kind}"), "message": words}));
    let url = request["QueueUrl"].as_str().expect("a queue's URL");
    if url.contains("nowhere") {
        return error("QueueDoesNotExist", "The specified queue does not exist.");
    }
    match operation {
        "AmazonSQS.GetQueueAttributes" if !tells => error("AccessDeniedException", "not you"),
        "AmazonSQS.GetQueueAttributes" => (200, json!({"Attributes": {"MaximumMessageSize": limit.to_string()}})),
        "AmazonSQS.SendMessage" => {
            let body = request["MessageBody"].as_str().expect("a body");
            if body.len() > limit {
                return error("InvalidParameterValue", &format!("Message must be shorter than {limit} bytes."));
            }
            if body.contains('\u{FFFF}') {
                return error("InvalidMessageContents", "an invalid character");
            }
            if url.ends_with(".fifo") && request["MessageGroupId"].is_null() {
                return error("MissingParameter", "The request must contain the parameter MessageGroupId.");
            }
            (200, json!({"MessageId": "m-1", "MD5OfMessageBody": "0"}))
        }
        other => error("UnknownOperationException", other),
    }
}

fn letter(number: &str, record: &str) -> DeadLetter {
    DeadLetter::new(ARN, "shardId-1".into(), number.parse().expect("a sequence number"), record, "no", 7_000)
}

async fn open(service: &Service, url: &str) -> (SqsQueue, DeadLetterTable) {
    let config = sdk::config(&service.url());
    let table = DeadLetterTable::new(sdk::tables(&service.url()), "audit");
    let queue = SqsQueue::new(&config, url, table.clone());
    (queue, table)
}

#[tokio::test]
async fn a_message_is_the_letter_and_what_no_message_holds_is_in_the_table() {
    let service = Service::shardkeeper_local("");
    let standard = Queue::start(10_000, true);
    let (queue, table) = open(&service, &standard.url("letters")).await;
    queue.prepare(true).await.expect("queue and table are there");
    let small = letter("1", r#"{ "a" : "\u0041é💥" }"#);
    queue.put(&small).await.expect("it is sent");
    let sent = standard.sent();
    assert_eq!((sent.len(), sent[0]["MessageBody"].as_str()), (1, Some(&*small.to_json())));
    assert_eq!(sent[0]["MessageGroupId"], Value::Null);

    let large = letter("2", &format!(r#"{{"a":"{}"}}"#, "x".repeat(20_000)));
    let odd = letter("3", "{\"a\":\"\u{FFFF}\"}");
    for letter in [large, odd] {
        queue.put(&letter).await.expect("it is sent");
        let message = standard.sent().remove(0);
        let message: Value = serde_json::from_str(message["MessageBody"].as_str().expect("a body")).expect("JSON");
        assert_eq!((&message["id"], &message["record"]), (&json!(letter.id().to_string()), &Value::Null));
        let place = &message["record_in"];
        assert_eq!(place["table"], "audit-DeadLetters");
        let found = table.find(&letter.id()).await.expect("it reads").remove(0);
        assert_eq!((&place["shard"], &place["position"]), (&json!(found.key.shard()), &json!(found.key.position())));
        assert!(found.letter.expect("a letter") == letter, "not byte for byte");
    }
    assert!(table.find(&small.id()).await.expect("it reads").is_empty());
}

#[tokio::test]
async fn in_a_fifo_queue_letters_have_a_group_and_an_identity() {
    let service = Service::shardkeeper_local("");
    let fifo = Queue::start(1 << 20, true);
    let (queue, _) = open(&service, &fifo.url("letters.fifo")).await;
    queue.prepare(true).await.expect("queue and table are there");
    let large = letter("1", &format!(r#"{{"a":"{}"}}"#, "x".repeat(600_000)));
    for letter in [&large, &large, &letter("2", "{}")] {
        queue.put(letter).await.expect("it is sent");
    }
    let sent = fifo.sent();
    assert!(sent.iter().all(|message| message["MessageGroupId"] == "shardId-1"));
    let identities: Vec<&str> =
        sent.iter().map(|message| message["MessageDeduplicationId"].as_str().expect("one")).collect();
    assert!(identities[0] == identities[1] && identities[1] != identities[2], "{identities:?}");
    assert_eq!(sent[0]["MessageBody"].as_str(), Some(&*large.to_json()), "1 MiB is this queue's limit");
}

#[tokio::test]
async fn a_queue_that_does_not_tell_its_limit_is_used_and_one_that_is_not_there_is_told() {
    let service = Service::shardkeeper_local("");
    let strict = Queue::start(2_000, false);
    let (queue, table) = open(&service, &strict.url("letters")).await;
    queue.prepare(true).await.expect("it may be sent to");
    let letter = letter("1", &format!(r#"{{"a":"{}"}}"#, "x".repeat(5_000)));
    queue.put(&letter).await.expect("it is refused as a message, and kept");
    assert!(strict.sent()[0]["MessageBody"].as_str().expect("a body").contains("record_in"));
    assert_eq!(table.find(&letter.id()).await.expect("it reads").len(), 1);

    let (queue, _) = open(&service, &strict.url("nowhere")).await;
    let error = queue.prepare(true).await.expect_err("it is not there").to_string();
    assert!(error.contains("nowhere failed:") && error.contains("does not exist"), "{error}");
    let error = queue.put(&letter).await.expect_err("it is not there").to_string();
    assert!(error.contains("SendMessage on queue http://"), "{error}");
}
